"""The whole chain, as a person types it: what it leaves, what it says, and that it is made once."""
import json, re
from urllib.parse import unquote

import pytest

from chain import ENV, NOTE, checkpoint, contents, dataset, files, papermill, printed, tiny
from offline_slate_rl.collection.approval import approvals
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.core.params import registry
from offline_slate_rl.core.files import load_tensors
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.store import Artifact, artifacts, flatten
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.checkpoints import checkpoints, run_name
from offline_slate_rl.training.online import train

REPORTS = ['10_pretrain', '20_train', 'medium/25_inspect', 'random/30_collect', 'medium/30_collect', 'medium/40_verify']


# Reports, logs, tables

def test_every_run_leaves_its_notebook_and_its_report_and_nothing_elsewhere(chain):
    folder = chain.outputs/'tiny'/'reports'/ENV
    left = {str(path.relative_to(folder)) for path in folder.rglob('*') if path.is_file()}
    assert left == {f'{report}.{kind}' for report in REPORTS for kind in ('ipynb', 'html')}
    assert not chain.strays
    assert not [name for name in files(chain.outputs, ()) if re.search(r'\.tmp$|\.blocks|\.resume$', name)]
    for said in chain.said.values(): assert 'Traceback' not in said and 'Warning' not in said, said

def test_reports_link_to_each_other_and_an_index_to_all(chain):
    folder = chain.outputs/'tiny'/'reports'
    index = (folder/'index.html').read_text()
    for report in REPORTS: assert f'<a href="{ENV}/{report}.html">' in index
    assert index.count('<tr class="done">') == len(REPORTS)
    for page in folder.rglob('*.html'):
        for link in re.findall(r'<a href="([^"#:]+)">', page.read_text()):
            assert (page.parent/unquote(link)).is_file(), f'{page}: {link}'
    training = (folder/ENV/'20_train.html').read_text()
    assert '← <a href="10_pretrain.html">' in training and '<a href="medium/25_inspect.html">' in training
    assert '<dt>took</dt>' in training and '<dt>hardware</dt>' in training and 'tensorboard --logdir' in training

@pytest.mark.parametrize('report', REPORTS)
def test_no_bar_stays_in_a_notebook(chain, report):
    assert not re.search(r'\d\d:\d\d left', (chain.outputs/'tiny'/'reports'/ENV/f'{report}.ipynb').read_text())

@pytest.mark.parametrize('report', REPORTS)
def test_a_report_reads_well_without_a_network(chain, report):
    page = (chain.outputs/'tiny'/'reports'/ENV/f'{report}.html').read_text()
    assert 'scale tiny: a rehearsal' in page
    assert 'data:image/png;base64,' in page
    for wrong in 'Traceback', 'load_params(', 'import ', 'skip_exec': assert wrong not in page, wrong
    executed = (chain.outputs/'tiny'/'reports'/ENV/f'{report}.ipynb').read_text()
    assert not re.search(r'[a-z]Warning\b', page + executed)  # Python's; the verdict's own are words of ours
    address = r'["\']?(?:https?:)?//'
    assert not re.search(rf'<(?:script|link)\b|@import|src\s*=\s*{address}|url\(\s*{address}', page, re.IGNORECASE)

def test_the_log_of_training_has_the_lines_that_are_grepped_for(chain):
    log = (chain.outputs/'tiny'/'logs'/ENV/'20_train.log').read_text()
    lines = [line[20:] for line in log.splitlines()]  # without the time
    assert lines[0].startswith(f'COMMAND papermill nbs/20_train.ipynb -p env {ENV}')
    order = [r'Action bounds: centre -?\d', r'VALIDATION @ Step 0$',
             r'\[Training Step 10/60\] \(16\.7%\) - Episode Reward: \d+\.\d{4}, Length: 100$',
             r'### TARGET STEP REACHED: 40 ###$', r'VALIDATION @ Step 40$', r'VALIDATION @ Step 60$',
             r'TEST step40 ', r'TEST best ', r'DONE$']
    found = [next((number for number, line in enumerate(lines) if re.match(pattern, line)), None) for pattern in order]
    assert None not in found and found == sorted(found), dict(zip(order, found))
    validations = [number for number, line in enumerate(lines) if line.startswith('VALIDATION')]
    assert all('Mean Reward:' in lines[number + 1] for number in validations)

def test_a_saved_step_is_the_agent_after_exactly_that_many_steps(here):
    found = checkpoints(tiny())
    assert list(found) == ['step0', 'step20', 'step40', 'step60', 'best', 'last']
    content = [load_tensors(found[name].path) for name in ('step0', 'step20', 'step40', 'step60')]
    assert [(saved['steps'], saved['updates']) for saved in content] == [(0, 0), (20, 0), (40, 20), (60, 40)]
    assert run_name(tiny()) == (f'SAC+GeMS_Medium_GeMS_{ENV}_latentdim32_beta1.0_lambdaclick0.5_lambdaprior0.0_scratch_'
                                'seed58407201_agentseed58407201_gamma0.8')

