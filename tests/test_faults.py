"""What goes wrong: a sentence that names the mend, an exit code that is not 0, nothing half-written; damage is found."""
import hashlib, json, re, shlex, shutil
from pathlib import Path

import gymnasium, h5py, nbformat, pytest

from chain import (
    ENV, NOTE, REPO, checkpoint, contents, cut, dataset, files, item_file, last_line, papermill, remove, the, tiny, typed)
from offline_slate_rl.collection.approval import approvals, approvals_path, approve, approve_command
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.inspection import inspect_checkpoint
from offline_slate_rl.collection.verification import require, verify
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import load_params
from offline_slate_rl.core.store import load_artifact, manifest_path, save_artifact
from offline_slate_rl.data.loading import find_dataset, load_dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.engine import NotebookError, notebook_parameters, run_notebook
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.training.checkpoints import run_folder
from offline_slate_rl.training.online import train
from offline_slate_rl.world import gymnasium_env  # noqa: F401 (registers the environments)


# Wrong parameters of notebooks

@pytest.mark.parametrize('notebook, given, says', [
    ('30_collect', dict(env='focussed_mix'), "Did you mean 'focused_mix'?"),
    ('30_collect', dict(quality='mediun'), "Did you mean 'medium'?"),
    ('30_collect', dict(behaviour='random-slate'), "Did you mean 'random-slates'?"),
    ('30_collect', dict(num_trajectory=5), "no parameter 'num_trajectory'. Did you mean 'num_trajectories'?"),
    ('20_train', dict(overrides='gems'), "'overrides' is 'gems'; expected dict"),
    ('10_pretrain', dict(scale='tinny'), "Did you mean 'tiny'?")])
def test_a_wrong_parameter_starts_nothing(elsewhere, notebook, given, says):
    with pytest.raises(NotebookError) as error: run_notebook(notebook, **given)
    assert says in str(error.value) and not elsewhere.exists()

def test_a_wrong_environment_on_the_line(elsewhere):
    process = typed(elsewhere, 'papermill', 'nbs/30_collect.ipynb', '-p', 'env', 'focussed_mix', '-p', 'quality', 'medium')
    assert process.returncode == 1 and "Did you mean 'focused_mix'?" in process.stderr
    assert 'Traceback' not in process.stderr and not elsewhere.exists()

def test_missing_pretraining_on_the_line(elsewhere):
    process = papermill(elsewhere, '20_train')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert f'papermill nbs/10_pretrain.ipynb -p env {ENV}' in last_line(process)
    assert not files(elsewhere)
    page = elsewhere/'tiny'/'reports'/ENV/'20_train.html'
    assert 'This run failed' in page.read_text() and page.with_suffix('.ipynb').is_file()


# What is asked cannot be done

PRETRAIN, TRAIN = 'papermill nbs/10_pretrain.ipynb', 'papermill nbs/20_train.ipynb'

def overridden(**values):
    "Parameters with overrides; `__` stands for the dot of a key."
    return tiny(overrides={key.replace('__', '.'): value for key, value in values.items()})

def collect(quality: str = 'medium', num_trajectories: int|None = None, seed: int|None = None, **how):
    return collect_dataset(collection_params(tiny(), num_trajectories=num_trajectories, seed=seed), quality, **how)

