"""Pruning at initialization, at a step of dense training, or after it; then training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, overload

from jax.sharding import Mesh

from jaxticket import _identity
from jaxticket._check import (
    distinct_seeds,
    flag,
    from_table,
    is_one,
    one_or_several,
    share,
    shown,
    texts,
    whole,
)
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.pruning.compiled import Examples
from jaxticket.pruning.layouts import Layout
from jaxticket.pruning.scores import LAYOUTS, SCORES
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.runs import Runs
from jaxticket.settings import EarlyPruning, Training
from jaxticket.sparsify.at_step import StepPlan
from jaxticket.sparsify.iterative import named_changes
from jaxticket.sparsify.scored_masks import ScoredMasks
from jaxticket.sparsify.step_run import run_at_step
from jaxticket.typing import Network, Score


@overload
def prune_at(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float],
    score: str | Score = ...,
    step: int | str = ...,
    **options: Any,
) -> Runs:
    """At one step."""
    ...


@overload
def prune_at(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float],
    score: str | Score = ...,
    step: Sequence[int | str],
    **options: Any,
) -> BySteps:
    """At several steps."""
    ...


# the overloads leave out what they do not look at
def prune_at(  # pyright: ignore[reportInconsistentOverload]
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float],
    score: str | Score = "snip",
    step: int | str | Sequence[int | str] = 0,
    rounds: int | None = None,
    scope: str | Layout = "global",
    floor: int = 0,
    schedule: str = "full",
    dense: bool = True,
    exclude: Sequence[str] = (),
    per_class: int | None = 10,
    batches: int = 1,
    batch_size: int | None = None,
    rescale: str | None = None,
    seeds: Iterable[int] = range(5),
    branches: Sequence[str | Change] = (),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Runs | BySteps:
    """Prunes once, at one step of dense training, and then trains: seeds, densities, steps and
    controls side by side.

    The dense networks are trained once, to the last step at which any are pruned. Their weights at
    step k are scored, each density keeps its `round(density * P)` best weights, and these, as they
    were at step k, are trained.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream; with a validation split its loss is evaluated too.
      training: how networks are trained.
      density: share of prunable weights to keep, or several: level n of the runs is the n-th.
      score: a name in `jt.SCORES`, or a function; `jt.scores.configured` changes its options.
      step: when to prune: 0 is at initialization, "end" after training (magnitude pruning after
        training, then, is `score="magnitude", step="end"`). Several steps share the training.
      rounds: rounds of scoring, densities fall exponentially between them; None for the score's own
        (SynFlow and iterative SNIP 100); an error for scores that rank alike in every round, such
        as magnitude.
      scope: "global" ranks all weights together, "layer" each layer by itself; a name in
        `jt.LAYOUTS` or a layout function says how many each layer keeps (random masks of a layout:
        `score="random", scope="erk"`).
      floor: weights that every layer keeps at least, against layer collapse; with scope "global".
      schedule: "full" trains with the whole schedule from its start (thesis, chapter 5),
        "remaining" with what is left of it after `step`. Networks that repeat the schedule after a
        later step do so under new SGD noise, others under that of the dense network.
      dense: also train the dense networks to the end, as level 0: what `matching` compares with.
      exclude: patterns of paths, such as "dense_2", that are never pruned and not counted in P.
      per_class: training examples of each class that a score looks at, drawn per seed; None for
        `batches` of `batch_size` drawn without looking at labels. Scores of the weights alone, such
        as magnitude, look at none, and it is an error to set how many.
      batches: parts of equal size that are looked at one after another, which bounds the memory of
        activations (images themselves are all there, as whole numbers where the data are); each
        holds every class equally often. BatchNorm sees one part at a time.
      batch_size: examples of a batch, with per_class=None.
      rescale: "global" or "layer" divides the kept weights by the density before they are trained,
        as of `Pruning`; None leaves them as they were at `step`.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train beside the pruned networks at every density: names in
        `jt.BRANCHES` ("shuffle", "reinit", "sign_flip") or change functions.
      runtime, mesh, folder, save_every, progress: as for `find_tickets`.
      at_once: replicas that one device holds at most; None for all seeds and branches of a density,
        on GPU and TPU of all densities and steps.

    Returns:
      Runs, whose branch "ticket" are the pruned networks; for several steps, one Runs for each, by
      step, ascending; "end" is a name of the last one.

    Raises:
      ValueError: for settings that do not fit together, a score that is not finite for finite
        weights, and a folder with other settings or code.

    Reference: Frankle's thesis, chapter 5 (Frankle et al. 2021, "Pruning neural networks at
      initialization: why are we missing the mark?").
    """
    seeds = distinct_seeds(seeds)
    runtime = settled(
        runtime, mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    )
    check_fit(net, data, training, runtime.devices)
    flag("dense", dense)
    function: Score = from_table("score", score, SCORES)
    steps = checked_steps(step, training, schedule)
    densities = one_or_several("density", density, share, like="(0.3, 0.1)", distinct=True)
    excluded = texts("exclude", exclude, like='("dense_2",)')
    if not callable(scope) and scope not in ("global", "layer"):
        from_table("scope", scope, {"global": len, "layer": len, **LAYOUTS})
    prunings = tuple(
        EarlyPruning(
            densities, k, schedule, excluded, score=score, rounds=rounds, scope=scope,
            floor=floor, per_class=per_class, batches=batches, batch_size=batch_size,
            rescale=rescale,
        )
        for k in steps
    )  # fmt: skip
    if rounds not in (None, 1) and recipe_of(function).once:
        raise ValueError(
            f"`rounds` {rounds} has no effect with score={name_of(function)!r}, which ranks "
            f"weights in every round alike; leave it out"
        )
    examples = checked_examples(prunings[0], data, function)
    changes = named_changes(branches)
    plan = StepPlan(net, data, training, prunings, seeds, changes, dense)
    plan.check()
    settings = _identity.run(
        "prune_at",
        net,
        data,
        training=training,
        pruning=prunings,
        score=function,
        scope=LAYOUTS.get(scope, scope) if isinstance(scope, str) else scope,
        seeds=seeds,
        branches=list(changes.items()),
        dense=dense,
    )
    finder = ScoredMasks(plan, prunings[0], function, examples)
    found = run_at_step(
        plan,
        finder,
        settings,
        runtime,
    )
    return found[steps[0]] if is_one(step) else BySteps(found, training.steps)


class BySteps(dict[int | str, Runs]):
    """Runs by the step at which they were pruned, ascending; "end" is the last step of training.

    >>> BySteps({0: "at initialization", 80: "after"}, 80)["end"]
    'after'
    """

    def __init__(self, runs: Mapping[int, Runs], end: int) -> None:
        super().__init__(runs.items())
        self.end = end

    def __missing__(self, step: object) -> Runs:
        if step == "end" and self.end in self:
            return self[self.end]
        raise KeyError(f"{step!r} is none of the steps {', '.join(map(str, self))}")


def checked_steps(
    step: int | str | Sequence[int | str], training: Training, schedule: str
) -> tuple[int, ...]:
    """The steps at which to prune, ascending."""

    def one(argument: str, k: Any) -> int:
        if isinstance(k, str) and k == "end":
            return training.steps
        try:
            return whole(argument, k, high=training.steps)
        except ValueError:
            raise ValueError(
                f'`{argument}` must be "end" or a step from 0 to {training.steps}, where training '
                f"ends, got {shown(k)}"
            ) from None

    steps = one_or_several("step", step, one, like='(0, 50, "end")', distinct=True)
    if training.steps in steps and schedule == "remaining":
        raise ValueError(
            f"`schedule`='remaining' leaves nothing to train after step {training.steps}; use "
            f"'full'"
        )
    return tuple(sorted(steps))


def checked_examples(pruning: EarlyPruning, data: Data | Stream, score: Score) -> Examples:
    """The examples that a score looks at."""
    recipe = recipe_of(score)
    if not recipe.data:
        for name in ("per_class", "batches", "batch_size"):
            if getattr(pruning, name) != getattr(EarlyPruning, name):
                raise ValueError(
                    f"`{name}` {getattr(pruning, name)} has no effect with score="
                    f"{name_of(score)!r}, which looks at no examples; leave it out"
                )
        return Examples(1, 1)
    if recipe.fresh and data.streamed:
        raise ValueError(
            f"`score` {name_of(score)!r} draws new batches in every round, which a stream does not "
            f"give; use jt.scores.configured({name_of(score)!r}, fresh=False)"
        )
    per_class, batches = pruning.per_class, pruning.batches
    if per_class is None:
        size = pruning.batch_size or 0
        if size > len(data.train):
            raise ValueError(
                f"`batch_size` {size} is larger than the training split of {data.name!r}, "
                f"{len(data.train)} examples; use a smaller one"
            )
        return Examples(batches, size)
    if per_class % batches:
        raise ValueError(
            f"`batches` {batches} must divide per_class={per_class}, so that each part holds every "
            f"class equally often"
        )
    if (counts := data.class_counts()) is not None:
        if counts.min() < per_class:
            raise ValueError(
                f"`per_class` asks for {per_class} examples of each class, but class "
                f"{counts.argmin()} of {data.name!r} has {counts.min()}; use fewer, or "
                f"per_class=None with a batch_size"
            )
    return Examples(batches, per_class // batches * data.classes, per_class)
