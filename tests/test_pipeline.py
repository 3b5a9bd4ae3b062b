"""The pipeline end to end at scale tiny: lines as a person types them, in real processes; what goes wrong, and what it leaves behind."""
import hashlib, json, os, re, shlex, shutil, signal, subprocess, sys, time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import h5py, nbformat, pytest, torch

from offline_slate_rl.collection import collect as collection, inspection
from offline_slate_rl.data import datasets
from offline_slate_rl.pipeline import cli
from offline_slate_rl.rankers import gems, mf
from offline_slate_rl.training import online as training
from offline_slate_rl.collection.collect import collect_dataset, collection_params, newest_dataset, require, verify_dataset
from offline_slate_rl.data.datasets import Dataset, log_trajectories
from offline_slate_rl.rankers.gems import find_gems, pretrain_gems
from offline_slate_rl.collection.inspection import approvals, approvals_path, approve, approve_command
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.pipeline.engine import NotebookError, run_notebook
from offline_slate_rl.core.params import SlateRLError, load_params, registry, short_hash
from offline_slate_rl.core.store import Artifact, artifacts, flatten, load_artifact, load_tensors, manifest_path, save_artifact
from offline_slate_rl.training.online import checkpoints, find_checkpoint, run_folder, run_name, run_recipe, train

REPO, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
ENV, NOTE = 'focused_mix', 'a rehearsal'
TOLD = 'logs', 'reports', 'results'  # a run that fails may say so there, and what was measured stays measured


def environ(root: Path) -> dict: return os.environ | dict(SLATE_RL_OUTPUTS=str(root), SLATE_RL_SCALE='tiny', OMP_NUM_THREADS='1')

def typed(root: Path, command: str, *args):
    "What a person types in the repository, with its output."
    return subprocess.run([str(BIN/command), *map(str, args)], cwd=REPO, env=environ(root), stdin=subprocess.DEVNULL, capture_output=True, text=True)

def papermill(root: Path, notebook: str, *args): return typed(root, 'papermill', f'nbs/{notebook}.ipynb', '-p', 'env', ENV, *args)

def together(*calls) -> list:
    "Results of calls that wait for processes, made at once."
    with ThreadPoolExecutor() as pool: return [o.result() for o in [pool.submit(*call) for call in calls]]

def fresh_python(root: Path, code: str, *args) -> subprocess.Popen:
    "A process of its own, which knows this file."
    return subprocess.Popen([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_pipeline import *; {code}', *args],
                            cwd=REPO, env=environ(root), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)

def files(root: Path, but=TOLD) -> dict:
    "Every file of the outputs, hidden ones too, with its bytes and when it was written."
    return {str(o.relative_to(root)): (hashlib.sha256(o.read_bytes()).hexdigest(), o.stat().st_mtime_ns) for o in sorted(root.rglob('*'))
            if o.is_file() and not set(but) & set(o.relative_to(root).parts)}

def contents(root: Path) -> dict:
    "sha256 of every artifact, by what it is rather than by where it lies."
    return {(a.kind, a.recipe.get('checkpoint') or a.recipe.get('quality') or ''): a.sha256 for a in artifacts(root)}

def tracked() -> set:
    "Every file of the repository, outputs included, but for what tools keep for themselves."
    return {str(o) for o in REPO.rglob('*') if o.is_file() and not any(p.startswith('.') or p == '__pycache__' for p in o.relative_to(REPO).parts)}

def tiny(env: str = ENV, overrides: dict|None = None, seed: int|None = None):
    return load_params(env, scale='tiny', overrides=overrides, **({} if seed is None else dict(seed=seed)))

def chain_by_calls(params, workers=1) -> dict:
    "The whole chain; the checks of each quality's dataset."
    logged = log_trajectories(params)
    pretrain_mf(params, logged); pretrain_gems(params, logged); train(params)
    approve(params, note=NOTE)
    return {q: verify_dataset(collect_dataset(collection_params(params, workers=workers), q).path, params)[0] for q in ('random', 'medium')}


class Chain:
    "Outputs of the notebooks, run one after the other, and what each line said."
    def __init__(self, root): self.root, self.said = root, {}


@pytest.fixture(scope='session')
def second(tmp_path_factory):
    "The chain in another fresh process, its datasets by two workers; begun early, since it runs beside the first."
    root = tmp_path_factory.mktemp('again')
    return root, fresh_python(root, "chain_by_calls(tiny(), workers=2)")

@pytest.fixture(scope='session')
def chain(tmp_path_factory, second):
    c = Chain(tmp_path_factory.mktemp('outputs'))
    before = tracked()
    def run(**lines):
        for name, said in zip(lines, together(*((call, c.root, *args) for call, *args in lines.values()))):
            c.said[name] = said
            if name != 'refused': assert said.returncode == 0, said.stderr
    run(pretrain=(papermill, '10_pretrain'))
    run(train=(papermill, '20_train'))
    c.unapproved = files(c.root)
    run(inspect=(papermill, '25_inspect'), refused=(papermill, '30_collect', '-p', 'quality', 'medium'))
    c.refused = files(c.root)
    run(approve=(typed, 'slate-rl', 'approve', ENV, 'medium', '--note', NOTE, '--by', 'the tester'), random=(papermill, '30_collect', '-p', 'quality', 'random'))
    run(medium=(papermill, '30_collect', '-p', 'quality', 'medium'))
    run(verify=(papermill, '40_verify', '-p', 'quality', 'medium'))
    c.strays = tracked() - before
    return c

@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "No test touches the repository's outputs, whatever else it forgets."
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'outputs'))
    monkeypatch.setenv('SLATE_RL_SCALE', 'tiny')
    return tmp_path/'outputs'

@pytest.fixture
def here(chain, monkeypatch):
    "The chain's outputs, to read."
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(chain.root))
    return chain.root

@pytest.fixture
def copy(chain, elsewhere):
    "A copy of the chain's outputs, to damage."
    shutil.copytree(chain.root, elsewhere)
    return elsewhere

def same_weights(a: Artifact, b: Artifact) -> bool:
    a, b = (load_tensors(o.path)['state_dict'] for o in (a, b))
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# The chain

