"""Results as tidy tables and files: the only module that knows pandas."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _files, _show
from jaxticket._check import instance, several
from jaxticket._identity import canonical as canonical
from jaxticket._identity import first_difference as first_difference
from jaxticket._identity import plain as plain
from jaxticket._identity import run_name as run_name

Column = Sequence[object] | np.ndarray
"""One entry per place along an axis of an array."""

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = ("seed", "level", "density", "branch", "step", "split", "metric", "value")
"""The columns that every table of results has."""


class EvaluationLog(NamedTuple):
    """The evaluations of the replicas of one level and branch.

    Attributes:
      seeds: int [replica].
      level: number of times the networks were trained, pruned and rewound.
      density: realized density, float64 [replica].
      branch: "ticket", "reinit", ...
      steps: int [call, replica], the step of each evaluation.
      wanted: bool [call, replica], which evaluations count.
      values: float32 [call, replica, split, metric].
      diverged: int [replica], step of the first loss that was not finite, or -1.
      dilation: factor of the schedule's times, float64 [replica].
      looked: bool [call, replica] by the names of what monitors give: where it was measured.
      monitored: float32 [call, replica, ...] by name.
    """

    seeds: np.ndarray
    level: int
    density: np.ndarray
    branch: str
    steps: np.ndarray
    wanted: np.ndarray
    values: np.ndarray
    diverged: np.ndarray
    dilation: np.ndarray
    looked: Mapping[str, np.ndarray] = {}
    monitored: Mapping[str, np.ndarray] = {}

    __repr__ = _show.record

    @classmethod
    def of_group(
        cls,
        arrays: Mapping[str, np.ndarray],
        group: int,
        *,
        seeds: Sequence[int],
        level: int,
        density: np.ndarray,
        branch: str,
        dilation: float = 1.0,
    ) -> EvaluationLog:
        """Take the log of one group out of arrays that hold groups of all seeds in a row.

        Args:
          arrays: "steps", "wanted", "values" [call, group * replica, ...] and "diverged"
            [group * replica].
          group: number of the group.
          seeds: one per replica.
          level, density, branch: what the group trained.
          dilation: factor of its schedule's times.
        """
        mine = slice(group * len(seeds), (group + 1) * len(seeds))

        def own(kind: str) -> dict[str, np.ndarray]:
            return {
                name.removeprefix(kind): x[:, mine]
                for name, x in arrays.items()
                if name.startswith(kind)
            }

        return cls(
            seeds=np.asarray(seeds),
            level=level,
            density=density,
            branch=branch,
            steps=arrays["steps"][:, mine],
            wanted=arrays["wanted"][:, mine],
            values=arrays["values"][:, mine],
            diverged=arrays["diverged"][mine],
            dilation=np.full(len(seeds), dilation),
            looked=own("looked/"),
            monitored=own("monitored/"),
        )

    def then(self, after: EvaluationLog) -> EvaluationLog:
        """This log and that of the rest of the training, which begins where this one ends.

        The evaluation at the end of this log counts, and not that of the same step in the other.
        """
        going = after.steps > self.steps.max(axis=0)
        names = [name for name in self.monitored if name in after.monitored]
        return after._replace(
            steps=np.concatenate([self.steps, after.steps]),
            wanted=np.concatenate([self.wanted, after.wanted & going]),
            values=np.concatenate([self.values, after.values]),
            diverged=np.where(self.diverged >= 0, self.diverged, after.diverged),
            looked={
                name: np.concatenate([self.looked[name], after.looked[name] & going])
                for name in names
            },
            monitored={
                name: np.concatenate([self.monitored[name], after.monitored[name]])
                for name in names
            },
        )

    def final(self) -> np.ndarray:
        """The last evaluation of each replica, float32 [replica, split, metric]."""
        calls = self.wanted.shape[0]
        at = calls - 1 - np.argmax(self.wanted[::-1], axis=0)
        return self.values[at, np.arange(len(at))]


def tidy(
    logs: Iterable[EvaluationLog],
    *,
    splits: tuple[str, ...],
    metrics: tuple[str, ...],
    precision: str,
) -> pd.DataFrame:
    """One row per value: the columns of `COLUMNS`, then `dilation`, `diverged` and `precision`."""
    import pandas as pd

    parts = []
    for h in logs:
        call, replica = np.nonzero(h.wanted)
        shape = (len(call), len(splits), len(metrics))

        def spread(x: np.ndarray, shape: tuple[int, ...] = shape) -> np.ndarray:
            return np.broadcast_to(np.asarray(x)[:, None, None], shape).reshape(-1)

        parts.append(
            pd.DataFrame(
                {
                    "seed": spread(h.seeds[replica]).astype(np.int64),
                    "level": np.int64(h.level),
                    "density": spread(h.density[replica]).astype(np.float64),
                    "branch": h.branch,
                    "step": spread(h.steps[call, replica]).astype(np.int64),
                    "split": np.broadcast_to(
                        np.asarray(splits, object)[None, :, None], shape
                    ).reshape(-1),
                    "metric": np.broadcast_to(
                        np.asarray(metrics, object)[None, None], shape
                    ).reshape(-1),
                    "value": h.values[call, replica].reshape(-1).astype(np.float64),
                    "dilation": spread(h.dilation[replica]).astype(np.float64),
                    "diverged": spread(h.diverged[replica]).astype(np.int64),
                    "precision": precision,
                }
            )
        )
    if not parts:
        return pd.DataFrame(columns=[*COLUMNS, "dilation", "diverged", "precision"])
    table = pd.concat(parts, ignore_index=True)
    order = ["branch", "level", "dilation", "seed", "step", "split", "metric"]
    return table.sort_values(order, kind="stable", ignore_index=True)


def monitored(logs: Iterable[EvaluationLog]) -> pd.DataFrame:
    """One row per number that monitors measured.

    Args:
      logs: the evaluations of several levels and branches.

    Returns:
      Table of seed, level, density, branch, step, metric, index, value and dilation.
    """
    parts = []
    for log in logs:
        for name, values in log.monitored.items():
            call, replica = np.nonzero(log.looked[name])
            flat = values[call, replica].reshape(len(call), -1)
            about = {
                "seed": log.seeds[replica].astype(np.int64),
                "level": np.full(len(call), log.level, np.int64),
                "density": log.density[replica].astype(np.float64),
                "branch": [log.branch] * len(call),
                "step": log.steps[call, replica].astype(np.int64),
                "dilation": log.dilation[replica].astype(np.float64),
            }
            places = {"metric": [name] * flat.shape[1], "index": np.arange(flat.shape[1])}
            parts.append(spread(flat, about, places))
    order = ["branch", "level", "dilation", "seed", "metric", "step", "index"]
    table = concat(parts).sort_values(order, kind="stable", ignore_index=True)
    columns = ("seed", "level", "density", "branch", "step", "metric", "index", "value")
    return table.reindex(columns=[*columns, "dilation"])


def spread(values: np.ndarray, *axes: Mapping[str, Column]) -> pd.DataFrame:
    """One row per entry of an array, in a column "value" after those of its axes.

    Args:
      values: [a, b, ...].
      *axes: for each axis its columns, name -> one entry per place along it.

    >>> spread(np.asarray([[1.0, 2.0]]), {"seed": [7]}, {"split": ["test", "train"]})["value"].sum()
    np.float64(3.0)
    """
    import pandas as pd

    columns = {}
    for axis, own in enumerate(axes):
        shape = [1] * values.ndim
        shape[axis] = values.shape[axis]
        for name, entries in own.items():
            column = np.asarray(entries).reshape(shape)
            columns[name] = np.broadcast_to(column, values.shape).reshape(-1)
    return pd.DataFrame({**columns, "value": values.reshape(-1).astype(np.float64)})


@dataclasses.dataclass(frozen=True, eq=False)
class Labeled:
    """An array whose axes have names and labels.

    Attributes:
      values: [a, b, ...].
      axes: name of each axis -> its columns in tables, each with one label per place. The first
        column of an axis names its places.

    >>> axes = {"seed": {"seed": [7]}, "split": {"split": ["test", "train"]}}
    >>> found = Labeled(np.asarray([[1.0, 2.0]]), axes)
    >>> found.at(split="train").values, found.reduced("split", lambda x: x.max(axis=-1)).values
    (array([2.]), array([2.]))
    """

    values: np.ndarray
    axes: Mapping[str, Mapping[str, Column]]

    __repr__ = _show.record

    def __post_init__(self) -> None:
        for size, (axis, columns) in zip(self.values.shape, self.axes.items(), strict=True):
            if any(len(labels) != size for labels in columns.values()):
                raise ValueError(f"`axes` has other than {size} labels for the axis {axis!r}")

    def only(self, axis: str, labels: Sequence[object]) -> Labeled:
        """The places of an axis that have these labels, in their order."""
        columns = self.axes[axis]
        known = list(next(iter(columns.values())))
        places = [known.index(label) for label in labels]
        kept = {name: [entries[i] for i in places] for name, entries in columns.items()}
        values = np.take(self.values, places, axis=list(self.axes).index(axis))
        return Labeled(values, {**self.axes, axis: kept})

    def at(self, **labels: object) -> Labeled:
        """The array at one label of each of some axes, without these axes."""
        found = self
        for axis, label in labels.items():
            found = found.only(axis, [label]).reduced(axis, lambda x: x[..., 0])
        return found

    def reduced(self, axis: str, function: Callable[[np.ndarray], np.ndarray]) -> Labeled:
        """The array without an axis; `function` takes an array and reduces its last axis."""
        moved = np.moveaxis(self.values, list(self.axes).index(axis), -1)
        rest = {name: columns for name, columns in self.axes.items() if name != axis}
        return Labeled(function(moved), rest)

    def table(self, **constant: ArrayLike) -> pd.DataFrame:
        """One row per entry: the columns of all axes, those that are constant, and "value"."""
        shared = {name: np.broadcast_to(x, self.values.shape[-1:]) for name, x in constant.items()}
        *axes, last = self.axes.values()
        return spread(self.values, *axes, {**last, **shared})


def check_table(
    table: object,
    columns: Sequence[str] = COLUMNS,
    *,
    argument: str = "table",
    remedy: str = "pass a tidy table such as runs.table()",
) -> None:
    """Check that a table is a DataFrame with some columns and at least one row.

    Args:
      table: what a user passed.
      columns: names of the columns that it must have; further ones are allowed.
      argument: the name of the argument.
      remedy: what to pass instead, for the error.

    Raises:
      ValueError: for what is no DataFrame, missing columns, which are all named, and no rows.
    """
    import pandas as pd

    if not isinstance(table, pd.DataFrame):
        raise ValueError(f"`{argument}` must be a DataFrame, got {type(table).__name__}; {remedy}")
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise ValueError(
            f"`{argument}` lacks the columns {missing}, it has {list(table.columns)}; {remedy}"
        )
    if table.empty:
        raise ValueError(f"`{argument}` is empty (0 rows); {remedy}")


def tables(argument: str, value: object) -> list[pd.DataFrame]:
    """One table or several as a list; `check_table` tells what is in them.

    Raises:
      ValueError: for what is neither, and for none.
    """
    import pandas as pd

    given = [value] if isinstance(value, pd.DataFrame) else value
    like = "[jt.measure(runs, 'calibration')]"
    return list(several(argument, given, _table, like=like))


def _table(argument: str, value: object) -> pd.DataFrame:
    import pandas as pd

    return instance(argument, value, pd.DataFrame, "tables such as those of jt.measure")


def concat(tables: Iterable[pd.DataFrame]) -> pd.DataFrame:
    """Tables below one another."""
    import pandas as pd

    return pd.concat(list(tables), ignore_index=True)


def frame(rows: Iterable[Mapping[str, object]]) -> pd.DataFrame:
    """A table from rows."""
    import pandas as pd

    return pd.DataFrame(list(rows))


def read(path: str | os.PathLike[str]) -> pd.DataFrame:
    """A table written by `write`."""
    import pandas as pd

    with _files.on_disk(_files.to_path(path, "path")) as local:
        return pd.read_parquet(local)


def write(table: pd.DataFrame, folder: Path, name: str) -> None:
    """Write `name.parquet` and `name.csv`, each complete or not at all."""
    import pandas as pd

    for suffix, save in (("parquet", pd.DataFrame.to_parquet), ("csv", pd.DataFrame.to_csv)):
        with _files.replacing(folder / f"{name}.{suffix}") as temporary:
            save(table, temporary, index=False)


__all__ = [
    "COLUMNS",
    "EvaluationLog",
    "Labeled",
    "canonical",
    "check_table",
    "concat",
    "first_difference",
    "frame",
    "monitored",
    "plain",
    "read",
    "run_name",
    "spread",
    "tables",
    "tidy",
    "write",
]


def __dir__() -> list[str]:
    return __all__
