"""What every mask rule promises: counts, weights that come back, and what a table tells of it."""

import itertools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from mask_rules import (
    LR,
    MOMENTUM,
    NET,
    RULES,
    SEEDS,
    SIZE,
    SIZES,
    STEPS,
    D,
    by_layer,
    densities,
    flat,
    seen,
    top,
    train,
    watched,
)

import jaxticket as jt

# steps t such that the masks of t and t + 1 may differ
MAY_MOVE = {
    "static": [],
    "gradual": [4, 7, 9],
    "gradual_linear": [4, 7, 9],
    "iterative": [3, 6, 9],
    "set": [3, 6, 9],
    "rigl": [3, 6, 9],
    "rigl_uniform": [3, 6, 9],
    "straight_through": list(range(STEPS)),
    "straight_through_random": [3, 6, 9],
    "ac_dc": [2, 4, 6, 8, 9],
    "top_kast": [3, 6, 9],
}
LATENT = ("straight_through", "straight_through_random", "top_kast")
EXCHANGE = ("static", "set", "rigl", "rigl_uniform")

each_rule = pytest.mark.parametrize("name", RULES)


def every_replica(name):
    """(density, what was seen) of each replica."""
    _, found = watched(name)
    assert len(found) == 4
    return [(densities(name)[level - 1], steps) for (level, _), steps in found.items()]


