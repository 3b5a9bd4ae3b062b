"""The stages of the pipeline as processes of their own, to be disturbed: what each leaves, and how it is told apart."""
import ctypes, hashlib, json, multiprocessing, os, shutil, signal, time, traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Callable
from unittest.mock import patch

from chain import ENV, TESTS, contents, dataset, tiny
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.export import export_dataset
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.store import artifacts, load_artifact
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.pipeline import cli
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.online import train

FORMATS = 'minari', 'npz', 'parquet', 'pkl'


# The stages

def pretrain(force: bool = False):
    logged = log_trajectories(tiny(), force)
    for pretrain in pretrain_mf, pretrain_click_model, pretrain_gems: pretrain(tiny(), logged, force=force)

def collect(force: bool = False):
    for quality in 'random', 'medium': collect_dataset(collection_params(tiny(), workers=1), quality, force=force)

def mix(force: bool = False):
    line = f'mix {ENV} random=1/2 medium=1/2 --num-trajectories 10 --belief best'.split()
    args = cli._parser().parse_args(line + ['--force']*force)
    cli.COMMANDS['mix'][2](args)

def derive(force: bool = False): load_dataset(ENV, 'medium', belief='best')

def export(force: bool = False):
    for to in FORMATS:  # Minari would write into the user's home
        output = str(dataset('medium').parent/to) if to == 'minari' else ''
        export_dataset(dataset('medium'), to, output, force=force)

STAGES = dict(pretrain=pretrain, train=lambda force=False: train(tiny(), force), collect=collect,
              verify=lambda force=False: verify_dataset(dataset('medium'), tiny()), mix=mix, derive=derive,
              export=export)
REMOVED = dict(pretrain=['.'], train=['checkpoints'], collect=['offline_datasets'])  # before the stage runs

def undo(stage: str, outputs: Path):
    "What was there before a stage ran."
    for name in REMOVED.get(stage, []): shutil.rmtree(outputs/'tiny'/name)
    for path in outputs.rglob('*.verified.json'): path.unlink()

def whole(outputs: Path) -> dict[str, str]:
    "sha256 of all that a stage leaves for others; an error where an artifact is not what its manifest says."
    for artifact in artifacts(outputs): load_artifact(artifact.path, verify=True)
    datasets = outputs/'tiny'/'offline_datasets'
    exported = [path for to in FORMATS for path in datasets.rglob(f'*{to}*') if path.is_file()]
    made = {' '.join(which): sha256 for which, sha256 in contents(outputs).items()}
    made.pop('checkpoint last', None)  # it is there to go on from, and holds how long that took
    made |= {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in exported}
    return made | {path.name: _record(path) for path in datasets.rglob('*.verified.json')}

def _record(path: Path) -> str:
    "What a verification found, without when."
    return json.dumps(json.loads(path.read_text()) | dict(when=''))


# Processes

def _process(function: Callable, outputs: str, said: str, answer, *given):
    "The process: what it prints goes to the file `said`, what its function returns to the other end of a pipe."
    file = os.open(said, os.O_WRONLY|os.O_CREAT|os.O_APPEND)
    for stream in 1, 2: os.dup2(file, stream)
    os.environ |= dict(SLATE_RL_OUTPUTS=outputs, SLATE_RL_SCALE='tiny')
    signal.signal(signal.SIGINT, signal.default_int_handler)
    answer.send(function(*given))

def start(function: Callable, outputs: Path, said: Path, *given):
    "A process that has imported everything, and where its answer comes from."
    context = multiprocessing.get_context('forkserver')
    context.set_forkserver_preload(['stages'])
    reading, writing = context.Pipe(duplex=False)
    process = context.Process(target=_process, args=(function, str(outputs), str(said), writing, *given))
    search = os.pathsep.join([str(TESTS), os.environ.get('PYTHONPATH', '')])
    with patch.dict(os.environ, PYTHONPATH=search): process.start()  # the server knows no other way to this file
    writing.close()
    return process, reading

def answer_of(function: Callable, outputs: Path, said: Path, *given):
    "What a function returns in a process of its own."
    process, reading = start(function, outputs, said, *given)
    try: return reading.recv()
    except EOFError: raise AssertionError(said.read_text()) from None
    finally: process.join()

@dataclass(frozen=True)
class Ran:
    "How a stage went."
    seconds: float
    sentence: str  # of the error that stopped it; empty where it ended well
    error: str     # the traceback of one that is no sentence

def run_stage(stage: str, force: bool = False) -> Ran:
    began, sentence, error = time.monotonic(), '', ''
    try: STAGES[stage](force)
    except SlateRLError as stopped: sentence = str(stopped)
    except BaseException: error = traceback.format_exc()
    return Ran(time.monotonic() - began, sentence, error)


# A disk of one's own: mounted in a process's own view of the folders, so that it goes with the process

_libc = ctypes.CDLL(None, use_errno=True)
NEW_MOUNTS, NEW_USER = 0x20000, 0x10000000                       # of unshare(2)
READ_ONLY, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 32, 4096, 16384, 1 << 18  # of mount(2)

def _call(name: str, *given):
    if getattr(_libc, name)(*given): raise OSError(ctypes.get_errno(), f'{name}: {os.strerror(ctypes.get_errno())}')

def _mount(source: str, at: str, kind: str, flags: int, data: str = ''):
    _call('mount', source.encode(), at.encode(), kind.encode(), ctypes.c_ulong(flags), data.encode())

def own_mounts():
    "From here on, what this process mounts is its own; without root, as the root of a user namespace."
    user, group = os.getuid(), os.getgid()
    _call('unshare', NEW_MOUNTS | (NEW_USER if user else 0))
    if user:
        for file, text in ('setgroups', 'deny'), ('uid_map', f'0 {user} 1'), ('gid_map', f'0 {group} 1'):
            Path('/proc/self', file).write_text(text)
    _mount('none', '/', '', RECURSIVE | PRIVATE)

def small_disk(folder: str, size: int):
    "Put an empty disk of `size` bytes at a folder."
    own_mounts()
    os.makedirs(folder, exist_ok=True)
    _mount('tmpfs', folder, 'tmpfs', 0, f'size={size}')

def read_only(folder: str):
    own_mounts()
    _mount(folder, folder, '', BIND)
    _mount(folder, folder, '', BIND | REMOUNT | READ_ONLY)

def can_mount() -> bool:
    "Whether this system lets a process have mounts of its own."
    process = multiprocessing.get_context('fork').Process(target=own_mounts)
    process.start()
    process.join()
    return process.exitcode == 0
