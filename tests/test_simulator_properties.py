"""What holds in any world, whatever its parameters: hypothesis draws worlds, slates and clicks. The recorded traces (nbs/lib/world/11_simulator.ipynb) hold
the simulator to published episodes of published worlds; here a plain loop over one user, written from the published semantics, holds it to them elsewhere."""
from collections import deque

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from offline_slate_rl.world.compiled import CompiledTopicRec
from offline_slate_rl.world.embeddings import generate_items, topic_norms
from offline_slate_rl.core.params import SlateRLError, env_params
from offline_slate_rl.world.simulator import BORED_TURNS, TopicRec, replay

# The same examples every time: a failure is a failure for everyone, and nothing is remembered between runs.
examples = settings(derandomize=True, deadline=None, max_examples=60, database=None)

@st.composite
def worlds(draw, **fixed):
    "Parameters of a small world, and its item table."
    topics, slate = draw(st.integers(2, 6)), draw(st.integers(1, 8))
    changes = dict(
        num_topics=topics, topic_size=draw(st.integers(1, 3)), slate_size=slate, num_items=draw(st.integers(max(slate, topics), 80)), episode_length=15,
        click_model=draw(st.sampled_from(['tdPBM', 'mixPBM'])), offset=draw(st.sampled_from([0., .1, .28])), slope=draw(st.sampled_from([10., 100.])),
        rel_threshold=draw(st.sampled_from([None, .1])), click_only_once=draw(st.booleans()), omega=draw(st.sampled_from([0.5, 0.9, 1.])),
        short_term_boost=draw(st.sampled_from([1., 2.])), boredom_threshold=draw(st.integers(1, 6)), recent_items_maxlen=draw(st.integers(1, 12)),
        boredom_moving_window=draw(st.integers(0, 6)), diversity_threshold=draw(st.integers(1, 5)), diversity_penalty=draw(st.sampled_from([1., 3.])),
        propensities=draw(st.sampled_from([None, [[1/(1 + r + c/2) for c in range(slate + 1)] for r in range(slate)]])))
    env = env_params('focused_mix').model_copy(update={**changes, **fixed})
    return env, generate_items(env.num_items, env.num_topics, env.topic_size, draw(st.sampled_from([1., 2.])), draw(st.integers(0, 5)))

def played(sim, seed, oracle=0.4, first=0):
    "Turns of `sim` with slates of which some slots are the oracle's; those of environment i are the same at any batch size."
    turns, shape = [sim.reset(first)], (sim.env.episode_length, sim.env.slate_size)
    slates = [np.where((g := np.random.default_rng([seed, first + i])).random(shape) < oracle, -1, g.integers(sim.env.num_items, size=shape))
              for i in range(sim.num_envs)]
    return turns + [sim.step(torch.from_numpy(o)) for o in np.stack(slates, 1)]

def stacked(turns): return [torch.stack([o.obs.slate for o in turns], 1), torch.stack([o.obs.clicks for o in turns], 1)] + [
    torch.stack([o.info[k] for o in turns], 1) for k in ('user', 'bored', 'scores')]

close = dict(rtol=1e-4, atol=1e-5)


@examples
@given(worlds(), st.integers(0, 100))
def test_a_turn(world, seed):
    env, items = world
    turns = played(TopicRec(env, items, num_envs=5, seed=seed), seed)
    assert all(torch.equal(a, b) for a, b in zip(stacked(turns), stacked(played(TopicRec(env, items, num_envs=5, seed=seed), seed))))  # bit by bit
    for i, o in enumerate(turns):
        assert ((o.obs.clicks == 0) | (o.obs.clicks == 1)).all()
        assert torch.equal(o.reward, o.obs.clicks.sum(1).float() if i else torch.zeros(5))
        assert ((o.obs.slate >= 0) & (o.obs.slate < env.num_items)).all()
        assert torch.allclose(topic_norms(o.info.user, env.num_topics).sum(1), torch.ones(5), **close)
        assert o.truncated.all() == (i == env.episode_length)


@examples
@given(worlds(short_term_boost=1.), st.integers(0, 100))
def test_a_bored_topic_gives_no_score_on_its_block(world, seed):
    env, items = world
    turns = played(TopicRec(env, items, num_envs=5, seed=seed), seed, oracle=0.8)
    for before, o in zip(turns, turns[1:]):
        blocks = (items[o.obs.slate]*before.info.user[:, None]).unflatten(2, (env.num_topics, -1)).sum(-1)  # what each topic would give
        assert torch.allclose(o.info.scores, (blocks*~o.info.bored[:, None]).sum(-1)/items.norm(dim=1).max(), **close)


