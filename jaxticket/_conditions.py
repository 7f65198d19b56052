"""Conditions whose sides are computed only where they hold, also under `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxticket import _tree

T = TypeVar("T")


@jax.custom_batching.custom_vmap
def of_any(due: jax.Array) -> jax.Array:
    """Whether something is due for any of the replicas that run vmapped together, bool scalar.

    `jax.vmap` turns `jax.lax.cond` into a selection if each replica has a predicate of its own:
    both sides are computed always, with a copy of all that they read for each replica. All replicas
    share this one, so that it stays a condition. Without `jax.vmap` it is `due` itself.
    """
    return due


@of_any.def_vmap
def _of_any_vmapped(size: int, batched: list[bool], due: jax.Array) -> tuple[jax.Array, bool]:
    del size, batched
    return of_any(jnp.any(due, axis=0)), False


def where_any(due: jax.Array, function: Callable[[], T], otherwise: T) -> T:
    """Give `function()` where it is due, else `otherwise`.

    It is a condition, which is computed if it is due for any of the replicas that run vmapped
    together; what it reads is not copied for each of them.

    Args:
      due: bool scalar.
      function: of no arguments.
      otherwise: what it gives elsewhere, a tree of arrays of the same types and shapes.
    """
    found = jax.lax.cond(of_any(due), function, lambda: otherwise)
    return jax.tree.map(lambda new, old: jnp.where(due, new, old), found, otherwise)


def where_due(due: jax.Array, function: Callable[[T], T], state: T) -> T:
    """Give `function(state)` where it is due, else the state as it is.

    As `where_any` as a loop of one or no step: within loops it is faster, since a loop of no step
    leaves the state where it is in memory, where a condition copies it.

    Args:
      due: bool scalar.
      function: `state -> state`, of the same types and shapes; not to be differentiated.
      state: a tree of arrays, which vary over the devices that the result varies over.
    """

    def once(carry: tuple[jax.Array, T]) -> tuple[jax.Array, T]:
        due, state = carry
        return jnp.zeros_like(due), function(state)

    begin = due, _tree.varying_like(state, due)
    return jax.lax.while_loop(lambda carry: carry[0], once, begin)[1]
