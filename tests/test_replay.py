"""The quality replay: what training had seen, from its replay buffer to mixtures and learners."""
import shutil

import numpy as np, pytest, torch

from chain import ENV, cut, dataset, papermill, remove, tiny, typed
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.verification import require
from offline_slate_rl.core.errors import DamagedError, MissingError, SlateRLError
from offline_slate_rl.core.files import load_tensors, save_tensors
from offline_slate_rl.core.store import artifacts, load_artifact, save_artifact
from offline_slate_rl.data.datasets import Dataset, user_ids
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.training.checkpoints import find_checkpoint
from offline_slate_rl.training.encoders import load_encoder


def buffer(outputs): return next(artifact for artifact in artifacts(outputs/'tiny', 'replay'))

def rewritten(outputs, change):
    "Save the run's buffer with its content changed, as good an artifact as before."
    old = buffer(outputs)
    content = load_tensors(old.path)
    change(content)
    recipe = {key: value for key, value in old.recipe.items() if key != 'format'}
    return save_artifact(old.path, lambda path: save_tensors(content, path), 'replay', recipe, old.provenance)


def test_the_notebooks_collect_and_verify_it_without_an_approval(copy):
    "A call with two workers, which it has no use for, gives the same bytes."
    shutil.rmtree(copy/'tiny'/'approvals')
    for notebook in '30_collect', '40_verify':
        executed = papermill(copy, notebook, '-p', 'quality', 'replay')
        assert not executed.returncode, executed.stderr
    made = load_artifact(dataset('replay'))
    assert (made.recipe['num_trajectories'], made.recipe['first_episode']) == (30, 10)
    again = collect_dataset(collection_params(tiny(), workers=2), 'replay', force=True)
    assert again.sha256 == made.sha256

def test_it_is_an_ordinary_dataset(copy):
    made = collect_dataset(tiny(), 'replay')
    require(verify_dataset(made.path, tiny())[0])
    data, held = load_dataset(ENV, 'replay'), load_tensors(buffer(copy).path)['held']
    episodes = data.episodes()
    for name, values in held.items(): assert torch.equal(getattr(episodes, name), values[10:])
    encoder = load_encoder(find_checkpoint(tiny(), 'step40'))
    with torch.no_grad(): beliefs = encoder(episodes.slates, episodes.clicks)
    np.testing.assert_allclose(episodes.beliefs, beliefs, atol=1e-5)
    assert data.user_ids.tolist() == user_ids(tiny().seed, 'train', 10, 30).tolist()
    assert {*load_dataset(ENV, 'medium').transitions()} - {*data.transitions()} == {'log_probs'}
    assert load_dataset(ENV, 'replay', agent='SAC+GeMS', checkpoint='step40', num_trajectories=30).path == made.path
    by_step0 = load_dataset(ENV, 'replay', belief='step0', say=lambda line: None)
    assert not torch.equal(by_step0.episodes().beliefs, episodes.beliefs)
    assert data.policy(np.zeros_like).ranker.action_dim == 32  # its encoder and its ranker are found

def test_how_many_and_whose_beliefs(copy):
    whole = collect_dataset(collection_params(tiny(), num_trajectories=100), 'replay')
    few = collect_dataset(collection_params(tiny(), num_trajectories=7), 'replay', 'best')
    assert (len(Dataset(whole)), whole.recipe['first_episode']) == (40, 0)
    assert (len(Dataset(few)), few.recipe['first_episode'], few.recipe['behaviour']['checkpoint']) == (7, 33, 'best')
    assert torch.equal(Dataset(few).episodes().slates, Dataset(whole).episodes(33).slates)
    for made in whole, few: require(verify_dataset(made.path, tiny())[0][:-1])  # seven say little of a mean

def test_a_mixture_with_random(copy):
    collect_dataset(tiny(), 'replay')
    mixed = typed(copy, 'slate-rl', 'mix', ENV, 'random=0.5', 'replay=0.5', '--belief', 'step40')
    assert not mixed.returncode, mixed.stderr
    mixture = load_dataset(ENV, 'mixed_random50_replay50')
    require(verify_dataset(mixture.path, tiny())[0])
    random, replay = mixture.recipe['sources']
    assert 'first_episode' not in random and (replay['first_episode'], replay['users']) == (10, 'train')
    assert len({*mixture.user_ids.tolist()}) == 30

def test_a_damaged_buffer_is_refused(copy):
    cut(buffer(copy).path)
    with pytest.raises(DamagedError, match='is damaged.*force'): collect_dataset(tiny(), 'replay')
    assert not [*copy.rglob('*replay*.h5')]

def one_click(content): content['held']['clicks'][25, 50, 3] ^= 1
def one_more(content): content['stored'] += 1

@pytest.mark.parametrize('change, where', [(one_click, 'clicks in episode 25, turn 50'), (one_more, 'other clicks')])
def test_a_buffer_that_was_never_played_is_refused(copy, change, where):
    rewritten(copy, change)
    with pytest.raises(SlateRLError, match=where): collect_dataset(tiny(), 'replay')
    assert not [*copy.rglob('*replay*.h5')]

def test_without_a_buffer_the_sentence_says_how_to_get_one(copy):
    remove(buffer(copy))
    with pytest.raises(MissingError, match='training.keep_replay true. Train again with force: papermill'):
        collect_dataset(tiny(), 'replay')

def test_what_a_collection_cannot_say_of_a_training(here):
    for key, value in {'collection.seed': 3, 'collection.epsilon': .1, 'collection.deterministic': True}.items():
        with pytest.raises(SlateRLError, match=f'{key}: what training had seen'):
            collect_dataset(tiny(overrides={key: value}), 'replay')
    with pytest.raises(SlateRLError, match='is the quality replay'):
        collect_dataset(tiny(), 'medium', behaviour='replay')
