"""Learning rates in closed form, optimizers by hand, masked training by DESIGN rule 1."""

import functools
import itertools
import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import jaxticket as jt
from jaxticket import masks
from jaxticket.data.sampling import batch_indices
from jaxticket.engine import parallel
from jaxticket.engine.learner import Plan
from jaxticket.engine.optim import learning_rate, optimizer, schedule
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words


def rates(training, steps):
    at = schedule(training)
    run = jax.jit(jax.vmap(lambda t: learning_rate(at, t, kind=training.schedule)))
    return np.asarray(run(jnp.asarray(list(steps), jnp.int32)))


def test_constant_without_milestones():
    training = jt.Training(steps=100, lr=0.25)
    assert (rates(training, range(100)) == 0.25).all()


def test_warmup_begins_at_exactly_zero():
    training = jt.Training(steps=100, lr=0.4, warmup=8)
    assert rates(training, [0])[0] == 0.0
    np.testing.assert_allclose(rates(training, range(8)), 0.4 * np.arange(8) / 8, rtol=1e-6)
    assert (rates(training, range(8, 100)) == np.float32(0.4)).all()


def test_the_drop_acts_at_the_milestone():
    training = jt.Training(steps=100, lr=0.1, milestones=(40, 60), gamma=0.1)
    np.testing.assert_allclose(
        rates(training, [0, 39, 40, 59, 60, 99]), [0.1, 0.1, 0.01, 0.01, 0.001, 0.001], rtol=1e-5
    )


def test_milestones_in_any_order_and_within_warmup():
    training = jt.Training(steps=100, lr=1.0, warmup=10, milestones=(60, 5), gamma=0.5)
    np.testing.assert_allclose(
        rates(training, [0, 4, 5, 10, 59, 60]), [0, 0.4, 0.25, 0.5, 0.5, 0.25], rtol=1e-6
    )


def test_cosine_in_closed_form():
    training = jt.Training(steps=40, lr=0.3, schedule="cosine", warmup=4)
    found = rates(training, range(41))
    expected = [0.3 * min(1, t / 4) * (1 + math.cos(math.pi * t / 40)) / 2 for t in range(41)]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)
    assert found[40] == pytest.approx(0.0, abs=1e-8)
    assert (np.diff(found[4:]) < 0).all()


def test_linear_in_closed_form():
    """The thesis's Inception-v3: from 0.03 to 0.005 along a line."""
    training = jt.Training(steps=40, lr=0.03, schedule="linear", final_lr=0.005, warmup=4)
    found = rates(training, range(41))
    expected = [min(1, t / 4) * (0.03 - 0.025 * t / 40) for t in range(41)]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert (found[0], found[40]) == (0.0, pytest.approx(0.005, rel=1e-6))


def test_linear_dilated_and_per_replica():
    base = jt.Training(steps=40, lr=0.03, schedule="linear", final_lr=0.005)
    steps = np.arange(40)
    np.testing.assert_allclose(rates(base.dilated(2.0), 2 * steps), rates(base, steps), rtol=1e-6)
    at = jax.tree.map(
        lambda a, b: np.stack([a, b]), schedule(base), schedule(base.replace(final_lr=0.03))
    )
    found = jax.vmap(functools.partial(learning_rate, kind="linear"))(at, jnp.asarray([20, 20]))
    np.testing.assert_allclose(found, [0.0175, 0.03], rtol=1e-6)
    same, net = base.replace(lr=0.1, final_lr=0.01, steps=7), tiny()[1]
    assert Supervised(net, base) == Supervised(net, same)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"schedule": "linear", "milestones": (3,)},
            "`milestones` is used by schedule='steps' only, not by",
        ),
        (
            {"schedule": "cosine", "milestones": (3,)},
            "`milestones` is used by schedule='steps' only, not by",
        ),
        ({"schedule": "cosine", "final_lr": 0.1}, "`final_lr` is used by schedule='linear' only"),
        ({"schedule": "linear", "final_lr": -0.1}, "`final_lr` must be a finite number of at lea"),
    ],
)
def test_settings_that_a_schedule_does_not_use(settings, message):
    with pytest.raises(ValueError, match=message):
        jt.Training(**settings)


