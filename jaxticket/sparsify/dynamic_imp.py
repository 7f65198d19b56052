"""Dynamic IMP: networks that are sparse from their first step, under masks that change a few times.

Each phase of the training has a mask of its own, which pruning after a look ahead finds: the dense
network is trained through the phase, pruned, and the phase repeated with the weights that are kept.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, TypeVar

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _show, _tree, masks
from jaxticket._check import flag, is_one, one_of, or_none, settle, several, share, whole
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import DenseStates, Networks
from jaxticket.engine.loop import Arrays, Jobs, Trained, join, take
from jaxticket.engine.runtime import OnEvaluation, Runtime
from jaxticket.pruning.keep import count
from jaxticket.pruning.structures.settings import StructureLike
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify import regrowth
from jaxticket.sparsify.at_step import AtStep
from jaxticket.sparsify.cost import Cost, of_dense, of_training, seconds_of, total
from jaxticket.sparsify.plan import Keeping, planned
from jaxticket.sparsify.runner import Group, Runner
from jaxticket.sparsify.stages import Found, Phase, Stage, Stages
from jaxticket.sparsify.strategy import dense_ticket, run_strategies
from jaxticket.ticket import Ticket
from jaxticket.typing import InitialWeights, Json, Mask, Network, Params

T = TypeVar("T")
FIRST = ("lookahead", "magnitude", "random")
REGROW = ("fresh", "reinit", "same", "zero")
GROWTH = ("oracle", "gradient", "random")


@dataclass(frozen=True)
class DynamicIMP(AtStep):
    """How `jt.dynamic_imp` finds masks.

    Attributes:
      changes: steps at which the mask changes, ascending.
      first: the first mask.
      regrow: the values of connections that grow.
      growth: which connections grow.
      overlap: share of a mask that the next one keeps at least; None for what comes out.
    """

    # what its phases do not leave to choose
    step: int = dataclasses.field(default=0, init=False)
    schedule: str = dataclasses.field(default="remaining", init=False)
    rescale: str | None = dataclasses.field(default=None, init=False)
    structure: StructureLike | None = dataclasses.field(default=None, init=False)
    changes: tuple[int, ...] = ()
    first: str = "lookahead"
    regrow: str = "fresh"
    growth: str = "oracle"
    overlap: float | None = None

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        changes = (self.changes,) if is_one(self.changes) else self.changes
        changes = several("changes", changes, whole, like="(100, 300)", empty=True, low=1)
        if any(b <= a for a, b in pairwise(changes)):
            raise ValueError(
                f"`changes` must be steps that ascend, such as (100, 300), got {changes}"
            )
        object.__setattr__(self, "changes", changes)
        object.__setattr__(self, "step", changes[-1] if changes else 0)
        super().__post_init__()
        settle(self, one_of, "first", choices=FIRST)
        settle(self, one_of, "regrow", choices=REGROW)
        settle(self, one_of, "growth", choices=GROWTH)
        settle(self, or_none(share), "overlap", zero=True)
        for name in ("regrow", "growth", "overlap"):
            value = getattr(self, name)
            if not changes and value != getattr(DynamicIMP, name):
                raise ValueError(
                    f"`{name}` {value!r} has no effect without changes of the mask; leave it out, "
                    f"or pass `changes`, such as changes=(300,)"
                )
        if self.regrow == "reinit" and changes and not self.looks_ahead:
            raise ValueError(
                f"`regrow`='reinit' draws weights again after a look ahead, and growth="
                f"{self.growth!r} with `overlap` {self.overlap:g} takes none; use regrow='fresh'"
            )

    @property
    def name(self) -> str:
        """What finds the masks, in a word."""
        return "dynamic_imp"

    @property
    def title(self) -> str:
        """What messages call it."""
        return "dynamic IMP"

    @property
    def fresh_noise(self) -> bool:
        """Every density has its own SGD noise, as with `order="fresh"` of `Pruning`."""
        return True

    @property
    def looks_ahead(self) -> bool:
        """Whether the dense network is trained on after a change, to know which weights matter."""
        return bool(self.changes) and (self.growth == "oracle" or self.overlap is None)

    def dense_steps(self, steps: int) -> tuple[int, ...]:
        """The end of the first phase, where the first mask comes from there."""
        return ((*self.changes, steps)[0],) if self.first == "lookahead" else (0,)

    def search_steps_of(self, training: Training) -> int:
        """Steps of all phases but the last, and of what looks ahead after each change."""
        ahead = training.steps - self.changes[0] if self.looks_ahead else 0
        return (self.step + ahead) * len(self.densities)

    def check_training(self, training: Training) -> None:
        """Raise for changes that come after the end."""
        if self.step >= training.steps:
            raise ValueError(
                f"`changes` has step {self.step}, and training ends at step {training.steps}; "
                f"change the mask before that"
            )

    def check(self, runner: Runner) -> None:
        """Raise for changes that come after the end, and densities that keep nothing."""
        self.check_training(runner.training)
        self.check_network(runner.net)

    def tickets(self, runner: Runner, states: DenseStates) -> Stages:
        """Train phase after phase; the last one is trained as tickets are."""
        search = _Search(self, runner, states)
        for change in range(1, len(self.changes) + 1):
            search.change(change)
        mine = [search.rows(level) for level in range(1, self.last_level + 1)]
        found = [
            Found(
                level,
                take(search.mask, own.start, own.stop),
                dense_ticket(
                    runner.net,
                    take(search.networks, own.start, own.stop),
                    self.step,
                    self.exclude,
                ),
                lost=search.lost[own],
                phases=tuple(phases[level - 1] for phases in search.phases),
            )
            for level, own in enumerate(mine, 1)
        ]
        trace = sorted(
            search.trace, key=lambda row: (row["level"], runner.seeds.index(row["seed"]))
        )
        yield Stage(found, costs=search.costs, trace=trace)
        # one for all densities: that of each is in its ticket
        return dense_ticket(runner.net, states.states[0], 0, self.exclude)

    def cost(self, runs: Runs, level: int) -> Cost:
        """All steps before the last mask is known: of dense and of sparse training."""
        del level
        parts, steps = [], self.step
        if self.first == "lookahead":
            parts.append(of_dense(runs, self.dense_steps(runs.training.steps)[0]))
        if self.looks_ahead:
            steps += runs.training.steps - self.changes[0]
        seconds = sum(seconds_of(runs, unit, "train_seconds") for unit in ("phase*", "look-ahead*"))
        each = seconds / (len(runs.seeds) * len(self.densities))
        parts.append(of_training(runs, steps, seconds=each))
        if self.growth == "gradient":
            # a gradient takes what a step takes, and is no step of training
            slopes = of_training(runs, len(self.changes))
            parts.append(slopes._replace(training_steps=0.0))
        return total(*parts)


class _Ended(NamedTuple):
    """Networks after a phase, [row, ...]."""

    networks: Networks
    lost: np.ndarray
    phases: list[Phase]


class _Search:
    """Sparse training up to the last change, with a row for each density and seed.

    Attributes:
      mask, networks, lost: of the phase that comes next; the networks are dense.
      phases: of each phase so far, what was trained of each density.
      costs, trace: rows of these tables.
    """

    def __init__(self, strategy: DynamicIMP, runner: Runner, states: DenseStates) -> None:
        self.strategy, self.runner = strategy, runner
        self.times = (0, *strategy.changes, runner.training.steps)
        net, self.seeds = runner.net, len(runner.seeds)
        levels = np.repeat(np.arange(strategy.last_level), self.seeds)
        self.replicas = np.tile(np.arange(self.seeds), strategy.last_level)
        size = masks.prunable_size(net.mask(strategy.exclude))
        counts = [count(density, size) for density in strategy.densities]
        self.keep = np.asarray(counts, np.int32)[levels]
        # where the masks are dense, what a mask prunes is less than what the next one needs
        forced = np.maximum(2 * self.keep - size, 0)
        wanted = np.rint((strategy.overlap or 0) * self.keep)
        self.least = np.maximum(forced, wanted).astype(np.int32)
        self.dense = net.mask(strategy.exclude, lead=(len(levels),))
        self.initial = self.every(states.states[0])
        self.networks = self.initial
        self.lost = np.zeros(len(levels), bool)
        self.phases: list[list[Phase]] = []
        self.costs: list[Json] = []
        self.trace: list[Json] = []
        if strategy.first == "random":
            scores = self.every(regrowth.uniform(runner, "first mask", 0))
        elif strategy.first == "magnitude":
            scores = regrowth.magnitudes(self.initial[0])
        else:
            trained, _ = states.states[self.times[1]]
            scores = regrowth.magnitudes(self.every(trained))
            self.lost = self.every(states.lost(self.times[1]))
        self.mask = _host(regrowth.top(scores, self.dense, self.keep))

    def every(self, tree: T) -> T:
        """Leaves [replica, ...] as [row, ...]."""
        return _tree.rows(tree, self.replicas)

    def rows(self, level: int) -> slice:
        """The rows of a level."""
        return slice((level - 1) * self.seeds, level * self.seeds)

    def change(self, number: int) -> None:
        """Train through a phase, and find the mask and the weights of the next one."""
        strategy, runner, before = self.strategy, self.runner, self.mask
        begin, end, after = self.times[number - 1 : number + 2]
        ended = self._trained(number, "phase", begin, end, self.networks, before)
        self.phases.append(ended.phases)
        params, stats = ended.networks
        self.networks = self._regrown(number, "regrow", before, params), stats
        self.lost = ended.lost
        if strategy.looks_ahead:
            ahead = self._trained(number + 1, "look-ahead", end, after, self.networks, self.dense)
            self.lost = ahead.lost
            best = regrowth.magnitudes(ahead.networks[0])
            stay = regrowth.staying(best, before, self.keep, self.least)
        else:
            best = regrowth.magnitudes(params)
            stay = regrowth.top(best, before, self.least)
        if strategy.growth == "random":
            best = self.every(regrowth.uniform(runner, "growth", number))
        elif strategy.growth == "gradient":
            best = regrowth.slopes(runner, params, stats, self.replicas, number)
        self.mask = _host(regrowth.grown(best, before, stay, self.keep))
        if strategy.regrow == "reinit":
            self.networks = self._regrown(number, "regrow again", before, params), stats
        self._note(number, end, regrowth.shared(before, self.mask))

    def _regrown(self, number: int, name: str, mask: Mask, params: Params) -> Params:
        """Trained weights where their mask has them, and new values where it does not."""
        if self.strategy.regrow == "same":
            new = self.initial[0]
        elif self.strategy.regrow == "zero":
            new = jax.tree.map(np.zeros_like, params)
        else:
            new = self.every(regrowth.drawn(self.runner, name, number))
        return masks.map_with(np.where, mask, params, new, other=lambda trained, _: trained)

    def _trained(
        self, number: int, kind: str, begin: int, end: int, networks: Networks, mask: Mask
    ) -> _Ended:
        """Networks that were trained from one step to another under a mask.

        Args:
          number: of the phase.
          kind: "phase" or "look-ahead".
          begin, end: its steps.
          networks, mask: what begins, [row, ...].
        """
        strategy, runner, sparse = self.strategy, self.runner, kind == "phase"
        groups = []
        for level, density in enumerate(strategy.densities, 1):
            own = self.rows(level)
            ticket = dense_ticket(
                runner.net, take(networks, own.start, own.stop), begin, strategy.exclude
            )
            ticket = ticket.replace(
                mask=take(mask, own.start, own.stop), level=np.full(self.seeds, level, np.int32)
            )
            group = Group(
                "ticket" if sparse else kind,
                level,
                functools.partial(_same, ticket),
                runner.training,
                strategy,
                # masks come from the batches of the dense network, and tickets see others
                strategy.noise(level) if sparse else 0,
                self.lost[own],
                start=begin,
                stop=end,
                title=f"{strategy.title}, {kind} {number}, density {density:g}",
            )
            groups.append(group)
        at = {k for k in runner.keeping.at if begin < k <= end or k == begin == 0} | {end}
        trained = runner.train(
            groups,
            unit=f"{kind}-{number:02d}",
            keep=_states,
            monitors=None if sparse else (),
            ends_only=not sparse,
            weights=Keeping(at=tuple(sorted(at)) if sparse else ()),
        )
        seconds = sum(float(row["train_seconds"]) for row in trained.costs)
        self.costs.append({"unit": f"{kind} {number}", "train_seconds": seconds})
        states = join(
            [_tree.unflatten(block, runner.net.shapes, "state") for block in trained.blocks]
        )
        diverged = np.concatenate([log.diverged for log in trained.logs]) >= 0
        phases = [Phase(*pair) for pair in zip(trained.logs, trained.kept, strict=True)]
        return _Ended(states, self.lost | diverged, phases)

    def _note(self, number: int, step: int, both: np.ndarray) -> None:
        """Rows of a change."""
        for row, replica in enumerate(self.replicas):
            level, kept = row // self.seeds, int(self.keep[row])
            lost = bool(self.lost[row])
            self.trace.append(
                {
                    "seed": self.runner.seeds[replica],
                    "level": level + 1,
                    "density": self.strategy.densities[level],
                    "step": step,
                    "change": number,
                    "overlap": float("nan") if lost else int(both[row]) / kept,
                    "grown": float("nan") if lost else kept - int(both[row]),
                }
            )


def _same(ticket: Ticket) -> Ticket:
    return ticket


def _host(tree: T) -> T:
    return parallel.host(tree)


def _states(trained: Trained, jobs: Jobs, first: int) -> Arrays:
    """The networks of a block as training goes on from them: no averages of weights."""
    del first
    state = parallel.host((trained.state.params, trained.state.stats))
    return _tree.leaves(take(state, 0, len(jobs.start)), "state")


def dynamic_imp(
    net: Network,
    data: Data | Stream,
    training: Training,
    *,
    density: float | Sequence[float],
    changes: int | Sequence[int],
    first: str = "lookahead",
    regrow: str = "fresh",
    growth: str = "oracle",
    overlap: float | None = None,
    dense: bool = True,
    exclude: Sequence[str] = (),
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
    """One-shot dynamic IMP: how good can sparse training be if its mask changes a few times?

    Seeds and densities are trained side by side. With `n_0 = 0`, changes at n_1 < ... < n_k and
    `n_{k+1}` the end of training, phase i trains the dense network `D_{i-1}` (D_0 is the network at
    initialization) from n_{i-1} to n_i, keeps the `round(density * P)` largest weights as mask m_i,
    goes back and trains `m_i * D_{i-1}` over the same steps. The dense network of the next phase,
    D_i, has these trained weights where m_i keeps them, and new values elsewhere. The sparse
    training, phase after phase, is what the table shows.

    Every phase begins with a fresh optimizer and goes on with the schedule where it is. This is a
    search in retrospect: it asks what is possible, and costs about twice the training.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set, or a stream.
      training: how networks are trained.
      density: share of prunable weights to keep, or several: level n of the runs is the n-th.
      changes: steps at which the mask changes, or one. With () the mask of the whole training is
        found at once, which is one-shot IMP without rewinding.
      first: "lookahead" finds the first mask as the algorithm does; "magnitude" keeps the largest
        weights at initialization, "random" any.
      regrow: values of weights that were pruned before a change: "fresh" draws them from the
        initializer; "reinit" does so once more after the look ahead, so that the mask was found
        with other values; "same" takes those of initialization, "zero" none, as RigL does.
      growth: which connections grow at a change. With "oracle" these are the largest after the look
        ahead. "gradient" takes those with the largest dense gradient of one batch, "random" any of
        the ones that the mask had pruned; with them as many weights stay as with "oracle", or, with
        `overlap`, this share of the largest, without a look ahead.
      overlap: share of a mask that the next one keeps at least; None for what comes out.
      dense: also train the dense networks to the end, as level 0: what `matching` compares with.
      exclude: patterns of paths, such as "dense_2", that are never pruned and not counted in P.
      seeds: one replica each; initialization and batches are functions of the seed alone.
      branches: controls to train next to the last phase: names in `jt.BRANCHES` or change
        functions.
      init: weights that training starts from: params, or (params, statistics), of one network or
        with a leading axis [seed], such as `runs.trained(0)`; None for those that the network
        draws. See `Network.with_params`.
      keep: "trained" also keeps the networks as they are after training, every level and branch
        (`Runs.trained`); None keeps none of them.
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`). Those at
        changes are always kept, before the change and with the mask that they had.
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for all of a phase.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs, whose branch "ticket" is the sparse training from its first step on, and whose tickets
      are those of the last phase: mask and weights at the last change. `runs.trace()` has the
      overlap of masks at every change. `jt.branch`, which moves masks, takes weights of
      initialization where a mask comes to lie on pruned ones.

    Raises:
      ValueError: for settings that do not fit together, and a folder with other settings or code.

    Reference: Frankle's thesis, Algorithm 5 (section 6.2.2). As printed it lacks the dense training
      of phases after the first, which its description in words has.
    """
    plan = planned(
        net, data, training, seeds=seeds, branches=branches, init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    strategy = DynamicIMP(
        density,  # type: ignore[arg-type]
        exclude=exclude,  # type: ignore[arg-type]
        changes=changes,  # type: ignore[arg-type]
        first=first,
        regrow=regrow,
        growth=growth,
        overlap=overlap,
    )
    strategy.check_training(plan.training)
    strategy.check_network(plan.net)
    settings = plan.settings("dynamic_imp", pruning=strategy, dense=flag("dense", dense))
    (runs,) = run_strategies(plan, (strategy,), settings, dense=dense)
    return runs
