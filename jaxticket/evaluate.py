"""Loss and accuracy of a network on whole splits, inside a compiled program."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxticket.settings import Training
from jaxticket.types import Array, Network, Params, Stats

METRICS = ("loss", "accuracy")


class Normalization(NamedTuple):
    """`(x - mean) / std` per channel, in the raw units of the data; float32 [channels] each."""

    mean: Array
    std: Array


def normalized(x: Array, by: Normalization, dtype: str) -> Array:
    """Raw images as the network's input."""
    return ((x.astype(jnp.float32) - by.mean[None, None, None]) / by.std[None, None, None]).astype(dtype)


class Batched(NamedTuple):
    """A split cut into equal batches: x [batches, size, ...], y int32 [batches, size], -1 where there is none."""

    x: Array
    y: Array


def cut(x: np.ndarray, y: np.ndarray, size: int, *, most: int | None = None, multiple: int = 1) -> Batched:
    """Cuts a split into batches on the host, filled up at the end.

    Args:
      x, y: the split.
      size: examples per batch; rounded up to a multiple of `multiple`.
      most: take at most so many examples, spread evenly over the split.
    """
    if most is not None and most < len(y):
        # evenly spread, since some data sets are sorted by class
        chosen = (np.arange(most, dtype=np.int64) * len(y)) // most
        x, y = x[chosen], y[chosen]
    size = min(size, len(y))
    size = -(-size // multiple) * multiple
    missing = -len(y) % size
    x = np.concatenate([x, np.zeros((missing, *x.shape[1:]), x.dtype)])
    y = np.concatenate([y, np.full(missing, -1, y.dtype)])
    return Batched(x.reshape(-1, size, *x.shape[1:]), y.reshape(-1, size))  # type: ignore[arg-type]


def cross_entropy(logits: Array, labels: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy of each example in float32: `-sum_c q_c log p_c`, q = (1 - s) onehot + s / classes."""
    classes = logits.shape[-1]
    target = jax.nn.one_hot(labels, classes, dtype=jnp.float32)
    if smoothing:
        target = target * jnp.float32(1 - smoothing) + jnp.float32(smoothing / classes)
    return optax.losses.softmax_cross_entropy(logits.astype(jnp.float32), target)


def cast(tree: Params, dtype: str) -> Params:
    """Floating leaves in the compute dtype."""
    return jax.tree.map(lambda x: x.astype(dtype) if jnp.issubdtype(x.dtype, jnp.floating) else x, tree)


def evaluate(
    net: Network,
    params: Params,
    stats: Stats,
    split: Batched,
    by: Normalization,
    training: Training,
    *,
    axis: tuple[str, int] | None = None,
) -> Array:
    """Mean loss (without label smoothing) and accuracy on a split, float32 [2] in the order of `METRICS`.

    Args:
      axis: (name, size) of a mesh axis over which each batch is split; the result is the same on all of it.
    """
    weights = cast(params, training.compute_dtype)

    def batch(totals: Array, inputs: Batched) -> tuple[Array, None]:
        x, y = inputs
        if axis is not None:
            part = y.shape[0] // axis[1]
            begin = jax.lax.axis_index(axis[0]) * part
            x = jax.lax.dynamic_slice_in_dim(x, begin, part)
            y = jax.lax.dynamic_slice_in_dim(y, begin, part)
        logits, _ = net.apply(weights, stats, normalized(x, by, training.compute_dtype), train=False)
        there = y >= 0
        # nan losses of a diverged replica must show, those of fillers must not
        losses = jnp.where(there, cross_entropy(logits, y), 0)
        right = jnp.logical_and(jnp.argmax(logits, axis=-1) == y, there)
        sums = jnp.stack([jnp.sum(losses), jnp.sum(right, dtype=jnp.float32), jnp.sum(there, dtype=jnp.float32)])
        return totals + sums, None

    # a zero that varies over the same mesh axes as the sums
    zero = jnp.sum(jax.tree.leaves(params)[0] * 0) * jnp.zeros(3)
    if axis is not None:
        zero = jax.lax.pcast(zero, axis[0], to="varying")
    totals, _ = jax.lax.scan(batch, zero, split)
    if axis is not None:
        totals = jax.lax.psum(totals, axis[0])
    return totals[:2] / totals[2]
