"""Recipes: what a score wants its context to be, and how often it is asked.

A score is a plain function; one that needs more than the usual context says so with `@recipe(...)`.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any, Protocol, cast

import jax

from jaxticket._check import flag, number, one_of, settle, whole
from jaxticket.typing import Key, Params, Score, ScoreContext

BATCH_NORM = ("eval", "train", "initial")
LOSSES = ("cross_entropy", "negative_logit")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a score is asked.

    Attributes:
      batch_norm: statistics that normalise: "eval" the running ones, "train" those of each batch
        (gradients flow through them), "initial" the running ones as they were before training.
      rounds: how often weights are scored and pruned on the way to the wanted density.
      regrow: pruned weights compete again in every round (FORCE); the score gets all weights, and
        `context.mask` says which of them are in use.
      fresh: every round looks at batches of its own.
      temperature: logits are divided by it before the loss.
      loss: "cross_entropy", which stands for the loss of the training whatever that is, or
        "negative_logit", the mean of minus the label's logit (`labels.own_logits`), which numbers
        do not have.
      passes: forward and backward passes over each example and round, (0, 0) for scores that
        differentiate nothing, or a function of the number of batches and the score's own options
        that gives them; None if unknown.
      data: whether the score looks at examples.
      once: whether every round ranks alike what is left, so that more than one means nothing.
      flow: whether it sums paths through the network of absolute weights, which a network that
        normalizes by its own input does not have; there a warning says so.
      per_unit: whether units of a structure get a score each, drawn for them, in the place of the
        mean of those of their weights: means of random numbers vary less in larger units, which
        would be ranked by their size.
    """

    batch_norm: str = "eval"
    rounds: int = 1
    regrow: bool = False
    fresh: bool = False
    temperature: float = 1.0
    loss: str = "cross_entropy"
    passes: tuple[float, float] | Callable[..., tuple[float, float]] | None = None
    data: bool = True
    once: bool = False
    flow: bool = False
    per_unit: bool = dataclasses.field(default=False, metadata={"newer": True})

    def __post_init__(self) -> None:
        settle(self, one_of, "batch_norm", choices=BATCH_NORM)
        settle(self, whole, "rounds", low=1)
        settle(self, flag, "regrow", "fresh", "data", "once", "flow", "per_unit")
        settle(self, number, "temperature", low=1e-12)
        settle(self, one_of, "loss", choices=LOSSES)


class _Marked(Protocol):
    """What a score function carries.

    Attributes:
      recipe: how it is computed.
      options: what its arguments are set to.
    """

    recipe: Recipe
    options: dict[str, object]


FIELDS = tuple(field.name for field in dataclasses.fields(Recipe))


def recipe(**fields: Any) -> Callable[[Score], Score]:
    """Marks a score function with a `Recipe`."""

    def mark(score: Score) -> Score:
        cast(_Marked, score).recipe = Recipe(**fields)
        return score

    return mark


def recipe_of(score: Score) -> Recipe:
    """The recipe of a score function; the usual one where it has none."""
    found = getattr(score, "recipe", None)
    return found if isinstance(found, Recipe) else Recipe()


def passes_of(score: Score, batches: int) -> tuple[float, float]:
    """Forward and backward passes over each example and round; nan where nobody knows."""
    found = recipe_of(score).passes
    if callable(found):
        return found(batches=batches, **getattr(score, "options", {}))
    return (math.nan, math.nan) if found is None else found


def name_of(score: str | Callable[..., object]) -> str:
    """The name of a score, which may be its name already."""
    return score if isinstance(score, str) else str(getattr(score, "__name__", "score"))


@functools.lru_cache(maxsize=256)
def _made(score: Score, options: tuple[tuple[str, Any], ...]) -> Score:
    given = dict(options)
    changes = {k: v for k, v in given.items() if k in FIELDS}
    arguments = {k: v for k, v in given.items() if k not in FIELDS}

    def configured_score(params: Params, context: ScoreContext, *, key: Key) -> Params:
        return score(params, context, key=key, **arguments)

    words = ", ".join(f"{k}={v!r}" for k, v in options)
    made = _named(configured_score, score, f"{name_of(score)}({words})", changes)
    marked = cast(_Marked, made)
    marked.options = {**marked.options, **arguments}
    return made


@functools.lru_cache(maxsize=256)
def _turned(score: Score) -> Score:
    def reversed_score(params: Params, context: ScoreContext, *, key: Key) -> Params:
        return jax.tree.map(lambda s: -s, score(params, context, key=key))

    return _named(reversed_score, score, f"inverted_{name_of(score)}", {})


def _named(made: Any, score: Score, name: str, changes: dict[str, Any]) -> Score:
    # the name is what run folders know a score by, so it holds all options
    made.__name__ = made.__qualname__ = name
    made.__module__ = score.__module__
    made.recipe = dataclasses.replace(recipe_of(score), **changes)
    made.options = dict(getattr(score, "options", {}))
    return made


def with_options(score: Score, options: dict[str, Any]) -> Score:
    """A score with other options; equal calls give the same function, and so compile once.

    Raises:
      ValueError: for an option that is neither an argument of the score nor a field of `Recipe`,
        and for one without an effect on this score.
    """
    recipe = recipe_of(score)
    parameters = inspect.signature(score).parameters.values()
    own = {p.name for p in parameters if p.kind is p.KEYWORD_ONLY} - {"key"}
    for option in options:
        if option not in own | set(FIELDS):
            raise ValueError(
                f"`{option}` is no option of score {name_of(score)!r}; it has "
                f"{', '.join(sorted(own | set(FIELDS)))}"
            )
        unused = {
            "rounds": recipe.once,
            "batch_norm": recipe.once,
            "fresh": not recipe.data,
            "temperature": not recipe.data,
            "loss": not recipe.data,
        }
        if unused.get(option) and options[option] != getattr(recipe, option):
            why = "ranks weights by themselves" if recipe.once else "looks at no examples"
            raise ValueError(
                f"`{option}` {options[option]!r} has no effect on score {name_of(score)!r}, "
                f"which {why}; leave it out"
            )
    return _made(score, tuple(sorted(options.items()))) if options else score


def turned_round(score: Score) -> Score:
    """A score times -1; equal calls give the same function."""
    return _turned(score)
