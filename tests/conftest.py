"""Where tests write, and the chain that many of them read: made once, however many processes run them."""
import os, shutil

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