def test_every_run_leaves_its_notebook_and_its_report_and_nothing_elsewhere(chain):
    folder = chain.root/'tiny'/'reports'/ENV
    expected = {'10_pretrain', '20_train', 'medium/25_inspect', 'random/30_collect', 'medium/30_collect', 'medium/40_verify'}
    assert {str(o.relative_to(folder)) for o in folder.rglob('*') if o.is_file()} == {f'{o}.{kind}' for o in expected for kind in ('ipynb', 'html')}
    assert not chain.strays
    left = [o for o in files(chain.root, ()) if re.search(r'\.tmp$|\.blocks|\.resume$', o)]
    assert not left
    for name, said in chain.said.items(): assert 'Traceback' not in said.stderr and 'Warning' not in said.stderr, (name, said.stderr)

@pytest.mark.parametrize('report', ['10_pretrain', '20_train', 'medium/25_inspect', 'random/30_collect', 'medium/30_collect', 'medium/40_verify'])
def test_a_report_reads_well_without_a_network(chain, report):
    page = (chain.root/'tiny'/'reports'/ENV/f'{report}.html').read_text()
    assert 'scale tiny: a rehearsal' in page
    assert 'data:image/png;base64,' in page
    for wrong in 'Traceback', 'load_params(', 'import ', 'skip_exec': assert wrong not in page, wrong
    executed = (chain.root/'tiny'/'reports'/ENV/f'{report}.ipynb').read_text()
    assert not re.search(r'[a-z]Warning\b', page + executed)  # Python's; the verdict's own are words of ours
    assert not re.search(r'<(?:script|link)\b|@import|src\s*=\s*["\']?(?:https?:)?//|url\(\s*["\']?(?:https?:)?//', page, re.I)

def test_the_log_of_training_has_the_lines_that_are_grepped_for(chain):
    lines = [o[20:] for o in (chain.root/'tiny'/'logs'/ENV/'20_train.log').read_text().splitlines()]
    assert lines[0].startswith(f'COMMAND papermill nbs/20_train.ipynb -p env {ENV}')
    order = [r'Action bounds: centre -?\d', r'VALIDATION @ Step 0$', r'\[Training Step 10/60\] \(16\.7%\) - Episode Reward: \d+\.\d{4}, Length: 100$',
             r'### TARGET STEP REACHED: 40 ###$', r'VALIDATION @ Step 40$', r'VALIDATION @ Step 60$', r'TEST step40 ', r'TEST best ', r'DONE$']
    at = [next((i for i, line in enumerate(lines) if re.match(o, line)), None) for o in order]
    assert None not in at and at == sorted(at), dict(zip(order, at))
    assert all('Mean Reward:' in lines[i + 1] for i, line in enumerate(lines) if line.startswith('VALIDATION'))

def test_a_saved_step_is_the_agent_after_exactly_that_many_steps(here):
    found = checkpoints(tiny())
    assert list(found) == ['step0', 'step20', 'step40', 'step60', 'best', 'last']
    content = {k: load_tensors(a.path) for k, a in found.items()}
    assert [(o['steps'], o['updates']) for o in content.values()][:4] == [(0, 0), (20, 0), (40, 20), (60, 40)]
    assert run_name(tiny()) == f'SAC+GeMS_Medium_GeMS_{ENV}_latentdim32_beta1.0_lambdaclick0.5_lambdaprior0.0_scratch_seed58407201_agentseed58407201_gamma0.8'

def test_without_an_approval_nothing_is_collected(chain):
    said = chain.said['refused']
    assert said.returncode == 1
    sentence = said.stderr.strip().splitlines()[-1]
    assert 'has no approval to collect medium data' in sentence and f'slate-rl approve {ENV} medium --scale tiny' in sentence
    assert chain.refused == chain.unapproved

def test_the_approval_says_who_why_and_of_what(chain, here):
    checkpoint = find_checkpoint(tiny(), 'step40')
    record = approvals(tiny(), 'medium')[checkpoint.sha256]
    assert (record['by'], record['note'], record['file']) == ('the tester', NOTE, checkpoint.path.name)
    assert {'random slates', 'short-term oracle', 'step0', 'step40', 'best', 'last'} <= record['figures']['returns'].keys()
    assert 'approved to collect medium data, by the tester' in chain.said['approve'].stdout

def test_the_card_has_its_table_filled_in(chain):
    card = (chain.root/'tiny'/'offline_datasets'/'medium'/'README.md').read_text()
    row = next(o for o in card.splitlines() if o.startswith(f'| {ENV} |'))
    assert re.match(rf'\| {ENV} \| 30 \| \d+\.\d\d / \d+\.\d\d / \d+ / \d+ \| \d+\.\d\d / ', row) and re.search(r'\| (\d+) of \1 \|$', row)
    assert 'approved by the tester' in card and NOTE in card

def test_status_show_and_verify_tell_what_there_is(chain, here, capsys):
    verify_dataset(newest_dataset(tiny(), 'random'), tiny())
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    said = capsys.readouterr().out
    for told in ('200 trajectories', 'GeMS trained', 'done, 60 steps', '4, similar size', 'by the tester', 'checks passed, card'): assert told in said, told
    assert said.count('checks passed, card') == 2 and said.count('.html') == 6
    assert cli.main(['status', '--scale', 'tiny']) == 0
    assert set(registry()) <= set(re.findall(r'^\w+', capsys.readouterr().out, re.M))

    for a in artifacts(here):
        assert cli.main(['show', str(a.path)]) == 0
        said = capsys.readouterr().out
        assert a.sha256 in said and '(whole)' in said and said.strip().splitlines()[-1].strip().startswith('papermill nbs/')
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 0
    assert '2 passed, 0 failed' in capsys.readouterr().out


# Made once

def test_a_second_run_reuses_and_says_so(chain):
    before = files(chain.root)
    said = papermill(chain.root, '20_train')
    assert said.returncode == 0, said.stderr
    assert files(chain.root) == before
    nb = nbformat.read(chain.root/'tiny'/'reports'/ENV/'20_train.ipynb', as_version=4)
    assert re.search(r'Reused \S+_last\.ckpt, trained for 60 steps \(force trains again\)', ''.join(o.text for c in nb.cells for o in c.get('outputs', []) if o.output_type == 'stream'))

def every_stage(params, force=False) -> list[Artifact]:
    logged = log_trajectories(params, force)
    made = [logged, pretrain_mf(params, logged, force), pretrain_gems(params, logged, force=force)]
    if force: made += train(params, force=True).checkpoints.values()
    return made + [collect_dataset(params, q, force=force) for q in ('random', 'medium')]

