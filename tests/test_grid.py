"""The grid at scale tiny: what it makes and leaves alone, where it stops, what failures and changed parameters do."""
import json, os, re, shutil, signal, subprocess, sys, time

import pytest

from chain import ENV, NOTE, PROGRAMS, RECORDS, REPO, contents, dataset, environment, files, tiny, typed
from offline_slate_rl.collection.approval import approvals_path
from offline_slate_rl.collection.verification import record_path
from offline_slate_rl.core.files import sha256_file
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.grid import Grid, goals
from offline_slate_rl.pipeline.grid_jobs import to_do

pytest.importorskip('snakemake', reason="the extra `grid` is not installed")
nightly = pytest.mark.skipif(not os.environ.get('SLATE_RL_NIGHTLY'), reason="takes minutes: make nightly")
BOTH = '--envs', f'{ENV},diffuse_mix', '--cores', 2

def grid(outputs, *words) -> subprocess.CompletedProcess: return typed(outputs, 'slate-rl', 'grid', *words)

def ran(process: subprocess.CompletedProcess) -> list[str]:
    "Stage, environment and quality of the jobs that Snakemake started."
    lines = re.findall(r'^Job \d+: slate-rl (.*)$', process.stdout + process.stderr, re.MULTILINE)
    told = [re.match(r'(?:stage )?(\S+) (\S+).*?(?:--quality (\S+)|$)', line).groups() for line in lines]
    return sorted(' '.join(filter(None, words)) for words in told)

def snakemake(outputs, *words) -> subprocess.CompletedProcess:
    folder = outputs/'tiny'/'grid'
    folder.mkdir(parents=True, exist_ok=True)
    line = [sys.executable, '-m', 'snakemake', '-s', REPO/'workflow'/'Snakefile', '--directory', folder, *words]
    return subprocess.run(list(map(str, line)), cwd=folder, env=environment(outputs), capture_output=True, text=True)


def test_one_environment_fails_another_goes_on_and_the_next_run_makes_what_is_missing(copy):
    in_the_way = copy/'tiny'/'logged'/'diffuse_mix'
    in_the_way.write_text('a file where a folder belongs')
    first = grid(copy, 'random', *BOTH)
    assert first.returncode == 1
    assert ran(first) == ['pretrain diffuse_mix', f'verify {ENV} random']  # all else of the first is there
    assert record_path(dataset('random')).is_file()
    assert re.search(r'(?s)failed: pretrain diffuse_mix_58407201, \S+\.log\n.*is a file, not a folder', first.stdout)
    assert (copy/'tiny'/'reports'/'diffuse_mix'/'10_pretrain_failed.ipynb').is_file()

    in_the_way.unlink()
    second = grid(copy, 'random', *BOTH)
    assert second.returncode == 0, second.stderr
    assert ran(second) == ['collect diffuse_mix random', 'pretrain diffuse_mix', 'verify diffuse_mix random']
    assert 'grid of tiny (random): 6 of 6 jobs done\n' in second.stdout

    for path in copy.rglob('*'): os.utime(path, (time.time() + 1000, time.time() + 1000 - len(path.name)))
    before = files(copy, (*RECORDS, 'grid'))
    third = grid(copy, 'random', *BOTH)
    assert 'Everything that can be done is done.' in third.stdout and not ran(third)
    assert files(copy, (*RECORDS, 'grid')) == before
    bare = snakemake(copy, '-n', 'random', '--config', f'envs={ENV},diffuse_mix')
    assert bare.returncode == 0 and not ran(bare), bare.stdout

def test_what_was_made_by_other_parameters_is_made_again(copy, capsys):
    made, manifest = sha256_file(dataset('medium')), manifest_path(dataset('medium'))
    manifest.write_text(manifest.read_text().replace('"block_size": 10', '"block_size": 5'))
    assert cli.main(['grid', 'medium', '--envs', ENV, '--dry']) == 0
    said = capsys.readouterr().out
    assert re.search(r'old: collect \S+_medium: block_size is 5 there, 10 is asked', said)
    assert re.search(r'old: verify \S+_medium: collect is done again', said)
    again = grid(copy, 'medium', '--envs', ENV)
    assert again.returncode == 0 and ran(again) == [f'collect {ENV} medium'], again.stderr
    assert sha256_file(dataset('medium')) == made  # so its verification still holds
    assert not to_do(Grid.of(dict(envs=ENV)), ['medium'])

def test_it_stops_where_a_person_decides_and_goes_on_from_there(copy, capsys):
    path = dataset('medium')
    for gone in path, manifest_path(path), record_path(path), approvals_path(tiny(), 'medium'): gone.unlink()
    words, asked = ['grid', 'medium', '--envs', ENV], Grid.of(dict(envs=ENV))
    assert cli.main(words) == 0
    said = capsys.readouterr().out
    assert 'Everything that can be done is done.' in said and '1 wait for a person' in said
    [report] = re.findall(r'read +(\S+\.html)', said)
    assert os.path.isfile(report)
    assert f'approve  slate-rl approve {ENV} medium --scale tiny' in said
    assert [job.stage for job in goals(asked, 'medium')] == ['inspect']
    assert cli.main(['approve', ENV, 'medium', '--note', NOTE]) == 0
    assert [f'{job.stage} {job.quality}' for job in to_do(asked, ['medium'])] == ['collect medium', 'verify medium']

