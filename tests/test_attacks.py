"""Projected gradient descent: its box, its direction, and a network whose worst case is known."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket.attacks import PGD
from jaxticket.evaluate import Normalization, cross_entropy, normalized

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


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": -0.1}, "`radius`"),
        ({"step": float("nan")}, "`step`"),
        ({"steps": 2.5}, "`steps`"),
        ({"low": 1.0, "high": 1.0}, "`low` must be below"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        PGD(**options)
