"""Where tests write, and the chain that many of them read: made once, however many processes run them."""
import os, shutil, sys

import pytest
from filelock import FileLock


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "No test touches the repository's outputs, whatever else it forgets."
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'outputs'))
    monkeypatch.setenv('SLATE_RL_SCALE', 'tiny')
    return tmp_path/'outputs'

@pytest.fixture(scope='session')
def chain(tmp_path_factory):
    "The chain's outputs and what its lines said. Processes of pytest-xdist have the folder above in common."
    from chain import shared_chain  # here, so that tests without it do not wait for torch
    folder = tmp_path_factory.getbasetemp()
    if 'PYTEST_XDIST_WORKER' in os.environ: folder = folder.parent
    with FileLock(folder/'chain.lock'): return shared_chain(folder/'chain')

@pytest.fixture
def here(chain, monkeypatch):
    "The chain's outputs, to read."
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(chain.outputs))
    return chain.outputs

@pytest.fixture
def copy(chain, elsewhere):
    "A copy of the chain's outputs, to damage."
    shutil.copytree(chain.outputs, elsewhere)
    return elsewhere

@pytest.fixture
def plugin(tmp_path, monkeypatch):
    "Writes a module and names it in SLATE_RL_PLUGINS, so that every process finds what it registers."
    def write(name: str, code: str):
        (tmp_path/f'{name}.py').write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        search = [str(tmp_path), os.environ.get('PYTHONPATH')]
        monkeypatch.setenv('PYTHONPATH', os.pathsep.join(filter(None, search)))
        monkeypatch.setenv('SLATE_RL_PLUGINS', name)
    yield write
    for name in os.environ.get('SLATE_RL_PLUGINS', '').split(','): sys.modules.pop(name, None)
