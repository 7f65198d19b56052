"""Connection sensitivity: SNIP, iterative SNIP and FORCE."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.pruning.scores.gradients import in_use, mean_gradient, prunable_part
from jaxticket.pruning.scores.spec import recipe
from jaxticket.typing import Key, Params, ScoreContext


def _sensitivity(weights: Params, gradient: Params, context: ScoreContext) -> Params:
    products = jax.tree.map(lambda w, g: jnp.abs(g * w), weights, gradient)
    return prunable_part(products, weights, context)


@recipe(batch_norm="eval", passes=(1, 1))
def snip(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """`|g * w|`, the change of the loss to first order when a weight is removed.

    g is the gradient of the mean loss over all batches; the absolute value comes after that mean.
    It equals `|dL/dc|` for variables c = 1 that multiply the weights. 0 for leaves that are not
    pruned.

    Reference: Lee et al. 2019 (they divide by the sum, which changes no ranking; their code
      normalises with the initial statistics); Frankle's thesis, section 5.3.
    """
    del key
    return _sensitivity(params, mean_gradient(params, context), context)


@recipe(batch_norm="train", rounds=100, passes=(1, 1))
def iterative_snip(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """Iterative SNIP: `|g * w|` in 100 rounds.

    Each round takes the gradient at the weights that the last one kept; pruned weights stay pruned.

    Reference: de Jorge et al. 2021 (60 rounds in their README; their code normalises with the
      statistics of the batch); Frankle's thesis, section 5.8.1, for 100 rounds.
    """
    del key
    return _sensitivity(params, mean_gradient(params, context), context)


@recipe(batch_norm="train", rounds=60, regrow=True, fresh=True, passes=(1, 1))
def force(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """FORCE: `|g * w|` with g at the masked weights m * w, and w the dense weights.

    Pruned weights compete again in every round, on new batches.

    Args:
      params: the dense weights; the context's mask says which are in use.
      context: the loss is the cross entropy; the authors' code means minus the label's logit
        instead, which is `configured("force", loss="negative_logit")`.
      key: not used.

    Reference: de Jorge et al. 2021 (FORCE); 60 rounds as in their README.
    """
    del key
    return _sensitivity(params, mean_gradient(in_use(params, context), context), context)
