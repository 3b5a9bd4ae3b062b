"""Same recipe, same bytes, whoever makes it and however often it is interrupted; another recipe, another path."""
import hashlib, os, re, shutil, signal, subprocess, time

import pytest, torch

from chain import (
    ENV, PROGRAMS, REPO, checkpoint, contents, dataset, environment, files, item_file, python, tiny)
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.files import load_tensors
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.store import Artifact, artifacts
from offline_slate_rl.data.collecting import Collection
from offline_slate_rl.pipeline.status import stage_state
from offline_slate_rl.rankers.gems import find_gems
from offline_slate_rl.training.checkpoints import checkpoints, find_checkpoint
from offline_slate_rl.training.online import train


# The same bytes

MADE = [('logged', ''), ('mf', ''), ('click_model', ''), ('gems', ''), ('checkpoint', 'step0'),
        ('checkpoint', 'step40'), ('checkpoint', 'best'), ('dataset', 'random'), ('dataset', 'medium')]

@pytest.mark.parametrize('what', MADE, ids=' '.join)
def test_another_process_two_workers_and_two_threads_make_the_same_bytes(chain, what):
    assert contents(chain.again)[what] == contents(chain.outputs)[what]

def test_a_dataset_passes_on_a_processor_that_rounds_otherwise(chain):
    "torch without its instructions for wide vectors; it says what moved, where there were any."
    line = [str(PROGRAMS/'slate-rl'), 'verify', '--all']
    other = environment(chain.outputs) | dict(ATEN_CPU_CAPABILITY='default')
    process = subprocess.run(line, cwd=REPO, env=other, capture_output=True, text=True)
    assert process.returncode == 0 and '2 passed, 0 failed' in process.stdout, process.stdout + process.stderr
    moved = 'Another processor rounds otherwise: ' in process.stdout
    assert moved == (torch.backends.cpu.get_cpu_capability() != 'DEFAULT')

def alive(session: int) -> list[str]:
    "Processes of a session that have not ended."
    listed = subprocess.run(['ps', '-e', '-o', 'sid=,stat='], capture_output=True, text=True).stdout.splitlines()
    return [line for line in listed if int(line.split()[0]) == session and 'Z' not in line]

def kill_when(process: subprocess.Popen, ready) -> list[str]:
    "SIGKILL to the process alone, as soon as `ready()`; what it had started and is still alive ten seconds later."
    try:
        while not ready():
            assert process.poll() is None, process.communicate()[0]
            time.sleep(.02)
        process.kill()
        process.wait()
        deadline = time.time() + 10
        while alive(process.pid) and time.time() < deadline: time.sleep(.1)
        return alive(process.pid)
    finally:
        try: os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError: pass

def test_a_collection_that_was_killed_goes_on_to_the_same_bytes(copy, tmp_path, monkeypatch):
    params, killed = collection_params(tiny(), num_trajectories=200), tmp_path/'killed'
    whole = collect_dataset(params, 'random', output_path=str(tmp_path/'whole'))
    two_workers = 'collection_params(tiny(), num_trajectories=200, workers=2)'
    process = python(copy, f"collect_dataset({two_workers}, 'random', output_path={str(killed)!r})")
    orphans = kill_when(process, lambda: len(list(killed.rglob('*.pt'))) >= 3)
    done = len([path for path in killed.rglob('*.pt') if not path.name.startswith('.')])
    assert 3 <= done < 20 and not list(killed.glob('*.h5')) and not artifacts(killed)
    log = max((copy/'tiny'/'logs'/ENV).glob('30_collect_random*.log'), key=lambda log: log.stat().st_mtime)
    assert stage_state(log) == 'interrupted'
    assert not orphans, 'workers outlive their parent'

    played, play = [], Collection.play
    def counted(self, block, *players):
        played.append(block)
        play(self, block, *players)
    monkeypatch.setattr(Collection, 'play', counted)
    again = collect_dataset(collection_params(params, workers=1), 'random', output_path=str(killed))
    assert again.sha256 == whole.sha256 and len(played) == 20 - done
    assert {path.name for path in killed.iterdir()} == {again.path.name, manifest_path(again.path).name}