def wanted(name, density):
    """How many weights are kept at each step, as formulas say: [step] or [step, layer]."""
    steps = np.arange(STEPS + 1)
    if name in ("gradual", "gradual_linear"):
        power = 3 if name == "gradual" else 1
        at = (4, 7, 9)
        shares = [density + (1 - density) * (1 - (t - 1) / 8) ** power for t in at]
        sizes = SIZE if name == "gradual" else SIZES
        reached = [sum(t < step for t in at) for step in steps]
        return np.array([np.round(([1.0, *shares])[n] * sizes) for n in reached])
    if name == "iterative":
        return np.array([round(SIZE * density ** (min(max(t - 1, 0) // 3, 3) / 3)) for t in steps])
    if name == "ac_dc":
        sparse = (steps > 2) & (steps <= 4) | (steps > 6) & (steps <= 8) | (steps > 9)
        return np.where(sparse, round(density * SIZE), SIZE)
    if name in ("top_kast", "straight_through_random"):
        return np.tile(np.round(density * SIZES), (STEPS + 1, 1))
    return np.full(STEPS + 1, round(density * SIZE))


@each_rule
def test_counts_are_exact_at_every_step(name):
    for density, steps in every_replica(name):
        counts = wanted(name, density)
        kept = steps.layers()
        np.testing.assert_array_equal(kept if counts.ndim == 2 else kept.sum(axis=1), counts)
        if name in EXCHANGE:
            assert (kept == kept[0]).all(), "as many in each layer"
        assert not steps.used[~steps.mask].any()


@each_rule
def test_masks_move_at_updates_alone(name):
    replicas = every_replica(name)
    for _, steps in replicas:
        assert set(steps.moved) <= set(MAY_MOVE[name])
    # and they do move then; the largest weights need not change from step to step
    moved = set().union(*(steps.moved for _, steps in replicas))
    assert moved == set(MAY_MOVE[name]) or (name == "straight_through" and len(moved) > 4)
    if name in ("gradual", "gradual_linear", "iterative"):
        for _, steps in replicas:
            assert not (steps.mask[1:] & ~steps.mask[:-1]).any(), "none comes back"


@pytest.mark.parametrize("name", [n for n in RULES if n not in (*LATENT, "static")])
def test_weights_grow_from_zero_with_new_moments(name):
    """Their first step is one of descent from zero; an update of RigL takes the place of one."""
    skips, grown = name == "rigl", 0
    for _, steps in every_replica(name):
        assert not steps.momentum[~steps.mask].any()
        for t in steps.moved:
            new = steps.mask[t + 1] & ~steps.mask[t]
            grown += new.sum()
            if skips:
                assert not steps.weights[t + 1][new].any() and not steps.momentum[t + 1][new].any()
                stay = steps.mask[t + 1] & steps.mask[t]
                for what in (steps.weights, steps.momentum):
                    np.testing.assert_array_equal(what[t + 1][stay], what[t][stay])
                    assert what[t][stay].any()
                continue
            slope = steps.momentum[t + 1][new]
            np.testing.assert_allclose(steps.weights[t + 1][new], -LR * slope, rtol=1e-5)
    shrinks = name in ("gradual", "gradual_linear", "iterative")
    assert grown == 0 if shrinks else grown > 10


@each_rule
def test_the_table_tells_how_masks_moved(name):
    runs, found = watched(name)
    told = runs.monitored()
    told = told[told.metric.str.startswith("mask_")].set_index(["level", "seed", "step", "metric"])
    told = told.sort_index()
    for (level, seed), steps in found.items():
        new = steps.mask[1:] & ~steps.mask[:-1]
        for step in (0, 4, 8, 12):
            values = told.value[level, seed, step]
            explored = steps.mask[: step + 1].any(axis=0).mean()
            assert values["mask_density"] == pytest.approx(steps.mask[step].mean())
            assert values["mask_explored"] == pytest.approx(explored)
            assert values["mask_grown"] == pytest.approx(new[:step].sum() / SIZE)
        ticket = runs.ticket(level, seed)
        np.testing.assert_array_equal(flat(ticket.mask), steps.mask[-1])
        assert runs.densities[level - 1] == pytest.approx(steps.mask[-1].mean())
        params, _ = NET.init(jt.random.stream(jt.random.root_keys(SEEDS)[seed], "init"))
        chosen = np.where(steps.mask[-1], flat(params), 0)
        np.testing.assert_allclose(flat(ticket.params), chosen, rtol=1e-6)


@each_rule
def test_the_gradient_is_that_at_the_effective_weights(name):
    for _, steps in every_replica(name):
        np.testing.assert_allclose(steps.own_slope, steps.slope, rtol=1e-4, atol=1e-6)
        assert steps.slope[0][~steps.mask[0]].any() or name not in (*EXCHANGE, *LATENT)


def test_densities_by_the_formula_of_zhu_and_gupta():
    """Sparsity s_f + (s_i - s_f) (1 - (t - t_0) / (n dt))^3, in densities."""
    rule = D.Gradual(begin=10, every=10, end=50)
    found = rule.densities(0.1)
    assert list(found) == [20, 30, 40, 50]
    for step, density in found.items():
        sparsity = 0.9 + (0.0 - 0.9) * (1 - (step - 10) / (4 * 10)) ** 3
        assert density == pytest.approx(1 - sparsity, abs=1e-15)
    assert D.Gradual(begin=0, every=4, end=10).densities(0.5).keys() == {4, 8, 10}
    assert D.Iterative(begin=0, every=4, end=12).densities(0.125) == {4: 0.5, 8: 0.25, 12: 0.125}


def trees(vector):
    """Kernels of what `flat` gives, as float32."""
    first, second = np.split(vector.astype(np.float32), [SIZES[0]])
    return {
        "dense_0": {"kernel": jnp.asarray(first.reshape(64, 5))},
        "dense_1": {"kernel": jnp.asarray(second.reshape(5, 10))},
    }


@pytest.mark.parametrize("name", ["gradual", "gradual_linear"])
def test_gradual_pruning_in_a_loop_of_ones_own_has_the_same_masks(name):
    """`jt.gradual` on the gradients that training took."""
    rule = RULES[name]
    for density, steps in every_replica(name):
        schedule = rule.densities(density)
        tx = jt.gradual(optax.sgd(LR, momentum=MOMENTUM), schedule, scope=rule.scope)
        params = trees(steps.weights[0])
        state, update = tx.init(params), jax.jit(tx.update)
        for t in range(STEPS):
            # where the mask has moved, that at the weights that are left
            slope = steps.momentum[t + 1] - MOMENTUM * steps.momentum[t]
            updates, state = update(trees(slope), state, params)
            params = optax.apply_updates(params, updates)
            np.testing.assert_array_equal(flat(jt.mask_of(state)), steps.mask[t + 1])
            np.testing.assert_allclose(flat(params), steps.weights[t + 1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["gradual", "gradual_linear", "iterative", "ac_dc"])
def test_the_largest_weights_stay(name):
    for density, steps in every_replica(name):
        for t in MAY_MOVE[name]:
            counts = wanted(name, density)[t + 1]
            size, before = np.abs(steps.weights[t]), steps.mask[t]
            if name == "gradual_linear":
                expected = by_layer(lambda n, s, m: top(s, int(counts[n]), m), size, before)  # noqa: B023
            else:
                expected = top(size, int(counts), None if counts == SIZE else before)
            np.testing.assert_array_equal(steps.mask[t + 1], expected)


def fraction(rule, t):
    """f(t) of Evci et al., in float64."""
    if rule.decay == "constant":
        return rule.fraction
    return rule.fraction / 2 * (1 + np.cos(np.pi * t / rule.end))


@pytest.mark.parametrize("name", ["rigl", "rigl_uniform", "set"])
def test_drop_and_growth_sets(name):
    """The smallest of each layer are dropped; RigL grows where the dense gradient is largest."""
    rule, some = RULES[name], []
    for _, steps in every_replica(name):
        for t in (3, 6, 9):
            size, slope = np.abs(steps.weights[t]), np.abs(steps.own_slope[t])

            def layer(number, mask, size, slope, after, t=t):
                kept = mask.sum()
                dropped = int(np.floor(fraction(rule, t) * kept))
                some.append(dropped)
                stay = top(size, kept - dropped, mask)
                if name == "set":
                    assert (after & stay).sum() == kept - dropped
                    return after
                return stay | top(slope, dropped, ~stay)

            expected = by_layer(layer, steps.mask[t], size, slope, steps.mask[t + 1])
            np.testing.assert_array_equal(steps.mask[t + 1], expected)
            assert steps.mask[t + 1].sum() == steps.mask[t].sum()
    assert max(some) > 2


def test_the_fraction_of_an_update():
    """f(0) is the fraction asked for, and f falls to zero at the end, where nothing moves."""
    rule = D.RigL(fraction=0.4, every=1, end=100)
    mask = {"w": np.arange(1000) < 500}
    mask = {"w": mask["w"].reshape(10, 100)}
    weights = {"w": np.where(mask["w"], np.arange(1000).reshape(10, 100) + 1.0, 0)}
    growth = {"w": np.where(mask["w"], 0.0, 1.0)}
    for t, exchanged in ((0, 200), (50, 100), (99, 0)):
        new = D.exchanged(mask, weights, growth, float(np.float32(fraction(rule, t))))
        assert (np.asarray(new["w"]) & ~mask["w"]).sum() == exchanged
    due = [bool(rule.when(np.int32(t))) for t in range(120)]
    assert due == [0 < t < 100 for t in range(120)]


def test_random_growth_is_uniform_over_what_is_pruned():
    kept = jnp.arange(40).reshape(5, 8) % 4 == 0
    mask = {"a": {"kernel": kept}}
    weights = {"a": {"kernel": jnp.where(kept, 1 + jnp.arange(40.0).reshape(5, 8), 0)}}
    state = jt.TrainState(jnp.int32(5), weights, {}, (), mask, jax.random.key(0), jnp.int32(-1))
    rule = D.SET(every=5, end=50, fraction=0.55, decay="constant")

    def one(key):
        return rule.update(state, weights, step=jnp.int32(5), key=key).mask["a"]["kernel"]

    keys = jax.random.split(jax.random.key(1), 500)
    masks = np.asarray(jax.jit(lambda keys: jax.lax.map(one, keys))(keys)).reshape(-1, 40)
    before = np.asarray(mask["a"]["kernel"]).reshape(-1)
    # of 10 weights the 5 smallest are dropped, and 5 of 35 grow
    assert masks[:, before][:, 5:].all() and (masks.sum(axis=1) == 10).all()
    grown = masks.sum(axis=0)[~(before & (np.arange(40) >= 20))]
    expected = 500 * 5 / 35
    chi_squared = ((grown - expected) ** 2 / (expected * (1 - 5 / 35))).sum() * 34 / 35
    # the 0.999 quantile of 34 degrees of freedom is 65.2
    assert len(grown) == 35 and chi_squared < 65.2


def test_a_fraction_of_zero_is_static_training():
    static = train("static")
    for rule in (D.RigL(every=3, end=10, fraction=0), D.SET(every=3, end=10, fraction=0)):
        runs = train(rule)
        chex.assert_trees_all_equal(runs.by_level, static.by_level)
        assert runs.table().equals(static.table())


@pytest.mark.parametrize("every", [1, 3])
def test_straight_through_training_by_hand(every):
    """All weights follow the gradient at those that were the largest at the last update."""
    _, found = seen(D.StraightThrough(every=every, end=10))
    for (level, _), steps in found.items():
        keep = round((0.5, 0.2)[level - 1] * SIZE)
        weights, momentum = steps.weights[0].astype(np.float32), np.zeros(SIZE, np.float32)
        mask = top(np.abs(weights), keep)
        for t in range(STEPS + 1):
            np.testing.assert_array_equal(steps.mask[t], mask)
            np.testing.assert_allclose(steps.weights[t], weights, rtol=1e-4, atol=1e-6)
            np.testing.assert_allclose(steps.used[t], weights * mask, rtol=1e-4, atol=1e-6)
            if t % every == 0 and t <= 10:
                mask = top(np.abs(weights), keep)
            momentum = np.float32(MOMENTUM) * momentum + steps.slope_at(t, weights * mask)
            weights = weights - np.float32(LR) * momentum
        assert len(steps.moved) > 1 and max(steps.moved) <= 10


def test_random_straight_through_draws_at_every_update():
    for density, steps in every_replica("straight_through_random"):
        drawn = [steps.mask[t] for t in (0, 4, 7, 10)]
        for a, b in itertools.pairwise(drawn):
            assert (a & b).sum() / a.sum() == pytest.approx(density, abs=0.2)
        assert steps.weights[-1][~steps.mask[-1]].any()
        # weights that are out of the forward pass are trained
        assert (steps.weights[1] != steps.weights[0])[~steps.mask[0]].mean() > 0.4


def test_top_kast_by_hand():
    """Weights of B move, those of A decay, those of B without A by more, all others stay."""
    rule = RULES["top_kast"]
    for density, steps in every_replica("top_kast"):
        weights, momentum = steps.weights[0], np.zeros(SIZE)

        def largest(share, weights):
            return by_layer(lambda n, w: top(np.abs(w), round(share * SIZES[n])), weights)

        for t in range(STEPS + 1):
            np.testing.assert_allclose(steps.weights[t], weights, rtol=1e-4, atol=1e-6)
            if t % 3 == 0 and t <= 9:
                a, b = largest(density, weights), largest(density + rule.extra, weights)
            if t == STEPS:
                continue
            # networks are evaluated under the mask that they were trained with
            np.testing.assert_array_equal(steps.mask[t + 1], a)
            np.testing.assert_array_equal(steps.weights[t + 1][~b], steps.weights[t][~b])
            share = np.where(a, 1, 1 / (a.sum() / SIZE)) * b
            slope = steps.slope_at(t, steps.weights[t] * a)
            slope = (slope + rule.decay * share * steps.weights[t]) * b
            momentum = MOMENTUM * momentum + slope
            weights = np.where(b, steps.weights[t] - LR * momentum, steps.weights[t])
        assert b.sum() == np.round((density + rule.extra) * SIZES).sum()


def test_masks_of_ac_dc_come_back_dense_and_from_zero():
    for density, steps in every_replica("ac_dc"):
        assert steps.mask[5].all() and steps.mask[7:9].any()
        back = ~steps.mask[4]
        assert not steps.weights[4][back].any() and steps.weights[5][back].any()
        np.testing.assert_allclose(
            steps.weights[5][back], -LR * steps.own_slope[4][back], rtol=1e-3, atol=1e-7
        )
        assert steps.mask[-1].sum() == round(density * SIZE)


def test_the_phases_of_ac_dc_are_the_published_ones():
    """Of 100 epochs 10 dense, phases of 5, the last dense one of 10, and 15 sparse."""
    rule = jt.RULES["ac_dc"].for_training(jt.Training(steps=100))
    starts = [5 * n for n in range(2, 18)]
    assert [t for t in range(100) if bool(rule.when(jnp.int32(t)))] == starts
    sparse = [bool(rule._sparse(jnp.int32(t))) for t in starts]
    assert sparse == [True, False] * 7 + [False, True]
    with pytest.raises(ValueError, match="`every` 30 of ACDC leaves no sparse and dense phase"):
        jt.dynamic.ACDC(begin=0, every=30, end=40).for_training(jt.Training(steps=100))
