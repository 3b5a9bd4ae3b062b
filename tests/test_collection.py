"""Datasets beside the usual two: other behaviours, seeds, ways of playing, checkpoints and places."""
import re, shlex, shutil
from dataclasses import replace
from pathlib import Path

import pytest

from chain import ENV, NOTE, checkpoint, dataset, files, papermill, printed, run_cells, the, tiny, together, typed
from offline_slate_rl.collection import approval, inspection
from offline_slate_rl.collection.approval import approvals_path, approve
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params, verify_command
from offline_slate_rl.collection.inspection import inspect_checkpoint
from offline_slate_rl.collection.verification import asked_dataset, require, verification, verify
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import Params
from offline_slate_rl.core.store import Artifact, artifacts, load_artifact, read_rows
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.report import history_table, inspection_table, reaction_table, returns_table
from offline_slate_rl.pipeline.status import demo_table
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.training.checkpoints import checkpoints, load_policy, run_folder
from offline_slate_rl.training.online import train


def few(params: Params|None = None, **how) -> Params:
    "Parameters of a dataset of ten episodes."
    return collection_params(params or tiny(), num_trajectories=10, **how)

def require_but_above(path: Path, params: Params):
    "Sixty steps of training do not always beat random slates; that the check says so is right."
    require([check for check in verify(path, params)[0] if not check.name.startswith('return is above')])


# Other behaviours

@pytest.mark.parametrize('quality, behaviour, words, privileged', [
    ('random', 'random-slates', ['-p', 'behaviour', 'random-slates'], False),
    ('oracle', 'short-term-oracle', [], True)])
def test_a_behaviour_on_the_line_and_the_line_that_it_prints(elsewhere, quality, behaviour, words, privileged):
    "Neither has learnt anything, so nothing need be pretrained."
    process = papermill(elsewhere, '30_collect', '-p', 'quality', quality, *words)
    assert process.returncode == 0, process.stderr
    reports = elsewhere/'tiny'/'reports'/ENV/quality
    suffix = f'_behaviour-{behaviour}' if words else ''
    assert {path.name for path in reports.iterdir()} == {f'30_collect{suffix}.{kind}' for kind in ('ipynb', 'html')}
    [artifact] = artifacts(elsewhere)
    assert artifact.recipe['behaviour'] == dict(name=behaviour) and artifact.recipe['privileged'] == privileged
    assert artifact.path.name == f'{ENV}_{quality}_30traj{suffix}.h5'
    assert load_dataset(ENV, quality).path == artifact.path

    said = printed(reports/f'30_collect{suffix}.ipynb')
    line = next(line for line in said.splitlines() if line.startswith('papermill nbs/40_verify.ipynb'))
    process = typed(elsewhere, *shlex.split(line))
    assert process.returncode == 0, process.stderr
    [report] = reports.glob('40_verify*.ipynb')
    assert report.name.startswith(f'40_verify{suffix}') and artifact.path.name in printed(report)
    assert all(check['passed'] for check in verification(artifact)['checks'])
    card = (artifact.path.parent/'README.md').read_text()
    assert ('privileged' in card) == privileged


# Several seeds

@pytest.fixture
def seeds(copy) -> dict[int, Artifact]:
    "Random datasets of agent seeds 1 and 2, the later one's last."
    made = {}
    for seed in 1, 2:
        params = tiny(seed=seed)
        pretrain_gems(params, the('logged'))
        made[seed] = collect_dataset(params, 'random')
    return made

def test_of_several_seeds_the_one_that_is_asked_is_loaded(seeds):
    for seed, artifact in seeds.items(): assert load_dataset(ENV, 'random', seed=seed).path == artifact.path
    assert load_dataset(ENV, 'random', seed=tiny().seed).path == dataset('random')
    with pytest.raises(SlateRLError) as error: load_dataset(ENV, 'random')
    assert '3 datasets fit' in str(error.value)
    for seed, artifact in seeds.items(): assert f'seed={seed}  {artifact.path}' in str(error.value)
    with pytest.raises(SlateRLError) as error: load_dataset(ENV, 'random', seed=999)
    assert str(error.value).splitlines()[-1].startswith('Make it: papermill nbs/30_collect.ipynb')
    assert '-p seed 999' in str(error.value).splitlines()[-1]

