"""The parts of learned masks, each against its formula: schedules, relaxations, constraints,
objectives.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxticket import masks
from jaxticket.engine.metrics import cross_entropy
from jaxticket.settings import Training
from jaxticket.sparsify.learned import (
    OBJECTIVES,
    Bernoulli,
    Concrete,
    Constraint,
    Freezing,
    GradBalance,
    Lagrangian,
    Method,
    Penalty,
    Rounded,
    Schedule,
    Sigmoid,
    TopK,
)
from jaxticket.sparsify.learned.constraints import Pull
from jaxticket.sparsify.learned.learner import effective
from jaxticket.sparsify.learned.objectives import Outputs, View, needs_of

KEY = jax.random.key(4)
SHAPES = {"a": (6, 5), "b": (5,), "c": (5, 4)}


def tree(seed=0):
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in SHAPES.items()}


def live():
    return pruned({k: jnp.ones(s, bool) for k, s in SHAPES.items()})


def pruned(tree):
    """The tree as masks and scores are: None where nothing is pruned."""
    return {**tree, "b": None}


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


# ---- schedules


def test_a_schedule_ends_where_it_says():
    beta = Schedule(1.0, 200.0, "exponential")
    np.testing.assert_allclose(
        [beta(t) for t in (0.0, 0.5, 1.0)], [1, np.sqrt(200), 200], rtol=1e-6
    )
    np.testing.assert_allclose([Schedule(2.0, 1.0)(t) for t in (0.0, 0.25, 1.0)], [2, 1.75, 1])
    assert Schedule(3.0)(0.7) == 3.0


@pytest.mark.parametrize("steps", [85, 170, 1020])
def test_stairs_multiply_once_per_epoch(steps):
    beta = Schedule(1.0, 200.0, "exponential", stairs=85)
    values = np.asarray([beta(np.float32(i) / np.float32(steps)) for i in range(steps)])
    per_epoch = values.reshape(85, -1)
    assert (per_epoch == per_epoch[:, :1]).all()
    np.testing.assert_allclose(per_epoch[:, 0], 200 ** (np.arange(85) / 84), rtol=1e-5)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"start": 1.0, "end": 2.0, "kind": "cubic"}, "`kind`"),
        ({"start": 0.0, "end": 2.0, "kind": "exponential"}, "must be above 0"),
        ({"start": 1.0, "stairs": 1}, "`stairs`"),
    ],
)
def test_schedules_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Schedule(**options)


# ---- relaxations


@pytest.mark.parametrize("beta", [1.0, 10.0, 300.0])
def test_a_sigmoid_becomes_a_step(beta):
    s = jnp.linspace(-1, 1, 41)
    soft = Sigmoid(Schedule(beta)).leaf(s, 0.0, key=KEY)
    assert (jnp.abs(soft - (s > 0).astype(jnp.float32)) <= jnp.exp(-beta * jnp.abs(s)) + 1e-6).all()
    np.testing.assert_allclose(soft, sigmoid(beta * s), atol=1e-6)


def test_a_scaled_sigmoid_starts_as_the_dense_network():
    relaxation = Sigmoid(Schedule(1.0, 200.0, "exponential"), start=-0.3, scaled=True)
    s = relaxation.initial((3, 4), jnp.float32(0.2), key=KEY)
    assert (s == jnp.float32(-0.3)).all()
    np.testing.assert_allclose(relaxation.leaf(s, 0.0, key=KEY), 1, rtol=1e-6)


def test_a_new_round_keeps_what_is_out_and_starts_the_rest_anew():
    relaxation = Sigmoid(Schedule(1.0, 200.0, "exponential"), start=0.1)
    s = jnp.asarray([-0.02, 0.0, 0.01, 3.0])
    np.testing.assert_allclose(relaxation.restarted(s), [-4.0, 0.0, 0.1, 0.1], rtol=1e-6)


def test_the_mean_of_bernoulli_masks_is_the_sigmoid():
    v = jnp.asarray([-3.0, -0.5, 0.0, 2.0])
    draws = jax.vmap(lambda k: Bernoulli().leaf(v, 0.0, key=k))(jax.random.split(KEY, 20_000))
    assert set(np.unique(draws)) == {0.0, 1.0}
    np.testing.assert_allclose(draws.mean(0), sigmoid(v), atol=0.012)


def test_the_gradient_of_a_bernoulli_mask_is_that_of_the_sigmoid():
    v, w, up = (
        jnp.asarray(np.random.default_rng(i).normal(size=30), jnp.float32) for i in range(3)
    )
    found = jax.grad(lambda v: jnp.sum(up * Bernoulli().leaf(v, 0.0, key=KEY) * w))(v)
    np.testing.assert_allclose(found, up * w * sigmoid(v) * (1 - sigmoid(v)), atol=1e-6)


@pytest.mark.parametrize("temperature", [2 / 3, 0.1])
def test_concrete_masks_are_above_a_half_as_often_as_their_law_says(temperature):
    a = jnp.asarray([-3.0, -0.5, 0.0, 2.0])
    relaxation = Concrete(Schedule(temperature))
    draws = jax.vmap(lambda k: relaxation.leaf(a, 0.0, key=k))(jax.random.split(KEY, 20_000))
    assert (draws >= 0).all()
    assert (draws <= 1).all()
    # m > 1/2 where logit(u) > -a T
    np.testing.assert_allclose((draws > 0.5).mean(0), sigmoid(temperature * a), atol=0.012)
    # the mean of the law, by the midpoint rule over u
    u = (np.arange(100_000) + 0.5) / 100_000
    law = sigmoid(np.log(u / (1 - u))[:, None] / temperature + np.asarray(a)).mean(0)
    np.testing.assert_allclose(draws.mean(0), law, atol=0.012)


def test_the_gradient_of_a_concrete_mask_is_its_closed_form():
    a = jnp.linspace(-4, 4, 50)
    relaxation = Concrete(Schedule(2 / 3))
    soft, back = jax.vjp(lambda a: relaxation.leaf(a, 0.0, key=KEY), a)
    np.testing.assert_allclose(back(jnp.ones(50))[0], soft * (1 - soft), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("density", [0.5, 0.01, 0.002, 1.0])
def test_concrete_scores_start_at_the_density(density):
    relaxation = Concrete(Schedule(2 / 3))
    a = relaxation.initial((100, 7), jnp.float32(density), key=KEY)
    np.testing.assert_allclose(relaxation.expected_leaf(a, 0.0).mean(), density, rtol=1e-5)
    assert jnp.isfinite(a).all()


def test_rounding_lets_the_gradient_through_and_stays_in_range():
    p = Rounded().initial((40, 5), jnp.float32(0.1), key=KEY)
    assert (0 <= p).all()
    assert (p < 1).all()
    assert abs(p.mean() - 0.5) < 0.06
    value, back = jax.vjp(lambda p: Rounded().leaf(p, 0.0, key=KEY), p)
    np.testing.assert_array_equal(value, p > 0.5)
    np.testing.assert_array_equal(back(2 * jnp.ones_like(p))[0], 2)
    projected = Rounded().project(jnp.asarray([-0.2, 0.3, 1.4]))
    np.testing.assert_array_equal(projected, np.float32([0, 0.3, 1]))


@pytest.mark.parametrize("scope", ["layer", "global"])
def test_top_k_has_exact_counts_and_the_gradient_of_the_size(scope):
    scores, weights = pruned(tree()), pruned(tree(1))
    keep = jnp.asarray([7, 3], jnp.int32) if scope == "layer" else jnp.int32(10)
    relaxation = TopK(scope)

    def soft(scores):
        return relaxation.soft(scores, live(), keep, 0.0, key=KEY)

    mask, back = jax.vjp(soft, scores)
    assert mask["b"] is None
    sizes = np.concatenate([np.abs(scores[k]).ravel() for k in "ac"])
    kept = np.concatenate([np.asarray(mask[k]).ravel() for k in "ac"])
    if scope == "global":
        assert set(np.flatnonzero(kept)) == set(np.argsort(-sizes)[:10])
    else:
        assert (kept[:30].sum(), kept[30:].sum()) == (7, 3)
    (gradient,) = back(weights)
    for name in "ac":
        np.testing.assert_allclose(gradient[name], weights[name] * jnp.sign(scores[name]))
    # exchanging two scores exchanges their masks
    one, two = int(np.argmax(kept)), int(np.argmin(kept[:30]))
    flat = np.array(scores["a"]).ravel()
    flat[[one, two]] = flat[[two, one]]
    other = soft({**scores, "a": jnp.asarray(flat).reshape(6, 5)})["a"].ravel()
    assert (other[one], other[two]) == (kept[two], kept[one])


@pytest.mark.parametrize("density", [1.0, 0.3, 0.1, 0.0021])
def test_edge_popup_keeps_as_many_as_its_code(density):
    counts = Method("x", TopK("layer")).counts(live(), density)
    for n, kept in zip((30, 20), counts, strict=True):
        # in rational numbers: n - floor((1 - k) n)
        removed = int((10_000 - round(10_000 * density)) * n // 10_000)
        assert kept == n - removed


def test_what_is_not_live_is_zero_and_gets_no_gradient():
    mask = live()
    mask["a"] = mask["a"].at[2].set(False)

    def total(scores):
        soft = Sigmoid(Schedule(1.0)).soft(scores, mask, 0, 0.0, key=KEY)
        assert (soft["a"][2] == 0).all() if not isinstance(soft["a"], jax.core.Tracer) else True
        return sum(jnp.sum(x) for x in jax.tree.leaves(soft))

    total(pruned(tree()))
    gradient = jax.grad(total)(pruned(tree()))
    assert (gradient["a"][2] == 0).all()
    assert (gradient["a"][1] != 0).all()


def test_rescaling_keeps_the_sum_of_the_weights_factors():
    soft = {"a": (tree()["a"] > 0).astype(jnp.float32), "b": None, "c": tree(2)["c"] ** 2}
    weights = jax.tree.map(jnp.ones_like, tree())
    method = Method("x", Bernoulli(), rescale=True)
    made = effective(method, soft, weights)
    for name in "ac":
        np.testing.assert_allclose(made[name].sum(), made[name].size, rtol=1e-5)
    assert (made["b"] == 1).all()


# ---- constraints


def pull(expected, keep=10.0, rate=0.1):
    slope = {"a": jnp.full((6, 5), 0.25), "b": jnp.zeros(5), "c": jnp.full((5, 4), 0.1)}
    return Pull(jnp.float32(expected), slope, jnp.float32(keep), jnp.float32(rate))


def test_grad_balance_follows_its_formula():
    gradient = tree(3)
    flat = np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(gradient)])
    slope = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(pull(0).slope)])
    multiplier = 0.0
    found = jnp.float32(0)
    # the working target is 11: below, above, far above, below
    for step, expected in enumerate((10.0, 12.0, 30.0, 9.0)):
        wanted = 0.0
        if expected >= 11:
            wanted = np.linalg.norm(flat) / (np.linalg.norm(slope * 100 / 11) + 1e-12)
        multiplier = wanted if step == 0 else 0.99 * multiplier + 0.01 * wanted
        made, found = GradBalance().balanced(
            gradient, found, jnp.asarray(step == 0), pull(expected)
        )
        np.testing.assert_allclose(found, multiplier, rtol=1e-5)
        now = np.concatenate([np.asarray(x).ravel() for x in jax.tree.leaves(made)])
        np.testing.assert_allclose(now, flat + multiplier * slope * 100 / 11, rtol=1e-4, atol=1e-6)
    # above the target at the first step the average starts there
    _, first = GradBalance().balanced(gradient, jnp.float32(0), jnp.asarray(True), pull(12.0))
    np.testing.assert_allclose(
        first, np.linalg.norm(flat) / np.linalg.norm(slope * 100 / 11), rtol=1e-5
    )


def test_grad_balance_weighs_gradients_whose_squares_vanish():
    small = jax.tree.map(lambda x: x * 1e-25, tree(3))
    weak = pull(12.0)._replace(slope=jax.tree.map(lambda x: x * 1e-25, pull(0).slope))
    _, found = GradBalance().balanced(small, jnp.float32(0), jnp.asarray(True), weak)
    assert np.isfinite(found)


def test_the_lagrangian_ascends_and_may_push_up():
    gradient, multiplier = tree(3), 0.0
    found = jnp.float32(0)
    for expected in (10.0, 15.0, 2.0, 1.0):
        made, new = Lagrangian().balanced(gradient, found, jnp.asarray(False), pull(expected))
        for name in "ac":
            pulled = gradient[name] + multiplier * 10 * pull(0).slope[name]
            np.testing.assert_allclose(made[name], pulled, rtol=1e-5)
        multiplier += 0.01 * 0.1 * 100 * (expected / 10 - 1)
        found = new
        np.testing.assert_allclose(found, multiplier, rtol=1e-4, atol=1e-6)
    assert found < 0


@pytest.mark.parametrize("power", [1, 2])
def test_a_penalty_has_the_gradient_of_its_norm(power):
    beta, s = 3.0, pruned(tree())
    relaxation = Sigmoid(Schedule(beta))

    def cost(s):
        return Penalty(0.5, power).cost(relaxation.expected(s, live(), 0.0))

    gradient = jax.grad(cost)(s)
    for name in "ac":
        m = sigmoid(beta * s[name])
        inner = 1 if power == 1 else 2 * m
        np.testing.assert_allclose(gradient[name], 0.5 * inner * beta * m * (1 - m), atol=1e-6)
    assert Constraint().cost(s) == 0


@pytest.mark.parametrize("tied", [0.0, 1.0])
def test_chance_decides_between_rounded_scores_that_tie(tied):
    """GEM-MINER's scores gather at 0 and 1. By index the last layer would lose everything."""
    scores = {"a": jnp.full((30, 20), tied), "b": jnp.full((20, 10), tied)}
    ranked = {name: Rounded().rank(x) for name, x in scores.items()}
    alive = jax.tree.map(lambda x: jnp.ones(x.shape, bool), scores)
    kept = Freezing(1e-4).frozen(ranked, alive, jnp.int32(400))
    assert sum(int(k.sum()) for k in kept.values()) == 400
    for name in scores:
        halves = jnp.array_split(kept[name].reshape(-1), 2)
        for half in halves:
            assert 0.35 < float(half.mean()) < 0.65