def same_weights(a: Artifact, b: Artifact) -> bool:
    a, b = (load_tensors(artifact.path)['state_dict'] for artifact in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)

def test_a_training_that_was_killed_ends_where_it_would_have(copy, chain, capsys, monkeypatch):
    "Killed about step 30, gone on to 80: the same checkpoints as of a whole run to 60 that goes on to 80."
    whole = train(tiny(overrides={'training.max_steps': 80})).checkpoints
    assert 'Resumed at step 60' in capsys.readouterr().out
    for (kind, name), sha256 in contents(chain.outputs).items():
        if kind != 'checkpoint' or not name.startswith('step'): continue
        assert whole[name].sha256 == sha256, f'{name} was written again'

    root = copy.parent/'killed'
    shutil.copytree(copy, root)
    shutil.rmtree(root/'tiny'/'checkpoints')
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(root))
    overrides = {'training.max_steps': 80, 'training.save_last_every_minutes': 1e-9}  # after every step
    log = root/'tiny'/'logs'/ENV/'20_train.log'
    written = log.stat().st_size
    process = python(root, f'train(tiny(overrides={overrides!r}))')
    kill_when(process, lambda: '[Training Step 30/80]' in log.read_text()[written:])
    assert stage_state(log) == 'interrupted' and 'step60' not in checkpoints(tiny())
    ended = train(tiny(overrides=overrides)).checkpoints
    assert re.search(r'Resumed at step (?:29|[3-5]\d)\b', capsys.readouterr().out)
    assert ended.keys() == whole.keys()
    for name in whole: assert same_weights(ended[name], whole[name]), name
    # approvals and recipes name a checkpoint by its bytes: how often `last` was saved must not show in them
    for name in 'step40', 'step60': assert ended[name].sha256 == whole[name].sha256


# Another recipe

def find_trained(params): find_checkpoint(params, 'step40')
def collect_medium(params): collect_dataset(params, 'medium')

@pytest.mark.parametrize('key, value, ask, says', [
    ('env.gamma', .9, find_gems, 'env.gamma is 0.8 there, 0.9 is asked'),
    ('env.omega', .5, find_gems, 'env.omega is 0.9 there, 0.5 is asked'),
    ('logged.epsilon', .1, find_gems, 'epsilon is 0.5 there, 0.1 is asked'),
    ('gems.lambda_KL', 2., find_gems, 'gems.lambda_KL is 1.0 there, 2.0 is asked'),
    ('gems.ranker_seed', 5, find_gems, 'seed is 58407201 there, 5 is asked'),
    ('agent.q_lr', .01, find_trained, 'agent.q_lr is 0.001 there, 0.01 is asked'),
    ('agent.belief.state_dim', 8, collect_medium, 'agent.belief.state_dim is 20 there, 8 is asked')])
def test_another_recipe_is_another_artifact_and_the_error_says_why(copy, key, value, ask, says):
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask(tiny(overrides={key: value}))
    assert says in str(error.value) and files(copy) == before

def test_an_item_table_counts_by_its_content(copy, tmp_path):
    def with_table(path): return tiny(overrides={'env.item_embeddings': str(path)})
    path = item_file(tmp_path)
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    differs = f"env.item_embeddings is None there, '{sha256}' is asked"
    with pytest.raises(SlateRLError, match=differs): find_gems(with_table(path))
    moved = path.rename(tmp_path/'moved.pt')
    copied = shutil.copy(moved, tmp_path/'copied.pt')
    assert with_table(moved).env.recipe() == with_table(copied).env.recipe()

BUDGETS = [{'collection.workers': 3}, {'training.max_steps': 80},
           {'training.val_episodes': 10, 'training.log_every_n_steps': 7}]

@pytest.mark.parametrize('overrides', BUDGETS, ids=lambda overrides: next(iter(overrides)))
def test_workers_and_budgets_change_no_identity(copy, overrides):
    params, before = tiny(overrides=overrides), contents(copy)
    assert find_gems(params).sha256 == find_gems(tiny()).sha256
    assert find_checkpoint(params, 'step40').path == checkpoint('step40').path
    for quality in 'random', 'medium': assert collect_dataset(params, quality).path == dataset(quality)
    assert contents(copy) == before
