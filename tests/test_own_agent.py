"""What the author of an agent writes: an algorithm, a policy and parameters; the whole chain then works for it."""
import pytest

from offline_slate_rl.collection.approval import approve
from offline_slate_rl.collection.behaviours import find_behaviour
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.collection.inspection import inspect_checkpoint
from offline_slate_rl.collection.verification import require, verify
from offline_slate_rl.core import params as parameters
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import Params, load_params
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.training.online import train

OWN_AGENT = '''
"Learns which items are clicked when they are shown, and shows the best ten, sometimes a random one."
import numpy as np, torch

from offline_slate_rl.agents.agent import Agent
from offline_slate_rl.core.params import AGENTS, AgentParams
from offline_slate_rl.play.episodes import Action, Policy

class BanditParams(AgentParams):
    explore_steps: int

@AGENTS.register('Bandit')
class Bandit(Agent):
    Params = BanditParams

    def __init__(self, env, params, ranker=None):
        super().__init__(env, params, ranker)
        self.counts = torch.nn.Parameter(torch.zeros(2, env.num_items), requires_grad=False)  # shown, clicked

    def policy(self, explore=None):
        epsilon = 0. if explore is None else max(0., 1 - explore/self.params.explore_steps)
        return BestItems(self, epsilon)

    def optimizers(self): return []

    def update(self, batch, optimizers, count, noise):
        items, clicks = batch.slates[:, 1:].flatten().long(), batch.clicks[:, 1:].flatten().float()
        self.counts[0].index_add_(0, items, torch.ones_like(clicks))
        self.counts[1].index_add_(0, items, clicks)
        return dict(click_rate=self.counts[1].sum()/self.counts[0].sum())

class BestItems(Policy):
    name = 'bandit'
    def __init__(self, agent, epsilon): self.agent, self.epsilon = agent, epsilon

    def act(self, obs, deterministic=False):
        shown, clicked = self.agent.counts
        best = ((clicked + 1)/(shown + 20)).topk(obs.slate.shape[1]).indices.expand_as(obs.slate)
        shape = tuple(obs.slate.shape)
        random = torch.from_numpy(self.generator.integers(len(shown), size=shape))
        explores = torch.from_numpy(self.generator.random(shape) < self.epsilon)
        return Action(torch.where(explores, random, best))
'''

VALUES = dict(algorithm='Bandit', ranker=None, num_envs=10, updates_per_step=1, random_steps=0, capacity=10,
              batch_size=10, explore_steps=40)


@pytest.fixture
def own(plugin, monkeypatch):
    "Parameters of the own agent, its module found by name in every process."
    plugin('my_bandit', OWN_AGENT)
    files, read = parameters.agents(), parameters.params_file
    monkeypatch.setattr(parameters, 'agents', lambda folder='agents': [*files, 'Bandit'] if folder == 'agents' else [])
    def params_file(name: str) -> dict: return dict(VALUES) if name == 'agents/Bandit.yaml' else read(name)
    monkeypatch.setattr(parameters, 'params_file', params_file)
    yield load_params('focused_mix', 'Bandit', scale='tiny')
    parameters.AGENTS.classes.pop('Bandit')

def collecting(params: Params, **how) -> Params:
    "As `collection_params` does, which reads the file of an agent anew."
    return params.model_copy(update=dict(collection=params.collection.model_copy(update=how)))

def test_it_takes_less_than_sixty_lines():
    assert len([line for line in OWN_AGENT.splitlines() if line.strip()]) < 60

def test_the_whole_chain_works_for_an_agent_of_ones_own(own):
    run = train(own)
    assert list(run.checkpoints) == ['step0', 'step20', 'step40', 'step60', 'best', 'last']
    returns = {row['step']: row['val_reward'] for row in run.history}
    assert returns[60] > 1.2*returns[0], returns  # it has learnt something
    inspection = inspect_checkpoint(own)
    assert 'step40, yoked' in inspection.table.index
    # everybody sees the same slate
    assert any('is not known to gain by reacting' in warning for warning in inspection.warnings)
    approve(own, note='a test')
    random, medium = (collect_dataset(own, quality) for quality in ('random', 'medium'))
    assert random.recipe['policy'] == 'random slates' and medium.recipe['policy'] == 'Bandit after 40 steps'
    assert medium.recipe['spaces'] == dict(encoder=None, ranker=None) and not medium.recipe['privileged']
    assert 'actions' not in Dataset(medium).keys() and Dataset(medium).returns.mean() > Dataset(random).returns.mean()

def test_its_datasets_are_verified_by_asking_it(own):
    train(own)
    approve(own, note='a test')
    dataset = collect_dataset(own, 'medium')
    checks, _ = verify(dataset.path, own)
    require([check for check in checks if not check.name.startswith('return is above')])
    outcomes = {check.name: check.outcome for check in checks}
    assert outcomes['the behaviour gives the stored actions'] == 'passed'
    assert outcomes['beliefs are those of the raw observations'] == 'skipped'  # it has none

def test_two_workers_build_it_too(own):
    train(own)
    approve(own, note='a test')
    one = collect_dataset(own, 'medium')
    two = collect_dataset(collecting(own, workers=2), 'medium', force=True)
    assert one.sha256 == two.sha256

def test_exploration_among_latents_is_refused_where_there_are_none(own):
    train(own)
    with pytest.raises(SlateRLError, match='the policy of Bandit takes no epsilon'):
        find_behaviour(collecting(own, epsilon=.1), 'medium')
