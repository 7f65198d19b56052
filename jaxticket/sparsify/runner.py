"""The one loop over trainings: groups of tickets, a block of replicas after another.

Whatever finds masks or compares tickets says what is to be trained as a list of `Group`, and
`Runner.train` does it: it cuts the replicas of all groups into blocks of one call each, trains and
saves every block as a unit of the run's folder, and returns the evaluations by group.
"""

from __future__ import annotations

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket._ticket_arrays import pack
from jaxticket.controls import Change, changed
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.learner import Learner
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    Trained,
    Watch,
    history_arrays,
    job_plan,
    join,
    report_diverged,
    take,
    train_jobs,
)
from jaxticket.engine.monitors import Monitor, monitors_of
from jaxticket.engine.runtime import Row, Run
from jaxticket.engine.supervised import Origin, Supervised, masked_network, network_of
from jaxticket.pruning_settings import PruningSettings
from jaxticket.random import root_keys
from jaxticket.results import EvaluationLog
from jaxticket.runs import Runs, Trainings, TrainingsAt, density
from jaxticket.settings import Training
from jaxticket.sparsify.plan import NOTHING, Keeping
from jaxticket.stopping import StopRule
from jaxticket.ticket import Ticket, unpack
from jaxticket.typing import Json, Network, Params

Keep = Callable[[Trained, Jobs, int], Arrays]
"""What is saved of a trained block, `keep(trained, jobs, first)`: `first` is the number of its
first replica in the order [group, replica]."""


@dataclass(frozen=True, eq=False)
class Group:
    """Tickets that are trained in one way, one for each seed.

    Attributes:
      branch: their name in tables.
      level: in tables.
      ticket: `ticket() -> Ticket` stacked over [replica], with weights at every position; called
        when a block is trained, so that the weights of one block alone are held.
      training: how they are trained.
      pruning: how they were pruned; says which weights count in densities.
      order: which of the orders of its key a replica sees, one number or [replica].
      lost: bool [replica], which seeds have no such ticket.
      start: the step at which they are expected to start, for the progress bar.
      augment: which augmentation a replica sees, one number or [replica]; that of `order` if None.
      stop: the step at which they end, one number or [replica]; the end of training if None.
      seeds: of the replicas; those of the runner if None.
      dilation: factor of the schedule's times, in tables.
      title: in messages; branch and level if None.
      told: of each replica, its branch in the rows that callbacks are told; `branch` if None.
      density: in tables, float64 [replica]; that of the tickets if None.
      memory: what a mask rule remembers from the start, a tree of arrays [replica, ...].
    """

    branch: str
    level: int
    ticket: Callable[[], Ticket]
    training: Training
    pruning: PruningSettings
    order: int | np.ndarray
    lost: np.ndarray
    start: int = 0
    augment: int | np.ndarray | None = None
    stop: int | np.ndarray | None = None
    seeds: tuple[int, ...] | None = None
    dilation: float = 1.0
    title: str | None = None
    told: tuple[str, ...] | None = None
    density: np.ndarray | None = None
    memory: object = ()

    @property
    def steps(self) -> int:
        """Expected steps of one replica."""
        stop = self.training.steps if self.stop is None else int(np.max(self.stop))
        return stop - self.start

    @property
    def called(self) -> str:
        """The group in a message."""
        return self.title or f"level {self.level}, {self.branch}"

    def jobs(self, ticket: Ticket, keys: np.ndarray) -> Jobs:
        """What the engine trains.

        Args:
          ticket: that of the group.
          keys: key data of the root key of each replica.
        """
        plan = job_plan(self.training, len(keys), order=self.order, augment=self.augment, keys=keys)
        if self.stop is not None:
            stop = np.broadcast_to(np.asarray(self.stop, np.int32), len(keys)).copy()
            plan = plan._replace(schedule=plan.schedule._replace(stop=stop))
        origin = Origin(ticket.params, ticket.stats, ticket.mask, self.memory)
        return Jobs(origin, keys, np.asarray(ticket.step, np.int32), plan, self.lost)


