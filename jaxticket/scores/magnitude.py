"""Magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.types import Key, Params, ScoreContext


def magnitude(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """`|w|` of the weights as they are.

    Reference: Han et al. 2015; Frankle's thesis, Algorithm 1.
    """
    del context, key
    return jax.tree.map(jnp.abs, params)
