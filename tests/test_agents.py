"""Every agent of params/agents goes the whole way: trained by a notebook's cells, collected, verified, exported."""
import numpy as np, pytest, torch

from chain import NOTE, run_cells, tiny
from offline_slate_rl import load_dataset
from offline_slate_rl.collection.approval import approve
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.collection.export import export_dataset
from offline_slate_rl.collection.inspection import inspect_checkpoint
from offline_slate_rl.collection.mixtures import mix
from offline_slate_rl.collection.verification import require
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import Params, agents, params_file
from offline_slate_rl.core.files import load_tensors
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.checkpoints import load_policy
from offline_slate_rl.training.online import train

WORLDS = {'DQN': {'env.slate_size': 1}}  # it chooses single items
ALGORITHMS = [agent for agent in agents() if 'base' not in params_file(f'agents/{agent}.yaml')]  # the others vary these

FEW = {'collection.num_trajectories': 20}

def changes(agent: str) -> dict: return FEW | WORLDS.get(agent, {})
def params_of(agent: str, **overrides) -> Params: return tiny(agent=agent, overrides=changes(agent) | overrides)

def untied(checks: list) -> list:
    "All checks but that of the return: forty steps teach little."
    return [check for check in checks if not check.name.startswith('return is above')]

@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    "A folder with all that agents need."
    folder = tmp_path_factory.mktemp('agents')
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv('SLATE_RL_OUTPUTS', str(folder))
        params = tiny()
        logged = log_trajectories(params)
        for pretrain in pretrain_mf, pretrain_click_model, pretrain_gems: pretrain(params, logged)
    return folder

@pytest.fixture
def outputs(pretrained, monkeypatch):
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(pretrained))
    return pretrained

@pytest.mark.parametrize('agent', agents())
def test_the_whole_way(agent, outputs):
    params = params_of(agent)
    if agent in ALGORITHMS: run_cells('20_train', agent=agent, overrides=changes(agent))
    else: train(params)
    inspection = inspect_checkpoint(params)
    assert {'step40', 'step40, yoked', 'random slates'} <= set(inspection.table.index)
    approve(params, note=NOTE, inspection=inspection)
    found = {quality: collect_dataset(params, quality) for quality in ('random', 'medium')}
    datasets = {quality: Dataset(artifact) for quality, artifact in found.items()}
    mixed = mix(params, datasets, dict(random=.5, medium=.5), 20, belief='best')
    for artifact in (*found.values(), mixed):
        checks, _ = verify_dataset(artifact.path, params)
        require(untied(checks))
    medium = load_dataset(found['medium'].path)
    assert medium.privileged == inspection.checkpoint.recipe['privileged']
    assert ('actions' in medium.keys()) == (params.agent.ranker is not None)
    rows = medium.transitions('observations', 'rewards')
    assert len(rows['rewards']) == 2000 and np.isfinite(rows['observations']).all()
    for to, view in ('npz', 'slate'), ('parquet', ''):
        assert export_dataset(medium.path, to, str(outputs/'exported'/f'{agent}.{to}'), view).is_file()

def weights(params: Params) -> dict: return load_tensors(train(params).checkpoints['last'].path)['state_dict']

@pytest.mark.parametrize('agent', ALGORITHMS)
def test_going_on_is_as_if_it_had_never_stopped(agent, outputs, tmp_path):
    def in_parts(steps: int) -> Params:
        return params_of(agent, **{'training.max_steps': steps, 'training.save_path': str(tmp_path)})
    whole = weights(params_of(agent))  # of the test above, where that has run
    weights(in_parts(41))
    for name, value in weights(in_parts(60)).items(): assert torch.equal(value, whole.pop(name)), name
    assert not whole

@pytest.mark.parametrize('agent', ALGORITHMS)
def test_a_loaded_agent_plays_the_same_clicks(agent, outputs):
    params = params_of(agent)
    trained = train(params)
    kept = [row for row in trained.history if row['step'] == 60][0]
    policy, users = load_policy(trained.checkpoints['last']), params.training.val_episodes
    played, measures = play_and_measure(policy, params.env, users, 'validation')
    assert measures['return_mean'] == kept['val_reward']  # what the agent itself played when it was saved
    again, _ = play_and_measure(load_policy(trained.checkpoints['last']), params.env, 20, 'validation')
    assert torch.equal(played.clicks, again.clicks)

SENSELESS = {
    'SlateQ with a ranker': ('SlateQ', {'agent.ranker': {'name': 'GeMS'}}, 'chooses items itself'),
    'a softmax with a ranker': ('REINFORCE+SoftMax', {'agent.ranker': {'name': 'GeMS'}}, 'chooses items itself'),
    'SlateQ without a belief': ('SlateQ', {'agent.belief': None}, 'belief'),
    'SAC without a ranker': ('SAC+GeMS', {'agent.ranker': None}, 'needs a ranker'),
    'WkNN on GeMS': ('SAC+WkNN', {'agent.ranker': {'name': 'GeMS'}}, 'kNN'),
    'DQN on slates of ten': ('DQN', {'env.slate_size': 10}, 'env.slate_size'),
    'a distinct top-k': ('SAC+topK-mf', {'agent.ranker.distinct': True}, 'distinct'),
    'a softmax off-policy': ('REINFORCE+SoftMax', {'agent.num_envs': 20}, 'on-policy'),
    'a belief shared by one': ('REINFORCE+GeMS', {'agent.belief.shared': True}, 'shared'),
}

@pytest.mark.parametrize('case', SENSELESS)
def test_combinations_without_sense_are_refused(case, outputs, tmp_path):
    agent, overrides, contains = SENSELESS[case]
    with pytest.raises(SlateRLError, match=contains):
        train(params_of(agent, **overrides, **{'training.save_path': str(tmp_path)}))
    assert not list(tmp_path.iterdir())
