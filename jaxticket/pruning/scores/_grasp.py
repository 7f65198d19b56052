"""Gradient signal preservation: GraSP and the thesis's two variants of it."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.pruning.scores.gradients import in_use, mean_gradient, over_batches, prunable_part
from jaxticket.pruning.scores.spec import recipe
from jaxticket.typing import Key, Params, ScoreContext


def _passes(*, batches: int) -> tuple[float, float]:
    return (2, 2) if batches == 1 else (3, 3)


def _flow(params: Params, context: ScoreContext) -> Params:
    """Compute `w * (Hg)` over the kept weights of the prunable leaves.

    g is zero elsewhere before H multiplies it.
    """
    gradient = jax.grad(context.loss)

    def own(g: Params) -> Params:
        return in_use(prunable_part(g, params, context), context)

    if context.batches[1].shape[0] == 1:
        # what the gradient computed serves the product too
        batch = jax.tree.map(lambda b: b[0], context.batches)
        g, times_hessian = jax.linearize(lambda w: gradient(w, batch), params)
        hg = times_hessian(own(g))
        return prunable_part(jax.tree.map(jnp.multiply, params, hg), params, context)
    g = own(mean_gradient(params, context))

    # forward over reverse: no graph of the gradient is kept, so memory is that of one gradient
    def product(batch: tuple[jax.Array, jax.Array]) -> Params:
        return jax.jvp(lambda w: gradient(w, batch), (params,), (g,))[1]

    hg = over_batches(product, context, params)
    return prunable_part(jax.tree.map(jnp.multiply, params, hg), params, context)


@recipe(batch_norm="train", temperature=200.0, passes=_passes)
def grasp(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """GraSP, `w * (Hg)`.

    The weights are pruned whose removal raises the norm of the gradient most, or lowers it least.

    g is the gradient and H the Hessian of the mean loss over all batches, both over the weights in
    use of the prunable leaves only. Without weight j the squared norm of g is, to first order,
    smaller by twice this score. The authors' S is its negative, and they remove the highest S. 0
    for leaves that are not pruned.

    One batch costs two forward and two backward passes, several cost three of each.

    Logits are divided by 200 before the loss, which changes the ranking (multiplying the loss does
    not). Statistics of the batch normalise: with the initial running ones the score degenerates.

    Reference: Wang et al. 2020; Frankle's thesis, section 5.4.
    """
    del key
    return _flow(params, context)


@recipe(batch_norm="train", temperature=200.0, passes=_passes)
def grasp_inverted(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """GraSP with its ranking reversed, `-w * (Hg)`.

    The weights with the lowest S are pruned, those whose removal lowers the norm of the gradient
    most. About as good as GraSP, says the thesis.

    Reference: Frankle's thesis, section 5.7.3.
    """
    del key
    return jax.tree.map(jnp.negative, _flow(params, context))


@recipe(batch_norm="train", temperature=200.0, passes=_passes)
def grasp_absolute(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """`|w * (Hg)|`: the weights that change the gradient's norm least are pruned.

    Reference: Frankle's thesis, section 5.8.2 (the improved GraSP).
    """
    del key
    return jax.tree.map(jnp.abs, _flow(params, context))