def test_a_commit_a_date_or_a_host_is_told_and_never_compared(copy, capsys):
    for a in artifacts(copy):
        told = dict(git_commit='0'*40, made='1999-01-01T00:00:00+00:00', host='another', packages={}, python='2.7')
        manifest_path(a.path).write_text(json.dumps({**a.manifest, 'provenance': a.provenance | told}))
        assert not {'git_commit', 'commit', 'made', 'host', 'workers', 'packages', 'wall_seconds'} & {k.split('.')[-1] for k in flatten(a.recipe)}
    before = files(copy)
    every_stage(tiny())
    assert files(copy) == before and capsys.readouterr().out.count('Reused') == 5
    assert train(tiny()).checkpoints.keys() == checkpoints(tiny()).keys() and files(copy) == before

def test_force_makes_the_same_bytes_again(copy):
    was, before = contents(copy), files(copy)
    every_stage(tiny(), force=True)
    assert contents(copy) == was
    after = files(copy)
    assert after.keys() == before.keys()
    for a in artifacts(copy): assert after[str(a.path.relative_to(copy))][1] > before[str(a.path.relative_to(copy))][1], a.path.name

def test_force_on_the_line(copy):
    was = contents(copy)
    path = newest_dataset(tiny(), 'medium')
    before = path.stat().st_mtime_ns
    said = papermill(copy, '30_collect', '-p', 'quality', 'medium', '-p', 'force', 'True')
    assert said.returncode == 0, said.stderr
    assert contents(copy) == was and path.stat().st_mtime_ns > before


# Faults: a sentence that names the mend, exit code not 0, nothing half-written

@pytest.mark.parametrize('notebook, given, says', [
    ('30_collect', dict(env='focussed_mix'), "Did you mean 'focused_mix'?"),
    ('30_collect', dict(quality='mediun'), "Did you mean 'medium'?"),
    ('30_collect', dict(num_trajectory=5), "no parameter 'num_trajectory'. Did you mean 'num_trajectories'?"),
    ('20_train', dict(overrides='gems'), "'overrides' is 'gems'; expected dict"),
    ('10_pretrain', dict(scale='tinny'), "Did you mean 'tiny'?")])
def test_a_wrong_parameter_starts_nothing(elsewhere, notebook, given, says):
    with pytest.raises(NotebookError) as e: run_notebook(notebook, **given)
    assert says in str(e.value) and not elsewhere.exists()

def test_a_wrong_environment_on_the_line(elsewhere):
    said = typed(elsewhere, 'papermill', 'nbs/30_collect.ipynb', '-p', 'env', 'focussed_mix', '-p', 'quality', 'medium')
    assert said.returncode == 1 and "Did you mean 'focused_mix'?" in said.stderr and 'Traceback' not in said.stderr
    assert not elsewhere.exists()

def test_missing_pretraining_on_the_line(elsewhere):
    said = papermill(elsewhere, '20_train')
    assert said.returncode == 1 and 'Traceback' not in said.stderr
    assert f'papermill nbs/10_pretrain.ipynb -p env {ENV}' in said.stderr.strip().splitlines()[-1]
    assert not files(elsewhere)
    page = elsewhere/'tiny'/'reports'/ENV/'20_train.html'
    assert 'This run failed' in page.read_text() and page.with_suffix('.ipynb').is_file()

def cut(path: Path): path.write_bytes(path.read_bytes()[:-100])

def edit(path: Path):
    "Change one reward; the file stays a good HDF5 file."
    with h5py.File(path, 'r+') as f: f['rewards'][7] = 9.

def remove(a: Artifact): a.path.unlink(); manifest_path(a.path).unlink()

def ckpt(name): return find_checkpoint(tiny(), name)

def found(kind) -> Artifact: return next(a for a in artifacts(tiny().outputs, kind) if kind != 'checkpoint' or a.recipe['checkpoint'] == 'step40')

def approve_another():
    path, record = approvals_path(tiny(), 'medium'), approvals(tiny(), 'medium').popitem()[1]
    path.write_text(json.dumps({ckpt('step60').sha256: record | dict(sha256=ckpt('step60').sha256)}))

def collect_with(quality='medium', **more):
    own = {k: more.pop(k) for k in ('num_trajectories', 'seed') if k in more}
    return collect_dataset(collection_params(tiny(), **own), quality, **more)

def item_file(folder: Path, rows=1000) -> str:
    torch.save(torch.full((rows, 20), .1), path := folder/f'items{rows}.pt')
    return str(path)

def nothing(): pass

