"""What goes wrong ends in a sentence that names the mend, an exit code that is not 0, and nothing half-written."""
import json, shutil
from pathlib import Path

import pytest

from chain import (
    ENV, checkpoint, cut, dataset, edit, files, item_file, last_line, papermill, remove, the, tiny, typed)
from offline_slate_rl.collection.approval import approvals, approvals_path, approve, approve_command
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.inspection import inspect_checkpoint
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.store import load_artifact, save_artifact
from offline_slate_rl.data.loading import find_dataset, load_dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.engine import NotebookError, run_notebook
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.training.checkpoints import run_folder
from offline_slate_rl.training.online import train


# Wrong parameters of notebooks

@pytest.mark.parametrize('notebook, given, says', [
    ('30_collect', dict(env='focussed_mix'), "Did you mean 'focused_mix'?"),
    ('30_collect', dict(quality='mediun'), "Did you mean 'medium'?"),
    ('30_collect', dict(behaviour='random-slate'), "Did you mean 'random-slates'?"),
    ('30_collect', dict(num_trajectory=5), "no parameter 'num_trajectory'. Did you mean 'num_trajectories'?"),
    ('20_train', dict(overrides='gems'), "'overrides' is 'gems'; expected dict"),
    ('10_pretrain', dict(scale='tinny'), "Did you mean 'tiny'?")])
def test_a_wrong_parameter_starts_nothing(elsewhere, notebook, given, says):
    with pytest.raises(NotebookError) as error: run_notebook(notebook, **given)
    assert says in str(error.value) and not elsewhere.exists()

def test_a_wrong_environment_on_the_line(elsewhere):
    process = typed(elsewhere, 'papermill', 'nbs/30_collect.ipynb', '-p', 'env', 'focussed_mix')
    assert process.returncode == 2 and "Did you mean 'focused_mix'?" in process.stderr
    assert 'Traceback' not in process.stderr and not elsewhere.exists()

def test_missing_pretraining_on_the_line(elsewhere):
    process = papermill(elsewhere, '20_train')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert f'papermill nbs/10_pretrain.ipynb -p env {ENV}' in last_line(process)
    assert not files(elsewhere)
    page = elsewhere/'tiny'/'reports'/ENV/'20_train_failed.html'
    assert 'This run failed' in page.read_text() and page.with_suffix('.ipynb').is_file()


# What is asked cannot be done

PRETRAIN, TRAIN = 'papermill nbs/10_pretrain.ipynb', 'papermill nbs/20_train.ipynb'

def overridden(**values):
    "Parameters with overrides; `__` stands for the dot of a key."
    return tiny(overrides={key.replace('__', '.'): value for key, value in values.items()})

def collect(quality: str = 'medium', num_trajectories: int|None = None, seed: int|None = None, **how):
    return collect_dataset(collection_params(tiny(), num_trajectories=num_trajectories, seed=seed), quality, **how)