def test_without_an_approval_nothing_is_collected(chain):
    sentence = chain.said['refused'].strip().splitlines()[-1]
    assert 'has no approval to collect medium data by sampling' in sentence
    assert f'slate-rl approve {ENV} medium --scale tiny' in sentence
    assert chain.refused == chain.unapproved

def test_the_approval_says_who_why_and_of_what(chain, here):
    [record] = approvals(tiny(), 'medium').values()
    assert (record['by'], record['note'], record['how']) == ('the tester', NOTE, 'sampling')
    assert (record['sha256'], record['file']) == (checkpoint('step40').sha256, checkpoint('step40').path.name)
    shown = {'random slates', 'short-term oracle', 'step0', 'step40', 'step40, yoked', 'best', 'last'}
    assert shown <= record['figures']['returns'].keys()
    assert 'approved to collect medium data, by the tester' in chain.said['approve']

def test_the_card_has_its_table_filled_in(chain):
    card = (chain.outputs/'tiny'/'offline_datasets'/'medium'/'README.md').read_text()
    row = next(line for line in card.splitlines() if line.startswith(f'| {ENV} |'))
    assert re.match(rf'\| {ENV} \| agent step40 \| 30 \| \d+\.\d\d / \d+\.\d\d / \d+ / \d+ \| \d+\.\d\d / ', row)
    assert re.search(r'\| (\d+) of \1 \|$', row)
    assert 'approved by the tester' in card and NOTE in card

def test_status_show_and_verify_tell_what_there_is(copy, capsys):
    verify_dataset(dataset('random'), tiny())
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    said = capsys.readouterr().out
    for told in '200 trajectories', 'GeMS trained', 'done, 60 steps', '4, similar size', 'by the tester':
        assert told in said, told
    assert len(re.findall(r'checks passed.*card', said)) == 2 and said.count('.html') == 1
    assert max(map(len, said.splitlines()[:13])) <= 120 and 'missing' not in said
    assert cli.main(['status', '--scale', 'tiny']) == 0
    said = capsys.readouterr().out
    assert set(registry()) <= set(re.findall(r'^\w+', said, re.MULTILINE))
    assert max(map(len, said.splitlines()[:len(registry()) + 3])) <= 120 and 'missing' not in said

    for artifact in artifacts(copy):
        assert cli.main(['show', str(artifact.path)]) == 0
        said = capsys.readouterr().out
        assert artifact.sha256 in said and '(whole)' in said
        assert said.strip().splitlines()[-1].strip().startswith('papermill nbs/')
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 0
    assert '2 passed, 0 failed' in capsys.readouterr().out


# Made once

def test_a_second_run_reuses_and_says_so(copy):
    before = files(copy)
    process = papermill(copy, '20_train')
    assert process.returncode == 0, process.stderr
    assert files(copy) == before
    said = printed(copy/'tiny'/'reports'/ENV/'20_train.ipynb')
    assert re.search(r'Reused \S+_last\.ckpt, trained for 60 steps \(force trains again\)', said)

def every_stage(force: bool = False) -> list[Artifact]:
    "Artifacts of every stage, made or found."
    params = tiny()
    logged = log_trajectories(params, force)
    stages = pretrain_mf, pretrain_click_model, pretrain_gems
    pretrained = [pretrain(params, logged, force=force) for pretrain in stages]
    trained = train(params, force).checkpoints.values()
    collected = [collect_dataset(params, quality, force=force) for quality in ('random', 'medium')]
    return [logged, *pretrained, *trained, *collected]

def test_a_commit_a_date_or_a_host_is_recorded_and_never_compared(copy, capsys):
    another = dict(git_commit='0'*40, made='1999-01-01T00:00:00+00:00', host='another', packages={}, python='2.7')
    never = {'git_commit', 'commit', 'made', 'host', 'workers', 'packages', 'wall_seconds'}
    for artifact in artifacts(copy):
        manifest = {**artifact.manifest, 'provenance': artifact.provenance | another}
        manifest_path(artifact.path).write_text(json.dumps(manifest))
        assert not never & {key.split('.')[-1] for key in flatten(artifact.recipe)}
    before = files(copy)
    kept = {artifact.path for artifact in artifacts(copy) if artifact.kind not in ('replay', 'inspection')}
    assert {artifact.path for artifact in every_stage()} == kept
    assert files(copy) == before and capsys.readouterr().out.count('Reused') == 7

def test_force_makes_the_same_bytes_again(copy):
    bytes_before, before = contents(copy), files(copy)
    made = every_stage(force=True)
    assert contents(copy) == bytes_before
    after = files(copy)
    assert after.keys() == before.keys()
    for artifact in made:
        name = str(artifact.path.relative_to(copy))
        assert after[name][1] > before[name][1], name

def test_force_on_the_line(copy):
    bytes_before, path = contents(copy), dataset('medium')
    written = path.stat().st_mtime_ns
    process = papermill(copy, '30_collect', '-p', 'quality', 'medium', '-p', 'force', 'True')
    assert process.returncode == 0, process.stderr
    assert contents(copy) == bytes_before and path.stat().st_mtime_ns > written