def test_rounded_scores_are_ranked_by_size():
    scores = jnp.sort(jax.random.uniform(jax.random.key(3), (500,)))
    scores = scores[jnp.concatenate([jnp.array([True]), jnp.diff(scores) > 1e-5])]
    assert (jnp.diff(Rounded().rank(scores)) > 0).all()


def test_freezing_is_nested_and_exact_where_scores_tie():
    scores = jax.tree.map(jnp.zeros_like, tree())
    mask, counts = live(), []
    for keep in (25, 10, 5):
        after = Freezing(1e-4).frozen(scores, mask, jnp.int32(keep))
        for name in "ac":
            assert not (after[name] & ~mask[name]).any()
        assert after["b"] is None
        mask = after
        counts.append(int(mask["a"].sum() + mask["c"].sum()))
    assert counts == [25, 10, 5]


# ---- objectives


def network(params, x):
    return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"]


def view(masked=None, soft=None, weights=None, n=7):
    weights = tree(5) if weights is None else weights
    soft = pruned(jax.tree.map(jnp.ones_like, weights)) if soft is None else soft
    if masked is None:
        masked = masks.map_with(jnp.multiply, soft, weights, other=lambda w: w)
    rng = np.random.default_rng(1)
    x, y = jnp.asarray(rng.normal(size=(n, 6)), jnp.float32), jnp.arange(n) % 4

    def tapped(params):
        logits = network(params, x)
        return logits, (jnp.tanh(x @ params["a"] + params["b"][None]), jax.nn.softmax(logits))

    def make(masked, soft, dense):
        return View(
            masked, soft, y, lambda p: network(p, x), tapped, lambda p: x, jnp.mean, lambda v: v,
            dense,
        )  # fmt: skip

    plain = make(weights, jax.tree.map(jnp.ones_like, weights), Outputs())
    dense = Outputs(plain.logits(weights), plain.features(weights), plain.gradient())
    return make(masked, soft, dense)


