"""Gymnasium in a dataset's spaces: as Minari recovers it, and as the evaluator plays it."""
import importlib.util, json, shutil

import gymnasium, numpy as np, pytest

from chain import ENV, checkpoint, dataset, tiny
from offline_slate_rl.collection.export import export_dataset, export_notes
from offline_slate_rl.core.errors import MissingError, SlateRLError
from offline_slate_rl.core.manifests import manifest_path
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.training.checkpoints import load_policy
from offline_slate_rl.training.latent_env import latent_env, latent_id
from offline_slate_rl.training.online import train

needs_minari = pytest.mark.skipif(not importlib.util.find_spec('minari'), reason=(
    "Minari, an extra, is not installed: pip install 'offline-slate-rl[minari]'"))
ways = pytest.mark.parametrize('quality, belief', [('medium', ''), ('random', 'step20')])


def recovered(quality: str, belief: str, folder, monkeypatch):
    "An export of the latent view, as Minari loads it."
    import minari
    monkeypatch.setenv('MINARI_DATASETS_PATH', str(folder/'minari'))
    path = export_dataset(dataset(quality), 'minari', view='latent', belief=belief)
    return minari.load_dataset('/'.join(path.parts[-2:]))

def episode_return(env, act) -> float:
    "Gymnasium only."
    (observation, _), total, truncated = env.reset(), 0., False
    while not truncated:
        observation, reward, terminated, truncated, _ = env.step(act(observation))
        total += reward
    assert not terminated
    return total

weights = np.random.default_rng(0).standard_normal((20, 32), dtype=np.float32)
def act(beliefs): return np.tanh(beliefs @ weights)


@needs_minari
@ways
def test_minari_recovers_equal_spaces_and_the_test_users(copy, tmp_path, monkeypatch, quality, belief):
    found = recovered(quality, belief, tmp_path, monkeypatch)
    env, of_test = found.recover_environment(), found.recover_environment(eval_env=True)
    for made in env, of_test:
        assert (found.observation_space, found.action_space) == (made.observation_space, made.action_space)
    assert env.spec.id == latent_id(ENV) and env.unwrapped.purpose == 'train'
    for episode in found.sample_episodes(3):
        assert all(belief in found.observation_space for belief in episode.observations)
        assert all(latent in found.action_space for latent in episode.actions)
    data = load_dataset(ENV, quality, belief=belief, say=lambda line: None)
    own = play_and_measure(data.policy(act), ENV, 3)[0].returns.tolist()
    assert [episode_return(of_test, act) for _ in own] == own
    assert not any('No environment' in note for note in export_notes(dataset(quality), 'minari', 'latent', belief))

@needs_minari
def test_another_file_in_the_place_of_a_model_is_refused(copy, tmp_path, monkeypatch):
    found = recovered('medium', '', tmp_path, monkeypatch)
    played, other = checkpoint('step40'), checkpoint('step20')
    moved = tmp_path/'moved.ckpt'
    for file in (lambda path: path), manifest_path: shutil.move(file(played.path), file(moved))
    with pytest.raises(MissingError, match='does not exist. The encoder of this'): found.recover_environment()
    assert found.recover_environment(checkpoint=str(moved)).action_space == found.action_space
    for file in (lambda path: path), manifest_path: shutil.copy(file(other.path), file(played.path))
    with pytest.raises(SlateRLError, match='holds another encoder than the one that is asked'):
        found.recover_environment()

@needs_minari
def test_without_its_models_an_export_has_no_environment_and_says_so(copy, tmp_path, monkeypatch):
    shutil.rmtree(copy/'tiny'/'checkpoints')
    found = recovered('medium', '', tmp_path, monkeypatch)
    assert found.env_spec is None and found.observation_space.shape == (20,)
    notes = export_notes(dataset('medium'), 'minari', 'latent')
    assert any('No environment to recover: the checkpoint that made it' in note for note in notes)

def test_an_agents_own_latents_earn_what_its_policy_earns(here):
    "Its actions, turn by turn, in the environment of the validation users."
    played, _ = play_and_measure(load_policy(checkpoint('step40')), ENV, 5, 'validation')
    envs = latent_env(checkpoint('step40'), 'validation', 5)
    beliefs, total = [envs.reset()[0]], np.zeros(5)
    for turn in range(100):
        belief, reward, *_ = envs.step(played.latents[:, turn].numpy())
        beliefs.append(belief)
        total += reward
    assert total.tolist() == played.returns.tolist()
    assert np.array_equal(np.stack(beliefs, 1), played.beliefs.numpy())

def test_an_agent_without_latents_has_no_such_environment(elsewhere):
    budget = {'training.max_steps': 20, 'training.target_step': 20}
    params = tiny(agent='DQN', overrides=budget | {'env.slate_size': 1})
    trained = train(params).checkpoints['step20']
    with pytest.raises(SlateRLError, match='an agent without latents: it acts on slates'): latent_env(trained.path)
    with pytest.raises(SlateRLError, match="Did you mean 'test'?"): latent_env(trained.path, 'tests')

def test_the_names_need_no_checkpoint_until_one_is_made():
    assert latent_id(ENV) in gymnasium.registry
    with pytest.raises(MissingError, match='Which checkpoint?'): gymnasium.make(latent_id(ENV))
    assert json.loads(gymnasium.spec(latent_id(ENV)).to_json())['kwargs'] == {'env': ENV}
