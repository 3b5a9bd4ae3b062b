"""Random damage to everything that is read: what cannot be read is said in a sentence, whoever reads it.

SLATE_RL_FUZZ says how many cases each reader gets: `make nightly` tries 2,000, `make test` 40.
"""
import json, os, random
from pathlib import Path

import pytest, torch

from chain import checkpoint, dataset, sign, the, tiny
from offline_slate_rl.collection.card import write_card
from offline_slate_rl.collection.published import KINDS, import_published
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.params import load_params
from offline_slate_rl.core.store import load_artifact
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.pipeline.status import show, verify_path
from offline_slate_rl.training.checkpoints import load_policy

CASES = int(os.environ.get('SLATE_RL_FUZZ', 40))
JUNK = [None, True, 0, -1, 1e308, 10**30, '', 'x', '\ud800', '../..', [], [[]], {}, {'x': 1}, float('nan'),
        [1, 'x', None]]


# What is damaged

def damaged(content: bytes, chance: random.Random) -> bytes:
    "Some bits are flipped, mostly where a file says what it holds; now and then the file is cut."
    changed = bytearray(content)
    for _ in range(chance.choice([1, 1, 4, 40])):
        near = chance.choice([4000, len(content)])
        at = min(chance.randrange(near), len(content) - 1)
        changed[at if chance.random() < .5 else len(content) - 1 - at] ^= 1 << chance.randrange(8)
    return bytes(changed[:chance.randrange(len(changed))] if chance.random() < .05 else changed)

def altered(content, chance: random.Random):
    "One value of nested content is another one, or gone."
    if chance.random() < .2 or not isinstance(content, (dict, list)) or not content: return chance.choice(JUNK)
    keys = list(content) if isinstance(content, dict) else range(len(content))
    key, changed = chance.choice(list(keys)), content.copy()
    if isinstance(content, dict) and chance.random() < .1: del changed[key]
    else: changed[key] = altered(content[key], chance)
    return changed


# Trying

def fails_in_a_sentence(calls: dict) -> str:
    "Empty, or what a call raised that is no `SlateRLError`. In a process of its own: a library may crash."
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        said = ''
        silent = os.open(os.devnull, os.O_WRONLY)
        for stream in 1, 2: os.dup2(silent, stream)
        for name, call in calls.items():
            try: call()
            except SlateRLError: pass
            except BaseException as error: said += f'{name}: {error!r:.300} '
        os.write(write, said.encode('utf-8', 'replace')[:4000])
        os._exit(0)
    os.close(write)
    with open(read, 'rb') as pipe: said = pipe.read().decode('utf-8', 'replace')
    status = os.waitpid(child, 0)[1]
    return said or (f'the process ended with {status}' if status else '')

def readers(path: Path) -> dict:
    def read():
        data = load_dataset(path)
        data.episodes(), data.transitions(), data.sequences(5, 'left')
    return dict(read=read, verify=lambda: verify_path(path), show=lambda: show(path),
                card=lambda: write_card(path.parent))

def try_all(cases, calls_of):
    "Every case is prepared, then tried; the failures together."
    failures = []
    for number in range(CASES):
        chance = random.Random(number)
        cases(chance)
        if said := fails_in_a_sentence(calls_of(chance)): failures.append(f'case {number}: {said}')
    assert not failures, '\n'.join(failures[:10]) + f'\n{len(failures)} of {CASES} cases'


# Who reads

@pytest.fixture
def medium(copy) -> Path: return dataset('medium')

def test_manifests(medium):
    path = manifest_path(medium)
    good = json.loads(path.read_text())
    def prepare(chance): path.write_text(json.dumps(altered(good, chance)), errors='surrogatepass')
    try_all(prepare, lambda chance: readers(medium))

def of_other_bytes(path: Path, content: bytes):
    "Another content, which the manifest calls its own."
    path.write_bytes(content)
    sign(path)

def test_datasets(medium):
    good = medium.read_bytes()
    try_all(lambda chance: of_other_bytes(medium, damaged(good, chance)), lambda chance: readers(medium))

def test_checkpoints(copy):
    artifact = checkpoint('best')
    good = artifact.path.read_bytes()
    try_all(lambda chance: of_other_bytes(artifact.path, damaged(good, chance)),
            lambda chance: dict(policy=lambda: load_policy(load_artifact(artifact.path)),
                                show=lambda: show(artifact.path)))

def test_overrides():
    keys = ['env.gamma', 'agent.q_lr', 'gems', 'training.max_steps', 'x', '', 'env.', '.', 'agent.ranker.distinct']
    def calls(chance) -> dict:
        as_text = chance.random() < .5
        pairs = {chance.choice(keys): altered([1, {'x': 2}], chance) for _ in range(chance.randrange(1, 4))}
        given = ''.join(chance.choice('{}[]:,.&*!|>%@`"\'\n 0aeenv') for _ in range(20)) if as_text else pairs
        return dict(load=lambda: load_params('focused_mix', scale='tiny', overrides=given))
    try_all(lambda chance: None, calls)

def test_imports(here, elsewhere):
    "Published files with flipped bits, and good ones that hold something else."
    episodes = Dataset(load_artifact(the('logged').path)).episodes(0, 20)
    log = {number: dict(slate=episodes.slates[number, 1:].long(), clicks=episodes.clicks[number, 1:].long())
           for number in range(len(episodes))}
    good, path = dict(logged=log, mf=torch.rand(1000, 20), items=torch.rand(1000, 20)), elsewhere/'published.pt'
    elsewhere.mkdir(exist_ok=True)
    os.environ['SLATE_RL_OUTPUTS'] = str(elsewhere)
    def calls(chance) -> dict:
        kind = chance.choice(KINDS)
        content = altered(good[kind], chance) if chance.random() < .5 else good[kind]
        torch.save(content, path)
        if chance.random() < .5: path.write_bytes(damaged(path.read_bytes(), chance))
        return dict(import_=lambda: import_published(path, kind, tiny()))
    try_all(lambda chance: None, calls)
