"""A ticket trained side by side with everything that a verdict compares it with."""

from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxticket import _tree, masks
from jaxticket.connectivity.copies import FIRST_NOISE, heights
from jaxticket.connectivity.evaluator import Evaluator
from jaxticket.controls import BRANCHES
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.judged import ACCURACY, Judged
from jaxticket.engine.loop import Arrays, Jobs, Trained, history_arrays, join
from jaxticket.engine.runtime import Run, Runtime
from jaxticket.engine.source import split_names
from jaxticket.nn.resize import NoWidthError, narrowed, parameters
from jaxticket.pruning_settings import PruningAtStep, PruningSettings
from jaxticket.results import EvaluationLog
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.runner import Group, Runner, final_weights
from jaxticket.sparsify.strategy import dense_ticket, weights_of
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
      main: the metric that all are judged by.
    """

    runs: Runs
    level: int
    data: Data | Stream
    training: Training
    seeds: tuple[int, ...]
    rates: tuple[float, ...]
    small: Network | None
    points: int
    main: Judged = ACCURACY

    def ticket(self) -> Ticket:
        """The tickets with weights at every position, stacked over [seed]."""
        return self._of_seeds(self.runs.whole(self.level))

    def factors(self) -> Any:
        """As of `Runs`, of these seeds."""
        return self._of_seeds(self.runs.factors(self.level))

    def _of_seeds(self, tree: Any) -> Any:
        return _tree.rows(tree, [self.runs.seeds.index(seed) for seed in self.seeds])

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

    histories: dict[str, EvaluationLog]
    barrier: np.ndarray
    dense_lr: float
    folder: Path | None


def small_network(asked: Network | bool | None, net: Network, ticket: Ticket) -> Network | None:
    """The small dense network that a ticket has to beat; None where none is asked for.

    Args:
      asked: as `small_dense` of `jt.verdict`.
      net: the ticket's network.
      ticket: stacked over [seed].

    Raises:
      ValueError: for what is no network, and one that has more parameters than the ticket.

    Warns:
      UserWarning: where None is asked for and the network has no width.
    """
    if asked is False:
        return None
    # of all seeds the least, so that none has more parameters than its ticket
    counts = masks.map_with(
        lambda m, w: np.count_nonzero(m.reshape(len(m), -1), axis=1),
        ticket.mask,
        ticket.params,
        other=lambda w: np.full(len(w), w[0].size),
    )
    left = int(np.min(sum(jax.tree.leaves(counts))))
    if asked is None or asked is True:
        try:
            return narrowed(net, left)
        except NoWidthError as error:
            remedy = (
                f"{error.why}, or pass small_dense=NET, a network with at most the {left:,} "
                f"parameters that the ticket has left"
            )
            if asked:
                raise ValueError(
                    f"`small_dense` is True: {remedy}, or small_dense=False for none"
                ) from error
            warnings.warn(
                f"`small_dense` is not tested, without which no ticket wins: {remedy}",
                stacklevel=3,
            )
            return None
        except ValueError as error:
            raise ValueError(
                f"`small_dense` cannot have at most the {left:,} parameters that the ticket has "
                f"left: {error}, or pass small_dense=False"
            ) from error
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
    many = (2 + len(CHANGES) + len(contest.rates)) * count
    size = runtime.replicas_per_call(many, runs.size)
    with runtime.run(net, data, training, settings, size=size) as run:
        runner = Runner(run, net, data, training, seeds)
        groups = _groups(contest, runner)
        run.expect(sum(group.steps for group in groups) * count)
        run.expect(0 if contest.small is None else training.steps * count)
        run.describe("ticket, controls and dense network")

        def keep(trained: Trained, jobs: Jobs, first: int) -> Arrays:
            # of the ticket and its copy, which come first
            return final_weights(trained, max(0, min(len(jobs.start), 2 * count - first)))

        trained = runner.train(groups, unit="networks", keep=keep)
        logs = {log.branch: log for log in trained.logs}
        if contest.small is not None:
            logs[SMALL] = _small(contest, contest.small, run)
        barrier = _barrier(contest, run, trained.blocks)
        run.finish()
    logs, rate = _best_dense(logs, contest.rates, split_names(data), contest.main)
    return Outcome(logs, barrier, rate, run.path)


def _groups(contest: Contest, runner: Runner) -> list[Group]:
    """All that are trained side by side; the ticket and its copy come first."""
    pruning, whole, factors = contest.runs.pruning, contest.ticket(), contest.factors()
    tickets = {TICKET: whole, COPY: whole}
    for name in CHANGES:
        tickets[name] = runner.control(
            name, BRANCHES[name], whole, pruning=pruning, factors=factors
        )
    lost, training = contest.lost(), contest.training
    groups = [
        _group(name, ticket, contest.level, training, pruning, lost)
        for name, ticket in tickets.items()
    ]
    groups[1] = replace(groups[1], order=FIRST_NOISE + 1)
    none, dense = np.zeros(len(contest.seeds), bool), _dense(runner)
    for rate in contest.rates:
        own = training.replace(lr=rate)
        groups.append(_group(_dense_name(rate), dense, 0, own, pruning, none))
    return groups


def _group(
    name: str,
    ticket: Ticket,
    level: int,
    training: Training,
    pruning: PruningSettings,
    lost: np.ndarray,
) -> Group:
    start = int(np.asarray(ticket.step)[0])
    return Group(
        name, level, lambda: ticket, training, pruning, FIRST_NOISE, lost, start=start, title=name
    )


def _dense(runner: Runner) -> Ticket:
    """The dense networks at initialization, as tickets."""
    return dense_ticket(runner.net, initial_networks(runner.net, runner.run.mesh, runner.keys), 0)


def _small(contest: Contest, net: Network, run: Run) -> EvaluationLog:
    """The evaluations of the small dense networks; their density is their share of parameters."""
    count = len(contest.seeds)
    run = replace(run, size=parallel.block_size(count, run.mesh, None))
    runner = Runner(run, net, contest.data, contest.training, contest.seeds)
    whole, none = PruningAtStep((1.0,)), np.zeros(count, bool)
    group = _group(SMALL, _dense(runner), contest.level, contest.training, whole, none)
    (log,) = runner.train([group], unit=SMALL).logs
    share = parameters(net) / parameters(contest.runs.net)
    return log._replace(density=np.full(count, share))


def _barrier(contest: Contest, run: Run, blocks: list[Arrays]) -> np.ndarray:
    """Error barriers on the test split between each ticket and its copy, [seed]."""
    count = len(contest.seeds)
    alphas = np.linspace(0, 1, contest.points)

    def make() -> Arrays:
        final = join([weights_of(block, contest.runs.net) for block in blocks])
        index = np.stack([np.arange(count), count + np.arange(count)], axis=1)
        index = np.repeat(index, len(alphas), axis=0)
        weight = np.tile(np.stack([1 - alphas, alphas], axis=1), (count, 1))
        evaluator = Evaluator(
            contest.runs.net, contest.data, contest.training, run.mesh, put=run.data
        )
        values = evaluator.points(final, index, weight)
        return {"line": values.reshape(count, len(alphas), run.splits, -1)}

    test = split_names(contest.data).index("test")
    barrier = heights(run.unit("line", 0, make)["line"], contest.main)[:, test, 0]
    lost = history_arrays(blocks)["diverged"][: 2 * count] >= 0
    return np.where(lost[:count] | lost[count:], np.nan, barrier)


def _best_dense(
    histories: dict[str, EvaluationLog],
    rates: tuple[float, ...],
    splits: tuple[str, ...],
    main: Judged,
) -> tuple[dict[str, EvaluationLog], float]:
    """The histories, with that of the dense network's best learning rate called "dense"."""
    best = rates[0]
    if len(rates) > 1:
        held = splits.index("validation")
        final = [main.worth(histories[_dense_name(rate)].final()[:, held]) for rate in rates]
        # first the rates at which fewest seeds diverged, then the most accurate of them
        whole = [int(np.isfinite(x).sum()) for x in final]
        means = [float(np.nanmean(x)) if n else -np.inf for x, n in zip(final, whole, strict=True)]
        best = rates[max(range(len(rates)), key=lambda i: (whole[i], means[i]))]
    own = _dense_name(best)
    renamed = {DENSE if name == own else name: h for name, h in histories.items()}
    return {name: h._replace(branch=name) for name, h in renamed.items()}, best


def _dense_name(rate: float) -> str:
    return f"{DENSE}_lr_{rate:g}"