@pytest.mark.parametrize("factor", [0.5, 2.0, 3.0])
def test_dilation_stretches_every_time(factor):
    training = jt.Training(
        steps=100, lr=0.1, warmup=10, milestones=(40, 60), gamma=0.1, eval_every=20
    )
    dilated = training.dilated(factor)
    assert (dilated.steps, dilated.warmup) == (100 * factor, 10 * factor)
    assert dilated.milestones == (40 * factor, 60 * factor)
    assert dilated.eval_every == 20
    steps = np.arange(0, 100, 2)
    np.testing.assert_allclose(
        rates(dilated, (steps * factor).astype(int)), rates(training, steps), rtol=1e-6
    )


def test_dilation_is_monotone():
    training = jt.Training(steps=7, warmup=3, milestones=(3, 5))
    grown = [training.dilated(f) for f in (0.1, 0.3, 0.5, 0.9, 1.0, 1.1, 2.0)]
    for small, large in itertools.pairwise(grown):
        assert small.steps <= large.steps and small.warmup <= large.warmup
        assert all(a <= b for a, b in zip(small.milestones, large.milestones, strict=True))
    assert grown[0].steps == 1, "a training has at least one step"
    assert training.dilated(1.0).milestones == training.milestones
    with pytest.raises(ValueError, match="`factor` must be a finite number above 0"):
        training.dilated(0.0)


def replicas_differ():
    at = jax.tree.map(
        lambda a, b: np.stack([a, b]),
        schedule(jt.Training(steps=100, lr=0.1, milestones=(5,))),
        schedule(jt.Training(steps=100, lr=0.2, warmup=4, milestones=(9,))),
    )
    return jax.vmap(functools.partial(learning_rate, kind="steps"))(at, jnp.asarray([5, 2]))


def test_every_replica_has_a_schedule_of_its_own():
    np.testing.assert_allclose(replicas_differ(), [0.01, 0.1], rtol=1e-6)


W = np.asarray([1.0, -2.0, 0.5], np.float32)
GRADIENTS = np.asarray([[0.1, 0.2, -0.3], [0.4, -0.1, 0.2], [-0.5, 0.3, 0.1]], np.float32)


def updated(training, decay=0.0, lr=0.1, w=W, gradients=GRADIENTS):
    """The weights after each of the gradients, as training applies the directions."""
    opt = optimizer(training, decay)
    params = {"w": jnp.asarray(w)}
    state = opt.init(params)
    seen = []
    with jax.numpy_dtype_promotion("standard"):  # as training does
        for g in gradients:
            direction, state = opt.update({"w": jnp.asarray(g)}, state, params)
            params = jax.tree.map(lambda p, d: p - jnp.float32(lr) * d, params, direction)
            seen.append(np.asarray(params["w"]))
    return np.asarray(seen)


def by_hand(step, w=W, lr=0.1, gradients=GRADIENTS):
    w, memory, seen = w.astype(np.float64), {}, []
    for t, g in enumerate(gradients.astype(np.float64), 1):
        w = w - lr * step(w, g, memory, t)
        seen.append(w)
    return np.asarray(seen)


def test_momentum_by_hand():
    """v <- 0.9 v + g + decay * w, w <- w - lr * v, as OpenLTH and torch.optim.SGD have it."""
    training = jt.Training(optimizer="momentum", momentum=0.9)
    found = updated(training, decay=0.5)
    # first entry: v = 0.1 + 0.5 = 0.6, w = 0.94; v = 0.54 + 0.4 + 0.47 = 1.41, w = 0.799
    assert found[:2, 0] == pytest.approx([0.94, 0.799], rel=1e-6)

    def step(w, g, memory, t):
        memory["v"] = 0.9 * memory.get("v", 0) + g + 0.5 * w
        return memory["v"]

    np.testing.assert_allclose(found, by_hand(step), rtol=1e-6)


def test_nesterov_by_hand():
    def step(w, g, memory, t):
        g = g + 0.01 * w
        memory["v"] = 0.8 * memory.get("v", 0) + g
        return g + 0.8 * memory["v"]

    training = jt.Training(optimizer="momentum", momentum=0.8, nesterov=True)
    np.testing.assert_allclose(updated(training, 0.01), by_hand(step), rtol=1e-6)


def test_sgd_by_hand():
    found = updated(jt.Training(optimizer="sgd"), decay=0.5)
    np.testing.assert_allclose(found, by_hand(lambda w, g, m, t: g + 0.5 * w), rtol=1e-6)


