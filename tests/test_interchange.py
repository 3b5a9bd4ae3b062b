"""Exports as other libraries read them, and published files as this one takes them."""
import hashlib, importlib.util, json, os
from functools import partial
from pathlib import Path

import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest, torch

from offline_slate_rl.collection import interchange
from offline_slate_rl.pipeline import cli
from offline_slate_rl.pipeline.bench import untrained
from offline_slate_rl.data.datasets import Dataset, collect, log_trajectories, logged_recipe
from offline_slate_rl.world.embeddings import item_table
from offline_slate_rl.play.episodes import Action, Policy, RandomSlates
from offline_slate_rl.rankers.gems import RandomLatents, find_gems, pretrain_gems
from offline_slate_rl.collection.interchange import WRITERS, export_dataset, import_logged, import_published
from offline_slate_rl.rankers.mf import mf_recipe, pretrain_mf
from offline_slate_rl.core.params import SlateRLError, load_params, registry
from offline_slate_rl.core.store import load_artifact, load_tensors, save_artifact, save_tensors
from offline_slate_rl.training.online import Built

ENV, N, H = 'focused_mix', 12, 100
needs_minari = pytest.mark.skipif(not importlib.util.find_spec('minari'), reason="Minari, an extra, is not installed: pip install 'offline-slate-rl[minari]'")
formats = pytest.mark.parametrize('to', [pytest.param(o, marks=needs_minari) if o == 'minari' else o for o in WRITERS])
D4RL = 'observations', 'actions', 'next_observations', 'rewards', 'terminals'


class StandIn(Policy):
    "Has a belief and a latent, and knows nothing."
    def act(self, obs, deterministic=False):
        latent = torch.from_numpy(self.generator.standard_normal((self.num_envs, 4), dtype=np.float32))
        slate = (latent.abs().sum(1, keepdim=True)*100).long() + torch.arange(10)
        return Action(slate % 1000, latent, latent.sum(1), torch.cat([obs.clicks.float(), obs.slate[:, :2].float()], 1))

def tiny(**overrides): return load_params(ENV, scale='tiny', overrides={k.replace('__', '.'): v for k, v in overrides.items()})

def made(folder: Path, name: str, make_policy, quality: str, params=None) -> Dataset:
    env = (params or tiny()).env
    recipe = dict(env=env.recipe(), quality=quality, policy=name, seed=1, num_trajectories=N, block_size=5, inputs={}, privileged=False)
    return Dataset(collect(folder/f'{name}.h5', env, make_policy, N, 1, 'dataset', 'dataset', recipe, dict(command='x'), 5, oracle=True))

@pytest.fixture(scope='module')
def datasets(tmp_path_factory):
    folder = tmp_path_factory.mktemp('datasets')
    return dict(agent=made(folder, 'agent', StandIn, 'medium'), slates=made(folder, 'slates', partial(RandomSlates, 1000), 'random'))

@pytest.fixture
def agent(datasets): return datasets['agent']

@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'outputs'))
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(tmp_path/'minari'))
    return tmp_path

def contents(path: Path) -> dict:
    "sha256 of every file of an export, by its place in it."
    return {str(o.relative_to(path)): hashlib.sha256(o.read_bytes()).hexdigest() for o in ([path] if path.is_file() else sorted(path.rglob('*'))) if o.is_file()}

def whole(folder: Path) -> list: return sorted(str(o) for o in folder.rglob('*'))


# Export: what every format holds

