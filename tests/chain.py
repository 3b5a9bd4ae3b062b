"""The pipeline at scale tiny, for tests: lines as a person types them, in real processes, and what they leave."""
import hashlib, json, os, subprocess, sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import h5py, matplotlib.pyplot as plt, nbformat, torch

from offline_slate_rl.collection.approval import approve
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.core.files import sha256_file
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.params import Params, load_params
from offline_slate_rl.core.store import Artifact, artifacts
from offline_slate_rl.data.loading import find_dataset
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.checkpoints import find_checkpoint
from offline_slate_rl.training.online import train

TESTS = Path(__file__).resolve().parent
REPO, PROGRAMS = TESTS.parent, Path(sys.executable).parent
ENV, NOTE = 'focused_mix', 'a rehearsal'
RECORDS = 'logs', 'reports', 'results', 'inspections'  # a run that fails may say so there; what was measured stays


# Processes

def environment(outputs: Path, threads: int = 1) -> dict[str, str]:
    return os.environ | dict(SLATE_RL_OUTPUTS=str(outputs), SLATE_RL_SCALE='tiny', OMP_NUM_THREADS=str(threads))

def typed(outputs: Path, program: str, *words) -> subprocess.CompletedProcess:
    "What a person types in the repository, with its output."
    line = [str(PROGRAMS/program), *map(str, words)]
    return subprocess.run(line, cwd=REPO, env=environment(outputs), stdin=subprocess.DEVNULL,
                          capture_output=True, text=True)

def papermill(outputs: Path, notebook: str, *words) -> subprocess.CompletedProcess:
    return typed(outputs, 'papermill', f'nbs/{notebook}.ipynb', '-p', 'env', ENV, *words)

def together(*calls: tuple) -> list:
    "Results of calls, (function, its arguments ...), that wait for processes: all at once."
    with ThreadPoolExecutor() as pool:
        running = [pool.submit(*call) for call in calls]
        return [call.result() for call in running]