def test_of_several_seeds_the_one_that_is_asked_is_verified(copy, seeds):
    "By its seed, and by the line that 30_collect prints."
    printed_line = shlex.split(verify_command(tiny(seed=2), 'random', seeds[2]))
    processes = together((papermill, copy, '40_verify', '-p', 'quality', 'random', '-p', 'seed', 1),
                         (typed, copy, *printed_line))
    for process in processes: assert process.returncode == 0, process.stderr
    reports = copy/'tiny'/'reports'/ENV/'random'
    for seed, artifact in seeds.items():
        [report] = reports.glob(f'40_verify_seed-{seed}*.ipynb')
        assert artifact.path.name in printed(report)
        assert all(check['passed'] for check in verification(artifact)['checks'])
    assert not verification(load_artifact(dataset('random')))


def test_of_several_collection_seeds_the_one_that_is_asked_is_found(elsewhere):
    made = {seed: collect_dataset(few(seed=seed), 'random', behaviour='random-slates') for seed in (1, 2)}
    assert made[1].path != made[2].path
    for seed, artifact in made.items():
        assert load_dataset(ENV, 'random', collection_seed=seed).path == artifact.path
        assert asked_dataset(few(seed=seed), 'random', 'random-slates').path == artifact.path
        line = shlex.split(verify_command(few(seed=seed), 'random', artifact))
        assert line[-1] == str(artifact.path)
    with pytest.raises(SlateRLError, match='-p collection_seed 999'): load_dataset(ENV, 'random', collection_seed=999)
    users = [Dataset(artifact).user_ids for artifact in made.values()]
    assert not set(users[0]) & set(users[1])


# What was made with what only the simulator knows

def test_a_privileged_agent_is_marked_wherever_it_appears(elsewhere):
    params = tiny(agent='SAC+topK-ideal')
    trained = train(params)
    approve(params, note=NOTE)
    artifact = collect_dataset(params, 'medium')
    verify_dataset(artifact.path, params)
    assert all(saved.recipe['privileged'] for saved in trained.checkpoints.values())
    assert artifact.recipe['privileged']
    card = (artifact.path.parent/'README.md').read_text()
    assert f'| {ENV} | agent step40 (privileged) |' in card

    for table in 'test', 'dataset':
        rows = read_rows(params.outputs, table)
        assert len(rows) and rows.privileged.all(), table
    inspected = read_rows(params.outputs, 'inspection').set_index('policy').privileged
    assert inspected[['step40', 'step40, yoked', 'best', 'short-term oracle']].all() and not inspected['random slates']
    assert returns_table(trained).privileged.all()
    shown = demo_table(params).privileged
    assert shown[['step40', f'dataset {artifact.path.name}']].eq('yes').all() and shown['random slates'] == ''

def test_an_honest_agent_is_not(here):
    assert not any(saved.recipe['privileged'] for saved in checkpoints(tiny()).values())
    assert not load_artifact(dataset('medium')).recipe['privileged']


# Derived arrays lie beside a dataset, and are verified as what they are

def test_everything_is_verified_after_other_beliefs_were_computed(copy, capsys):
    loaded = load_dataset(ENV, 'medium', belief='best')
    [derived] = loaded.derived
    assert derived.recipe['inputs']['checkpoint'] == checkpoint('best').sha256
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 0
    said = capsys.readouterr().out
    assert derived.path.name in said and '3 passed, 0 failed' in said
    content = bytearray(derived.path.read_bytes())
    content[-100] ^= 1
    derived.path.write_bytes(content)
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    assert re.search(rf'^FAILED +{re.escape(derived.path.name)}', capsys.readouterr().out, re.MULTILINE)


# Exploration beside the policy's own

