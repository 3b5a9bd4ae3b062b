"""Whatever way data take to a learner: a belief knows only what was before it, and an evaluation has the same one."""
import shutil

import numpy as np
import pytest
import torch

from chain import checkpoint, the, tiny
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.collection.mixtures import mix
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.play.episodes import Episodes
from offline_slate_rl.training.encoders import check_beliefs, check_latents
from offline_slate_rl.training.offline import DatasetSource, OfflineAgent, OfflineParams
from offline_slate_rl.training.spaces import dataset_encoder, dataset_ranker
from offline_slate_rl.world.simulator import Obs


def own() -> Dataset: return load_dataset('focused_mix', 'medium')
def random_latents() -> Dataset: return load_dataset('focused_mix', 'random', behaviour='random', belief='best')
def replay() -> Dataset: return Dataset(collect_dataset(tiny(), 'replay'))

def encoded_slates() -> Dataset:
    collect_dataset(tiny(), 'random', behaviour='random-slates')
    return load_dataset('focused_mix', 'random', behaviour='random-slates', belief=checkpoint('step40').path,
                        actions=the('gems').path)

def mixture() -> Dataset:
    parts = dict(random=load_dataset('focused_mix', 'random', behaviour='random'), medium=own())
    return Dataset(mix(tiny(), parts, dict(random='1/2', medium='1/2'), 30, belief='best'))

PATHS = own, random_latents, encoded_slates, mixture, replay

@pytest.fixture(scope='module')
def outputs(chain, tmp_path_factory):
    "A copy of the chain's outputs: what a test adds, the next one finds."
    return shutil.copytree(chain.outputs, tmp_path_factory.mktemp('paths')/'outputs')

@pytest.fixture(params=PATHS, ids=lambda path: path.__name__)
def data(request, outputs, monkeypatch) -> Dataset:
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(outputs))
    return request.param()


class Reader(OfflineAgent):
    "Reads data, and learns nothing from them."
    def choose(self, states, deterministic, normals): return torch.zeros(len(states), self.action_dim), None
    def learn(self, batch, optimizers, count, noise): return {}

def reader(data: Dataset, learnt: bool = False) -> Reader:
    encoder = dataset_encoder(data)
    spec = dict(belief=encoder.params) if learnt else dict(fixed_belief=encoder.params)
    agent = Reader(tiny().env, OfflineParams(algorithm='Reader', batch_size=64, **spec), dataset_ranker(data))
    if not learnt: agent.belief.load_state_dict(encoder.state_dict())
    return agent


def test_beliefs_are_those_of_raw_observations_and_know_nothing_later(data):
    episodes = data.episodes(0, 10)
    for check in check_beliefs([episodes], dataset_encoder(data), 1000): assert check.passed, check

def test_an_evaluation_computes_the_beliefs_that_were_learnt_from(data):
    "One observation after the other, as a policy sees them, for every turn of every path."
    agent, episodes = reader(data), data.episodes(0, 10)
    source, memory = DatasetSource.of(data, agent), agent.belief.initial(10)
    for turn in range(data.episode_length + 1):
        seen = Obs(episodes.slates[:, turn].long(), episodes.clicks[:, turn])
        belief, memory = agent.belief.step(seen, memory)
        torch.testing.assert_close(belief, source.states[:10, turn], atol=1e-5, rtol=0)

def test_a_transition_is_one_turn_of_the_file(data):
    "Belief before, latent, clicks, belief after: rows of one turn, none shifted."
    agent = reader(data)
    source = DatasetSource.of(data, agent)
    rows = data.transitions('observations', 'actions', 'rewards', 'next_observations')
    for index in (0, 99, 100, 1999):
        episode, turn = divmod(index, data.episode_length)
        assert np.array_equal(source.states[episode, turn], rows['observations'][index])
        assert np.array_equal(source.states[episode, turn + 1], rows['next_observations'][index])
        latents = agent.ranker.stretch(source.actions[episode, turn])
        inside = agent.ranker.stretch(agent.units(torch.from_numpy(rows['actions'][index])))
        torch.testing.assert_close(latents, inside)
        assert source.rewards[episode, turn] == rows['rewards'][index]

def test_no_piece_of_a_learnt_belief_knows_what_comes_later(data):
    agent, episodes = reader(data, learnt=True), data.episodes(0, 5)
    horizon, turn = data.episode_length, 40
    later = Episodes(episodes.slates.clone(), episodes.clicks.clone(), episodes.latents)
    later.slates[:, turn + 1:] = (later.slates[:, turn + 1:] + 1) % 1000
    later.clicks[:, turn + 1:] = 1 - later.clicks[:, turn + 1:]
    states = [agent.pieces(part, None).states.detach().reshape(5, horizon, -1) for part in (episodes, later)]
    torch.testing.assert_close(*(part[:, :turn + 1] for part in states))
    assert (states[0][:, turn + 1] - states[1][:, turn + 1]).abs().max() > 1e-4

def test_encoded_actions_know_no_clicks(outputs, monkeypatch):
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(outputs))
    data = encoded_slates()
    assert check_latents([data.episodes(0, 10)], dataset_ranker(data)).passed