def adam(w, g, memory, t, decay=0.0, decoupled=False):
    """Kingma and Ba (2015), Algorithm 1; Loshchilov and Hutter (2019), Algorithm 2."""
    g_all = g if decoupled else g + decay * w
    memory["m"] = 0.9 * memory.get("m", 0) + 0.1 * g_all
    memory["v"] = 0.999 * memory.get("v", 0) + 0.001 * g_all**2
    direction = (memory["m"] / (1 - 0.9**t)) / (np.sqrt(memory["v"] / (1 - 0.999**t)) + 1e-8)
    return direction + (decay * w if decoupled else 0)


@pytest.mark.parametrize("name", ["adam", "adamw"])
@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_by_hand(name, decay):
    step = functools.partial(adam, decay=decay, decoupled=name == "adamw")
    found = updated(jt.Training(optimizer=name), decay)
    np.testing.assert_allclose(found, by_hand(step), rtol=2e-5)


def test_adamw_decays_apart_from_the_gradient():
    """With no gradient AdamW shrinks in proportion to the weight, Adam by the sign alone."""
    zeros = np.zeros((1, 3), np.float32)
    apart = updated(jt.Training(optimizer="adamw"), 0.3, gradients=zeros)
    np.testing.assert_allclose(apart[0], W * (1 - 0.1 * 0.3), rtol=1e-6)
    within = updated(jt.Training(optimizer="adam"), 0.3, gradients=zeros)
    np.testing.assert_allclose(within[0], W - 0.1 * np.sign(W), rtol=1e-5)


def test_clipping_comes_before_decay():
    """The norm of (3, 4, 0) is clipped to 1; decay is added to what remains."""
    training = jt.Training(optimizer="sgd", clip_norm=1.0)
    big = np.asarray([[3.0, 4.0, 0.0]], np.float32)
    found = updated(training, 0.5, lr=1.0, gradients=big)
    np.testing.assert_allclose(found[0], W - ([0.6, 0.8, 0.0] + 0.5 * W), rtol=1e-6)
    small = big / 10
    found = updated(training, 0.5, lr=1.0, gradients=small)
    np.testing.assert_allclose(found[0], W - (small[0] + 0.5 * W), rtol=1e-6)


def test_decay_may_be_traced():
    training = jt.Training(optimizer="momentum")
    traced = jax.jit(
        lambda decay: optimizer(training, decay).update(
            {"w": jnp.zeros(3)},
            optimizer(training).init({"w": jnp.asarray(W)}),
            {"w": jnp.asarray(W)},
        )[0]["w"]
    )
    np.testing.assert_allclose(traced(jnp.float32(0.25)), 0.25 * W, rtol=1e-6)
    assert (np.asarray(traced(jnp.float32(0.0))) == 0).all()


OPTIMIZERS = {
    "sgd": {"optimizer": "sgd", "lr": 0.5},
    "momentum": {"optimizer": "momentum", "lr": 0.2},
    "nesterov": {"optimizer": "momentum", "lr": 0.2, "nesterov": True},
    "adam": {"optimizer": "adam", "lr": 0.05},
    "adamw": {"optimizer": "adamw", "lr": 0.05},
}


@functools.cache
def tiny():
    """A data set of 24 images of 2 x 4, a network 8-6-3, and a mask that keeps 60 %."""
    rng = np.random.default_rng(0)
    y = np.arange(24) % 3
    x = (rng.normal(size=(24, 2, 4, 1)) + y[:, None, None, None]).astype(np.float32)
    data = jt.data.from_arrays(x, y, x[:6], y[:6], name="tiny")
    net = jt.networks.lenet(data.shape, data.classes, widths=(6,))
    params, stats = net.init(jax.random.key(0))
    mask = jt.keep_top(jax.tree.map(jnp.abs, params), masks.ones(params), 40)
    return data, net, params, stats, mask


def trained(options, steps, *, params=None):
    data, net, initial, stats, mask = tiny()
    training = jt.Training(
        steps=50, batch_size=8, weight_decay=0.1, clip_norm=0.5, warmup=2, **options
    )
    start = masks.apply(mask, initial if params is None else params)
    key = jax.random.key(4)
    state = jt.TrainState(
        jnp.int32(0), start, stats, optimizer(training).init(start), mask, key, jnp.int32(-1)
    )
    plan = Plan(schedule(training), np.int32(0))
    arrays = put_data(data, training, parallel.mesh(1, devices=jax.devices()[:1])).arrays
    words = permutation_words(key)

    @jax.jit
    def step(s, active):
        batch = arrays.batches(training, words, None, parallel.Placement())(0, s.step)
        return Supervised(net, training).step(s, batch, plan, active, parallel.Placement())

    states = [state]
    for _ in range(steps):
        states.append(step(states[-1], jnp.bool_(True)))
    return training, states, words, step