def test_exploration_is_in_name_recipe_and_card_and_no_worker_shows(copy):
    params = collection_params(tiny(), num_trajectories=30, epsilon=.25)
    approve(params, note=NOTE)
    artifact = collect_dataset(params, 'medium')
    assert artifact.path.name == f'{ENV}_medium_30traj_epsilon-0.25.h5'
    assert (artifact.recipe['epsilon'], artifact.recipe['noise']) == (.25, 0.)
    two = collect_dataset(collection_params(params, workers=2), 'medium', output_path=str(copy/'two.h5'))
    assert two.sha256 == artifact.sha256
    verify_dataset(artifact.path, params)
    card = (artifact.path.parent/'README.md').read_text()
    assert 'sampling, epsilon 0.25; on 25% of turns' in card
    mode = few(deterministic=True, noise=.1)
    approve(mode, note=NOTE)
    mode = collect_dataset(mode, 'medium')
    assert 'log_probs' not in Dataset(mode).keys() and mode.recipe['deterministic']
    assert len({artifact.path for artifact in artifacts(artifact.path.parent)}) == 3

def test_exploration_on_the_line(copy):
    words = '-p', 'epsilon', '1', '-p', 'noise', '0.5', '-p', 'num_trajectories', '10'
    approve(few(epsilon=1., noise=.5), note=NOTE)
    process = papermill(copy, '30_collect', '-p', 'quality', 'medium', *words)
    assert process.returncode == 0, process.stderr
    assert (dataset('medium').parent/f'{ENV}_medium_10traj_epsilon-1.0_noise-0.5.h5').is_file()

@pytest.mark.parametrize('ask, says', [
    (lambda: collect_dataset(few(epsilon=.1), 'random'), 'the behaviour random is no agent'),
    (lambda: few(epsilon=2.), "'collection.epsilon' is 2.0"),
    (lambda: few(noise=-1.), "'collection.noise' is -1.0"),
    (lambda: collect_dataset(tiny(), 'medium', select_checkpoint='score'), f'has none for {ENV}'),
    (lambda: collect_dataset(tiny(), 'medium', select_checkpoint='scores'), "Did you mean 'score'?")])
def test_what_cannot_be_collected_leaves_nothing(copy, monkeypatch, ask, says):
    monkeypatch.setattr(inspection, 'normalised_score', lambda *_: None)
    before = files(copy)
    with pytest.raises(SlateRLError) as error: ask()
    assert says in str(error.value) and files(copy) == before


# Which checkpoint, and who let it

def test_medium_by_score_needs_its_own_approval_and_records_the_scores(copy, monkeypatch):
    policy, env = load_policy(checkpoint('step60')), tiny().env
    _, played = play_and_measure(policy, env, tiny().training.val_episodes, 'validation', deterministic=False)
    middle = played['return_mean']
    monkeypatch.setattr(inspection, 'normalised_score', lambda value, env: 50 + (value - middle)/20)
    with pytest.raises(SlateRLError, match='--model-checkpoint step60'):
        collect_dataset(tiny(), 'medium', select_checkpoint='score')
    approve(tiny(), note=NOTE, model_checkpoint='step60')
    artifact = collect_dataset(few(), 'medium', select_checkpoint='score')
    assert artifact.recipe['inputs']['checkpoint'] == checkpoint('step60').sha256
    assert '-p model_checkpoint step60' in artifact.provenance['command']
    scores = artifact.provenance['scores']
    assert list(scores) == ['step0', 'step20', 'step40', 'step60'] and scores['step60'] == 50

def test_the_verdict_warns_of_a_medium_that_is_none(here, monkeypatch):
    monkeypatch.setattr(inspection, 'normalised_score', lambda value, env: 100*value)
    monkeypatch.setattr(inspection, 'keep_rows', lambda *_: None)  # these outputs are for reading
    warnings = inspect_checkpoint(tiny()).warnings
    assert any('as it would collect' in warning and 'outside 20 to 80' in warning for warning in warnings), warnings