MISTAKES = {  # what is asked, and what the error says
    'environment': (lambda: tiny('focussed_mix'), ["Did you mean 'focused_mix'?"]),
    'agent': (lambda: tiny(agent='SAC+GEMS'), ["Did you mean 'SAC+GeMS'?"]),
    'quality': (lambda: collect('mediun'), ["Unknown quality 'mediun'", "Did you mean 'medium'?"]),
    'quality to verify': (lambda: dataset('mediun'), ["Did you mean 'medium'?"]),
    'behaviour': (lambda: collect('random', behaviour='slates'), ["Unknown behaviour 'slates'", 'random-slates']),
    'behaviour beside a checkpoint': (
        lambda: collect(behaviour='random-slates', model_checkpoint='best'),
        ['model_checkpoint names best', 'random-slates has no checkpoint']),
    'override': (
        lambda: overridden(gems__latent_dims=16), ["unknown key 'gems.latent_dims'", "'gems.latent_dim'?"]),
    'type of an override': (
        lambda: overridden(gems__latent_dim='many'), ["'gems.latent_dim' is 'many'", 'integer']),
    'number as text': (lambda: overridden(agent__q_lr='1e-3'), ["'agent.q_lr' is '1e-3'", 'number']),
    'overrides without keys': (lambda: tiny(overrides='gems'), ["overrides is 'gems'", 'dotted keys']),
    'overrides that are no YAML': (
        lambda: tiny(overrides='{gems.latent_dim: 16'), ["overrides is '{gems.latent_dim: 16'", 'dotted keys']),
    'overrides with a number as key': (lambda: tiny(overrides={1: 2}), ['overrides is {1: 2}', 'dotted keys']),
    'item table missing': (
        lambda: log_trajectories(overridden(env__item_embeddings='nowhere.pt')),
        ['nowhere.pt', 'does not exist', '(1000, 20)']),
    'target beyond the budget': (
        lambda: train(overridden(training__target_step=61)),
        ['training.target_step is 61', 'training.max_steps 60']),
    'a step that the finished training did not keep': (
        lambda: train(overridden(training__target_step=30)), ['step30', 'force']),
    'checkpoint unknown': (lambda: collect(model_checkpoint='step41'), ["'step41' is asked", TRAIN]),
    'checkpoint file missing': (
        lambda: collect(model_checkpoint='/nowhere/step1.ckpt'), ['/nowhere/step1.ckpt does not exist']),
    'checkpoint without an approval of its own': (
        lambda: collect(model_checkpoint='best'), ['has no approval', '--model-checkpoint best']),
    'way of playing without an approval of its own': (
        lambda: collect_dataset(collection_params(tiny(), epsilon=.25), 'medium'),
        ['has no approval to collect medium data by sampling, epsilon 0.25', 'approved to play another way (sampling)',
         'collection.epsilon']),
    'checkpoint that is a dataset': (
        lambda: load_artifact(dataset('medium'), 'checkpoint'), ['is a dataset; a checkpoint was expected']),
    'fewer than no trajectories': (
        lambda: collect(num_trajectories=-5), ['num_trajectories is -5', 'at least 1']),
    'output below a file': (
        lambda: collect(num_trajectories=10, output_path=f"{the('gems').path}/x.h5"), ['output_path']),
    'output made by another recipe': (
        lambda: collect(seed=2, output_path=str(dataset('medium'))),
        ['made by another recipe', 'seed is 1 there, 2 is asked', 'force']),
    'kind of approval': (lambda: collect(approval='automatic'), ["Unknown approval 'automatic'"]),
    # step20 ends the random phase: no update yet, so it cannot have risen since step 0
    'automatic approval against a blocking verdict': (
        lambda: collect(approval='auto', model_checkpoint='step20'),
        ['Automatic approval refused', 'did not rise since step 0', 'slate-rl approve', '--model-checkpoint step20']),
    'approval without a note against a blocking verdict': (
        lambda: approve(tiny(), model_checkpoint='step20'),
        ['blocking', 'did not rise', 'say why', '--model-checkpoint step20']),
    'automatic approval that saw one episode': (
        lambda: collect_dataset(overridden(training__val_episodes=1), 'medium', 'step60', approval='auto'),
        ['Automatic approval refused', 'cannot be judged from one episode', 'training.val_episodes']),
    'no such dataset': (
        lambda: load_dataset(ENV, 'medium', seed=999), ['No dataset', 'seed=58407201', '-p seed 999']),
}

@pytest.mark.parametrize('mistake', MISTAKES)
def test_a_mistake_is_told_and_leaves_nothing(copy, mistake):
    ask, fragments = MISTAKES[mistake]
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask()
    for fragment in fragments: assert fragment in str(error.value)
    assert files(copy) == before

