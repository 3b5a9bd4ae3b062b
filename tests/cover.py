"""Which lines of the package the tests run (`make coverage`).

    cover.py NOTEBOOK.ipynb         runs a notebook's cells, for `coverage run`
    cover.py COUNTED.json TABLE.csv  writes a row for each room, and prints the functions that no test calls

A notebook runs its own code, not the module that is exported from it. So an exported cell is compiled as the lines of
the module that it becomes.
"""
import ast, csv, json, os, sys, types
from collections import Counter
from pathlib import Path

import nbformat

REPO = Path(__file__).resolve().parent.parent

def places(module: Path) -> dict[str, int]:
    "Id of an exported cell -> the line of the module above its code."
    lines = module.read_text(encoding='utf-8').splitlines()
    return {line.split('#')[-1]: number for number, line in enumerate(lines, 1) if line.startswith('# %% ')}

def module_of(cells: list) -> Path|None:
    "The file that a notebook is exported to."
    for cell in cells:
        if cell.source.startswith('#| default_exp '):
            name = cell.source.split()[2]
            return REPO/'offline_slate_rl'/f"{name.replace('.', '/')}.py"

def run(notebook: Path):
    cells = [cell for cell in nbformat.read(notebook, as_version=4).cells if cell.cell_type == 'code']
    module = module_of(cells)
    above = places(module) if module and module.is_file() else {}
    main = sys.modules['__main__'] = types.ModuleType('__main__')
    os.chdir(notebook.parent)
    for cell in cells:
        if cell.source.startswith(('#| notest', '#| eval: false', '#| default_exp')): continue
        tree, file = ast.parse(cell.source), f'{notebook} {cell.id}'
        if cell.id in above:
            directives = sum(line.startswith('#|') for line in cell.source.splitlines())
            ast.increment_lineno(tree, above[cell.id] - directives)
            file = str(module)
        exec(compile(tree, file, 'exec'), vars(main))

def table(counted: Path, path: Path):
    "A row for each room, from what `coverage json` wrote."
    lines, run, never = Counter(), Counter(), []
    for file, found in json.loads(counted.read_text())['files'].items():
        parts = Path(file).parts
        rooms = parts[1] if len(parts) > 2 else '(top)', 'all'
        lines.update(dict.fromkeys(rooms, found['summary']['num_statements']))
        run.update(dict.fromkeys(rooms, found['summary']['covered_lines']))
        never += [f'{file}: {name}' for name, its in found['functions'].items()
                  if name and its['summary']['num_statements'] and not its['summary']['covered_lines']]
    with path.open('w', newline='') as file:
        rows = csv.writer(file, lineterminator='\n')
        rows.writerow(['room', 'statements', 'run by tests, percent'])
        for room in sorted(lines, key=lambda room: (room == 'all', room)):
            rows.writerow([room, lines[room], f'{100*run[room]/lines[room]:.1f}'])
    print(path.read_text(), *never, sep='\n')

if __name__ == '__main__':
    given = [Path(argument).resolve() for argument in sys.argv[1:]]
    run(*given) if len(given) == 1 else table(*given)