Kept = dict[int | None, Ticket]
"""Networks by step, None for those after training."""


class Groups(NamedTuple):
    """Groups that were trained.

    Attributes:
      logs: their evaluations, in order.
      blocks: the arrays of each block; with what was kept of it.
      bounds: first replica of each block and the one after its last, in the order of [group,
        replica].
      costs: rows of the table of seconds, one for each block.
      kept: the networks of each group by their step, None for those after training, as tickets
        stacked over [replica]; what was not asked for, and steps that a group does not come by, are
        not there.
    """

    logs: list[EvaluationLog]
    blocks: list[Arrays]
    bounds: list[tuple[int, int]]
    costs: list[dict[str, str | float]]
    kept: list[Kept]


class Weights(NamedTuple):
    """Networks that were kept, of all trainings of a run.

    Attributes:
      final, at: as of `Runs`.
    """

    final: dict[Trainings, Ticket]
    at: dict[TrainingsAt, Ticket]

    def add(self, group: Group, kept: Kept) -> None:
        """Note those of a group."""
        key = group.branch, group.level, group.dilation
        for step, network in kept.items():
            if step is None:
                self.final[key] = network
            else:
                self.at[*key, step] = network


@dataclass(frozen=True, eq=False)
class Runner:
    """Trains groups of tickets of one network, seeds side by side.

    Attributes:
      run: where.
      net, data, training: what is trained on what, and how.
      seeds: one replica of each group each.
      learner: what is trained; supervised training of the network if None.
      keeping: which networks of the run are kept, for strategies that train some themselves.
    """

    run: Run
    net: Network
    data: Data | Stream
    training: Training
    seeds: tuple[int, ...]
    learner: Learner[Any, Any, Any] | None = None
    keeping: Keeping = NOTHING

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """Key data of the root key of each seed."""
        return _key_data(self.seeds)

    def control(
        self,
        name: str,
        change: Change,
        ticket: Ticket,
        *,
        pruning: PruningSettings,
        factors: Params | None = None,
    ) -> Ticket:
        """A changed ticket, stacked over [seed]; see `controls.changed`."""
        return changed(
            change,
            ticket,
            self.seeds,
            name=name,
            net=self.net,
            mesh=self.run.mesh,
            exclude=pruning.exclude,
            factors=factors,
        )

    def train(
        self,
        groups: Sequence[Group],
        *,
        unit: str = "jobs",
        keep: Keep | None = None,
        snapshots_at: Sequence[int] = (),
        watch: Callable[[Jobs], Watch] | None = None,
        monitors: Sequence[Monitor] | None = None,
        ends_only: bool = False,
        block: int | None = None,
        weights: Keeping = NOTHING,
    ) -> Groups:
        """Train groups, as many replicas at a time as a call of the program takes.

        Args:
          groups: what to train, as many replicas in each.
          unit: name of the units in the folder; the first and last replica are appended.
          keep: what is saved with a block.
          snapshots_at: steps whose states `keep` looks at.
          watch: what else is computed at every evaluation of some jobs; `keep` looks at it.
          monitors: what is measured during training; those of the groups' training if None.
          ends_only: whether to evaluate at the start and the end alone.
          block: most replicas of a block; as many as a call takes if None.
          weights: which networks are kept.

        Returns:
          The evaluations of each group, the arrays of each block, and the trained networks.
        """
        each = len(groups[0].seeds or self.seeds)
        blocks, bounds, costs = [], [], []
        densities: dict[int, np.ndarray] = {}
        tickets: dict[int, Ticket] = {}
        starts: dict[int, int] = {}
        learner = self.learner or Supervised(self.net, self.training)
        run = dataclasses.replace(self.run, program=self.run.compiled(learner))
        for own in run.blocks(unit, len(groups) * each, block or run.size):
            began, first, end = time.perf_counter(), own.first, own.end
            inside = range(first // each, -(-end // each))
            run.describe(groups[inside[0]].called)
            # one that goes on from the block before is made once: a control takes a compiled call
            tickets = {n: tickets[n] if n in tickets else groups[n].ticket() for n in inside}
            for n, ticket in tickets.items():
                known = groups[n].density
                densities[n] = (
                    density(self.net, groups[n].pruning, ticket, groups[n].lost)
                    if known is None
                    else known
                )
                starts[n] = int(np.max(ticket.step))
            # groups may have been pruned under other `exclude`
            alike = masks.alike([ticket.mask for ticket in tickets.values()])
            parts = [
                groups[n].jobs(ticket.replace(mask=mask), self._keys_of(groups[n]))
                for (n, ticket), mask in zip(tickets.items(), alike, strict=True)
            ]
            jobs = take(join(parts), first % each, first % each + end - first)
            del parts
            tickets = {n: ticket for n, ticket in tickets.items() if (n + 1) * each > end}
            # a control may start elsewhere than its ticket (reinit: at step 0)
            expected = sum(groups[i // each].steps for i in range(first, end))
            run.expect(jobs.steps - expected)
            prepared = time.perf_counter() - began
            watched = None if watch is None else watch(jobs)

            measured = monitors
            if measured is None:
                measured = monitors_of(groups[inside[0]].training)

            def make(
                name: str = own.name,
                jobs: Jobs = jobs,
                first: int = first,
                watched: Watch | None = watched,
                measured: Sequence[Monitor] = measured,
                rule: StopRule | None = groups[inside[0]].training.stop_when,
            ) -> Arrays:
                trained = train_jobs(
                    run, jobs, name, snapshots_at=snapshots_at, ends_only=ends_only, watch=watched,
                    monitors=measured, about=self._about(groups, densities, first, len(jobs.start)),
                    stop_when=rule, weights_at=weights.at,
                    weights=masked_network,
                )  # fmt: skip
                began = time.perf_counter()
                arrays = trained.evaluations | {"seconds": np.asarray(trained.seconds)}
                arrays |= {} if keep is None else keep(trained, jobs, first)
                arrays |= _packed_weights(trained, jobs, weights)
                return arrays | {"kept_seconds": np.asarray(time.perf_counter() - began)}

            blocks.append(run.unit(own, jobs.steps, make))
            bounds.append((first, end))
            row: dict[str, str | float] = {
                "unit": f"replicas {first} to {end}",
                "train_seconds": float(blocks[-1]["seconds"]),
                "prepare_seconds": prepared,
            }
            kept = {} if keep is None else {"prune_seconds": float(blocks[-1]["kept_seconds"])}
            costs.append(row | kept)
        logs = self._logs(groups, history_arrays(blocks), densities)
        networks: list[Kept] = [{} for _ in groups]
        for step in (*weights.at, *([None] if weights.trained else [])):
            for number, network in self._kept(groups, blocks, step, starts):
                networks[number][step] = network
        return Groups(logs, blocks, bounds, costs, networks)

    def _kept(
        self,
        groups: Sequence[Group],
        blocks: Sequence[Arrays],
        step: int | None,
        starts: Mapping[int, int],
    ) -> Iterator[tuple[int, Ticket]]:
        """Numbers of the groups that come by a step, and their networks there, from the blocks."""
        each = len(groups[0].seeds or self.seeds)
        joined = join([_unpacked_weights(block, self.net, _kind(step)) for block in blocks])
        for number, group in enumerate(groups):
            if step is None or starts[number] <= step <= group.start + group.steps:
                own = take(joined, number * each, (number + 1) * each)
                yield number, own.replace(level=np.full(each, group.level, np.int32))

    def _about(
        self, groups: Sequence[Group], densities: Mapping[int, np.ndarray], first: int, count: int
    ) -> list[Row]:
        """What callbacks are told of replicas, in the order [group, replica]."""
        found: list[Row] = []
        for place in range(first, first + count):
            seeds = groups[0].seeds or self.seeds
            group, replica = groups[place // len(seeds)], place % len(seeds)
            share = densities[place // len(seeds)][replica]
            found.append(
                {
                    "seed": int((group.seeds or self.seeds)[replica]),
                    "level": group.level,
                    "density": float(share),
                    "branch": group.branch if group.told is None else group.told[replica],
                    "dilation": group.dilation,
                }
            )
        return found

    def _keys_of(self, group: Group) -> np.ndarray:
        return self.keys if group.seeds is None else _key_data(group.seeds)

    def _logs(
        self, groups: Sequence[Group], history: Arrays, densities: Mapping[int, np.ndarray]
    ) -> list[EvaluationLog]:
        logs = []
        for number, group in enumerate(groups):
            seeds = group.seeds or self.seeds
            log = EvaluationLog.of_group(
                history,
                number,
                seeds=seeds,
                level=group.level,
                density=densities[number],
                branch=group.branch,
                dilation=group.dilation,
            )
            logs.append(log)
            report_diverged(self.run, group.called, seeds, log.diverged, group.lost)
        return logs

    def runs(
        self,
        pruning: PruningSettings,
        *,
        branch: str,
        logs: Sequence[EvaluationLog],
        tickets: Mapping[int, Ticket],
        origin: Ticket,
        costs: Sequence[Json],
        lost: Mapping[int, np.ndarray],
        trace: Sequence[Json] = (),
        folder: Path | None = None,
        found_in: Runs | None = None,
        moved: Mapping[str, object] | None = None,
        weights: Weights | None = None,
    ) -> Runs:
        """Put together what was found and trained; the arguments are attributes of `Runs`."""
        return Runs(
            net=self.net,
            data=self.data,
            training=self.training,
            pruning=pruning,
            seeds=self.seeds,
            branch=branch,
            histories=tuple(logs),
            by_level=tickets,
            origin=origin,
            costs=tuple(costs),
            folder=self.run.path if folder is None else folder,
            mesh=self.run.mesh,
            size=self.run.size,
            traces=tuple(trace),
            found_in=found_in,
            moved=moved or {},
            lost=lost,
            final={} if weights is None else weights.final,
            at={} if weights is None else weights.at,
        )


def final_weights(trained: Trained, count: int) -> Arrays:
    """Params and statistics of the first so many replicas of a block, by "trained/path"."""
    final = parallel.host(network_of(trained.state))
    return _tree.leaves(take(final, 0, count), "trained")


def _packed_weights(trained: Trained, jobs: Jobs, weights: Keeping) -> Arrays:
    """The networks of a block that are kept, kept weights alone, by "weights/..."."""
    count = len(jobs.start)
    level = np.zeros(count, np.int32)
    found = {
        step: Ticket(mask, params, stats, level, np.full(count, step, np.int32))
        for step, (mask, params, stats) in zip(weights.at, trained.weights, strict=True)
    }
    arrays = {f"{_kind(k)}/{name}": x for k, own in found.items() for name, x in pack(own).items()}
    if weights.trained:
        # a mask rule has moved the mask of the start
        last = parallel.host(masked_network(trained.state))
        stop = np.asarray(jobs.plan.schedule.stop, np.int32)
        final = Ticket(*take(last, 0, count), level, stop)
        arrays |= {f"{_kind(None)}/{name}": x for name, x in pack(final).items()}
    return arrays


def _kind(step: int | None) -> str:
    """What the arrays of networks at a step begin with in a unit."""
    return "weights" if step is None else f"weights-{step}"


def _unpacked_weights(arrays: Arrays, net: Network, kind: str) -> Ticket:
    """The networks of a block that `_packed_weights` gave."""
    begins = f"{kind}/"
    own = {name.removeprefix(begins): x for name, x in arrays.items() if name.startswith(begins)}
    return unpack(own, like=net.shapes)


def _key_data(seeds: tuple[int, ...]) -> np.ndarray:
    return np.asarray(jax.random.key_data(root_keys(seeds)))