PRETRAIN, TRAIN = 'papermill nbs/10_pretrain.ipynb', 'papermill nbs/20_train.ipynb'
FAULTS = {
    'environment': (nothing, lambda: tiny('focussed_mix'), ["Did you mean 'focused_mix'?"]),
    'agent': (nothing, lambda: load_params(ENV, 'SAC+GEMS'), ["Did you mean 'SAC+GeMS'?"]),
    'quality': (nothing, lambda: collect_with('mediun'), ["Unknown quality 'mediun'", "Did you mean 'medium'?"]),
    'quality to verify': (nothing, lambda: newest_dataset(tiny(), 'mediun'), ["Did you mean 'medium'?"]),
    'override': (nothing, lambda: tiny(overrides={'gems.latent_dims': 16}), ["unknown key 'gems.latent_dims'", "'gems.latent_dim'?"]),
    'type of an override': (nothing, lambda: tiny(overrides={'gems.latent_dim': 'many'}), ["'gems.latent_dim' is 'many'", 'integer']),
    'number as text': (nothing, lambda: tiny(overrides={'agent.q_lr': '1e-3'}), ["'agent.q_lr' is '1e-3'", 'number']),
    'overrides without keys': (nothing, lambda: tiny(overrides='gems'), ["overrides is 'gems'", 'dotted keys']),
    'overrides that are no YAML': (nothing, lambda: tiny(overrides='{gems.latent_dim: 16'), ['overrides', 'dotted keys']),
    'overrides with a number as key': (nothing, lambda: tiny(overrides={1: 2}), ['1']),
    'item table missing': (nothing, lambda: log_trajectories(tiny(overrides={'env.item_embeddings': 'nowhere.pt'})), ['nowhere.pt', 'does not exist', '(1000, 20)']),
    'target beyond the budget': (nothing, lambda: train(tiny(overrides={'training.target_step': 61})), ['training.target_step is 61', 'training.max_steps 60']),
    'no logged data': (lambda: remove(found('logged')), lambda: train(tiny()), ['No logged', PRETRAIN]),
    'no ranker': (lambda: remove(found('gems')), lambda: train(tiny()), ['No gems', PRETRAIN]),
    'no ranker for random': (lambda: remove(found('gems')), lambda: collect_with('random', num_trajectories=10), ['No gems', PRETRAIN]),
    'no training to inspect': (lambda: shutil.rmtree(run_folder(tiny())), lambda: inspection.inspect_checkpoint(tiny()), ['No checkpoint', TRAIN]),
    'no training to collect from': (lambda: shutil.rmtree(run_folder(tiny())), collect_with, ['No checkpoint', TRAIN]),
    'no dataset to verify': (lambda: remove(found('dataset')) or remove(found('dataset')), lambda: newest_dataset(tiny(), 'medium'), ['No medium dataset', 'papermill nbs/30_collect.ipynb']),
    'no approval': (lambda: approvals_path(tiny(), 'medium').unlink(), collect_with, ['has no approval to collect medium data', approve_command(tiny(), 'medium')]),
    'approval for another checkpoint': (approve_another, collect_with, ['has no approval', 'approval for another checkpoint', approve_command(tiny(), 'medium')]),
    'approvals cut short': (lambda: cut(approvals_path(tiny(), 'medium')), collect_with, ['medium.json', 'slate-rl approve']),
    'checkpoint cut short, to collect': (lambda: cut(ckpt('step40').path), collect_with, ['_step40.ckpt is damaged', 'with force', TRAIN]),
    'checkpoint cut short, to inspect': (lambda: cut(ckpt('step40').path), lambda: inspection.inspect_checkpoint(tiny()), ['_step40.ckpt is damaged', TRAIN]),
    'last cut short': (lambda: cut(ckpt('last').path), lambda: train(tiny()), ['_last.ckpt is damaged', TRAIN]),
    'manifest missing': (lambda: manifest_path(ckpt('step40').path).unlink(), collect_with, ['No checkpoint', TRAIN]),
    'manifest cut short': (lambda: cut(manifest_path(found('gems').path)), lambda: pretrain_gems(tiny(), found('logged')), ['manifest', 'not readable', 'force']),
    'ranker damaged, to train': (lambda: cut(found('gems').path), lambda: train(tiny()), ['GeMS_', 'is damaged', PRETRAIN]),
    'ranker damaged, to collect': (lambda: cut(found('gems').path), lambda: collect_with('random', num_trajectories=10), ['GeMS_', 'is damaged', PRETRAIN]),
    'logged data damaged': (lambda: edit(found('logged').path), lambda: log_trajectories(tiny()), ['traj_seed', 'is damaged', PRETRAIN]),
    'logged data damaged, to train': (lambda: edit(found('logged').path), lambda: train(tiny()), ['is damaged', PRETRAIN]),
    'dataset damaged, to reuse': (lambda: edit(found('dataset').path), lambda: collect_dataset(tiny(), found('dataset').recipe['quality']), ['is damaged', 'with force', '30_collect']),
    'checkpoint unknown': (nothing, lambda: collect_with(model_checkpoint='step41'), ["'step41' is asked", TRAIN]),
    'checkpoint file missing': (nothing, lambda: collect_with(model_checkpoint='/nowhere/step1.ckpt'), ['/nowhere/step1.ckpt does not exist']),
    'checkpoint without an approval of its own': (nothing, lambda: collect_with(model_checkpoint='best'), ['has no approval', '--model-checkpoint best']),
    'checkpoint that is a dataset': (nothing, lambda: load_artifact(found('dataset').path, 'checkpoint'), ['is a dataset; a checkpoint was expected']),
    'fewer than no trajectories': (nothing, lambda: collect_with(num_trajectories=-5), ['num_trajectories is -5', 'at least 1']),
    'output below a file': (nothing, lambda: collect_with(num_trajectories=10, output_path=f"{found('gems').path}/x.h5"), ['output_path']),
    'output made by another recipe': (nothing, lambda: collect_with(seed=2, output_path=str(newest_dataset(tiny(), 'medium'))),
                                      ['made by another recipe', 'seed is 1 there, 2 is asked', 'force']),
    'random policy': (nothing, lambda: collect_with('random', random_policy='slate'), ["Did you mean 'slates'?"]),
    'kind of approval': (nothing, lambda: collect_with(approval='automatic'), ["Unknown approval 'automatic'"]),
    # step20 ends the random phase: no update yet, so it cannot have risen since step 0
    'automatic approval against a blocking verdict': (nothing, lambda: collect_with(approval='auto', model_checkpoint='step20'),
                                                      ['Automatic approval refused', 'did not rise since step 0', 'slate-rl approve', '--model-checkpoint step20']),
    'approval without a note against a blocking verdict': (nothing, lambda: approve(tiny(), model_checkpoint='step20'),
                                                           ['blocking', 'did not rise', 'say why', '--model-checkpoint step20']),
    'a step that the finished training did not keep': (nothing, lambda: train(tiny(overrides={'training.target_step': 30})), ['step30', 'force']),
}

@pytest.mark.parametrize('fault', FAULTS)
def test_a_fault_is_one_sentence_and_leaves_nothing(copy, fault):
    damage, ask, fragments = FAULTS[fault]
    damage()
    before = files(copy)
    with pytest.raises(SlateRLError) as e: ask()
    said = str(e.value)
    for o in fragments: assert o in said, (o, said)
    assert '\n' not in said and files(copy) == before

def test_an_item_table_of_another_shape(copy, tmp_path):
    before = files(copy)
    with pytest.raises(SlateRLError, match=r'\(7, 20\); \(1000, 20\) was expected'):
        log_trajectories(tiny(overrides={'env.item_embeddings': item_file(tmp_path, 7)}))
    assert files(copy) == before

@pytest.mark.parametrize('args, says', [
    (['approve', 'focussed_mix', 'medium'], "Did you mean 'focused_mix'?"), (['approve', ENV, 'mediun'], "Did you mean 'medium'?"),
    (['approve', ENV, 'random'], 'has no checkpoint'), (['approve', ENV, 'medium', '--overrides', '{gems.latent_dim: x}'], "'gems.latent_dim' is 'x'"),
    (['approve', ENV, 'medium', '--seed', '7'], '-p seed 7'), (['show', 'nowhere.ckpt'], 'nowhere.ckpt does not exist'),
    (['verify', 'nowhere.h5'], 'nowhere.h5 does not exist'), (['verify'], 'Give a path, or --all'), (['status', 'focussed_mix'], "Did you mean 'focused_mix'?")])
