"""What the author of an agent writes: an algorithm, a policy and parameters; the whole chain then works for it."""
import pytest, yaml

from examples import added
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

OWN_AGENT = added('an agent', 'bandit.py')  # the example of CONTRIBUTING.md
VALUES = yaml.safe_load(added('an agent', 'params/agents/Bandit.yaml'))


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
