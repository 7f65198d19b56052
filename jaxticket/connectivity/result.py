"""The outcome of an instability analysis: its numbers as arrays and as tidy tables."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxticket import _files, _tree, results
from jaxticket._check import flag, one_of
from jaxticket.connectivity import stability
from jaxticket.connectivity.copies import OF_COPIES
from jaxticket.connectivity.evaluator import Networks
from jaxticket.connectivity.origins import Start
from jaxticket.connectivity.paths import barrier
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.metrics import metric_names
from jaxticket.engine.store import explained
from jaxticket.settings import Training
from jaxticket.typing import Network

if TYPE_CHECKING:
    import pandas as pd

WEIGHTS = "weights"
"""In the column "split": what needs no data."""
BETWEEN = ("barrier", "loss_barrier", "error", "loss")
"""What is measured between copies at every evaluation."""
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
    """Copies of networks trained under different SGD noise, and what lies between them.

    Arrays have the axes [replica, at, pair, ...], `at` that of their branch. Tables are tidy,
    one row per value: length, branch, level, density, at, seed, then what the table is about.

    Attributes:
      net, data, training: what was trained.
      seeds: one per replica.
      kinds: the states that copies started from.
      copies_of_each: how many.
      alphas: places on the lines, 0 is the pair's first copy.
      length: "remaining" or "full".
      splits: names of the evaluated splits.
      distances: names of the distances; of_weights: those that look at no data.
      arrays: host arrays with a leading axis [kind * replica]; `labeled` names their axes.
      costs_of_units: rows of the table of costs.
      folder: where it lies, or None.
      mesh: the devices it ran on.
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
    costs_of_units: tuple[Mapping[str, Any], ...] = field(repr=False)
    folder: Path | None
    mesh: Mesh = field(repr=False)

    @property
    def at(self) -> tuple[int, ...]:
        """The steps k, ascending."""
        return tuple(sorted({kind.at for kind in self.kinds}))

    @property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """The pairs of copies."""
        return tuple(itertools.combinations(range(self.copies_of_each), 2))

    def _places(self, branch: str, level: int) -> np.ndarray:
        """Rows of the arrays, int [replica, at]."""
        found = {kind.at: i for i, kind in enumerate(self.kinds) if kind[:2] == (branch, level)}
        if not found:
            known = sorted({kind[:2] for kind in self.kinds})
            raise ValueError(f"`branch`, `level` must be one of {known}, got {(branch, level)}")
        replicas = np.arange(len(self.seeds))
        return np.stack([found[k] * len(self.seeds) + replicas for k in sorted(found)], axis=1)

    def labeled(self, name: str) -> results.Labeled:
        """One of `arrays` with names and labels of its axes, see `AXES`."""
        if name not in AXES or name not in self.arrays:
            known = [name for name in AXES if name in self.arrays]
            raise ValueError(f"`name` must be one of {known}, got {name!r}")
        values = self.arrays[name]
        columns: dict[str, Mapping[str, Any]] = {
            "state": self._states(),
            # the step of a call is that of each state
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
        return results.Labeled(values, {axis: columns[axis] for axis in AXES[name]})

    def _measured(self, name: str) -> dict[str, results.Labeled]:
        """Error and loss of an array of evaluations, float64, without the axis of metrics."""
        found = self.labeled(name)
        loss, accuracy = found.at(metric="loss"), found.at(metric="accuracy")
        return {
            "error": results.Labeled(1 - accuracy.values.astype(np.float64), accuracy.axes),
            "loss": results.Labeled(loss.values.astype(np.float64), loss.axes),
        }

    def lines(
        self,
        *,
        split: str = "test",
        metric: str = "error",
        branch: str = "ticket",
        level: int = 0,
        recomputed: bool = False,
    ) -> np.ndarray:
        """Error in [0, 1] (or loss) on the lines, float64 [replica, at, pair, alpha].

        Args:
          split: such as "test".
          metric: "error" or "loss".
          branch, level: of the tickets; level 0 of "ticket" is the dense network.
          recomputed: with recomputed BatchNorm statistics.
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
        """Barriers `max E(alpha) - (E(0) + E(1)) / 2`, float64 [replica, at, pair]."""
        found = self.lines(
            split=split, metric=metric, branch=branch, level=level, recomputed=recomputed
        )
        return barrier(found)

    def networks(self, *, at: int, seed: int, branch: str = "ticket", level: int = 0) -> Networks:
        """Trained weights and statistics of the copies of one state, leaves [copy, ...].

        Raises:
          ValueError: where they were not kept, and for a state that there is not.
        """
        kind = Start(branch, level, at)
        if kind not in self.kinds or seed not in self.seeds:
            raise ValueError(
                f"`at`, `seed`, `branch`, `level` name no state: {(at, seed, branch, level)}; "
                f"the steps are {self.at}, the seeds {self.seeds}"
            )
        if not any(name.startswith("weights/") for name in self.arrays):
            raise ValueError("`networks` were not kept; analyse with keep=True")
        row = self.kinds.index(kind) * len(self.seeds) + self.seeds.index(seed)
        parts = []
        for part, like in zip(("params", "stats"), self.net.shapes, strict=True):
            leaves = [self.arrays[f"weights/{part}/{path}"][row] for path in _tree.paths(like)]
            parts.append(jax.tree.unflatten(jax.tree.structure(like), leaves))
        return parts[0], parts[1]

    def _states(self) -> dict[str, Any]:
        """The columns that say which state a row is of."""
        replicas = len(self.seeds)
        columns = {
            name: np.repeat(np.asarray([getattr(kind, name) for kind in self.kinds]), replicas)
            for name in ("branch", "level", "at")
        }
        first = {"length": np.full(len(self.kinds) * replicas, self.length)}
        first |= {"branch": columns["branch"], "level": columns["level"]}
        first |= {"density": self.arrays["density"], "at": columns["at"]}
        return first | {"seed": np.tile(np.asarray(self.seeds), len(self.kinds))}

    @functools.cached_property
    def _table(self) -> pd.DataFrame:
        parts = []
        for name, suffix in (("line", ""), ("line_recomputed", "_recomputed")):
            if name not in self.arrays:
                continue
            for metric, line in self._measured(name).items():
                height = "barrier" if metric == "error" else "loss_barrier"
                measures = {f"{height}{suffix}": barrier}
                if not suffix:
                    measures |= {
                        metric: _mean_of_ends,
                        f"highest_{metric}": lambda x: x.max(axis=-1),
                        f"path_mean_{metric}": lambda x: x.mean(axis=-1),
                    }
                parts += [
                    line.reduced("alpha", measure).table(metric=measured)
                    for measured, measure in measures.items()
                ]
        for name in self.distances:
            seen = (WEIGHTS,) if name in self.of_weights else self.splits
            found = self.labeled("distances").at(distance=name).only("seen", seen)
            parts.append(found.table(metric=name))
        return results.concat(parts)

    def table(self) -> pd.DataFrame:
        """What lies between each pair of copies at the end.

        Columns pair ("0-1"), split, metric, value. Metrics of each split: "barrier" (of the error),
        "loss_barrier"; "error" and "loss" (means of the two ends), "highest_error" and
        "highest_loss", "path_mean_error" and "path_mean_loss" over the line; with statistics="both"
        "barrier_recomputed" and "loss_barrier_recomputed"; distances of data. With split "weights":
        distances of weights. Copies that diverged have nan.
        """
        return self._table.copy()

    def paths(self) -> pd.DataFrame:
        """The lines themselves: columns pair, alpha, split, metric ("error", "loss", and with
        "_recomputed"), value.
        """
        return results.concat(
            line.table(metric=f"{metric}{suffix}")
            for name, suffix in (("line", ""), ("line_recomputed", "_recomputed"))
            if name in self.arrays
            for metric, line in self._measured(name).items()
        )

    def copies(self) -> pd.DataFrame:
        """Each copy at the end: columns copy, split, metric, value.

        Metrics "error" and "loss" of each split; with split "weights" the L2 and the cosine
        distance from the state at k ("l2_from_k", "cosine_from_k") and the share of kept weights
        whose sign has changed since ("sign_flips").
        """
        parts = [x.table(metric=metric) for metric, x in self._measured("ended").items()]
        changes: Any = self.labeled("copies").table()
        return results.concat([*parts, changes[parts[0].columns]])

    def states(self) -> pd.DataFrame:
        """Each state at step k, before it is copied: columns split, metric, value.

        Metrics "error" and "loss" of each split; with split "weights" "l2_from_init": how far the
        (masked) weights have come from initialization.

        Reference: Frankle's thesis, section 4.3.
        """
        parts = [x.table(metric=metric) for metric, x in self._measured("began").items()]
        moved = self.labeled("moved").table(split=WEIGHTS, metric="l2_from_init")
        return results.concat([*parts, moved])

    def throughout(self) -> pd.DataFrame:
        """Barriers between the copies at every evaluation: columns pair, step, split, metric
        ("barrier", "loss_barrier", "error", "loss"), value. `step` counts as training does: from k,
        or from 0 with length="full".

        Raises:
          ValueError: where nothing was drawn during training.

        Reference: Frankle's thesis, section 4.1.3, Figs. 4-5 and 4-21.
        """
        if "throughout" not in self.arrays:
            raise ValueError("`throughout` was 0; analyse with throughout=10 (points on each line)")
        found = self.labeled("throughout")
        table: Any = found.table()
        steps = np.broadcast_to(self.arrays["steps"][:, :, None, None, None], found.values.shape)
        table.insert(table.columns.get_loc("pair") + 1, "step", steps.reshape(-1))
        return table[table["step"] >= 0].reset_index(drop=True)

    def costs(self) -> pd.DataFrame:
        """What was spent: one row per unit of work with its training steps and seconds, points on
        lines and seconds of their evaluation, and `trainings`: its steps as a multiple of one whole
        training. Of a unit that was resumed, seconds since; lines that are drawn throughout
        training count as training.
        """
        table = results.frame(self.costs_of_units)
        return table.assign(trainings=table["training_steps"] / self.training.steps)

    def stable(self, *, threshold: float = 0.02, split: str = "test") -> pd.DataFrame:
        """See `jaxticket.connectivity.stability.stable`."""
        return stability.stable(self.table(), threshold=threshold, split=split)

    def matching(
        self, *, margin: float = 0.002, split: str = "test", dense: float | None = None
    ) -> pd.DataFrame:
        """See `jaxticket.connectivity.stability.matching`."""
        return stability.matching(self.copies(), margin=margin, split=split, dense=dense)

    def first_steps(
        self,
        *,
        threshold: float = 0.02,
        margin: float = 0.002,
        split: str = "test",
        dense: float | None = None,
    ) -> pd.DataFrame:
        """See `jaxticket.connectivity.stability.first_steps`."""
        options = {"threshold": threshold, "margin": margin, "split": split, "dense": dense}
        return stability.first_steps(self.table(), self.copies(), **options)

    def save(self, folder: str | Path | None = None) -> Path:
        """Writes all tables (Parquet and CSV) into the folder."""
        target = _files.absolute(folder) if folder is not None else self.folder
        if target is None:
            raise ValueError("`folder` is needed to save an analysis that has none")
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
        return target


def _mean_of_ends(values: np.ndarray) -> np.ndarray:
    return (values[..., 0] + values[..., -1]) / 2
