"""A dataset that was edited, cut or mixed up: it is found by name, called good nowhere, and collected again."""
import re, shlex, shutil
from pathlib import Path

import h5py, pytest

from chain import ENV, contents, dataset, edit, last_line, papermill, sign, tiny, typed
from offline_slate_rl.collection.card import verify_dataset
from offline_slate_rl.collection.collect import collect_dataset, collection_params
from offline_slate_rl.collection.verification import require, verify
from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.core.params import load_params
from offline_slate_rl.pipeline import cli


# Content that is wrong

@pytest.fixture
def edited(copy):
    "A dataset that was verified, and edited afterwards."
    path = dataset('medium')
    verify_dataset(path, tiny())
    edit(path)
    return path

def test_an_edited_dataset_fails_by_name_on_the_line(copy, edited):
    process = papermill(copy, '40_verify', '-p', 'quality', 'medium')
    assert process.returncode == 1 and 'Traceback' not in process.stderr
    assert "checks failed: whole: sha256 is the manifest's" in last_line(process)

def test_an_edited_dataset_is_nowhere_called_good(edited, capsys):
    checks, _ = verify_dataset(edited, tiny())
    with pytest.raises(SlateRLError, match="whole: sha256 is the manifest's .*damaged"): require(checks)
    [row] = [line for line in (edited.parent/'README.md').read_text().splitlines() if line.startswith(f'| {ENV} |')]
    assert 'FAILED' in row
    assert cli.main(['verify', str(edited)]) == 1
    said = capsys.readouterr().out
    assert '0 passed, 1 failed' in said
    assert re.search(r'Collect it again: papermill nbs/30_collect\.ipynb .*-p force True', said)
    assert cli.main(['status', '--scale', 'tiny', ENV]) == 0
    assert re.search(r'^medium +FAILED: whole', capsys.readouterr().out, re.MULTILINE)
    assert cli.main(['show', str(edited)]) == 0 and 'is damaged' in capsys.readouterr().out

@pytest.mark.parametrize('key, value, check', [
    ('rewards', 9., 'reward is the number of clicks'),
    ('timeouts', True, 'timeouts at the horizon only'),
    ('slates', 1000, 'item ids are in the catalogue'),
    ('log_probs', float('nan'), 'no NaN'),
    ('timesteps', 5, 'numbered, whole and in order'),
    ('clicks', 2, 'clicks are 0 or 1'),
    ('slates', 1, 'replay click for click'),
    ('actions', 0., 'the behaviour gives the stored actions'),
    ('observations', 0., 'beliefs are those of the raw observations')])
def test_wrong_content_with_a_right_sha256_fails_by_name(copy, key, value, check):
    path = dataset('medium')
    with h5py.File(path, 'r+') as file: file[key][7] = value
    sign(path)
    with pytest.raises(SlateRLError, match=check): require(verify(path, tiny())[0])


# Damage is named, and mended by the line that is printed

def flip(share: float):
    "Change one bit of the byte at this share of the file."
    def change(path: Path):
        content = bytearray(path.read_bytes())
        content[int(share*(len(content) - 1))] ^= 1
        path.write_bytes(content)
    return change

def short(share: float):
    "Keep this share of the file."
    def change(path: Path):
        content = path.read_bytes()
        path.write_bytes(content[:int(share*len(content))])
    return change

def swap(path: Path):
    "Its manifest changes places with that of another quality."
    mine, other = manifest_path(path), manifest_path(dataset('random'))
    was = mine.read_bytes()
    mine.write_bytes(other.read_bytes())
    other.write_bytes(was)

def another_manifest(path: Path):
    "The manifest of a dataset of the same environment and quality, of other users."
    other = collect_dataset(collection_params(tiny(), seed=2), 'medium')
    shutil.copy(manifest_path(other.path), manifest_path(path))

def swapped_and_short(path: Path):
    short(.5)(path)
    swap(path)

def signed(change):
    "A stranger's file: something in it is changed, and its manifest has the sum of that."
    def damage(path: Path):
        with h5py.File(path, 'r+') as file: change(file)
        sign(path)
    return damage

def instead(key: str, value):
    "Something else in an array's place."
    def change(file):
        if key in file: del file[key]
        if value is None: file.create_group(key)
        else: file[key] = value
    return signed(change)

