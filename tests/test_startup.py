"""What starting costs: seconds of imports that a person would wait for and does not need."""
import os, re, subprocess, sys

import pytest

from chain import PROGRAMS, REPO


def imported(*line: str) -> set[str]:
    "Names of all modules that a process imports."
    process = subprocess.run(line, cwd=REPO, env=os.environ | dict(PYTHONPROFILEIMPORTTIME='1'),
                             capture_output=True, text=True)
    assert process.returncode == 0, process.stderr
    return set(re.findall(r'^import time: .*\| +(\S+)$', process.stderr, re.MULTILINE))

HEAVY = {'torch', 'pytorch_lightning', 'pandas', 'matplotlib', 'h5py', 'scipy.stats'}

@pytest.mark.parametrize('program, word', [('slate-rl', '--help'), ('papermill', '--version')])
def test_a_program_starts_without_torch(program, word):
    "papermill imports this package's engine before it reads its line."
    modules = imported(str(PROGRAMS/program), word)
    assert {'offline_slate_rl', 'argparse' if program == 'slate-rl' else 'papermill'} <= modules
    assert not modules & HEAVY

def test_a_notebooks_parameters_are_explained_without_torch():
    assert not imported(str(PROGRAMS/'papermill'), '--help-notebook', 'nbs/30_collect.ipynb') & HEAVY

@pytest.mark.parametrize('name', ['load_dataset', 'evaluate', 'Policy', 'TopicRec'])
def test_what_a_user_imports_first_does_not_import_lightning(name):
    modules = imported(sys.executable, '-c', f'from offline_slate_rl import {name}')
    assert 'torch' in modules and not modules & (HEAVY - {'torch', 'h5py'})

@pytest.mark.parametrize('module', ['inspection', 'collect', 'verification'])
def test_collecting_does_not_import_lightning(module):
    modules = imported(sys.executable, '-c', f'import offline_slate_rl.collection.{module}')
    assert 'torch' in modules and 'pytorch_lightning' not in modules
