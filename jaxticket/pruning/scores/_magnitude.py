"""Magnitude."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.pruning.scores.spec import recipe
from jaxticket.typing import Key, Params, ScoreContext


@recipe(data=False, once=True, passes=(0, 0))
def magnitude(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """`|w|` of the weights as they are.

    Reference: Han et al. 2015; Frankle's thesis, Algorithm 1.
    """
    del context, key
    return jax.tree.map(jnp.abs, params)


@recipe(data=False, once=True, passes=(0, 0))
def standardized_magnitude(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """`|w| / std(w_0)`, each layer by the standard deviation of its weights at initialization.

    It takes away what magnitude owes to the scale that the initializer gives a layer: at
    initialization all layers then keep about the same density. A layer of constant weights is left
    as it is.

    Reference: Frankle's thesis, section 5.7 and Fig. 5-5 (weights of variance 1).
    """
    del key

    def one(w: jax.Array, w0: jax.Array) -> jax.Array:
        spread = jnp.std(w0)
        return jnp.abs(w) / jnp.where(spread > 0, spread, jnp.ones_like(spread))

    return jax.tree.map(one, params, context.params_at_init)
