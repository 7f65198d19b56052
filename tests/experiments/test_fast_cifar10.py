"""The recipe made for speed: its whitening whitens, and its network is pruned beside controls."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from experiments.own_networks import fast_cifar10
from experiments.own_networks.fast_cifar10 import Settings, build, halved, near_identity, whitening

DRAW = np.random.default_rng(0)
SMOOTH = np.cumsum(DRAW.integers(0, 40, (300, 8, 8, 3)), axis=2) % 256
X, Y = SMOOTH.astype(np.uint8), DRAW.integers(0, 10, 300).astype(np.int32)
DATA = jt.data.from_arrays(X[:200], Y[:200], X[200:], Y[200:], classes=10, name="random")


def test_filters_whiten_the_patches():
    kernel = whitening(X, DATA.mean, DATA.std)
    assert kernel.shape == (2, 2, 3, 24)
    np.testing.assert_array_equal(kernel[..., :12], -kernel[..., 12:])
    standard = ((X - DATA.mean) / DATA.std).astype(np.float32)
    # of all patches, computed one by one
    patches = np.stack(
        [standard[:, i : i + 2, j : j + 2].reshape(-1, 12) for i in range(7) for j in range(7)]
    ).reshape(-1, 12)
    values = patches @ kernel[..., :12].reshape(12, 12)
    covariance = values.T @ values / len(values)
    off = covariance - np.diag(np.diag(covariance))
    assert np.abs(off).max() < 1e-2
    assert ((np.diag(covariance) > 0.5) & (np.diag(covariance) < 1.01)).all()


def test_convolutions_begin_near_the_identity():
    kernel = near_identity(jax.random.key(0), (3, 3, 4, 6), jnp.float32)
    x = jnp.asarray(DRAW.normal(size=(2, 5, 5, 4)), jnp.float32)
    dimensions = ("NHWC", "HWIO", "NHWC")
    y = jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=dimensions)
    np.testing.assert_allclose(y[..., :4], x, atol=1e-6)
    assert float(jnp.abs(kernel[..., 4:]).min()) < float(jnp.abs(kernel[..., 4:]).max())


def test_halving_takes_the_largest_of_each_square():
    x = DRAW.normal(size=(2, 4, 6, 3)).astype(np.float32)
    found = halved(jnp.asarray(x))
    assert found.shape == (2, 2, 3, 3)
    assert float(found[1, 1, 2, 0]) == x[1, 2:4, 4:6, 0].max()


@pytest.mark.parametrize("levels", [0, 1])
def test_it_is_pruned_beside_controls(levels):
    settings = Settings(seeds=1, levels=levels, epochs=1.0, rewind=0.2, batch_size=40, width=0.05)
    rows = fast_cifar10.measured(DATA, settings)
    branches = {"ticket"} if levels == 0 else {"ticket", "shuffle", "layerwise_random"}
    assert set(rows.branch) == branches and len(rows) == len(branches) * (levels + 1)
    assert rows.value.between(0, 1).all()
    net = build(DATA, settings)
    assert not any("filters" in path for path in jt.layers.layers(net, net.mask()).layer)