def test_an_item_table_of_another_shape(copy, tmp_path):
    before, table = files(copy), item_file(tmp_path, 7)
    with pytest.raises(SlateRLError, match=r'\(7, 20\); \(1000, 20\) was expected'):
        log_trajectories(overridden(env__item_embeddings=str(table)))
    assert files(copy) == before

@pytest.mark.parametrize('words, says', [
    (['approve', 'focussed_mix', 'medium'], "Did you mean 'focused_mix'?"),
    (['approve', ENV, 'mediun'], "Did you mean 'medium'?"),
    (['approve', ENV, 'random'], 'has no checkpoint'),
    (['approve', ENV, 'medium', '--overrides', '{gems.latent_dim: x}'], "'gems.latent_dim' is 'x'"),
    (['approve', ENV, 'medium', '--seed', '7'], '-p seed 7'),
    (['show', 'nowhere.ckpt'], 'nowhere.ckpt does not exist'),
    (['verify', 'nowhere.h5'], 'nowhere.h5 does not exist'),
    (['verify'], 'Give a path, or --all'),
    (['status', 'focussed_mix'], "Did you mean 'focused_mix'?")])
def test_the_command_line_ends_in_a_sentence_too(copy, capsys, words, says):
    before = files(copy)
    assert cli.main([*words, '--scale', 'tiny']) == 1
    said = capsys.readouterr()
    assert says in said.out + said.err and files(copy) == before


# Seeds are whole numbers from 0 to 2^63 - 1, wherever one is given

WRONG_SEEDS = 2**64, -1
REFUSED = r'is {}; it should be a whole number from 0 to 2\^63 - 1'

def reset(seed: int): gymnasium.make('offline_slate_rl/FocusedMix-v0').reset(seed=seed)

