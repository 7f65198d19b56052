"""Conditions that are computed where they hold, also under `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from jaxticket import _tree

T = TypeVar("T")


def _same(state: T, *others: object) -> T:
    del others
    return state


def where_due(
    due: jax.Array,
    function: Callable[..., T],
    state: T,
    *others: object,
    otherwise: Callable[..., T] = _same,
) -> T:
    """Give `function(state, *others)` where it is due, else `otherwise(state, *others)`.

    Under `jax.vmap` a condition becomes a selection, which would compute the function at every
    step: here it is computed only where it is due for some replica.

    Args:
      due: bool scalar.
      function: `(state, *others) -> state`, of the same shapes. It closes over nothing that differs
        between replicas: that comes as one of `others`.
      state: a tree of arrays, which vary over the devices that results vary over.
      *others: trees of arrays.
      otherwise: likewise; the state as it is by default. Where it is not that and the function is
        due for some replicas alone, both are computed.
    """

    @jax.custom_batching.custom_vmap
    def chosen(due: jax.Array, state: T, *others: object) -> T:
        return jax.lax.cond(due, function, otherwise, state, *others)

    @chosen.def_vmap
    def _(size: int, batched: tuple, due: jax.Array, *given: Any) -> tuple[T, T]:
        due, given = jax.tree.map(
            lambda x, has_axis: x if has_axis else jnp.broadcast_to(x, (size, *jnp.shape(x))),
            (due, given), (batched[0], tuple(batched[1:])),
        )  # fmt: skip

        def selected(*given: object) -> T:
            def select(due: jax.Array, new: T, old: T) -> T:
                return jax.tree.map(lambda n, o: jnp.where(due, n, o), new, old)

            return jax.vmap(select)(due, jax.vmap(function)(*given), rest(*given))

        def rest(*given: Any) -> T:
            return given[0] if otherwise is _same else jax.vmap(otherwise)(*given)

        found = where_due(jnp.any(due), selected, *given, otherwise=rest)
        return found, jax.tree.map(lambda x: True, found)

    return chosen(due, _tree.varying_like(state, due), *others)
