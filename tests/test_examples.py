"""The worked examples of CONTRIBUTING.md work as they stand: each diff applies, and the lines below it run."""
import os, subprocess, sys
from pathlib import Path

import pytest

from examples import checkout, examples

NIGHTLY = os.environ.get('SLATE_RL_NIGHTLY')


def run(folder: Path, line: str, outputs: Path, **env) -> str:
    "What a line prints in a checkout, at the smallest scale."
    search = os.pathsep.join([str(Path(sys.executable).parent), os.environ['PATH']])
    settings = dict(PATH=search, PYTHONPATH='.', SLATE_RL_OUTPUTS=str(outputs), SLATE_RL_SCALE='tiny',
                    OMP_NUM_THREADS='1')
    env = os.environ | settings | env
    ran = subprocess.run(['sh', '-c', line], cwd=folder, env=env, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout

def test_there_is_one_of_each_kind(): assert list(examples()) == ['an environment', 'an agent', 'an offline algorithm']

def test_an_environment_is_there_with_each_click_model(tmp_path, elsewhere):
    line = '''python -c "from offline_slate_rl.core.params import registry; print(*(
        name for name, env in registry().items() if env.boredom_threshold == 10))"'''
    found = run(checkout(tmp_path, 'an environment'), line, elsewhere).split()
    assert found == ['loyal_topdown', 'loyal_mix', 'loyal_divpen']

def test_an_algorithm_learns_from_the_better_turns(tmp_path, copy):
    line = '''python -c "
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.training.offline_training import train_offline
print(train_offline(load_dataset('focused_mix', 'medium'), 'filtered_bc').history[-1])"'''
    out = run(checkout(tmp_path, 'an offline algorithm'), line, copy, SLATE_RL_PLUGINS='filtered_bc')
    assert 'share_kept' in out

@pytest.mark.skipif(not NIGHTLY, reason="some minutes: `make nightly` runs it")
@pytest.mark.parametrize('example', list(examples()))
def test_the_lines_below_a_diff_run(tmp_path, copy, example):
    folder, (_, lines) = checkout(tmp_path, example), examples()[example]
    run(folder, '\n'.join(line.replace('make demo ENV=', 'slate-rl demo ') for line in lines), copy)
