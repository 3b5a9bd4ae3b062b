"""Each stage disturbed: killed, interrupted, without room, not allowed to write, with a clock that is set back, with a
file lost. Nothing is half-written, a person reads one sentence, and the next run ends at the same bytes.

SLATE_RL_TRIES says how often a stage is killed, interrupted and left without room: `make nightly` does each 50 times,
`make faults` 5 times, `make test` once.
"""
import contextlib, os, random, shutil, signal, time
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from chain import checkpoint, tiny
from faults import Tried
from offline_slate_rl.core import store
from offline_slate_rl.core.errors import DamagedError
from offline_slate_rl.core.files import ROOM
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.store import artifacts
from offline_slate_rl.training.checkpoints import checkpoints
from offline_slate_rl.training.loop import Keeper
from offline_slate_rl.training.online import train
from stages import STAGES, Ran, answer_of, can_mount, read_only, run_stage, small_disk, start, undo, whole

TRIES = int(os.environ.get('SLATE_RL_TRIES', 1))
needs_mounts = pytest.mark.skipif(not can_mount(), reason="this system gives a process no mounts of its own")


@dataclass
class Stage:
    "A stage, what was there before it, what is there after it, and how long it takes."
    name: str
    expected: dict[str, str]
    seconds: float
    folder: Path

    @property
    def said(self) -> Path: return self.folder/'said'
    @property
    def before(self) -> Path: return self.folder/'before'
    @property
    def after(self) -> Path: return self.folder/'after'

    def copy(self, of: Path|None = None) -> Path:
        "The outputs before the stage, or others, to disturb it in."
        outputs = self.folder/'outputs'
        if outputs.exists(): shutil.rmtree(outputs)
        return Path(shutil.copytree(of or self.before, outputs))

    def state(self, outputs: Path) -> str:
        "What is there."
        try: found = whole(outputs)
        except DamagedError: return 'half written'
        if found == whole(self.before): return 'as before'
        return 'done' if found == self.expected else 'in part'

    def ends_the_same(self, outputs: Path) -> bool:
        "Whether the next run gives what an undisturbed one gives."
        ran = answer_of(run_stage, outputs, self.said, self.name)
        return not ran.sentence and not ran.error and whole(outputs) == self.expected

@pytest.fixture(scope='module', params=STAGES)
def stage(request, chain, tmp_path_factory) -> Stage:
    folder, name = tmp_path_factory.mktemp(request.param), request.param
    shutil.copytree(chain.outputs, folder/'before')
    undo(name, folder/'before')
    shutil.copytree(folder/'before', folder/'after')
    ran = answer_of(run_stage, folder/'after', folder/'said', name)
    assert not ran.sentence and not ran.error, ran
    return Stage(name, whole(folder/'after'), ran.seconds, folder)


# At any moment

def disturbed(stage: Stage, number: int, chance: random.Random) -> tuple[Path, Ran|None]:
    "The outputs of a stage that got a signal at some moment; how it went, where it could say so."
    outputs = stage.copy()
    process, answer = start(run_stage, outputs, stage.said, stage.name)
    time.sleep(chance.uniform(0, stage.seconds))
    with contextlib.suppress(ProcessLookupError): os.kill(process.pid, number)  # it may have ended
    process.join()
    try: return outputs, answer.recv()
    except EOFError: return outputs, None

def test_killed(stage):
    chance = random.Random(0)
    with Tried('kill -9', stage.name) as tried:
        for _ in range(TRIES):
            outputs, _ = disturbed(stage, signal.SIGKILL, chance)
            tried.add(stage.state(outputs), stage.ends_the_same(outputs))
    assert tried.sound, tried.counts

def test_a_training_that_was_killed_before_its_first_checkpoint(copy, chain, monkeypatch):
    "What it goes on from is there already, at step 0."
    shutil.rmtree(copy/'tiny'/'checkpoints')
    def killed(*_): raise ZeroDivisionError('killed')
    with monkeypatch.context() as patch:
        patch.setattr(Keeper, 'validate', killed)
        with pytest.raises(ZeroDivisionError): train(tiny())
    assert list(checkpoints(tiny())) == ['last']
    train(tiny())
    assert whole(copy) == whole(chain.outputs)

def is_a_sentence(ran: Ran) -> bool: return not ran.error and '\n' not in ran.sentence

def test_interrupted(stage):
    "By Ctrl-C, wherever it comes: a stage that keeps a log says what is kept."
    chance = random.Random(1)
    with Tried('Ctrl-C', stage.name) as tried:
        for _ in range(TRIES):
            outputs, ran = disturbed(stage, signal.SIGINT, chance)
            told = ran is None or is_a_sentence(ran) or ran.error.strip().endswith('KeyboardInterrupt')
            if not told: print(ran.sentence, ran.error)
            tried.add(stage.state(outputs), stage.ends_the_same(outputs), told)
    assert tried.sound, tried.counts


