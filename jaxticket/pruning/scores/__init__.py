"""Scores: `score(params, context, *, key) -> tree like params`; a higher score is kept longer."""

from __future__ import annotations

from typing import Any

from jaxticket._check import from_table
from jaxticket.pruning.layouts import LAYOUTS as LAYOUTS
from jaxticket.pruning.scores._grasp import grasp as grasp
from jaxticket.pruning.scores._grasp import grasp_absolute as grasp_absolute
from jaxticket.pruning.scores._grasp import grasp_inverted as grasp_inverted
from jaxticket.pruning.scores._magnitude import magnitude as magnitude
from jaxticket.pruning.scores._magnitude import standardized_magnitude as standardized_magnitude
from jaxticket.pruning.scores._prospr import prospr as prospr
from jaxticket.pruning.scores._random import random as random
from jaxticket.pruning.scores._snip import force as force
from jaxticket.pruning.scores._snip import iterative_snip as iterative_snip
from jaxticket.pruning.scores._snip import snip as snip
from jaxticket.pruning.scores._synflow import synflow as synflow
from jaxticket.pruning.scores.spec import Recipe as Recipe
from jaxticket.pruning.scores.spec import recipe as recipe
from jaxticket.pruning.scores.spec import recipe_of as recipe_of
from jaxticket.pruning.scores.spec import turned_round, with_options
from jaxticket.typing import Score

SCORES: dict[str, Score] = {
    "magnitude": magnitude,
    "standardized_magnitude": standardized_magnitude,
    "random": random,
    "snip": snip,
    "iterative_snip": iterative_snip,
    "force": force,
    "grasp": grasp,
    "grasp_inverted": grasp_inverted,
    "grasp_absolute": grasp_absolute,
    "synflow": synflow,
    "prospr": prospr,
}
"""Scores of weights by name; those with the highest are kept."""


def inverted(score: str | Score) -> Score:
    """The score with its ranking reversed: the least important weights are kept.

    Args:
      score: a name in `SCORES` or a score function.

    Reference: Frankle's thesis, section 5.7.3 ("inversion"); not to be confused with flipping the
      signs of weights.
    """
    return turned_round(from_table("score", score, SCORES))


def configured(score: str | Score, **options: Any) -> Score:
    """The score with other options: arguments of its own, or fields of its `Recipe`.

    Args:
      score: a name in `SCORES` or a score function.
      **options: such as `batch_norm="train"`, `rounds=5`, `temperature=1.0`.

    Raises:
      ValueError: for an option that the score does not have.

    >>> recipe_of(configured("snip", rounds=3)).rounds
    3
    """
    return with_options(from_table("score", score, SCORES), options)


__all__ = [
    "LAYOUTS",
    "SCORES",
    "Recipe",
    "configured",
    "force",
    "grasp",
    "grasp_absolute",
    "grasp_inverted",
    "inverted",
    "iterative_snip",
    "magnitude",
    "prospr",
    "random",
    "recipe",
    "recipe_of",
    "snip",
    "standardized_magnitude",
    "synflow",
]


def __dir__() -> list[str]:
    return __all__