def loaded(path: Path, to: str) -> tuple[dict, dict]:
    "Transitions by D4RL's names, read by the foreign library, and what the file tells of itself."
    if to == 'npz':
        t = dict(np.load(path, allow_pickle=False))
        return t, json.loads(str(t.pop('about')))
    if to == 'parquet':
        rows = pd.read_parquet(path)
        return {k: np.stack(rows[k]) if rows[k].dtype == object else rows[k].to_numpy() for k in rows}, json.loads(pq.read_schema(path).metadata[b'offline_slate_rl'])
    if to == 'pkl':
        lists = pd.read_pickle(path)  # just written by ourselves
        told = lists.pop('metadata')
        assert all(isinstance(v, list) and len(v) == N for v in lists.values())
        return {k: np.concatenate(v) for k, v in lists.items() if np.shape(v[0])[:1] == (H,)}, told
    import minari
    d = minari.load_dataset('/'.join(path.parts[-2:]))
    episodes = list(d.iterate_episodes())
    def cat(pick): return np.concatenate([pick(e) for e in episodes])
    raw = isinstance(episodes[0].observations, dict)
    def observed(e): return np.concatenate([e.observations['slate'], e.observations['clicks']], -1) if raw else e.observations
    infos = {k: cat(lambda e: e.infos[k]) for k in episodes[0].infos if k.startswith('oracle')}
    t = dict(observations=cat(lambda e: observed(e)[:-1]), next_observations=cat(lambda e: observed(e)[1:]), actions=cat(lambda e: e.actions), rewards=cat(lambda e: e.rewards),
             terminals=cat(lambda e: e.terminations), timeouts=cat(lambda e: e.truncations))
    return t | infos, d.storage.metadata['offline_slate_rl']

@formats
@pytest.mark.parametrize('view', ['latent', 'slate'])
def test_another_library_reads_what_was_played(agent, elsewhere, to, view):
    if to == 'parquet':
        if view == 'slate': pytest.skip('a Parquet row has no view: it holds everything')
        t, told = loaded(export_dataset(agent.path, to, str(elsewhere)), to)
    else: t, told = loaded(export_dataset(agent.path, to, str(elsewhere/('minari' if to == 'minari' else 'files')), view), to)
    expected, e = agent.transitions(), agent.episodes()
    if view == 'slate':
        seen = np.concatenate([e.slates, e.clicks], -1)
        expected |= dict(observations=seen[:, :-1].reshape(N*H, -1), next_observations=seen[:, 1:].reshape(N*H, -1), actions=expected['slates'])
    for k in (*D4RL, 'timeouts', *(['slates', 'clicks'] if to != 'minari' else [])): np.testing.assert_array_equal(t[k], expected[k], k)
    assert not t['terminals'].any() and np.array_equal(np.flatnonzero(t['timeouts']), np.arange(1, N + 1)*H - 1)
    assert told['sha256'] == agent.artifact.sha256 and told['recipe'] == agent.recipe and told['reference'] is None

@formats
def test_equal_datasets_have_equal_exports(agent, elsewhere, to):
    same = Dataset(load_artifact(made(elsewhere/'again', 'agent', StandIn, 'medium').path))
    assert same.artifact.sha256 == agent.artifact.sha256
    one, two = (export_dataset(o.path, to, str(elsewhere/where)) for o, where in ((agent, 'one'), (same, 'two')))
    assert contents(one).values() and list(contents(one).values()) == list(contents(two).values())

@formats
@pytest.mark.parametrize('given', [False, True])
def test_the_oracle_stays_unless_asked_for(agent, elsewhere, to, given):
    path = export_dataset(agent.path, to, str(elsewhere/'minari') if to == 'minari' else str(elsewhere), oracle=given)
    t, _ = loaded(path, to)
    assert bool([k for k in t if k.startswith('oracle')]) == given
    raw = b''.join(o.read_bytes() for o in ([path] if path.is_file() else path.rglob('*')) if o.is_file())
    assert (b'oracle/' in raw or b'oracle_' in raw) == given

@formats
def test_random_slates_have_a_view_too(datasets, elsewhere, to):
    d = datasets['slates']
    if to in ('npz', 'pkl'):
        with pytest.raises(SlateRLError, match=f'--to {to} --view slate'): export_dataset(d.path, to)
    t, _ = loaded(export_dataset(d.path, to, str(elsewhere/'minari'), '' if to == 'parquet' else 'slate'), to)
    np.testing.assert_array_equal(t['slates' if to == 'parquet' else 'actions'], d.transitions('slates')['slates'])