def python(outputs: Path, code: str, threads: int = 1) -> subprocess.Popen:
    "A Python process in a session of its own, which knows this file."
    code = f'import sys; sys.path.insert(0, {str(TESTS)!r}); from chain import *; {code}'
    return subprocess.Popen([sys.executable, '-c', code], cwd=REPO, env=environment(outputs, threads),
                            start_new_session=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def run_cells(notebook: str, **given) -> dict:
    "Run a pipeline notebook's cells in this process: the parameters, what is given, the rest; its names."
    names = {}
    for cell in nbformat.read(REPO/'nbs'/f'{notebook}.ipynb', as_version=4).cells:
        if cell.cell_type != 'code': continue
        exec(cell.source, names)
        if 'parameters' in cell.metadata.get('tags', []): names |= given
    plt.close('all')
    return names

def last_line(process: subprocess.CompletedProcess) -> str: return process.stderr.strip().splitlines()[-1]

def printed(notebook: Path) -> str:
    "What an executed notebook printed."
    cells = nbformat.read(notebook, as_version=4).cells
    outputs = [output for cell in cells for output in cell.get('outputs', [])]
    return ''.join(output.text for output in outputs if output.output_type == 'stream' and output.name == 'stdout')


# Files

def files(outputs: Path, but: tuple = RECORDS) -> dict[str, list]:
    "Every file, hidden ones too, with its sha256 and when it was written."
    found = {}
    for path in sorted(outputs.rglob('*')):
        name = path.relative_to(outputs)
        if not path.is_file() or set(but) & set(name.parts): continue
        found[str(name)] = [hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns]
    return found

def contents(outputs: Path) -> dict[tuple[str, str], str]:
    "sha256 of every artifact, by what it is rather than by where it lies."
    found = {}
    for artifact in artifacts(outputs):
        which = artifact.recipe.get('checkpoint') or artifact.recipe.get('quality') or ''
        found[artifact.kind, which] = artifact.sha256
    return found

def repository() -> set[str]:
    "Every file of the repository, outputs included, but for what tools keep for themselves."
    found = set()
    for folder, folders, names in os.walk(REPO):
        folders[:] = [name for name in folders if name[0] != '.' and name != '__pycache__']
        found |= {str(Path(folder, name).relative_to(REPO)) for name in names}
    return found

def cut(path: Path): path.write_bytes(path.read_bytes()[:-100])

def edit(dataset: Path):
    "Change one reward; the file stays a good HDF5 file."
    with h5py.File(dataset, 'r+') as file: file['rewards'][7] = 9.

def sign(path: Path):
    "Give the manifest the sum of the file as it is now, as a forger would."
    manifest = json.loads(manifest_path(path).read_text())
    manifest_path(path).write_text(json.dumps(manifest | dict(sha256=sha256_file(path))))

def remove(artifact: Artifact):
    artifact.path.unlink()
    manifest_path(artifact.path).unlink()


# Parameters and artifacts

def tiny(env: str = ENV, overrides: dict|None = None, seed: int|None = None, agent: str = 'SAC+GeMS') -> Params:
    return load_params(env, agent, seed, 'tiny', overrides)

def checkpoint(name: str) -> Artifact: return find_checkpoint(tiny(), name)

def dataset(quality: str) -> Path: return find_dataset(tiny(), quality).path

def the(kind: str) -> Artifact:
    "The logged trajectories, the item table, the ranker, or the checkpoint that may collect."
    if kind == 'checkpoint': return checkpoint('step40')
    return artifacts(tiny().outputs, kind)[0]

def item_file(folder: Path, rows: int = 1000) -> Path:
    "An item table of equal items."
    path = folder/f'items{rows}.pt'
    torch.save(torch.full((rows, 20), .1), path)
    return path


# The chain

def chain_by_calls(params: Params, workers: int = 1) -> dict[str, list]:
    "The whole chain; the checks of each quality's dataset."
    logged = log_trajectories(params)
    for pretrain in pretrain_mf, pretrain_click_model, pretrain_gems: pretrain(params, logged)
    train(params)
    approve(params, note=NOTE)
    collecting, checks = collection_params(params, workers=workers), {}
    for quality in 'random', 'medium':
        path = collect_dataset(collecting, quality).path
        checks[quality], _ = verify_dataset(path, params)
    return checks

@dataclass
class Chain:
    "What the notebooks left, run one after the other as a person would, and what each line said."
    folder: Path
    said: dict[str, str] = field(default_factory=dict)  # name of a line -> its stdout and stderr
    unapproved: dict = field(default_factory=dict)      # files before collecting was tried without an approval
    refused: dict = field(default_factory=dict)         # and afterwards
    strays: list = field(default_factory=list)          # files that appeared in the repository

    @property
    def outputs(self) -> Path: return self.folder/'outputs'
    @property
    def again(self) -> Path:
        "Outputs of the same by calls, in another process, with two workers."
        return self.folder/'again'

    def run(self, **lines: tuple):
        "Lines, (function, its arguments ...), at once; all succeed but the one called `refused`."
        calls = [(function, self.outputs, *words) for function, *words in lines.values()]
        for name, process in zip(lines, together(*calls)):
            assert bool(process.returncode) == (name == 'refused'), process.stderr
            self.said[name] = process.stdout + process.stderr

    def make(self):
        "Run the chain twice, side by side."
        second = python(self.again, 'chain_by_calls(tiny(), workers=2)', threads=2)
        before = repository()
        self.run(pretrain=(papermill, '10_pretrain'))
        self.run(train=(papermill, '20_train'))
        self.unapproved = files(self.outputs)
        self.run(inspect=(papermill, '25_inspect'), refused=(papermill, '30_collect', '-p', 'quality', 'medium'))
        self.refused = files(self.outputs)
        self.run(approve=(typed, 'slate-rl', 'approve', ENV, 'medium', '--note', NOTE, '--by', 'the tester'),
                 random=(papermill, '30_collect', '-p', 'quality', 'random'))
        self.run(medium=(papermill, '30_collect', '-p', 'quality', 'medium'))
        self.run(verify=(papermill, '40_verify', '-p', 'quality', 'medium'))
        self.strays = sorted(repository() - before)
        said, _ = second.communicate()
        assert second.returncode == 0, said

def shared_chain(folder: Path) -> Chain:
    "The chain in `folder`; made where it is not there."
    chain, kept = Chain(folder), folder/'chain.json'
    if kept.is_file():
        vars(chain).update(json.loads(kept.read_text()))
        return chain
    chain.make()
    figures = {name: value for name, value in vars(chain).items() if name != 'folder'}
    kept.write_text(json.dumps(figures))
    return chain
