"""Projected gradient descent: its box, its direction, and a network whose worst case is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import noisy_patterns

import jaxticket as jt
from jaxticket.engine import parallel
from jaxticket.engine.adversarial import FGSM, PGD
from jaxticket.engine.ascent import Ball, Goal, search
from jaxticket.engine.metrics import Normalization, cross_entropy, normalized
from jaxticket.results import plain

SHAPE = (4, 4, 1)
BY = Normalization(jnp.array([100.0]), jnp.array([50.0]))
KEY = jax.random.key(1)
X = jax.random.randint(jax.random.key(2), (20, *SHAPE), 0, 256).astype(jnp.uint8)
Y = jnp.arange(20, dtype=jnp.int32) % 2


@pytest.fixture(scope="module")
def linear():
    net = jt.networks.lenet(SHAPE, 2, ())
    return net, *net.init(jax.random.key(0))


def losses(network, x, labels=Y):
    net, params, stats = network
    return cross_entropy(net.apply(params, stats, normalized(x, BY, "float32"), train=False)[0],
                         labels)  # fmt: skip


@pytest.mark.parametrize("radius", [0.0, 0.05, 0.6])
@pytest.mark.parametrize("random", [True, False])
def test_pixels_stay_in_the_box_and_in_their_range(linear, radius, random):
    attack = PGD(radius=radius, step=0.02, steps=7, random=random)
    moved = attack(*linear, X, Y, by=BY, key=KEY)
    assert moved.dtype == jnp.float32 and moved.shape == X.shape
    assert float(jnp.abs(moved - X.astype(jnp.float32)).max()) <= radius * 255 + 1e-3
    assert 0 <= float(moved.min()) and float(moved.max()) <= 255


@pytest.mark.parametrize("options", [{"random": False}, {}, {"restarts": 2}])
def test_images_stay_in_the_euclidean_ball_and_in_their_range(linear, options):
    attack = PGD(radius=0.9, step=0.2, steps=5, norm="l2", **options)
    moved = attack(*linear, X, Y, by=BY, key=KEY)
    away = np.asarray(moved, np.float64) - np.asarray(X)
    lengths = np.sqrt((away**2).sum(axis=(1, 2, 3)))
    assert lengths.max() <= 0.9 * 255 * (1 + 1e-5) and lengths.min() > 0
    assert 0 <= float(moved.min()) and float(moved.max()) <= 255


def test_random_starts_fill_the_ball():
    """Of a uniform point in d dimensions, (distance / radius)^d is uniform."""
    clean = jnp.zeros((4000, 3), jnp.float32)
    points = np.asarray(Ball("l2", 2.0, -9.0, 9.0).point(clean, KEY, 0), np.float64)
    shares = np.sort((np.linalg.norm(points, axis=1) / 2) ** 3)
    assert np.abs(shares - (np.arange(4000) + 0.5) / 4000).max() < 1.63 / np.sqrt(4000)
    assert np.abs(points.mean(axis=0)).max() < 0.08


@pytest.mark.parametrize("norm", ["inf", "l2"])
@pytest.mark.parametrize("targeted", [False, True])
def test_one_step_is_that_of_numpy_in_float64(norm, targeted):
    net = jt.networks.lenet(SHAPE, 3, (6,))
    params, stats = net.init(jax.random.key(3))
    attack = PGD(radius=0.02, step=0.05, steps=1, norm=norm, random=False, targeted=targeted)
    moved = attack(net, params, stats, X, Y, by=BY, key=KEY)
    # forward and backward by hand
    hidden, last = (jax.tree.map(lambda w: np.asarray(w, np.float64), params[name])
                    for name in ("dense_0", "dense_1"))  # fmt: skip
    clean = np.asarray(X, np.float64).reshape(20, -1)
    inner = (clean - 100) / 50 @ hidden["kernel"] + hidden["bias"]
    z = np.maximum(inner, 0) @ last["kernel"] + last["bias"]
    p = np.exp(z - z.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    slope = (
        (((p - np.eye(3)[np.asarray(Y)]) @ last["kernel"].T) * (inner > 0))
        @ hidden["kernel"].T
        / 50
    )
    slope = -slope if targeted else slope
    radius = 0.02 * 255
    if norm == "inf":
        away = np.clip(0.05 * 255 * np.sign(slope), -radius, radius)
    else:
        # longer than the radius, so that it ends on the sphere
        away = radius * slope / np.linalg.norm(slope, axis=1, keepdims=True)
    expected = np.clip(clean + away, 0, 255)
    np.testing.assert_allclose(np.asarray(moved).reshape(20, -1), expected, atol=2e-3)


@pytest.mark.parametrize(("norm", "dual"), [("inf", 1), ("l2", 2)])
def test_of_a_linear_network_the_margin_falls_by_the_dual_norm(linear, norm, dual):
    """`max over |d| <= r of -w d = r ||w||_dual`, where the range of pixels does not bound it."""
    net, params, stats = linear
    # a range that no pixel comes near, which is also the unit of radii
    attack = PGD(radius=0.01, step=0.004, steps=30, norm=norm, low=-1000, high=1000)
    moved = attack(net, params, stats, X, Y, by=BY, key=KEY)
    kernel = np.asarray(params["dense_0"]["kernel"], np.float64) / 50
    w = kernel[:, 0] - kernel[:, 1]
    sign = np.where(np.asarray(Y) == 0, 1, -1)
    fall = sign * ((np.asarray(X, np.float64) - np.asarray(moved)).reshape(20, -1) @ w)
    np.testing.assert_allclose(fall, 0.01 * 2000 * np.linalg.norm(w, ord=dual), rtol=1e-4)


def test_more_steps_and_more_starts_are_never_weaker(linear):
    net, params, stats = linear
    goal = Goal(
        lambda x: net.apply(params, stats, normalized(x, BY, "float32"), train=False)[0],
        "cross_entropy", Y, targeted=False,
    )  # fmt: skip
    clean = X.astype(jnp.float32)

    @jax.jit
    def worst(steps, restarts, radius):
        return search(goal, Ball("inf", radius, 0.0, 255.0), clean, step=4.0, steps=steps,
                      restarts=restarts, random=True, key=KEY, first=0)  # fmt: skip

    last = worst(0, 1, 20.0)
    for case in ((1, 1, 20.0), (4, 1, 20.0), (4, 2, 20.0), (4, 5, 20.0)):
        found = worst(*case)
        assert (found.hit >= last.hit).all()
        assert ((found.loss >= last.loss) | (found.hit > last.hit)).all()
        last = found
    assert last.hit.sum() > worst(0, 1, 20.0).hit.sum()
    np.testing.assert_array_equal(worst(9, 3, 0.0).x, clean)
    # the attack of settings is the same search
    attack = PGD(radius=20 / 255, step=4 / 255, steps=4, restarts=5)
    np.testing.assert_allclose(attack(*linear, X, Y, by=BY, key=KEY), last.x, atol=1e-3)
    assert attack.passes == (1 + 5 * 5, 5 * 4) and PGD(steps=4).passes == (4, 4)


def test_the_fast_gradient_sign_method_is_one_step_to_the_end_of_the_box(linear):
    moved = FGSM(0.1)(*linear, X, Y, by=BY, key=KEY)
    slope = jax.grad(lambda x: losses(linear, x).sum())(X.astype(jnp.float32))
    expected = jnp.clip(X.astype(jnp.float32) + 25.5 * jnp.sign(slope), 0, 255)
    np.testing.assert_allclose(moved, expected, atol=1e-4)


def test_of_a_linear_network_the_worst_corner_is_found(linear):
    """Two classes: the loss grows with `(w_other - w_true) x` alone, so every pixel goes to the end
    of its box that this vector points to.
    """
    net, params, stats = linear
    attack = PGD(radius=0.1, step=0.02, steps=30)
    moved = attack(net, params, stats, X, Y, by=BY, key=KEY)
    kernel = np.asarray(params["dense_0"]["kernel"])
    uphill = np.where(np.asarray(Y)[:, None] == 0, *(np.sign(kernel[:, 1 - c] - kernel[:, c])
                                                     for c in (0, 1)))  # fmt: skip
    worst = np.clip(np.asarray(X, float).reshape(20, -1) + 25.5 * uphill, 0, 255)
    np.testing.assert_allclose(np.asarray(moved).reshape(20, -1), worst, atol=1e-3)


def test_no_steps_change_nothing(linear):
    np.testing.assert_array_equal(PGD(steps=0)(*linear, X, Y, by=BY, key=KEY), X)


def test_the_loss_grows_with_the_radius_and_that_of_a_target_falls(linear):
    clean = losses(linear, X)
    last = clean
    for radius in (0.02, 0.05, 0.1):
        attack = PGD(radius=radius, step=radius / 4, steps=10)
        worse = losses(linear, attack(*linear, X, Y, by=BY, key=KEY))
        assert (worse >= last - 1e-5).all()
        last = worse
    target = 1 - Y
    towards = dataclasses.replace(attack, targeted=True)
    found = losses(linear, towards(*linear, X, target, by=BY, key=KEY), target)
    assert (found <= losses(linear, X, target) + 1e-5).all()


def test_an_image_is_attacked_alone_as_among_others(linear):
    attack = PGD(steps=5, random=False)
    together = attack(*linear, X, Y, by=BY, key=KEY)
    alone = attack(*linear, X[3:4], Y[3:4], by=BY, key=KEY)
    np.testing.assert_array_equal(together[3:4], alone)


def test_devices_that_share_a_batch_start_where_one_alone_does(linear):
    attack = PGD(steps=2)
    whole = attack(*linear, X, Y, by=BY, key=KEY)
    part = attack(*linear, X[12:], Y[12:], by=BY, key=KEY, first=12)
    np.testing.assert_allclose(part, whole[12:], atol=1e-3)
    assert np.abs(np.diff(np.asarray(whole - X.astype(jnp.float32)), axis=0)).max() > 1


# ---- adversarial training


@pytest.fixture(scope="module")
def train():
    data = noisy_patterns()
    net = jt.networks.lenet(data.shape, 3, (12,))

    def run(attack, mesh, seeds=(3, 5)):
        training = jt.Training(steps=20, batch_size=16, lr=0.01, eval_every=20, attack=attack)
        runs = jt.find_tickets(net, data, training, jt.Pruning(levels=0), seeds=seeds, mesh=mesh,
                               progress=False)  # fmt: skip
        return runs

    return run


def final(runs):
    table = runs.table()
    return table[table["step"] == table["step"].max()]["value"].to_numpy()


@pytest.mark.slow
def test_training_on_examples_that_are_not_moved_is_training(train):
    mesh = parallel.mesh(devices=jax.devices()[:2])
    clean = train(None, mesh)
    for attack in (PGD(steps=0), PGD(radius=0.0, steps=1)):
        np.testing.assert_allclose(final(train(attack, mesh)), final(clean), rtol=1e-5)


@pytest.mark.slow
def test_adversarial_training_is_the_same_alone_vmapped_and_on_a_data_axis(train, vmap_replicas):
    attack = PGD(radius=0.1, step=0.05, steps=2)
    mapped = final(train(attack, parallel.mesh(devices=jax.devices()[:2])))
    clean = final(train(None, parallel.mesh(devices=jax.devices()[:2])))
    assert np.abs(mapped - clean).max() > 1e-3
    split = train(attack, parallel.mesh(seeds=1, data=2, devices=jax.devices()[:2]))
    np.testing.assert_allclose(final(split), mapped, rtol=2e-3, atol=2e-3)
    alone = train(attack, parallel.mesh(devices=jax.devices()[:1]), seeds=(5,))
    np.testing.assert_allclose(final(alone), mapped[len(mapped) // 2 :], rtol=1e-5)
    vmap_replicas()
    vmapped = train(attack, parallel.mesh(seeds=1, devices=jax.devices()[3:]))
    np.testing.assert_allclose(final(vmapped), mapped, rtol=2e-3, atol=2e-3)


@pytest.mark.slow
def test_adversarially_trained_networks_withstand_more():
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, (32,))
    attack = PGD(radius=0.15, step=0.05, steps=5, high=16.0)
    found = {}
    for name, own in (("plain", None), ("hardened", attack)):
        training = jt.Training(steps=400, batch_size=64, lr=0.003, eval_every=400, attack=own)
        runs = jt.find_tickets(net, data, training, jt.Pruning(levels=1, fraction=0.5, rewind=399),
                               seeds=(0,), progress=False)  # fmt: skip
        # rewound to the last step, the origin is the trained network
        network = jax.tree.map(lambda x: jnp.asarray(x[0]), (runs.origin.params, runs.origin.stats))
        by = Normalization(jnp.asarray(data.mean), jnp.asarray(data.std))
        x, y = jnp.asarray(data.test.x), jnp.asarray(data.test.y)
        moved = attack(net, *network, x, y, by=by, key=KEY)
        logits, _ = net.apply(*network, normalized(moved, by, "float32"), train=False)
        found[name] = float(jnp.mean(jnp.argmax(logits, axis=1) == y))
    assert found["hardened"] > found["plain"] + 0.15


def test_settings_name_an_attack(train):
    assert plain(jt.Training())["attack"] is None
    found = plain(jt.Training(attack=PGD(radius=0.5)))["attack"]
    # as it was recorded before there were norms and restarts
    assert found == {
        "kind": "pgd", "radius": 0.5, "step": 2 / 255, "steps": 10, "targeted": False,
        "random": True, "low": 0.0, "high": 255.0,
    }  # fmt: skip
    assert plain(PGD(radius=0.5, norm="l2", restarts=2)) == {**found, "norm": "l2", "restarts": 2}
    for wrong in ("pgd", PGD(targeted=True)):
        with pytest.raises(ValueError, match="`attack` must be None or an untargeted attack"):
            jt.Training(attack=wrong)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": -0.1}, "`radius`"),
        ({"step": float("nan")}, "`step`"),
        ({"steps": 2.5}, "`steps`"),
        ({"low": 1.0, "high": 1.0}, "`low` must be below"),
        ({"norm": "l1"}, "`norm` must be one of 'inf', 'l2'"),
        ({"restarts": 2, "random": False}, "`restarts` 2 needs random starts"),
        ({"restarts": 2, "steps": 0}, "`restarts` 2 needs random starts and at least one step"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        PGD(**options)
