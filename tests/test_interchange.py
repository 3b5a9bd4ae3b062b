"""Exports as other libraries read them, and published files as this one takes them."""
import hashlib, importlib.util, json, os
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest, torch

from offline_slate_rl.collection import export
from offline_slate_rl.collection.export import WRITERS, export_dataset
from offline_slate_rl.collection.published import import_logged, import_published
from offline_slate_rl.core.errors import MissingError, SlateRLError
from offline_slate_rl.core.params import load_params, registry
from offline_slate_rl.core.files import load_tensors, save_tensors
from offline_slate_rl.core.store import load_artifact, save_artifact
from offline_slate_rl.data.collecting import collect
from offline_slate_rl.data.datasets import Dataset
from offline_slate_rl.data.logged import log_trajectories, logged_recipe
from offline_slate_rl.pipeline import cli
from offline_slate_rl.play.episodes import Action, Policy
from offline_slate_rl.play.policies import RandomSlates
from offline_slate_rl.rankers.gems import GeMS, find_gems
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import mf_recipe, pretrain_mf
from offline_slate_rl.rankers.ranker import RandomLatents, weights_sha256
from offline_slate_rl.training.checkpoints import built_from, new_agent
from offline_slate_rl.world.embeddings import item_table

ENV, N, H = 'focused_mix', 12, 100
needs_minari = pytest.mark.skipif(not importlib.util.find_spec('minari'), reason=(
    "Minari, an extra, is not installed: pip install 'offline-slate-rl[minari]'"))
MARKS = dict(minari=needs_minari)
formats = pytest.mark.parametrize('to', [pytest.param(to, marks=MARKS.get(to, ())) for to in WRITERS])
D4RL = 'observations', 'actions', 'next_observations', 'rewards', 'terminals'


class StandIn(Policy):
    "Has a belief and a latent, and knows nothing."
    def act(self, obs, deterministic=False):
        latent = torch.from_numpy(self.generator.standard_normal((self.num_envs, 4), dtype=np.float32))
        slate = (latent.abs().sum(1, keepdim=True)*100).long() + torch.arange(10)
        belief = torch.cat([obs.clicks.float(), obs.slate[:, :2].float()], 1)
        return Action(slate % 1000, latent, latent.sum(1), belief)

def tiny(**overrides):
    return load_params(ENV, scale='tiny', overrides={key.replace('__', '.'): value for key, value in overrides.items()})

def made(folder: Path, name: str, make_policy, quality: str, params=None) -> Dataset:
    env = (params or tiny()).env
    recipe = dict(env=env.recipe(), quality=quality, behaviour=dict(name=name), seed=1, users=f'dataset/{quality}',
                  num_trajectories=N, block_size=5, inputs={}, spaces=dict(encoder=None, ranker=None), privileged=False)
    return Dataset(collect(folder/f'{name}.h5', env, make_policy, N, 1, recipe['users'], 'dataset', recipe,
                           dict(command='x'), 5, oracle=True))

@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp('datasets')
    random_slates = partial(RandomSlates, 1000)
    return dict(agent=made(folder, 'agent', StandIn, 'medium'), slates=made(folder, 'slates', random_slates, 'random'))

@pytest.fixture
def agent(datasets): return datasets['agent']

@pytest.fixture(autouse=True)
def elsewhere(elsewhere, tmp_path, monkeypatch):
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path/'minari'))
    return tmp_path

def contents(path: Path) -> dict:
    "sha256 of every file of an export, by its place in it."
    files = [path] if path.is_file() else [file for file in sorted(path.rglob('*')) if file.is_file()]
    return {str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest() for file in files}

def everything(folder: Path) -> list: return sorted(str(path) for path in folder.rglob('*'))
def written(folder: Path) -> list: return [path for path in folder.rglob('*') if path.is_file()]


# Export: what every format holds

def from_npz(path: Path) -> tuple[dict, dict]:
    transitions = dict(np.load(path, allow_pickle=False))
    return transitions, json.loads(str(transitions.pop('about')))