# A disk that is full, or may not be written to

def without_room(stage: Stage, outputs: str, share: float, spare: int) -> tuple[str, Ran, bool]:
    "On a disk with room for a share of what the stage makes: what that leaves, how it went, whether it then goes on."
    small_disk(outputs, 2**28)
    shutil.copytree(stage.before, outputs, dirs_exist_ok=True)
    with open(Path(outputs, 'filler'), 'wb') as filler:
        free = int(share*grown(stage)) + spare
        filler.write(bytes(shutil.disk_usage(outputs).free - free))
    ran = run_stage(stage.name)
    state = stage.state(Path(outputs))
    Path(outputs, 'filler').unlink()
    again = run_stage(stage.name)
    return state, ran, not again.sentence and not again.error and whole(Path(outputs)) == stage.expected

def grown(stage: Stage) -> int:
    "Bytes that the stage adds to its outputs."
    def size(folder: Path) -> int: return sum(path.stat().st_size for path in folder.rglob('*') if path.is_file())
    return max(4096, size(stage.after) - size(stage.before))

@needs_mounts
def test_a_full_disk(stage):
    chance = random.Random(2)
    with Tried('full disk', stage.name) as tried:
        for number in range(TRIES):
            share, spare = chance.random(), (ROOM, 0)[number % 2]
            disk = stage.folder/'disk'
            state, ran, same = answer_of(without_room, disk, stage.said, stage, str(disk), share, spare)
            tried.add(state, same, is_a_sentence(ran))
    assert tried.sound, tried.counts

def not_writable(stage: Stage, outputs: str) -> Ran:
    read_only(outputs)
    return run_stage(stage.name)

@needs_mounts
def test_outputs_that_may_only_be_read(stage):
    outputs = stage.copy()
    with Tried('read-only outputs', stage.name) as tried:
        ran = answer_of(not_writable, outputs, stage.said, stage, str(outputs))
        tried.add(stage.state(outputs), stage.ends_the_same(outputs), is_a_sentence(ran))
    assert tried.sound, (tried.counts, ran)


# The clock

class SetBack(datetime):
    "A clock that goes back by a day each time that it is read."
    read = 0
    @classmethod
    def now(cls, tz=None):
        cls.read += 1
        return datetime.now(tz) - timedelta(days=cls.read)

def with_the_clock_set_back(stage: str) -> Ran:
    now, times = time.time(), iter(range(10**9))
    time.time = lambda: now - 86_400*next(times)
    store.datetime = SetBack
    return run_stage(stage)

def test_the_clock_is_set_back(stage):
    outputs = stage.copy()
    with Tried('clock set back', stage.name) as tried:
        ran = answer_of(with_the_clock_set_back, outputs, stage.said, stage.name)
        tried.add(stage.state(outputs), stage.ends_the_same(outputs), not ran.error)
    assert tried.sound and tried.counts['done'], (tried.counts, ran)
    took = [artifact.provenance.get('wall_seconds', 0) for artifact in artifacts(outputs)]
    assert min(took) >= 0

def test_training_is_saved_as_often_with_the_clock_set_back(copy, monkeypatch):
    "By a clock that is never set: here after every step."
    shutil.rmtree(copy/'tiny'/'checkpoints')
    saved, save_last = [], Keeper.save_last
    def counted(keeper, loop):
        saved.append(loop.steps)
        save_last(keeper, loop)
    monkeypatch.setattr(Keeper, 'save_last', counted)
    now, times = time.time(), iter(range(10**9))
    monkeypatch.setattr(time, 'time', lambda: now - 86_400*next(times))
    train(tiny(overrides={'training.save_last_every_minutes': 1e-9}))
    assert saved == list(range(61)) and checkpoint('last').provenance['wall_seconds'] > 0


# A file is lost

def lost_files(stage: Stage) -> list[Path]:
    "Artifacts that the stage makes, relative to the outputs."
    there, made = ({artifact.path.relative_to(folder) for artifact in artifacts(folder)}
                   for folder in (stage.before, stage.after))
    return sorted(made - there)

LOST = {'file without its manifest': manifest_path, 'manifest without its file': lambda path: path}

@pytest.mark.parametrize('fault', LOST)
def test_a_lost_file(stage, fault):
    "It is made again, or a sentence says that it is to be made with force."
    made = lost_files(stage)
    if not made: pytest.skip(f'{stage.name} makes no artifact')
    with Tried(fault, stage.name) as tried:
        for path in random.Random(3).sample(made, min(TRIES, len(made))):
            outputs = stage.copy(stage.after)
            LOST[fault](outputs/path).unlink()
            ran = answer_of(run_stage, outputs, stage.said, stage.name)
            state = stage.state(outputs)
            if state != 'done': answer_of(run_stage, outputs, stage.said, stage.name, True)
            tried.add(state, whole(outputs) == stage.expected, is_a_sentence(ran))
    assert tried.sound, tried.counts
