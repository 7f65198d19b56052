"""Conditions whose sides are computed only where they hold, also under `jax.vmap`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxticket import _tree

T = TypeVar("T")


def where_due(due: jax.Array, function: Callable[[T], T], state: T) -> T:
    """Give `function(state)` where it is due, else the state as it is.

    It is a loop of one or no step. Under `jax.vmap`, `jax.lax.cond` becomes a selection, which
    computes the function always, where a loop runs only while it is due for some replica; and a
    loop of no step leaves the state where it is in memory, where a condition copies it.

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