def from_parquet(path: Path) -> tuple[dict, dict]:
    rows, about = pd.read_parquet(path), pq.read_schema(path).metadata[b'offline_slate_rl']
    def array(column): return np.stack(column) if column.dtype == object else column.to_numpy()
    transitions = {key: array(rows[key]) for key in rows}
    return transitions | dict(user_ids=transitions['user_id'][::H]), json.loads(about)

def from_lists(path: Path) -> tuple[dict, dict]:
    lists = pd.read_pickle(path)  # just written by ourselves
    about = lists.pop('metadata')
    assert all(isinstance(values, list) and len(values) == N for values in lists.values())
    turns = {key: np.concatenate(values) for key, values in lists.items() if np.shape(values[0])[:1] == (H,)}
    return turns | dict(user_ids=np.array(lists['user_ids'])), about

def from_minari(path: Path) -> tuple[dict, dict]:
    import minari
    dataset = minari.load_dataset('/'.join(path.parts[-2:]))
    episodes = list(dataset.iterate_episodes())
    def together(pick): return np.concatenate([pick(episode) for episode in episodes])
    def observed(episode):
        seen = episode.observations
        return np.concatenate([seen['slate'], seen['clicks']], -1) if isinstance(seen, dict) else seen
    transitions = {key: together(lambda episode: episode.infos[key])
                   for key in episodes[0].infos if key.startswith('oracle')}
    transitions |= dict(
        observations=together(lambda episode: observed(episode)[:-1]),
        next_observations=together(lambda episode: observed(episode)[1:]),
        actions=together(lambda episode: episode.actions), rewards=together(lambda episode: episode.rewards),
        terminals=together(lambda episode: episode.terminations),
        timeouts=together(lambda episode: episode.truncations))
    metadata = dataset.storage.get_episode_metadata(range(len(episodes)))
    transitions['user_ids'] = np.array([of_episode['user_id'] for of_episode in metadata])
    return transitions, dataset.storage.metadata['offline_slate_rl']

READERS = dict(npz=from_npz, parquet=from_parquet, pkl=from_lists, minari=from_minari)

def loaded(path: Path, to: str) -> tuple[dict, dict]:
    "Transitions by D4RL's names, read by the foreign library, and what the file says of itself."
    return READERS[to](path)

def in_view(dataset: Dataset, view: str) -> dict:
    "What an export of this view should hold."
    expected, episodes = dataset.transitions(), dataset.episodes()
    if view == 'latent': return expected
    seen = np.concatenate([episodes.slates, episodes.clicks], -1)
    return expected | dict(observations=seen[:, :-1].reshape(N*H, -1), next_observations=seen[:, 1:].reshape(N*H, -1),
                           actions=expected['slates'])

@formats
@pytest.mark.parametrize('view', ['latent', 'slate'])
def test_another_library_reads_what_was_played(agent, elsewhere, to, view):
    if to == 'parquet' and view == 'slate': pytest.skip('a Parquet row has no view: it holds everything')
    folder = elsewhere/('minari' if to == 'minari' else 'files')
    folder.mkdir()
    transitions, about = loaded(export_dataset(agent.path, to, str(folder), '' if to == 'parquet' else view), to)
    expected = in_view(agent, view)
    raw = () if to == 'minari' else ('slates', 'clicks')
    for key in (*D4RL, 'timeouts', *raw): np.testing.assert_array_equal(transitions[key], expected[key], key)
    assert not transitions['terminals'].any()
    assert np.array_equal(np.flatnonzero(transitions['timeouts']), np.arange(1, N + 1)*H - 1)
    assert about['sha256'] == agent.artifact.sha256
    assert about['recipe'] == agent.recipe
    assert about['reference'] is None

@formats
def test_every_episode_names_its_user(agent, elsewhere, to):
    transitions, _ = loaded(export_dataset(agent.path, to, str(elsewhere/'minari')), to)
    np.testing.assert_array_equal(transitions['user_ids'], agent.user_ids)
    assert len(set(agent.user_ids)) == N

@formats
def test_equal_datasets_have_equal_exports(agent, elsewhere, to):
    same = Dataset(load_artifact(made(elsewhere/'again', 'agent', StandIn, 'medium').path))
    assert same.artifact.sha256 == agent.artifact.sha256
    first = contents(export_dataset(agent.path, to, str(elsewhere/'one')))
    second = contents(export_dataset(same.path, to, str(elsewhere/'two')))
    assert first and first == second

