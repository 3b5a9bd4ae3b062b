"""papermill as a person starts it: real processes, with notebooks made for the purpose in place of those in nbs/."""
import base64, os, pty, re, signal, subprocess, sys, time
from pathlib import Path

import nbformat
import papermill
import pytest

from offline_slate_rl.pipeline.engine import NotebookError, NotebookFailed, run_notebook

PAPERMILL = str(Path(sys.executable).with_name('papermill'))
REPORTS = Path('outputs/quick/reports/focused_mix/medium')

# what a page would load from elsewhere
LOADED = re.compile(r'<(?:script|link)\b|@import|(?:src|href|url\()\s*=?\s*["\']?(?:https?:)?//', re.IGNORECASE)

PARAMETERS = '''env: str = "focused_mix"  # the simulated world
quality: str = "medium"   # of the behaviour policy
agent: str = "SAC+GeMS"   # who collects
seed: int = 1             # of everything random
scale: str = ""           # sizes; empty: the default scale
behaviour: str = ""       # who plays; empty: the quality's own
model_checkpoint: str = ""  # another checkpoint
note: str = ""            # a remark
overrides: dict = {}      # dotted keys'''

PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=='
PICTURE = f'''import sys, base64
from IPython.display import display, Image
print("return", 33.5, note, overrides)
print("a warning nobody needs", file=sys.stderr)
for step in 500, 1000: print(f"\\rTraining: step {{step}} of 1500, 00:20 left", end="", file=sys.stderr)
display(Image(base64.b64decode("{PIXEL}")))'''

SENTENCE = 'There is no approval for this checkpoint. Give it: slate-rl approve focused_mix medium'
REFUSED = f'from offline_slate_rl.core.errors import RefusedError\nraise RefusedError("{SENTENCE}")'


def save(path: Path, *code: str):
    top = nbformat.v4.new_markdown_cell('# Collect\n> A dataset from an approved agent.')
    parameters = nbformat.v4.new_code_cell(PARAMETERS, metadata={'tags': ['parameters']})
    end = nbformat.v4.new_markdown_cell('## What came out')
    kernel = dict(name='python3', language='python', display_name='python3')
    cells = [top, parameters, *map(nbformat.v4.new_code_cell, code), end]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata={'kernelspec': kernel}), path)


def names(folder: Path) -> list[str]: return sorted(path.name for path in folder.iterdir())


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
    return subprocess.run([PAPERMILL, *map(str, args)], capture_output=True, text=True, **kwargs)


def run_at_terminal(*args):
    "Exit code and everything shown, with a terminal on all three streams."
    pid, terminal = pty.fork()
    if pid == 0: os.execv(PAPERMILL, [PAPERMILL, *map(str, args)])
    shown = b''
    while True:
        try: part = os.read(terminal, 65536)
        except OSError: break  # Linux's way to say that the other side has closed
        if not part: break
        shown += part
    os.close(terminal)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), shown.decode()


def prepared(place, *args):
    "The injected parameters and the output path of a line, without a kernel."
    process = run('nbs/30_collect.ipynb', '--prepare-only', *args)
    assert process.returncode == 0, process.stderr
    [path] = place.glob('outputs/**/*.ipynb')
    nb = nbformat.read(path, as_version=4)
    values = {}
    exec(next(cell.source for cell in nb.cells if 'injected-parameters' in cell.metadata.tags), values)
    del values['__builtins__']
    path.unlink()
    return values, path.relative_to(place/'outputs')


@pytest.mark.parametrize('text', [
    '<script src="a.js">', '<link rel="stylesheet">', "<img src='https://a.org/b.png'>", 'url(//a.org/b)'])
def test_a_page_that_loads_something_would_be_noticed(text): assert LOADED.search(text)


def test_the_line_of_the_readme_at_a_terminal(place):
    code, shown = run_at_terminal('nbs/30_collect.ipynb', '-p', 'env', 'focused_mix', '-p', 'quality', 'medium')
    assert code == 0, shown
    assert names(place/REPORTS) == ['30_collect.html', '30_collect.ipynb']
    assert 'Training: step 1000 of 1500, 00:20 left' in shown
    assert 'Executing' not in shown.replace('Executing notebook', '')  # papermill's own bar
    assert re.search(rf"30_collect medium  \d+ s\. Report: {REPORTS/'30_collect.html'}", shown.replace('\r\n', ''))
    assert 'Training' not in (place/REPORTS/'30_collect.ipynb').read_text().replace('Training: step {step}', '')
    assert 'Alternative text' not in shown and 'WARNING' not in shown

    page = (place/REPORTS/'30_collect.html').read_text()
    assert not LOADED.search(page)
    for there in ('<title>Collect</title>', 'A dataset from an approved agent.', 'What came out', 'return 33.5',
                  'data:image/png;base64,', 'alt="Collect"', '<dt>quality</dt><dd class="given">medium</dd>',
                  '<dt>scale</dt><dd>quick</dd>'):
        assert there in page
    for gone in 'a warning nobody needs', 'import sys', 'skip_exec', 'the simulated world', 'In [', '# Parameters':
        assert gone not in page