def test_snakemake_plans_what_the_costs_are_of(copy):
    asked = dict(envs=ENV, algorithms='bc', approval='auto', seeds='1,58407201')
    bare = snakemake(copy, '-n', 'all', '--config', *(f'{name}={value}' for name, value in asked.items()))
    assert bare.returncode == 0, bare.stdout + bare.stderr
    assert len(ran(bare)) == len(to_do(Grid.of(asked), ['all'])) > 20

def test_on_a_gpu_all_trainings_of_an_agent_are_one_job(copy):
    bare = snakemake(copy, '-n', 'medium', '--config', f'envs={ENV},diffuse_mix', 'stacked=true', 'seeds=1,58407201')
    assert bare.returncode == 0, bare.stdout + bare.stderr
    for command in 'pretrain-many', 'train-many':
        [line] = re.findall(rf'slate-rl {command} .*', bare.stdout + bare.stderr)
        many = f'slate-rl {command} --envs {ENV},diffuse_mix --seeds 1,58407201 --agent SAC+GeMS --scale tiny'
        assert line == f'{many} --log'
    assert [job for job in ran(bare) if job.startswith(('pretrain ', 'train '))] == []
    assert len([job for job in ran(bare) if job.startswith('inspect ')]) == 3  # one was inspected before

def test_what_is_trained_as_one_leaves_the_records_of_its_jobs(copy):
    asked = Grid.of(dict(envs='diffuse_mix'))
    for command, following in ('pretrain-many', 'train'), ('train-many', 'inspect'):
        words = '--envs', 'diffuse_mix', '--seeds', '58407201,', '--scale', 'tiny', '--log'
        made = typed(copy, 'slate-rl', command, *words)
        assert made.returncode == 0, made.stdout + made.stderr
        first = next(iter(to_do(asked, ['medium'])))
        assert first.stage == following
    [record] = (copy/'tiny'/'grid'/'train').glob('diffuse_mix*.json')
    assert json.loads(record.read_text())['line'].startswith('slate-rl train-many --envs diffuse_mix')


@nightly
def test_killed_in_the_middle_and_begun_again_it_makes_the_same(chain, elsewhere):
    words = ['all', *BOTH, '--approval', 'auto', '--algorithms', 'bc']
    line = [str(PROGRAMS/'slate-rl'), 'grid', *map(str, words)]
    killed = subprocess.Popen(line, cwd=REPO, env=environment(elsewhere), start_new_session=True,
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(elsewhere.rglob('*_step20.ckpt.manifest.json')): time.sleep(.1)
    os.killpg(killed.pid, signal.SIGKILL)
    again = grid(elsewhere, *words)
    assert again.returncode == 0, again.stdout + again.stderr
    made, here = contents(elsewhere/'tiny'/'offline_datasets'/'medium'), dataset('medium')
    assert sha256_file(here) in made.values()
    theirs = chain.outputs/here.relative_to(elsewhere)
    assert sha256_file(here) == sha256_file(theirs)
    assert not to_do(Grid.of(dict(envs=f'{ENV},diffuse_mix', approval='auto', algorithms='bc')), ['all'])

@nightly
def test_trained_as_one_each_has_its_record_and_what_comes_after_goes_on(copy):
    words = 'medium', *BOTH, '--seeds', '1,58407201', '--stacked'
    process = grid(copy, *words)
    assert process.returncode == 0, process.stdout + process.stderr
    assert '3 wait for a person' in process.stdout and 'failed' not in process.stdout
    for stage in 'pretrain', 'train':
        records = [json.loads(path.read_bytes()) for path in (copy/'tiny'/'grid'/stage).glob('*.json')]
        assert len(records) == 3 and all(record['line'].startswith(f'slate-rl {stage}-many') for record in records)
    [log] = (copy/'tiny'/'grid'/'train').glob('*.log')
    assert '4 trainings of SAC+GeMS, 1 of them finished before' in log.read_text()
    assert 'Everything that can be done is done.' in grid(copy, *words).stdout


def test_on_slurm_shards_of_a_collection_are_an_array_and_make_the_same_bytes(copy, tmp_path):
    path = dataset('random')
    made = sha256_file(path)
    for gone in path, manifest_path(path): gone.unlink()
    profile = tmp_path/'slurm'
    shutil.copytree(REPO/'workflow'/'profiles'/'slurm', profile)
    config = (profile/'config.yaml').read_text().replace('status-checks: 20', 'status-checks: 2')
    (profile/'config.yaml').write_text(config + 'slurm-status-command: squeue\n')  # this cluster keeps no accounts
    line = [REPO/'tests'/'one_node_slurm.sh', PROGRAMS/'slate-rl', 'grid', 'random', '--envs', ENV, '--shards', 2,
            '--profile', profile]
    process = subprocess.run(list(map(str, line)), cwd=REPO, env=environment(copy), capture_output=True, text=True)
    if process.returncode == 77: pytest.skip(f"No SLURM on this machine: {process.stderr.strip()}")
    assert process.returncode == 0, process.stdout + process.stderr
    assert 'Submitted array job' in process.stderr
    assert sha256_file(path) == made