@formats
@pytest.mark.parametrize('given', [False, True])
def test_the_oracle_stays_unless_asked_for(agent, elsewhere, to, given):
    path = export_dataset(agent.path, to, str(elsewhere/'minari'), oracle=given)
    transitions, _ = loaded(path, to)
    assert any(key.startswith('oracle') for key in transitions) == given
    raw = b''.join(file.read_bytes() for file in ([path] if path.is_file() else written(path)))
    assert (b'oracle/' in raw or b'oracle_' in raw) == given

@formats
def test_random_slates_have_a_view_too(datasets, elsewhere, to):
    slates = datasets['slates']
    if to in ('npz', 'pkl'):
        with pytest.raises(SlateRLError, match=f'--to {to} --view slate'): export_dataset(slates.path, to)
    path = export_dataset(slates.path, to, str(elsewhere/'minari'), '' if to == 'parquet' else 'slate')
    transitions, _ = loaded(path, to)
    shown = transitions['slates' if to == 'parquet' else 'actions']
    np.testing.assert_array_equal(shown, slates.transitions('slates')['slates'])

def blocks_of(size: int, fail_at: int = N):
    "What reads a dataset in blocks of another size, up to one that fails."
    def blocks(dataset):
        for first in range(0, N, size):
            if first >= fail_at: raise OSError('the disk is gone')
            yield first, dataset.episodes(first, min(size, N - first))
    return blocks

@formats
def test_an_export_that_fails_leaves_what_was_there(agent, elsewhere, monkeypatch, to):
    path = export_dataset(agent.path, to, str(elsewhere/'minari'))
    before = contents(path)
    assert export_dataset(agent.path, to, str(elsewhere/'minari')) == path and contents(path) == before  # it is there
    files = everything(elsewhere)
    with pytest.raises(SlateRLError, match='--force'):
        export_dataset(agent.path, to, str(elsewhere/'minari'), oracle=True)
    monkeypatch.setattr(export, 'blocks', blocks_of(4, fail_at=8))
    with pytest.raises(OSError, match='gone'): export_dataset(agent.path, to, str(elsewhere/'minari'), force=True)
    assert contents(path) == before and everything(elsewhere) == files
    with pytest.raises(OSError, match='gone'): export_dataset(agent.path, to, str(elsewhere/'new'))
    assert not written(elsewhere/'new') and not [name for name in everything(elsewhere/'new') if 'agent' in name]

@formats
def test_an_export_is_written_block_by_block_to_the_same_content(agent, elsewhere, monkeypatch, to):
    whole, _ = loaded(export_dataset(agent.path, to, str(elsewhere/'minari')), to)
    monkeypatch.setattr(export, 'blocks', blocks_of(5))
    in_parts, _ = loaded(export_dataset(agent.path, to, str(elsewhere/'minari'), force=True), to)
    assert whole.keys() == in_parts.keys()
    for key in whole: np.testing.assert_array_equal(whole[key], in_parts[key])

def test_parquet_holds_one_row_a_transition(agent, elsewhere):
    rows = pd.read_parquet(export_dataset(agent.path, 'parquet', str(elsewhere)))
    assert list(rows.columns[:2]) == ['episode_id', 'timestep'] and len(rows) == N*H
    assert rows.groupby('episode_id').timestep.agg(list).map(lambda steps: steps == list(range(H))).all()
    np.testing.assert_array_equal(np.stack(rows.initial_clicks[::H]), agent.episodes().clicks[:, 0])
    clicks = pq.read_schema(elsewhere/'agent.parquet').field('clicks')
    assert str(clicks.type) == 'fixed_size_list<element: uint8>[10]'


