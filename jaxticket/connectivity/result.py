"""Results of an instability analysis: arrays, tidy tables, and comparisons of the networks."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _files, _saved, _show, _tree, results
from jaxticket._check import flag, instance, one_of, whole
from jaxticket.connectivity import stability
from jaxticket.connectivity._align import align
from jaxticket.connectivity.copies import OF_COPIES, heights
from jaxticket.connectivity.evaluator import Evaluator, Networks
from jaxticket.connectivity.origins import Start
from jaxticket.connectivity.paths import barrier, line
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.folder_errors import explained
from jaxticket.engine.judged import ACCURACY, Judged, judged
from jaxticket.engine.metrics import metric_names
from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.typing import Network

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "weights"
"""The label in the column "split" of measures that need no data."""
BETWEEN = ("barrier", "loss_barrier", "error", "loss")
"""The measures of each pair of copies at every evaluation."""
AXES = {
    "line": ("state", "pair", "alpha", "split", "metric"),
    "line_recomputed": ("state", "pair", "alpha", "split", "metric"),
    "distances": ("state", "pair", "distance", "seen"),
    "ended": ("state", "copy", "split", "metric"),
    "copies": ("state", "copy", "change"),
    "began": ("state", "split", "metric"),
    "moved": ("state",),
    "throughout": ("state", "call", "pair", "split", "between"),
}
"""The axes of the arrays of an `Instability`; a state is a branch, level and step k of a seed."""


@dataclass(frozen=True, eq=False)
class Instability:
    """Comparisons of copies of networks that were trained under different SGD noise.

    Tables are tidy, one row per value: length, branch, level, density, at, seed, then the columns
    that each method names.

    Attributes:
      net: the network.
      data: the data.
      training: how the copies were trained.
      seeds: one per replica.
      kinds: the states that copies started from.
      copies_of_each: number of copies of every state.
      alphas: positions on the lines; 0 is the first copy of the pair.
      length: "remaining" or "full".
      splits: names of the evaluated splits.
      distances: names of the distances.
      of_weights: names of those distances that use no data.
      arrays: host arrays with a leading axis [kind * replica]; `labeled` names their axes.
      costs_of_units: rows of the table of costs.
      folder: the folder of the results, or None.
      mesh: the devices that it ran on.
      metric: of which the error is: 1 less it, or itself where it is better when lower.
    """

    net: Network
    data: Data | Stream
    training: Training
    seeds: tuple[int, ...]
    kinds: tuple[Start, ...]
    copies_of_each: int
    alphas: np.ndarray
    length: str
    splits: tuple[str, ...]
    distances: tuple[str, ...]
    of_weights: tuple[str, ...]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    costs_of_units: tuple[Mapping[str, object], ...] = field(repr=False)
    folder: Path | None
    mesh: Mesh = field(repr=False)
    metric: str = ACCURACY.name

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        facts = [
            *_show.trained_on(self.net, self.data, self.training),
            ("seeds", f"{_show.numbers(self.seeds)}; {self.copies_of_each} copies of every state"),
            ("folder", str(self.folder or "not saved")),
        ]
        rows = []
        for branch, level in dict.fromkeys(kind[:2] for kind in self.kinds):
            barriers = self.barriers(branch=branch, level=level)
            steps = sorted(kind.at for kind in self.kinds if kind[:2] == (branch, level))
            rows += [
                (branch, str(level), str(step), _show.spread(barriers[:, i].mean(axis=-1)))
                for i, step in enumerate(steps)
            ]
        kind = "error" if self.metric == ACCURACY.name else f"{self.metric} error"
        title = f"Instability; {kind} barrier on the test split, mean (least to greatest) of seeds"
        return _show.Summary(title, facts, ("branch", "level", "step k", "barrier"), rows)

    @property
    def at(self) -> tuple[int, ...]:
        """The steps k, ascending."""
        return tuple(sorted({kind.at for kind in self.kinds}))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of copies."""
        return tuple(itertools.combinations(range(self.copies_of_each), 2))

    def _places(self, branch: str, level: int) -> np.ndarray:
        """Find the rows of the arrays of a branch and level, int [replica, at]."""
        place = {kind.at: i for i, kind in enumerate(self.kinds) if kind[:2] == (branch, level)}
        if not place:
            known = sorted({kind[:2] for kind in self.kinds})
            raise ValueError(
                f"`branch`, `level` must be one of {known}, what was analysed, got "
                f"{(branch, level)}; pass branch=..., level=..."
            )
        replicas = np.arange(len(self.seeds))
        return np.stack([place[k] * len(self.seeds) + replicas for k in sorted(place)], axis=1)

    def labeled(self, name: str) -> results.Labeled:
        """Give one of `arrays` with the names and labels of its axes (see `AXES`)."""
        if name not in AXES or name not in self.arrays:
            known = [name for name in AXES if name in self.arrays]
            raise ValueError(f"`name` must be one of {known}, got {name!r}")
        columns: dict[str, Mapping[str, np.ndarray | Sequence[str]]] = {
            "state": self._states(),
            # the step of a call differs between states
            "call": {},
            "pair": {"pair": [f"{i}-{j}" for i, j in self.pairs]},
            "copy": {"copy": np.arange(self.copies_of_each)},
            "alpha": {"alpha": self.alphas},
            "split": {"split": self.splits},
            "seen": {"split": (*self.splits, WEIGHTS)},
            "metric": {"metric": metric_names(self.training)},
            "distance": {"metric": self.distances},
            "change": {"metric": OF_COPIES, "split": [WEIGHTS] * len(OF_COPIES)},
            "between": {"metric": BETWEEN},
        }
        return results.Labeled(self.arrays[name], {axis: columns[axis] for axis in AXES[name]})

    def _measured(self, name: str) -> dict[str, results.Labeled]:
        """Give error and loss of an array of evaluations, float64, without the axis "metric"."""
        evaluations = self.labeled(name)
        loss = evaluations.at(metric="loss")
        return {
            "error": results.Labeled(self._main.error(evaluations.values), loss.axes),
            "loss": results.Labeled(loss.values.astype(np.float64), loss.axes),
        }

    @property
    def _main(self) -> Judged:
        return judged(self.metric, self.training)

    def lines(
        self,
        *,
        split: str = "test",
        metric: str = "error",
        branch: str = "ticket",
        level: int = 0,
        recomputed: bool = False,
    ) -> np.ndarray:
        """Give the error in [0, 1] (or loss) on the lines, float64 [replica, at, pair, alpha].

        Args:
          split: such as "test".
          metric: "error" or "loss".
          branch: branch of the tickets.
          level: level of the tickets; level 0 of the branch "ticket" is the dense network.
          recomputed: use recomputed BatchNorm statistics.
        """
        flag("recomputed", recomputed)
        one_of("split", split, self.splits)
        one_of("metric", metric, ("error", "loss"))
        name = "line_recomputed" if recomputed else "line"
        if name not in self.arrays:
            raise ValueError("`recomputed` lines need an analysis with statistics='both'")
        return self._measured(name)[metric].at(split=split).values[self._places(branch, level)]

    def barriers(
        self,
        *,
        split: str = "test",
        metric: str = "error",
        branch: str = "ticket",
        level: int = 0,
        recomputed: bool = False,
    ) -> np.ndarray:
        """Compute the barriers `max E(alpha) - (E(0) + E(1)) / 2`, float64 [replica, at, pair]."""
        return barrier(
            self.lines(
                split=split, metric=metric, branch=branch, level=level, recomputed=recomputed
            )
        )

    def networks(self, *, at: int, seed: int, branch: str = "ticket", level: int = 0) -> Networks:
        """Give the trained weights and statistics of the copies of one state, leaves [copy, ...].

        Raises:
          ValueError: if weights were not kept, or there is no such state.
        """
        kind = Start(branch, level, at)
        if kind not in self.kinds or seed not in self.seeds:
            raise ValueError(
                f"`at`, `seed`, `branch`, `level` name no state: {(at, seed, branch, level)}; the "
                f"steps are {self.at}, the seeds {self.seeds}"
            )
        if not any(name.startswith("weights/") for name in self.arrays):
            raise ValueError("`networks` were not kept; analyze with keep=True")
        row = self.kinds.index(kind) * len(self.seeds) + self.seeds.index(seed)
        parts = []
        for part, like in zip(("params", "stats"), self.net.shapes, strict=True):
            leaves = [self.arrays[f"weights/{part}/{path}"][row] for path in _tree.paths(like)]
            parts.append(jax.tree.unflatten(jax.tree.structure(like), leaves))
        return parts[0], parts[1]

    def _states(self) -> dict[str, np.ndarray]:
        """Give the columns that identify the state of a row."""
        replicas = len(self.seeds)
        branch, level, at = (
            np.repeat(column, replicas) for column in zip(*self.kinds, strict=True)
        )
        return {
            "length": np.full(len(branch), self.length),
            "branch": branch,
            "level": level,
            "density": self.arrays["density"],
            "at": at,
            "seed": np.tile(np.asarray(self.seeds), len(self.kinds)),
        }

    @functools.cached_property
    def _table(self) -> pd.DataFrame:
        parts = []
        for name, suffix in (("line", ""), ("line_recomputed", "_recomputed")):
            if name not in self.arrays:
                continue
            for metric, along in self._measured(name).items():
                height = "barrier" if metric == "error" else "loss_barrier"
                measures = {f"{height}{suffix}": barrier}
                if not suffix:
                    measures |= {
                        metric: _mean_of_ends,
                        f"highest_{metric}": lambda x: x.max(axis=-1),
                        f"path_mean_{metric}": lambda x: x.mean(axis=-1),
                    }
                parts += [
                    along.reduced("alpha", measure).table(metric=measured)
                    for measured, measure in measures.items()
                ]
        for name in self.distances:
            seen = (WEIGHTS,) if name in self.of_weights else self.splits
            distance = self.labeled("distances").at(distance=name).only("seen", seen)
            parts.append(distance.table(metric=name))
        return results.concat(parts)

    def table(self) -> pd.DataFrame:
        """Compare each pair of trained copies: columns pair ("0-1"), split, metric, value.

        The metrics of each split are "barrier" (of the error) and "loss_barrier"; "error" and
        "loss" (means of the two ends); "highest_error", "highest_loss", "path_mean_error" and
        "path_mean_loss" (over the line); with statistics="both" also "barrier_recomputed" and
        "loss_barrier_recomputed"; and distances that use data. The split "weights" has the
        distances of weights. Values of diverged copies are nan.
        """
        return self._table.copy()

    def paths(self) -> pd.DataFrame:
        """Give all points of the lines: columns pair, alpha, split, metric, value.

        The metrics are "error" and "loss", with statistics="both" also "error_recomputed" and
        "loss_recomputed".
        """
        return results.concat(
            along.table(metric=f"{metric}{suffix}")
            for name, suffix in (("line", ""), ("line_recomputed", "_recomputed"))
            if name in self.arrays
            for metric, along in self._measured(name).items()
        )

    def copies(self) -> pd.DataFrame:
        """Describe each trained copy: columns copy, split, metric, value.

        Each split has the metrics "error" and "loss". The split "weights" has the L2 and the cosine
        distance from the state at step k ("l2_from_k", "cosine_from_k") and the fraction of kept
        weights whose sign has changed since step k ("sign_flips").
        """
        parts = [x.table(metric=metric) for metric, x in self._measured("ended").items()]
        changes = self.labeled("copies").table()
        return results.concat([*parts, changes.reindex(columns=parts[0].columns)])

    def states(self) -> pd.DataFrame:
        """Describe each state at step k, before it is copied: columns split, metric, value.

        Each split has the metrics "error" and "loss". The split "weights" has "l2_from_init", the
        distance of the masked weights from their initialization.

        Reference: Frankle's thesis, section 4.3.
        """
        parts = [x.table(metric=metric) for metric, x in self._measured("began").items()]
        moved = self.labeled("moved").table(split=WEIGHTS, metric="l2_from_init")
        return results.concat([*parts, moved])

    def throughout(self) -> pd.DataFrame:
        """Give the barriers at every evaluation: columns pair, step, split, metric, value.

        The metrics are "barrier", "loss_barrier", "error" and "loss". Steps are those of training:
        from k on, or from 0 on with length="full".

        Raises:
          ValueError: if lines were not evaluated during training.

        Reference: Frankle's thesis, section 4.1.3, Figs. 4-5 and 4-21.
        """
        if "throughout" not in self.arrays:
            raise ValueError("`throughout` was 0; analyze with throughout=10 (points on each line)")
        barriers = self.labeled("throughout")
        steps = np.broadcast_to(self.arrays["steps"][:, :, None, None, None], barriers.values.shape)
        table = barriers.table()
        columns = list(table.columns)
        columns.insert(columns.index("pair") + 1, "step")
        table = table.assign(step=steps.reshape(-1)).reindex(columns=columns)
        return table.loc[table["step"] >= 0].reset_index(drop=True)

    def costs(self) -> pd.DataFrame:
        """Give the costs of each unit of work.

        Columns: unit, training_steps, train_seconds, points (on lines), evaluate_seconds, and
        trainings (training_steps as a multiple of one complete training). Seconds of a resumed unit
        count from its last resumption; lines evaluated throughout training count as training.
        """
        table = results.frame(self.costs_of_units)
        return table.assign(trainings=table["training_steps"] / self.training.steps)

    def stable(self, *, threshold: float = 0.02, split: str = "test") -> pd.DataFrame:
        """Judge which states are stable, see `jaxticket.connectivity.stable`."""
        return stability.stable(self.table(), threshold=threshold, split=split)

    def matching(
        self, *, margin: float = 0.002, split: str = "test", dense: float | None = None
    ) -> pd.DataFrame:
        """Judge which states are matching, see `jaxticket.connectivity.matching`."""
        return stability.matching(self.copies(), margin=margin, split=split, dense=dense)

    def first_steps(
        self,
        *,
        threshold: float = 0.02,
        margin: float = 0.002,
        split: str = "test",
        dense: float | None = None,
    ) -> pd.DataFrame:
        """Find when states become stable and matching, see `jaxticket.connectivity.first_steps`."""
        return stability.first_steps(
            self.table(),
            self.copies(),
            threshold=threshold,
            margin=margin,
            split=split,
            dense=dense,
        )

    def save(self, folder: str | os.PathLike[str] | None = None) -> Path:
        """Write all tables (Parquet and CSV) into the folder, and what `jt.load` needs."""
        target = _files.absolute(folder) if folder is not None else self.folder
        if target is None:
            raise ValueError("`folder` is needed: this analysis was made without a folder")
        tables = {
            "table": self.table(),
            "paths": self.paths(),
            "copies": self.copies(),
            "states": self.states(),
            "costs": self.costs(),
        }
        if "throughout" in self.arrays:
            tables["throughout"] = self.throughout()
        with explained(target):
            target.mkdir(parents=True, exist_ok=True)
            for name, table in tables.items():
                results.write(table, target, name)
            about, arrays = _saved.setting(self.net, self.data, self.training)
            same = (
                "copies_of_each",
                "length",
                "splits",
                "distances",
                "of_weights",
                "seeds",
                "metric",
            )
            record = {
                **about,
                **{name: getattr(self, name) for name in same},
                "kinds": [list(kind) for kind in self.kinds],
                "costs_of_units": [dict(row) for row in self.costs_of_units],
            }
            arrays |= {f"arrays/{name}": x for name, x in self.arrays.items()}
            arrays |= {"alphas": self.alphas}
            _saved.write(target, _saved.INSTABILITY, record, arrays)
        return target


