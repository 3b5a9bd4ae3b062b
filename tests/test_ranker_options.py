"""What a ranker does not show: clicked items, or one twice. Whole datasets are collected with both, and verified."""
import pytest, torch

from chain import tiny
from offline_slate_rl.collection.approval import approve
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.collection.verification import ABOVE, require, verify
from offline_slate_rl.core.params import Params
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.play.episodes import Episodes
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.training.checkpoints import run_name
from offline_slate_rl.training.online import train

ASKED = 'the behaviour gives the stored actions', 'beliefs are those of the raw observations'
RANKERS = {
    'topk': (dict(name='topk', embeddings='ideal'), {}),
    'kHead': (dict(name='kHead', embeddings='scratch', distinct=True), {}),
    'kNN': (dict(name='kNN', embeddings='scratch', distinct=True), {}),
    'GeMS': (dict(name='GeMS', distinct=True), {'gems.ranker_sample': True}),
}

def asked(name: str, leave_out_clicked: bool = True) -> Params:
    "The parameters of a ranker whose slates are distinct and, unless it is said, without clicked items."
    ranker, more = RANKERS[name]
    options = dict(leave_out_clicked=True) if leave_out_clicked else {}
    return tiny(overrides={'agent.ranker': ranker | options, 'collection.num_trajectories': 10, **more})

def pretrained(params: Params):
    if params.agent.ranker.name == 'GeMS': pretrain_gems(params, log_trajectories(params))

def outcomes(dataset: Dataset, params: Params) -> dict[str, str]:
    "Of each check, after an error for what failed; quality aside, since nothing has learnt much."
    checks = [check for check in verify(dataset.path, params)[0] if check.name != ABOVE]
    require(checks)
    return {check.name: check.outcome for check in checks}

def shown_again(episodes: Episodes) -> int:
    "How many slots show an item that was clicked earlier in the episode."
    clicked, again = torch.zeros(len(episodes), 1000, dtype=torch.bool), 0
    for slate, clicks in zip(episodes.slates.long().unbind(1), episodes.clicks.bool().unbind(1)):
        if clicked.any(): again += int(clicked.gather(1, slate).sum())
        clicked |= torch.zeros_like(clicked).scatter_reduce(1, slate, clicks, 'amax')
    return again

def twice(episodes: Episodes) -> int:
    "How many slots show an item that another slot of the slate shows; the simulator's first slates aside."
    slates = episodes.slates[:, 1:].sort(-1).values
    return int((slates[..., 1:] == slates[..., :-1]).sum())

@pytest.mark.parametrize('name', RANKERS)
def test_random_latents_are_collected_and_verified(name):
    params, without = asked(name), asked(name, leave_out_clicked=False)
    pretrained(params)
    random, usual = (Dataset(collect_dataset(given, 'random')) for given in (params, without))
    assert random.path != usual.path
    assert random.recipe['behaviour']['ranker'] == {**usual.recipe['behaviour']['ranker'], 'leave_out_clicked': True}
    for dataset, given in (random, params), (usual, without):
        assert outcomes(dataset, given)[ASKED[0]] == 'passed'
        assert not twice(dataset.episodes())
    assert not shown_again(random.episodes())
    assert shown_again(usual.episodes())

def test_an_agent_is_trained_collected_and_verified():
    params = asked('kHead')
    train(params)
    approve(params, note='a test')
    medium = Dataset(collect_dataset(params, 'medium'))
    found = outcomes(medium, params)
    assert [found[name] for name in ASKED] == ['passed', 'passed']
    assert not shown_again(medium.episodes()) and not twice(medium.episodes())

def test_another_option_is_another_run():
    names = {run_name(asked(name, leave_out_clicked)) for name in RANKERS for leave_out_clicked in (False, True)}
    assert len(names) == 2*len(RANKERS)
