"""Seeds are whole numbers from 0 to 2^63 - 1: any other is refused by the name of what took it, and nothing is made."""
import re

import gymnasium, nbformat, pytest

from chain import ENV, REPO, files, last_line, papermill, run_cells, tiny
from offline_slate_rl.collection.collect import collection_params
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.engine import notebook_parameters
from offline_slate_rl.world import gymnasium_env  # noqa: F401 (registers the environments)


WRONG_SEEDS = 2**64, -1
REFUSED = r'is {}; it should be a whole number from 0 to 2\^63 - 1'

def overridden(key: str, seed: int): return tiny(overrides={key: seed})
def reset(seed: int): gymnasium.make('offline_slate_rl/FocusedMix-v0').reset(seed=seed)

SEEDS = {  # by the name that the error gives
    'seed': lambda seed: tiny(seed=seed),
    'logged.seed': lambda seed: overridden('logged.seed', seed),
    'mf.seed': lambda seed: overridden('mf.seed', seed),
    'click_model.seed': lambda seed: overridden('click_model.seed', seed),
    'gems.ranker_seed': lambda seed: overridden('gems.ranker_seed', seed),
    'collection.seed': lambda seed: collection_params(tiny(), seed=seed),
    'env.item_seed': lambda seed: log_trajectories(overridden('env.item_seed', seed)),
    'collection_seed': lambda seed: load_dataset(ENV, 'medium', collection_seed=seed),
}

@pytest.mark.parametrize('wrong', WRONG_SEEDS)
@pytest.mark.parametrize('name', SEEDS)
def test_a_wrong_seed_is_refused_by_its_name(elsewhere, name, wrong):
    with pytest.raises(SlateRLError, match=rf'\b{re.escape(name)} {REFUSED.format(wrong)}'): SEEDS[name](wrong)
    assert not files(elsewhere)

@pytest.mark.parametrize('wrong', WRONG_SEEDS)
def test_gymnasium_refuses_a_wrong_seed(wrong):
    with pytest.raises(SlateRLError, match=f'seed {REFUSED.format(wrong)}'): reset(wrong)

NOTEBOOKS = {path.stem: nbformat.read(path, as_version=4) for path in sorted((REPO/'nbs').glob('[0-9]*.ipynb'))}
SEED_PARAMETERS = [(stem, name) for stem, notebook in NOTEBOOKS.items()
                   for name in notebook_parameters(notebook) if 'seed' in name]

@pytest.mark.parametrize('wrong', WRONG_SEEDS)
@pytest.mark.parametrize('notebook, name', SEED_PARAMETERS)
def test_every_notebook_refuses_a_wrong_seed(elsewhere, notebook, name, wrong):
    key = name.replace('_', '.')  # collection_seed is collection.seed
    with pytest.raises(SlateRLError, match=rf'\b{key} {REFUSED.format(wrong)}'): run_cells(notebook, **{name: wrong})
    assert not files(elsewhere)

def test_a_wrong_seed_on_the_line(elsewhere):
    process = papermill(elsewhere, '30_collect', '-p', 'seed', 2**64)
    assert process.returncode == 1 and re.match(f'seed {REFUSED.format(2**64)}', last_line(process))

# what every command with an option for a seed needs beside it
NEEDED = {'demo': [ENV], 'status': [ENV], 'approve': [ENV, 'medium'], 'mix': [ENV, 'random=0.5', 'medium=0.5'],
          'pretrain-many': ['--envs', ENV], 'train-many': ['--envs', ENV], 'stage': ['pretrain', ENV],
          'grid': ['random']}
SEED_OPTIONS = [(command, name) for command, (_, arguments, _) in cli.COMMANDS.items()
                for names, _ in arguments for name in names if 'seed' in name]

@pytest.mark.parametrize('wrong', WRONG_SEEDS)
@pytest.mark.parametrize('command, option', SEED_OPTIONS)
def test_every_command_refuses_a_wrong_seed(elsewhere, capsys, command, option, wrong):
    assert cli.main([command, *NEEDED[command], option, str(wrong), '--scale', 'tiny']) == 2
    assert re.search(f'seed {REFUSED.format(wrong)}', capsys.readouterr().err) and not files(elsewhere)