def _mean_of_ends(values: np.ndarray) -> np.ndarray:
    return (values[..., 0] + values[..., -1]) / 2


def soup(inst: Instability, *, recomputed: bool = False) -> pd.DataFrame:
    """Evaluate averages of the first 1, 2, ... copies of each state.

    `theta = mean_c theta_c`; the average of two copies is the midpoint of their line. The average
    of copies of a stable state is as good as each of them or better; that of an unstable state is
    not.

    Args:
      inst: an analysis whose weights were kept.
      recomputed: re-estimate the BatchNorm statistics of averages instead of averaging them.

    Returns:
      Tidy table: branch, level, density, at, seed, networks (how many are averaged), split, metric
      ("error" or "loss"), value.

    Reference: Wortsman et al. 2022 ("Model soups"), uniform soup.
    """
    flag("recomputed", recomputed)
    instance("inst", inst, Instability, "the result of jt.instability")
    evaluator = Evaluator(inst.net, inst.data, inst.training, inst.mesh)
    number = np.arange(1, inst.copies_of_each + 1)
    index = np.broadcast_to(np.arange(inst.copies_of_each), (len(number), inst.copies_of_each))
    weight = np.where(index < number[:, None], 1 / number[:, None], 0)
    values = np.stack(
        [
            evaluator.points(
                inst.networks(at=kind.at, seed=seed, branch=kind.branch, level=kind.level),
                index,
                weight,
                recomputed=recomputed,
            )
            for kind, seed in itertools.product(inst.kinds, inst.seeds)
        ]
    )
    axes = {
        "state": inst._states(),
        "networks": {"networks": number},
        "split": {"split": inst.splits},
    }
    measures = {"error": inst._main.error(values), "loss": values[..., 0]}
    tables = [results.Labeled(x, axes).table(metric=metric) for metric, x in measures.items()]
    return results.concat(tables).drop(columns="length")


