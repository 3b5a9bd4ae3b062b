"""The worked examples of CONTRIBUTING.md: what their diffs make of files, and the lines that stand below them."""
import re, shutil, subprocess
from pathlib import Path

from offline_slate_rl.core.params import repo_dir


def examples() -> dict[str, tuple[str, list[str]]]:
    "Heading of each example -> its diff, and the lines to run then."
    text, found = (repo_dir()/'CONTRIBUTING.md').read_text(encoding='utf-8'), {}
    for part in text.split('\n## Worked example: ')[1:]:
        part = part.split('\n## ')[0]
        diff, lines = (re.search(rf'```{kind}\n(.*?)```', part, re.DOTALL)[1] for kind in ('diff', 'bash'))
        found[part.splitlines()[0]] = diff, lines.splitlines()
    return found

def added(example: str, path: str) -> str:
    "A file that an example's diff adds."
    part = examples()[example][0].split(f'+++ b/{path}\n')[1].split('\n--- ')[0]
    return ''.join(f'{line[1:]}\n' for line in part.splitlines() if line.startswith('+'))

def checkout(folder: Path, example: str) -> Path:
    "A copy of the repository in which an example's diff is applied."
    for name in 'nbs', 'params', 'offline_slate_rl': shutil.copytree(repo_dir()/name, folder/name)
    shutil.copy(repo_dir()/'settings.ini', folder)
    diff, _ = examples()[example]
    subprocess.run(['git', 'apply', '-'], input=diff, text=True, cwd=folder, check=True)
    return folder