@formats
def test_an_export_that_fails_leaves_what_was_there(agent, elsewhere, monkeypatch, to):
    path = export_dataset(agent.path, to, str(elsewhere/'minari'))
    before, files = contents(path), whole(elsewhere)
    with pytest.raises(SlateRLError, match='--force'): export_dataset(agent.path, to, str(elsewhere/'minari'))
    episodes = Dataset.episodes
    monkeypatch.setattr(interchange, 'blocks', lambda d: ((i, episodes(d, i, 4)) if i < 8 else 1/0 for i in (0, 4, 8)))
    with pytest.raises(ZeroDivisionError): export_dataset(agent.path, to, str(elsewhere/'minari'), force=True)
    assert contents(path) == before and whole(elsewhere) == files
    with pytest.raises(ZeroDivisionError): export_dataset(agent.path, to, str(elsewhere/'new'))
    assert not [o for o in whole(elsewhere/'new') if Path(o).is_file() or 'agent' in o]

@formats
def test_an_export_is_written_block_by_block_to_the_same_content(agent, elsewhere, monkeypatch, to):
    one, _ = loaded(export_dataset(agent.path, to, str(elsewhere/'minari')), to)
    episodes = Dataset.episodes
    monkeypatch.setattr(interchange, 'blocks', lambda d: ((i, episodes(d, i, min(5, N - i))) for i in range(0, N, 5)))
    two, _ = loaded(export_dataset(agent.path, to, str(elsewhere/'minari'), force=True), to)
    assert one.keys() == two.keys()
    for k in one: np.testing.assert_array_equal(one[k], two[k])

def test_parquet_holds_one_row_a_transition(agent, elsewhere):
    rows = pd.read_parquet(export_dataset(agent.path, 'parquet', str(elsewhere)))
    assert list(rows.columns[:2]) == ['episode_id', 'timestep'] and len(rows) == N*H
    assert rows.groupby('episode_id').timestep.agg(list).map(lambda o: o == list(range(H))).all()
    np.testing.assert_array_equal(np.stack(rows.initial_clicks[::H]), agent.episodes().clicks[:, 0])
    assert str(pq.read_schema(elsewhere/'agent.parquet').field('clicks').type) == 'fixed_size_list<element: uint8>[10]'


def test_beliefs_of_a_checkpoint(elsewhere):
    "Random latents have actions and nobody's beliefs."
    params, model = untrained('tiny')
    content = dict(state_dict=model.state_dict(), params=Built.of(params).model_dump())
    checkpoint = save_artifact(elsewhere/'model.ckpt', partial(save_tensors, content), 'checkpoint', dict(env=params.env.recipe(), checkpoint='step0'), dict(command='x'))
    d = made(elsewhere, 'latents', partial(RandomLatents, model.ranker), 'random', params)
    with pytest.raises(SlateRLError, match='--belief'): export_dataset(d.path, 'npz')
    with pytest.raises(SlateRLError, match="'best' is no encoder"): export_dataset(d.path, 'npz', belief='best')
    path = export_dataset(d.path, 'npz', belief=str(checkpoint.path))
    t, told = loaded(path, 'npz')
    e = d.episodes()
    np.testing.assert_array_equal(t['observations'].reshape(N, H, -1), model.actor_belief(e.slates, e.clicks).detach()[:, :-1].numpy())
    assert told['derived'][0]['dataset'] == d.artifact.sha256 and 'beliefs-' in path.name


# Minari

