"""Every line that is printed or recorded comes back from a shell as what was asked, whatever a value holds."""
import json, subprocess
from pathlib import Path
from types import SimpleNamespace

import papermill.cli, pytest, yaml

from chain import ENV, dataset, tiny
from offline_slate_rl.collection.approval import approve_command
from offline_slate_rl.collection.collect import verify_command
from offline_slate_rl.collection.mixtures import mixture_command
from offline_slate_rl.collection.published import import_command
from offline_slate_rl.core.store import Artifact, load_artifact
from offline_slate_rl.data.loading import collect_command
from offline_slate_rl.data.logged import pretrain_command
from offline_slate_rl.pipeline import cli
from offline_slate_rl.training.checkpoints import train_command

HOSTILE = ["it's $(touch x) `y`", '"z" & | ; * ? ~ !! # % <a>', '-x y.pt', 'a\nb', 'ü 漂移', '\\', '$HOME', '{a: 1}',
           '1e5']
every = pytest.mark.parametrize('value', HOSTILE)


def words(line: str) -> list[str]:
    "A line as `sh` takes it apart, without the program's name."
    process = subprocess.run(['sh', '-c', f"printf '%s\\0' {line}"], capture_output=True, check=True)
    return process.stdout.decode().split('\0')[1:-1]

def asked_of_papermill(line: str) -> dict:
    "The parameters that papermill reads on a line."
    context = papermill.cli.papermill.make_context('papermill', words(line))
    return yaml.safe_load(context.params['parameters_yaml'][0])

def asked(line: str): return cli._parser().parse_args(words(line))

@every
def test_lines_for_papermill(elsewhere, value):
    params = tiny(overrides={'env.item_embeddings': value})
    for line in pretrain_command(params), train_command(params):
        assert asked_of_papermill(line)['overrides'] == params.overrides
    given = dict(output_path=value, model_checkpoint=value, overrides=params.overrides)
    found = asked_of_papermill(collect_command(ENV, 'medium', 'tiny', **given))
    assert {name: found[name] for name in given} == given

@every
def test_the_line_that_verifies(here, value):
    artifact = load_artifact(dataset('medium'), verify=False)
    moved = Artifact(Path('/tmp', value), artifact.manifest)
    assert asked_of_papermill(verify_command(tiny(), 'medium', moved))['dataset'] == str(moved.path)

@every
def test_lines_for_our_own_command(value):
    params = tiny(overrides={'env.item_embeddings': value})
    imported = asked(import_command(Path('/tmp', value), 'logged', params))
    assert imported.path == Path('/tmp', value) and json.loads(imported.overrides) == params.overrides
    sources = {quality: SimpleNamespace(recipe=dict(behaviour=dict(name='random'))) for quality in ('random', 'medium')}
    mixed = asked(mixture_command(params, sources, dict(random='1/2', medium='1/2'), 10, 1, value, value))
    assert (mixed.belief, mixed.actions, json.loads(mixed.overrides)) == (value, value, params.overrides)
    assert mixed.shares == ['random=1/2', 'medium:random=1/2']
    approved = asked(approve_command(params, 'medium', value))
    assert (approved.model_checkpoint, json.loads(approved.overrides)) == (value, params.overrides)
