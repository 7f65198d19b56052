"""How well confidences agree with accuracies: errors by bins, and temperature scaling.

All are pure functions of arrays over examples, for use inside compiled programs. `there` says which
examples count, since batches are filled up.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket.metrics import bin_of_equal_width

# temperatures are looked for in [1 / WIDEST, WIDEST]
WIDEST = 100.0
HALVINGS = 40


class Bins(NamedTuple):
    """Sums over the examples of each bin, [bins]: how many, right answers, and confidences."""

    count: jax.Array
    right: jax.Array
    confidence: jax.Array

    def error(self) -> jax.Array:
        """The expected calibration error, `sum_b |right_b - confidence_b| / examples`."""
        return jnp.sum(jnp.abs(self.right - self.confidence)) / jnp.sum(self.count)


def equal_width(confidence: jax.Array, right: jax.Array, there: jax.Array, bins: int) -> Bins:
    """Bins (b / bins, (b + 1) / bins] of confidences.

    Args:
      confidence: in [0, 1], [examples].
      right: 1 where the answer is right, else 0, of the type of the confidences.
      there: bool, which examples count.
      bins: how many.
    """
    return _sums(bin_of_equal_width(confidence, bins), confidence, right, there, bins)


def equal_mass(confidence: jax.Array, right: jax.Array, there: jax.Array, bins: int) -> Bins:
    """Bins of equal mass: equal numbers of examples, up to one, in the order of confidences.

    Examples of one confidence share their right answers, so that their order does not count. Args:
    as of `equal_width`.

    Reference: Nixon et al., "Measuring calibration in deep learning" (2019).
    """
    # what does not count comes last
    order = jnp.argsort(jnp.where(there, confidence, jnp.inf))
    values, there = confidence[order], there[order]
    sorted_right = jnp.where(there, right[order], 0)
    keys = jnp.where(there, values, jnp.inf)
    first, last = (jnp.searchsorted(keys, keys, side=side) for side in ("left", "right"))
    before = jnp.concatenate([jnp.zeros(1, right.dtype), jnp.cumsum(sorted_right)])
    shared = (before[last] - before[first]) / (last - first).astype(right.dtype)
    count = jnp.maximum(jnp.sum(there, dtype=jnp.int32), 1)
    at = jnp.minimum(jnp.arange(values.size, dtype=jnp.int32) * bins // count, bins - 1)
    return _sums(at, values, shared, there, bins)


def by_class(
    probabilities: jax.Array, labels: jax.Array, there: jax.Array, bins: int, *, mass: bool
) -> jax.Array:
    """The calibration error of the probability of each class, and the mean over classes.

    With bins of equal width this is the class-wise (or static) error, with bins of equal mass the
    adaptive one.

    Args:
      probabilities: [examples, classes].
      labels: int32 [examples].
      there: bool, which examples count.
      bins: how many, for each class.
      mass: whether bins have equal mass.

    Reference: Kull et al., "Beyond temperature scaling" (2019), section 2; Nixon et al. (2019).
    """
    cut = equal_mass if mass else equal_width

    def one(p: jax.Array, k: jax.Array) -> jax.Array:
        return cut(p, (labels == k).astype(p.dtype), there, bins).error()

    classes = jnp.arange(probabilities.shape[1], dtype=labels.dtype)
    return jnp.mean(jax.vmap(one)(probabilities.T, classes))


def mean_nll(logits: jax.Array, labels: jax.Array, there: jax.Array) -> jax.Array:
    """The mean negative log likelihood, in nats."""
    chosen = jnp.maximum(labels, 0)[:, None]
    each = -jnp.take_along_axis(jax.nn.log_softmax(logits), chosen, axis=1)[:, 0]
    return jnp.sum(jnp.where(there, each, 0)) / jnp.sum(there, dtype=each.dtype)


def temperature(logits: jax.Array, labels: jax.Array, there: jax.Array) -> jax.Array:
    """The temperature T in [0.01, 100] at which `logits / T` have the least mean NLL.

    The mean is convex in 1 / T, so that halving an interval by the sign of its derivative finds the
    least.

    Reference: Guo et al., "On calibration of modern neural networks" (2017), section 4.2.
    """

    def half(_: int, ends: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = ends
        middle = (low + high) / 2
        slope = jax.grad(lambda b: mean_nll(logits * jnp.exp(b), labels, there))(middle)
        return jnp.where(slope < 0, middle, low), jnp.where(slope < 0, high, middle)

    # zero that varies as the logits do
    zero = jnp.zeros_like(logits[0, 0])
    edge = jnp.log(jnp.asarray(WIDEST, logits.dtype))
    low, high = jax.lax.fori_loop(0, HALVINGS, half, (zero - edge, zero + edge))
    return jnp.exp(-(low + high) / 2)


def _sums(
    at: jax.Array, confidence: jax.Array, right: jax.Array, there: jax.Array, bins: int
) -> Bins:
    def total(values: jax.Array) -> jax.Array:
        zero = jnp.zeros(bins, confidence.dtype)
        return zero.at[at].add(jnp.where(there, values, 0))

    return Bins(total(jnp.ones_like(confidence)), total(right), total(confidence))


__all__ = ["Bins", "by_class", "equal_mass", "equal_width", "mean_nll", "temperature"]


def __dir__() -> list[str]:
    return __all__
