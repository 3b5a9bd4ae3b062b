"""The repository's own rules (`make check`). The work tree is only read: what nbdev would make is made in a copy."""
import os, re, shutil, subprocess, sys
from pathlib import Path

import nbformat
import papermill
import pytest

from offline_slate_rl.core.params import repo_dir
from offline_slate_rl.pipeline.engine import notebook_parameters
from offline_slate_rl.pipeline.readme import (
    imported, library_notebooks, module_of, modules, number, readme, rooms_in, rooms_text)

REPO = Path(__file__).resolve().parent.parent
LIBRARY = library_notebooks()
PIPELINE = sorted(path for path in (REPO/'nbs').glob('*.ipynb') if path.stem != 'index')
NOTEBOOKS = [REPO/'nbs'/'index.ipynb', *PIPELINE, *LIBRARY]
TESTS = sorted((REPO/'tests').glob('test_*.py'))
MAX_LINES, MAX_WIDTH = 400, 120

def demand(holds, otherwise: str):
    "Fail with the sentence alone: what is wrong is in files, not in this code."
    if not holds: pytest.fail(otherwise, pytrace=False)

def named(paths): return pytest.mark.parametrize('path', paths, ids=lambda path: path.stem)

def python_files(root: Path) -> dict[str, str]:
    "Path -> text of every module of the package below `root`."
    package = root/'offline_slate_rl'
    return {str(path.relative_to(package)): path.read_text(encoding='utf-8') for path in sorted(package.rglob('*.py'))}

def exported_files() -> dict[str, str]:
    return {name: text for name, text in python_files(REPO).items() if name != '_modidx.py'}  # which is nbdev's own


def nbdev(command: str, folder: Path):
    "Run one of nbdev's commands in `folder`."
    env = {k: v for k, v in os.environ.items() if k != 'IN_TEST'}  # with it set, nbdev_export returns without a word
    path = str(Path(sys.executable).with_name(command))
    process = subprocess.run([path], cwd=folder, env=env, capture_output=True, text=True)
    demand(process.returncode == 0, f"{command} failed:\n{process.stderr}")


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
    demand(repo_dir() == REPO,
           f"offline_slate_rl is installed from {repo_dir()}, these tests are in {REPO}: "
           f"they would test another checkout. Run them with `make test`, or `pip install --no-deps -e {REPO}`.")


def test_the_package_is_what_the_notebooks_export(made):
    ours, exported = python_files(REPO), python_files(made)
    demand(len(exported) > len(LIBRARY)/2,
           f"nbdev_export made only {', '.join(exported)} of {len(LIBRARY)} notebooks.")
    stray = ours.keys() - exported.keys()
    demand(not stray, f"No notebook exports {', '.join(sorted(stray))} of the package. Delete it, "
                      "or write it as a notebook in nbs/lib and `make export`.")
    differ = [name for name, text in exported.items() if ours.get(name) != text]
    demand(not differ,
           f"Package and notebooks differ in {', '.join(differ)}. The notebooks are the source: `make export`.")


def test_the_notebooks_are_clean(made):
    names = [path.relative_to(REPO) for path in NOTEBOOKS]
    dirty = [str(name) for name in names if (REPO/name).read_bytes() != (made/name).read_bytes()]
    demand(not dirty, f"Not clean (execution counts, stray metadata): {', '.join(dirty)}. `make export` cleans them.")


def test_the_readme_is_what_the_index_makes():
    path = REPO/'README.md'
    demand(path.is_file() and path.read_text(encoding='utf-8') == readme(),
           "README.md is not what nbs/index.ipynb makes. Edit the notebook, then `make readme`.")


def code_lines(path):
    "Lines of a Markdown file's blocks of code, without their comments."
    blocks = re.findall(r'^```(?:bash|python)\n(.*?)^```', path.read_text(encoding='utf-8'), re.DOTALL | re.MULTILINE)
    return {' '.join(line.split('  #')[0].split()) for block in blocks for line in block.splitlines()} - {''}