ALONE = {'training.val_episodes': 1, 'training.test_episodes': 1, 'collection.num_trajectories': 1}

def test_of_one_episode_no_notebook_says_nan(copy, capsys):
    "There is no interval, and what it would decide is not known."
    run_cells('20_train', overrides=ALONE)
    seen = run_cells('25_inspect', overrides=ALONE)['inspection']
    run_cells('30_collect', quality='random', overrides=ALONE)
    run_cells('40_verify', quality='random', overrides=ALONE)
    trained = train(tiny(overrides=ALONE))
    tables = [inspection_table(seen), reaction_table(seen), returns_table(trained), history_table(trained.history)]
    said = ' '.join([capsys.readouterr().out, seen.verdict, *(table.to_string() for table in tables)])
    assert not re.search(r'\bnan\b', said, re.IGNORECASE), said
    assert 'cannot be judged from one episode' in said and '(one episode)' in said

def test_an_automatic_approval_records_what_it_saw(copy, monkeypatch):
    approvals_path(tiny(), 'medium').unlink()
    seen = replace(inspect_checkpoint(tiny()), blocking=[], warnings=['it looked tired.'])
    monkeypatch.setattr(approval, 'inspect_checkpoint', lambda *_: seen)
    artifact = collect_dataset(few(), 'medium', approval='auto')
    record = load_artifact(artifact.path).provenance['approval']
    assert record['auto'] and record['sha256'] == artifact.recipe['inputs']['checkpoint']
    assert record['figures']['warnings'] == ['it looked tired.']

def test_checkpoints_in_a_folder_of_their_own_serve_as_well(copy, tmp_path):
    params = tiny(overrides={'training.save_path': str(tmp_path/'mine')})
    shutil.move(run_folder(tiny()), tmp_path/'mine')
    assert list(checkpoints(params)) == ['step0', 'step20', 'step40', 'step60', 'best', 'last']
    artifact = collect_dataset(few(params), 'medium')
    require_but_above(artifact.path, params)


# Where it goes, and the line that makes it again

@pytest.mark.parametrize('quality, how, says', [
    ('random', dict(behaviour='random-slates'), '-p behaviour random-slates'),
    ('medium', dict(model_checkpoint='step60'), '-p model_checkpoint step60'),
    ('random', dict(output_path='{}/mine.h5'), '-p output_path')])
def test_the_command_in_a_manifest_asks_for_that_very_dataset(copy, tmp_path, quality, how, says):
    how = {name: value.format(tmp_path) for name, value in how.items()}
    if 'model_checkpoint' in how: approve(tiny(), note=NOTE, **how)
    command = collect_dataset(few(), quality, **how).provenance['command']
    assert says in command and 'collection.num_trajectories' in command

def test_an_explicit_output_path_gets_a_file(copy, tmp_path):
    "The same data may lie elsewhere already; who names a file wants it there."
    paths = [tmp_path/'new'/'folder'/name for name in ('a.h5', 'b.h5')]
    made = [collect_dataset(few(), 'random', output_path=str(path)) for path in paths]
    assert [artifact.path for artifact in made] == paths and made[0].sha256 == made[1].sha256
    require(verify(made[1].path, tiny())[0])

def test_a_verified_dataset_says_how_far_above_random_slates_it_is(copy):
    path = dataset('medium')
    _, measures = verify_dataset(path, tiny())
    assert measures['difference'] == pytest.approx(measures['return_mean'] - measures['random_return'])
    assert measures['difference_ci95'] > 0 and 0 <= measures['above_random'] <= 1
    card = (path.parent/'README.md').read_text()
    above = f"{measures['difference']:+.1f} +- {measures['difference_ci95']:.1f}"
    for told in (above, '## How to load', '## Licence', '## Citation', '| `actions` | (transitions, 32) | float32 |',
                 '| `oracle/users` |', '3,000 transitions', 'approved by the tester', 'papermill nbs/30_collect.ipynb'):
        assert told in card, told