@needs_minari
def test_minari_recovers_the_environment(agent, elsewhere):
    import minari
    export_dataset(agent.path, 'minari')
    d = minari.load_dataset('slate-rl/agent-v0')
    env, e = d.recover_environment(), d[3]
    assert env.unwrapped.params == registry()[ENV] and (d.observation_space, d.action_space) == (env.observation_space, env.action_space)
    assert all(d.observation_space.contains({k: v[t] for k, v in e.observations.items()}) for t in range(H + 1)) and all(o in d.action_space for o in e.actions)
    assert env.reset(seed=0)[0]['slate'].tolist() == e.observations['slate'][0].tolist()  # everybody's first slate
    _, reward, terminated, truncated, _ = env.step(e.actions[0])
    assert isinstance(reward, float) and not terminated and not truncated
    assert e.infos['belief'].shape == (H + 1, 12) and e.infos['latent'].shape == (H, 4) and e.infos['log_prob'].shape == (H,)
    parts = minari.split_dataset(d, [8, 4], seed=0)
    assert [len(o) for o in parts] == [8, 4] and sum(len(o) for o in d.sample_episodes(5)) == 5*H
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
    assert cli.main(['export', str(agent.path), '--to', 'minari']) == 0
    said = capsys.readouterr().out
    assert 'No reference scores' in said and 'minari.load_dataset("slate-rl/agent-v0")' in said
    with pytest.raises(ValueError, match='Reference score not provided'): minari.get_normalized_score(minari.load_dataset('slate-rl/agent-v0'), np.array([30.]))
    monkeypatch.setattr(interchange, 'reference', lambda env: dict(env=env.label, random=30., expert=300.))
    assert cli.main(['export', str(agent.path), '--to', 'minari', '--force']) == 0
    assert 'No reference' not in capsys.readouterr().out
    d = minari.load_dataset('slate-rl/agent-v0')
    assert minari.get_normalized_score(d, np.array([30., 300., 165.])).tolist() == [0, 1, .5]
    assert d.storage.metadata['offline_slate_rl']['reference']['expert'] == 300

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
    e = Dataset(log_trajectories(params.model_copy(update=dict(logged=params.logged.model_copy(update=dict(num_trajectories=n)))))).episodes()
    return {i: dict(slate=e.slates[i, 1:].long(), clicks=e.clicks[i, 1:].long()) for i in range(n)}

def test_a_published_log_becomes_a_ranker(elsewhere, capsys):
    torch.save(log := published(tiny()), elsewhere/'log.pt')
    assert cli.main(['import', str(elsewhere/'log.pt'), '--kind', 'logged', '--env', ENV, '--scale', 'tiny']) == 0
    path, line = (o for o in capsys.readouterr().out.splitlines() if o.startswith(('/', 'Use it')))
    assert f'{{"logged.source": "{path}"}}' in line
    a = load_artifact(Path(path), 'logged')
    assert a.recipe['imported'] == {'sha256': hashlib.sha256((elsewhere/'log.pt').read_bytes()).hexdigest()} and 'not ours' in a.recipe['policy']
    e = Dataset(a).episodes()
    assert torch.equal(e.slates[7, 1:].long(), log[7]['slate']) and torch.equal(e.clicks[7, 1:].long(), log[7]['clicks']) and (e.slates[:, 0] == -1).all()
    params = tiny(logged__source=path)
    ranker = pretrain_gems(params, log_trajectories(params))
    assert ranker.recipe['inputs'] == {'logged': a.sha256} and find_gems(params).sha256 == ranker.sha256
    with pytest.raises(SlateRLError, match='No logged for these parameters'): find_gems(tiny())
    assert cli.main(['show', path]) == 0 and 'slate-rl import' in capsys.readouterr().out

def test_the_item_table_of_a_log_is_part_of_what_it_is(elsewhere):
    "Ids of one table mean nothing on another."
    torch.save(item_table(tiny().env).flip(0), elsewhere/'table.pt')
    torch.save(published(tiny(), 5), elsewhere/'log.pt')
    params = tiny(env__item_embeddings=str(elsewhere/'table.pt'))
    a = import_logged(elsewhere/'log.pt', params)
    assert a.path.parent.name == params.env.label != ENV
    with pytest.raises(SlateRLError, match='imported for another environment: env.item_embeddings'): log_trajectories(tiny(logged__source=str(a.path)))
    b = import_logged(elsewhere/'log.pt', tiny())
    assert a.path != b.path

def test_what_was_made_here_is_no_source(elsewhere):
    a = log_trajectories(tiny(logged__num_trajectories=10))
    with pytest.raises(SlateRLError, match='made here, not imported'): log_trajectories(tiny(logged__source=str(a.path)))

