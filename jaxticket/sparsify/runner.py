"""The one loop over trainings: groups of tickets, a block of replicas after another.

Whatever finds masks or compares tickets says what is to be trained as a list of `Group`, and
`Runner.train` does it: it cuts the replicas of all groups into blocks of one call each, trains and
saves every block as a unit of the run's folder, and returns the evaluations by group.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket.controls import Change, changed
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    Trained,
    history_arrays,
    job_plan,
    join,
    report_diverged,
    take,
    train_jobs,
)
from jaxticket.engine.monitors import Monitor
from jaxticket.engine.runtime import Run
from jaxticket.engine.supervised import Origin
from jaxticket.random import root_keys
from jaxticket.results import EvaluationLog
from jaxticket.runs import density
from jaxticket.settings import Pruning, PruningAtStep, Training
from jaxticket.ticket import Ticket
from jaxticket.typing import Network, Params


@dataclass(frozen=True, eq=False)
class Group:
    """Tickets that are trained in one way, one for each seed.

    Attributes:
      branch: their name in tables.
      level: in tables.
      ticket: `ticket() -> Ticket` stacked over [seed], with weights at every position; called when
        a block is trained, so that the weights of one block alone are held.
      training: how they are trained.
      order: which of the orders of its key a replica sees.
      lost: bool [seed], which seeds have no such ticket.
      start: the step at which they are expected to start, for the progress bar.
      dilation: factor of the schedule's times, in tables.
      title: in messages; branch and level if None.
    """

    branch: str
    level: int
    ticket: Callable[[], Ticket]
    training: Training
    order: int
    lost: np.ndarray
    start: int = 0
    dilation: float = 1.0
    title: str | None = None

    @property
    def steps(self) -> int:
        """Expected steps of one replica."""
        return self.training.steps - self.start

    @property
    def called(self) -> str:
        """The group in a message."""
        return self.title or f"level {self.level}, {self.branch}"


class Groups(NamedTuple):
    """Groups that were trained.

    Attributes:
      logs: their evaluations, in order.
      blocks: the arrays of each block; with what was kept of it.
      costs: rows of the table of seconds, one for each block.
    """

    logs: list[EvaluationLog]
    blocks: list[Arrays]
    costs: list[dict[str, Any]]


@dataclass(frozen=True, eq=False)
class Runner:
    """Trains groups of tickets of one network, seeds side by side.

    Attributes:
      run: where.
      net: the network.
      pruning: how the tickets were pruned; says which weights count in densities.
      seeds: one replica of each group each.
    """

    run: Run
    net: Network
    pruning: Pruning | PruningAtStep
    seeds: tuple[int, ...]

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """Key data of the root key of each seed."""
        return np.asarray(jax.random.key_data(root_keys(self.seeds)))

    def controls(
        self,
        changes: Mapping[str, Change],
        ticket: Ticket,
        *,
        factors: Params | None = None,
    ) -> dict[str, Ticket]:
        """The changed tickets by name; see `controls.changed`."""
        return {
            name: self.control(name, change, ticket, factors) for name, change in changes.items()
        }

    def control(
        self, name: str, change: Change, ticket: Ticket, factors: Params | None = None
    ) -> Ticket:
        """A changed ticket, stacked over [seed]."""
        return changed(
            change,
            ticket,
            self.seeds,
            name=name,
            net=self.net,
            mesh=self.run.mesh,
            exclude=self.pruning.exclude,
            factors=factors,
        )

    def train(
        self,
        groups: Sequence[Group],
        *,
        unit: str = "jobs",
        keep: Callable[[Trained, Jobs, int], Arrays] | None = None,
        snapshots_at: Sequence[int] = (),
        describe: Callable[[Sequence[Group]], str] | None = None,
    ) -> Groups:
        """Train groups, as many replicas at a time as a call of the program takes.

        Args:
          groups: what to train.
          unit: name of the units in the folder; the first and last replica are appended.
          keep: `keep(trained, jobs, first) -> arrays` to be saved with a block; `first` is the
            number of its first replica in the order [group, seed].
          snapshots_at: steps whose states `keep` looks at.
          describe: what the progress bar says of the groups of a block.

        Returns:
          The evaluations of each group, and the arrays of each block.
        """
        seeds, size = len(self.seeds), self.run.size
        count = len(groups) * seeds
        expected = np.repeat([group.steps for group in groups], seeds)
        blocks, costs = [], []
        densities: dict[int, np.ndarray] = {}
        for first in range(0, count, size):
            began = time.perf_counter()
            end = min(first + size, count)
            own = groups[first // seeds : -(-end // seeds)]
            if describe is not None:
                self.run.describe(describe(own))
            parts = []
            for number, group in enumerate(own, first // seeds):
                # made once for both: a control takes a compiled call
                ticket = group.ticket()
                densities[number] = density(self.net, self.pruning, ticket, group.lost)
                parts.append(jobs_of(group, ticket, self.keys))
            jobs = take(join(parts), first % seeds, first % seeds + end - first)
            del parts, ticket
            # a control may start elsewhere than its ticket (reinit: at step 0)
            self.run.expect(jobs.steps - int(expected[first:end].sum()))
            name = f"{unit}-{first:05d}-{end:05d}"
            make = functools.partial(
                self._trained, name, jobs, first, keep, snapshots_at, own[0].training.monitors
            )
            blocks.append(self.run.unit(name, jobs.steps, make))
            seconds = time.perf_counter() - began
            costs.append({"unit": f"replicas {first} to {end}", "train_seconds": seconds})
        return Groups(self._logs(groups, history_arrays(blocks), densities), blocks, costs)

    def _trained(
        self,
        name: str,
        jobs: Jobs,
        first: int,
        keep: Callable[[Trained, Jobs, int], Arrays] | None,
        snapshots_at: Sequence[int],
        monitors: Sequence[Monitor],
    ) -> Arrays:
        trained = train_jobs(self.run, jobs, name, snapshots_at=snapshots_at, monitors=monitors)
        arrays = trained.evaluations | {"seconds": np.asarray(trained.seconds)}
        return arrays if keep is None else arrays | keep(trained, jobs, first)

    def _logs(
        self, groups: Sequence[Group], history: Arrays, densities: Mapping[int, np.ndarray]
    ) -> list[EvaluationLog]:
        logs = []
        for number, group in enumerate(groups):
            log = EvaluationLog.of_group(
                history,
                number,
                seeds=self.seeds,
                level=group.level,
                density=densities[number],
                branch=group.branch,
                dilation=group.dilation,
            )
            logs.append(log)
            report_diverged(self.run, group.called, self.seeds, log.diverged, group.lost)
        return logs


def jobs_of(group: Group, ticket: Ticket, keys: np.ndarray) -> Jobs:
    """The jobs of a group, with its weights.

    Args:
      group: what is trained.
      ticket: that of the group.
      keys: key data of the root key of each seed.
    """
    return Jobs(
        Origin(ticket.params, ticket.stats, ticket.mask),
        keys,
        np.asarray(ticket.step, np.int32),
        job_plan(group.training, len(keys), order=group.order),
        group.lost,
    )