SEEDS = {  # by the name that the error gives
    'seed': lambda seed: tiny(seed=seed),
    'logged.seed': lambda seed: overridden(logged__seed=seed),
    'mf.seed': lambda seed: overridden(mf__seed=seed),
    'gems.ranker_seed': lambda seed: overridden(gems__ranker_seed=seed),
    'collection.seed': lambda seed: collection_params(tiny(), seed=seed),
    'env.item_seed': lambda seed: log_trajectories(overridden(env__item_seed=seed)),
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
    "Its cells in this process: the parameters, what is given, the rest."
    values = {}
    def run():
        for cell in NOTEBOOKS[notebook].cells:
            if cell.cell_type != 'code': continue
            exec(cell.source, values)
            if 'parameters' in cell.metadata.get('tags', []): values[name] = wrong
    with pytest.raises(SlateRLError, match=rf'\b{name.replace('_', '.')} {REFUSED.format(wrong)}'): run()
    assert not files(elsewhere)

def test_a_wrong_seed_on_the_line(elsewhere):
    process = papermill(elsewhere, '30_collect', '-p', 'seed', 2**64)
    assert process.returncode == 1 and re.match(f'seed {REFUSED.format(2**64)}', last_line(process))

# every command with an option for a seed, and what it needs beside it
SEED_COMMANDS = dict(demo=[ENV], approve=[ENV, 'medium'], mix=[ENV, 'random=0.5', 'medium=0.5'])

def seed_options() -> list[tuple[str, str]]:
    [commands] = [action for action in cli._parser()._actions if action.dest == 'command']
    return [(name, option) for name, parser in commands.choices.items()
            for option in parser._option_string_actions if 'seed' in option]

@pytest.mark.parametrize('wrong', WRONG_SEEDS)
@pytest.mark.parametrize('command, option', seed_options())
def test_every_command_refuses_a_wrong_seed(elsewhere, capsys, command, option, wrong):
    assert cli.main([command, *SEED_COMMANDS[command], option, str(wrong), '--scale', 'tiny']) == 1
    assert re.search(f'seed {REFUSED.format(wrong)}', capsys.readouterr().err) and not files(elsewhere)


# Something is missing or damaged

def nothing(): pass

def edit(path: Path):
    "Change one reward; the file stays a good HDF5 file."
    with h5py.File(path, 'r+') as file: file['rewards'][7] = 9.

def approve_another():
    "Replace the approval by one of step60, played in the same way."
    path, [record] = approvals_path(tiny(), 'medium'), approvals(tiny(), 'medium').values()
    path.write_text(json.dumps(dict(one=record | dict(sha256=checkpoint('step60').sha256))))

def inspect(): inspect_checkpoint(tiny())
def collect_random(): collect('random', num_trajectories=10)
def forget_training(): shutil.rmtree(run_folder(tiny()))

DAMAGE = {  # what is done to the outputs, what is asked then, and what the error says
    'no logged data': (lambda: remove(the('logged')), lambda: train(tiny()), ['No logged', PRETRAIN]),
    'no ranker': (lambda: remove(the('gems')), lambda: train(tiny()), ['No gems', PRETRAIN]),
    'no ranker for random': (lambda: remove(the('gems')), collect_random, ['No gems', PRETRAIN]),
    'no training to inspect': (forget_training, inspect, ['No checkpoint', TRAIN]),
    'no training to collect from': (forget_training, collect, ['No checkpoint', TRAIN]),
    'no dataset to verify': (
        lambda: remove(find_dataset(tiny(), 'medium')), lambda: dataset('medium'),
        ['No dataset', 'papermill nbs/30_collect.ipynb']),
    'no approval': (
        lambda: approvals_path(tiny(), 'medium').unlink(), collect,
        ['has no approval to collect medium data', approve_command(tiny(), 'medium')]),
    'approval for another checkpoint': (
        approve_another, collect,
        ['has no approval', 'approval for another checkpoint', approve_command(tiny(), 'medium')]),
    'approvals cut short': (
        lambda: cut(approvals_path(tiny(), 'medium')), collect, ['medium.json', 'slate-rl approve']),
    'checkpoint cut short, to collect': (
        lambda: cut(checkpoint('step40').path), collect, ['_step40.ckpt is damaged', 'with force', TRAIN]),
    'checkpoint cut short, to inspect': (
        lambda: cut(checkpoint('step40').path), inspect, ['_step40.ckpt is damaged', TRAIN]),
    'last cut short': (
        lambda: cut(checkpoint('last').path), lambda: train(tiny()), ['_last.ckpt is damaged', TRAIN]),
    'manifest missing': (
        lambda: manifest_path(checkpoint('step40').path).unlink(), collect, ['No checkpoint', TRAIN]),
    'manifest cut short': (
        lambda: cut(manifest_path(the('gems').path)), lambda: pretrain_gems(tiny(), the('logged')),
        ['manifest', 'not readable', 'force']),
    'ranker damaged, to train': (
        lambda: cut(the('gems').path), lambda: train(tiny()), ['GeMS_', 'is damaged', PRETRAIN]),
    'ranker damaged, to collect': (
        lambda: cut(the('gems').path), collect_random, ['GeMS_', 'is damaged', PRETRAIN]),
    'logged data damaged': (
        lambda: edit(the('logged').path), lambda: log_trajectories(tiny()), ['traj_seed', 'is damaged', PRETRAIN]),
    'logged data damaged, to train': (
        lambda: edit(the('logged').path), lambda: train(tiny()), ['is damaged', PRETRAIN]),
    'dataset damaged, to reuse': (
        lambda: edit(dataset('medium')), collect, ['is damaged', 'with force', '30_collect']),
    'dataset damaged, to load': (
        lambda: edit(dataset('medium')), lambda: load_dataset(ENV, 'medium'), ['is damaged', 'with force', '30_collect']),
}

@pytest.mark.parametrize('fault', DAMAGE)
def test_a_fault_is_one_sentence_and_leaves_nothing(copy, fault):
    damage, ask, fragments = DAMAGE[fault]
    damage()
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask()
    for fragment in fragments: assert fragment in str(error.value)
    assert '\n' not in str(error.value) and files(copy) == before

@pytest.mark.parametrize('kind', ['logged', 'gems', 'checkpoint'])
def test_status_names_what_is_damaged(copy, capsys, kind):
    cut(the(kind).path)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert 'damaged' in capsys.readouterr().out.lower()

def test_a_save_that_is_interrupted_keeps_what_was_saved_before(copy):
    "Of `last` there is one file, and it may be days of work."
    last = checkpoint('last')
    def interrupted(path: Path):
        path.write_bytes(b'half')
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): save_artifact(last.path, interrupted, 'checkpoint', {}, {})
    assert load_artifact(last.path).sha256 == last.sha256
    assert not [name for name in files(copy) if name.endswith(('.tmp', '.next'))]


