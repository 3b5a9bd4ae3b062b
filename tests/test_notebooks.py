"""papermill as a person starts it: real processes, notebooks made for the purpose, in a folder that takes the place of nbs/."""
import base64, os, pty, re, subprocess, sys
from pathlib import Path

import nbformat
import papermill
import pytest

from offline_slate_rl.pipeline.engine import NotebookError, NotebookFailed, run_notebook

PAPERMILL = str(Path(sys.executable).with_name('papermill'))
LOADED = re.compile(r'<(?:script|link)\b|@import|(?:src|href|url\()\s*=?\s*["\']?(?:https?:)?//', re.IGNORECASE)

PARAMETERS = '''env: str = "focused_mix"  # the simulated world
quality: str = "medium"   # of the behaviour policy
agent: str = "SAC+GeMS"   # who collects
seed: int = 1             # of everything random
scale: str = ""           # sizes; empty: the default scale
note: str = ""            # a remark
overrides: dict = {}      # dotted keys'''

PICTURE = '''import sys, base64
from IPython.display import display, Image
print("return", 33.5, note, overrides); print("a warning nobody needs", file=sys.stderr)
display(Image(base64.b64decode("iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==")))'''


def save(path: Path, *code: str):
    cells = [nbformat.v4.new_markdown_cell('# Collect\n> A dataset from an approved agent.\n- skip_exec: true'),
             nbformat.v4.new_code_cell(PARAMETERS, metadata={'tags': ['parameters']}), *map(nbformat.v4.new_code_cell, code),
             nbformat.v4.new_markdown_cell('## What came out')]
    kernel = dict(name='python3', language='python', display_name='python3')
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': kernel}), path)


@pytest.fixture
def place(tmp_path, monkeypatch):
    "A folder of pipeline notebooks and an empty one for outputs."
    (tmp_path/'nbs').mkdir()
    monkeypatch.setenv('SLATE_RL_NOTEBOOKS', str(tmp_path/'nbs'))
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'outputs'))
    monkeypatch.delenv('SLATE_RL_SCALE', raising=False)
    monkeypatch.chdir(tmp_path)
    save(tmp_path/'nbs'/'30_collect.ipynb', PICTURE)
    return tmp_path


def run(*args, **kwargs):
    kwargs = dict(stdin=subprocess.DEVNULL) | kwargs
    return subprocess.run([PAPERMILL, *map(str, args)], capture_output=True, text=True, timeout=120, **kwargs)


def run_at_terminal(*args):
    "Exit code and everything shown, with a terminal on all three streams."
    pid, fd = pty.fork()
    if pid == 0: os.execv(PAPERMILL, [PAPERMILL, *map(str, args)])
    shown = b''
    while True:
        try: part = os.read(fd, 65536)
        except OSError: break  # Linux's way to say that the other side has closed
        if not part: break
        shown += part
    os.close(fd)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def prepared(place, *args):
    "The injected parameters and the output path of a line, without a kernel."
    res = run('nbs/30_collect.ipynb', '--prepare-only', *args)
    assert res.returncode == 0, res.stderr
    [path] = place.glob('outputs/**/*.ipynb')
    nb = nbformat.read(path, as_version=4)
    values = {}
    exec(next(o.source for o in nb.cells if 'injected-parameters' in o.metadata.tags), values)
    del values['__builtins__']
    path.unlink()
    return values, path.relative_to(place/'outputs')


def test_the_line_of_the_readme_at_a_terminal(place):
    code, shown = run_at_terminal('nbs/30_collect.ipynb', '-p', 'env', 'focused_mix', '-p', 'quality', 'medium')
    folder = place/'outputs'/'quick'/'reports'/'focused_mix'/'medium'
    assert code == 0, shown
    assert sorted(o.name for o in folder.iterdir()) == ['30_collect.html', '30_collect.ipynb']
    assert str(folder/'30_collect.html') in shown.replace('\r\n', '')

    page = (folder/'30_collect.html').read_text()
    assert not LOADED.search(page)
    assert '<title>Collect</title>' in page and 'A dataset from an approved agent.' in page and 'What came out' in page
    assert 'return 33.5' in page and 'data:image/png;base64,' in page
    assert '<dt>quality</dt><dd class="given">medium</dd>' in page and '<dt>scale</dt><dd>quick</dd>' in page
    assert 'alt="Collect"' in page and 'Alternative text' not in shown and 'WARNING' not in shown
    for gone in 'a warning nobody needs', 'import sys', 'skip_exec', 'the simulated world', 'In [', '# Parameters': assert gone not in page


def test_redirected_input_does_not_become_the_notebook(place):
    "papermill alone would read a notebook from the pipe and write it over the one that was named."
    source = place/'nbs'/'30_collect.ipynb'
    before = source.read_bytes()
    res = run(source, '-p', 'scale', 'tiny', '-p', 'agent', 'SAC+GeMS', '-p', 'overrides', '{gems.latent_dim: 16}', stdin=None, input='')
    assert res.returncode == 0, res.stderr
    assert source.read_bytes() == before
    [page] = (place/'outputs'/'tiny'/'reports'/'focused_mix'/'medium').glob('30_collect_overrides-*.html')
    assert "{'gems.latent_dim': 16}" in page.read_text()
    assert '"cells"' not in res.stdout


def test_every_way_of_giving_parameters(place):
    (place/'more.yaml').write_text('quality: random\nnote: from a file\n')
    values, path = prepared(place, '-f', 'more.yaml', '-y', 'seed: 7', '-b', base64.b64encode(b'scale: laptop').decode(),
                            '-r', 'note', '12', '-p', 'overrides', '{gems.latent_dim: 16}')
    assert values == dict(quality='random', note='12', seed=7, scale='laptop', overrides={'gems.latent_dim': 16})
    assert str(path) == 'laptop/reports/focused_mix/random/30_collect_seed-7_overrides-7e577347.ipynb'