MISTAKES = {  # what is asked, and what the error says
    'environment': (lambda: tiny('focussed_mix'), ["Did you mean 'focused_mix'?"]),
    'agent': (lambda: tiny(agent='SAC+GEMS'), ["Did you mean 'SAC+GeMS'?"]),
    'quality': (lambda: collect('mediun'), ["Unknown quality 'mediun'", "Did you mean 'medium'?"]),
    'quality to verify': (lambda: dataset('mediun'), ["Did you mean 'medium'?"]),
    'behaviour': (lambda: collect('random', behaviour='slates'), ["Unknown behaviour 'slates'", 'random-slates']),
    'behaviour beside a checkpoint': (
        lambda: collect(behaviour='random-slates', model_checkpoint='best'),
        ['model_checkpoint names best', 'random-slates has no checkpoint']),
    'override': (
        lambda: overridden(gems__latent_dims=16), ["unknown key 'gems.latent_dims'", "'gems.latent_dim'?"]),
    'type of an override': (
        lambda: overridden(gems__latent_dim='many'), ["'gems.latent_dim' is 'many'", 'integer']),
    'number as text': (lambda: overridden(agent__q_lr='1e-3'), ["'agent.q_lr' is '1e-3'", 'number']),
    'overrides without keys': (lambda: tiny(overrides='gems'), ["overrides is 'gems'", 'dotted keys']),
    'overrides that are no YAML': (
        lambda: tiny(overrides='{gems.latent_dim: 16'), ["overrides is '{gems.latent_dim: 16'", 'dotted keys']),
    'overrides with a number as key': (lambda: tiny(overrides={1: 2}), ['overrides is {1: 2}', 'dotted keys']),
    'item table missing': (
        lambda: log_trajectories(overridden(env__item_embeddings='nowhere.pt')),
        ['nowhere.pt', 'does not exist', '(1000, 20)']),
    'target beyond the budget': (
        lambda: train(overridden(training__target_step=61)),
        ['training.target_step is 61', 'training.max_steps 60']),
    'a step that the finished training did not keep': (
        lambda: train(overridden(training__target_step=30)), ['step30', 'force']),
    'checkpoint unknown': (lambda: collect(model_checkpoint='step41'), ["'step41' is asked", TRAIN]),
    'checkpoint file missing': (
        lambda: collect(model_checkpoint='/nowhere/step1.ckpt'), ['/nowhere/step1.ckpt does not exist']),
    'checkpoint without an approval of its own': (
        lambda: collect(model_checkpoint='best'), ['has no approval', '--model-checkpoint best']),
    'way of playing without an approval of its own': (
        lambda: collect_dataset(collection_params(tiny(), epsilon=.25), 'medium'),
        ['has no approval to collect medium data by sampling, epsilon 0.25', 'approved to play another way (sampling)',
         'collection.epsilon']),
    'checkpoint that is a dataset': (
        lambda: load_artifact(dataset('medium'), 'checkpoint'), ['is a dataset; a checkpoint was expected']),
    'fewer than no trajectories': (
        lambda: collect(num_trajectories=-5), ["'collection.num_trajectories' is -5", 'greater than or equal to 1']),
    'output below a file': (
        lambda: collect(num_trajectories=10, output_path=f"{the('gems').path}/x.h5"), ['output_path']),
    'output made by another recipe': (
        lambda: collect(seed=2, output_path=str(dataset('medium'))),
        ['made by another recipe', 'seed is 1 there, 2 is asked', 'force']),
    'kind of approval': (lambda: collect(approval='automatic'), ["Unknown approval 'automatic'"]),
    # step20 ends the random phase: no update yet, so it cannot have risen since step 0
    'automatic approval against a blocking verdict': (
        lambda: collect(approval='auto', model_checkpoint='step20'),
        ['Automatic approval refused', 'did not rise since step 0', 'slate-rl approve', '--model-checkpoint step20']),
    'approval without a note against a blocking verdict': (
        lambda: approve(tiny(), model_checkpoint='step20'),
        ['blocking', 'did not rise', 'say why', '--model-checkpoint step20']),
    'automatic approval that saw one episode': (
        lambda: collect_dataset(overridden(training__val_episodes=1), 'medium', 'step60', approval='auto'),
        ['Automatic approval refused', 'cannot be judged from one episode', 'training.val_episodes']),
    'no quality': (lambda: load_dataset(ENV), ['Which quality?', 'expert, medium, oracle, random']),
    'behaviour of a dataset': (
        lambda: load_dataset(ENV, 'random', behaviour='random-slate'), ["Did you mean 'random-slates'?"]),
    'no such dataset': (
        lambda: load_dataset(ENV, 'medium', seed=999), ['No dataset', 'seed=58407201', '-p seed 999']),
}

@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_told_and_leaves_nothing(copy, mistake):
    ask, fragments = MISTAKES[mistake]
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask()
    for fragment in fragments: assert fragment in str(error.value)
    assert files(copy) == before

def test_an_item_table_of_another_shape(copy, tmp_path):
    before, table = files(copy), item_file(tmp_path, 7)
    with pytest.raises(SlateRLError, match=r'\(7, 20\); \(1000, 20\) was expected'):
        log_trajectories(overridden(env__item_embeddings=str(table)))
    assert files(copy) == before

@pytest.mark.parametrize('code, words, says', [
    (2, ['approve', 'focussed_mix', 'medium'], "Did you mean 'focused_mix'?"),
    (2, ['approve', ENV, 'mediun'], "Did you mean 'medium'?"),
    (2, ['approve', ENV, 'random'], 'has no checkpoint'),
    (2, ['approve', ENV, 'medium', '--overrides', '{gems.latent_dim: x}'], "'gems.latent_dim' is 'x'"),
    (1, ['approve', ENV, 'medium', '--seed', '7'], '-p seed 7'),
    (1, ['show', 'nowhere.ckpt'], 'nowhere.ckpt does not exist'),
    (1, ['verify', 'nowhere.h5'], 'nowhere.h5 does not exist'),
    (2, ['verify'], 'Give a path, or --all'),
    (2, ['status', 'focussed_mix'], "Did you mean 'focused_mix'?")])
def test_the_command_line_ends_in_a_sentence_too(copy, capsys, code, words, says):
    before = files(copy)
    assert cli.main(words) == code
    said = capsys.readouterr()
    assert says in said.out + said.err and files(copy) == before