# A dataset that was edited

@pytest.fixture
def edited(copy):
    "A dataset that was verified, and edited afterwards."
    path = dataset('medium')
    verify_dataset(path, tiny())
    edit(path)
    return path

def test_an_edited_dataset_fails_by_name_on_the_line(copy, edited):
    process = papermill(copy, '40_verify', '-p', 'quality', 'medium')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert "checks failed: whole: sha256 is the manifest's" in last_line(process)

def test_an_edited_dataset_is_nowhere_called_good(edited, capsys):
    checks, _ = verify_dataset(edited, tiny())
    with pytest.raises(SlateRLError, match="whole: sha256 is the manifest's .*damaged"): require(checks)
    [row] = [line for line in (edited.parent/'README.md').read_text().splitlines() if line.startswith(f'| {ENV} |')]
    assert 'FAILED' in row
    assert cli.main(['verify', str(edited)]) == 1
    said = capsys.readouterr().out
    assert '0 passed, 1 failed' in said
    assert re.search(r'Collect it again: papermill nbs/30_collect\.ipynb .*-p force True', said)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert re.search(r'^medium +FAILED: whole', capsys.readouterr().out, re.MULTILINE)
    assert cli.main(['show', str(edited)]) == 0 and 'is damaged' in capsys.readouterr().out

@pytest.mark.parametrize('key, value, check', [
    ('rewards', 3., 'reward is the number of clicks'),
    ('timeouts', True, 'timeouts at the horizon only'),
    ('slates', 1000, 'item ids are in the catalogue'),
    ('log_probs', float('nan'), 'no NaN'),
    ('timesteps', 5, 'numbered, whole and in order'),
    ('clicks', 2, 'clicks are 0 or 1'),
    ('slates', 1, 'replay click for click'),
    ('actions', 0., 'the behaviour gives the stored actions'),
    ('observations', 0., 'beliefs are those of the raw observations')])
def test_wrong_content_with_a_right_sha256_fails_by_name(copy, key, value, check):
    path = dataset('medium')
    with h5py.File(path, 'r+') as file: file[key][7] = value
    manifest = load_artifact(path, verify=False).manifest
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    manifest_path(path).write_text(json.dumps(manifest | dict(sha256=sha256)))
    with pytest.raises(SlateRLError, match=check): require(verify(path, tiny())[0])


# Damage to a dataset is found, named, and mended by the line that is printed

def flip(share: float):
    "Change one bit of the byte at this share of the file."
    def change(path: Path):
        content = bytearray(path.read_bytes())
        content[int(share*(len(content) - 1))] ^= 1
        path.write_bytes(content)
    return change

def short(share: float):
    "Keep this share of the file."
    def change(path: Path):
        content = path.read_bytes()
        path.write_bytes(content[:int(share*len(content))])
    return change

def swap(path: Path):
    "Its manifest changes places with that of another quality."
    mine, other = manifest_path(path), manifest_path(dataset('random'))
    was = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    other.write_bytes(was)