def test_beliefs_of_a_checkpoint(elsewhere):
    "Random latents have actions and nobody's beliefs."
    params = tiny()
    ranker = GeMS(params.env, params.gems)
    ranker.centre.zero_(); ranker.scale.fill_(1.)
    agent = new_agent(params, ranker)
    content = dict(state_dict=agent.state_dict(), params=built_from(agent, params.agent_name))
    recipe = dict(env=params.env.recipe(), agent_name=params.agent_name, checkpoint='step0', privileged=False)
    write = partial(save_tensors, content)
    checkpoint = save_artifact(elsewhere/'model.ckpt', write, 'checkpoint', recipe, dict(command='x'))
    latents = made(elsewhere, 'latents', partial(RandomLatents, ranker), 'random', params)
    with pytest.raises(SlateRLError, match='--belief'): export_dataset(latents.path, 'npz')
    with pytest.raises(SlateRLError, match='Give a checkpoint by its path'):
        export_dataset(latents.path, 'npz', belief='best')
    path = export_dataset(latents.path, 'npz', belief=str(checkpoint.path))
    transitions, about = loaded(path, 'npz')
    beliefs = agent.encoder(*latents.observed()).detach()
    np.testing.assert_allclose(transitions['observations'].reshape(N, H, -1), beliefs[:, :-1], atol=1e-6)
    np.testing.assert_allclose(transitions['next_observations'].reshape(N, H, -1), beliefs[:, 1:], atol=1e-6)
    derived, = about['derived']
    assert derived['dataset'] == latents.artifact.sha256 and derived['model'] == weights_sha256(agent.encoder)
    assert f"beliefs-{derived['model'][:8]}" in path.name


# Minari

@needs_minari
def test_minari_recovers_the_environment(agent, elsewhere):
    import minari
    export_dataset(agent.path, 'minari')
    dataset = minari.load_dataset('slate-rl/agent-v0')
    env, episode = dataset.recover_environment(), dataset[3]
    assert env.unwrapped.params == registry()[ENV]
    assert (dataset.observation_space, dataset.action_space) == (env.observation_space, env.action_space)
    for turn in range(H + 1):
        assert dataset.observation_space.contains({key: values[turn] for key, values in episode.observations.items()})
    assert all(action in dataset.action_space for action in episode.actions)
    first = env.reset(seed=0)[0]['slate']
    assert first.tolist() == episode.observations['slate'][0].tolist()  # everybody's first slate
    _, reward, terminated, truncated, _ = env.step(episode.actions[0])
    assert isinstance(reward, float) and not terminated and not truncated
    assert episode.infos['belief'].shape == (H + 1, 12)
    assert episode.infos['latent'].shape == (H, 4) and episode.infos['log_prob'].shape == (H,)
    assert [len(part) for part in minari.split_dataset(dataset, [8, 4], seed=0)] == [8, 4]
    assert sum(len(sampled) for sampled in dataset.sample_episodes(5)) == 5*H
    assert list(minari.list_local_datasets()) == ['slate-rl/agent-v0']

@needs_minari
def test_minari_recovers_a_changed_environment_and_says_where_it_cannot(elsewhere, capsys):
    import minari
    params = tiny(env__omega=.5)
    export_dataset(made(elsewhere, 'changed', StandIn, 'medium', params).path, 'minari')
    assert minari.load_dataset('slate-rl/changed-v0').recover_environment().unwrapped.params == params.env
    torch.save(item_table(tiny().env).flip(0), elsewhere/'table.pt')
    own = made(elsewhere, 'own', StandIn, 'medium', tiny(env__item_embeddings=str(elsewhere/'table.pt')))
    assert cli.main(['export', str(own.path), '--to', 'minari']) == 0
    assert 'No environment to recover' in capsys.readouterr().out
    assert minari.load_dataset('slate-rl/own-v0').env_spec is None

@needs_minari
def test_minari_carries_reference_returns_where_there_are_some(agent, monkeypatch, capsys):
    import minari
    def dataset(): return minari.load_dataset('slate-rl/agent-v0')
    assert cli.main(['export', str(agent.path), '--to', 'minari']) == 0
    said = capsys.readouterr().out
    assert 'No reference scores' in said and 'minari.load_dataset("slate-rl/agent-v0")' in said
    with pytest.raises(ValueError, match='Reference score not provided'):
        minari.get_normalized_score(dataset(), np.array([30.]))
    monkeypatch.setattr(export, 'reference', lambda env: dict(env=env.label, random=30., expert=300.))
    assert cli.main(['export', str(agent.path), '--to', 'minari', '--force']) == 0
    assert 'No reference' not in capsys.readouterr().out
    assert minari.get_normalized_score(dataset(), np.array([30., 300., 165.])).tolist() == [0, 1, .5]
    assert dataset().storage.metadata['offline_slate_rl']['reference']['expert'] == 300

