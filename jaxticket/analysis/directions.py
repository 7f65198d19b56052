"""Directions to move networks along: random filter-normalized ones, and principal components."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket.random import stream
from jaxticket.typing import Key, Mask, Network, Params


def filter_normalized(
    net: Network, params: Params, mask: Mask | None = None, *, key: Key
) -> Params:
    """Draw a random direction whose filters are as long as those of the network.

    `d_f <- m * d_f / ||m * d_f|| * ||m * theta_f||` for the weights f of each output unit of each
    kernel (the last axis), d drawn from normal distributions, m the mask. The direction is 0 at
    pruned weights, in filters that are 0, and at everything else than kernels: biases, BatchNorm.
    What is drawn depends on the key and the paths of the kernels alone, so that networks of the
    same shapes with one key move along the same random numbers.

    Args:
      net: the network, which says what its kernels are: what may be pruned, of two or more axes.
      params: weights theta.
      mask: which weights are kept; None for all. None at a leaf keeps it whole.
      key: of the random numbers.

    Returns:
      A tree like the params.

    Examples:
      >>> from jaxticket.nn import lenet
      >>> net = lenet((2, 2, 1), 3, widths=(4,))
      >>> params, _ = net.init(jax.random.key(0))
      >>> d = filter_normalized(net, params, key=jax.random.key(1))
      >>> w = params["dense_0"]["kernel"]
      >>> norms = [jnp.linalg.norm(x, axis=0) for x in (w, d["dense_0"]["kernel"])]
      >>> bool(jnp.allclose(*norms)), float(jnp.abs(d["dense_0"]["bias"]).max())
      (True, 0.0)

    Reference: Li et al., "Visualizing the loss landscape of neural nets" (2018), section 4;
      KD-LTS, section 5.1.
    """
    leaves, tree = jax.tree.flatten(params)
    kept: Sequence[jax.Array | None] = [None] * len(leaves)
    if mask is not None:
        kept = jax.tree.leaves(mask, is_leaf=_tree.is_none)
    kernels = jax.tree.leaves(net.prunable(params))
    found = []
    for path, w, m, kernel in zip(_tree.paths(params), leaves, kept, kernels, strict=True):
        w = jnp.asarray(w)
        if not kernel or w.ndim < 2:
            found.append(jnp.zeros_like(w))
            continue
        drawn = jax.random.normal(stream(key, path), w.shape, w.dtype)
        if m is not None:
            zero = jnp.zeros_like(w)
            drawn, w = jnp.where(m, drawn, zero), jnp.where(m, w, zero)
        axes = tuple(range(w.ndim - 1))
        long, wanted = (jnp.sqrt(jnp.sum(x * x, axis=axes, keepdims=True)) for x in (drawn, w))
        # filters without weights stay where they are
        scale = jnp.where(long > 0, wanted / jnp.where(long > 0, long, jnp.ones_like(long)), 0)
        found.append(drawn * scale)
    return jax.tree.unflatten(tree, found)


@functools.lru_cache(maxsize=64)
def _compiled(net: Network) -> Callable[[Params, Mask, Key], Params]:
    return jax.jit(lambda params, mask, key: filter_normalized(net, params, mask, key=key))


def random_directions(
    net: Network, params: Params, mask: Mask, *, key: Key, draw: int, count: int
) -> list[Params]:
    """Draw filter-normalized directions on the host, the pair of number `draw` of a key."""
    one = _compiled(net)
    return [
        jax.tree.map(np.asarray, one(params, mask, stream(key, "surface", draw, number)))
        for number in range(count)
    ]


class Components(NamedTuple):
    """Two principal components of the weights of a training.

    Attributes:
      directions: two trees like the params, orthogonal and of length 1.
      places: float64 [step, 2], the coordinates of each step along them; those of the last are 0.
      shares: float64 [2], the share of the variance over steps along each.
    """

    directions: tuple[Params, Params]
    places: np.ndarray
    shares: np.ndarray


def principal(steps: Sequence[Params]) -> Components:
    """Find the plane in which the weights at some steps vary most.

    Args:
      steps: the weights at each step, host arrays; at least three, which differ.

    Raises:
      ValueError: where they do not span a plane.

    Reference: Li et al. (2018), section 7 (PCA of optimizer trajectories); scikit-learn's PCA.
    """
    from sklearn.decomposition import PCA

    leaves, tree = jax.tree.flatten(steps[-1])
    rows = np.stack(
        [
            np.concatenate([np.asarray(x, np.float64).ravel() for x in jax.tree.leaves(one)])
            for one in steps
        ]
    )
    line = ValueError(
        "`steps` lie on one line, or are one point; keep more steps of the training with keep_at="
    )
    if (rows == rows[-1]).all():
        raise line
    found = PCA(n_components=2, svd_solver="full").fit(rows)
    if not found.singular_values_[1] > 1e-9 * found.singular_values_[0]:
        raise line
    axes = np.asarray(found.components_)
    places = (rows - rows[-1]) @ axes.T
    cuts = np.cumsum([x.size for x in leaves])[:-1]

    def tree_of(axis: np.ndarray) -> Params:
        parts = zip(np.split(axis, cuts), leaves, strict=True)
        return jax.tree.unflatten(tree, [part.reshape(x.shape) for part, x in parts])

    directions = tree_of(axes[0]), tree_of(axes[1])
    return Components(directions, places, found.explained_variance_ratio_)
