"""Averages of the weights of a training, which are evaluated in their place."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jaxticket.nn.master import HALF
from jaxticket.typing import Array, Average, Params, Stats


def begun(params: Params, stats: Stats) -> Average:
    """The average before the first update: the network that training starts from.

    Numbers of half precision are averaged in float32, where changes smaller than their spacing add
    up; `rounded` gives them back in their types.
    """

    def wide(x: Array) -> Array:
        return x.astype(jnp.float32) if x.dtype in HALF else x

    return Average(jax.tree.map(wide, params), jax.tree.map(wide, stats), jnp.int32(0))


def rounded(average: Average, params: Params, stats: Stats) -> tuple[Params, Stats]:
    """The average as a network: its numbers in the types of `params` and `stats`."""
    return jax.tree.map(
        lambda mean, like: mean.astype(like.dtype), (average.params, average.stats), (params, stats)
    )


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
        return old + share.astype(old.dtype) * (new.astype(old.dtype) - old)

    return Average(
        jax.tree.map(one, average.params, params), jax.tree.map(one, average.stats, stats), count
    )
