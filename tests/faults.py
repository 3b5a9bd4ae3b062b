"""The table of faults: what was tried, and what became of it, in the file that SLATE_RL_FAULTS names."""
import csv, os
from collections import Counter
from pathlib import Path

from filelock import FileLock

STATES = 'as before', 'in part', 'done', 'half written'  # what a fault leaves; the first three are whole
COLUMNS = 'fault', 'strikes', 'tried', *STATES, 'one sentence', 'same bytes after'

class Tried:
    "A row of the table: one fault, tried some times on one thing. It is kept when the block ends, however that ends."
    def __init__(self, fault: str, strikes: str): self.fault, self.strikes, self.counts = fault, strikes, Counter()

    def add(self, state: str, same: bool, sentence: bool|None = None):
        "What a try left, whether the next run gave the same bytes, whether a person read one sentence (None: nobody)."
        assert state in STATES, state
        self.counts.update({'tried': 1, state: 1, 'same bytes after': int(same), 'one sentence': int(bool(sentence))})
        self.silent = sentence is None

    @property
    def sound(self) -> bool:
        "Whether nothing was ever half-written, every next run gave the same bytes, and every error was a sentence."
        counts, tried = self.counts, self.counts['tried']
        told = self.silent or counts['one sentence'] == tried
        return tried > 0 and not counts['half written'] and counts['same bytes after'] == tried and told

    def __enter__(self): return self

    def __exit__(self, *_):
        if path := os.environ.get('SLATE_RL_FAULTS'): self.keep(Path(path))

    def keep(self, path: Path):
        "Put the row into the table, in place of an earlier one of the same."
        counts = {name: self.counts[name] for name in COLUMNS[2:]}
        if self.silent: counts['one sentence'] = ''
        with FileLock(f'{path}.lock'):
            rows = list(csv.DictReader(path.open())) if path.exists() else []
            rows = [row for row in rows if (row['fault'], row['strikes']) != (self.fault, self.strikes)]
            rows.append(dict(fault=self.fault, strikes=self.strikes, **counts))
            with path.open('w', newline='') as file:
                table = csv.DictWriter(file, COLUMNS, lineterminator='\n')
                table.writeheader()
                table.writerows(sorted(rows, key=lambda row: (row['fault'], row['strikes'])))
        Path(f'{path}.lock').unlink(missing_ok=True)