@examples
@given(worlds(), st.integers(0, 100), st.data())
def test_permuting_environments_permutes_results(world, seed, data):
    env, items = world
    sim = TopicRec(env, items, num_envs=6, seed=seed)
    slates, clicks, users, *_ = stacked(played(sim, seed))
    order = torch.tensor(data.draw(st.permutations(range(6))))
    args = users[:, 0], slates[:, 0], clicks[:, 0], slates[:, 1:], clicks[:, 1:]
    a, b = replay(sim, *args), replay(sim, *(o[order] for o in args))
    assert torch.equal(a.bored[order], b.bored) and torch.equal(a.slate[order], b.slate)
    assert torch.allclose(a.user[order], b.user, **close) and torch.allclose(a.scores[order], b.scores, **close)


@examples
@given(worlds(), st.integers(0, 100))
def test_a_batch_is_its_members(world, seed):
    env, items = world
    batch = stacked(played(TopicRec(env, items, num_envs=4, seed=seed), seed))
    for i in range(4):
        for all_of, one in zip(batch, stacked(played(TopicRec(env, items, num_envs=1, seed=seed), seed, first=i))):
            assert torch.allclose(all_of[i].float(), one[0].float(), **close)


def plain(env, items, user, slate0, clicks0, slates, clicks):
    "One user, turn by turn, in Python's own words. Yields bored topics, scores and the user left behind."
    k, d = env.num_topics, env.topic_size
    norms = lambda x: np.linalg.norm(x.reshape(k, d), axis=1)
    main = [int(norms(o).argmax()) for o in items]
    topics, turns = deque(maxlen=env.recent_items_maxlen), deque(maxlen=env.recent_items_maxlen)
    topics.extend(main[o] for o, c in zip(slate0, clicks0) if c)  # and not `turns`: the accident
    bored, timer = [False]*k, [BORED_TURNS]*k
    for t, (slate, clicked) in enumerate(zip(slates, clicks), 1):
        for topic in range(k):
            if bored[topic]: timer[topic] -= 1
            if timer[topic] == 0: bored[topic] = False
            if not bored[topic]: timer[topic] = BORED_TURNS
        for topic in range(k): bored[topic] |= list(topics).count(topic) >= env.boredom_threshold
        effective = np.where(np.repeat(bored, d), 0, user)
        scores = items[slate] @ effective/np.linalg.norm(items, axis=1).max()
        for item in slate[clicked > 0]:
            topics.append(main[item]); turns.append(t)
        while turns and turns[0] < t - env.boredom_moving_window: turns.popleft(); topics.popleft()
        for item in slate[clicked > 0]:
            user = env.omega*user + (1 - env.omega)*items[item]
            user = user/norms(user).sum()
        yield list(bored), scores, user


@pytest.mark.parametrize('kind', [TopicRec, CompiledTopicRec], ids=lambda o: o.__name__)
@settings(examples, max_examples=100)
@given(worlds(short_term_boost=1., rel_threshold=None, click_only_once=False, propensities=None), st.integers(0, 10**6), st.sampled_from([.02, .1, .4]))
def test_a_plain_loop_over_one_user_agrees(kind, world, seed, rate):
    env, items = world
    env = env.model_copy(update=dict(episode_length=40))
    g = np.random.default_rng(seed)
    user = g.random(env.dim).astype(np.float32)
    user /= np.linalg.norm(user.reshape(env.num_topics, -1), axis=1).sum()
    slates, clicks = g.integers(env.num_items, size=(41, env.slate_size)), g.random((41, env.slate_size)) < rate
    bored, scores, users = zip(*plain(env, items.numpy().astype(float), user, slates[0], clicks[0], slates[1:], clicks[1:]))
    r = replay(kind(env, items), user, slates[0], clicks[0], slates[1:], clicks[1:])
    assert np.array_equal(r.bored.numpy(), bored)
    np.testing.assert_allclose(r.scores.numpy(), scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(r.user.numpy(), users, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('slates, says', [
    (np.zeros((2, 9), dtype=int), r'shape \(2, 9\); \(2, 10\) was expected'), (np.zeros((3, 10), dtype=int), r'\(2, 10\) was expected'),
    (np.zeros((2, 10)), 'integer item ids'), (np.zeros((2, 10), dtype=bool), 'integer item ids'), ([['a']*10]*2, 'integer item ids'), (None, 'integer item ids'),
    (np.full((2, 10), 1000), '0 to 999'), (np.full((2, 10), -2), '0 to 999')])
def test_a_wrong_slate_is_refused_in_a_sentence_and_changes_nothing(slates, says):
    sim = TopicRec.make('focused_mix', num_envs=2)
    with pytest.raises(SlateRLError, match=r'call reset\(\) first'): sim.step(slates)
    sim.reset()
    with pytest.raises(SlateRLError, match=says): sim.step(slates)
    assert sim.state.t == 0
