"""Random scores."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket._tree import paths
from jaxticket.pruning.scores.spec import recipe
from jaxticket.random import stream
from jaxticket.typing import Key, Params, ScoreContext


@recipe(data=False, once=True, passes=(0, 0), per_unit=True)
def random(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """Uniform numbers in [0, 1), independent of the weights; a stream of their own for every leaf.

    Reference: Frankle's thesis, section 5.2 (random pruning).
    """
    del context
    leaves, tree = jax.tree.flatten(params)
    draws = [
        # drawn flat: the same numbers, and CPUs compile it many times faster
        jax.random.uniform(stream(key, path), (jnp.size(x),), jnp.float32).reshape(jnp.shape(x))
        for path, x in zip(paths(params), leaves, strict=True)
    ]
    return jax.tree.unflatten(tree, draws)