def across_seeds(
    inst: Instability,
    *,
    at: int = 0,
    branch: str = "ticket",
    level: int = 0,
    copy: int = 0,
    restarts: int = 1,
    recomputed: bool = False,
) -> pd.DataFrame:
    """Compute barriers between networks of different seeds, before and after their alignment.

    Args:
      inst: an analysis of two seeds or more whose weights were kept.
      at: the step k of the networks.
      branch: the branch of the networks.
      level: the level of the networks.
      copy: the index of the copy of every seed.
      restarts: number of searches for the alignment of each pair, see `align`.
      recomputed: re-estimate BatchNorm statistics on the line, which aligned networks need.

    Returns:
      Tidy table: seeds ("0-1"), aligned, split, metric ("barrier", "loss_barrier", and "error" and
      "loss" as means of the two ends), value.

    Raises:
      ValueError: for a single seed, and networks whose symmetry is not known.

    Reference: Ainsworth et al. 2023 ("Git Re-Basin"), Fig. 2; Entezari et al. 2022.
    """
    copy, restarts = whole("copy", copy), whole("restarts", restarts, 1)
    flag("recomputed", recomputed)
    instance("inst", inst, Instability, "the result of jt.instability")
    if len(inst.seeds) < 2:
        raise ValueError(f"`inst` has the seed {inst.seeds} alone; analyze at least two")
    if copy >= inst.copies_of_each:
        raise ValueError(f"`copy` must be below {inst.copies_of_each}, got {copy}")
    setting = inst.net, inst.data, inst.training
    evaluator = Evaluator(*setting, inst.mesh)
    statistics = "recomputed" if recomputed else "interpolated"
    copies = [inst.networks(at=at, seed=s, branch=branch, level=level) for s in inst.seeds]
    networks = dict(enumerate(_tree.rows(copies, copy)))
    tables = []
    for (i, first), (j, second) in itertools.combinations(networks.items(), 2):
        key = stream(jax.random.key(0), "pair", i, j)
        moved = align(inst.net, first, second, key=key, restarts=restarts)
        for aligned, other in ((False, second), (True, (moved.params, moved.stats))):
            path = line(
                *setting,
                [first, other],
                points=len(inst.alphas),
                statistics=statistics,
                evaluator=evaluator,
            )
            pair = {"seeds": [f"{inst.seeds[i]}-{inst.seeds[j]}"], "aligned": [aligned]}
            values = heights(path.values, inst._main)[None]
            tables.append(results.spread(values, pair, {"split": inst.splits}, {"metric": BETWEEN}))
    return results.concat(tables)
