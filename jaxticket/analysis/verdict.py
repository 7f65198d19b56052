"""`jt.verdict`: is this a winning ticket? The strict definition, in one call."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from jaxticket import _files, _identity, _saved, _show, _stats, results
from jaxticket._check import distinct_seeds, instance, number, several, text, whole
from jaxticket.analysis import costs, stats
from jaxticket.analysis.conditions import CONTROLS, Rules, conditions
from jaxticket.analysis.trainings import (
    CHANGES,
    COPY,
    DENSE,
    TICKET,
    Contest,
    Outcome,
    hold,
    small_network,
)
from jaxticket.controls import BRANCHES
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import teaching
from jaxticket.engine.folder_errors import explained
from jaxticket.engine.judged import ACCURACY, Judged, judged_by
from jaxticket.engine.metrics import check, metric_names
from jaxticket.engine.program import check_fit
from jaxticket.engine.runtime import Runtime, settled
from jaxticket.engine.source import split_names
from jaxticket.engine.store import on_first
from jaxticket.runs import Runs, require_runs
from jaxticket.settings import Training, has_own_rate
from jaxticket.typing import Network

if TYPE_CHECKING:
    import pandas as pd

TRIED = (1 / 3, 1.0, 3.0)
"""Factors of the training's learning rate that are tried for the dense network."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """The result of `jt.verdict`.

    Attributes:
      method: name of the method that found the mask.
      density: mean realised density.
      seeds: those that were trained.
      start: the step that tickets start from. Under learning-rate rewinding they start with
        trained weights, and from step 0 of the schedule.
      at_init: whether the masks leave weights of initialization, which alone can win.
      dense_lr: the dense network's learning rate.
      tuned: whether that is the best of several on the validation split, or was given.
      small: the small dense network; None where none was asked for or the network has no width. Of
        a verdict that `jt.load` read, one made of your own code is what was recorded of it.
      step: at which the ticket is judged: the first at which it is as accurate as the trained dense
        network on the validation split if it passes all there, else the last.
      cost: examples seen until the mask was known, in epochs; nan where that cannot be told.
      folder: where it is saved, or None.
      metric: by which networks are judged.
      shares: whether the metric is a share of 1, which is written in percent.
    """

    method: str
    density: float
    seeds: tuple[int, ...]
    start: int
    at_init: bool
    dense_lr: float
    tuned: bool
    small: Network | None
    step: int
    cost: float
    folder: Path | None
    _conditions: pd.DataFrame = field(repr=False)
    _networks: pd.DataFrame = field(repr=False)
    metric: str = ACCURACY.name
    shares: bool = ACCURACY.shares

    def __repr__(self) -> str:
        return str(self)

    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        first, *_, last = str(self).splitlines()
        said = {True: "passes", False: "FAILS", None: "not tested"}
        rows = [
            (
                row["condition"],
                *(self._written(row[name]) for name in ("value", "low", "high", "bar", "margin")),
                said[row["passes"]],
                row["means"],
            )
            for row in self._conditions.to_dict("records")
        ]
        columns = ("condition", "value", "low", "high", "bar", "margin", "", "means")
        return _show.Summary(first, (("", last),), columns, rows)

    def _written(self, value: float, width: int = 0, sign: str = "") -> str:
        """A number of the conditions, in percent or in the units of the metric; "-" for none."""
        if np.isnan(value):
            return f"{'-':>{width}}"
        if self.shares:
            # adding 0 makes a rounded -0 a 0: what passes by nothing has no minus
            return f"{round(100 * value, 2) + 0.0:{sign}{width}.2f}"
        return f"{value:{sign}{width}.4g}"

    def conditions(self) -> pd.DataFrame:
        """Give the table of conditions; see `jaxticket.analysis.conditions.conditions`."""
        return self._conditions.copy()

    def networks(self) -> pd.DataFrame:
        """Give every evaluation of every network that was trained.

        A tidy table like `Runs.table()`, with the branches "dense", "ticket", its copy under other
        SGD noise, and the controls.
        """
        return self._networks.copy()

    def _passes(self, name: str) -> bool | None:
        row = self._conditions.loc[self._conditions["condition"] == name].iloc[0]
        return None if row["passes"] is None else bool(row["passes"])

    @property
    def stable(self) -> bool:
        """Whether copies under other SGD noise end linearly connected (Definition 6.1)."""
        return bool(self._passes("stable"))

    @property
    def beats(self) -> tuple[str, ...]:
        """The controls that the ticket beats by a clear gap."""
        return tuple(name for name in CONTROLS if self._passes(name))

    @property
    def sensitive(self) -> bool:
        """Whether at least one control is clearly worse (Definition 6.2 as printed)."""
        return bool(self.beats)

    @property
    def matching(self) -> bool:
        """Whether the ticket is as accurate as the dense network, or as good by the metric."""
        return bool(self._passes("matching"))

    @property
    def passes_all(self) -> bool:
        """Whether every condition was tested and passes."""
        return all(value is True for value in map(self._passes, self._conditions["condition"]))

    @property
    def winning(self) -> bool:
        """Whether the ticket wins (Definition 6.3).

        Every condition was tested and passes, for a ticket at initialization and a dense network
        whose learning rate is tuned.
        """
        return self.passes_all and self.at_init and self.tuned

    def summary(self) -> dict[str, str | float | bool]:
        """Give one row of the source's Table 1."""
        return {
            "method": self.method,
            "density": self.density,
            "stable": self.stable,
            "sensitive": self.sensitive,
            "beats": f"{len(self.beats)}/{len(CONTROLS)}",
            "at_init": self.at_init,
            "tuned": self.tuned,
            "wins": self.winning,
            "cost_epochs": self.cost,
        }

    def __str__(self) -> str:
        """Write the conditions, then the verdict."""
        several = self._networks["branch"].str.startswith("dense_lr_").any()
        best = "the best on the validation split" if several else "as given"
        rate = f"learning rate {self.dense_lr:g}, {best if self.tuned else 'not tuned'}"
        dense = self._networks.loc[self._networks["branch"] == "dense"]
        ends = stats.final(dense, split="test", metric=self.metric)["value"].to_numpy(float)
        mean = _stats.mean(_stats.finite(ends))
        unit = "%" if self.shares and np.isfinite(mean) else ""
        rate = f"test {self.metric} {self._written(mean)}{unit}, {rate}"
        lines = [
            f"{self.method}, {100 * self.density:.3g}% of the weights, from step {self.start}, "
            f"{len(self.seeds)} seeds, judged at step {self.step}; dense network: {rate}",
            f"{'condition':12} {'value':>7} {'95% interval':>16} {'bar':>7} {'margin':>7}",
        ]
        for row in self._conditions.to_dict("records"):
            said = {True: "passes", False: "FAILS", None: "not tested"}[row["passes"]]
            lost = f"; {row['diverged']} diverged" if row["diverged"] else ""
            value, low, bar = (self._written(row[name], 7) for name in ("value", "low", "bar"))
            high, margin = self._written(row["high"], 5), self._written(row["margin"], 7, "+")
            lines.append(
                f"{row['condition']:12} {value} {low} to {high} {bar} {margin}  {said:10} "
                f"({row['means']}{lost})"
            )
        verdict = f"no winning ticket: {self._reason()}"
        if self.winning:
            verdict = "a winning ticket"
        elif self.passes_all and not self.at_init:
            verdict = "passes all, but does not start with weights of initialization"
        elif self.passes_all:
            verdict = (
                "passes all, but the dense network's learning rate was not tuned: hold out a "
                "validation split (`data.with_validation(0.1)`), or give the rate as `dense_lrs`"
            )
        return "\n".join([*lines, f"verdict: {verdict}"])

    def _reason(self) -> str:
        """Name the conditions that failed, those that were not tested, and what else is missing."""
        names = self._conditions["condition"]
        failed = [name for name in names if self._passes(name) is False]
        untested = [name for name in names if self._passes(name) is None]
        parts = [f"failed {', '.join(failed)}"] if failed else []
        parts += [f"not tested {', '.join(untested)}"] if untested else []
        if not self.at_init:
            parts.append("does not start with weights of initialization")
        if not self.tuned:
            parts.append("the dense network's learning rate was not tuned")
        return "; ".join(parts)

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write both tables (Parquet and CSV) and the text, and give the folder."""
        target = self.folder if folder is None else _files.absolute(folder)
        if target is None:
            raise ValueError("`folder` is needed to save a verdict that has none")
        with explained(target):
            target.mkdir(parents=True, exist_ok=True)
            results.write(self._conditions, target, "conditions")
            results.write(self._networks, target, "networks")
            _files.write_text(target / "verdict.txt", f"{self}\n")
            named = ("method", "density", "seeds", "start", "at_init", "dense_lr", "tuned", "step")
            record = {name: getattr(self, name) for name in (*named, "cost", "metric", "shares")}
            record["passes"] = [
                None if passes is None else bool(passes) for passes in self._conditions["passes"]
            ]
            record["small"] = None if self.small is None else _identity.network(self.small)
            record["small_classes"] = 0 if self.small is None else self.small.classes
            _saved.write(target, _saved.VERDICT, record, {})
        return target


def verdict(
    runs: Runs,
    *,
    level: int,
    net: Network | None = None,
    data: Data | Stream | None = None,
    training: Training | None = None,
    seeds: Iterable[int] | None = None,
    dense_lrs: Sequence[float] | None = None,
    small_dense: Network | bool | None = None,
    points: int = 30,
    metric: str | None = None,
    rules: Rules | None = None,
    method: str | None = None,
    runtime: Runtime | None = None,
    folder: str | os.PathLike[str] | None = None,
    at_once: int | None = None,
    save_every: float = 60.0,
    progress: bool = True,
) -> Verdict:
    """Judge whether tickets are winning ones, by the strict definition of KD-LTS.

    By the thesis, a winning ticket starts at initialization and becomes as accurate as the dense
    network (`runs.winning()`). Here it also has to beat every control by a clear gap, be stable,
    and match a dense network whose learning rate is tuned. The printed verdict names the
    conditions that failed.

    The ticket, a copy of it under other SGD noise, its controls (weights reinitialized, signs
    flipped, mask shuffled in each layer and over all, random pruning of each layer) and the dense
    network at several learning rates train side by side in one compiled program, each for all of
    the training; a small dense network of as many parameters as the ticket, which has other shapes,
    trains in a second program. All networks of a seed but the copy see one order of examples.

    The ticket of a mask rule is the mask that training ends with, on the weights of initialization:
    it is trained here again, under this mask from the first step on. The network that was trained
    while its mask moved is not judged.

    Args:
      runs: from `find_tickets`, `prune_at`, `search` or `sparse_train`.
      level: of the tickets.
      net: the network, which must be that of `runs`; None for that.
      data: the data; those of `runs` if None.
      training: how every network is trained; as in `runs` if None.
      seeds: at least two of those of `runs`; all if None.
      dense_lrs: learning rates of the dense network, of which the best on the validation split
        counts; one rate is taken to be tuned already. If None a third, once and three times that of
        the training; without a validation split that of the training alone, next to which no ticket
        can win.
      small_dense: the small dense network; True for the widest `net.resized` with no more
        parameters than the ticket has left, False for none, without which no ticket can win. None
        for True where the network has a width, as those of this library have; one of your own has
        where it was made with `resized`, and otherwise a warning says that this is not tested.
      points: places on the line between the copies, both ends included.
      metric: by which networks are judged: "accuracy", "loss", one of the training's metrics or a
        name in `jt.metrics.METRICS`; lower is better where the metric says so. None for the
        accuracy, which of tokens and of several labels is the share of right ones, and for "r2"
        where labels are numbers. Barriers are those of 1 less the metric, or of one that is better
        when lower.
      rules: thresholds that the definitions leave open; needed with a metric that is no share of 1,
        such as the loss, in its units: `Rules(margin=0.01, gap=0.02, barrier=0.05)`.
      method: the method's name in tables; that of the runs if None.
      runtime: a `jt.Runtime`, which holds the arguments that follow; give either it or them.
      folder: where to save; a folder below that of `runs` if None, where it has one.
      at_once: replicas that one device holds at most.
      save_every: seconds between saves, as for `find_tickets`.
      progress: whether to show a progress bar.

    Returns:
      The verdict: `print` shows it, `winning` is the answer, `conditions()` a table of the
      conditions and `networks()` one of everything that was trained.

    Raises:
      ValueError: for a level or seeds that `runs` does not have, level 0, one seed, several rates
        without a validation split, a network that cannot be so small, or if `training` is
        incompatible with the network, data or mesh.

    Warns:
      UserWarning: where the small dense network is left out since the network has no width.

    Reference: KD-LTS, Definitions 6.1 to 6.3.
    """
    require_runs("runs", runs)
    runtime = settled(
        runtime, folder=folder, at_once=at_once, save_every=save_every, progress=progress
    ).on(runs.mesh)
    net = runs.net if net is None else net
    data = runs.data if data is None else data
    training = runs.training if training is None else training
    training = check_fit(net, data, training, runs.mesh)
    training, main = judged_by(metric, training, net, data.labels)
    check(training, net, data.labels)
    if not main.shares and rules is None:
        raise ValueError(
            f"`rules` are needed with metric={main.name!r}, which has units of its own: pass "
            f"jaxticket.analysis.conditions.Rules(margin=..., gap=..., barrier=...) in these"
        )
    # a verdict has no place for what monitors measure
    training = training.replace(monitors=())
    if net != runs.net:
        raise ValueError(f"`net` must be that of `runs`, {runs.net.config}, got {net.config}")
    known = [n for n in runs.levels if n]
    level = whole("level", level)
    if level not in known:
        raise ValueError(f"`level` must be one of {known}, got {level}; level 0 is dense")
    points = whole("points", points, 3)
    if small_dense is not None:
        instance("small_dense", small_dense, (Network, bool), "a network, True, False or None")
    if rules is not None:
        instance("rules", rules, Rules, "jaxticket.analysis.conditions.Rules, or None")
    if method is not None:
        text("method", method)
    seeds = runs.seeds if seeds is None else distinct_seeds(seeds)
    if missing := sorted(set(seeds) - set(runs.seeds)):
        raise ValueError(f"`seeds` must be some of {runs.seeds}, got {missing}")
    if len(seeds) < 2:
        raise ValueError(f"`seeds` must be at least two, to tell a gap from chance, got {seeds}")
    teaching.check(training, net, data, seeds)
    rules = (Rules() if rules is None else rules).checked(shares=main.shares)
    rates = _rates(dense_lrs, data, training)
    contest = Contest(runs, level, data, training, seeds, rates, None, points, main)
    ticket = contest.ticket()
    start = int(np.max(ticket.step))
    if start >= training.steps:
        raise ValueError(
            f"`training` ends at step {training.steps}, but the tickets start at step {start}; "
            "train for longer"
        )
    small = small_network(small_dense, net, ticket)
    if small is not None:
        check_fit(small, data, training, runs.mesh)
        contest = contest._replace(small=small)
    settings = _identity.run(
        "verdict",
        net,
        data,
        of=runs.identity([level]),
        training=training,
        level=level,
        seeds=seeds,
        dense_lrs=rates,
        small_dense=contest.small,
        points=points,
        branches={name: BRANCHES[name] for name in CHANGES},
        # as folders of accuracies have always been
        **({} if main == ACCURACY else {"metric": main.name}),
    )
    name = results.run_name(f"level-{level:02d}", settings)
    outcome = hold(contest, settings, runtime.in_folder(runs.folder, "verdicts", name))
    splits = split_names(data)
    step, judged = judgment(outcome, splits, rules, main)
    densities = outcome.histories[TICKET].density
    found = Verdict(
        method=_method(runs) if method is None else method,
        density=float(densities.mean()),
        seeds=seeds,
        start=start,
        at_init=start == 0 and runs.pruning.from_initialization,
        dense_lr=outcome.dense_lr,
        tuned=len(rates) > 1 or dense_lrs is not None,
        small=contest.small,
        step=step,
        cost=_cost(runs, level),
        folder=outcome.folder,
        _conditions=judged,
        _networks=results.tidy(
            outcome.histories.values(),
            splits=splits,
            metrics=metric_names(training),
            precision=f"{training.compute_dtype}/{training.precision}",
        ),
        metric=main.name,
        shares=main.shares,
    )
    if found.folder is not None:
        on_first(found.save)
    return found


def _rates(
    asked: Sequence[float] | None, data: Data | Stream, training: Training
) -> tuple[float, ...]:
    """Give the learning rates of the dense network: those asked for, or multiples of training's."""
    held = "validation" in split_names(data)
    if asked is None:
        own = not isinstance(training.schedule, str) or has_own_rate(training.optimizer)
        return tuple(factor * training.lr for factor in TRIED if held and not own) or (training.lr,)
    rates = several(
        "dense_lrs", asked, number, like="(0.01, 0.1)", distinct=True, low=0, above=True
    )
    if len(rates) > 1 and not held:
        raise ValueError(
            f"`dense_lrs` {rates} are chosen between by a validation split, which {data.name!r} "
            "has not; hold one out with `data.with_validation(0.1)`, or give one rate"
        )
    return rates


