"""`jt.prune_at`: masks found once, by a score, at one step of dense training."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar, overload

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _show
from jaxticket._check import (
    flag,
    from_table,
    is_one,
    one_or_several,
    or_none,
    settle,
    shown,
    texts,
    whole,
)
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import DenseStates
from jaxticket.engine.loop import Arrays, take
from jaxticket.engine.runtime import OnEvaluation, Runtime
from jaxticket.pruning.compiled import Examples, Selection, Weights, pruner
from jaxticket.pruning.keep import layout_counts, not_finite, round_counts
from jaxticket.pruning.layouts import Layout, layers_of
from jaxticket.pruning.scores import LAYOUTS, SCORES
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.pruning.structures.settings import StructureLike, in_units, labeled, unit_counts
from jaxticket.pruning_settings import name_or_function
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.at_step import AtStep, Wanted, checked_densities, found_in_blocks
from jaxticket.sparsify.cost import Cost, of_dense, of_scoring, total
from jaxticket.sparsify.plan import planned
from jaxticket.sparsify.runner import Runner
from jaxticket.sparsify.stages import Stage, Stages
from jaxticket.sparsify.strategy import run_strategies
from jaxticket.typing import InitialWeights, Mask, Network, Params, Score

T = TypeVar("T")
USUAL = 100
"""Examples that a score looks at where labels are no classes and nothing else is said."""


@dataclass(frozen=True)
class EarlyPruning(AtStep):
    """How `jt.prune_at` prunes.

    Attributes:
      score: name in `jt.SCORES` or a score function.
      rounds: rounds of scoring on the way to each density; None for those of the score's recipe.
      scope: "global", "layer", or how the density is spread: a name in `jt.LAYOUTS` or a function.
      floor: weights that every layer keeps at least; with scope "global".
      per_class, batches, batch_size: the training examples that a score looks at.
    """

    score: str | Score = "snip"
    rounds: int | None = None
    scope: str | Layout = "global"
    floor: int = 0
    per_class: int | None = 10
    batches: int = 1
    batch_size: int | None = None
    remedy = "; `floor`=1 keeps one weight of each"

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, name_or_function, "score", "scope")
        settle(self, or_none(whole), "rounds", "per_class", "batch_size", low=1)
        settle(self, whole, "floor")
        settle(self, whole, "batches", low=1)
        if self.floor and self.scope != "global":
            raise ValueError(
                f"`floor` needs scope='global', got {self.floor} with scope={self.scope!r}"
            )
        if self.per_class is not None and self.batch_size is not None:
            raise ValueError(
                f"`batch_size` {self.batch_size} is not used with per_class={self.per_class}: "
                f"pass per_class=None to draw batches of that size"
            )
        if self.per_class is None and self.batch_size is None:
            raise ValueError("`batch_size` is needed with per_class=None; 128 is usual")

    @property
    def name(self) -> str:
        """The name of the score, and the structure."""
        return labeled(name_of(self.score), self.structure)

    def check_network(self, net: Network) -> None:
        """As of `AtStep`; with a structure, also for a scope and a floor that do not fit."""
        super().check_network(net)
        if self.structure is not None:
            self.counts(net)

    def counts(self, net: Network) -> np.ndarray:
        """Weights, or units, that each level keeps after each round: int32 [level, round, ...]."""
        score = from_table("score", self.score, SCORES)
        rounds = self.rounds or recipe_of(score).rounds
        units = self.units(net)
        if units is not None and self.scope in ("global", "layer"):
            found = [
                unit_counts(units, share, rounds, scope=str(self.scope), floor=self.floor)
                for share in self.densities
            ]
            return np.stack(found)
        if self.scope in ("global", "layer"):
            counted = functools.partial(
                round_counts, net.mask(self.exclude), rounds=rounds, scope=str(self.scope),
                floor=self.floor,
            )  # fmt: skip
            return np.stack([counted(share) for share in self.densities])
        layout = from_table("scope", self.scope, LAYOUTS)
        layers = layers_of(net, self.exclude)
        if units is not None:
            layers = in_units(units, layers)
        return np.stack([layout_counts(layout, layers, share, rounds) for share in self.densities])

    def check(self, runner: Runner) -> None:
        """Raise where there are too few examples of a class: not after hours of dense training."""
        examples = checked_examples(self, runner.data)
        if examples.per_class is not None:
            runner.run.data.balanced(runner.keys[:1], 0, examples.per_class)

    def tickets(self, runner: Runner, states: DenseStates) -> Stages:
        """Score and prune."""
        initial, counts = states.states[0][0], self.counts(runner.net)
        find = functools.partial(self._scored, runner, initial, counts)
        found, _, cost = found_in_blocks(runner, self, states, find)
        yield Stage(found, costs=[cost])

    def _scored(
        self, runner: Runner, initial: Params, counts: np.ndarray, wanted: Wanted
    ) -> tuple[Mask, Arrays]:
        """Masks in one call of the compiled selection."""
        run, count, size = runner.run, len(wanted.levels), wanted.size
        score = from_table("score", self.score, SCORES)
        examples = checked_examples(self, runner.data)
        limits = (np.arange(size) < count).astype(np.int32)
        keys = wanted.own(runner.keys)
        own = run.data.score_batches(
            keys, 0, examples.batches, examples.size, per_class=examples.per_class,
            rounds=counts.shape[1] if recipe_of(score).fresh else None,
        )  # fmt: skip

        def put(tree: T) -> T:
            return parallel.put(wanted.own(tree), run.mesh)

        origin = wanted.origin
        weights = Weights(
            put(origin.params),
            put(origin.stats),
            put(origin.mask),
            jax.random.wrap_key_data(parallel.put(keys, run.mesh)),
            put(wanted.lost),
        )
        selection = Selection(
            score,
            "global" if self.scope == "global" else "layer",
            self.floor,
            self.exclude,
            examples,
            runner.training.loss,
            self.structure,
        )
        mask, fault = pruner(runner.net, run.mesh, selection)(
            limits,
            weights,
            put(initial),
            parallel.put(parallel.pad(counts[wanted.levels - 1], size), run.mesh),
            # all densities look at the same examples
            parallel.put(np.zeros(size, np.int32), run.mesh),
            own,
            run.data.arrays,
        )
        mask, fault = take(parallel.host((mask, fault)), 0, count)
        if fault.any():
            place = int(np.argmax(fault))
            share, seed = (
                self.densities[wanted.levels[place] - 1],
                runner.seeds[wanted.replicas[place]],
            )
            raise ValueError(not_finite(name_of(score), f" (density {share:g}, seed {seed})"))
        return mask, {}

    def cost(self, runs: Runs, level: int) -> Cost:
        """Dense training to the step, and the rounds of scoring."""
        del level
        score = from_table("score", self.score, SCORES)
        examples = checked_examples(self, runs.data)
        rounds = self.rounds or recipe_of(score).rounds
        scoring = of_scoring(runs.net, score, examples, rounds, seconds=self.seconds(runs))
        return total(of_dense(runs, self.step), scoring)


@overload
def prune_at(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float] | None = ...,
    score: str | Score = ...,
    step: int | str = ...,
    **options: object,
) -> Runs: ...


@overload
def prune_at(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float] | None = ...,
    score: str | Score = ...,
    step: Sequence[int | str],
    **options: object,
) -> BySteps: ...


# the overloads leave out what they do not look at
def prune_at(  # pyright: ignore[reportInconsistentOverload]
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float] | None = None,
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
    structure: StructureLike | None = None,
    seeds: Iterable[int] = range(5),
    branches: Sequence[str | Change] = (),
    init: InitialWeights | None = None,
    keep: str | None = None,
    keep_at: int | Sequence[int] = (),
    runtime: Runtime | None = None,
    mesh: Mesh | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    on_evaluation: OnEvaluation | None = None,
) -> Runs | BySteps:
    """Prune once, at one step of dense training, and then train.

    The dense networks are trained once, to the last step at which any are pruned. Their weights at
    step k are scored, and each density keeps the `round(density * P)` of the P prunable weights
    with the highest scores. These are trained from their values at step k. Seeds, densities, steps
    and controls are trained side by side.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream; with a validation split its loss is evaluated too.
      training: how networks are trained.
      density: share of prunable weights to keep, or several: level n of the runs is the n-th. With
        a structure, the share of its units; None for structures that imply it.
      score: a name in `jt.SCORES`, or a function; `jt.scores.configured` changes its options.
      step: when to prune: 0 is at initialization, "end" after training, so that magnitude pruning
        after training is `score="magnitude", step="end"`. Several steps share the dense training.
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
      structure: weights that are kept or pruned together (`jt.structures`): "2:4" or any "N:M" and
        ("fan_in", k), which imply the density; ("block", 4, 4) and "channel", of whose units a
        density keeps its share; or an object. None for single weights. Layouts count blocks.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train next to the pruned networks at every density: names in
        `jt.BRANCHES` ("shuffle", "reinit", "sign_flip") or change functions.
      init: weights that training starts from: params, or (params, statistics), of one network or
        with a leading axis [seed], such as `runs.trained(0)`; None for those that the network
        draws. See `Network.with_params`.
      keep: "trained" also keeps the networks as they are after training, every level and branch
        (`Runs.trained`); None keeps none of them.
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.
      at_once: replicas that one device holds at most; None for all seeds and branches of a density,
        on GPU and TPU of all densities and steps.

    Returns:
      Runs, whose branch "ticket" are the pruned networks. For several steps a dict with one Runs
      for each step, in ascending order; the key "end" also gives the last one.

    Raises:
      ValueError: for settings that do not fit together, a score that is not finite for finite
        weights, and a folder with other settings or code.

    Reference: Frankle's thesis, chapter 5 (Frankle et al. 2021, "Pruning neural networks at
      initialization: why are we missing the mark?").

    Example:
      `jt.prune_at(net, data, training, score="snip", density=(0.2, 0.1), branches=["shuffle"])`
      prunes at initialization; `step=(0, 100, "end")` compares steps.
    """
    plan = planned(
        net, data, training, seeds=seeds, branches=branches, init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    net, training = plan.net, plan.training
    flag("dense", dense)
    function: Score = from_table("score", score, SCORES)
    steps = checked_steps(step, training, schedule)
    excluded = texts("exclude", exclude, like='("dense_2",)')
    densities = checked_densities(density, structure, net, excluded)
    if not callable(scope) and scope not in ("global", "layer"):
        from_table("scope", scope, {"global": len, "layer": len, **LAYOUTS})
    prunings = tuple(
        EarlyPruning(
            densities, k, schedule, excluded, score=score, rounds=rounds, scope=scope,
            floor=floor, per_class=per_class, batches=batches, batch_size=batch_size,
            rescale=rescale, structure=structure,
        )
        for k in steps
    )  # fmt: skip
    if rounds not in (None, 1) and recipe_of(function).once:
        raise ValueError(
            f"`rounds` {rounds} has no effect with score={name_of(function)!r}, which ranks "
            f"weights in every round alike; leave it out"
        )
    checked_examples(prunings[0], data)
    prunings[0].check_network(net)
    settings = plan.settings(
        "prune_at",
        pruning=prunings,
        score=function,
        scope=LAYOUTS.get(scope, scope) if isinstance(scope, str) else scope,
        dense=dense,
    )
    found = run_strategies(plan, prunings, settings, dense=dense, by_step=not is_one(step))
    return (
        found[0] if is_one(step) else BySteps(dict(zip(steps, found, strict=True)), training.steps)
    )


class BySteps(dict[int | str, Runs]):
    """Runs by the step at which they were pruned, ascending; "end" is the last step of training.

    >>> BySteps({0: "at initialization", 80: "after"}, 80)["end"]
    'after'
    """

    def __init__(self, runs: Mapping[int, Runs], end: int) -> None:
        super().__init__(runs.items())
        self.end = end

    def __repr__(self) -> str:
        return f"<Runs by step: {', '.join(map(str, self))}>"

    def __missing__(self, step: object) -> Runs:
        if step == "end" and self.end in self:
            return self[self.end]
        raise KeyError(f"{step!r} is none of the steps {', '.join(map(str, self))}")


def checked_steps(
    step: int | str | Sequence[int | str], training: Training, schedule: str
) -> tuple[int, ...]:
    """The steps at which to prune, ascending."""

    def one(argument: str, k: object) -> int:
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


def checked_examples(pruning: EarlyPruning, data: Data | Stream) -> Examples:
    """The examples that the score looks at.

    Args:
      pruning: which score and examples.
      data: where they are from.
    """
    score = from_table("score", pruning.score, SCORES)
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
    if data.labels.kind == "numbers" and recipe.temperature != 1:
        raise ValueError(
            f"`score` {name_of(score)!r} divides logits by {recipe.temperature:g} before the loss, "
            f"which changes what numbers are predicted; use "
            f"jt.scores.configured({name_of(score)!r}, temperature=1.0)"
        )
    if data.labels.kind == "numbers" and recipe.loss == "negative_logit":
        raise ValueError(
            f"`score` {name_of(score)!r} takes minus the logit of the label for its loss, and "
            f"numbers, as those of {data.name!r}, have none: their outputs are predictions; use "
            f"one with loss='cross_entropy', which is the training's loss"
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
    if data.labels.kind != "classes":
        if per_class != EarlyPruning.per_class:
            raise ValueError(
                f"`per_class` {per_class} asks for examples of each class, and the labels of "
                f"{data.name!r} are {data.labels.kind}; use per_class=None with a batch_size"
            )
        return Examples(batches, min(USUAL, len(data.train)))
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