def test_an_empty_scale_is_the_default_one(place, monkeypatch):
    monkeypatch.setenv('SLATE_RL_SCALE', 'laptop')
    assert str(prepared(place, '-p', 'scale', '')[1]) == 'laptop/reports/focused_mix/medium/30_collect.ipynb'


@pytest.mark.parametrize('args, says', [
    (['-p', 'qualty', 'medium'], "30_collect has no parameter 'qualty'. Did you mean 'quality'?"),
    (['-p', 'seed', 'abc'], "the parameter 'seed' is 'abc'; expected int"),
    (['out.ipynb', '-p', 'overrides', 'gems'], "the parameter 'overrides' is 'gems'; expected dict")])
def test_a_wrong_parameter_stops_the_run_before_it_starts(place, args, says):
    res = run('nbs/30_collect.ipynb', *args)
    assert res.returncode == 1 and says in res.stderr
    assert len(res.stderr.strip().splitlines()) == 1 and res.stdout == ''
    assert sorted(o.name for o in place.iterdir()) == ['nbs']


def test_a_wrong_notebook_name(place):
    res = run('nbs/30_colect.ipynb')
    assert res.returncode == 1 and "Did you mean '30_collect.ipynb'?" in res.stderr and 'Traceback' not in res.stderr


def test_with_an_output_path_papermill_does_as_always(place):
    (place/'elsewhere').mkdir()
    res = run('../nbs/30_collect.ipynb', '../mine.ipynb', '--cwd', place/'nbs', cwd=place/'elsewhere')
    assert res.returncode == 0, res.stderr
    assert sorted(o.name for o in place.iterdir()) == ['elsewhere', 'mine.html', 'mine.ipynb', 'nbs']


def test_another_notebook_is_papermills_own_business(place):
    save(place/'mine.ipynb', 'print(undeclared)')
    res = run('mine.ipynb', '-p', 'undeclared', '5', '--no-progress-bar')
    assert res.returncode == 0, res.stderr
    assert nbformat.reads(res.stdout, as_version=4).cells[-2].outputs[0].text == '5\n'
    assert sorted(o.name for o in place.iterdir()) == ['mine.ipynb', 'nbs']
    code, shown = run_at_terminal('mine.ipynb')
    assert code == 2 and "Missing argument 'OUTPUT_PATH'" in shown


SENTENCE = 'There is no approval for this checkpoint. Give it: slate-rl approve focused_mix medium'


def test_a_failed_run_ends_with_its_sentence_and_leaves_a_report(place):
    save(place/'nbs'/'30_collect.ipynb', 'print("so far")', f'from offline_slate_rl.core.params import SlateRLError\nraise SlateRLError("{SENTENCE}")')
    page = place/'outputs'/'quick'/'reports'/'focused_mix'/'medium'/'30_collect.html'
    page.parent.mkdir(parents=True)
    page.write_text('the report of an earlier run')
    res = run('nbs/30_collect.ipynb')
    assert res.returncode == 1
    assert res.stderr.strip().splitlines()[-1] == SENTENCE
    assert 'Traceback' not in res.stderr and 'outputs/quick/reports/focused_mix/medium/30_collect.html' in res.stderr

    text = page.read_text()
    assert not LOADED.search(text)
    assert text.count(SENTENCE) == 2 and 'so far' in text and 'This run failed' in text
    assert 'href="#papermill-error-cell"' in text and 'id="papermill-error-cell"' in text
    assert 'Traceback' not in text and 'What came out' not in text and 'earlier run' not in text
    partial = nbformat.read(page.with_suffix('.ipynb'), as_version=4)
    assert any(o.get('output_type') == 'error' for c in partial.cells for o in c.get('outputs', []))


def test_a_bug_keeps_its_traceback(place):
    save(place/'nbs'/'30_collect.ipynb', 'def deep(): return 1/0', 'deep()')
    res = run('nbs/30_collect.ipynb')
    assert res.returncode == 1
    assert 'def deep()' in res.stderr and res.stderr.strip().splitlines()[-1] == 'ZeroDivisionError: division by zero'
    assert 'papermill/execute.py' not in res.stderr


def test_help(place):
    res = run('--help-notebook', 'nbs/30_collect.ipynb')
    assert res.returncode == 0, res.stderr
    assert re.search(r'seed: int \(default 1\) +of everything random', res.stdout)


def test_from_python(place):
    path = run_notebook('30_collect', seed=2, note='hello')
    assert path == place/'outputs'/'quick'/'reports'/'focused_mix'/'medium'/'30_collect_seed-2.ipynb'
    assert 'return 33.5 hello' in path.with_suffix('.html').read_text()

    for wrong in dict(qualty='x'), dict(seed='abc'):
        with pytest.raises(NotebookError):
            papermill.execute_notebook('nbs/30_collect.ipynb', 'out.ipynb', wrong, progress_bar=False)
    assert not (place/'out.ipynb').exists() and not (place/'out.html').exists()


def test_a_failure_from_python(place):
    save(place/'nbs'/'30_collect.ipynb', f'from offline_slate_rl.core.params import SlateRLError\nraise SlateRLError("{SENTENCE}")')
    with pytest.raises(NotebookFailed) as e: run_notebook('30_collect')
    assert isinstance(e.value, papermill.PapermillExecutionError) and e.value.ename == 'SlateRLError'
    first, last = str(e.value).splitlines()
    assert first.startswith('30_collect stopped in its cell [2]') and first.endswith('30_collect.html') and last == SENTENCE
