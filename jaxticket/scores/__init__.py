"""Scores: `score(params, context, *, key) -> tree like params`; a higher score is kept longer."""

from __future__ import annotations

import jax

from jaxticket.checks import from_table
from jaxticket.scores.magnitude import magnitude as magnitude
from jaxticket.scores.random import random as random
from jaxticket.types import Key, Params, Score, ScoreContext

SCORES: dict[str, Score] = {"magnitude": magnitude, "random": random}


def inverted(score: str | Score) -> Score:
    """The score with its ranking turned round: the least important weights are kept.

    Args:
      score: a name in `SCORES` or a score function.

    Reference: Frankle's thesis, section 5.4 ("inversion"); not to be confused with flipping the
      signs of weights.
    """

    function = from_table("score", score, SCORES)

    def reversed_score(params: Params, context: ScoreContext, *, key: Key) -> Params:
        return jax.tree.map(lambda s: -s, function(params, context, key=key))

    reversed_score.__name__ = f"inverted_{getattr(function, '__name__', 'score')}"
    reversed_score.__qualname__ = reversed_score.__name__
    return reversed_score
