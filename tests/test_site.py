"""The site: what its pages say can be run, what they quote is said, and a part of it builds without a warning."""
import ast, re, shlex, subprocess, sys
from pathlib import Path

import nbformat, papermill.cli, pytest, yaml

from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.engine import check_parameters, notebook_parameters
from offline_slate_rl.pipeline.site import site_faults, stage_site

REPO = Path(__file__).resolve().parent.parent
DOCS = sorted((REPO/'docs').rglob('*.md'))
PAGES = [REPO/'README.md', REPO/'CONTRIBUTING.md', REPO/'workflow'/'README.md', *DOCS]
named = pytest.mark.parametrize('page', PAGES, ids=lambda page: page.relative_to(REPO).as_posix())


def blocks(page: Path, language: str) -> list[str]:
    "The fenced blocks of a page in a language; tests/test_examples.py runs those of worked examples."
    text = re.sub(r'^## Worked example.*?(?=^## )', '', page.read_text(encoding='utf-8'), flags=re.M | re.S)
    return re.findall(rf'^```{language}\n(.*?)^```$', text, re.M | re.S)

def lines(page: Path) -> list[list[str]]:
    "Each command on a page, as words; what stands in quotes may go over lines."
    found = []
    for block in blocks(page, '(?:bash|sh)'):
        text = re.sub(r'(^|\s)#.*$', '', block.replace('\\\n', ' '), flags=re.M)
        lexer = shlex.shlex(text + '\n', posix=True, punctuation_chars='\n;&|')
        lexer.whitespace, lexer.whitespace_split, lexer.commenters = ' \t', True, ''
        words = []
        for token in lexer:
            if not set(token) <= set('\n;&|'): words.append(token)
            elif words: found, words = [*found, words], []
    return [words[1:] if '=' in words[0] else words for words in found]

def check_papermill(words: list[str]):
    context = papermill.cli.papermill.make_context('papermill', words)
    if context.params.get('help_notebook'): return
    notebook = REPO/context.params['notebook_path']
    given = yaml.safe_load(context.params['parameters_yaml'][0]) if context.params['parameters_yaml'] else {}
    given |= dict(context.params['parameters'])
    check_parameters(notebook, given, notebook_parameters(nbformat.read(notebook, as_version=4)))

def check_make(words: list[str], makefile: str):
    targets = [word for word in words if '=' not in word]
    for target in targets: assert re.search(rf'^{target}:', makefile, re.M), f'make {target}: no such target'
    for name in [word.split('=')[0] for word in words if '=' in word]:
        assert re.search(rf'\b{name}\b', makefile), f'make {name}=: the Makefile knows no such variable'


@named
def test_every_command_on_a_page_is_there(page):
    makefile = (REPO/'Makefile').read_text()
    for program, *words in lines(page):
        if program == 'slate-rl': cli._parser().parse_args(words)
        elif program == 'papermill': check_papermill(words)
        elif program == 'make': check_make(words, makefile)
        elif program == 'python' and words[0] == '-c': compile(words[1], page.name, 'exec')
        elif program.startswith('tests/'): assert (REPO/program).is_file(), program


@named
def test_what_a_page_imports_is_there(page):
    for block in blocks(page, 'python'):
        for node in ast.walk(ast.parse(block)):
            if not (isinstance(node, ast.ImportFrom) and node.module.startswith('offline_slate_rl')): continue
            module = __import__(node.module, fromlist=['x'])
            missing = [alias.name for alias in node.names if not hasattr(module, alias.name)]
            assert not missing, f'{node.module} has no {missing}'


def test_troubleshooting_quotes_what_is_said():
    package = '\n'.join(path.read_text(encoding='utf-8') for path in (REPO/'offline_slate_rl').rglob('*.py'))
    said = re.sub(r'"\s*\n\s*f?"', '', package + (REPO/'Makefile').read_text())  # of sentences that go over lines
    quoted = re.findall(r'^### `(.*)`$', (REPO/'docs'/'troubleshooting.md').read_text(), re.M)
    assert len(quoted) > 8
    parts = [part.strip(" '") for quote in quoted for part in quote.split('...') if 'command not found' not in quote]
    assert not [part for part in parts if part not in said]


def test_every_committed_file_of_results_is_on_a_page():
    results = REPO/'nbs'/'results'
    shown = set(re.findall(r'^```\{committed\} (\S+)$', '\n'.join(page.read_text() for page in DOCS), re.M))
    shown |= {Path(name).name for name in re.findall(r'reports/committed/([^"]+)"', (
        REPO/'docs'/'results'/'returns.md').read_text())}
    there = {path.relative_to(results).as_posix() for path in results.rglob('*.*') if path.is_file()}
    assert there <= shown, f'on no page of docs/results: {there - shown}'


def test_a_part_of_the_site_builds(tmp_path):
    "All hand-written pages are read, without a warning; some are written: no network, no broken anchor."
    sources, made = tmp_path/'sources', tmp_path/'html'
    stage_site(sources, whole={'24_controls'})
    names = ['index.md', 'tutorial.md', 'results/returns.md', 'nbs/lib/play/24_controls.ipynb', 'api/play/controls.md']
    written = [str(sources/name) for name in names]
    line = [sys.executable, '-m', 'sphinx', '-q', '-d', str(tmp_path/'doctrees'), str(sources), str(made), *written]
    process = subprocess.run(line, capture_output=True, text=True)
    said = [line for line in process.stderr.splitlines() if 'not all documents will be built' not in line]
    assert (process.returncode, said) == (0, [])
    faults = [fault for fault in site_faults(made) if not fault.endswith('is not there')]
    assert not faults  # a page that was not written is not there
    text = (made/'nbs/lib/play/24_controls.html').read_text()
    assert 'tag_module' in text and '#| export' not in text
