"""What finding a mask costs: steps of training, passes over examples, operations, seconds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np

from jaxticket._check import from_table, instance
from jaxticket.nn import flops
from jaxticket.pruning.compiled import Examples, context_maker
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import passes_of, recipe_of
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.typing import Array, Key, Network, Params, Score, Stats


class Cost(NamedTuple):
    """What it costs to find the mask of one seed.

    Attributes:
      training_steps: steps of training before the mask is known.
      examples: those that were trained on, and those that were scored.
      forward_passes, backward_passes: over single examples.
      flops: 2 per multiply-add, of the dense network.
      seconds: of all seeds side by side, divided by their number.
    """

    training_steps: float = 0.0
    examples: float = 0.0
    forward_passes: float = 0.0
    backward_passes: float = 0.0
    flops: float = 0.0
    seconds: float = 0.0


def total(*parts: Cost) -> Cost:
    """The sum of costs.

    >>> total(Cost(3, 30), Cost(2, 20, flops=1.0))[:2]
    (5, 50)
    """
    return Cost(*map(sum, zip(*parts, strict=True)))


def of_training(
    runs: Runs, steps: float, *, training: Training | None = None, seconds: float = 0.0
) -> Cost:
    """What so many steps of one replica cost.

    A backward pass is two forward ones, or one where it is by the input alone, as in attacks. A
    teacher (`Training.teacher`) takes a forward pass of its network.

    Args:
      runs: network and training.
      steps: of training.
      training: other settings of training; those of `runs` if None.
      seconds: that they took.
    """
    training = runs.training if training is None else training
    examples = steps * training.batch_size
    attack = (0, 0) if training.attack is None else passes_of_attack(training.attack)
    operations = (3 + attack[0] + attack[1]) * examples * flops.forward(runs.net)
    taught = 0
    if training.teacher is not None:
        operations, taught = operations + examples * flops.forward(training.teacher.net), 1
    forward, backward = examples * (1 + attack[0] + taught), examples * (1 + attack[1])
    return Cost(steps, examples, forward, backward, operations, seconds)


def whole_or_mean(steps: float) -> float:
    """A mean over seeds, a whole number where it is one."""
    return int(steps) if steps == int(steps) else steps


def steps_of_level(runs: Runs, level: int) -> float:
    """Steps in which the tickets of a level were trained, the mean over seeds.

    Early stops (`Training.stop_when`) make it fewer than the schedule has.
    """
    logs = (log for log in runs.histories if (log.level, log.branch) == (level, "ticket"))
    steps = next(logs).steps
    return whole_or_mean(float(np.mean(steps.max(axis=0) - steps[0])))


def of_dense(runs: Runs, step: int) -> Cost:
    """What dense training to a step cost: its share of the seconds of the whole.

    Where networks stopped before the step, their mean is counted.
    """
    rows = [row for row in runs.costs if row["unit"] == "dense"]
    steps, seconds = float(step), 0.0
    if rows and step:
        dense = rows[0]
        # steps to rewind to or to prune at are trained to; only the last may be cut short
        steps = whole_or_mean(min(step, dense["training_steps"]))
        seconds = dense["train_seconds"] / len(runs.seeds) * steps / dense["training_steps"]
    return of_training(runs, steps, seconds=seconds)


def of_scoring(
    net: Network, score: Score, examples: Examples, rounds: int = 1, *, seconds: float = 0.0
) -> Cost:
    """What it cost to score in some rounds.

    Args:
      net: the network.
      score: the score function; its recipe says how often it passes over examples.
      examples: what it looks at in each round.
      rounds: their number.
      seconds: that they took.
    """
    seen = examples.batches * examples.size * rounds if recipe_of(score).data else 0
    # a score that looks at no data passes once over an example that it makes
    each = seen if recipe_of(score).data else rounds
    forward, backward = passes_of(score, examples.batches)
    operations = rounds * _score_flops(net, score, examples)
    return Cost(0, seen, each * forward, each * backward, operations, seconds)


def score_flops(net: Network, score: str | Score, examples: Examples) -> float:
    """Operations of scoring once, all its examples together; 2 per multiply-add.

    Args:
      net: the network.
      score: a name in `jt.SCORES` or a function.
      examples: what it looks at.
    """
    instance("net", net, Network, "a network, such as jt.networks.lenet()")
    instance("examples", examples, Examples, "jaxticket.pruning.compiled.Examples")
    return _score_flops(net, from_table("score", score, SCORES), examples)


@functools.lru_cache(maxsize=64)
def _score_flops(net: Network, score: Score, examples: Examples) -> float:
    recipe = recipe_of(score)
    params, stats = net.shapes
    batches, size = (examples.batches, examples.size) if recipe.data else (1, 1)
    x = net.example(batches, size)
    y = jax.ShapeDtypeStruct((batches, size), np.int32)
    key = jax.eval_shape(lambda: jax.random.key(0))

    def scored(params: Params, stats: Stats, x: Array, y: Array, key: Key) -> Params:
        look = context_maker(net, stats, recipe, key=key)
        context = look(params, net.mask(), (x, y))
        return score(params, context, key=key)

    return flops.count(scored, params, stats, x, y, key)


def passes_of_attack(attack: Callable[..., object]) -> tuple[float, float]:
    """Forward and backward passes of an attack over each image; nan where nobody knows."""
    forward, backward = getattr(attack, "passes", (np.nan, np.nan))
    return forward, backward


def seconds_of(runs: Runs, unit: str, column: str) -> float:
    """Seconds of some work in the rows of `Runs.costs`.

    Args:
      runs: what was run.
      unit: the rows of this unit; one that ends with "*" stands for all that begin so.
      column: which seconds.
    """
    begins = unit.removesuffix("*")
    rows = [
        row
        for row in runs.costs
        if (str(row["unit"]).startswith(begins) if begins != unit else row["unit"] == unit)
    ]
    return float(sum(row.get(column, 0.0) or 0.0 for row in rows))