@needs_minari
def test_minari_takes_a_relative_folder(agent, elsewhere, monkeypatch):
    import minari
    monkeypatch.chdir(elsewhere)
    path = export_dataset(agent.path, 'minari', 'here')
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(elsewhere/'here'))
    assert path.is_absolute() and minari.load_dataset('slate-rl/agent-v0').total_episodes == N

def test_without_minari_the_error_says_how_to_get_it(agent, elsewhere, monkeypatch):
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SlateRLError, match='pip install'): export_dataset(agent.path, 'minari')
    assert not (elsewhere/'minari').exists()


# Import

def published(params, n: int = 30) -> dict:
    "Logged trajectories as GeMS' authors release them."
    logged = params.model_copy(update=dict(logged=params.logged.model_copy(update=dict(num_trajectories=n))))
    episodes = Dataset(log_trajectories(logged)).episodes()
    return {number: dict(slate=episodes.slates[number, 1:].long(), clicks=episodes.clicks[number, 1:].long())
            for number in range(n)}

def import_line(path: Path, kind: str) -> list[str]:
    return ['import', str(path), '--kind', kind, '--env', ENV, '--scale', 'tiny']

def test_a_published_log_becomes_a_ranker(elsewhere, capsys):
    torch.save(log := published(tiny()), elsewhere/'log.pt')
    assert cli.main(import_line(elsewhere/'log.pt', 'logged')) == 0
    path, line = (said for said in capsys.readouterr().out.splitlines() if said.startswith(('/', 'Use it')))
    assert f'{{"logged.source": "{path}"}}' in line
    logged = load_artifact(Path(path), 'logged')
    assert logged.recipe['imported'] == {'sha256': hashlib.sha256((elsewhere/'log.pt').read_bytes()).hexdigest()}
    assert 'not ours' in logged.recipe['policy']
    episodes = Dataset(logged).episodes()
    assert torch.equal(episodes.slates[7, 1:].long(), log[7]['slate'])
    assert torch.equal(episodes.clicks[7, 1:].long(), log[7]['clicks'])
    assert (episodes.slates[:, 0] == -1).all()
    with pytest.raises(SlateRLError, match='it was imported, and nothing says'):
        Dataset(logged).transitions('user_ids')
    params = tiny(logged__source=path)
    ranker = pretrain_gems(params, log_trajectories(params))
    assert ranker.recipe['inputs'] == {'logged': logged.sha256} and find_gems(params).sha256 == ranker.sha256
    with pytest.raises(MissingError, match='No logged for these parameters'): find_gems(tiny())
    assert cli.main(['show', path]) == 0 and 'slate-rl import' in capsys.readouterr().out

def test_the_item_table_of_a_log_is_part_of_what_it_is(elsewhere):
    "Ids of one table mean nothing on another."
    torch.save(item_table(tiny().env).flip(0), elsewhere/'table.pt')
    torch.save(published(tiny(), 5), elsewhere/'log.pt')
    params = tiny(env__item_embeddings=str(elsewhere/'table.pt'))
    of_table = import_logged(elsewhere/'log.pt', params)
    assert of_table.path.parent.name == params.env.label != ENV
    with pytest.raises(SlateRLError, match='imported for another environment: env.item_embeddings'):
        log_trajectories(tiny(logged__source=str(of_table.path)))
    assert of_table.path != import_logged(elsewhere/'log.pt', tiny()).path

def test_what_was_made_here_is_no_source(elsewhere):
    logged = log_trajectories(tiny(logged__num_trajectories=10))
    with pytest.raises(SlateRLError, match='made here, not imported'):
        log_trajectories(tiny(logged__source=str(logged.path)))