def half(seed=9):
    return pruned(jax.tree.map(lambda x: jnp.abs(x) / (1 + jnp.abs(x)), tree(seed)))


@pytest.mark.parametrize("name", sorted({*OBJECTIVES} - {"loss", "gradient_norm"}))
def test_comparisons_with_the_dense_network_are_zero_for_itself(name):
    assert abs(OBJECTIVES[name](view())) < 1e-6
    assert OBJECTIVES[name](view(soft=half())) > 1e-4
    gradient = jax.grad(lambda s: OBJECTIVES[name](view(soft=s)))(half())
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))


def test_objectives_are_their_formulas():
    v = view(soft=half())
    log = lambda z: np.asarray(jax.nn.log_softmax(z), np.float64)  # noqa: E731
    masked, dense = log(v.logits(v.masked)), log(v.dense.logits)
    losses = [-z[np.arange(7), np.arange(7) % 4].mean() for z in (masked, dense)]
    reverse = (np.exp(masked) * (masked - dense)).sum(1).mean()
    forward = (np.exp(dense) * (dense - masked)).sum(1).mean()
    np.testing.assert_allclose(OBJECTIVES["loss"](v), losses[0], rtol=1e-5)
    np.testing.assert_allclose(
        OBJECTIVES["change_of_loss"](v), abs(losses[0] / losses[1] - 1), rtol=1e-4
    )
    np.testing.assert_allclose(OBJECTIVES["reverse_kl"](v), reverse, rtol=1e-4)
    np.testing.assert_allclose(OBJECTIVES["forward_kl"](v), forward, rtol=1e-4)

    def standard(x, axis=None):
        x = np.asarray(x, np.float64)
        return (x - x.mean(axis, keepdims=True)) / x.std(axis, ddof=1, keepdims=True)

    pairs = zip(v.features(v.masked), v.dense.features, strict=True)
    parts = [((standard(m, 1) - standard(d, 1)) ** 2).mean() for m, d in pairs]
    np.testing.assert_allclose(OBJECTIVES["feature"](v), np.mean(parts), rtol=1e-4)
    parts = [
        ((standard(v.gradient()[k]) - standard(v.dense.gradient[k])) ** 2).mean() for k in "ac"
    ]
    np.testing.assert_allclose(OBJECTIVES["gradient_matching"](v), np.mean(parts), rtol=1e-4)