DATASET_DAMAGE = {  # and what is said of it
    "a group in an array's place": (instead('rewards', None), 'rewards is a group'),
    'a scalar': (instead('rewards', 1.), 'rewards: it has the shape ()'),
    'a row short': (instead('rewards', [1.]*2999), 'rewards has 2999 rows; 3000 were expected'),
    'a link to another file': (instead('rewards', h5py.ExternalLink('/etc/passwd', 'x')), 'is a link into /etc/passwd'),
    'a link to nothing': (instead('oracle', h5py.SoftLink('/nowhere')), 'oracle is a link'),
    'one key more': (instead('more', [1.]), 'unknown key more'),
    'first byte': (flip(0), 'is damaged'),
    'a byte near the front': (flip(.01), 'is damaged'),
    'a byte in the middle': (flip(.5), 'is damaged'),
    'last byte': (flip(1), 'is damaged'),
    'cut by half': (short(.5), 'is damaged'),
    'cut to nothing': (short(0), 'is damaged'),
    'manifests swapped': (swap, "is another dataset's or was edited"),
    'manifest of another dataset': (another_manifest, "is another dataset's or was edited"),
    'manifest missing': (lambda path: manifest_path(path).unlink(), 'has no manifest'),
    'manifest cut': (lambda path: short(.5)(manifest_path(path)), 'is not readable'),
    'manifest of nothing': (lambda path: manifest_path(path).write_text('[]'), 'is not readable'),
    'manifest and half the file': (
        swapped_and_short, "its manifest is another dataset's (focused_mix, random, 30 episodes)"),
    'file missing': (lambda path: path.unlink(), 'does not exist'),
}

def asked(line: str) -> dict:
    "The parameters on a line that collects."
    words = shlex.split(line)
    assert words[:2] == ['papermill', 'nbs/30_collect.ipynb']
    return {words[at + 1]: words[at + 2] for at, word in enumerate(words) if word == '-p'}

@pytest.mark.parametrize('damage', DATASET_DAMAGE)
def test_a_damaged_dataset_is_found_by_name_and_collected_again(copy, capsys, damage):
    path, was = dataset('medium'), contents(copy)['dataset', 'medium']
    change, says = DATASET_DAMAGE[damage]
    change(path)
    capsys.readouterr()
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    parts = re.split(r'^(?=FAILED|passed)', said, flags=re.MULTILINE)
    part = next(part for part in parts if part.startswith(f'FAILED  {path.name}'))
    assert says in part
    assert re.search(rf'^{ENV} .*(FAILED|1 of 2 passed)', said, re.MULTILINE)
    given = asked(re.search(r'Collect it again: (.*)', part)[1])
    expected = dict(env=ENV, quality='medium', scale='tiny', force='True')
    assert {name: given[name] for name in expected} == expected
    seed = int(given['seed']) if 'seed' in given else None
    params = load_params(ENV, given.get('agent', 'SAC+GeMS'), seed, 'tiny', given.get('overrides'))
    made = collect_dataset(params, 'medium', force=True)
    assert made.path == path and made.sha256 == was
    require([check for check in verify(path, params)[0] if not check.name.startswith('return is above')])

def test_the_printed_line_mends_as_it_is(copy, capsys):
    path = dataset('medium')
    manifest_path(path).unlink()
    short(.9)(path)  # nothing is left but its name
    assert cli.main(['verify', str(path)]) == 1
    line = re.search(r'Collect it again: (.*)', capsys.readouterr().out)[1]
    process = typed(copy, *shlex.split(line))
    assert process.returncode == 0, process.stderr
    assert cli.main(['verify', str(path)]) == 0 and '1 passed, 0 failed' in capsys.readouterr().out

def test_the_table_of_environments(copy, capsys):
    few = collection_params(tiny('diffuse_topdown'), num_trajectories=10)
    other = collect_dataset(few, 'random', behaviour='random-slates')
    short(.5)(dataset('random'))
    assert cli.main(['verify', '--scale', 'tiny', '--all']) == 1
    said = capsys.readouterr().out
    assert re.search(r'^(env|quality) +medium +random$', said, re.MULTILINE)
    assert re.search(r'^diffuse_topdown +passed', said, re.MULTILINE)
    assert re.search(rf'^{ENV} +passed.* +FAILED$', said, re.MULTILINE)
    assert '2 passed, 1 failed' in said
    assert cli.main(['verify', str(other.path.parent)]) == 1  # a folder
    assert '1 passed, 1 failed' in capsys.readouterr().out
