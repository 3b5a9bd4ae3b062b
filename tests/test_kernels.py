"""Kernels that are interrupted from JupyterLab, or lose the papermill that started them: one sentence, nothing lost,
and the same cell goes on to the same bytes."""
import os, shutil, signal, subprocess, time
from pathlib import Path
from queue import Empty

import nbformat, psutil, pytest
from jupyter_client.manager import start_new_kernel

from chain import ENV, PROGRAMS, REPO, contents, environment, tiny
from faults import Tried
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.core.store import artifacts, load_artifact
from offline_slate_rl.pipeline.status import stage_state

MANY = 300  # episodes: thirty blocks, so that there is a middle


def wait_until(ready, seconds: float = 60):
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, 'it did not come to that'
        time.sleep(.02)

class Lab:
    "A notebook's kernel, as JupyterLab has one: cells are run, and the stop button is pressed."
    def __init__(self, outputs: Path):
        self.manager, self.client = start_new_kernel(kernel_name='python3', cwd=str(REPO), env=environment(outputs))

    def open(self, notebook: str, **given) -> list[str]:
        "Run the first cells of a notebook, its parameters changed as a person would; the cells that are left."
        cells = [cell for cell in nbformat.read(REPO/'nbs'/f'{notebook}.ipynb', as_version=4).cells
                 if cell.cell_type == 'code']
        changed = '\n'.join(f'{name} = {value!r}' for name, value in given.items())
        for source in cells[0].source, changed, cells[1].source: assert self.run(source) == ''
        return [cell.source for cell in cells[2:]]

    def run(self, source: str, stop_when=None) -> str:
        "Run a cell, and press stop once `stop_when()`; what it shows of an error, '' where there is none."
        self.client.execute(source)
        if stop_when:
            wait_until(stop_when)
            self.manager.interrupt_kernel()
        shown, ended = '', time.monotonic() + 120
        while time.monotonic() < ended:
            try: message = self.client.get_iopub_msg(timeout=1)
            except Empty: continue
            if message['msg_type'] == 'error': shown = '\n'.join(message['content']['traceback'])
            if message['msg_type'] == 'status' and message['content']['execution_state'] == 'idle' and \
               message['parent_header'].get('msg_type') == 'execute_request': return shown
        raise AssertionError('the cell does not end')

@pytest.fixture
def lab(copy):
    lab = Lab(copy)
    yield lab
    lab.client.stop_channels()
    lab.manager.shutdown_kernel(now=True)

def blocks(outputs: Path) -> list[Path]:
    return [path for path in outputs.rglob('0*.pt') if '.blocks' in path.parent.name]

def state(outputs: Path, before: dict, after: dict) -> str:
    for artifact in artifacts(outputs): load_artifact(artifact.path, verify=True)
    found = contents(outputs)
    return 'as before' if found == before else 'done' if found == after else 'in part'

def test_the_stop_button(copy, lab, chain):
    "In 20_train, then in 30_collect, of one kernel."
    expected = contents(chain.outputs)
    shutil.rmtree(copy/'tiny'/'checkpoints')
    before, log = contents(copy), copy/'tiny'/'logs'/ENV/'20_train.log'
    written = log.stat().st_size
    cell = lab.open('20_train')[0]
    with Tried('stop button of JupyterLab', '20_train') as tried:
        shown = lab.run(cell, lambda: '[Training Step 20/60]' in log.read_text()[written:])
        left, stopped = state(copy, before, expected), stage_state(log)
        assert lab.run(cell) == '' and 'Resumed at step' in log.read_text()[written:]
        found = contents(copy)
        same = all(found[key] == expected[key] for key in expected if key != ('checkpoint', 'last'))
        tried.add(left, same, 'is kept, and training goes on from there' in shown and '\n' not in shown)
    assert tried.sound and stopped == 'interrupted', (tried.counts, shown, stopped)

    params = collection_params(tiny(), num_trajectories=MANY)
    whole = collect_dataset(params, 'random', output_path=str(copy.parent/'whole'))
    before = contents(copy)
    cell = lab.open('30_collect', quality='random', num_trajectories=MANY, workers=1)[0]
    with Tried('stop button of JupyterLab', '30_collect') as tried:
        shown = lab.run(cell, lambda: len(blocks(copy)) >= 3)
        left, done = state(copy, before, {}), len(blocks(copy))
        assert lab.run(cell) == ''
        made = [artifact.sha256 for artifact in artifacts(copy, 'dataset')]
        tried.add(left, whole.sha256 in made, 'Interrupted' in shown and '\n' not in shown)
    assert tried.sound and 3 <= done < 30 and not blocks(copy), (tried.counts, shown, done)

def test_a_papermill_that_is_killed_leaves_no_kernel_and_no_worker(copy):
    params = collection_params(tiny(), num_trajectories=MANY)
    whole = collect_dataset(params, 'random', output_path=str(copy.parent/'whole'))
    before, words = contents(copy), ['quality', 'random', 'num_trajectories', str(MANY), 'workers', '2']
    given = [word for name, value in zip(words[::2], words[1::2]) for word in ('-p', name, value)]
    line = [str(PROGRAMS/'papermill'), 'nbs/30_collect.ipynb', '-p', 'env', ENV, *given]
    quiet = dict(stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with Tried('papermill killed -9', '30_collect') as tried:
        process = subprocess.Popen(line, cwd=REPO, env=environment(copy), **quiet)
        wait_until(lambda: len(blocks(copy)) >= 3)
        below = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        _, left_over = psutil.wait_procs(below, timeout=15)
        left = state(copy, before, {})
        again = collect_dataset(params, 'random')
        tried.add(left, again.sha256 == whole.sha256)
    assert tried.sound and len(below) >= 3, (tried.counts, below)
    assert not [one for one in left_over if one.status() != psutil.STATUS_ZOMBIE], left_over