@functools.cache
def run_of(name):
    return trained(OPTIMIZERS[name], 12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_pruned_weights_stay_exactly_zero(name):
    """CoursIA applies the mask once, and the optimizer regrows an 80 % sparse network to 98 %."""
    mask = tiny()[-1]
    _, states, _, _ = run_of(name)
    for state in states:
        outside = masks.map_with(lambda m, w: np.where(m, 0, w), mask, state.params)
        assert all((x == 0).all() for x in jax.tree.leaves(outside))
    alive = masks.map_with(lambda _, w: w != 0, mask, states[-1].params)
    assert int(masks.kept(alive)) == int(masks.kept(mask)) == 40
    moved = optax.tree.norm(jax.tree.map(jnp.subtract, states[-1].params, states[0].params))
    assert float(moved) > 0.1


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_as_masking_in_the_forward_pass(name):
    """DESIGN rule 1: params kept masked train as `loss(mask * params)` does, in its survivors.

    The reference is written with optax alone; its raw weights under the mask are what they like.
    """
    data, net, params, stats, mask = tiny()
    training, states, words, _ = run_of(name)
    images = (data.train.x - data.mean) / data.std

    def loss(raw, x, y):
        logits, _ = net.apply(masks.apply(mask, raw), stats, x, train=True)
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), y[:, None], 1).mean()

    momentum = optax.trace(decay=0.9, nesterov=training.nesterov)
    moments = {"sgd": optax.identity(), "momentum": momentum}.get(
        training.optimizer, optax.scale_by_adam()
    )
    decay = optax.add_decayed_weights(0.1)
    order = [moments, decay] if training.optimizer == "adamw" else [decay, moments]
    opt = optax.chain(optax.clip_by_global_norm(0.5), *order)
    raw, memory = params, opt.init(params)
    gradient = jax.jit(jax.grad(loss))
    draw = jax.jit(lambda t: batch_indices(words, t, examples=24, batch_size=8))
    for t in range(10):
        # what is tested is the update; which examples a batch holds is tested in test_rng.py
        index = np.asarray(draw(jnp.int32(t)))
        slope = gradient(raw, images[index], data.train.y[index])
        with jax.numpy_dtype_promotion("standard"):
            direction, memory = opt.update(slope, memory, raw)
        rate = np.float32(training.lr * min(1, t / 2))
        raw = jax.tree.map(lambda p, d, r=rate: p - r * d, raw, direction)
        kept = masks.apply(mask, raw)
        chex.assert_trees_all_close(states[t + 1].params, kept, rtol=1e-4, atol=2e-6)
    hidden = optax.tree.norm(masks.map_with(lambda m, w: jnp.where(m, 0, w), mask, raw))
    assert float(hidden) > 0.1, "the reference does hold something under its mask"


def test_what_lies_under_the_mask_is_of_no_account():
    """Also where it is nan: invariant 4 of iterative magnitude pruning."""
    _, _, params, _, mask = tiny()
    poisoned = masks.map_with(
        lambda m, w: jnp.where(m, w, jnp.nan), mask, params, other=lambda w: w
    )
    _, ours, _, _ = trained(OPTIMIZERS["momentum"], 5)
    _, theirs, _, _ = trained(OPTIMIZERS["momentum"], 5, params=poisoned)
    chex.assert_trees_all_equal(ours[-1].params, theirs[-1].params)


def test_a_replica_that_has_ended_stays_as_it_is():
    _, states, _, step = trained(OPTIMIZERS["adam"], 3)
    after = step(states[-1], jnp.bool_(False))
    assert int(after.step) == 3
    chex.assert_trees_all_equal(after.params, states[-1].params)


def test_the_first_step_of_a_warmup_changes_nothing():
    _, states, _, _ = trained(OPTIMIZERS["momentum"], 2)
    for before, after, later in zip(
        *(jax.tree.leaves(s.params["dense_0"]["kernel"]) for s in states), strict=True
    ):
        np.testing.assert_array_equal(before, after)
        assert not np.array_equal(after, later)
