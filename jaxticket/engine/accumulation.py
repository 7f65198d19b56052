"""The gradient of a batch, computed part after part."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxticket import _tree
from jaxticket.typing import Array, Key, Params, Stats

ExamplesT = TypeVar("ExamplesT")


def accumulated(
    one: Callable[[Stats, ExamplesT, Key], tuple[Array, Params, Stats]],
    stats: Stats,
    examples: ExamplesT,
    *,
    key: Key,
    parts: int,
    like: Params,
) -> tuple[Array, Params, Stats]:
    """Mean loss and gradient of a batch, and the statistics after its last part.

    Part j has the examples j, j + parts, j + 2 parts, ... of the batch, so that the parts are the
    same however many devices share it.

    Args:
      one: `one(stats, examples, key) -> (loss, gradient, stats)`, of a part.
      stats: statistics before the batch.
      examples: this device's, with their labels: a tree of arrays [batch, ...].
      key: of noise inside the network; parts have keys below it.
      parts: a divisor of the batch.
      like: the weights; they differ between devices as their gradient does.
    """

    def divided(array: Array) -> Array:
        rows = array.reshape(array.shape[0] // parts, parts, *array.shape[1:])
        return jnp.swapaxes(rows, 0, 1)

    def add(
        carry: tuple[tuple[Array, Params], Stats], part: tuple[ExamplesT, Array]
    ) -> tuple[tuple[tuple[Array, Params], Stats], None]:
        total, stats = carry
        own, number = part
        loss, gradient, stats = one(stats, own, jax.random.fold_in(key, number))
        return (jax.tree.map(jnp.add, total, (loss, gradient)), stats), None

    given = jax.tree.map(divided, examples), jnp.arange(parts, dtype=jnp.uint32)
    first = jax.tree.map(lambda array: array[0], given)
    shapes = jax.eval_shape(lambda s, p: one(s, p[0], key)[:2], stats, first)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
    (total, stats), _ = jax.lax.scan(add, (_tree.varying_like(zero, like), stats), given)
    loss, gradient = jax.tree.map(lambda t: t / jnp.asarray(parts, t.dtype), total)
    return loss, gradient, stats


def in_parts(function: Callable[..., Array], parts: int, *arrays: Array) -> Array:
    """What a function of examples and their first place gives, computed part after part.

    Args:
      function: `function(first, *arrays) -> [examples, ...]`, where an example's result depends on
        no other one.
      parts: a divisor of the number of examples.
      *arrays: [examples, ...].
    """
    size = arrays[0].shape[0] // parts
    divided = [array.reshape(parts, size, *array.shape[1:]) for array in arrays]
    firsts = size * jnp.arange(parts, dtype=jnp.int32)
    found = jax.lax.map(lambda part: function(*part), (firsts, *divided))
    return found.reshape(parts * size, *found.shape[2:])