def test_the_gradient_norm_is_that_of_finite_differences():
    weights, soft = tree(5), half()
    v = view(soft=soft)

    def loss(w):
        return float(v.loss(masks.map_with(jnp.multiply, soft, w, other=lambda w: w)))

    total, h = 0.0, 1e-2
    for name, place in itertools.chain.from_iterable(
        ((k, i) for i in np.ndindex(*s)) for k, s in SHAPES.items()
    ):
        ends = [loss({**weights, name: weights[name].at[place].add(sign * h)}) for sign in (1, -1)]
        total += ((ends[0] - ends[1]) / (2 * h)) ** 2
    np.testing.assert_allclose(OBJECTIVES["gradient_norm"](v), -np.sqrt(total), rtol=2e-3)


def test_objectives_see_of_the_dense_network_what_they_ask_for():
    assert needs_of(OBJECTIVES["loss"]) == ()
    for name, function in OBJECTIVES.items():
        blind = view(soft=half())._replace(
            dense=Outputs(**{n: getattr(view().dense, n) for n in needs_of(function)})
        )
        assert np.isfinite(function(blind)), name


def test_label_smoothing_reaches_the_loss():
    v = view()._replace(loss_of=functools.partial(cross_entropy, smoothing=0.2))
    expected = jnp.mean(cross_entropy(v.logits(v.masked), v.labels, 0.2))
    assert v.loss(v.masked) == expected


