"""A way to find masks, and the one loop that makes runs of it.

A `Strategy` is the settings of one way: a frozen dataclass that says which states of dense training
it needs, yields masks, and knows what they cost. `run_strategies` does everything else: dense
training, controls, training, divergence, layers that collapse, seconds, and the `Runs`.
"""

from __future__ import annotations

import abc
import functools
import itertools
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _tree, masks, rescaling
from jaxticket._check import flag, instance
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.controls import Change
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import (
    DenseStates,
    Networks,
    dense_rows,
    initial_networks,
    train_dense,
)
from jaxticket.engine.loop import Arrays, Jobs, Trained, report_diverged
from jaxticket.engine.metrics import METRICS, metric_names
from jaxticket.engine.monitors import monitors_of
from jaxticket.engine.runtime import OnEvaluation, Run, Runtime
from jaxticket.nn.pruned import pruned_line
from jaxticket.pruning_settings import PruningSettings
from jaxticket.results import EvaluationLog, tidy
from jaxticket.runs import Runs, density
from jaxticket.settings import Training
from jaxticket.sparsify.cohorts import extension, in_cohorts
from jaxticket.sparsify.cost import Cost, whole_or_mean
from jaxticket.sparsify.plan import Keeping, Plan, planned
from jaxticket.sparsify.runner import Group, Runner, Weights, final_weights
from jaxticket.sparsify.stages import Found as Found
from jaxticket.sparsify.stages import Phase as Phase
from jaxticket.sparsify.stages import Stage as Stage
from jaxticket.sparsify.stages import Stages as Stages
from jaxticket.sparsify.stages import Tickets as Tickets
from jaxticket.ticket import Ticket
from jaxticket.typing import InitialWeights, Json, Mask, Network


class Strategy(PruningSettings):
    """A way to find masks. Subclasses are frozen dataclasses, whose fields are the settings.

    Attributes:
      title: what messages and the progress bar call it.
      side_by_side: tickets of a seed that train at the same time.
    """

    @property
    def title(self) -> str:
        """What messages and the progress bar call it."""
        return self.name

    @property
    def side_by_side(self) -> int:
        """Tickets of a seed that train at the same time."""
        return 1

    def dense_steps(self, steps: int) -> tuple[int, ...]:
        """The steps of dense training, of so many, whose states are needed; 0 is always there."""
        del steps
        return (0,)

    def search_steps_of(self, training: Training) -> int:
        """Steps of training that finding all masks of a seed takes, for the progress bar."""
        del training
        return 0

    def check(self, runner: Runner) -> None:
        """Raise for what cannot work, before anything is trained."""

    @abc.abstractmethod
    def tickets(self, runner: Runner, states: DenseStates) -> Stages:
        """Find masks, stage after stage.

        Args:
          runner: network, data, seeds and devices; units of the folder.
          states: of the dense networks at `dense_steps`: `states.states[k]` is (params, stats).
        """

    @abc.abstractmethod
    def cost(self, runs: Runs, level: int) -> Cost:
        """What it cost to find a mask of a level; see `jaxticket.sparsify.cost`."""


def dense_ticket(
    net: Network, networks: Networks, step: int, exclude: Sequence[str] = ()
) -> Ticket:
    """Dense networks, stacked over [replica], as the tickets that keep all weights.

    Args:
      net: the network.
      networks: params and statistics.
      step: of the schedule, at which training begins.
      exclude: patterns of paths that are not pruned.
    """
    params, stats = networks
    count = len(jax.tree.leaves(params)[0])
    ones = net.mask(exclude, lead=(count,))
    steps = np.full(count, step, np.int32)
    return Ticket(ones, params, stats, np.zeros(count, np.int32), steps)


def packed(mask: Mask, name: str) -> Arrays:
    """Masks [replica, ...] as bits [replica, bytes] by "name/path"."""
    leaves = _tree.leaves(mask, name).items()
    return {path: np.packbits(np.reshape(x, (len(x), -1)), axis=1) for path, x in leaves}


def unpacked(arrays: Arrays, name: str, like: Mask) -> Mask:
    """The masks that `packed` gave; `like` is that of one replica."""

    def one(bits: np.ndarray, x: jax.Array) -> np.ndarray:
        flat = np.unpackbits(bits, axis=1, count=int(np.prod(x.shape)))
        return flat.astype(bool).reshape(len(bits), *x.shape)

    return jax.tree.map(one, _tree.unflatten(arrays, like, name), like)