# Something is missing or damaged

def approve_another():
    "Replace the approval by one of step60, played in the same way."
    path, [record] = approvals_path(tiny(), 'medium'), approvals(tiny(), 'medium').values()
    path.write_text(json.dumps(dict(one=record | dict(sha256=checkpoint('step60').sha256))))

def inspect(): inspect_checkpoint(tiny())
def collect_random(): collect('random', num_trajectories=10)
def forget_training(): shutil.rmtree(run_folder(tiny()))

DAMAGE = {  # what is done to the outputs, what is asked then, and what the error says
    'no logged data': (lambda: remove(the('logged')), lambda: train(tiny()), ['No logged', PRETRAIN]),
    'no ranker': (lambda: remove(the('gems')), lambda: train(tiny()), ['No gems', PRETRAIN]),
    'no ranker for random': (lambda: remove(the('gems')), collect_random, ['No gems', PRETRAIN]),
    'no training to inspect': (forget_training, inspect, ['No checkpoint', TRAIN]),
    'no training to collect from': (forget_training, collect, ['No checkpoint', TRAIN]),
    'no dataset to verify': (
        lambda: remove(find_dataset(tiny(), 'medium')), lambda: dataset('medium'),
        ['No dataset', 'papermill nbs/30_collect.ipynb']),
    'no approval': (
        lambda: approvals_path(tiny(), 'medium').unlink(), collect,
        ['has no approval to collect medium data', approve_command(tiny(), 'medium')]),
    'approval for another checkpoint': (
        approve_another, collect,
        ['has no approval', 'approval for another checkpoint', approve_command(tiny(), 'medium')]),
    'approvals cut short': (
        lambda: cut(approvals_path(tiny(), 'medium')), collect, ['medium.json', 'slate-rl approve']),
    'checkpoint cut short, to collect': (
        lambda: cut(checkpoint('step40').path), collect, ['_step40.ckpt is damaged', 'with force', TRAIN]),
    'checkpoint cut short, to inspect': (
        lambda: cut(checkpoint('step40').path), inspect, ['_step40.ckpt is damaged', TRAIN]),
    'last cut short': (
        lambda: cut(checkpoint('last').path), lambda: train(tiny()), ['_last.ckpt is damaged', TRAIN]),
    'manifest missing': (
        lambda: manifest_path(checkpoint('step40').path).unlink(), collect, ['No checkpoint', TRAIN]),
    'manifest cut short': (
        lambda: cut(manifest_path(the('gems').path)), lambda: pretrain_gems(tiny(), the('logged')),
        ['manifest', 'not readable', 'force']),
    'ranker damaged, to train': (
        lambda: cut(the('gems').path), lambda: train(tiny()), ['GeMS_', 'is damaged', PRETRAIN]),
    'ranker damaged, to collect': (
        lambda: cut(the('gems').path), collect_random, ['GeMS_', 'is damaged', PRETRAIN]),
    'logged data damaged': (
        lambda: edit(the('logged').path), lambda: log_trajectories(tiny()), ['traj_seed', 'is damaged', PRETRAIN]),
    'logged data damaged, to train': (
        lambda: edit(the('logged').path), lambda: train(tiny()), ['is damaged', PRETRAIN]),
    'dataset damaged, to reuse': (
        lambda: edit(dataset('medium')), collect, ['is damaged', 'with force', '30_collect']),
    'dataset damaged, to load': (
        lambda: edit(dataset('medium')), lambda: load_dataset(ENV, 'medium'),
        ['is damaged', 'with force', '30_collect']),
}

@pytest.mark.parametrize('fault', DAMAGE)
def test_a_fault_is_one_sentence_and_leaves_nothing(copy, fault):
    damage, ask, fragments = DAMAGE[fault]
    damage()
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask()
    for fragment in fragments: assert fragment in str(error.value)
    assert '\n' not in str(error.value) and files(copy) == before

@pytest.mark.parametrize('kind', ['logged', 'gems', 'checkpoint'])
def test_status_names_what_is_damaged(copy, capsys, kind):
    cut(the(kind).path)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert 'damaged' in capsys.readouterr().out.lower()

def test_a_save_that_is_interrupted_keeps_what_was_saved_before(copy):
    "Of `last` there is one file, and it may be days of work."
    last = checkpoint('last')
    def interrupted(path: Path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): save_artifact(last.path, interrupted, 'checkpoint', {}, {})
    assert load_artifact(last.path).sha256 == last.sha256
    assert not [name for name in files(copy) if name.endswith(('.tmp', '.next'))]