def test_what_nobody_imports_keeps_its_identity():
    expected = {'env', 'policy', 'privileged', 'num_trajectories', 'epsilon', 'seed', 'block_size'}
    assert logged_recipe(tiny()).keys() == expected
    logged = log_trajectories(tiny(logged__num_trajectories=10))
    assert 'source' not in mf_recipe(tiny(), logged)['mf']

def test_a_file_with_code_is_refused_and_never_run(elsewhere, capsys):
    class Code:
        def __reduce__(self): return Path.touch, (elsewhere/'ran',)
    for kind in 'logged', 'mf', 'items':
        torch.save({0: Code()}, elsewhere/'bad.pt')
        assert cli.main(import_line(elsewhere/'bad.pt', kind)) == 1
        error = capsys.readouterr().err
        assert 'is not a file of tensors' in error and 'Traceback' not in error and len(error.splitlines()) == 1
    assert not (elsewhere/'ran').exists() and not (elsewhere/'outputs').exists()

SPOILT = {
    'short': (lambda good: good | dict(slate=good['slate'][:, :9]),
              r'slate has shape \(100, 9\); \(100, 10\) was expected'),
    'negative': (lambda good: good | dict(slate=good['slate'] - 1), '-1'),
    'beyond': (lambda good: good | dict(slate=good['slate'] + 1000), 'has 0 to 999'),
    'float': (lambda good: good | dict(slate=good['slate']*1.), 'whole numbers'),
    'clicks': (lambda good: good | dict(clicks=good['clicks']*2), 'neither 0 nor 1'),
    'no clicks': (lambda good: dict(slate=good['slate']), 'a dict with'),
    'list': (lambda good: [good['slate']], 'is list'),
}

@pytest.mark.parametrize('spoil, says', SPOILT.values(), ids=SPOILT)
def test_a_wrong_log_is_one_sentence_and_leaves_nothing(elsewhere, spoil, says):
    clicks = torch.ones(100, 10, dtype=torch.long)
    good = dict(slate=torch.randint(1, 1000, (100, 10)), clicks=clicks)
    bad = spoil(dict(slate=torch.zeros(100, 10, dtype=torch.long), clicks=clicks))
    of_two_blocks = dict.fromkeys(range(150), good) | {150: bad}
    torch.save(of_two_blocks, elsewhere/'bad.pt')
    with pytest.raises(SlateRLError, match=says) as error: import_logged(elsewhere/'bad.pt', tiny())
    assert 'Trajectory 150 of' in str(error.value)
    assert not written(elsewhere/'outputs')

def test_a_published_table_initialises_the_ranker(elsewhere):
    params = tiny(logged__num_trajectories=30)
    torch.save(torch.nn.Parameter(item_table(params.env)), elsewhere/'mf.pt')
    path, line = import_published(elsewhere/'mf.pt', 'mf', params)
    used = tiny(logged__num_trajectories=30, mf__source=str(path), gems__ranker_embedds='mf')
    logged = log_trajectories(used)
    table = pretrain_mf(used, logged)
    assert torch.equal(load_tensors(table.path)['items'], item_table(params.env))
    assert 'imported' in table.recipe and '"mf.source"' in line
    ranker = pretrain_gems(used, logged, table)
    assert ranker.recipe['inputs'] == dict(logged=logged.sha256, mf=table.sha256)
    assert find_gems(used).sha256 == ranker.sha256

@pytest.mark.parametrize('name', ['diffuse', 'focused'])
def test_the_released_item_tables_are_taken(elsewhere, capsys, name):
    if not os.environ.get('SLATE_RL_REFERENCE'): pytest.skip('SLATE_RL_REFERENCE is unset: no released tables here')
    path = Path(os.environ['SLATE_RL_REFERENCE'])/'data'/'gems'/f'item_embeddings_{name}.pt'
    assert cli.main(['import', str(path), '--kind', 'items', '--env', f'{name}_mix', '--scale', 'tiny']) == 0
    said = capsys.readouterr().out
    assert '"env.item_embeddings"' in said and str(path.resolve()) in said
    params = load_params(f'{name}_mix', scale='tiny', overrides={'env.item_embeddings': str(path)})
    assert item_table(params.env).shape == (1000, 20)
