"""60_compare: rows of several seeds through papermill; its tables, files and errors."""
import re
from pathlib import Path

import nbformat, pandas as pd, pytest
from scipy.stats import ttest_ind

from chain import ENV, files, last_line, typed
from offline_slate_rl.core.errors import MissingError, SlateRLError
from offline_slate_rl.core.store import append_rows
from offline_slate_rl.pipeline.compare import cases, compare, compare_folder, save, shown
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.play.policies import RandomSlates

RETURNS = {'SAC+GeMS': [61., 66., 58.], 'SAC+topK-ideal': [70., 74., 69.]}
REFERENCE = 'SAC+GeMS'

@pytest.fixture(scope='session')
def figures():
    "What a test measures, but for lists."
    _, measures = play_and_measure(RandomSlates(1000), ENV, 5)
    return {name: value for name, value in measures.items() if not isinstance(value, list)}

def left(outputs: Path, figures: dict, agent: str, seed: int, value: float, env: str = ENV, **more):
    "The rows that a training of a few steps leaves."
    who = dict(env=env, agent=agent, seed=seed, privileged='ideal' in agent) | more
    for checkpoint, beyond in ('step40', 0.), ('best', 1.):
        row = who | dict(checkpoint=checkpoint, step=40, sha256=f'{agent}{seed}{value}{checkpoint}')
        append_rows(outputs/'tiny', 'test', [row | figures | dict(return_mean=value + beyond)])
    run = f'{agent}_Medium_GeMS_{env}_latentdim32_seed{seed}_agentseed{seed}_gamma0.8'
    rows = [dict(step=step, val_reward=value*step/60, val_ci95=1., episodes=20) for step in (0, 20, 40, 60)]
    append_rows(outputs/'tiny', 'validation', [dict(run=run) | who | row for row in rows])

@pytest.fixture
def outputs(elsewhere, figures):
    for agent, returns in RETURNS.items():
        for seed, value in enumerate(returns): left(elsewhere, figures, agent, seed, value)
    return elsewhere

def run_notebook(outputs: Path, **given):
    words = [word for name, value in given.items() for word in ('-p', name, value)]
    return typed(outputs, 'papermill', 'nbs/60_compare.ipynb', *words)

def tables(notebook: Path) -> list[pd.DataFrame]:
    "The tables that an executed notebook shows, every cell a text."
    found = []
    for cell in nbformat.read(notebook, as_version=4).cells:
        for output in cell.get('outputs', []):
            page = output.get('data', {}).get('text/html', '')
            if '<table' not in page: continue
            rows = [re.findall(r'<t[dh][^>]*>(.*?)</t[dh]>', row) for row in re.findall(r'<tr.*?</tr>', page, re.S)]
            agents = [row[0] for row in rows[1:]]
            found.append(pd.DataFrame([row[1:] for row in rows[1:]], index=agents, columns=rows[0][1:]))
    return found

def balanced(text: str) -> bool:
    "Whether braces and environments close, and nothing special stands bare in the rows."
    begun, ended = (re.findall(rf'\\{word}{{(\w+)}}', text) for word in ('begin', 'end'))
    inside = text[text.index(r'\midrule'):text.index(r'\bottomrule')]
    bare = re.search(r'(?<!\\)[_%#^]|±|nan', inside)
    bare_braces = re.sub(r'\\[{}]', '', text)
    return begun == ended[::-1] and bare_braces.count('{') == bare_braces.count('}') and not bare


def test_a_comparison_through_papermill(outputs):
    process = run_notebook(outputs, reference=REFERENCE, checkpoint='step40')
    assert process.returncode == 0, process.stderr
    name = f'reference-{REFERENCE}_checkpoint-step40'
    page = outputs/'tiny'/'reports'/f'60_compare_{name}.html'
    folder = outputs/'tiny'/'results'/'compare'/f'all_{name}'
    assert page.is_file() and 'data:image/png' in page.read_text()

    summary, reference = (pd.read_csv(folder/f'{table}.csv') for table in ('summary', 'reference'))
    expected = [*cases(shown('summary', summary)).values(), *cases(shown('reference', reference)).values()]
    seen = tables(page.with_suffix('.ipynb'))
    assert len(seen) == len(expected) == 2
    for table, words in zip(seen, expected): pd.testing.assert_frame_equal(table, words.astype(str))
    own, other = RETURNS['SAC+topK-ideal'], RETURNS[REFERENCE]
    assert summary.set_index('agent')['mean'].to_dict() == pytest.approx(dict(zip(RETURNS, (185/3, 71.))))
    [row] = reference.itertuples()
    welch = ttest_ind(own, other, equal_var=False)
    assert row.p == pytest.approx(welch.pvalue) and row.improvement == 1.
    assert (row.low, row.high) == pytest.approx(tuple(welch.confidence_interval()))
    assert summary.privileged.tolist() == [True, False]  # the better one stands first

    for table in 'summary', 'reference':
        text = (folder/f'{table}.tex').read_text()
        assert balanced(text) and 'step40, scale tiny, 3 seeds, 5 test users' in text
        assert re.search(r'^SAC\{\+\}topK-ideal & 3 .* & yes', text, re.MULTILINE)