# ---- methods


def test_lengths_are_whole_parts():
    training = Training(steps=1000)
    method = Method("x", Rounded(), constraint=Freezing(1e-4, times=7))
    assert method.steps(training) == 1001
    assert method.steps(training, 100) == 105
    assert method.steps(training, "short") == 126
    assert method.steps(training, 0.5) == 504
    searching = method.training(training, 105)
    # calls end where entries are frozen
    assert 15 % searching.evaluation_interval == 0
    rounds = Method("x", Sigmoid(Schedule(1.0)), rounds=3, drop_at=(0.5,))
    assert rounds.training(training, 300).milestones == (50,)
    assert rounds.training(training, 300).steps == 100


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"objective": "los"}, "`objective`.*loss"),
        ({"objective": "reverse_kl", "learn_weights": True}, "`learn_weights`"),
        ({"constraint": Freezing(1e-4), "rounds": 2}, "`rounds`"),
        ({"length": "longer"}, "`length`"),
        ({"length": 0}, "`length`"),
    ],
)
def test_methods_that_cannot_be_are_refused(options, words):
    with pytest.raises(ValueError, match=words):
        Method("x", Rounded(), **options)


@pytest.mark.parametrize("asked", [0, -3, "soon", 0.0, True])
def test_lengths_that_cannot_be_are_refused(asked):
    with pytest.raises(ValueError, match="`steps`"):
        Method("x", Rounded()).steps(Training(), asked)