def test_the_chinese_quick_start_shows_lines_of_the_readme():
    extra = code_lines(REPO/'README.zh.md') - code_lines(REPO/'README.md') - {'source .venv/bin/activate'}
    demand(not extra, f"README.zh.md has lines that README.md does not have: {extra}.")

@named([REPO/'README.md', REPO/'README.zh.md', REPO/'CONTRIBUTING.md', REPO/'workflow'/'README.md'])
def test_links_lead_to_files(path):
    links = re.findall(r'\]\((?![a-z]+:|#)([^)#\s]+)', path.read_text(encoding='utf-8'))
    broken = [link for link in links if not (path.parent/link).exists()]
    demand(links and not broken, f"{path.name} links to what is not there: {', '.join(broken)}.")


def test_there_is_something_to_test():
    "nbdev_test exits 0 where it finds nothing."
    demand(LIBRARY, "nbs/lib holds no notebooks: nbdev_test would succeed without testing anything.")
    demand(PIPELINE, "nbs/ holds no pipeline notebooks.")
    demand(len(TESTS) > 1, "tests/ holds no tests but the repository's own rules.")


@named(LIBRARY)
def test_nbdev_runs_the_tests_of_a_library_notebook(path):
    nb = nbformat.read(path, as_version=4)
    demand(not re.search(r'^\s*-?\s*skip_exec:\s*true', nb.cells[0].source, re.M | re.I),
           f"{path.name} has `skip_exec: true`: nbdev_test would skip it. Remove the line.")
    mark = path.parent/'.notest'  # of the notebooks beside it, not of those in folders below
    demand(not mark.exists(), f"{mark} makes nbdev_test skip {path.name}. Delete it.")
    sources = [cell.source for cell in nb.cells if cell.cell_type == 'code']
    run = [source for source in sources if not source.startswith(('#| export', '#| notest', '#| eval: false'))]
    demand(any(re.search(r'^\s*test_\w+\(|\bassert ', source, re.M) for source in run),
           f"{path.name} holds no test: no cell outside the exported ones has an assert or a test_ function.")


@named(PIPELINE)
def test_papermill_can_run_a_pipeline_notebook(path):
    nb = nbformat.read(path, as_version=4)
    demand((path.parent/'.notest').exists(),
           f"{path.parent/'.notest'} is missing: nbdev_test would run {path.name}, the whole stage.")
    kernel = nb.metadata.get('kernelspec', {}).get('name')
    demand(kernel == 'python3', f"{path.name} asks for the kernel {kernel}, not python3.")
    declared = notebook_parameters(nb)
    demand(declared, f"{path.name} has no parameters: tag their cell `parameters`.")
    helped = papermill.inspect_notebook(str(path))
    hidden = [name for name in declared if name not in helped]
    demand(not hidden, f"`papermill --help-notebook nbs/{path.name}` does not list {', '.join(hidden)}: "
                       "papermill does not read `|` in an annotation.")
    bare = [name for name in declared if not helped[name]['help']]
    demand(not bare,
           f"{path.name}: {', '.join(bare)} lack the comment behind them that `papermill --help-notebook` shows.")


def test_a_notebook_is_named_after_its_module_and_lies_in_its_folder():
    wrong = []
    for path in LIBRARY:
        name = path.stem.partition('_')[2]
        expected = f'offline_slate_rl.{path.parent.name}.{name}'
        if path == REPO/'nbs'/'lib'/'99_init.ipynb': expected = 'offline_slate_rl'
        may_export_nothing = path.parent.name == 'studies'
        found = module_of(path)
        if found != expected and not (may_export_nothing and found is None):
            wrong.append(f"{path.relative_to(REPO)} exports {found}, not {expected}")
    demand(not wrong, f"A notebook is named NUMBER_MODULE and lies in its module's folder: {'; '.join(wrong)}.")


def test_numbers_are_unique():
    by_number = {}
    for path in LIBRARY: by_number.setdefault(number(path), []).append(str(path.relative_to(REPO/'nbs')))
    shared = [' and '.join(paths) for paths in by_number.values() if len(paths) > 1]
    demand(not shared, f"Notebooks share a number: {'; '.join(shared)}. Give one of them another.")


