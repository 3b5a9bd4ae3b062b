"""The repository's own rules (`make check`). The work tree is read, never written: what nbdev would make is made in a copy and compared."""
import os, re, shutil, subprocess, sys
from pathlib import Path

import nbformat
import papermill
import pytest

from offline_slate_rl.pipeline import engine as notebooks
from offline_slate_rl.core.params import repo_dir

REPO = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(o for o in (REPO/'nbs').rglob('*.ipynb') if not any(part.startswith(('.', '_')) for part in o.relative_to(REPO).parts))
LIBRARY = [o for o in NOTEBOOKS if o.parent.name == 'lib']
PIPELINE = [o for o in NOTEBOOKS if o.parent == REPO/'nbs' and o.stem != 'index']
TESTS = sorted((REPO/'tests').glob('test_*.py'))

def demand(holds, otherwise: str):
    "Fail with the sentence alone: what is wrong is in files, not in this code."
    if not holds: pytest.fail(otherwise, pytrace=False)

def named(paths): return pytest.mark.parametrize('path', paths, ids=lambda o: o.stem)


def nbdev(command: str, folder: Path):
    "Run one of nbdev's commands in `folder`."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # with it set, nbdev_export returns without a word
    res = subprocess.run([str(Path(sys.executable).with_name(command))], cwd=folder, env=env, capture_output=True, text=True)
    demand(res.returncode == 0, f"{command} failed:\n{res.stderr}")


@pytest.fixture(scope='module')
def made(tmp_path_factory):
    "A folder with clean copies of the notebooks and a package exported from nothing but them."
    folder = tmp_path_factory.mktemp('repository')
    shutil.copy(REPO/'settings.ini', folder)
    shutil.copytree(REPO/'nbs', folder/'nbs', ignore=shutil.ignore_patterns('.*', '_*'))
    (folder/'offline_slate_rl').mkdir()
    nbdev('nbdev_export', folder)
    nbdev('nbdev_clean', folder)
    return folder


def test_this_checkout_is_the_one_installed():
    demand(repo_dir() == REPO, f"offline_slate_rl is installed from {repo_dir()}, these tests are in {REPO}: they would test another checkout. "
                               f"Run them with `make test`, or `pip install --no-deps -e {REPO}`.")


def test_the_package_is_what_the_notebooks_export(made):
    def files(root): return {o.name: o.read_text(encoding='utf-8') for o in (root/'offline_slate_rl').glob('*.py')}
    ours, exported = files(REPO), files(made)
    demand(len(exported) > len(LIBRARY)/2, f"nbdev_export made only {sorted(exported)} of {len(LIBRARY)} notebooks in nbs/lib.")
    stray = sorted(ours.keys() - exported.keys())
    demand(not stray, f"No notebook exports offline_slate_rl/{{{', '.join(stray)}}}. Delete it, or write it as a notebook in nbs/lib/ and `make export`.")
    differ = sorted(o for o in exported if ours.get(o) != exported[o])
    demand(not differ, f"Package and notebooks differ in {', '.join(differ)}. The notebooks are the source: `make export`.")


def test_the_notebooks_are_clean(made):
    dirty = [str(o.relative_to(REPO)) for o in NOTEBOOKS if o.read_bytes() != (made/o.relative_to(REPO)).read_bytes()]
    demand(not dirty, f"Not clean (execution counts, stray metadata): {', '.join(dirty)}. `make export` cleans them.")


def test_the_readme_is_what_the_index_makes():
    path = REPO/'README.md'
    demand(path.is_file() and path.read_text(encoding='utf-8') == notebooks.readme(),
           "README.md is not what nbs/index.ipynb makes. Edit the notebook, then `make readme`.")


def test_there_is_something_to_test():
    "nbdev_test exits 0 where it finds nothing."
    demand(LIBRARY, "nbs/lib/ holds no notebooks: nbdev_test would succeed without testing anything.")
    demand(PIPELINE, "nbs/ holds no pipeline notebooks.")
    demand(len(TESTS) > 1, "tests/ holds no tests but the repository's own rules.")


@named(LIBRARY)
def test_nbdev_runs_the_tests_of_a_library_notebook(path):
    nb = nbformat.read(path, as_version=4)
    demand(not re.search(r'^\s*-?\s*skip_exec:\s*true', nb.cells[0].source, re.M | re.I),
           f"{path.name} has `skip_exec: true`: nbdev_test would skip it. Remove the line.")
    demand(not (path.parent/'.notest').exists(), f"{path.parent}/.notest makes nbdev_test skip the whole folder. Delete it.")
    proofs = [o for o in nb.cells if o.cell_type == 'code' and not o.source.startswith(('#| export', '#| notest', '#| eval: false'))
              and re.search(r'^\s*(assert|test_\w+\()|\bassert ', o.source, re.M)]
    demand(proofs, f"{path.name} holds no test: no cell outside the exported ones has an assert or a test_ function.")


@named(PIPELINE)
def test_papermill_can_run_a_pipeline_notebook(path):
    nb = nbformat.read(path, as_version=4)
    demand(re.search(r'^-\s+skip_exec:\s*true', nb.cells[0].source, re.M),
           f"{path.name} lacks the line `- skip_exec: true` under its title: nbdev_test would run the whole stage.")
    demand(nb.metadata.get('kernelspec', {}).get('name') == 'python3', f"{path.name} asks for another kernel than python3.")
    declared = notebooks.notebook_parameters(nb)
    demand(declared, f"{path.name} has no parameters: tag their cell `parameters` (nbdev_clean keeps tags only as settings.ini says).")
    helped = papermill.inspect_notebook(str(path))
    hidden = [o for o in declared if o not in helped]
    demand(not hidden, f"`papermill --help-notebook nbs/{path.name}` does not list {', '.join(hidden)}: papermill does not read `|` in an annotation.")
    bare = [o for o in declared if not helped[o]['help']]
    demand(not bare, f"{path.name}: {', '.join(bare)} lack the comment behind them that `papermill --help-notebook` shows.")


@named(TESTS)
def test_pytest_collects_something_from(path):
    demand(re.search(r'^def test_', path.read_text(encoding='utf-8'), re.M), f"tests/{path.name} holds no test function.")


def test_gitignore_hides_nothing_by_accident():
    lines = [o for o in (REPO/'.gitignore').read_text().splitlines() if o.strip() and not o.startswith('#')]
    assert lines
    loose = [o for o in lines if not o.removeprefix('!').startswith('/')]
    demand(not loose, f".gitignore: {', '.join(loose)} would hide folders of that name anywhere. Begin each line with a slash.")


def test_the_lock_pins_everything_and_nothing_else():
    lines = [o.split(';')[0].strip() for o in (REPO/'requirements.lock').read_text().splitlines() if o.strip() and not o.startswith('#')]
    loose = [o for o in lines if not re.fullmatch(r'[A-Za-z0-9._-]+==[A-Za-z0-9.]+', o)]
    demand(not loose, f"requirements.lock: {', '.join(loose)} should be exact, NAME==VERSION, without a local part, an address or a path.")
