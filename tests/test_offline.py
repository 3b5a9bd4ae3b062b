"""Every algorithm of params/offline learns from datasets: the whole way, in parts, with a belief of its own, from an
expert."""
import shutil

import numpy as np, pytest, torch

from chain import ENV, checkpoint, tiny
from offline_slate_rl import load_dataset
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import agents, params_file
from offline_slate_rl.core.files import load_tensors
from offline_slate_rl.core.store import provenance, read_rows
from offline_slate_rl.data.collecting import collect
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.play.policies import RandomSlates
from offline_slate_rl.rankers.ranker import RandomLatents, load_ranker
from offline_slate_rl.training.encoders import encoder_space, load_encoder, ranker_space
from offline_slate_rl.training.offline_training import train_offline
from offline_slate_rl.training.spaces import FunctionPolicy, Spaces

ALGORITHMS = agents('offline')
ON_SLATES = {'bc'}  # that can do without a ranker
OWN_BELIEF = {'agent.belief': dict(state_dim=8, item_embedding_dim=4)}
SMALL = dict(hidden_dim=64, inverse_dim=64, embed_dim=32, num_layers=1, diffusion_steps=8, num_actions=2, warmup=10,
             lr=.001, q_lr=.001, pi_lr=.001, alpha=1.)  # of what an algorithm's file has
every = pytest.mark.parametrize('algorithm', ALGORITHMS)

@pytest.fixture(scope='module')
def copied(chain, tmp_path_factory):
    "A copy of the chain's outputs, to train in."
    return shutil.copytree(chain.outputs, tmp_path_factory.mktemp('offline')/'outputs')

@pytest.fixture
def outputs(copied, monkeypatch):
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(copied))
    return tiny().outputs

def budget(updates: int, **more) -> dict:
    "Overrides of a short training that hardly plays."
    play = {'training.val_episodes': 2, 'training.test_episodes': 2, 'training.check_val_every_n_steps': updates}
    return {'training.max_steps': updates} | play | more

def small(algorithm: str) -> dict:
    "Overrides that make an algorithm quick."
    known = params_file(f'offline/{algorithm}.yaml')
    return {f'agent.{name}': value for name, value in SMALL.items() if name in known}

def weights(trained, name: str = 'last') -> dict: return load_tensors(trained.checkpoints[name].path)['state_dict']

def of_belief(state: dict, name: str = 'belief') -> dict:
    return {key.partition('.')[2]: weight for key, weight in state.items() if key.startswith(f'{name}.')}

def same(one: dict, other: dict) -> bool:
    return one.keys() == other.keys() and all(torch.equal(weight, other[key]) for key, weight in one.items())

@every
def test_the_whole_way(algorithm, outputs):
    trained = train_offline(load_dataset(ENV, 'medium'), algorithm, overrides=small(algorithm))
    assert list(trained.checkpoints) == ['step0', 'step20', 'best', 'last']
    assert [row['step'] for row in trained.history] == [0, 10, 20]
    run = dict(agent=f'{algorithm} on medium', algorithm=algorithm, data='medium')
    for table, column, steps in ('validation', 'val_reward', {0, 10, 20}), ('test', 'return_mean', {20}):
        rows = read_rows(outputs, table)
        rows = rows[(rows[list(run)] == list(run.values())).all(axis=1)]
        assert steps <= set(rows.step) and np.isfinite(rows[column]).all()
    encoder = load_tensors(checkpoint('step40').path)['state_dict']
    assert same(of_belief(weights(trained)), of_belief(encoder, 'actor_belief'))  # a fixed belief stays as it was

@every
def test_going_on_is_as_if_it_had_never_stopped(algorithm, outputs, tmp_path):
    def trained(**values) -> dict:
        return weights(train_offline(load_dataset(ENV, 'medium'), algorithm, overrides=values | small(algorithm)))
    def in_parts(updates: int) -> dict: return trained(**budget(updates), **{'training.save_path': str(tmp_path)})
    whole = trained()  # of the test above, where that has run
    assert not same(in_parts(10), whole) and same(in_parts(20), whole)

