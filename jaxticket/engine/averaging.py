"""Averages of the weights of a training, which are evaluated in their place."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxticket.typing import Array, Average, Params, Stats


def begun(params: Params, stats: Stats) -> Average:
    """The average before the first update: the network that training starts from."""
    return Average(params, stats, jnp.int32(0))


def averaged(average: Average, params: Params, stats: Stats, decay: float) -> Average:
    r"""The average after an update.

    `a_n = (1 - d) sum_i d^(n - i) w_i / (1 - d^n)` over the networks w_1, ..., w_n after each of
    the n updates of this training: the exponential moving average with the bias correction of Adam,
    in which the start has no part. It is computed as `a_n = a_(n-1) + s_n (w_n - a_(n-1))` with
    `s_n = (1 - d) / (1 - d^n)`, so that weights that stay where they are, pruned and frozen ones,
    are kept bit for bit.

    Args:
      average: before the update.
      params, stats: the network after it. Statistics that are whole numbers are taken as they are.
      decay: d, in (0, 1).

    Reference: Polyak and Juditsky 1992; Kingma and Ba 2015, section 3, for the correction.
    """
    count, log = average.count + 1, math.log(decay)
    share = jnp.float32(math.expm1(log)) / jnp.expm1(jnp.float32(log) * count.astype(jnp.float32))

    def one(old: Array, new: Array) -> Array:
        if not jnp.issubdtype(new.dtype, jnp.floating):
            return new
        return old + share.astype(new.dtype) * (new - old)

    return Average(
        jax.tree.map(one, average.params, params), jax.tree.map(one, average.stats, stats), count
    )
