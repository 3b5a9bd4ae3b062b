"""What starting costs: imports that take seconds belong into the steps that need them."""
import os, re, subprocess, sys

import pytest

from chain import PROGRAMS, REPO

HEAVY = {'torch', 'pytorch_lightning', 'pandas', 'matplotlib', 'h5py', 'scipy.stats'}


def imported(*line: str) -> set[str]:
    "Names of all modules that a process imports."
    environment = os.environ | dict(PYTHONPROFILEIMPORTTIME='1')
    process = subprocess.run(line, cwd=REPO, env=environment, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(re.findall(r'^import time: .*\| +(\S+)$', process.stderr, re.MULTILINE))

@pytest.mark.parametrize('line, imports', [
    ('slate-rl --help', 'offline_slate_rl.pipeline.cli'),
    ('papermill --help-notebook nbs/30_collect.ipynb', 'offline_slate_rl.core.params')])
def test_a_program_starts_without_torch(line, imports):
    "papermill imports the engine before it reads its line."
    program, *words = line.split()
    modules = imported(str(PROGRAMS/program), *words)
    assert imports in modules and not modules & HEAVY

@pytest.mark.parametrize('line', [
    'from offline_slate_rl import Policy, TopicRec, evaluate, load_dataset',
    'import offline_slate_rl.collection.inspection, offline_slate_rl.collection.card'])
def test_reading_inspecting_and_collecting_do_not_import_lightning(line):
    modules = imported(sys.executable, '-c', line)
    assert 'torch' in modules and not modules & {'pytorch_lightning', 'pandas', 'matplotlib', 'scipy.stats'}
