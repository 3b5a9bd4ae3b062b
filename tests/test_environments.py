"""The chain in every environment, by calls: a file of its own, so that it runs beside the one that waits for processes."""
import pytest

from offline_slate_rl.core.params import registry, short_hash
from offline_slate_rl.core.store import artifacts
from test_pipeline import ENV, chain_by_calls, contents, elsewhere, tiny  # noqa: F401 (a fixture)


@pytest.mark.parametrize('name', [o for o in registry() if o != ENV])
def test_the_chain_runs_in_every_environment(elsewhere, name):
    checks = chain_by_calls(tiny(name))
    for quality, o in checks.items():
        # sixty steps do not beat random slates everywhere; that the check says so is right
        failed = [c for c in o if not c.passed and not c.name.startswith('return is above random')]
        assert not failed, (quality, failed)
    for a in artifacts(elsewhere):
        assert a.recipe['env'] == registry()[name].recipe()
    assert set(contents(elsewhere)) >= {('logged', ''), ('mf', ''), ('gems', ''), ('checkpoint', 'step40'), ('checkpoint', 'best'), ('dataset', 'random'), ('dataset', 'medium')}
    assert [o.recipe['env']['name'] for o in artifacts(elsewhere, 'dataset')] == [name]*2

def test_every_environment_is_a_world_of_its_own():
    assert len(registry()) == 12 and len({short_hash({**o.recipe(), 'name': ''}) for o in registry().values()}) == 12