def trained_weights(tickets: Tickets) -> Arrays:
    """A `keep` for strategies that prune trained weights: those of all tickets, on the host.

    `weights_of(kept, runner.net)` gives them back as (params, stats).
    """
    return final_weights(tickets.trained, tickets.count)


def weights_of(kept: Arrays, net: Network) -> Networks:
    """What `trained_weights` kept: params and statistics, [replica, ...]."""
    return _tree.unflatten(kept, net.shapes, "trained")


def run_strategy(
    net: Network,
    data: Data | Stream,
    training: Training,
    strategy: Strategy,
    *,
    dense: bool = True,
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
    """Find tickets in a way of your own, and train them and their controls.

    Args:
      net: a network, such as `jt.networks.lenet(data.shape, data.classes)`.
      data: a data set or a stream.
      training: how networks are trained.
      strategy: how masks are found.
      dense: also train the dense networks to the end, as level 0; False for strategies that yield
        level 0 themselves.
      seeds: one replica each.
      branches: controls to train next to the tickets: names in `jt.BRANCHES` or change functions.
      init: weights that training starts from: params, or (params, statistics), of one network or
        with a leading axis [seed], such as `runs.trained(0)`; None for those that the network
        draws. See `Network.with_params`.
      keep: "trained" also keeps the networks as they are after training, every level and branch
        (`Runs.trained`); None keeps none of them.
      keep_at: steps whose networks are kept too, or one (`runs.trained(level, step=k)`).
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      mesh: devices as `jt.parallel.mesh` makes them; all of them if None.
      folder: where to save; a run that was stopped is resumed from there. Nothing is saved if None.
      at_once: replicas that one device holds at most; None for no limit.
      save_every: seconds between saves of the training state.
      progress: whether to show a bar with the time left.
      on_evaluation: a function of the new rows of the table, or several, called after each
        evaluation, such as `jt.callbacks.CSV('rows.csv')`; see `jt.Runtime`.

    Returns:
      Runs with the tickets of all levels that the strategy yields; its table also holds the
      branches.

    Raises:
      ValueError: for settings that do not fit together, and a folder with other settings or code.
    """
    plan = planned(
        net, data, training, seeds=seeds, branches=branches, init=init, keep=keep, keep_at=keep_at,
        runtime=runtime,
        mesh=mesh, folder=folder, at_once=at_once, save_every=save_every, progress=progress,
        on_evaluation=on_evaluation,
    )  # fmt: skip
    instance("strategy", strategy, Strategy, "a jaxticket.sparsify.Strategy")
    settings = plan.settings("run_strategy", pruning=strategy, dense=flag("dense", dense))
    (runs,) = run_strategies(plan, (strategy,), settings, dense=dense)
    return runs


def report_collapse(
    run: Run, seeds: Sequence[int], mask: Mask, called: str, remedy: str = ""
) -> None:
    """Say which layers have no weights left.

    Args:
      run: what says it.
      seeds: of the replicas.
      mask: host arrays [replica, ...].
      called: what has the mask.
      remedy: how the line ends.
    """
    empty = [
        f"{path} (seeds {', '.join(str(s) for s, g in zip(seeds, gone, strict=True) if g)})"
        for path, gone in masks.empty_layers(mask).items()
    ]
    if empty:
        run.write(f"layer collapse: {called}, keeps nothing of {', '.join(empty)}{remedy}")


@dataclass(eq=False)
class _Course:
    """A strategy under way: what its stages have given so far."""

    strategy: Strategy
    runner: Runner
    changes: Mapping[str, Change]
    origin: Ticket
    tickets: dict[int, Ticket] = field(default_factory=dict)
    logs: list[EvaluationLog] = field(default_factory=list)
    costs: list[Json] = field(default_factory=list)
    trace: list[Json] = field(default_factory=list)
    lost: dict[int, np.ndarray] = field(default_factory=dict)
    weights: Weights = field(default_factory=lambda: Weights({}, {}))

    def take(self, stage: Stage, states: DenseStates) -> None:
        """Note the masks of a stage, and say which layers have no weights left."""
        self.costs += stage.costs
        self.trace += stage.trace
        for found in stage.found:
            self.origin = found.origin
            if found.source is None:
                steps = self.strategy.dense_steps(self.runner.training.steps)
                lost = states.lost(max(steps, default=0))
            else:
                logs = (h for h in self.logs if (h.level, h.branch) == (found.source, "ticket"))
                lost = self.lost[found.source] | (next(logs).diverged >= 0)
            if found.lost is not None:
                lost = lost | found.lost
            self.lost[found.level] = lost
            self._report_collapse(found)

    def _report_collapse(self, found: Found) -> None:
        if found.level:
            called, remedy = self._called(found.level), self.strategy.remedy
            report_collapse(self.runner.run, self.runner.seeds, found.mask, called, remedy)

    def _called(self, level: int) -> str:
        share = self.strategy.density_of(level)
        return f"{self.strategy.title}, level {level} (density {share:.3g})"

    def ticket(self, found: Found, branch: str = "ticket") -> Ticket:
        """Mask and weights of a ticket or control, also where the mask is False."""
        count = len(self.runner.seeds)
        dense = self.runner.net.mask(self.strategy.exclude, lead=(count,))
        mask = masks.conform(found.mask, dense, called="`tickets`")
        factors = self.strategy.factors(mask) if found.level else None
        level = np.full(count, found.level, np.int32)
        params = rescaling.scaled(found.origin.params, factors)
        whole = found.origin.replace(mask=mask, params=params, level=level)
        if branch == "ticket":
            return whole
        return self.runner.control(
            branch, self.changes[branch], whole, pruning=self.strategy, factors=factors
        )

    def groups(self, stage: Stage) -> list[Group]:
        """What a stage trains: tickets and controls, level after level."""
        return [
            Group(
                branch,
                found.level,
                functools.partial(self.ticket, found, branch),
                self.runner.training,
                self.strategy,
                self.strategy.noise(found.level),
                self.lost[found.level],
                start=self.strategy.start if found.level else 0,
                title=f"{self._called(found.level)}, {branch}",
            )
            for found in stage.found
            for branch in ("ticket", *self.changes)
        ]

    def evaluated(self, stage: Stage) -> None:
        """Evaluate tickets before their training, with re-estimated BatchNorm statistics."""
        runner, count = self.runner, len(self.runner.seeds)
        evaluator = Evaluator(
            runner.net, runner.data, runner.training, runner.run.mesh, put=runner.run.data
        )
        recomputed = bool(jax.tree.leaves(runner.net.shapes[1]))
        for found in stage.found:
            ticket = self.ticket(found).masked()

            def make(found: Found = found, ticket: Ticket = ticket) -> Arrays:
                places = np.arange(count)[:, None]
                values = evaluator.points(
                    (ticket.params, ticket.stats), places, np.ones(places.shape),
                    recomputed=recomputed, pad_to=runner.run.size,
                )  # fmt: skip
                # nothing is trained: a network without a mask, or of a loss that is not finite,
                # counts as diverged where it stands
                start = self.strategy.start
                finite = np.isfinite(values[..., METRICS.index("loss")]).all(axis=-1)
                bad = self.lost[found.level] | ~finite
                history = {
                    "steps": np.full((1, count), start, np.int32),
                    "wanted": np.ones((1, count), bool),
                    "values": np.where(bad[:, None, None], np.nan, values)[None],
                    "diverged": np.where(bad, start, -1).astype(np.int32),
                }
                self._report(self._log(history, ticket, found.level, "supermask"))
                return history

            unit = f"supermask-{self.strategy.rewind_step}-{found.level}"
            self.note(runner.run.unit(unit, 0, make), ticket, found.level, "supermask")
            self.tickets[found.level] = ticket

    def _report(self, log: EvaluationLog) -> None:
        """Tell callbacks of evaluations that no training made."""
        runner = self.runner
        if runner.run.reports:
            splits = tuple(runner.run.data.arrays.splits)
            metrics = metric_names(runner.training)
            table = tidy([log], splits=splits, metrics=metrics, precision="")
            runner.run.report(table.drop(columns="precision").to_dict("records"))

    def note(self, history: Arrays, ticket: Ticket, level: int, branch: str) -> None:
        """Add the log of networks that no group trained."""
        self.logs.append(self._log(history, ticket, level, branch))

    def _log(self, history: Arrays, ticket: Ticket, level: int, branch: str) -> EvaluationLog:
        lost = self.lost[level] if level else None
        return EvaluationLog.of_group(
            history,
            0,
            seeds=self.runner.seeds,
            level=level,
            density=density(self.runner.net, self.strategy, ticket, lost),
            branch=branch,
        )


def run_strategies(
    plan: Plan,
    strategies: Sequence[Strategy],
    settings: dict[str, object],
    *,
    dense: bool,
    supermask: bool = False,
    train: bool = True,
    by_step: bool = False,
) -> list[Runs]:
    """Runs of each of some strategies that share the dense training, in a folder or without one.

    Seeds that are appended to those of the folder are run by themselves and joined.

    Args:
      plan: what is run.
      strategies: how masks are found; several of them yield one stage each, without `keep`.
      settings: what the folder records, and refuses to mix with others.
      dense: whether the dense networks are trained to the end, as level 0.
      supermask: whether tickets are evaluated before they are trained.
      train: whether they are trained.
      by_step: whether each of them, though there may be one, has a folder below that of the run.
    """
    run = functools.partial(
        _run_cohort,
        strategies=strategies,
        dense=dense,
        supermask=supermask,
        train=train,
        by_step=by_step,
    )
    return in_cohorts(plan, settings, run)


def _run_cohort(
    plan: Plan,
    strategies: Sequence[Strategy],
    settings: dict[str, object],
    *,
    dense: bool,
    supermask: bool,
    train: bool,
    by_step: bool,
    save: bool,
) -> list[Runs]:
    """Runs of seeds that are trained together; see `run_strategies`."""
    net, training, runtime = plan.net, plan.training, plan.runtime
    replicas = len(plan.seeds) * (1 + len(plan.changes))
    # a CPU gains nothing from more than one level at once; where replicas are vmapped, it does
    together = 1 if parallel.maps(runtime.devices) else sum(s.side_by_side for s in strategies)
    size = runtime.replicas_per_call(replicas * together)
    steps = {0} | ({training.steps} if dense else set())
    steps |= {k for strategy in strategies for k in strategy.dense_steps(training.steps)}
    expected = sum(s.search_steps_of(training) for s in strategies) + max(steps)
    expected *= len(plan.seeds)
    if train:
        expected += replicas * sum((training.steps - s.start) * s.last_level for s in strategies)
    with runtime.run(
        net, plan.data, training, settings, size=size, steps=expected, extends=extension
    ) as run:
        runner = Runner(run, net, plan.data, training, plan.seeds, keeping=plan.keep)
        for strategy in strategies:
            strategy.check(runner)
        run.begins(pruned_line(net, strategies[0].exclude))
        run.describe("dense")
        initial = initial_networks(net, run.mesh, runner.keys)
        states = train_dense(
            run, net, training, runner.keys, initial, sorted(steps), monitors=monitors_of(training),
            exclude=strategies[0].exclude, weights=dense and plan.keep.trained,
            weights_at=plan.keep.at if dense else (),
            about=dense_rows(plan.seeds, "ticket" if dense else "dense"),
        )  # fmt: skip
        report_diverged(run, "dense", plan.seeds, states.diverged)
        courses = []
        for strategy in strategies:
            begun = states.states.get(strategy.rewind_step, initial)
            origin = dense_ticket(net, begun, strategy.start, strategy.exclude)
            course = _Course(strategy, runner, plan.changes, origin)
            if states.steps:
                each = states.steps / len(plan.seeds)
                took = {"train_seconds": states.seconds, "training_steps": whole_or_mean(each)}
                course.costs.append({"unit": "dense", **took})
            if dense:
                course.tickets[0] = course.origin
                course.note(states.history, course.origin, 0, "ticket")
                if states.trained is not None:
                    end = dense_ticket(net, states.trained, training.steps, strategy.exclude)
                    course.weights.final["ticket", 0, 1.0] = end
                for step, networks in states.kept.items():
                    own = dense_ticket(net, networks, step, strategy.exclude)
                    course.weights.at["ticket", 0, 1.0, step] = own
            courses.append(course)
        going = [(course, course.strategy.tickets(runner, states)) for course in courses]
        kept: list[Arrays] = []
        for number in itertools.count():
            stages = []
            for place, (course, masks_of) in enumerate(going):
                run.describe(course.strategy.title)
                try:
                    stage = masks_of.send(kept[place]) if kept else next(masks_of)
                except StopIteration as end:
                    course.origin = end.value or course.origin
                    continue
                course.take(stage, states)
                if supermask:
                    course.evaluated(stage)
                stages.append((course, masks_of, stage))
            if not stages:
                break
            going = [(course, masks_of) for course, masks_of, _ in stages]
            kept = [{} for _ in stages]
            if train:
                now = [(course, stage) for course, _, stage in stages]
                kept = _train(runner, number, now, weights=plan.keep)
        found = []
        for course in courses:
            if course.strategy.rewind_step > 0 and 0 in course.tickets:
                # the dense ticket of a run that rewinds to k is the network at step k
                course.tickets[0] = course.origin
            step = f"step-{course.strategy.rewind_step}"
            found.append(
                runner.runs(
                    course.strategy,
                    branch="ticket",
                    logs=course.logs,
                    tickets=course.tickets,
                    origin=course.origin,
                    costs=course.costs,
                    lost={n: lost for n, lost in course.lost.items() if n},
                    trace=course.trace,
                    weights=course.weights,
                    folder=run.path / step if run.path and by_step else None,
                )
            )
        run.finish(*(runs.save for runs in found if save))
    return found


def _by_level(course: _Course, stage: Stage) -> list[tuple[_Course, Found, list[Group]]]:
    """The masks of a stage, each with what is trained of it: the tickets and their controls."""
    groups, each = course.groups(stage), 1 + len(course.changes)
    return [
        (course, found, groups[n * each : (n + 1) * each]) for n, found in enumerate(stage.found)
    ]


def _train(
    runner: Runner, number: int, stages: Sequence[tuple[_Course, Stage]], *, weights: Keeping
) -> list[Arrays]:
    """Train the stages number n of strategies side by side; what is kept of each.

    Args:
      runner: trains them.
      number: n.
      stages: the strategies and what they train.
      weights: which networks are kept in the courses.
    """
    # level after level, so that densities that are appended come after all that there is
    found = [
        row for level in zip(*(_by_level(*own) for own in stages), strict=True) for row in level
    ]
    owners = [(course, mask) for course, mask, own in found for _ in own]
    groups = [group for _, _, own in found for group in own]
    seeds, (course, stage) = len(runner.seeds), stages[0]
    # they are not known before
    runner.run.expect(sum(g.steps * seeds for g in groups if g.level == 0))

    def keep(trained: Trained, jobs: Jobs, first: int) -> Arrays:
        # the tickets come first, then the controls
        count = max(0, min(seeds - first, len(jobs.start)))
        if stage.keep is None or not count:
            return {}
        arrays = stage.keep(Tickets(trained, jobs, first, count))
        return {f"kept/{name}": x for name, x in arrays.items()}

    trained = runner.train(
        groups,
        unit=f"{'stage' if len(stages) == 1 else 'levels'}-{number:03d}",
        keep=None if stage.keep is None else keep,
        snapshots_at=stage.snapshots_at,
        weights=weights,
    )
    for (owner, found), group, own in zip(owners, groups, trained.kept, strict=True):
        owner.weights.add(group, own)
        if group.branch == "ticket":
            for phase in reversed(found.phases):
                # at the step of a change, the network as it was before
                owner.weights.add(group, phase.kept)
    for (owner, found), group, log in zip(owners, groups, trained.logs, strict=True):
        if group.branch == "ticket":
            log = functools.reduce(EvaluationLog.then, [*(p.log for p in found.phases), log])
        owner.logs.append(log)
        if group.branch == "ticket":
            owner.tickets[found.level] = owner.ticket(found).masked()
    if stage.name:
        parts = ("train_seconds", "prune_seconds", "prepare_seconds")
        seconds = {part: sum(float(row.get(part, 0.0)) for row in trained.costs) for part in parts}
        course.costs.append({"unit": stage.name, **seconds})
    else:
        for (first, end), row in zip(trained.bounds, trained.costs, strict=True):
            inside = owners[first // seeds : -(-end // seeds)]
            for owner in dict.fromkeys(owner for owner, _ in inside):
                owner.costs.append(row)
    kept: dict[str, list[np.ndarray]] = {}
    for arrays in trained.blocks:
        for name, x in arrays.items():
            if name.startswith("kept/"):
                kept.setdefault(name.removeprefix("kept/"), []).append(x)
    return [{name: np.concatenate(parts) for name, parts in kept.items()}] * len(stages)
