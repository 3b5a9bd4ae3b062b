"""What the author of a ranker writes: how latents become slates and back; the whole chain then works for it."""
from functools import partial

import pytest, torch

from offline_slate_rl.collection.approval import approve
from offline_slate_rl.collection.card import write_card
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.mixtures import mix
from offline_slate_rl.collection.verification import ABOVE, require, verify
from offline_slate_rl.core.params import RANKERS, Params, load_params
from offline_slate_rl.core.files import save_tensors
from offline_slate_rl.core.store import Artifact, provenance, save_artifact
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.training.online import train

OWN_RANKER = '''
"Ranks items by a linear score of the latent."
from typing import Literal

import torch

from offline_slate_rl.core.kernels import top_items
from offline_slate_rl.core.params import RANKERS, RankerParams
from offline_slate_rl.core.files import load_tensors
from offline_slate_rl.core.store import find_artifact
from offline_slate_rl.rankers.ranker import Ranker

class LinearParams(RankerParams):
    name: Literal['linear']
    width: int

@RANKERS.register('linear')
class Linear(Ranker):
    name, Params, can_encode = 'linear', LinearParams, True

    def __init__(self, env, width):
        super().__init__(width, env.slate_size)
        self.register_buffer('weight', torch.zeros(width, env.num_items))
        self.centre.zero_()
        self.scale.fill_(1.)

    def scores(self, latents): return (latents @ self.weight).unsqueeze(-2)

    def decode(self, latents, generator=None):
        scores = self.scores(latents).squeeze(-2)
        return top_items(scores.flatten(0, -2), self.slate_size).view(*latents.shape[:-1], -1)

    def encode(self, slates): return self.weight.T[slates.long()].mean(-2).clamp(-1, 1)

    def spec(self): return dict(name='linear', width=self.action_dim)

    @classmethod
    def build(cls, env, spec): return cls(env, spec['width'])
    @classmethod
    def spec_of(cls, params): return dict(name='linear', width=params.agent.ranker.width)
    @classmethod
    def spec_from(cls, source):
        return dict(name='linear', width=source.recipe['width']) if source.kind == 'linear' else None

    @classmethod
    def source(cls, params):
        recipe = dict(env=params.env.recipe(), width=params.agent.ranker.width, draw=7)
        return find_artifact(params.outputs/'pretrained', 'linear', recipe, 'draw it')

    @classmethod
    def load(cls, env, spec, source):
        ranker = cls.build(env, spec)
        ranker.weight.copy_(load_tensors(source.path)['weight'])
        return ranker
'''


@pytest.fixture
def own(plugin):
    "Parameters with the own ranker, its module found by name in every process."
    plugin('my_ranker', OWN_RANKER)
    yield load_params('focused_mix', scale='tiny', overrides={'agent.ranker': dict(name='linear', width=8)})
    RANKERS.classes.pop('linear', None)

@pytest.fixture
def source(own) -> Artifact:
    "The artifact that the own ranker is loaded from, of a kind of its own."
    weight = torch.randn(8, own.env.num_items, generator=torch.Generator().manual_seed(7))
    recipe = dict(env=own.env.recipe(), width=8, draw=7)
    write = partial(save_tensors, dict(weight=weight))
    return save_artifact(own.outputs/'pretrained'/'linear.pt', write, 'linear', recipe, provenance('draw it'))

def verified(dataset: Artifact, params: Params) -> dict[str, str]:
    "Outcomes by name, after an error for what failed; quality aside, since nothing has learnt much."
    checks = [check for check in verify(dataset.path, params)[0] if check.name != ABOVE]
    require(checks)
    return {check.name: check.outcome for check in checks}

def test_random_latents_are_collected_verified_and_described(own, source):
    random = collect_dataset(own, 'random')
    space = random.recipe['spaces']['ranker']
    assert (space['spec'], space['kind'], space['artifact']) == (dict(name='linear', width=8), 'linear', source.sha256)
    assert random.recipe['inputs'] == dict(linear=source.sha256)
    assert verified(random, own)['the behaviour gives the stored actions'] == 'passed'
    card = write_card(random.path.parent).read_text()
    assert f'of the artifact linear with sha256 {source.sha256}' in card
    assert '- Ranker linear: width 8\n- Artifact linear: draw 7\n' in card
    assert 'Pretraining' not in card and 'latent_dim' not in card

def test_an_agent_on_it_is_collected_and_verified(own, source):
    train(own)
    approve(own, note='a test')
    medium = collect_dataset(own, 'medium')
    assert medium.recipe['spaces']['ranker']['artifact'] == source.sha256
    outcomes = verified(medium, own)
    for name in 'the behaviour gives the stored actions', 'beliefs are those of the raw observations':
        assert outcomes[name] == 'passed'
    assert '- Ranker linear: width 8\n' in write_card(medium.path.parent).read_text()

def test_it_encodes_slates(own, source):
    few = collection_params(own, num_trajectories=20)
    slates = collect_dataset(few, 'random', behaviour='random-slates')
    loaded = load_dataset(slates.path, actions=source.path, say=lambda line: None)
    assert loaded.episodes().latents.shape == (20, 100, 8)
    assert verified(loaded.derived[0], own)['no action knows its own outcome'] == 'passed'
    oracle = collect_dataset(few, 'oracle')
    both = dict(random=Dataset(slates), oracle=Dataset(oracle))
    mixture = mix(own, both, dict(random=.5, oracle=.5), 20, actions=source.path)
    assert mixture.recipe['spaces']['ranker']['kind'] == 'linear'
    assert verified(mixture, own)['no action knows its own outcome'] == 'passed'
