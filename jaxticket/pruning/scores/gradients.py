"""What the scores that differentiate share: means over batches, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from jaxticket import masks
from jaxticket.typing import Array, Params, ScoreContext

Batch = tuple[Array, Array]


def over_batches(
    function: Callable[[Batch], Params], context: ScoreContext, like: Params
) -> Params:
    """Give the mean of `function(batch)` over the context's batches.

    The batches are equally large, so that for a mean loss this is what one batch of all examples
    would give, as long as nothing in the network mixes examples (batch statistics do).

    Args:
      function: batch -> tree like the params.
      context: whose batches.
      like: tree with the types of the result.
    """
    count = context.batches[1].shape[0]
    if count == 1:
        return function(jax.tree.map(lambda b: b[0], context.batches))

    def add(total: Params, batch: Batch) -> tuple[Params, None]:
        return jax.tree.map(jnp.add, total, function(batch)), None

    # zeros like arrays vary over the same mesh axes, which shard_map asks of a carry
    total, _ = jax.lax.scan(add, jax.tree.map(jnp.zeros_like, like), context.batches)
    return jax.tree.map(lambda t: t / jnp.asarray(count, t.dtype), total)


def mean_gradient(params: Params, context: ScoreContext) -> Params:
    """Compute the gradient of the mean loss over all batches at the weights as they are.

    At pruned weights it is that of the effective weight, in general not zero.
    """
    gradient = jax.grad(context.loss)
    return over_batches(lambda batch: gradient(params, batch), context, params)


def prunable_part(tree: Params, params: Params, context: ScoreContext) -> Params:
    """Replace the leaves that are not pruned by zeros."""
    return jax.tree.map(
        lambda p, x: x if p else jnp.zeros_like(x), context.prunable_leaves(params), tree
    )


def in_use(tree: Params, context: ScoreContext) -> Params:
    """The tree with zeros where the context's mask is False (also where the tree holds nan)."""
    return masks.apply(context.mask, tree)