@every
def test_a_belief_of_its_own_learns_too(algorithm, outputs):
    trained = train_offline(load_dataset(ENV, 'medium'), algorithm, overrides=OWN_BELIEF | budget(4) | small(algorithm))
    before, after = of_belief(weights(trained, 'step0')), of_belief(weights(trained))
    assert before['gru.weight_hh_l0'].shape == (24, 8)
    assert not any(torch.equal(weight, after[name]) for name, weight in before.items())


# Slates

@pytest.fixture
def of_slates(outputs):
    "Random slates, with the beliefs of an encoder."
    env, path = tiny().env, outputs/'slates.h5'
    if not path.is_file():
        recipe = dict(env=env.recipe(), quality='slates', behaviour=dict(name='random slates'), num_trajectories=10,
                      seed=1, inputs={}, spaces=dict(encoder=None, ranker=None), privileged=False)
        collect(path, env, lambda: RandomSlates(env.num_items), 10, 1, 'dataset/slates', 'dataset', recipe,
                provenance('collect again', params=tiny().model_dump()), block_size=10)
    return load_dataset(path, belief=checkpoint('step40').path, say=lambda line: None)

@every
def test_slates_are_learnt_from_or_refused(algorithm, of_slates):
    if algorithm in ON_SLATES:
        trained = train_offline(of_slates, algorithm, overrides=budget(4))
        assert np.isfinite(trained.test['step4']['return_mean'])
    else:
        with pytest.raises(SlateRLError, match="acts on latents, and the dataset's actions are slates"):
            train_offline(of_slates, algorithm)


# An expert

UPDATES = dict.fromkeys(ALGORITHMS, 200) | dict(cql=800)  # its policy runs away first, then its values call it back

def around(unit: torch.Tensor, ranker):
    "A function from beliefs to latents around one of them."
    noise = np.random.default_rng(0)
    def latents(beliefs: np.ndarray) -> torch.Tensor:
        normals = noise.standard_normal((len(beliefs), len(unit)), dtype=np.float32)
        return ranker.stretch((unit + .1*torch.from_numpy(normals)).clamp(-1, 1))
    return latents

@pytest.fixture(scope='module')
def expert(copied):
    "A dataset of the best of a few constant latents, and what random ones earn, of a ranker that knows the items."
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SLATE_RL_OUTPUTS', str(copied))
        patch.setenv('SLATE_RL_SCALE', 'tiny')
        params, played_by = tiny(), checkpoint('step40')
        env, encoder = params.env, load_encoder(played_by)
        ranker = load_ranker(env, dict(name='topk', embeddings='ideal', dim=env.dim), None)
        def policy(unit): return FunctionPolicy(around(unit, ranker), Spaces(encoder, ranker), env)
        def earned(policy) -> float: return play_and_measure(policy, env, 20, 'validation')[1]['return_mean']
        units = torch.rand(8, ranker.action_dim, generator=torch.Generator().manual_seed(0)) - .5
        best = max(units, key=lambda unit: earned(policy(unit)))
        spaces = dict(encoder=encoder_space(encoder, played_by), ranker=ranker_space(ranker, {}))
        recipe = dict(env=env.recipe(), quality='expert', behaviour=dict(name='one latent'), num_trajectories=30,
                      seed=1, inputs={}, spaces=spaces, privileged=True)
        found = collect(params.outputs/'expert.h5', env, lambda: policy(best), 30, 1, 'dataset/expert', 'dataset',
                        recipe, provenance('collect again', params=params.model_dump()), block_size=30)
        return Dataset(found), earned(RandomLatents(ranker))

@every
def test_each_learns_from_an_expert(algorithm, expert, outputs):
    data, random = expert
    plays = {'training.val_episodes': 20, 'training.test_episodes': 20}
    trained = train_offline(data, algorithm, overrides=budget(UPDATES[algorithm], **plays) | small(algorithm))
    behaviour, learnt = data.returns.mean(), trained.test[f'step{UPDATES[algorithm]}']['return_mean']
    untrained = trained.history[0]['val_reward']  # one latent in the middle of the range, whatever the user
    assert learnt > .8*behaviour > 2*random and learnt > 1.1*untrained, (random, untrained, behaviour, learnt)
