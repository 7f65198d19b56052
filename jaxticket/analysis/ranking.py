"""How well a score tells two kinds of examples apart: AUROC, AUPR, FPR at a TPR.

All are pure functions of two arrays of scores, for use inside compiled programs; examples that
count are told by `there`, since batches are filled up. Positives should have the higher scores.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Separation(NamedTuple):
    """What a score says of positives and negatives, three numbers.

    Attributes:
      auroc: the share of pairs (positive, negative) in which the positive is higher; ties count
        half, as in the rank statistic of Mann and Whitney.
      aupr: the average precision, `sum_n (R_n - R_{n-1}) P_n` over thresholds.
      fpr: the least share of negatives that are taken for positives where at least `tpr` of the
        positives are found.
    """

    auroc: jax.Array
    aupr: jax.Array
    fpr: jax.Array


def separation(
    positive: jax.Array,
    negative: jax.Array,
    positive_there: jax.Array,
    negative_there: jax.Array,
    *,
    tpr: float = 0.95,
) -> Separation:
    """Compare the scores of positives and negatives; equal scores share a threshold.

    Args:
      positive, negative: finite scores, [examples] of each.
      positive_there, negative_there: bool, which of them count.
      tpr: the share of positives to find, for `fpr`.

    Reference: Hendrycks and Gimpel, "A baseline for detecting misclassified and out-of-distribution
      examples in neural networks" (2017); KD-LTS, appendix C.1.
    """
    real = positive.dtype
    p, n = (jnp.sum(there, dtype=real) for there in (positive_there, negative_there))
    up, down = (
        jnp.sort(jnp.where(there, scores, jnp.inf))
        for there, scores in ((positive_there, positive), (negative_there, negative))
    )
    # of each positive: negatives below it, and those below it or equal
    below, most = (
        jnp.searchsorted(down, positive, side=side).astype(real) for side in ("left", "right")
    )
    found = p - jnp.searchsorted(up, positive, side="left").astype(real)
    mistaken = n - below

    def mean(values: jax.Array) -> jax.Array:
        return jnp.sum(jnp.where(positive_there, values, 0)) / p

    enough = jnp.logical_and(positive_there, found / p >= jnp.asarray(tpr, real))
    return Separation(
        auroc=mean((below + most) / (2 * n)),
        aupr=mean(found / (found + mistaken)),
        fpr=jnp.min(jnp.where(enough, mistaken / n, 1)),
    )


__all__ = ["Separation", "separation"]


def __dir__() -> list[str]:
    return __all__