def test_the_command_line_ends_in_a_sentence_too(copy, capsys, args, says):
    before = files(copy)
    assert cli.main([*args, '--scale', 'tiny']) == 1
    said = capsys.readouterr()
    assert says in said.out + said.err and files(copy) == before

@pytest.fixture
def edited(copy):
    verify_dataset(path := newest_dataset(tiny(), 'medium'), tiny())
    edit(path)
    return path

def test_an_edited_dataset_fails_by_name_on_the_line(copy, edited):
    said = papermill(copy, '40_verify', '-p', 'quality', 'medium')
    assert said.returncode == 1 and 'Traceback' not in said.stderr
    assert "checks failed: whole: sha256 is the manifest's" in said.stderr.strip().splitlines()[-1]

def test_an_edited_dataset_is_nowhere_called_good(edited, capsys):
    checks, _ = verify_dataset(edited, tiny())
    with pytest.raises(SlateRLError, match="whole: sha256 is the manifest's .*damaged"): require(checks)
    assert not re.search(r'(\d+) of \1 \|', (edited.parent/'README.md').read_text())
    assert cli.main(['verify', str(edited)]) == 1
    said = capsys.readouterr().out
    assert '0 passed, 1 failed' in said and re.search(r'Collect it again: papermill nbs/30_collect\.ipynb .*-p force True', said)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert re.search(r'^medium +FAILED: whole', capsys.readouterr().out, re.M)
    assert cli.main(['show', str(edited)]) == 0 and 'is damaged' in capsys.readouterr().out

@pytest.mark.parametrize('key, value, check', [
    ('rewards', 3., 'reward is the number of clicks'), ('timeouts', True, 'timeouts at the horizon only'), ('slates', 1000, 'item ids are in the catalogue'),
    ('log_probs', float('nan'), 'no NaN'), ('timesteps', 5, 'numbered, whole and in order'), ('clicks', 2, 'clicks are 0 or 1'),
    ('slates', 1, 'replay click for click'), ('observations', 0., 'beliefs are those of the raw observations')])
def test_wrong_content_with_a_right_sha256_fails_by_name(copy, key, value, check):
    path = newest_dataset(tiny(), 'medium')
    with h5py.File(path, 'r+') as f: f[key][7] = f[key][7]*0 + value if key == 'rewards' else value
    manifest = load_artifact(path, verify=False).manifest
    manifest_path(path).write_text(json.dumps(manifest | dict(sha256=hashlib.sha256(path.read_bytes()).hexdigest())))
    with pytest.raises(SlateRLError, match=check): require(collection.verify(path, tiny())[0])

@pytest.mark.parametrize('kind', ['logged', 'gems', 'checkpoint'])
def test_status_names_what_is_damaged(copy, capsys, kind):
    cut(found(kind).path)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert 'damaged' in capsys.readouterr().out.lower()

def test_automatic_approval_records_what_it_saw(copy, monkeypatch):
    approvals_path(tiny(), 'medium').unlink()
    seen = replace(inspection.inspect_checkpoint(tiny()), blocking=[], warnings=['it looked tired.'])
    monkeypatch.setattr(collection, 'inspect_checkpoint', lambda *_, **__: seen)
    a = collect_dataset(collection_params(tiny(), num_trajectories=10), 'medium', approval='auto')
    told = load_artifact(a.path).provenance['approval']
    assert told['auto'] and told['sha256'] == a.recipe['inputs']['checkpoint'] and told['figures']['warnings'] == ['it looked tired.']

def test_a_save_that_is_interrupted_keeps_what_was_saved_before(copy):
    "Of `last` there is one file, and it may be days of work."
    last = ckpt('last')
    def interrupted(path): path.write_bytes(b'half'); raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt): save_artifact(last.path, interrupted, 'checkpoint', {}, {})
    assert load_artifact(last.path).sha256 == last.sha256
    assert not [o for o in files(copy) if o.endswith('.tmp')]


# Bytes

@pytest.fixture(scope='session')
def again(second):
    root, p = second
    said, _ = p.communicate()
    assert p.returncode == 0, said
    return root

@pytest.mark.parametrize('what', [('logged', ''), ('mf', ''), ('gems', ''), ('checkpoint', 'step0'), ('checkpoint', 'step40'), ('checkpoint', 'best'), ('dataset', 'random'), ('dataset', 'medium')],
                         ids=lambda o: ' '.join(o).strip())
def test_another_process_and_two_workers_make_the_same_bytes(chain, again, what):
    assert contents(again)[what] == contents(chain.root)[what]

def alive(session: int) -> list[str]:
    return [o for o in subprocess.run(['ps', '-e', '-o', 'sid=,stat='], capture_output=True, text=True).stdout.splitlines() if int(o.split()[0]) == session and 'Z' not in o]

def kill_when(p: subprocess.Popen, ready):
    "SIGKILL to the process alone, as soon as `ready()`; then wait for whatever it had started."
    try:
        while not ready():
            assert p.poll() is None, p.communicate()[0]
            time.sleep(.02)
        p.kill(); p.wait()
        deadline = time.time() + 10
        while alive(p.pid) and time.time() < deadline: time.sleep(.1)
        return alive(p.pid)
    finally:
        try: os.killpg(p.pid, signal.SIGKILL)
        except ProcessLookupError: pass

def test_a_collection_that_was_killed_goes_on_to_the_same_bytes(copy, tmp_path, monkeypatch):
    params = collection_params(tiny(), num_trajectories=200)
    whole = collect_dataset(params, 'random', output_path=str(tmp_path/'whole'))
    killed = tmp_path/'killed'
    p = fresh_python(copy, f"collect_dataset(collection_params(tiny(), num_trajectories=200, workers=2), 'random', output_path={str(killed)!r})")
    orphans = kill_when(p, lambda: len(list(killed.rglob('*.pt'))) >= 3)
    done = len([o for o in killed.rglob('*.pt') if not o.name.startswith('.')])
    assert 3 <= done < 20 and not list(killed.glob('*.h5')) and not artifacts(killed)
    assert cli.stage_state(copy/'tiny'/'logs'/ENV/'30_collect_random.log') == 'interrupted'
    assert not orphans, 'workers outlive their parent'

    played, play = [], datasets._play_block
    monkeypatch.setattr(datasets, '_play_block', lambda *a, **k: played.append(a) or play(*a, **k))
    again = collect_dataset(params, 'random', output_path=str(killed))
    assert again.sha256 == whole.sha256 and len(played) == 20 - done
    assert sorted(o.name for o in killed.iterdir()) == sorted([again.path.name, manifest_path(again.path).name])