def judgment(
    outcome: Outcome, splits: tuple[str, ...], rules: Rules, main: Judged = ACCURACY
) -> tuple[int, pd.DataFrame]:
    """Find the step at which the ticket is judged, and the conditions there.

    The definition asks for some E' <= E. There are two to choose from: the first evaluation at
    which the ticket is as accurate as the trained dense network on the validation split (test
    accuracy chooses nothing), and the end. Controls, the dense network and the barrier
    between copies are always those at the end.
    """
    test = splits.index("test")
    final = {
        name: main.worth(history.final()[:, test])
        for name, history in outcome.histories.items()
        if name != COPY
    }
    own = outcome.histories[TICKET]
    last = int(own.steps.max())
    reached = np.asarray([], int)
    if "validation" in splits:
        held = splits.index("validation")
        dense = main.worth(outcome.histories[DENSE].final()[:, held])
        means = main.worth(own.values[:, :, held]).mean(axis=1)
        reached = np.flatnonzero((means >= dense.mean()) & own.wanted.all(axis=1))
    if len(reached) and (step := int(own.steps[reached[0]].max())) < last:
        early = {**final, TICKET: main.worth(own.values[reached[0], :, test])}
        judged = conditions(early, outcome.barrier, rules, main=main)
        if all(value is True for value in judged["passes"]):
            return step, judged
    return last, conditions(final, outcome.barrier, rules, main=main)


def _method(runs: Runs) -> str:
    """Name the method that found the masks of a run."""
    name = runs.pruning.name
    return name if runs.branch == TICKET else f"{name}_{runs.branch}"


def _cost(runs: Runs, level: int) -> float:
    """Count the examples seen for one seed's mask, in epochs of the data it was found on."""
    try:
        table = costs.finding(runs)
    except ValueError:
        # a score of the user's own whose passes cannot be counted
        return float("nan")
    return float(table.loc[table["level"] == level]["epochs"].iloc[0])
