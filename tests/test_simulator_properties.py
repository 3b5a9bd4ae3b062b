"""What holds in any world, whatever its parameters: hypothesis draws worlds, slates and clicks.

The recorded traces (nbs/lib/world/12_simulator.ipynb) hold the simulator to published episodes of published worlds.
Here a plain loop over one user, written from the published semantics, holds it to them elsewhere."""
from collections import deque

import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from offline_slate_rl.core.errors import SlateRLError
from offline_slate_rl.core.params import env_params
from offline_slate_rl.world.compiled import CompiledTopicRec
from offline_slate_rl.world.embeddings import generate_items, topic_norms
from offline_slate_rl.world.simulator import BORED_TURNS, TopicRec, replay

# The same examples every time: a failure is a failure for everyone, and nothing is remembered between runs.
examples = settings(derandomize=True, deadline=None, max_examples=60, database=None)
close = dict(rtol=1e-4, atol=1e-5)

@st.composite
def worlds(draw, **fixed):
    "Parameters of a small world, and its item table."
    topics, slate = draw(st.integers(2, 6)), draw(st.integers(1, 8))
    table = [[1/(1 + rank + last/2) for last in range(slate + 1)] for rank in range(slate)]
    changes = dict(
        num_topics=topics, topic_size=draw(st.integers(1, 3)), slate_size=slate, episode_length=15,
        num_items=draw(st.integers(max(slate, topics), 80)),
        click_model=draw(st.sampled_from(['tdPBM', 'mixPBM'])), propensities=draw(st.sampled_from([None, table])),
        offset=draw(st.sampled_from([0., .1, .28])), slope=draw(st.sampled_from([10., 100.])),
        rel_threshold=draw(st.sampled_from([None, .1])), click_only_once=draw(st.booleans()),
        omega=draw(st.sampled_from([0.5, 0.9, 1.])), short_term_boost=draw(st.sampled_from([1., 2.])),
        boredom_threshold=draw(st.integers(1, 6)), recent_items_maxlen=draw(st.integers(1, 12)),
        boredom_moving_window=draw(st.integers(0, 6)), diversity_threshold=draw(st.integers(1, 5)),
        diversity_penalty=draw(st.sampled_from([1., 3.])))
    env = env_params('focused_mix').model_copy(update={**changes, **fixed})
    exponent, seed = draw(st.sampled_from([1., 2.])), draw(st.integers(0, 5))
    return env, generate_items(env.num_items, env.num_topics, env.topic_size, exponent, seed)

def random_slates(env, seed, first, num_envs, oracle):
    "(episode_length, num_envs, slate_size) ids, -1 for the oracle; an episode's are the same at any batch size."
    shape, slates = (env.episode_length, env.slate_size), []
    for episode in range(first, first + num_envs):
        g = np.random.default_rng([seed, episode])
        by_oracle = g.random(shape) < oracle
        slates.append(np.where(by_oracle, -1, g.integers(env.num_items, size=shape)))
    return torch.from_numpy(np.stack(slates, 1))

def played(sim, seed, oracle=0.4, first=0):
    "Turns of `sim`, the reset first, with slates of which a share of the slots are the oracle's."
    turns = [sim.reset(first)]
    for slates in random_slates(sim.env, seed, first, sim.num_envs, oracle):
        turns.append(sim.step(torch.where(slates < 0, sim.view().best(sim.env.slate_size), slates)))
    return turns

def stacked(turns):
    "Slates, clicks, users, bored topics and scores, each (num_envs, turns, ...)."
    of_turns = [[*turn.obs, turn.info.user, turn.info.bored, turn.info.scores] for turn in turns]
    return [torch.stack(column, 1) for column in zip(*of_turns)]


@examples
@given(worlds(), st.integers(0, 100))
def test_a_turn(world, seed):
    env, items = world
    turns = played(TopicRec(env, items, num_envs=5, seed=seed), seed)
    again = played(TopicRec(env, items, num_envs=5, seed=seed), seed)
    assert all(torch.equal(a, b) for a, b in zip(stacked(turns), stacked(again)))  # bit by bit
    for i, turn in enumerate(turns):
        assert ((turn.obs.clicks == 0) | (turn.obs.clicks == 1)).all()
        assert torch.equal(turn.reward, turn.obs.clicks.sum(1).float() if i else torch.zeros(5))
        assert ((turn.obs.slate >= 0) & (turn.obs.slate < env.num_items)).all()
        assert torch.allclose(topic_norms(turn.info.user, env.num_topics).sum(1), torch.ones(5), **close)
        assert turn.truncated.all() == (i == env.episode_length)


@examples
@given(worlds(short_term_boost=1.), st.integers(0, 100))
def test_a_bored_topic_gives_no_score_on_its_block(world, seed):
    env, items = world
    turns = played(TopicRec(env, items, num_envs=5, seed=seed), seed, oracle=0.8)
    for before, turn in zip(turns, turns[1:]):
        products = items[turn.obs.slate]*before.info.user[:, None]
        blocks = products.unflatten(2, (env.num_topics, -1)).sum(-1)  # what each topic would give
        scores = (blocks*~turn.info.bored[:, None]).sum(-1)/items.norm(dim=1).max()
        assert torch.allclose(turn.info.scores, scores, **close)