def test_a_training_that_was_killed_ends_where_it_would_have(copy, chain, capsys):
    "Killed about step 30, gone on to 80: the same checkpoints as of a whole run to 60 that goes on to 80."
    whole = train(tiny(overrides={'training.max_steps': 80})).checkpoints
    assert 'Resumed at step 60' in capsys.readouterr().out
    for k, sha in {k: sha for (kind, k), sha in contents(chain.root).items() if kind == 'checkpoint' and k.startswith('step')}.items():
        assert whole[k].sha256 == sha, f'{k} was written again'
    root = copy.parent/'killed'
    shutil.copytree(copy, root)
    shutil.rmtree(root/'tiny'/'checkpoints')
    os.environ['SLATE_RL_OUTPUTS'] = str(root)  # monkeypatch of `elsewhere` puts it back
    overrides = {'training.max_steps': 80, 'training.save_last_every_minutes': 1e-9}  # after every step
    p = fresh_python(root, f'train(tiny(overrides={overrides!r}))')
    log, skip = root/'tiny'/'logs'/ENV/'20_train.log', (root/'tiny'/'logs'/ENV/'20_train.log').stat().st_size
    kill_when(p, lambda: '[Training Step 30/80]' in log.read_text()[skip:])
    assert cli.stage_state(log) == 'interrupted' and 'step60' not in checkpoints(tiny())
    ended = train(tiny(overrides=overrides)).checkpoints
    assert re.search(r'Resumed at step (?:29|[3-5]\d)\b', capsys.readouterr().out)
    assert ended.keys() == whole.keys()
    for k in whole: assert same_weights(ended[k], whole[k]), k
    # an approval, and a dataset's recipe, name a checkpoint by these: how often `last` was saved must not show in them
    assert {k: ended[k].sha256 for k in ('step40', 'step60')} == {k: whole[k].sha256 for k in ('step40', 'step60')}


# Identity

@pytest.mark.parametrize('overrides, ask, says', [
    ({'env.gamma': .9}, find_gems, 'env.gamma is 0.8 there, 0.9 is asked'),
    ({'env.omega': .5}, find_gems, 'env.omega is 0.9 there, 0.5 is asked'),
    ({'logged.epsilon': .1}, find_gems, 'epsilon is 0.5 there, 0.1 is asked'),
    ({'gems.lambda_KL': 2.}, find_gems, 'gems.lambda_KL is 1.0 there, 2.0 is asked'),
    ({'gems.ranker_seed': 5}, find_gems, 'ranker_seed is 58407201 there, 5 is asked'),
    ({'agent.q_lr': .01}, lambda p: find_checkpoint(p, 'step40'), 'agent.q_lr is 0.001 there, 0.01 is asked'),
    ({'agent.belief.state_dim': 8}, lambda p: collect_dataset(p, 'medium'), 'agent.belief.state_dim is 20 there, 8 is asked')],
    ids=lambda o: next(iter(o)) if isinstance(o, dict) else '')
def test_another_recipe_is_another_artifact_and_the_error_says_why(copy, overrides, ask, says):
    before = files(copy)
    with pytest.raises(SlateRLError) as e: ask(tiny(overrides=overrides))
    assert says in str(e.value) and files(copy) == before

def test_an_item_table_counts_by_its_content(copy, tmp_path):
    path = Path(item_file(tmp_path))
    with pytest.raises(SlateRLError) as e: find_gems(tiny(overrides={'env.item_embeddings': str(path)}))
    assert f"env.item_embeddings is None there, '{hashlib.sha256(path.read_bytes()).hexdigest()}' is asked" in str(e.value)
    moved = path.rename(tmp_path/'moved.pt')
    recipes = [tiny(overrides={'env.item_embeddings': str(o)}).env.recipe() for o in (moved, shutil.copy(moved, tmp_path/'copied.pt'))]
    assert recipes[0] == recipes[1]

@pytest.mark.parametrize('overrides', [{'collection.workers': 3}, {'training.max_steps': 80}, {'training.val_episodes': 10, 'training.log_every_n_steps': 7}], ids=lambda o: next(iter(o)))
def test_workers_and_budgets_change_no_identity(copy, overrides):
    params, before = tiny(overrides=overrides), contents(copy)
    assert find_gems(params).sha256 == find_gems(tiny()).sha256
    assert find_checkpoint(params, 'step40').path == ckpt('step40').path
    assert [collect_dataset(params, q).path for q in ('random', 'medium')] == [newest_dataset(tiny(), q) for q in ('random', 'medium')]
    assert contents(copy) == before

@pytest.fixture
def plan(monkeypatch):
    "Where everything of some parameters would go, and what it would be; nothing is made."
    planned = []
    def planner(path, kind, recipe, *_, **__):
        planned.append((path, {**recipe, 'kind': kind}))
        return Artifact(path, dict(kind=kind, recipe=recipe, sha256=short_hash(recipe), provenance=dict(steps=recipe.get('checkpoint', ''))))
    for module in datasets, mf, gems, collection: monkeypatch.setattr(module, 'made_or_reused', planner)
    def plan(params, **collecting):
        logged = log_trajectories(params)
        table = pretrain_mf(params, logged)
        ranker = pretrain_gems(params, logged, table if params.gems.ranker_embedds == 'mf' else None)
        def checkpoint(params, name): return planner(run_folder(params)/f'{run_name(params)}_{name}.ckpt', 'checkpoint', {**run_recipe(params, ranker), 'checkpoint': name})
        monkeypatch.setattr(collection, 'find_gems', lambda params: ranker)
        monkeypatch.setattr(inspection, 'find_checkpoint', checkpoint)
        monkeypatch.setattr(collection, 'required_approval', lambda *_: None)
        for quality, policy in ('random', 'latents'), ('random', 'slates'), ('medium', 'latents'), ('expert', 'latents'):
            collect_dataset(params, quality, random_policy=policy, **collecting)
        return planned
    return plan