def test_a_notebook_imports_only_smaller_numbers():
    "In its tests and inside its functions too. What a registry names in a string is imported later, by whoever asks."
    known, wrong = modules(), []
    for path in LIBRARY:
        for module in sorted(imported(path)):
            source = known.get(module)
            if source and number(source) > number(path): wrong.append(f"{path.stem} imports {source.stem}")
    demand(not wrong, f"A notebook imports only notebooks with smaller numbers, in its tests too: {', '.join(wrong)}.")


def test_a_notebook_imports_only_what_a_notebook_exports():
    "What an import inside a function asks for is found missing only when it runs."
    known, wrong = modules(), []
    for path in NOTEBOOKS:
        named_modules = {'.'.join(name.split('.')[:3]) for name in imported(path) if name.count('.') >= 2}
        wrong += [f"{path.stem} imports {module}" for module in sorted(named_modules - known.keys())]
    demand(not wrong, f"No notebook exports what is imported here: {', '.join(wrong)}.")


def test_no_module_is_long():
    lines = {name: len(text.splitlines()) for name, text in exported_files().items()}
    long = [name for name in lines if lines[name] > MAX_LINES]
    said = ', '.join(f'{name} ({lines[name]})' for name in long)
    demand(not long, f"Modules of more than {MAX_LINES} lines: {said}. Cut their notebooks in two.")


def test_no_exported_line_is_long():
    long = {}
    for name, text in exported_files().items():
        count = sum(len(line) > MAX_WIDTH and not line.startswith('__all__ = [') for line in text.splitlines())
        if count: long[name] = count
    said = ', '.join(f'{name} ({count})' for name, count in long.items())
    demand(not long, f"Modules with lines of more than {MAX_WIDTH} characters: {said}. Break them in the notebooks.")


def test_the_rooms_are_drawn_as_they_are():
    written = rooms_in((REPO/'CONTRIBUTING.md').read_text(encoding='utf-8'))
    demand(written == rooms_text(),
           "CONTRIBUTING.md shows other imports between rooms than there are. Draw them again: `make rooms`.")
    demand((REPO/'nbs'/'images'/'rooms.png').is_file(), "nbs/images/rooms.png is missing. Draw it: `make rooms`.")


@named(TESTS)
def test_pytest_collects_something_from(path):
    text = path.read_text(encoding='utf-8')
    demand(re.search(r'^def test_', text, re.M), f"tests/{path.name} holds no test function.")


def test_gitignore_hides_no_folder_of_the_package():
    text = (REPO/'.gitignore').read_text()
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith('#')]
    loose = [line for line in lines if not line.removeprefix('!').startswith('/')]
    demand(lines, ".gitignore holds no line.")
    demand(not loose,
           f".gitignore: {', '.join(loose)} would hide folders of that name anywhere. Begin each line with a slash.")


@pytest.mark.parametrize('name', ['requirements', 'requirements-d3rlpy'])
def test_the_lock_holds_the_hashes_of_what_is_pinned(name):
    asked = [line for line in (REPO/f'{name}.in').read_text().splitlines() if line and not line.startswith('#')]
    pins = [line.split(';')[0].strip() for line in asked]
    loose = [pin for pin in pins if not re.fullmatch(r'[A-Za-z0-9._-]+==[A-Za-z0-9.]+', pin)]
    demand(pins and not loose, f"{name}.in: {', '.join(loose)} should be exact, NAME==VERSION, without a local part, "
                               "an address or a path.")
    locked, pin = {}, ''
    for line in (REPO/f'{name}.lock').read_text().splitlines():
        if line.startswith('    --hash=sha256:'): locked[pin] += 1
        elif line and not line.startswith('#'):
            pin = re.split(r'[ ;]', line)[0]
            locked[pin] = 0
    def names(pins) -> set[str]: return {re.sub('[._-]+', '-', pin.split('==')[0]).lower() + pin[pin.index('=='):]
                                         for pin in pins}
    demand(names(pins) == names(locked) and all(locked.values()), f"{name}.lock is not of {name}.in: make lock")