@examples
@given(worlds(), st.integers(0, 100))
def test_a_view_says_what_the_turn_then_reports(world, seed):
    env, items = world
    sim = TopicRec(env, items, num_envs=5, seed=seed)
    view, turn, clicked = sim.view(), sim.reset(), torch.zeros(5, env.num_items, dtype=torch.bool)
    for slates in random_slates(env, seed, 0, 5, oracle=0.4):
        users, slots = turn.obs.clicks.nonzero(as_tuple=True)
        clicked[users, turn.obs.slate[users, slots]] = True
        best, bored, scores = view.best(env.slate_size), view.bored, view.scores
        assert torch.equal(view.user, turn.info.user)
        allowed = scores.masked_fill(clicked, -1) if env.click_only_once else scores
        expected = allowed.topk(env.slate_size, dim=1).values
        assert torch.allclose(allowed.gather(1, best), expected, **close)
        slates = torch.where(slates < 0, best, slates)
        turn = sim.step(slates)
        assert torch.equal(bored, turn.info.bored)
        assert torch.allclose(scores.gather(1, slates), turn.info.scores, **close)


@examples
@given(worlds(), st.integers(0, 100), st.data())
def test_permuting_environments_permutes_results(world, seed, data):
    env, items = world
    sim = TopicRec(env, items, num_envs=6, seed=seed)
    slates, clicks, users, *_ = stacked(played(sim, seed))
    order = torch.tensor(data.draw(st.permutations(range(6))))
    trajectory = users[:, 0], slates[:, 0], clicks[:, 0], slates[:, 1:], clicks[:, 1:]
    a, b = replay(sim, *trajectory), replay(sim, *(x[order] for x in trajectory))
    assert torch.equal(a.bored[order], b.bored) and torch.equal(a.slate[order], b.slate)
    assert torch.allclose(a.user[order], b.user, **close) and torch.allclose(a.scores[order], b.scores, **close)


@examples
@given(worlds(), st.integers(0, 100))
def test_a_batch_is_its_members(world, seed):
    env, items = world
    batch = stacked(played(TopicRec(env, items, num_envs=4, seed=seed), seed))
    for i in range(4):
        single = stacked(played(TopicRec(env, items, num_envs=1, seed=seed), seed, first=i))
        for of_all, of_one in zip(batch, single):
            assert torch.allclose(of_all[i].float(), of_one[0].float(), **close)


def plain(env, items, user, slate0, clicks0, slates, clicks):
    "One user, turn by turn, in plain Python. Yields bored topics, scores and the user left behind."
    def norms(x): return np.linalg.norm(x.reshape(env.num_topics, env.topic_size), axis=1)
    main_topic = [int(norms(item).argmax()) for item in items]
    topics, turns = deque(maxlen=env.recent_items_maxlen), deque(maxlen=env.recent_items_maxlen)
    topics.extend(main_topic[item] for item in slate0[clicks0])  # and not `turns`: the published quirk
    bored, timer = [False]*env.num_topics, [BORED_TURNS]*env.num_topics
    for t, (slate, clicked) in enumerate(zip(slates, clicks), 1):
        for topic in range(env.num_topics):
            if bored[topic]: timer[topic] -= 1
            if timer[topic] == 0: bored[topic] = False
            if not bored[topic]: timer[topic] = BORED_TURNS
            bored[topic] |= list(topics).count(topic) >= env.boredom_threshold
        effective = np.where(np.repeat(bored, env.topic_size), 0, user)
        scores = items[slate] @ effective/np.linalg.norm(items, axis=1).max()
        for item in slate[clicked]:
            topics.append(main_topic[item])
            turns.append(t)
        while turns and turns[0] < t - env.boredom_moving_window:
            turns.popleft()
            topics.popleft()
        for item in slate[clicked]:
            user = env.omega*user + (1 - env.omega)*items[item]
            user = user/norms(user).sum()
        yield list(bored), scores, user

# What the plain loop leaves out.
simple = dict(short_term_boost=1., rel_threshold=None, click_only_once=False, propensities=None)

@pytest.mark.parametrize('kind', [TopicRec, CompiledTopicRec], ids=lambda kind: kind.__name__)
@settings(examples, max_examples=100)
@given(worlds(**simple, episode_length=40), st.integers(0, 10**6), st.sampled_from([.02, .1, .4]))
def test_a_plain_loop_over_one_user_agrees(kind, world, seed, rate):
    env, items = world
    g = np.random.default_rng(seed)
    user = g.random(env.dim).astype(np.float32)
    user /= np.linalg.norm(user.reshape(env.num_topics, -1), axis=1).sum()
    slates = g.integers(env.num_items, size=(41, env.slate_size))
    clicks = g.random((41, env.slate_size)) < rate
    trajectory = user, slates[0], clicks[0], slates[1:], clicks[1:]
    bored, scores, users = zip(*plain(env, items.numpy().astype(float), *trajectory))
    replayed = replay(kind(env, items), *trajectory)
    assert np.array_equal(replayed.bored.numpy(), bored)
    np.testing.assert_allclose(replayed.scores.numpy(), scores, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(replayed.user.numpy(), users, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize('slates, says', [
    (np.zeros((2, 9), dtype=int), r'shape \(2, 9\); \(2, 10\) was expected'),
    (np.zeros((3, 10), dtype=int), r'\(2, 10\) was expected'),
    (np.zeros((2, 10)), 'integer item ids'), (np.zeros((2, 10), dtype=bool), 'integer item ids'),
    ([['a']*10]*2, 'integer item ids'), (None, 'integer item ids'),
    (np.full((2, 10), 1000), '0 to 999'), (np.full((2, 10), -1), '0 to 999'), (np.full((2, 10), -2), '0 to 999')])
def test_a_wrong_slate_is_refused_in_a_sentence_and_changes_nothing(slates, says):
    sim = TopicRec.make('focused_mix', num_envs=2)
    with pytest.raises(SlateRLError, match=r'call reset\(\) first'): sim.step(slates)
    sim.reset()
    with pytest.raises(SlateRLError, match=says): sim.step(slates)
    assert sim.state.t == 0