def test_two_recipes_never_share_a_path(plan, tmp_path):
    changes = [{}, {'env.item_embeddings': item_file(tmp_path)}, {'env.omega': .5}, {'env.gamma': .9}, {'env.item_seed': 9}, {'collection.seed': 2}, {'collection.block_size': 5},
               {'collection.deterministic': True}, {'collection.num_trajectories': 20}, {'agent.q_lr': .01}, {'agent.belief.state_dim': 8}, {'gems.latent_dim': 16},
               {'gems.lr': .01}, {'gems.ranker_seed': 5}, {'gems.ranker_embedds': 'mf'}, {'gems.ranker_embedds': 'ideal'}, {'gems.ranker_embedds': 'mf', 'mf.lr': .01},
               {'mf.lr': .01}, {'mf.seed': 5}, {'logged.epsilon': .1}, {'logged.seed': 5}, {'logged.num_trajectories': 100}, {'training.target_step': 20}, {'training.max_steps': 80}]
    for o in changes: planned = plan(tiny(overrides=o))
    for name in registry(): planned = plan(tiny(name))
    for seed in 5, 6: planned = plan(tiny(seed=seed))
    for name in 'best', 'step20': planned = plan(tiny(), model_checkpoint=name)
    at = {}
    for path, recipe in planned: at.setdefault(path, {})[short_hash(recipe)] = recipe
    shared = {path.name: [{k: v for k, v in flatten(o).items() if any(flatten(p).get(k) != v for p in recipes.values())} for o in recipes.values()]
              for path, recipes in at.items() if len(recipes) > 1}
    assert not shared
    assert len(at) > 100  # the list above did plan something

@pytest.mark.parametrize('quality, more, says', [('random', dict(random_policy='slates'), '-p random_policy slates'), ('medium', dict(model_checkpoint='step60'), '-p model_checkpoint step60'),
                                                 ('random', dict(output_path='OUT'), '-p output_path')], ids=lambda o: next(iter(o)) if isinstance(o, dict) else None)
def test_the_command_in_a_manifest_asks_for_that_very_dataset(copy, tmp_path, quality, more, says):
    if more.get('output_path'): more = dict(output_path=str(tmp_path/'mine.h5'))
    if quality == 'medium': approve(tiny(), note=NOTE, model_checkpoint='step60')
    a = collect_dataset(collection_params(tiny(), num_trajectories=10), quality, **more)
    assert says in a.provenance['command'] and 'collection.num_trajectories' in a.provenance['command']

def test_an_explicit_output_path_gets_a_file(copy, tmp_path):
    "The same data may lie elsewhere already; who names a file wants it there."
    made = [collect_dataset(collection_params(tiny(), num_trajectories=10), 'random', output_path=str(tmp_path/o)) for o in ('new/folder/a.h5', 'new/folder/b.h5')]
    assert [o.path.relative_to(tmp_path).as_posix() for o in made] == ['new/folder/a.h5', 'new/folder/b.h5'] and made[0].sha256 == made[1].sha256
    require(verify_dataset(made[1].path, tiny())[0])

def test_checkpoints_in_a_folder_of_their_own_serve_as_well(copy, tmp_path):
    params = tiny(overrides={'training.save_path': str(tmp_path/'mine')})
    shutil.move(run_folder(tiny()), tmp_path/'mine')
    assert list(checkpoints(params)) == ['step0', 'step20', 'step40', 'step60', 'best', 'last']
    a = collect_dataset(collection_params(params, num_trajectories=10), 'medium')
    assert not [o for o in collection.verify(a.path, params)[0] if not o.passed and not o.name.startswith('return is above')]


# What no notebook can show

@pytest.mark.parametrize('path', sorted((REPO/'offline_slate_rl').glob('*.py')), ids=lambda o: o.stem)
def test_nothing_is_unpickled(path):
    for line in path.read_text().splitlines():
        assert not re.search(r'\bpickle\b|\bjoblib\b|\bdill\b|weights_only\s*=\s*False|allow_pickle|read_pickle|load_from_checkpoint|unsafe_load', line), line
        if 'torch.load(' in line: assert 'weights_only=True' in line, line
        if 'yaml.load(' in line: assert 'SafeLoader' in line, line


# Damage to a dataset is found, named, and mended by the line that is printed

def flip(at):
    "Change one bit of the byte at this share of the file."
    def change(path): b = bytearray(path.read_bytes()); b[int(at*(len(b) - 1))] ^= 1; path.write_bytes(b)
    return change

def short(share): return lambda path: path.write_bytes(path.read_bytes()[:int(share*path.stat().st_size)])

def swap(path):
    "Its manifest changes places with that of another quality."
    mine, other = manifest_path(path), manifest_path(newest_dataset(tiny(), 'random'))
    mine_was = mine.read_bytes()
    mine.write_bytes(other.read_bytes()); other.write_bytes(mine_was)

def another_manifest(path):
    "The manifest of a dataset of the same environment and quality, of other users."
    other = collect_dataset(collection_params(tiny(), seed=2), 'medium')
    shutil.copy(manifest_path(other.path), manifest_path(path))

DATASET_DAMAGE = {
    'first byte': (flip(0), 'is damaged'), 'a byte near the front': (flip(.01), 'is damaged'), 'a byte in the middle': (flip(.5), 'is damaged'), 'last byte': (flip(1), 'is damaged'),
    'cut by half': (short(.5), 'is damaged'), 'cut to nothing': (short(0), 'is damaged'), 'manifests swapped': (swap, "is another dataset's or was edited"),
    'manifest of another dataset': (another_manifest, "is another dataset's or was edited"), 'manifest missing': (lambda path: manifest_path(path).unlink(), 'has no manifest'),
    'manifest cut': (lambda path: short(.5)(manifest_path(path)), 'is not readable'), 'manifest of nothing': (lambda path: manifest_path(path).write_text('[]'), 'is not readable'),
    'manifest and half the file': (lambda path: (short(.5)(path), swap(path)), "its manifest is another dataset's (focused_mix, random, 30 episodes)"),
    'file missing': (lambda path: path.unlink(), 'does not exist')}

def asked(line: str) -> dict:
    "The parameters on a line of papermill."
    words = shlex.split(line)
    assert words[:2] == ['papermill', 'nbs/30_collect.ipynb']
    return {words[i + 1]: words[i + 2] for i, o in enumerate(words) if o == '-p'}

@pytest.mark.parametrize('damage', DATASET_DAMAGE)
def test_a_damaged_dataset_is_found_by_name_and_collected_again(copy, capsys, damage):
    path = newest_dataset(tiny(), 'medium')
    was = contents(copy)['dataset', 'medium']
    change, says = DATASET_DAMAGE[damage]
    change(path)
    capsys.readouterr()
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    block = next(o for o in re.split(r'^(?=FAILED|passed)', said, flags=re.M) if o.startswith(f'FAILED  {path.name}'))
    assert says in block
    assert re.search(rf'^{ENV} .*FAILED|^{ENV} .*1 of 2 passed', said, re.M)
    given = asked(re.search(r'Collect it again: (.*)', block)[1])
    assert {k: given[k] for k in ('env', 'quality', 'scale', 'force')} == dict(env=ENV, quality='medium', scale='tiny', force='True')
    made = collect_dataset(load_params(given['env'], given['agent'], int(given['seed']), given['scale'], given.get('overrides')), given['quality'], force=True)
    assert made.path == path and made.sha256 == was
    require([o for o in collection.verify(path, tiny())[0] if not o.name.startswith('return is above')])

