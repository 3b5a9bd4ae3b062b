"""JupyterLab, headless: a notebook of the pipeline is opened, run by its kernel and saved, as a person would do it."""
import json, os, signal, subprocess, sys, time, urllib.error, urllib.request, uuid
from pathlib import Path

import nbformat, pytest
from websocket import create_connection

from offline_slate_rl.core.params import repo_dir

TOKEN = 'a-token-of-this-test'


class Lab:
    "A running JupyterLab, spoken to as its page does."
    def __init__(self, outputs: Path, folder: Path):
        folders = {f'JUPYTER_{name.upper()}_DIR': str(folder/name) for name in ('runtime', 'config', 'data')}
        env = os.environ | folders | dict(SLATE_RL_OUTPUTS=str(outputs), OMP_NUM_THREADS='1')
        options = '--no-browser', '--port=0', f'--IdentityProvider.token={TOKEN}', '--allow-root'
        code = f'from offline_slate_rl.pipeline.lab import lab; lab(*{options!r})'
        self.log = (folder/'lab.log').open('w')
        self.process = subprocess.Popen([sys.executable, '-c', code], env=env, stdout=self.log, stderr=self.log)
        self.about = self.wait_for(lambda: json.loads(next((folder/'runtime').glob('jpserver-*.json')).read_text()))

    def wait_for(self, found, seconds: float = 60):
        "What `found` returns once it raises no more."
        for _ in range(int(10*seconds)):
            assert self.process.poll() is None, Path(self.log.name).read_text()
            try: return found()
            except (StopIteration, FileNotFoundError, json.JSONDecodeError, urllib.error.URLError): time.sleep(.1)
        raise AssertionError(Path(self.log.name).read_text())

    def ask(self, path: str, method: str = 'GET', /, **content):
        "What the server answers."
        body = json.dumps(content).encode() if content else None
        request = urllib.request.Request(f"{self.about['url']}{path}", body, {'Authorization': f'token {TOKEN}'},
                                         method=method)
        with urllib.request.urlopen(request, timeout=60) as answer: return answer.read()

    def asked(self, *given, **content): return json.loads(self.ask(*given, **content))

    def run(self, nb, path: str):
        "Run the cells of a notebook in a kernel of its own, and put into them what they show."
        session = self.asked('api/sessions', 'POST', path=path, type='notebook', name=path, kernel=dict(name='python3'))
        kernel = session['kernel']['id']
        address = f"{self.about['url']}api/kernels/{kernel}/channels".replace('http', 'ws', 1)
        socket = create_connection(address, timeout=120, header=[f'Authorization: token {TOKEN}'])
        for cell in nb.cells:
            if cell.cell_type == 'code': cell.outputs = self.outputs(socket, cell.source)
        socket.close()
        self.ask(f"api/sessions/{session['id']}", 'DELETE')

    def outputs(self, socket, code: str) -> list:
        "What a cell shows."
        asked, shown = uuid.uuid4().hex, []
        header = dict(msg_id=asked, msg_type='execute_request', username='', session='test', version='5.3')
        socket.send(json.dumps(dict(header=header, parent_header={}, metadata={}, channel='shell', buffers=[],
                                    content=dict(code=code, silent=False, allow_stdin=False))))
        while True:
            message = json.loads(socket.recv())
            if message['parent_header'].get('msg_id') != asked: continue
            content = message['content']
            if message['msg_type'] == 'error': raise AssertionError('\n'.join(content['traceback']))
            if message['msg_type'] in ('stream', 'display_data', 'execute_result'):
                shown.append(nbformat.v4.output_from_msg(message))
            if message['msg_type'] == 'status' and content['execution_state'] == 'idle': return shown

    def end(self):
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.log.close()

@pytest.fixture
def lab(copy, tmp_path):
    lab = Lab(copy, tmp_path)
    yield lab
    lab.end()

def tracked_notebooks() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (repo_dir()/'nbs').glob('*.ipynb')}

def test_a_notebook_of_the_pipeline_runs_in_its_kernel(lab, copy):
    "30_collect, with a parameter typed into its cell: a dataset is there, and no file that git tracks has changed."
    before, there = tracked_notebooks(), set((copy/'tiny'/'offline_datasets'/'random').glob('*.h5'))
    page = lab.wait_for(lambda: lab.ask('lab').decode())
    assert 'JupyterLab' in page
    folder = os.path.relpath(copy/'lab', lab.about['root_dir'])
    path = f'{folder}/30_collect.ipynb'
    nb = nbformat.from_dict(lab.asked(f'api/contents/{path}')['content'])
    nb.cells[1].source += '\nquality, collection_seed, num_trajectories = "random", 77, 4'
    lab.run(nb, path)
    lab.ask(f'api/contents/{path}', 'PUT', type='notebook', content=nb)  # as Ctrl-S does

    made, = set((copy/'tiny'/'offline_datasets'/'random').glob('*.h5')) - there
    shown = json.dumps(nbformat.read(copy/'lab'/'30_collect.ipynb', as_version=4))
    assert made.name in shown and 'image/png' in shown
    assert tracked_notebooks() == before