def another_manifest(path: Path):
    "The manifest of a dataset of the same environment and quality, of other users."
    shutil.copy(manifest_path(collect(seed=2).path), manifest_path(path))

def swapped_and_short(path: Path):
    short(.5)(path)
    swap(path)

DATASET_DAMAGE = {  # and what is said of it
    'first byte': (flip(0), 'is damaged'),
    'a byte near the front': (flip(.01), 'is damaged'),
    'a byte in the middle': (flip(.5), 'is damaged'),
    'last byte': (flip(1), 'is damaged'),
    'cut by half': (short(.5), 'is damaged'),
    'cut to nothing': (short(0), 'is damaged'),
    'manifests swapped': (swap, "is another dataset's or was edited"),
    'manifest of another dataset': (another_manifest, "is another dataset's or was edited"),
    'manifest missing': (lambda path: manifest_path(path).unlink(), 'has no manifest'),
    'manifest cut': (lambda path: short(.5)(manifest_path(path)), 'is not readable'),
    'manifest of nothing': (lambda path: manifest_path(path).write_text('[]'), 'is not readable'),
    'manifest and half the file': (
        swapped_and_short, "its manifest is another dataset's (focused_mix, random, 30 episodes)"),
    'file missing': (lambda path: path.unlink(), 'does not exist'),
}

def asked(line: str) -> dict:
    "The parameters on a line that collects."
    words = shlex.split(line)
    assert words[:2] == ['papermill', 'nbs/30_collect.ipynb']
    return {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == '-p'}

@pytest.mark.parametrize('damage', DATASET_DAMAGE)
def test_a_damaged_dataset_is_found_by_name_and_collected_again(copy, capsys, damage):
    path, was = dataset('medium'), contents(copy)['dataset', 'medium']
    change, says = DATASET_DAMAGE[damage]
    change(path)
    capsys.readouterr()
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    parts = re.split(r'^(?=FAILED|passed)', said, flags=re.MULTILINE)
    part = next(part for part in parts if part.startswith(f'FAILED  {path.name}'))
    assert says in part
    assert re.search(rf'^{ENV} .*(FAILED|1 of 2 passed)', said, re.MULTILINE)
    given = asked(re.search(r'Collect it again: (.*)', part)[1])
    expected = dict(env=ENV, quality='medium', scale='tiny', force='True')
    assert {name: given[name] for name in expected} == expected
    seed = int(given['seed']) if 'seed' in given else None
    params = load_params(ENV, given.get('agent', 'SAC+GeMS'), seed, 'tiny', given.get('overrides'))
    made = collect_dataset(params, 'medium', force=True)
    assert made.path == path and made.sha256 == was
    require([check for check in verify(path, params)[0] if not check.name.startswith('return is above')])

def test_the_printed_line_mends_as_it_is(copy, capsys):
    path = dataset('medium')
    manifest_path(path).unlink()
    short(.9)(path)  # nothing is left but its name
    assert cli.main(['verify', str(path)]) == 1
    line = re.search(r'Collect it again: (.*)', capsys.readouterr().out)[1]
    process = typed(copy, *shlex.split(line))
    assert process.returncode == 0, process.stderr
    assert cli.main(['verify', str(path)]) == 0 and '1 passed, 0 failed' in capsys.readouterr().out

def test_the_table_of_environments(copy, capsys):
    few = collection_params(tiny('diffuse_topdown'), num_trajectories=10)
    other = collect_dataset(few, 'random', behaviour='random-slates')
    short(.5)(dataset('random'))
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    assert re.search(r'^(env|quality) +medium +random$', said, re.MULTILINE)
    assert re.search(r'^diffuse_topdown +passed', said, re.MULTILINE)
    assert re.search(rf'^{ENV} +passed.* +FAILED$', said, re.MULTILINE)
    assert '2 passed, 1 failed' in said
    assert cli.main(['verify', str(other.path.parent)]) == 1  # a folder
    assert '1 passed, 1 failed' in capsys.readouterr().out