def test_a_folder_of_a_comparison_gives_it_again(outputs, tmp_path, monkeypatch):
    first = save(compare('tiny', reference=REFERENCE), tmp_path/'committed')
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'another'))
    again = save(compare('tiny', reference=REFERENCE, rows=str(tmp_path/'committed')), tmp_path/'again')
    assert [path.read_text() for path in again if path.suffix == '.tex'] == [
        path.read_text().replace('tab:committed', 'tab:again') for path in first if path.suffix == '.tex']
    for name in 'summary.csv', 'reference.csv', 'learning.csv':
        assert (tmp_path/'again'/name).read_text() == (tmp_path/'committed'/name).read_text()


def test_step_and_best_stand_apart(outputs):
    summary = compare('tiny').tables['summary']
    assert summary.checkpoint.tolist() == ['step40']*2 + ['best']*2 and (summary.seeds == 3).all()
    assert summary.loc[2:, 'mean'].tolist() == pytest.approx([72., 185/3 + 1])

def test_tests_again_count_once(outputs, figures):
    before = compare('tiny').tables['summary']
    for _ in range(2): left(outputs, figures, REFERENCE, 0, RETURNS[REFERENCE][0])
    again = compare('tiny')
    pd.testing.assert_frame_equal(again.tables['summary'], before)
    assert again.said[0].startswith('4 of 16 rows')

def test_variants_are_runs_of_their_own(outputs, figures):
    run = f'{REFERENCE}_Medium_GeMS_{ENV}_latentdim32_seed0_agentseed0_gamma0.8-0123abcd'
    left(outputs, figures, REFERENCE, 0, 90., run=run)
    seeds = compare('tiny', checkpoint='best').tables['summary'].set_index('agent').seeds
    assert seeds.to_dict() == {f'{REFERENCE}-0123abcd': 1, 'SAC+topK-ideal': 3, REFERENCE: 3}

@pytest.mark.parametrize('other', [dict(env=f'{ENV}-68fdd4ac'), dict(episodes=500)])
def test_another_recipe_and_other_users_are_not_averaged(outputs, figures, other):
    env = other.pop('env', ENV)
    left(outputs, figures | other, REFERENCE, 7, 900., env)
    found = compare('tiny', env=ENV, reference=REFERENCE)
    assert found.tables['summary'].seeds.tolist().count(1) == 2 and 'overall' not in found.tables
    assert (found.tables['summary']['mean'] < 80).sum() == 4

def test_one_seed_has_no_interval_over_seeds(elsewhere, figures):
    for agent in RETURNS: left(elsewhere, figures, agent, 1, 50.)
    found = compare('tiny', reference=REFERENCE)
    words = [shown(name, table) for name, table in found.tables.items()]
    text = ' '.join(table.to_string() for table in words).replace('\N{NO-BREAK SPACE}', ' ')
    assert '50.0 (one seed)' in text and 'no test' in text and 'nan' not in text.lower()
    assert f"± {figures['return_ci95']:.1f}" in text  # over users there is one
    assert any('over seeds' in line for line in found.said)
    for path in save(found, compare_folder(found.asked)): assert 'nan' not in path.read_text().lower()


@pytest.mark.parametrize('given, says', [
    (dict(reference='DQN'), f"No test rows of the reference 'DQN'. There are: {REFERENCE}, SAC+topK-ideal."),
    (dict(agents=['DQN']), f"No test rows of the agent 'DQN'. There are: {REFERENCE}, SAC+topK-ideal."),
    (dict(checkpoint='step50'), "No test rows of the checkpoint 'step50'. There are: best, step40."),
    (dict(env='diffuse_mix'), f"No test rows of the environment 'diffuse_mix'. There are: {ENV}."),
    (dict(scale='laptop'), 'laptop/results. Train an agent: papermill nbs/20_train.ipynb')])
def test_what_is_not_there_is_an_error_that_names_what_is(outputs, given, says):
    with pytest.raises(MissingError, match=re.escape(says)): compare(**dict(scale='tiny') | given)

def test_an_error_leaves_nothing_behind(outputs):
    before = files(outputs, but=('reports',))
    process = run_notebook(outputs, reference='DQN')
    assert process.returncode == 1
    assert last_line(process) == f"No test rows of the reference 'DQN'. There are: {REFERENCE}, SAC+topK-ideal."
    assert files(outputs, but=('reports',)) == before

def test_no_rows_at_all(elsewhere):
    says = r'Train an agent: papermill nbs/20_train.ipynb .* -p scale tiny'
    with pytest.raises(MissingError, match=says): compare('tiny')
    assert not files(elsewhere, but=())

def test_rows_without_a_needed_column(elsewhere):
    append_rows(elsewhere/'tiny', 'test', [dict(env=ENV, agent='mine', return_mean=5.)])
    says = 'have no column seed, checkpoint, episodes, return_ci95, privileged'
    with pytest.raises(SlateRLError, match=says): compare('tiny')

def test_an_ambiguous_reference(elsewhere, figures):
    for ending in '-0123abcd', '-89abcdef':
        left(elsewhere, figures, REFERENCE, 0, 50., run=f'{REFERENCE}_{ENV}_seed0{ending}')
    says = r'may be .*-0123abcd, .*-89abcdef\. Name one'
    with pytest.raises(SlateRLError, match=says): compare('tiny', reference=REFERENCE)


def test_rows_of_a_real_training(here):
    "The chain's: one seed, tested at its step checkpoint and its best."
    found = compare('tiny')
    assert found.tables['summary'].checkpoint.str.split().str[0].tolist() == ['step40', 'best']
    assert found.tables['summary'].agent.tolist() == ['SAC+GeMS']*2
    assert found.learning.step.tolist() == [0, 20, 40, 60] and found.learning.curve.unique().tolist() == ['SAC+GeMS']