def test_redirected_input_does_not_become_the_notebook(place):
    "papermill alone would read a notebook from the pipe and write it over the one that was named."
    source = place/'nbs'/'30_collect.ipynb'
    before = source.read_bytes()
    given = '-p', 'scale', 'tiny', '-p', 'agent', 'SAC+GeMS', '-p', 'overrides', '{gems.latent_dim: 16}'
    process = run(source, *given, stdin=None, input='')
    assert process.returncode == 0, process.stderr
    assert source.read_bytes() == before
    [page] = (place/'outputs'/'tiny'/'reports'/'focused_mix'/'medium').glob('30_collect_overrides-*.html')
    assert "{'gems.latent_dim': 16}" in page.read_text()
    assert process.stdout == ''  # the notebook is not written there either


def test_every_way_of_giving_parameters(place):
    (place/'more.yaml').write_text('quality: random\nnote: from a file\n')
    scale = base64.b64encode(b'scale: laptop').decode()
    values, path = prepared(place, '-f', 'more.yaml', '-y', 'seed: 7', '-b', scale, '-r', 'note', '12',
                            '-p', 'overrides', '{gems.latent_dim: 16}')
    assert values == dict(quality='random', note='12', seed=7, scale='laptop', overrides={'gems.latent_dim': 16})
    assert str(path) == 'laptop/reports/focused_mix/random/30_collect_seed-7_overrides-7e577347.ipynb'


def test_what_tells_runs_apart_is_in_the_reports_name(place):
    given = dict(behaviour='short-term-oracle', model_checkpoint='step40000', seed='1')
    options = [word for name, value in given.items() for word in ('-p', name, value)]
    _, path = prepared(place, *options)
    assert path.name == '30_collect_behaviour-short-term-oracle_model_checkpoint-step40000.ipynb'


def test_an_empty_scale_is_the_default_one(place, monkeypatch):
    monkeypatch.setenv('SLATE_RL_SCALE', 'laptop')
    assert str(prepared(place, '-p', 'scale', '')[1]) == 'laptop/reports/focused_mix/medium/30_collect.ipynb'


@pytest.mark.parametrize('args, says', [
    (['-p', 'qualty', 'medium'], "30_collect has no parameter 'qualty'. Did you mean 'quality'?"),
    (['-p', 'seed', 'abc'], "the parameter 'seed' is 'abc'; expected int"),
    (['-p', 'behaviour', 'agnet'], "the parameter 'behaviour' is 'agnet'. Did you mean 'agent'?"),
    (['out.ipynb', '-p', 'overrides', 'gems'], "the parameter 'overrides' is 'gems'; expected dict"),
    (['-y', '[seed]'], "The parameters of -y cannot be read: '[seed]'. They should map names to values"),
    (['-b', 'NQ=='], 'The parameters of -b cannot be read'),
    (['-r', 'overrides', '5'], "the parameter 'overrides' is '5'; expected dict")])
def test_a_wrong_parameter_stops_the_run_before_it_starts(place, args, says):
    process = run('nbs/30_collect.ipynb', *args)
    assert process.returncode == 2 and says in process.stderr
    assert len(process.stderr.strip().splitlines()) == 1 and process.stdout == ''
    assert names(place) == ['nbs']


def test_a_wrong_notebook_name(place):
    process = run('nbs/30_colect.ipynb')
    assert process.returncode == 2 and "Did you mean '30_collect.ipynb'?" in process.stderr
    assert 'Traceback' not in process.stderr


def test_with_an_output_path_papermill_does_as_always(place):
    (place/'elsewhere').mkdir()
    process = run('../nbs/30_collect.ipynb', '../mine.ipynb', '--cwd', place/'nbs', cwd=place/'elsewhere')
    assert process.returncode == 0, process.stderr
    assert names(place) == ['elsewhere', 'mine.html', 'mine.ipynb', 'nbs']


def test_another_notebook_is_papermills_own_business(place):
    save(place/'mine.ipynb', 'print(undeclared)')
    process = run('mine.ipynb', '-p', 'undeclared', '5', '--no-progress-bar')
    assert process.returncode == 0, process.stderr
    assert nbformat.reads(process.stdout, as_version=4).cells[-2].outputs[0].text == '5\n'
    assert names(place) == ['mine.ipynb', 'nbs']
    code, shown = run_at_terminal('mine.ipynb')
    assert code == 2 and "Missing argument 'OUTPUT_PATH'" in shown


