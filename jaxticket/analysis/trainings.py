"""A ticket trained side by side with everything that a verdict compares it with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree, results
from jaxticket.connectivity.copies import FIRST_NOISE, heights
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.controls import BRANCHES, changed
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.loop import (
    Arrays,
    Jobs,
    history_arrays,
    job_plan,
    join,
    report_diverged,
    take,
    train_jobs,
    train_unit,
)
from jaxticket.engine.metrics import METRICS
from jaxticket.engine.program import program
from jaxticket.engine.runtime import Run, Runtime
from jaxticket.engine.source import split_names
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.nn.resize import narrowed, parameters
from jaxticket.random import root_keys
from jaxticket.runs import Runs, density
from jaxticket.settings import Training
from jaxticket.ticket import Ticket
from jaxticket.typing import Network

TICKET, COPY, DENSE, SMALL = "ticket", "ticket_copy", "dense", "small_dense"
CHANGES = ("reinit", "sign_flip", "shuffle", "random", "layerwise_random")
"""Controls that are changes of the ticket, of `jt.BRANCHES`."""


class Contest(NamedTuple):
    """Who is trained.

    Attributes:
      runs: where the tickets are from.
      level: of the tickets.
      data, training: what all are trained on, and how.
      seeds: some of those of `runs`.
      rates: learning rates of the dense network.
      small: the small dense network, or None.
      points: on the line between the ticket and its copy.
    """

    runs: Runs
    level: int
    data: Data | Stream
    training: Training
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    small: Network | None
    points: int

    def ticket(self) -> Ticket:
        """The tickets with weights at every position, stacked over [seed]."""
        return self._of_seeds(self.runs.whole(self.level))

    def factors(self) -> Any:
        """As of `Runs`, of these seeds."""
        return self._of_seeds(self.runs.factors(self.level))

    def _of_seeds(self, tree: Any) -> Any:
        places = np.asarray([self.runs.seeds.index(seed) for seed in self.seeds])
        return jax.tree.map(lambda x: np.asarray(x)[places], tree)

    def lost(self) -> np.ndarray:
        """Which seeds have no ticket at this level, bool [seed]; see `Runs.lost`."""
        places = [self.runs.seeds.index(seed) for seed in self.seeds]
        return self.runs.lost_at(self.level)[places]


class Outcome(NamedTuple):
    """How they ended.

    Attributes:
      histories: evaluations by branch: "ticket", its copy, the controls, "dense" at the learning
        rate that is best on the validation split, and at the others "dense_lr_RATE".
      barrier: error barrier between the ticket and its copy on the test split, float64 [seed].
      dense_lr: that learning rate.
      folder: where the results lie, or None.
    """

    histories: dict[str, results.EvaluationLog]
    barrier: np.ndarray
    dense_lr: float
    folder: Path | None


def small_network(asked: Network | bool, net: Network, ticket: Ticket) -> Network | None:
    """The small dense network that a ticket has to beat; None where none is asked for.

    Args:
      asked: as `small_dense` of `jt.verdict`.
      net: the ticket's network.
      ticket: stacked over [seed].

    Raises:
      ValueError: for what is no network, and one that has more parameters than the ticket.
    """
    if asked is False:
        return None
    # of all seeds the least, so that none has more parameters than its ticket
    left = min(
        sum(int(np.count_nonzero(m[seed])) for m in jax.tree.leaves(ticket.mask))
        for seed in range(len(ticket.step))
    )
    if asked is True:
        return narrowed(net, left)
    if not isinstance(asked, Network):
        raise ValueError(
            f"`small_dense` must be a network, True for one that is as small as the ticket, or "
            f"False for none; got {asked!r}"
        )
    if (count := parameters(asked)) > left:
        raise ValueError(
            f"`small_dense` has {count} parameters and the ticket {left} that are left; give one "
            f"with no more, or True for the widest of them"
        )
    return asked


def hold(
    contest: Contest,
    settings: dict[str, Any],
    runtime: Runtime,
) -> Outcome:
    """Trains all of them; what the folder holds is read.

    Args:
      contest: who is trained.
      settings: of the folder.
      runtime: where it is done.
    """
    runs, training, data, seeds = contest.runs, contest.training, contest.data, contest.seeds
    net, count = runs.net, len(contest.seeds)
    splits = split_names(data)
    keys = np.asarray(jax.random.key_data(root_keys(seeds)))
    many = (2 + len(CHANGES) + len(contest.rates)) * count
    size = runtime.replicas_per_call(many, runs.size)
    with runtime.run(net, data, training, settings, size=size) as run:
        names, jobs, densities = _jobs(contest, run, keys)
        small = None if contest.small is None else _small(contest, run, keys)
        run.expect(jobs.steps + (0 if small is None else small[1].steps))
        run.describe("ticket, controls and dense network")
        blocks = [
            _block(run, take(jobs, first, first + size), first, 2 * count)
            for first in range(0, many, size)
        ]
        histories = _histories(seeds, contest.level, names, densities, history_arrays(blocks), run)
        if small is not None:
            run.describe("small dense network")
            trained = train_unit(small[0], small[1], SMALL)
            assert contest.small is not None
            share = np.full(count, parameters(contest.small) / parameters(net))
            histories |= _histories(
                seeds, contest.level, [SMALL], [share], history_arrays([trained]), run
            )
        barrier = _barrier(contest, run, blocks)
        run.finish()
    histories, rate = _best_dense(histories, contest.rates, splits)
    return Outcome(histories, barrier, rate, run.path)


def _jobs(contest: Contest, run: Run, keys: np.ndarray) -> tuple[list[str], Jobs, list[np.ndarray]]:
    """Names and densities of the contestants, and their jobs in the order [contestant, seed]: the
    ticket and its copy come first.
    """
    runs, training, seeds = contest.runs, contest.training, contest.seeds
    whole = contest.ticket()
    initial, stats = initial_networks(runs.net, run.mesh, keys)
    ones = jax.tree.map(lambda x: np.ones(x.shape, bool), initial)
    zero = np.zeros_like(whole.step)
    tickets = {
        TICKET: whole,
        COPY: whole,
        **{
            name: changed(
                BRANCHES[name], whole, seeds, name=name, net=runs.net, mesh=runs.mesh,
                exclude=runs.pruning.exclude, factors=contest.factors(),
            )
            for name in CHANGES
        },
        **{
            _dense_name(rate): Ticket(ones, initial, stats, zero, zero)  # type: ignore[arg-type]
            for rate in contest.rates
        },
    }  # fmt: skip
    rates = {_dense_name(rate): rate for rate in contest.rates}
    lost, parts = contest.lost(), []
    for name, ticket in tickets.items():
        own = training.replace(lr=rates[name]) if name in rates else training
        plan = job_plan(own, len(seeds), order=FIRST_NOISE + (name == COPY))
        start = np.asarray(ticket.step, np.int32)
        gone = lost & (name not in rates)
        origin = Origin(ticket.params, ticket.stats, ticket.mask)
        parts.append(Jobs(origin, keys, start, plan, gone))
    densities = [
        density(runs.net, runs.pruning, ticket, None if name in rates else lost)
        for name, ticket in tickets.items()
    ]
    return list(tickets), join(parts), densities


def _small(contest: Contest, run: Run, keys: np.ndarray) -> tuple[Run, Jobs]:
    """Where the small dense networks are trained, and their jobs."""
    assert contest.small is not None
    count = len(contest.seeds)
    run = replace(
        run,
        program=program(Supervised(contest.small, contest.training), run.mesh),
        size=parallel.block_size(count, run.mesh, None),
    )
    params, stats = initial_networks(contest.small, run.mesh, keys)
    mask = jax.tree.map(lambda x: np.ones(x.shape, bool), params)
    plan = job_plan(contest.training, count, order=FIRST_NOISE)
    start, lost = np.zeros(count, np.int32), np.zeros(count, bool)
    return run, Jobs(Origin(params, stats, mask), keys, start, plan, lost)


def _block(run: Run, jobs: Jobs, first: int, kept: int) -> Arrays:
    """Evaluations of some jobs, and the final weights of those among the first `kept` of all."""
    name = f"networks-{first:04d}-{first + len(jobs.start):04d}"

    def make() -> Arrays:
        trained = train_jobs(run, jobs, name)
        final = (trained.state.params, trained.state.stats)
        final = take(parallel.host(final), 0, max(0, min(len(jobs.start), kept - first)))
        leaves = zip(_tree.paths(final), jax.tree.leaves(final), strict=True)
        return trained.evaluations | {f"weights/{path}": leaf for path, leaf in leaves}

    return run.unit(name, jobs.steps, make)


def _barrier(contest: Contest, run: Run, blocks: list[Arrays]) -> np.ndarray:
    """Error barriers on the test split between each ticket and its copy, [seed]."""
    count = len(contest.seeds)
    alphas = np.linspace(0, 1, contest.points)

    def make() -> Arrays:
        like = contest.runs.net.shapes
        leaves = [
            np.concatenate([block[f"weights/{path}"] for block in blocks])
            for path in _tree.paths(like)
        ]
        final = jax.tree.unflatten(jax.tree.structure(like), leaves)
        index = np.stack([np.arange(count), count + np.arange(count)], axis=1)
        index = np.repeat(index, len(alphas), axis=0)
        weight = np.tile(np.stack([1 - alphas, alphas], axis=1), (count, 1))
        evaluator = Evaluator(
            contest.runs.net, contest.data, contest.training, run.mesh, put=run.data
        )
        values = evaluator.points(final, index, weight)
        return {"line": values.reshape(count, len(alphas), run.splits, -1)}

    test = split_names(contest.data).index("test")
    barrier = heights(run.unit("line", 0, make)["line"])[:, test, 0]
    lost = history_arrays(blocks)["diverged"][: 2 * count] >= 0
    return np.where(lost[:count] | lost[count:], np.nan, barrier)


def _histories(
    seeds: tuple[int, ...],
    level: int,
    names: Sequence[str],
    densities: Sequence[np.ndarray],
    arrays: Arrays,
    run: Run,
) -> dict[str, results.EvaluationLog]:
    found = {}
    for number, (name, share) in enumerate(zip(names, densities, strict=True)):
        found[name] = results.EvaluationLog.of_group(
            arrays,
            number,
            seeds=seeds,
            level=0 if name.startswith(DENSE) else level,
            density=share,
            branch=name,
        )
        report_diverged(run, name, seeds, found[name].diverged)
    return found


def _best_dense(
    histories: dict[str, results.EvaluationLog], rates: tuple[float, ...], splits: tuple[str, ...]
) -> tuple[dict[str, results.EvaluationLog], float]:
    """The histories, with that of the dense network's best learning rate called "dense"."""
    best = rates[0]
    if len(rates) > 1:
        held, accuracy = splits.index("validation"), METRICS.index("accuracy")
        final = [histories[_dense_name(rate)].final()[:, held, accuracy] for rate in rates]
        # first the rates at which fewest seeds diverged, then the most accurate of them
        whole = [int(np.isfinite(x).sum()) for x in final]
        means = [float(np.nanmean(x)) if n else 0.0 for x, n in zip(final, whole, strict=True)]
        best = rates[max(range(len(rates)), key=lambda i: (whole[i], means[i]))]
    own = _dense_name(best)
    renamed = {DENSE if name == own else name: h for name, h in histories.items()}
    return {name: h._replace(branch=name) for name, h in renamed.items()}, best


def _dense_name(rate: float) -> str:
    return f"{DENSE}_lr_{rate:g}"