def test_what_nobody_imports_keeps_its_identity():
    assert logged_recipe(tiny()).keys() == {'env', 'policy', 'num_trajectories', 'epsilon', 'seed', 'block_size'}
    logged = log_trajectories(tiny(logged__num_trajectories=10))
    assert 'source' not in mf_recipe(tiny(), logged)['mf']

def test_a_file_with_code_is_refused_and_never_run(elsewhere, capsys):
    class Code:
        def __reduce__(self): return Path.touch, (elsewhere/'ran',)
    for kind in 'logged', 'mf', 'items':
        torch.save({0: Code()}, elsewhere/'bad.pt')
        assert cli.main(['import', str(elsewhere/'bad.pt'), '--kind', kind, '--env', ENV, '--scale', 'tiny']) == 1
        err = capsys.readouterr().err
        assert 'is not a file of tensors' in err and 'Traceback' not in err and len(err.splitlines()) == 1
    assert not (elsewhere/'ran').exists() and not (elsewhere/'outputs').exists()

@pytest.mark.parametrize('spoil, says', [(lambda o: o | dict(slate=o['slate'][:, :9]), r'slate has shape \(100, 9\); \(100, 10\) was expected'), (lambda o: o | dict(slate=o['slate'] - 1), '-1'),
                                         (lambda o: o | dict(slate=o['slate'] + 1000), 'has 0 to 999'), (lambda o: o | dict(slate=o['slate']*1.), 'whole numbers'),
                                         (lambda o: o | dict(clicks=o['clicks']*2), 'neither 0 nor 1'), (lambda o: dict(slate=o['slate']), 'a dict with'), (lambda o: [o['slate']], 'is list')])
def test_a_wrong_log_is_one_sentence_and_leaves_nothing(elsewhere, spoil, says):
    good = dict(slate=torch.randint(1, 1000, (100, 10)), clicks=torch.ones(100, 10, dtype=torch.long))
    bad = dict(slate=torch.zeros(100, 10, dtype=torch.long), clicks=good['clicks'])
    torch.save({i: good for i in range(150)} | {150: spoil(bad)}, elsewhere/'bad.pt')  # in the second block of the file
    with pytest.raises(SlateRLError, match=says) as e: import_logged(elsewhere/'bad.pt', tiny())
    assert 'Trajectory 150 of' in str(e.value)
    assert not [o for o in whole(elsewhere/'outputs') if Path(o).is_file()]

def test_a_published_table_initialises_the_ranker(elsewhere):
    params = tiny(logged__num_trajectories=30)
    torch.save(torch.nn.Parameter(item_table(params.env)), elsewhere/'mf.pt')
    path, line = import_published(elsewhere/'mf.pt', 'mf', params)
    used = tiny(logged__num_trajectories=30, mf__source=str(path), gems__ranker_embedds='mf')
    logged = log_trajectories(used)
    table = pretrain_mf(used, logged)
    assert torch.equal(load_tensors(table.path)['items'], item_table(params.env)) and 'imported' in table.recipe and '"mf.source"' in line
    ranker = pretrain_gems(used, logged, table)
    assert ranker.recipe['inputs'] == dict(logged=logged.sha256, mf=table.sha256) and find_gems(used).sha256 == ranker.sha256

@pytest.mark.parametrize('name', ['diffuse', 'focused'])
def test_the_released_item_tables_are_taken(elsewhere, capsys, name):
    if not os.environ.get('SLATE_RL_REFERENCE'): pytest.skip('SLATE_RL_REFERENCE is unset: no released tables here')
    path = Path(os.environ['SLATE_RL_REFERENCE'])/'data'/'gems'/f'item_embeddings_{name}.pt'
    assert cli.main(['import', str(path), '--kind', 'items', '--env', f'{name}_mix', '--scale', 'tiny']) == 0
    said = capsys.readouterr().out
    assert '"env.item_embeddings"' in said and str(path.resolve()) in said
    assert item_table(load_params(f'{name}_mix', scale='tiny', overrides={'env.item_embeddings': str(path)}).env).shape == (1000, 20)