def test_a_failed_run_ends_with_its_sentence_and_leaves_a_report_of_its_own(place):
    save(place/'nbs'/'30_collect.ipynb', 'print("so far")', REFUSED)
    page = place/REPORTS/'30_collect.html'
    page.parent.mkdir(parents=True)
    page.write_text('the report of an earlier run')
    process = run('nbs/30_collect.ipynb')
    assert process.returncode == 1
    assert process.stderr.strip().splitlines()[-1] == SENTENCE
    assert 'Traceback' not in process.stderr and str(REPORTS/'30_collect_failed.html') in process.stderr
    assert page.read_text() == 'the report of an earlier run'

    page = place/REPORTS/'30_collect_failed.html'
    text = page.read_text()
    assert not LOADED.search(text)
    assert text.count(SENTENCE) == 2 and 'so far' in text and 'This run failed' in text
    assert 'href="#papermill-error-cell"' in text and 'id="papermill-error-cell"' in text
    for gone in 'Traceback', 'What came out': assert gone not in text
    partial = nbformat.read(page.with_suffix('.ipynb'), as_version=4)
    outputs = [output for cell in partial.cells for output in cell.get('outputs', [])]
    assert 'error' in [output.output_type for output in outputs]

    save(place/'nbs'/'30_collect.ipynb', 'print("mended")')
    assert run('nbs/30_collect.ipynb').returncode == 0
    assert names(place/REPORTS) == ['30_collect.html', '30_collect.ipynb']


WAITING = """import signal, time
from offline_slate_rl.core.errors import Interrupted
print("begun", flush=True)
try: time.sleep(60)
except KeyboardInterrupt: raise Interrupted("Step 31 is kept: the same line") from None"""

@pytest.mark.parametrize('number, code, sentence', [
    (signal.SIGINT, WAITING, 'Step 31 is kept: the same line'),
    (signal.SIGTERM, WAITING, 'Step 31 is kept: the same line'),
    (signal.SIGINT, 'import time; time.sleep(60)', 'Interrupted. What is whole is kept, and the same line goes on')])
def test_an_interruption_reaches_the_cell_and_is_one_sentence(place, number, code, sentence):
    save(place/'nbs'/'30_collect.ipynb', 'open("begun", "w").close()\n' + code, 'print("never")')
    line = [PAPERMILL, 'nbs/30_collect.ipynb', '--no-progress-bar']
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True) as process:
        while not (place/'begun').exists() and process.poll() is None: time.sleep(.1)
        time.sleep(.5)
        process.send_signal(number)
        said = process.communicate(timeout=30)[1].strip().splitlines()
    assert process.returncode == 130 and said[-1].startswith(sentence), said
    assert said[-2].startswith('Error: 30_collect was interrupted in its cell [2].') and not [
        line for line in said if 'Traceback' in line or 'ZMQ' in line]
    assert names(place/REPORTS) == ['30_collect_interrupted.html', '30_collect_interrupted.ipynb']
    text = (place/REPORTS/'30_collect_interrupted.html').read_text()
    assert 'This run was interrupted' in text and 'never' not in text


def test_a_killed_kernel_is_one_sentence_and_a_marked_report(place):
    save(place/'nbs'/'30_collect.ipynb', 'import os, signal\nos.kill(os.getpid(), signal.SIGKILL)')
    process = run('nbs/30_collect.ipynb')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert process.stderr.strip().splitlines()[-1].startswith('The kernel was killed, perhaps for want of memory.')
    text = (place/REPORTS/'30_collect_failed.html').read_text()
    assert 'This run failed' in text and 'The kernel was killed' in text


def test_outputs_that_cannot_be_written_start_nothing(place):
    (place/'outputs').write_text('a file')
    process = run('nbs/30_collect.ipynb')
    assert process.returncode == 2 and len(process.stderr.strip().splitlines()) == 1
    assert 'Nothing can be written in' in process.stderr and 'SLATE_RL_OUTPUTS' in process.stderr


def test_a_bug_keeps_its_traceback(place):
    save(place/'nbs'/'30_collect.ipynb', 'def deep(): return 1/0', 'deep()')
    process = run('nbs/30_collect.ipynb')
    assert process.returncode == 1
    assert 'def deep()' in process.stderr
    assert process.stderr.strip().splitlines()[-1] == 'ZeroDivisionError: division by zero'
    assert 'papermill/execute.py' not in process.stderr


def test_help(place):
    process = run('--help-notebook', 'nbs/30_collect.ipynb')
    assert process.returncode == 0, process.stderr
    assert re.search(r'seed: int \(default 1\) +of everything random', process.stdout)


def test_from_python(place):
    path = run_notebook('30_collect', seed=2, note='hello')
    assert path == place/REPORTS/'30_collect_seed-2.ipynb'
    assert 'return 33.5 hello' in path.with_suffix('.html').read_text()

    for wrong in dict(qualty='x'), dict(seed='abc'):
        with pytest.raises(NotebookError):
            papermill.execute_notebook('nbs/30_collect.ipynb', 'out.ipynb', wrong, progress_bar=False)
    assert not (place/'out.ipynb').exists() and not (place/'out.html').exists()


def test_a_failure_from_python(place):
    save(place/'nbs'/'30_collect.ipynb', REFUSED)
    with pytest.raises(NotebookFailed) as failed: run_notebook('30_collect')
    assert isinstance(failed.value, papermill.PapermillExecutionError) and failed.value.ename == 'RefusedError'
    first, last = str(failed.value).splitlines()
    assert first.startswith('30_collect stopped in its cell [2]') and first.endswith('30_collect_failed.html')
    assert last == SENTENCE
