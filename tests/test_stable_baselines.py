"""Stable-Baselines3 trains in these environments as in any other of Gymnasium: by name, with pictures."""
import numpy as np, torch
from stable_baselines3 import PPO
from stable_baselines3.common.env_util import make_vec_env

import offline_slate_rl.world.gymnasium_env  # noqa: F401 (registers the names)
from chain import ENV
from offline_slate_rl.data.loading import load_dataset
from offline_slate_rl.training.latent_env import latent_spec

STEPS = 128

def trained(env, policy: str) -> PPO:
    "PPO after some updates; each has moved its weights."
    agent = PPO(policy, env, n_steps=STEPS//env.num_envs//2, batch_size=32, n_epochs=2, seed=0, device='cpu')
    before = torch.nn.utils.parameters_to_vector(agent.policy.parameters()).clone()
    agent.learn(STEPS)
    after = torch.nn.utils.parameters_to_vector(agent.policy.parameters())
    assert agent.num_timesteps == STEPS and after.isfinite().all() and (after != before).any()
    return agent

def test_slates():
    env = make_vec_env('offline_slate_rl/FocusedMix-v0', n_envs=2, seed=0,
                       env_kwargs=dict(num_items=50, slate_size=3, episode_length=20))
    agent = trained(env, 'MultiInputPolicy')
    returns, lengths = zip(*((episode['r'], episode['l']) for episode in agent.ep_info_buffer))
    assert len(returns) == STEPS//20 and set(lengths) == {20}
    assert 0 < np.mean(returns) < 60  # clicks on three slots in twenty turns
    assert agent.predict(env.reset())[0].shape == (2, 3)

def test_a_picture():
    "Of all users in one: `make_vec_env` asks for images."
    env = make_vec_env('offline_slate_rl/FocusedMix-v0', n_envs=2, seed=0)
    env.reset()
    image = env.render()
    assert image.dtype == np.uint8 and image.shape[2] == 3 and len(np.unique(image)) > 10

def test_beliefs_and_latents(here):
    "In the spaces of a dataset, where actions are vectors."
    spec = latent_spec(load_dataset(ENV, 'medium'))
    env = make_vec_env(lambda **options: spec.make(**options), n_envs=2, seed=0)
    agent = trained(env, 'MlpPolicy')
    assert agent.action_space.shape == agent.predict(env.reset())[0].shape[1:]
