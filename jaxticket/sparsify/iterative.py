"""Iterative magnitude pruning: train, prune, rewind, repeat."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jax.sharding import Mesh

from jaxticket import _show, _tree, masks, rescaling
from jaxticket._check import (
    flag,
    from_table,
    instance,
    one_of,
    or_none,
    settle,
    several,
    share,
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
from jaxticket.engine.supervised import network_of
from jaxticket.pruning.compiled import Examples, Selection, Weights, pruner
from jaxticket.pruning.keep import densities, layer_counts, not_finite
from jaxticket.pruning.scores import SCORES
from jaxticket.pruning.scores.spec import name_of, recipe_of
from jaxticket.pruning.structures.settings import (
    StructureLike,
    Units,
    check_scope,
    checked,
    labeled,
    units_in,
)
from jaxticket.pruning_settings import name_or_function
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.cost import (
    Cost,
    of_scoring,
    of_training,
    seconds_of,
    steps_of_level,
    total,
    whole_or_mean,
)
from jaxticket.sparsify.plan import planned
from jaxticket.sparsify.runner import Runner
from jaxticket.sparsify.strategy import (
    Found,
    Stage,
    Stages,
    Strategy,
    Tickets,
    dense_ticket,
    packed,
    run_strategies,
    trained_weights,
    unpacked,
    weights_of,
)
from jaxticket.typing import InitialWeights, Mask, Network, Params, Score

MOST_LEVELS = 1000
"""Of `Pruning`; with the usual fraction every network has lost its last weight long before."""


@dataclass(frozen=True)
class Pruning(Strategy):
    """How tickets are found: train, prune, rewind, repeat.

    Level n keeps `round((1 - fraction) ** n * P)` of the P prunable weights (round half to even);
    by default 80%, 64%, 51%, ... of them.

    Attributes:
      levels: number of times the network is pruned, at most 1000; the last one has to keep at least
        one weight.
      fraction: share of the remaining weights that each level removes.
      one_shot: prune the trained dense network straight to each level's density, instead of level
        after level.
      score: name in `jt.SCORES` or a score function.
      scope: "global" ranks all weights together, "layer" each layer by itself.
      rates: pairs (pattern, fraction): with scope "layer", the fraction of the layers whose path
        matches (the first that does). The 2019 paper prunes the output layer at half the rate of
        the others.
      exclude: patterns of paths, such as "dense_2/*", that are never pruned and not counted in P.
      rewind: the step to whose weights a ticket goes back, 0 for initialization; or
        "learning_rate", which keeps the trained weights and repeats the whole schedule (LRR).
      schedule: "remaining" trains tickets from the rewind step to the end, as Algorithm 4;
        "full" trains them with the whole schedule from its start, whatever step their weights are
        of (section 5.2). With rewind=0 and "learning_rate" both are the whole schedule.
      order: "fresh" draws new SGD noise (order of examples and augmentation) for every level, so
        that no ticket is trained under the noise that its mask was found with; its branches share
        the noise of their level. "same" shows every level the batches of level 0.
      score_batches, score_batch_size: training batches that a score may look at; no batch is
        larger than the training split. An error to set for scores that look at none.
      rescale: "global" divides the kept weights of every ticket by its density before it is
        trained, "layer" those of each layer by the layer's; always the weights of the rewind step,
        so that factors of different levels never multiply. None leaves the weights as they are, as
        in all papers but KD-LTS and in all published code. Controls follow: new weights get the
        ticket's factors too.
      structure: weights that are kept or pruned together (`jt.structures`): "2:4", ("block", 4, 4),
        "channel", ("fan_in", k) or an object; None for single weights. Level n keeps `round((1 -
        fraction) ** n * U)` of the U blocks or channels; of "N:M" `max(N, round((1 - fraction) ** n
        * M))` of each M, and of ("fan_in", k) likewise of the weights of each output, which the
        last level has to bring to N, or to k.

    Reference: Frankle's thesis, Algorithms 1, 2 and 4 (line 5 for the noise, which no source
      holds fixed: the published codes shuffle examples differently in every training); section
      3.3.3 for one-shot. KD-LTS, appendix H, Algorithm 2 (rescale), where the printed `1 - |m'|_0 /
      P` is read as the density.
    """

    levels: int = 12
    fraction: float = 0.2
    one_shot: bool = False
    score: str | Score = "magnitude"
    scope: str = "global"
    rates: tuple[tuple[str, float], ...] = ()
    exclude: tuple[str, ...] = ()
    rewind: int | str = 0
    order: str = "fresh"
    score_batches: int = 1
    score_batch_size: int = 100
    schedule: str = "remaining"
    rescale: str | None = dataclasses.field(default=None, kw_only=True)
    structure: StructureLike | None = dataclasses.field(
        default=None, kw_only=True, metadata={"newer": True}
    )

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        settle(self, whole, "levels", high=MOST_LEVELS)
        settle(self, share, "fraction", one=False)
        settle(self, flag, "one_shot")
        settle(self, name_or_function, "score")
        settle(self, one_of, "scope", choices=("global", "layer"))
        settle(self, several, "rates", check=_rate, like='(("dense_2", 0.1),)', empty=True)
        settle(self, texts, "exclude", like='("dense_2",)')
        if self.rates and self.scope != "layer":
            raise ValueError(f"`rates` need scope='layer', got scope={self.scope!r}")
        if isinstance(self.rewind, str):
            if self.rewind != "learning_rate":
                raise ValueError(
                    f"`rewind` must be a step, 0 for initialization, or 'learning_rate', got "
                    f"{self.rewind!r}"
                )
        else:
            settle(self, whole, "rewind")
        settle(self, one_of, "order", choices=("same", "fresh"))
        settle(self, one_of, "schedule", choices=("remaining", "full"))
        settle(self, whole, "score_batches", "score_batch_size", low=1)
        if self.rescale is not None:
            settle(self, one_of, "rescale", choices=rescaling.RESCALE)
        settle(self, or_none(checked), "structure")
        if self.rescale is not None and isinstance(self.rewind, str):
            raise ValueError(
                f"`rescale` {self.rescale!r} needs weights that are rewound to a step: with "
                f"rewind={self.rewind!r} the factors of all levels would multiply; leave one of "
                f"them out"
            )

    @property
    def name(self) -> str:
        """The kind, "imp" or "one_shot", the score if not the magnitude, and the structure."""
        kind = "one_shot" if self.one_shot else "imp"
        kind = kind if self.score == "magnitude" else f"{kind}_{name_of(self.score)}"
        return labeled(kind, self.structure)

    @property
    def last_level(self) -> int:
        """The number of levels."""
        return self.levels

    @property
    def rewind_step(self) -> int:
        """The step whose weights a ticket starts from.

        It is 0 under learning-rate rewinding, which repeats the schedule.
        """
        return 0 if isinstance(self.rewind, str) else self.rewind

    @property
    def from_initialization(self) -> bool:
        """Whether tickets start from the weights of initialization."""
        return self.rewind == 0

    @property
    def keeps_trained(self) -> bool:
        """Whether tickets keep their trained weights."""
        return self.rewind == "learning_rate"

    @property
    def fresh_noise(self) -> bool:
        """Whether every level has its own SGD noise."""
        return self.order == "fresh"

    def density_of(self, level: int) -> float:
        """The nominal density of a level, `(1 - fraction) ** level`."""
        return (1 - self.fraction) ** level

    def replace(self, **changes: object) -> Pruning:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    # how masks are found

    def units(self, net: Network) -> Units | None:
        """What is kept or pruned together; None for single weights."""
        return units_in(net, self.structure, self.exclude)

    def kept_at(self, level: int, net: Network) -> np.ndarray:
        """Weights, or units of the structure, that a level keeps, int32: one, or one per layer."""
        share = float(densities(self.levels, self.fraction)[level])
        if (units := self.units(net)) is not None:
            return units.counts(share, scope=self.scope, level=level, rates=self.rates)
        dense = net.mask(self.exclude)
        if self.scope == "layer":
            return layer_counts(dense, share, level=level, rates=self.rates)
        return np.asarray(round(share * masks.prunable_size(dense)), np.int32)

    def check_network(self, net: Network) -> None:
        """Raise for patterns and structures that do not fit, and for levels that keep nothing."""
        dense, units = net.mask(self.exclude), self.units(net)
        pruned, noun = _tree.paths(dense), "weights"
        size, least = masks.prunable_size(dense), 1
        if units is not None:
            check_scope(units, self.scope)
            pruned, noun = list(units.names), units.noun
            size, least = sum(units.sizes), units.least
        for pattern, _ in self.rates:
            if not any(_tree.matches(path, [pattern]) for path in pruned):
                raise ValueError(
                    f"`rates` pattern {pattern!r} matches no layer that is pruned; these are "
                    f"{', '.join(pruned)}"
                )
        for level in range(self.levels + 1):
            kept = int(self.kept_at(level, net).sum())
            if kept < least:
                few = "none" if least == 1 else f"{kept}"
                raise ValueError(
                    f"`levels` {self.levels} with fraction={self.fraction:g}: level {level} keeps "
                    f"{few} of the {size:,} {noun}"
                    f"{'' if least == 1 else f', and at least {least} have to stay'}; use at most "
                    f"{level - 1} levels"
                )
        if units is not None and self.levels:
            self._check_complete(units)

    def _check_complete(self, units: Units) -> None:
        """Raise where the last level keeps more than the structure says."""
        if units.complete(units.counts(self.density_of(self.levels))):
            return
        needed = self.levels
        while needed < MOST_LEVELS and not units.complete(units.counts(self.density_of(needed))):
            needed += 1
        steps = (percent / 100 for percent in range(1, 100))
        faster = next(
            (f for f in steps if units.complete(units.counts((1 - f) ** self.levels))), 0.99
        )
        raise ValueError(
            f"`levels` {self.levels} with fraction={self.fraction:g} do not reach structure="
            f"{self.structure!r}: the last level keeps "
            f"{self.density_of(self.levels):.3g} of each group; use {needed} levels, or "
            f"fraction={faster:g}"
        )

    def targets(self, level: int) -> list[int]:
        """The levels whose masks come from the trained weights of this one."""
        if self.one_shot:
            return list(range(1, self.levels + 1)) if level == 0 else []
        return [level + 1] if level < self.levels else []

    def tickets(self, runner: Runner, states: DenseStates) -> Stages:
        """Train, prune, rewind, repeat; level 0 is the training of the dense networks."""
        origin = dense_ticket(runner.net, states.states[0], 0, self.exclude)
        stats = origin.stats
        found = {0: Found(0, origin.mask, origin)}
        for level in range(self.levels + 1):
            targets, own = self.targets(level), found.pop(level)
            # learning-rate rewinding also keeps the statistics of the last trained network
            kept = yield Stage(
                [own._replace(origin=origin.replace(stats=stats))],
                keep=functools.partial(self._kept, runner, states.states[0][0], level),
                snapshots_at=(self.rewind_step,) if level == 0 and self.rewind_step else (),
                name=f"level {level}",
            )
            if self.keeps_trained and (level == 0 or not self.one_shot):
                params, stats = weights_of(kept, runner.net)
                # a pruned weight keeps, for masks that are moved onto it, the value that it had
                # when it was pruned: at all positions stand weights that were trained
                params = masks.map_with(
                    np.where, own.mask, params, origin.params, other=lambda trained, _: trained
                )
                origin = origin.replace(params=params)
            if level == 0 and self.rewind_step:
                networks = _tree.unflatten(kept, runner.net.shapes, "origin")
                origin = dense_ticket(runner.net, networks, self.start, self.exclude)
                stats = networks[1]
            for target in targets:
                mask = unpacked(kept, f"mask-{target:03d}", runner.net.mask(self.exclude))
                found[target] = Found(target, mask, origin, source=level)
        return origin

    def _kept(self, runner: Runner, initial: Params, level: int, tickets: Tickets) -> Arrays:
        """The masks that come from a block, and what later levels start from."""
        arrays = {}
        for target in self.targets(level):
            mask = self._pruned(runner, initial, target, tickets)
            arrays |= packed(mask, f"mask-{target:03d}")
        if self.keeps_trained:
            arrays |= trained_weights(tickets)
        for snapshot in tickets.trained.snapshots:
            arrays |= _tree.leaves(take(snapshot, 0, tickets.count), "origin")
        return arrays

    def _pruned(self, runner: Runner, initial: Params, target: int, tickets: Tickets) -> Mask:
        run, size, count = runner.run, runner.run.size, tickets.count
        keep = self.kept_at(target, runner.net)
        # replicas of branches are not pruned: their limit of 0 says so
        limits = (np.arange(size) < count).astype(np.int32)
        initial = parallel.pad(take(initial, tickets.first, tickets.first + count), size)
        keys, state = parallel.pad(tickets.jobs.keys, size), tickets.trained.state
        examples = self.examples(runner.data)
        score = from_table("score", self.score, SCORES)
        select = pruner(
            runner.net,
            run.mesh,
            Selection(
                score,
                self.scope,
                exclude=self.exclude,
                examples=examples,
                loss=runner.training.loss,
                structure=self.structure,
            ),
        )
        mask, fault = select(
            limits,
            Weights(*network_of(state), state.mask, state.key, state.diverged),
            parallel.put(initial, run.mesh),
            # one round
            parallel.put(np.broadcast_to(keep, (size, 1, *keep.shape)).copy(), run.mesh),
            parallel.put(np.full(size, target, np.int32), run.mesh),
            run.data.score_batches(keys, target, examples.batches, examples.size),
            run.data.arrays,
        )
        mask, fault = take(parallel.host((mask, fault)), 0, count)
        if fault.any():
            seed = runner.seeds[tickets.first + int(np.argmax(fault))]
            raise ValueError(not_finite(name_of(score), f" (level {target}, seed {seed})"))
        masks.require_nested(mask, take(tickets.jobs.origin.mask, 0, count))
        return mask

    def examples(self, data: Data | Stream) -> Examples:
        """The training examples that the score looks at."""
        return Examples(self.score_batches, min(self.score_batch_size, len(data.train)))

    def cost(self, runs: Runs, level: int) -> Cost:
        """All levels before this one were trained and pruned."""
        before = range(1) if self.one_shot else range(level)
        steps, seconds = 0.0, 0.0
        for n in before:
            steps += steps_of_level(runs, n)
            groups = sum(h.level == n for h in runs.histories)
            trained = seconds_of(runs, f"level {n}", "train_seconds") / max(1, groups)
            pruned = seconds_of(runs, f"level {n}", "prune_seconds") / len(self.targets(n))
            seconds += (trained + pruned) / len(runs.seeds)
        score = from_table("score", self.score, SCORES)
        return total(
            of_training(runs, whole_or_mean(steps), seconds=seconds),
            of_scoring(runs.net, score, self.examples(runs.data), len(before)),
        )


def _rate(argument: str, value: object) -> tuple[str, float]:
    """A pattern of paths and the fraction of such layers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[0], str):
        raise ValueError(
            f"`{argument}` must be pairs of a pattern and a fraction, such as "
            f'(("dense_2", 0.1),), got {value!r}'
        )
    return value[0], share(f"{argument}[{value[0]!r}]", value[1], zero=True, one=False)


