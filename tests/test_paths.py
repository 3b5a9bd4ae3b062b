"""Another recipe goes to another path: where everything would go is planned for many parameters."""
from pathlib import Path

from chain import item_file, tiny
from offline_slate_rl.agents import slateq
from offline_slate_rl.collection import behaviours, collect
from offline_slate_rl.collection.collect import collect_dataset
from offline_slate_rl.core.params import RANKERS, Params, agents, registry, short_hash
from offline_slate_rl.core.store import Artifact, flatten
from offline_slate_rl.core.streams import torch_seeded
from offline_slate_rl.data import logged
from offline_slate_rl.data.logged import log_trajectories
from offline_slate_rl.rankers import click_model, gems_training, mf
from offline_slate_rl.rankers.click_model import ClickModel, pretrain_click_model
from offline_slate_rl.rankers.gems_training import pretrain_gems
from offline_slate_rl.rankers.mf import pretrain_mf
from offline_slate_rl.rankers.ranker import Ranker, build_ranker
from offline_slate_rl.training import checkpoints
from offline_slate_rl.training.checkpoints import run_folder, run_name, run_recipe, untrained_agent


class Plan:
    "Where everything of some parameters would go, and what it would be; nothing is made."
    def __init__(self, monkeypatch):
        self.monkeypatch, self.recipes = monkeypatch, {}  # path -> its recipes by their hash
        for module in logged, mf, click_model, gems_training, collect:
            monkeypatch.setattr(module, 'made_or_reused', self.artifact)
        monkeypatch.setattr(collect, '_approved', lambda *_: None)

    def artifact(self, path: Path, kind: str, recipe: dict, *_) -> Artifact:
        "What `made_or_reused` would return."
        recipe = dict(recipe, kind=kind)
        sha256 = short_hash(recipe)
        self.recipes.setdefault(path, {})[sha256] = recipe
        steps = recipe.get('checkpoint')
        return Artifact(path, dict(kind=kind, recipe=recipe, sha256=sha256, provenance=dict(steps=steps)))

    def pretrained(self, params: Params) -> tuple[Ranker|None, Artifact|None]:
        "The untrained ranker of some parameters, if they have one, and the artifact that it would be loaded from."
        trajectories = log_trajectories(params)
        table = pretrain_mf(params, trajectories)
        self.click_model = pretrain_click_model(params, trajectories)
        gems = pretrain_gems(params, trajectories, table if params.gems.ranker_embedds == 'mf' else None)
        asked = params.agent.ranker
        if asked is None: return None, None
        spec = RANKERS[asked.name].spec_of(params)
        sources = dict(GeMS=gems, mf=table, ideal=None, scratch=None)
        with torch_seeded(0, 'plan'): ranker = build_ranker(params.env, spec)
        return ranker, sources[getattr(asked, 'embeddings', asked.name)]

    def add(self, params: Params, model_checkpoint: str = ''):
        "Plan the logged trajectories, the ranker, the checkpoints and the datasets of some parameters."
        ranker, source = self.pretrained(params)
        def find_checkpoint(params, name: str) -> Artifact:
            path = run_folder(params)/f'{run_name(params)}_{name}.ckpt'
            return self.artifact(path, 'checkpoint', {**run_recipe(params), 'checkpoint': name})
        stands_in = dict(find_checkpoint=find_checkpoint, load_artifact=lambda path, kind: path,
                         load_agent=lambda path: untrained_agent(params)[0], load_ranker=lambda *_: ranker,
                         ranker_source=lambda params: (ranker and ranker.spec(), source))
        self.monkeypatch.setattr(checkpoints, 'find_ranker', lambda params: (ranker, source))
        self.monkeypatch.setattr(slateq, 'find_click_model', lambda params: self.click_model)
        self.monkeypatch.setattr(slateq, 'load_click_model', lambda _, env: ClickModel(env, params.click_model))
        for name, function in stands_in.items(): self.monkeypatch.setattr(behaviours, name, function)
        for quality in 'medium', 'expert': collect_dataset(params, quality, model_checkpoint)
        for behaviour in 'random', 'random-slates': collect_dataset(params, 'random', behaviour=behaviour)

    def shared(self) -> dict[str, list[dict]]:
        "Paths of several recipes: in what these differ."
        recipes = {path.name: list(several.values()) for path, several in self.recipes.items()}
        return {name: differing(several) for name, several in recipes.items() if len(several) > 1}

def differing(recipes: list[dict]) -> list[dict]:
    "The values of some recipes, where they are not the same in all."
    flat = [flatten(recipe) for recipe in recipes]
    keys = {key for recipe in flat for key in recipe if any(other.get(key) != recipe[key] for other in flat)}
    return [{key: recipe.get(key) for key in keys} for recipe in flat]

RANKED = [
    {'name': 'topk', 'embeddings': 'mf'}, {'name': 'kHead', 'embeddings': 'mf'}, {'name': 'kNN', 'embeddings': 'mf'},
    {'name': 'kHead', 'embeddings': 'scratch'}, {'name': 'kHead', 'embeddings': 'mf', 'distinct': True},
    {'name': 'GeMS', 'distinct': True}, {'name': 'GeMS', 'leave_out_clicked': True}]

CHANGES = [
    {}, {'env.omega': .5}, {'env.gamma': .9}, {'env.item_seed': 9},
    {'collection.seed': 2}, {'collection.block_size': 5}, {'collection.num_trajectories': 20},
    *({'agent.ranker': ranker} for ranker in RANKED), {'agent.q_lr': .01}, {'agent.belief.state_dim': 8},
    {'gems.latent_dim': 16}, {'gems.lr': .01}, {'gems.ranker_seed': 5},
    {'gems.ranker_embedds': 'mf'}, {'gems.ranker_embedds': 'ideal'}, {'gems.ranker_embedds': 'mf', 'mf.lr': .01},
    {'mf.lr': .01}, {'mf.seed': 5}, {'click_model.lr': .001}, {'click_model.seed': 5},
    {'logged.epsilon': .1}, {'logged.seed': 5}, {'logged.num_trajectories': 100},
    {'training.target_step': 20}, {'training.max_steps': 80}]

PLAYING = [{'collection.deterministic': True}, {'collection.epsilon': .25}, {'collection.noise': .5},
           {'collection.epsilon': .25, 'collection.noise': .5}]  # of an agent only

def test_two_recipes_never_share_a_path(monkeypatch, tmp_path):
    plan = Plan(monkeypatch)
    for overrides in [*CHANGES, {'env.item_embeddings': str(item_file(tmp_path))}]: plan.add(tiny(overrides=overrides))
    for name in registry(): plan.add(tiny(name))
    for agent in agents(): plan.add(tiny(agent=agent, overrides={'env.slate_size': 1} if agent == 'DQN' else None))
    for overrides in {'click_model.lr': .001}, {'click_model.seed': 5}, {'logged.epsilon': .1}:
        plan.add(tiny(agent='SlateQ', overrides=overrides))
    for seed in 5, 6: plan.add(tiny(seed=seed))
    for name in 'best', 'step20': plan.add(tiny(), name)
    for overrides in PLAYING: collect_dataset(tiny(overrides=overrides), 'medium')
    assert not plan.shared()
    assert len(plan.recipes) > 100  # something was planned
