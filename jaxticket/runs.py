"""Runs: what every experiment returns. Tickets, tables and verdicts of one run."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _files, _identity, _saved, _show, _stats, masks, rescaling, results
from jaxticket._check import instance, is_integer, number, one_of, share
from jaxticket._drawn import drawn_exactly
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.folder_errors import explained
from jaxticket.engine.judged import judged
from jaxticket.engine.metrics import METRICS, metric_names
from jaxticket.engine.source import split_names
from jaxticket.pruning_settings import Loaded, PruningSettings
from jaxticket.settings import Training
from jaxticket.ticket import Ticket, check_ticket
from jaxticket.typing import Json, Network, Params, Stats

if TYPE_CHECKING:
    import pandas as pd

Trainings = tuple[str, int, float]
"""Branch, level, and factor of the schedule's times: what was trained side by side."""
TrainingsAt = tuple[str, int, float, int]
"""The same, and a step of it."""
WEIGHTS = ("start", "trained")


@dataclass(frozen=True, eq=False)
class Runs:
    """Trained tickets of several seeds and levels.

    Runs pickle, without the devices they ran on, as far as their network does: networks of this
    library and those made of functions and classes at the top of a module. Others are saved by
    their folder, from which the same call reads them.

    Attributes:
      net, data, training, pruning: what was run.
      seeds: one per replica.
      branch: the name of these tickets in tables: "ticket", "reinit", ...
      histories: evaluations, one entry for each branch and level.
      by_level: the tickets of `branch`, level -> ticket stacked over [replica].
      origin: the weights that tickets rewind to, not masked, stacked over [replica]. Under
        learning-rate rewinding the trained weights: at a pruned position the value that it had when
        it was pruned.
      costs: rows of the table of seconds.
      folder: where the run lies, or None.
      mesh: the devices it ran on.
      size: replicas per call of the compiled program.
      traces: rows of the table of a search's progress.
      found_in: the runs that found the masks, where these were moved to another setting.
      moved: how `jt.transfer` trained what it moved: its `start` and `reinit_output`.
      lost: level -> bool [replica], which replicas have no ticket there, since a network that its
        mask should have come from diverged. A level that is not there has lost none.
      final: the networks after training, by branch, level and dilation: tickets stacked over
        [replica] with trained weights. Empty without keep="trained".
      at: the networks at the steps of `keep_at`, by branch, level, dilation and step.
    """

    net: Network
    data: Data | Stream
    training: Training
    pruning: PruningSettings
    seeds: tuple[int, ...]
    branch: str
    histories: tuple[results.EvaluationLog, ...]
    by_level: Mapping[int, Ticket]
    origin: Ticket
    costs: tuple[Json, ...]
    folder: Path | None
    mesh: Mesh = field(repr=False)
    size: int = field(repr=False)
    traces: tuple[Json, ...] = field(default=(), repr=False)
    found_in: Runs | None = field(default=None, repr=False)
    moved: Mapping[str, object] = field(default_factory=dict, repr=False)
    lost: Mapping[int, np.ndarray] = field(default_factory=dict, repr=False)
    final: Mapping[Trainings, Ticket] = field(default_factory=dict, repr=False)
    at: Mapping[TrainingsAt, Ticket] = field(default_factory=dict, repr=False)

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        facts = [
            *_show.trained_on(self.net, self.data, self.training),
            ("pruning", repr(self.pruning).replace("\n", "\n    ")),
            ("seeds", _show.numbers(self.seeds)),
            ("folder", str(self.folder or "not saved")),
        ]
        found: dict[str, dict[int, np.ndarray]] = {}
        test, name = split_names(self.data).index("test"), "accuracy"
        if self.data.labels.kind == "numbers":
            name = "loss"
        place = METRICS.index(name)
        write = {"accuracy": lambda x: f"{100 * x:.1f}%", "loss": lambda x: f"{x:.4g}"}[name]
        for log in self.histories:
            if (log.dilation == 1).all():
                found.setdefault(log.branch, {})[log.level] = log.final()[:, test, place]
        own = {name: found[name] for name in (self.branch, *found) if name in found}
        shares = dict(zip(self.levels, self.densities, strict=True))
        rows = [
            (
                str(level),
                _show.percent(shares[level]),
                *(_show.spread(x[level], write) if level in x else "" for x in own.values()),
            )
            for level in self.levels
        ]
        counts = _show.counted(len(self.levels), "level"), _show.counted(len(self.seeds), "seed")
        title = f"Runs of {' and '.join(counts)}"
        if rows:
            title += f"; test {name}, mean (least to greatest)"
        # branches beyond three do not fit
        shown = 2 + min(3, len(own))
        columns = ("level", "density", *own)[:shown]
        return _show.Summary(title, facts, columns, [row[:shown] for row in rows])

    def __post_init__(self) -> None:
        like, own = self.net.shapes, {}
        dense = self.net.mask(self.pruning.exclude, lead=(len(self.seeds),))
        for level, ticket in self.by_level.items():
            check_ticket(f"by_level[{level}]", ticket, like)
            if np.shape(ticket.level) != (len(self.seeds),):
                raise ValueError(
                    f"`by_level[{level}]` must be stacked over {len(self.seeds)} seeds, got "
                    f"{np.shape(ticket.level)}; stack tickets with jax.tree.map"
                )
            mask = masks.conform(ticket.mask, dense, called=f"`by_level[{level}]`")
            own[level] = ticket.replace(mask=mask)
        object.__setattr__(self, "by_level", own)

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "mesh": None}

    def __setstate__(self, state: dict[str, object]) -> None:
        # those of the process that reads it
        self.__dict__.update(state, mesh=parallel.check_mesh(None))

    @property
    def levels(self) -> tuple[int, ...]:
        """The levels there are, ascending."""
        return tuple(sorted(self.by_level))

    @functools.cached_property
    def tickets(self) -> Ticket:
        """All tickets stacked [level, replica]; for large networks take `by_level` one by one."""
        return jax.tree.map(
            lambda *x: np.stack(x), *(self.by_level[level] for level in self.levels)
        )

    def ticket(self, level: int, seed: int, *, weights: str = "start") -> Ticket:
        """One ticket.

        Args:
          level: its level.
          seed: its seed.
          weights: "start" for the weights that it starts from, "trained" for those after training,
            which keep="trained" keeps.
        """
        if not is_integer(level) or level not in self.by_level:
            raise ValueError(f"`level` must be one of {self.levels}, got {level!r}")
        if not is_integer(seed) or seed not in self.seeds:
            raise ValueError(f"`seed` must be one of {self.seeds}, got {seed!r}")
        replica, trained = self.seeds.index(seed), one_of("weights", weights, WEIGHTS) == "trained"
        tickets = self.trained_tickets(level) if trained else self.by_level[level]
        return jax.tree.map(lambda x: x[replica], tickets)

    def trained(
        self,
        level: int,
        branch: str | None = None,
        *,
        dilation: float = 1.0,
        step: int | None = None,
    ) -> tuple[Params, Stats]:
        """Weights and statistics after training, or at a step, host arrays stacked over [replica].

        Those of a replica that diverged are the last ones that were finite; `table()` and `lost`
        tell which did.

        Args:
          level: the level; 0 is the dense network.
          branch: the branch; that of these runs if None.
          dilation: factor of the schedule's times, of `jt.branch`.
          step: one of those of `keep_at`; None for after training, which keep="trained" keeps. A
            network that `Training.stop_when` ended before the step is there as it was then.

        Raises:
          ValueError: where nothing was kept, or such networks were not trained.
        """
        found = self.trained_tickets(level, branch, dilation=dilation, step=step)
        return found.params, found.stats

    def trained_tickets(
        self,
        level: int,
        branch: str | None = None,
        *,
        dilation: float = 1.0,
        step: int | None = None,
    ) -> Ticket:
        """The same networks with their masks, as tickets stacked over [replica].

        Args, Raises: as of `trained`.
        """
        if step is not None:
            own = self.branch if branch is None else branch, level, float(dilation), step
            if own in self.at:
                return self.at[own]
            found = "; ".join(
                f"{b!r}, level {n}, dilation {d:g}, step {k}" for b, n, d, k in self.at
            )
            remedy = "such as jt.find_tickets(..., keep_at=(100,)), in a new folder"
            raise ValueError(
                f"`step` {step!r} of {own[0]!r}, level {level!r}, dilation {dilation:g} was not "
                f"kept; " + (f"there are {found}" if found else f"run the same, {remedy}")
            )
        if not self.final:
            raise ValueError(
                "`trained` weights were not kept; run the same with keep='trained' (in a new "
                "folder), such as jt.find_tickets(..., keep='trained')"
            )
        key = self.branch if branch is None else branch, level, float(dilation)
        if key not in self.final:
            known = "; ".join(f"{b!r}, level {n}, dilation {d:g}" for b, n, d in self.final)
            raise ValueError(
                f"`level`, `branch`, `dilation` {key[1]!r}, {key[0]!r}, {dilation:g} name no "
                f"training of these runs; there are {known}"
            )
        return self.final[key]

    def trained_network(
        self,
        level: int = 0,
        seed: int | None = None,
        branch: str | None = None,
        *,
        dilation: float = 1.0,
        step: int | None = None,
    ) -> Network:
        """The network with its trained weights, such as a teacher for `jt.Teacher`.

        It is `net.with_params` of `trained`: what trains it starts from these weights.

        Args:
          level: the level; 0 is the dense network.
          seed: one of the seeds, whose weights stand for all; None for the weights of each seed,
            for runs of the same seeds.
          branch, dilation, step: as of `trained`.

        Raises:
          ValueError: where nothing was kept, for a seed that is not there, and for networks that
            diverged.
        """
        params, stats = self.trained(level, branch, dilation=dilation, step=step)
        if seed is not None and (not is_integer(seed) or seed not in self.seeds):
            raise ValueError(f"`seed` must be one of {self.seeds}, got {seed!r}")
        name, until = self.branch if branch is None else branch, np.inf if step is None else step
        logs = [
            log
            for log in self.histories
            if (log.branch, log.level) == (name, level) and (log.dilation == dilation).all()
        ]
        broken = [
            own
            for log in logs
            for own, at in zip(self.seeds, log.diverged, strict=True)
            if 0 <= at <= until and seed in (None, own)
        ]
        if broken:
            raise ValueError(
                f"`seed` {', '.join(map(str, broken))}: the network diverged, so that there is no "
                f"trained one; pass another seed"
            )
        if seed is None:
            return self.net.with_params(params, stats, seeds=self.seeds)
        place = self.seeds.index(seed)
        return self.net.with_params(*jax.tree.map(lambda x: x[place], (params, stats)))

    def whole(self, level: int) -> Ticket:
        """The tickets of a level with weights at every position, stacked over [replica].

        Masks can then be moved: where they are False stand the weights of `origin`.
        """
        own = self.by_level[level]
        weights = rescaling.scaled(self.origin.params, self.factors(level))
        params = masks.map_with(np.where, own.mask, own.params, weights, other=lambda w, _: w)
        return own.replace(params=params)

    def factors(self, level: int) -> Params | None:
        """The factors of the starting weights of a level, float32 [replica] for each leaf.

        They are in units of the weights of the rewind step: the height of a learned mask and
        `rescale`. None stands for 1.
        """
        if level == 0:
            return None
        return self.pruning.factors(self.by_level[level].mask)

    @functools.cached_property
    def densities(self) -> np.ndarray:
        """Realised density of each level, the mean over replicas, float64 [level]."""
        return np.asarray([self._density(level).mean() for level in self.levels])

    def _density(self, level: int) -> np.ndarray:
        """Density of the tickets of a level, float64 [replica]."""
        return density(self.net, self.pruning, self.by_level[level], self.lost_at(level))

    def lost_at(self, level: int) -> np.ndarray:
        """Which replicas have no ticket at a level, bool [replica]; see `lost`."""
        return np.asarray(self.lost.get(level, np.zeros(len(self.seeds), bool)))

    @functools.cached_property
    def _table(self) -> pd.DataFrame:
        table = results.tidy(
            self.histories,
            splits=split_names(self.data),
            metrics=metric_names(self.training),
            precision=f"{self.training.compute_dtype}/{self.training.precision}",
        )
        if self.data.labels.kind == "numbers":
            # numbers are neither right nor wrong
            table = table.loc[table["metric"] != "accuracy"].reset_index(drop=True)
        return table

    def identity(self, levels: Sequence[int]) -> Json:
        """Identify the tickets of some levels, for the settings of a folder.

        This is a digest of their masks and weights and of the weights that moved masks use, and the
        settings that they came from.
        """
        checksum = hashlib.sha256()
        own = [(self.by_level[level], self.lost_at(level)) for level in levels]
        for tree in (*own, self.origin):
            for leaf in map(np.ascontiguousarray, jax.tree.leaves(tree)):
                checksum.update(f"{leaf.dtype} {leaf.shape} ".encode())
                checksum.update(leaf.reshape(-1).view(np.uint8).data)
        return {
            "sha256": checksum.hexdigest(),
            "net": self.net,
            "data": {"name": self.data.name, "fingerprint": self.data.fingerprint},
            "training": self.training,
            "pruning": self.pruning,
            "seeds": self.seeds,
            "branch": self.branch,
        }

    def table(self) -> pd.DataFrame:
        """Every evaluation, one row per value.

        The columns are seed, level, density, branch, step, split ("train", "validation", "test"),
        metric ("accuracy" in [0, 1], not there where labels are numbers, "loss", and those of
        `Training.metrics`), value; then dilation
        (factor of the schedule's times), diverged (step of the first loss that was not finite, or
        -1) and precision.
        """
        return self._table.copy()

    def timings(self) -> pd.DataFrame:
        """Seconds per unit of work: training, pruning and saving.

        For a unit that was resumed they count from there on.
        """
        return results.frame(self.costs)

    def trace(self) -> pd.DataFrame:
        """The progress of `jt.search`, one row per evaluation; the changes of `jt.dynamic_imp`.

        The columns are seed, level, density (as asked for) and step. Of a search these are its
        steps, and there are expected (the expected density) and multiplier (of the density
        constraint); with `watch_masks` also hamming, the share of entries in which the mask differs
        from the one before. Of a mask that changes there are change (its number), overlap (the
        share of the weights of the new mask that the old one has) and grown (how many it has not).

        Raises:
          ValueError: for runs of another kind.
        """
        if not self.traces:
            raise ValueError(
                "`trace` is there for the runs of jt.search, and of jt.dynamic_imp with changes; "
                "these have learned no mask and changed none"
            )
        return results.frame(self.traces)

    def monitored(self) -> pd.DataFrame:
        """What the monitors of the training measured (`Training.monitors`), one row per number.

        The columns are seed, level, density, branch, step, metric (the monitor's name for it),
        index (its place in an array of several, else 0), value and dilation. Values are nan from
        where the loss was not finite on.

        Raises:
          ValueError: for a training without monitors.
        """
        if not any(log.monitored for log in self.histories):
            raise ValueError(
                "`monitored` is there for trainings with monitors, such as "
                "jt.Training(monitors=(monitor,)); this one has none"
            )
        return results.monitored(self.histories)

    def _accuracy(self, level: int, replica: int) -> float | None:
        """Final test accuracy of a ticket of this branch with the schedule as it is.

        None where it was not trained so, or diverged.
        """
        value = float(self._final().get(level, np.full(len(self.seeds), np.nan))[replica])
        return value if np.isfinite(value) else None

    def _diverged(self, level: int, replica: int) -> int | None:
        """The step at which the training of a ticket diverged, None where it did not."""
        for history in self.histories:
            usual = (history.dilation == 1).all()
            if usual and (history.level, history.branch) == (level, self.branch):
                step = int(history.diverged[replica])
                return step if step >= 0 else None
        return None

    def _final(self, metric: str = "accuracy") -> dict[int, np.ndarray]:
        """Final test accuracies [replica] by level, of this branch with the schedule as it is.

        Or another metric. They are nan where a replica diverged.
        """
        test, place = (
            split_names(self.data).index("test"),
            metric_names(self.training).index(metric),
        )
        return {
            h.level: h.final()[:, test, place].astype(np.float64)
            for h in self.histories
            if h.branch == self.branch and (h.dilation == 1).all()
        }

    def matching(self, margin: float = 0.002, *, metric: str = "accuracy") -> dict[int, bool]:
        """Judge for each level whether the tickets are as accurate as the dense network.

        They are where the mean final test accuracy over seeds is at least the dense mean minus the
        margin; of metrics that are better when lower (the loss, and those with a true attribute
        `lower`), where it is at most the dense mean plus the margin.

        Trainings with another dilation do not count. A level at which a seed diverged is not
        matching, whatever the others reach; the dense mean is that of the seeds that did not
        diverge, and without one nothing is matching.

        Args:
          margin: share of the test set, in [0, 1); never less than one test image. Of another
            metric, in its units, at least 0, and taken as it is.
          metric: "accuracy", "loss" or one of `Training.metrics`, such as "r2" where labels are
            numbers, which have no accuracy.

        Returns:
          Level -> whether it is matching, for every level that was trained.

        Raises:
          ValueError: where level 0, the dense network, is not among the levels that were trained
            with the schedule as it is, and for a metric that was not measured.
        """
        if metric == "accuracy":
            margin = share("margin", margin, zero=True, one=False)
        else:
            margin = number("margin", margin, low=0)
        sign = self._sign(metric)
        final = {level: sign * x for level, x in self._final(metric).items()}
        if 0 not in final:
            raise ValueError(
                f"`matching` needs the dense network, level 0, trained with the schedule as it is "
                f"(dilation 1); the levels so trained are {sorted(final)}"
            )
        dense = final[0][np.isfinite(final[0])]
        if not len(dense):
            return dict.fromkeys(sorted(final), False)
        if metric == "accuracy":
            margin = max(margin, 1 / len(self.data.test))
        # the mean of a level with a seed that diverged is nan, which matches nothing
        found = {
            level: bool(_stats.matching(final[level].mean(), dense.mean(), margin=margin))
            for level in sorted(final)
        }
        for level, seeds in self.collapsed().items():
            if found.get(level):
                seed, layers = next(iter(seeds.items()))
                warnings.warn(
                    f"level {level} is matching with layers without weights, such as "
                    f"{', '.join(layers)} of seed {seed}: no path through them is left, which a "
                    f"network without shortcuts cannot do without; see `collapsed()`",
                    stacklevel=2,
                )
        return found

    def _sign(self, metric: str) -> float:
        """-1 for a metric that is better when lower, else 1.

        Raises:
          ValueError: for one that was not measured, or has no meaning for the labels.
        """
        names = [n for n in metric_names(self.training) if n != "accuracy"]
        if self.data.labels.kind != "numbers":
            names.append("accuracy")
        elif metric == "accuracy":
            raise ValueError(
                f"`metric`='accuracy' is not there: the labels of {self.data.name!r} are numbers; "
                f"use one of {', '.join(map(repr, names))}, such as runs.matching(0.01, "
                f"metric='r2') after jt.Training(metrics=('r2',))"
            )
        one_of("metric", metric, names)
        return -1.0 if judged(metric, self.training).lower else 1.0

    def collapsed(self) -> dict[int, dict[int, tuple[str, ...]]]:
        """The prunable layers without any weights: level -> seed -> their paths.

        Levels and seeds that keep some of every layer are left out.
        """
        found: dict[int, dict[int, tuple[str, ...]]] = {}
        for level in self.levels:
            empty = masks.empty_layers(self.by_level[level].mask)
            for replica, seed in enumerate(self.seeds):
                if paths := tuple(path for path, gone in empty.items() if gone[replica]):
                    found.setdefault(level, {})[seed] = paths
        return found

    def winning(self, margin: float = 0.002, *, metric: str = "accuracy") -> int | None:
        """The sparsest level with winning tickets in the sense of Frankle's thesis, or None.

        Winning tickets are matching (see `matching`) and trained from initialization.

        With `rewind` above 0, or the learning rate rewound, there are matching tickets and no
        winning ones. KD-LTS defines winning tickets more strictly, by comparison with controls:
        `jt.verdict` judges that.

        Raises:
          ValueError: as `matching`, and for networks whose masks moved during training
            (`jt.sparse_train`), since they are not the tickets that their last masks make.

        Reference: Frankle's thesis, section 3.2; section 4.2 for the word when rewinding.
        """
        if self.branch == "ticket" and self.pruning.moves(self.training.steps):
            raise ValueError(
                "`winning` judges tickets, and these networks were trained under masks that moved; "
                'train their tickets and ask these: jt.branch(runs, "retrain").winning()'
            )
        found = [
            level for level, ok in self.matching(margin, metric=metric).items() if ok and level > 0
        ]
        return None if not self.pruning.from_initialization or not found else max(found)

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write table, timings and tickets into the folder of the run.

        Tables are Parquet and CSV. Each ticket is a small file: mask bits, and the seed where every
        device draws the same weights from it (signed constants at initialization), else the kept
        weights. Files of tickets that were moved describe where they train, and under "found_in"
        where they were found. Trained networks that were kept are one file for each branch and
        level in the folder "trained". `jt.load` makes the runs of it again.
        """
        target = _files.absolute(folder) if folder is not None else self.folder
        if target is None:
            raise ValueError("`folder` is needed to save a run that has none")
        with explained(target):
            (target / "tickets").mkdir(parents=True, exist_ok=True)
            results.write(self.table(), target, "table")
            results.write(self.timings(), target, "timings")
            if any(log.monitored for log in self.histories):
                results.write(self.monitored(), target, "monitored")
            if self.traces:
                results.write(self.trace(), target, "trace")
            said = _setting(self)
            if not isinstance(self.pruning, Loaded):
                said["pruning"] = results.plain(self.pruning)
            if self.found_in is not None:
                step = self.found_in.pruning.rewind_step
                said["found_in"] = {
                    **_setting(self.found_in),
                    "net": json.loads(self.found_in.net.config),
                    "rewind_step": step,
                }
            densities = {n: self._density(n) for n in self.levels}
            for level in self.levels:
                for replica, seed in enumerate(self.seeds):
                    ticket = self.ticket(level, seed)
                    ticket.save(
                        target
                        / "tickets"
                        / f"{self.branch}-level-{level:02d}-seed-{seed}.safetensors",
                        net=self.net,
                        seed=seed if drawn_exactly(self.net, seed, ticket) else None,
                        run_seed=seed,
                        density=densities[level][replica],
                        accuracy=self._accuracy(level, replica),
                        diverged=self._diverged(level, replica),
                        **said,
                    )
            self._record(target)
        return target

    def _record(self, target: Path) -> None:
        """Write what `jt.load` needs on top of tables and tickets."""
        logs, arrays = _saved.packed_logs(self.histories)
        about, weights = _saved.setting(self.net, self.data, self.training)
        final = []
        for (branch, level, dilation), ticket in self.final.items():
            slower = "" if dilation == 1 else f"-dilation-{dilation:g}"
            name = f"trained/{branch}-level-{level:02d}{slower}.safetensors"
            _saved.write_stacked(target / name, ticket)
            final.append({"branch": branch, "level": level, "dilation": dilation, "file": name})
        at = []
        for (branch, level, dilation, step), ticket in self.at.items():
            slower = "" if dilation == 1 else f"-dilation-{dilation:g}"
            name = f"trained/{branch}-level-{level:02d}{slower}-step-{step:07d}.safetensors"
            _saved.write_stacked(target / name, ticket)
            own = {"branch": branch, "level": level, "dilation": dilation, "step": step}
            at.append({**own, "file": name})
        # under magnitude pruning they are the dense tickets, which are there already
        dense = 0 in self.by_level and _equal(self.origin, self.by_level[0])
        if not dense:
            _saved.write_stacked(target / "origin.safetensors", self.origin)
        source: Json | None = None
        if self.found_in is not None:
            where, found = self.found_in.folder, self.found_in
            if where is None or not (where / f"{_saved.RUNS}.json").exists():
                where = found.save(target / "found_in")
            source = {
                "folder": _files.relative(where, target),
                "sha256": found.identity(found.levels)["sha256"],
            }
        record = {
            **about,
            "pruning": _identity.recorded(self.pruning),
            "seeds": self.seeds,
            "branch": self.branch,
            "levels": self.levels,
            "lost": {level: np.asarray(lost).tolist() for level, lost in self.lost.items()},
            "logs": logs,
            "final": final,
            **({"at": at} if at else {}),
            "origin": "dense" if dense else "file",
            "costs": self.costs,
            "traces": self.traces,
            "found_in": source,
            "moved": dict(self.moved),
        }
        _saved.write(target, _saved.RUNS, record, arrays | weights)


def _equal(one: Ticket, other: Ticket) -> bool:
    """Whether two tickets are the same in every bit."""
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return jax.tree.structure(one) == jax.tree.structure(other) and all(
        np.array_equal(x, y) for x, y in pairs
    )


def require_runs(argument: str, value: object) -> Runs:
    """The value, which must be runs."""
    return instance(
        argument, value, Runs, "the runs that jt.find_tickets, prune_at, search or branch returned"
    )


def _setting(runs: Runs) -> Json:
    """Describe the setting in which tickets train, for their files."""
    return {
        "data": runs.data.name,
        "fingerprint": runs.data.fingerprint,
        "licence": runs.data.about.get("licence"),
        "training": results.plain(runs.training),
    }


def density(
    net: Network,
    pruning: PruningSettings,
    ticket: Ticket,
    lost: np.ndarray | None = None,
) -> np.ndarray:
    """Density of each replica of a ticket stacked over [replica], float64.

    This is the share of prunable weights that its mask keeps.

    A replica that is `lost` (bool [replica]) has no mask of its level, only an older one: it gets
    the density that the others of its level have, or the nominal one if all are lost.
    """
    prunable = net.prunable_leaves(pruning.exclude)
    chosen = [np.asarray(m) for _, m, p in masks.items(ticket.mask, prunable) if p]
    kept = sum(np.count_nonzero(m.reshape(m.shape[0], -1), axis=1) for m in chosen)
    found = np.asarray(kept, np.float64) / sum(m[0].size for m in chosen)
    if lost is None or not lost.any():
        return found
    level = int(np.max(ticket.level))
    nominal = pruning.density_of(level) if lost.all() else float(np.median(found[~lost]))
    return np.where(lost, nominal, found)