def find_tickets(
    net: Network,
    data: Data | Stream,
    training: Training,
    pruning: Pruning | None = None,
    *,
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
) -> Runs:
    """Find tickets by iterative magnitude pruning with rewinding, many seeds side by side.

    Level 0 trains the dense network of P prunable weights. Level n >= 1 keeps the
    `round((1 - fraction) ** n * P)` weights with the highest scores (by default the greatest
    magnitudes) after level n - 1, rewinds them to step k and trains them to the end, with a fresh
    optimizer and the schedule as at step k. Every level has its own SGD noise (`Pruning.order`),
    which its branches share.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream. All of its splits are evaluated, "validation" too if there is
        one.
      training: how each level is trained.
      pruning: levels, fraction, score, rewinding; `Pruning()` if None.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train next to the tickets at every level: names in `jt.BRANCHES` or
        change functions.
      init: weights that training starts from: params, or (params, statistics), of one network or
        with a leading axis [seed], such as `runs.trained(0)`; None for those that the network
        draws. See `Network.with_params`.
      keep: "trained" also keeps the networks as they are after training, every level and branch
        (`Runs.trained`); None keeps none of them.
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there, and one that is finished
        takes more seeds and levels. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all of a level, on accelerators for
        as many as fit into memory (see `jt.Runtime`).
      save_every: seconds between saves of the training state (each level is saved in any case).
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs with the tickets of levels 0 to `pruning.levels`. `Runs.table()` has one row per seed,
      level, branch, step, split and metric; `Runs.by_level[n]` is the ticket of level n with a
      leading axis [seed].

    Raises:
      ValueError: for settings that do not fit together, a score that is not finite for finite
        weights, and a folder with other settings or code.

    Reference: Frankle's thesis, Algorithm 1 (rewind=0), Algorithm 4 (rewind=k), Algorithm 2
      ("learning_rate").

    Example:
      `runs = jt.find_tickets(net, data, training, jt.Pruning(levels=6), seeds=range(3))`, then
      `print(runs)`, `runs.table()`, `runs.ticket(level=6, seed=0)` and `runs.matching()`.
    """
    pruning = Pruning() if pruning is None else pruning
    instance("pruning", pruning, Pruning, "a jt.Pruning")
    plan = planned(
        net, data, training, seeds=seeds, branches=branches, init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    net, training = plan.net, plan.training
    if pruning.rewind_step >= training.steps:
        raise ValueError(
            f"`rewind` is step {pruning.rewind_step}, past the end of training at "
            f"{training.steps}; use a step below {training.steps}"
        )
    score = from_table("score", pruning.score, SCORES)
    for name in ("score_batches", "score_batch_size"):
        if not recipe_of(score).data and getattr(pruning, name) != getattr(Pruning, name):
            raise ValueError(
                f"`{name}` {getattr(pruning, name)} has no effect with score={name_of(score)!r}, "
                f"which looks at no examples; leave it out"
            )
    pruning.check_network(net)
    settings = plan.settings("find_tickets", pruning=pruning, score=score)
    # level 0 is its own stage
    (runs,) = run_strategies(plan, (pruning,), settings, dense=False)
    return runs
