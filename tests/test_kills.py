"""Each stage killed with -9 at random moments: no artifact is half-written, and the next run ends at the same bytes.

SLATE_RL_KILLS says how often a stage is killed: `make nightly` does it 50 times, `make test` twice.
"""
import hashlib, multiprocessing, os, random, shutil, time
from pathlib import Path

import pytest

from chain import ENV, contents, dataset, tiny
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.export import export_dataset
from offline_slate_rl.core.store import artifacts, load_artifact
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.online import train

KILLS = int(os.environ.get('SLATE_RL_KILLS', 2))
FORMATS = 'minari', 'npz', 'parquet', 'pkl'


# What is killed, and what it finds there

def pretrain():
    logged = log_trajectories(tiny())
    for pretrain in pretrain_mf, pretrain_click_model, pretrain_gems: pretrain(tiny(), logged)

def collect():
    for quality in 'random', 'medium': collect_dataset(collection_params(tiny(), workers=1), quality)

def export():
    for to in FORMATS: export_dataset(dataset('medium'), to)

STAGES = dict(pretrain=pretrain, train=lambda: train(tiny()), collect=collect,
              verify=lambda: verify_dataset(dataset('medium'), tiny()),
              mix=lambda: cli.main(f'mix {ENV} random=1/2 medium=1/2 --num-trajectories 10 --belief best'.split()),
              export=export)
REMOVED = dict(pretrain=['.'], train=['checkpoints'], collect=['offline_datasets'])  # before the stage runs

def undo(stage: str, outputs: Path):
    "What was there before a stage ran."
    for name in REMOVED.get(stage, []): shutil.rmtree(outputs/'tiny'/name)
    for path in outputs.rglob('*.verified.json'): path.unlink()


# Processes

def run_stage(stage: str, outputs: str, said: str):
    "A process: what a stage prints goes to the file `said`."
    file = os.open(said, os.O_WRONLY|os.O_CREAT|os.O_APPEND)
    for stream in 1, 2: os.dup2(file, stream)
    os.environ |= dict(SLATE_RL_OUTPUTS=outputs, SLATE_RL_SCALE='tiny')
    STAGES[stage]()

def started(stage: str, outputs: Path, said: Path):
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['test_kills'])  # a new process then costs no imports
    process = context.Process(target=run_stage, args=(stage, str(outputs), str(said)))
    process.start()
    return process

def whole(outputs: Path) -> dict[str, str]:
    "sha256 of all that a stage leaves for others; an error where an artifact is not what its manifest says."
    for artifact in artifacts(outputs): load_artifact(artifact.path, verify=True)
    datasets = outputs/'tiny'/'offline_datasets'
    exported = [path for to in FORMATS for path in datasets.rglob(f'*{to}*') if path.is_file()]
    made = contents(outputs)
    made.pop(('checkpoint', 'last'), None)  # it is there to go on from, and holds how long that took
    return made | {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in exported}

@pytest.mark.parametrize('stage', STAGES)
def test_a_killed_stage_leaves_nothing_half_and_goes_on_to_the_same_bytes(stage, chain, tmp_path):
    untouched, said, chance = tmp_path/'untouched', tmp_path/'said', random.Random(0)
    shutil.copytree(chain.outputs, untouched)
    undo(stage, untouched)
    def run(outputs: Path):
        process = started(stage, outputs, said)
        process.join()
        assert process.exitcode == 0, said.read_text()
    undisturbed = tmp_path/'undisturbed'
    shutil.copytree(untouched, undisturbed)
    run(undisturbed)  # the first one waits for imports
    expected = whole(undisturbed)
    shutil.rmtree(undisturbed)
    shutil.copytree(untouched, undisturbed)
    began = time.monotonic()
    run(undisturbed)
    takes = time.monotonic() - began
    assert whole(undisturbed) == expected
    for kill in range(KILLS):
        outputs = tmp_path/f'killed{kill}'
        shutil.copytree(untouched, outputs)
        process = started(stage, outputs, said)
        time.sleep(chance.uniform(0, takes))
        process.kill()
        process.join()
        whole(outputs)
        run(outputs)
        assert whole(outputs) == expected
        assert not [path for path in outputs.rglob('.*') if path.is_file()]
        shutil.rmtree(outputs)
