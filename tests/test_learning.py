"""Each agent learns: in a small world whose best slate is known, it earns nine tenths of what that slate earns."""
import pytest, torch

from offline_slate_rl.core.params import Params, load_params
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.play.measures import play_and_measure
from offline_slate_rl.play.policies import FixedSlate, RandomSlates
from offline_slate_rl.rankers.click_model import pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.training.checkpoints import load_policy
from offline_slate_rl.training.online import train

# Three of twelve items are to every user's taste, the others to nobody's. Users neither drift nor get bored.
WORLD = {'env.num_items': 12, 'env.slate_size': 3, 'env.num_topics': 1, 'env.topic_size': 2, 'env.episode_length': 10,
         'env.boredom_threshold': 1000, 'env.omega': 1.}
GOOD = [0, 1, 2]
SMALL = {'agent.hidden_dim': 32, 'agent.belief.state_dim': 8, 'agent.belief.item_embedding_dim': 4,
         'mf.embedding_dim': 6, 'mf.max_epochs': 3, 'mf.lr': .01, 'gems.latent_dim': 4, 'gems.hidden_dims': [32, 32],
         'gems.epochs': 12, 'gems.batch_size': 32, 'click_model.epochs': 5, 'click_model.lr': .01}
FAST = {'agent.tau': .05, 'agent.random_steps': 20}
SAC = FAST | {'training.max_steps': 400}

HOW = {  # agent -> what it needs to learn quickly
    'SAC+GeMS': SAC,
    'SAC+topK-mf': SAC,
    'SAC+topK-ideal': SAC,
    'SAC+kHead': SAC,
    'REINFORCE+GeMS': {'training.max_steps': 800},
    'REINFORCE+SoftMax': {'training.max_steps': 100},
    'SlateQ': FAST | {'agent.epsilon_steps': 100., 'training.max_steps': 200},
    'SlateQ-exact': FAST | {'agent.epsilon_steps': 100., 'agent.last_epsilon': .3, 'training.max_steps': 400},
    'SAC+WkNN': SAC | {'agent.neighbours': 3},
    'DQN': FAST | {'env.slate_size': 1, 'agent.epsilon_steps': 100., 'training.max_steps': 200},
}

def small_world(agent: str, folder, **overrides) -> Params:
    "Parameters of an agent in the small world."
    items = torch.full((12, 2), .05)
    items[GOOD] = .7
    torch.save(items, folder/'items.pt')
    changes = WORLD | SMALL | HOW[agent] | {'env.item_embeddings': str(folder/'items.pt'), 'training.logger': 'none'}
    steps = changes['training.max_steps']
    changes |= {'training.target_step': steps, 'training.save_every_n_steps': steps,
                'training.check_val_every_n_steps': steps}
    return load_params('focused_topdown', agent, scale='tiny', overrides=changes | overrides)

def pretrained(params: Params):
    "Make all that an agent may need."
    logged = log_trajectories(params)
    pretrain_mf(params, logged)
    pretrain_click_model(params, logged)
    pretrain_gems(params, logged)

@pytest.mark.parametrize('agent', HOW)
def test_it_finds_the_best_slate(agent, tmp_path, monkeypatch):
    monkeypatch.setenv('SLATE_RL_OUTPUTS', str(tmp_path/'outputs'))
    params = small_world(agent, tmp_path)
    pretrained(params)
    trained = train(params)
    def earned(policy) -> float: return play_and_measure(policy, params.env, 200)[1]['return_mean']
    best, chance = earned(FixedSlate(GOOD[:params.env.slate_size])), earned(RandomSlates(12))
    untrained, learnt = (earned(load_policy(trained.checkpoints[name])) for name in ('step0', 'last'))
    assert learnt >= .9*best, (learnt, best, chance, untrained)
    assert chance < .6*best  # so this says something