def test_the_printed_line_mends_as_it_is(copy, capsys):
    path = newest_dataset(tiny(), 'medium')
    manifest_path(path).unlink(); short(.9)(path)  # nothing is left but its name
    assert cli.main(['verify', str(path)]) == 1
    line = re.search(r'Collect it again: (.*)', capsys.readouterr().out)[1]
    said = typed(copy, *shlex.split(line))
    assert said.returncode == 0, said.stderr
    assert cli.main(['verify', str(path)]) == 0 and '1 passed, 0 failed' in capsys.readouterr().out

def test_the_table_of_environments(copy, capsys):
    other = collect_dataset(collection_params(tiny('diffuse_topdown'), num_trajectories=10), 'random', random_policy='slates')
    short(.5)(newest_dataset(tiny(), 'random'))
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    assert re.search(r'^env +medium +random$|^quality +medium +random$', said, re.M)
    assert re.search(r'^diffuse_topdown +passed$', said, re.M) and re.search(rf'^{ENV} +passed +FAILED$', said, re.M)
    assert '2 passed, 1 failed' in said
    assert cli.main(['verify', str(other.path.parent)]) == 1 and '1 passed, 1 failed' in capsys.readouterr().out  # a folder


# Exploration beside the policy's own, and medium by score

def test_exploration_is_in_name_recipe_and_card_and_no_worker_shows(copy):
    params = collection_params(tiny(), num_trajectories=30, epsilon=.25)
    a = collect_dataset(params, 'medium')
    assert a.path.name == f'{ENV}_medium_30traj_epsilon-0.25.h5' and (a.recipe['epsilon'], a.recipe['noise']) == (.25, 0.)
    assert collect_dataset(collection_params(params, workers=2), 'medium', output_path=str(copy/'two.h5')).sha256 == a.sha256
    verify_dataset(a.path, params)
    card = (a.path.parent/'README.md').read_text()
    assert 'sampling, epsilon 0.25; on 25% of turns' in card and 'log_probs are those of what played, the mixture' in card
    mode = collect_dataset(collection_params(tiny(), num_trajectories=10, deterministic=True, noise=.1), 'medium')
    assert 'log_probs' not in Dataset(mode).keys() and mode.recipe['deterministic']
    assert len({o.path for o in artifacts(a.path.parent)}) == 3

def test_exploration_on_the_line(copy):
    said = papermill(copy, '30_collect', '-p', 'quality', 'medium', '-p', 'epsilon', '1', '-p', 'noise', '0.5', '-p', 'num_trajectories', '10')
    assert said.returncode == 0, said.stderr
    assert (copy/'tiny'/'offline_datasets'/'medium'/f'{ENV}_medium_10traj_epsilon-1.0_noise-0.5.h5').is_file()

@pytest.mark.parametrize('ask, says', [
    (lambda: collect_dataset(collection_params(tiny(), epsilon=.1), 'random'), 'uniform already'), (lambda: collection_params(tiny(), epsilon=2.), "'collection.epsilon' is 2.0"),
    (lambda: collection_params(tiny(), noise=-1.), "'collection.noise' is -1.0"),
    (lambda: collect_dataset(tiny(), 'medium', select_checkpoint='score'), f'params/references.yaml has none for {ENV}'),
    (lambda: collect_dataset(tiny(), 'medium', select_checkpoint='scores'), "Did you mean 'score'?")], ids=range(5))
def test_what_cannot_be_collected_leaves_nothing(copy, monkeypatch, ask, says):
    monkeypatch.setattr(inspection, 'reference', lambda env: None)
    before = files(copy)
    with pytest.raises(SlateRLError) as e: ask()
    assert says in str(e.value) and files(copy) == before

def test_medium_by_score_needs_its_own_approval_and_tells_the_scores(copy, monkeypatch):
    returns = {k: training.evaluate(training.load_policy(a), a_params.env, 20, 'validation', deterministic=False)[1]['return_mean']
               for a_params in [tiny()] for k, a in checkpoints(a_params).items() if k.startswith('step')}
    monkeypatch.setattr(inspection, 'reference', lambda env: dict(env=ENV, random=returns['step60'] - 1000, expert=returns['step60'] + 1000))
    with pytest.raises(SlateRLError, match='--model-checkpoint step60'): collect_dataset(tiny(), 'medium', select_checkpoint='score')
    approve(tiny(), note=NOTE, model_checkpoint='step60')
    a = collect_dataset(collection_params(tiny(), num_trajectories=10), 'medium', select_checkpoint='score')
    assert a.recipe['inputs']['checkpoint'] == ckpt('step60').sha256 and '-p model_checkpoint step60' in a.provenance['command']
    assert list(a.provenance['scores']) == ['step0', 'step20', 'step40', 'step60'] and abs(a.provenance['scores']['step60'] - 50) < .01

def test_the_verdict_warns_of_a_medium_that_is_none(here, monkeypatch):
    monkeypatch.setattr(inspection, 'reference', lambda env: dict(env=ENV, random=0., expert=1.))
    warnings = inspection.inspect_checkpoint(tiny()).warnings
    assert any('as it would collect' in o and 'outside 20 to 80' in o for o in warnings), warnings

def test_a_verified_dataset_says_how_far_above_random_slates_it_is(copy):
    path = newest_dataset(tiny(), 'medium')
    _, m = verify_dataset(path, tiny())
    assert m['difference'] == pytest.approx(m['return_mean'] - m['random_return']) and m['difference_ci95'] > 0 and 0 <= m['above_random'] <= 1
    card = (path.parent/'README.md').read_text()
    assert f"{m['difference']:+.1f} +- {m['difference_ci95']:.1f}" in card
    for told in ('## How to load', '## Licence', '## Citation', '| `actions` | (transitions, 32) | float32 |', '| `oracle/users` |', '3,000 transitions', 'approved by the tester', 'Ranker GeMS: latent_dim 32',
                 'Make it again: `papermill nbs/30_collect.ipynb'): assert told in card, told
