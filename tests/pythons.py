"""The tests with other versions of Python (`make pythons`): a row for each in nbs/results/pythons.csv.

    pythons.py PYTHON...        each in a fresh clone with an environment of its own: all tests, then a tiny chain
    pythons.py --row LOG        that row, of what such a run has printed
    pythons.py --chain OUTPUTS  makes the tiny chain, and prints the sha256 of all its artifacts' sha256
"""
import csv, hashlib, os, platform, re, subprocess, sys, tempfile, time
from pathlib import Path

REPO = Path(__file__).resolve().parent.parent
TABLE = REPO/'nbs'/'results'/'pythons.csv'

def chain(outputs: str):
    os.environ.update(SLATE_RL_OUTPUTS=outputs, SLATE_RL_SCALE='tiny')
    import torch
    from offline_slate_rl.collection.approval import approve
    from offline_slate_rl.collection.collect import collect_dataset
    from offline_slate_rl.core.params import load_params
    from offline_slate_rl.data.logged import log_trajectories
    from offline_slate_rl.rankers.click_model import pretrain_click_model
    from offline_slate_rl.rankers.gems_training import pretrain_gems
    from offline_slate_rl.rankers.mf import pretrain_mf
    from offline_slate_rl.training.online import train
    params = load_params('focused_mix')
    logged = log_trajectories(params)
    for pretrain in pretrain_mf, pretrain_click_model, pretrain_gems: pretrain(params, logged)
    train(params, echo=False)
    approve(params, 'medium', note='a test')
    for quality in 'random', 'medium', 'replay': collect_dataset(params, quality)
    print(f'\nchain: python={platform.python_version()} torch={torch.__version__} made={sha256_of(Path(outputs))}')

def sha256_of(outputs: Path) -> str:
    files = [path for path in outputs.rglob('*') if path.suffix in ('.h5', '.pt', '.ckpt') and path.name[0] != '.']
    lines = [f'{path.relative_to(outputs)} {hashlib.sha256(path.read_bytes()).hexdigest()}' for path in sorted(files)]
    return hashlib.sha256('\n'.join(lines).encode()).hexdigest()[:16]

def row(said: str) -> dict:
    "What a run came to, from what it has printed."
    def last(pattern: str) -> str: return ([''] + re.findall(pattern, said))[-1]
    made = dict(re.findall(r'(python|torch|made)=(\S+)', last(r'chain: (.*)')))
    notebooks = len(re.findall(r'^- Completed ', said, re.MULTILINE))
    failed_notebooks = len(re.findall(r'^\t\S+\.ipynb$', said, re.MULTILINE))
    ran = last(r'(?m)^=+ (.*\d+ passed.* in .*) =+$')
    def number(word: str) -> int|str:  # empty where the tests did not get to their end
        return int(([0] + re.findall(rf'(\d+) {word}', ran))[-1]) if ran else ''
    return {'python': made.get('python', last(r'\(Python (\S+)\)')), 'torch': made.get('torch', ''),
            'notebooks run': notebooks, 'of them failed': failed_notebooks, 'tests passed': number('passed'),
            'skipped': number('skipped'), 'failed': number('failed'), 'sha256 of the chain': made.get('made', ''),
            'day': time.strftime('%Y-%m-%d')}

def keep(its: dict):
    "Enter a row in place of the one of the same version."
    rows = list(csv.DictReader(TABLE.open())) if TABLE.is_file() else []
    rows = sorted([each for each in rows if each['python'] != its['python']] + [its], key=lambda each: each['python'])
    with TABLE.open('w', newline='') as file:
        table = csv.DictWriter(file, list(its), lineterminator='\n')
        table.writeheader()
        table.writerows(rows)
    print(its)

def tried(python: str):
    "Run all tests with a Python, in a fresh clone."
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(['git', 'clone', '--quiet', REPO, f'{folder}/clone'], check=True)
        chain = ['.venv/bin/python', 'tests/pythons.py', '--chain', f'{folder}/outputs']
        with open(f'{folder}/log', 'w') as log:
            for line in ['make', 'test', f'PYTHON={python}'], chain:
                subprocess.run(line, cwd=f'{folder}/clone', stdout=log, stderr=subprocess.STDOUT)
        keep(row(Path(f'{folder}/log').read_text()))

if __name__ == '__main__':
    match sys.argv[1:]:
        case ['--chain', outputs]: chain(outputs)
        case ['--row', log]: keep(row(Path(log).read_text()))
        case pythons:
            for python in pythons: tried(python)
