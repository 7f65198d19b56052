"""ProsPr: meta-gradients through the first steps of training."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket._check import flag, number, share, whole
from jaxticket.pruning.scores.gradients import in_use, prunable_part
from jaxticket.pruning.scores.spec import recipe
from jaxticket.typing import Array, Key, Params, ScoreContext


def _passes(
    *, batches: int, steps: int = 3, first_order: bool = False, **_: object
) -> tuple[float, float]:
    del batches
    return steps + 1, steps + 1 if first_order else 2 * steps + 1


@recipe(batch_norm="train", passes=_passes)
def prospr(
    params: Params,
    context: ScoreContext,
    *,
    key: Key,
    steps: int = 3,
    lr: float = 0.1,
    momentum: float = 0.0,
    new_data: bool = False,
    first_order: bool = False,
) -> Params:
    """ProsPr, `|dL(w_M)/dc|`.

    How the loss after M steps of SGD depends on variables c = 1 that multiply the weights before
    the first step.

    `w_0 = c * w`, `v_i = momentum * v_{i-1} + dL/dw(w_i)`, `w_{i+1} = w_i - lr * v_i`; by the chain
    rule the score is `|w * dL(w_M)/dw_0|`. The steps move all weights, also those that are not
    pruned; weights that the context's mask has pruned stay 0 and score 0. With no steps, or
    lr = 0, this is SNIP.

    All losses are means over all batches, which are pieces of one large batch, unless `new_data`
    makes every step take a batch of its own.

    Args:
      params: the weights, masked.
      context: the loss; BatchNorm with the statistics of the batch, through which gradients flow.
      key: not used.
      steps: M; each is computed again on the way back instead of being kept, so that memory grows
        by one copy of the weights a step.
      lr: learning rate of the steps.
      momentum: of the steps, in [0, 1). Gradients flow through the momentum of all steps; the
        authors' code leaves out the first.
      new_data: step i takes batch i, from the front again where there are fewer, and the outer loss
        is that of the last batch.
      first_order: without the Hessian products, `|w * dL/dw(w_M)|`.

    Raises:
      ValueError: for steps, a learning rate or a momentum out of range.

    Reference: Alizadeh et al. 2022; the defaults are those of their command line.
    """
    del key
    steps, lr = whole("steps", steps), number("lr", lr, 0)
    momentum = share("momentum", momentum, zero=True, one=False)
    flag("new_data", new_data)
    flag("first_order", first_order)
    count = context.batches[1].shape[0]
    # computed again on the way back: the memory is that of one batch
    piece = jax.checkpoint(context.loss)

    def loss(weights: Params, i: Array | int) -> Array:
        x, y = (jnp.asarray(b) for b in context.batches)
        if new_data or count == 1:
            return context.loss(weights, (x[i % count], y[i % count]))
        return jnp.mean(jax.lax.map(lambda batch: piece(weights, batch), (x, y)))

    def step(carry: tuple[Params, Params], i: Array) -> tuple[tuple[Params, Params], None]:
        weights, velocity = carry
        g = jax.grad(loss)(weights, i)
        g = in_use(jax.lax.stop_gradient(g) if first_order else g, context)
        velocity = jax.tree.map(lambda v, g: jnp.asarray(momentum, v.dtype) * v + g, velocity, g)
        weights = jax.tree.map(lambda w, v: w - jnp.asarray(lr, w.dtype) * v, weights, velocity)
        return (weights, velocity), None

    def outer(start: Params) -> Array:
        weights = start
        if steps:
            at_rest = jax.tree.map(jnp.zeros_like, start)
            numbers = jnp.arange(steps, dtype=jnp.int32)
            (weights, _), _ = jax.lax.scan(jax.checkpoint(step), (start, at_rest), numbers)
        return loss(weights, count - 1)

    meta = jax.grad(outer)(params)
    scores = jax.tree.map(lambda w, g: jnp.abs(w * g), params, meta)
    return prunable_part(scores, params, context)
