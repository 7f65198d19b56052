"""SynFlow: synaptic flow without data."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket._tree import paths
from jaxticket.nn.layers import is_junction
from jaxticket.pruning.scores.gradients import prunable_part
from jaxticket.pruning.scores.spec import recipe
from jaxticket.typing import Array, Key, Params, ScoreContext

ADDITIVE = ("bias", "b", "beta")
"""Last words of the paths of what a layer adds; a number behind the word does not count."""


@recipe(batch_norm="initial", rounds=100, data=False, passes=(1, 1), flow=True)
def synflow(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """SynFlow, `|w| * dR/d|w|`.

    R is the sum of the logits of the network of absolute weights on an input of ones.

    What is added is 0 and what multiplies is positive, so that R is a sum over paths: prunable
    leaves and scales as |w|; other leaves whose path ends in "bias", "b" or "beta" (also "b1",
    "bias_2") as 0. Summed over a layer of a chain, or over a cut of any network, the scores give R.
    Of the batches only the shape of an example is read. 0 for leaves that are not pruned.

    Numerics: R grows as the product of all layers and leaves float32 in deep networks. Where the
    context has taps, activations are divided by their mean at each junction (a name without "/").
    The mean counts as a constant and all paths pass there, so all scores of the network change by
    one common factor and their ranking not at all. Without taps R is computed as it is, and who
    asks for the scores reports those that are not finite.

    Normalization by the input itself (group and layer normalization, statistics of the batch),
    saturating activations and attention give no sum over paths: such a network has no synaptic flow
    in this sense, its scores may empty whole layers, and pruning with them warns.

    Reference: Tanaka et al. 2020, Algorithm 1; Frankle's thesis, section 5.5. That biases and
      shifts are 0 is our resolution: the authors' code takes their absolute values.
    """
    del key
    # the shape of an example, and the type that networks compute in
    x = context.batches[0]
    if jnp.issubdtype(x.dtype, jnp.integer) and x.dtype != jnp.uint8:
        raise ValueError(
            "`score` 'synflow' sends an input of ones through the network, and tokens are no such "
            "input; take another score"
        )
    kind = x.dtype if jnp.issubdtype(x.dtype, jnp.floating) else jnp.float32
    ones = jnp.ones((1, *x.shape[2:]), kind)

    def total(weights: Params) -> Array:
        if context.tapped is None:
            return jnp.sum(context.logits(weights, ones))
        return jnp.sum(context.tapped(weights, ones, _rescaled))

    weights = _positive(params, context)
    scores = jax.tree.map(jnp.multiply, weights, jax.grad(total)(weights))
    return prunable_part(scores, params, context)


def _positive(params: Params, context: ScoreContext) -> Params:
    """|w|, and 0 for what is added."""
    leaves, tree = jax.tree.flatten(params)
    chosen = jax.tree.leaves(context.prunable_leaves(params))
    return jax.tree.unflatten(
        tree,
        [
            jnp.abs(w) if p or not _is_added(path) else jnp.zeros_like(w)
            for path, w, p in zip(paths(params), leaves, chosen, strict=True)
        ],
    )


def _is_added(path: str) -> bool:
    return path.rsplit("/", 1)[-1].rstrip("_0123456789") in ADDITIVE


def _rescaled(name: str, x: Array) -> Array:
    if not is_junction(name):
        # other paths run in parallel: here a factor would change their balance
        return x
    mean = jax.lax.stop_gradient(jnp.mean(x))
    # 0 where a layer is pruned empty
    return x / jnp.where(mean > 0, mean, jnp.ones_like(mean))
