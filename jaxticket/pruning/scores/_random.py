"""Random scores."""

from __future__ import annotations

from jaxticket.pruning.scores.spec import recipe
from jaxticket.random import uniform_like
from jaxticket.typing import Key, Params, ScoreContext


@recipe(data=False, once=True, passes=(0, 0), per_unit=True)
def random(params: Params, context: ScoreContext, *, key: Key) -> Params:
    """Uniform numbers in [0, 1), independent of the weights; a stream of their own for every leaf.

    Reference: Frankle's thesis, section 5.2 (random pruning).
    """
    del context
    return uniform_like(key, params)
