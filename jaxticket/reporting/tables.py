"""Tables of what a folder holds: every evaluation, the last ones, and means over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from jaxticket import _stats, results
from jaxticket.analysis import stats
from jaxticket.analysis.verdict import Verdict
from jaxticket.connectivity.result import Instability
from jaxticket.engine.judged import judged
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.early_pruning import BySteps

if TYPE_CHECKING:
    import pandas as pd

Found: TypeAlias = Runs | BySteps | Instability | Verdict
"""What a folder holds."""
SHORT = 40
"""Rows of a table that is written whole."""


class Table(NamedTuple):
    """A table as it is written.

    Attributes:
      title: what it holds.
      columns: headings.
      rows: texts.
      note: what is to be said of it.
      folded: whether it is closed until a reader opens it.
      content: all of its rows as CSV, for a link; empty for none.
      file: the name of that file.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    note: str = ""
    folded: bool = False
    content: str = ""
    file: str = ""


class Metric(NamedTuple):
    """How the values of a metric are written."""

    name: str
    shares: bool

    @property
    def title(self) -> str:
        """Its name with its unit."""
        return f"{self.name} (%)" if self.shares else self.name

    def __call__(self, value: float) -> str:
        """A value."""
        if not math.isfinite(value):
            return "diverged"
        return f"{100 * value:.2f}" if self.shares else f"{value:.4g}"


def with_branches(runs: Runs) -> pd.DataFrame:
    """Every evaluation of runs and of the branches that lie below their folder."""
    below = [] if runs.folder is None else sorted(runs.folder.glob("branches/*/table.parquet"))
    return results.concat([runs.table(), *map(results.read, below)])


def final_table(found: Found) -> pd.DataFrame:
    """What a table of results holds: of runs the values at the end of each training."""
    if isinstance(found, BySteps):
        tables = [final_table(runs).assign(pruned_at=step) for step, runs in found.items()]
        return results.concat(tables)
    if isinstance(found, Runs):
        table = with_branches(found)
        pairs = table[["split", "metric"]].drop_duplicates().itertuples(index=False)
        return results.concat(stats.final(table, split=s, metric=m) for s, m in pairs)
    return found.conditions() if isinstance(found, Verdict) else found.table()


def metric_of(name: str, training: Training) -> Metric:
    """How the values of a metric of a training are written."""
    return Metric(name, judged(name, training).shares)


def main_metric(table: pd.DataFrame, training: Training) -> Metric:
    """The metric that comes first: the accuracy, or one of the training, or the loss."""
    known = list(dict.fromkeys(table["metric"]))
    own = [name for name in known if name not in ("accuracy", "loss")]
    name = "accuracy" if "accuracy" in known else (own or known)[0]
    return metric_of(str(name), training)


def usual(table: pd.DataFrame) -> pd.DataFrame:
    """The trainings with the schedule as it is."""
    return table.loc[table["dilation"] == 1] if "dilation" in table.columns else table


def means(table: pd.DataFrame, metric: Metric, test_size: int) -> Table:
    """Mean and spread of the last evaluations of the test split, by level and branch.

    Args:
      table: of runs, also with the column `pruned_at`.
      metric: which.
      test_size: test examples, below one of which there is no difference.
    """
    by = ["pruned_at"] if "pruned_at" in table.columns else []
    rows: list[Sequence[str]] = []
    judges = False
    for step, part in _parts(table, by):
        ends = stats.final(part, metric=metric.name)
        found = stats.over_seeds(ends).to_dict("records")
        dense = [row for row in found if _is_dense(row)]
        judges = judges or bool(dense and metric.name == "accuracy")
        for row in sorted(found, key=lambda row: (row["level"], row["branch"] != "ticket")):
            matches = ""
            if dense and metric.name == "accuracy" and not _is_dense(row):
                ok = _stats.matching(
                    row["mean"],
                    dense[0]["mean"],
                    margin=max(0.002, 1 / test_size),
                    diverged=row["diverged"],
                )
                matches = "yes" if ok else "no"
            rows.append((*step, *_about(row), *_spread(row, metric), matches))
    columns = ["pruned at step"] if by else []
    columns += ["level", "density (%)", "branch", f"mean {metric.title}", "std", "least",
                "greatest", "seeds", "matching"]  # fmt: skip
    note = "Test split, at the end of training; std is the standard deviation over seeds."
    if judges:
        note += (
            f" Matching: the mean is at most {100 * max(0.002, 1 / test_size):.2g} points below "
            f"that of the dense network, and no seed diverged."
        )
    else:
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    return Table(f"Test {metric.name} by level and branch", columns, rows, note)


def _parts(table: pd.DataFrame, by: list[str]) -> list[tuple[tuple[str, ...], pd.DataFrame]]:
    if not by:
        return [((), table)]
    steps = sorted(set(table[by[0]]))
    return [((f"{step:,}",), table.loc[table[by[0]] == step]) for step in steps]


def _is_dense(row: Mapping[str, object]) -> bool:
    return row["branch"] == "ticket" and row["level"] == 0


def _about(row: Mapping[str, float]) -> tuple[str, ...]:
    name = "dense" if _is_dense(row) else str(row["branch"])
    return str(row["level"]), f"{100 * row['density']:.3g}", name


def _spread(row: Mapping[str, float], metric: Metric) -> tuple[str, ...]:
    count = int(row["seeds"] - row["diverged"])
    lost = f" ({int(row['diverged'])} diverged)" if row["diverged"] else ""
    around = metric(row["std"]) if count > 1 else ""
    values = metric(row["mean"]), around, metric(row["min"]), metric(row["max"])
    return *values, f"{int(row['seeds'])}{lost}"


def seed_by_seed(
    table: pd.DataFrame, keys: Sequence[str], write: Callable[[float], str]
) -> tuple[list[str], list[list[str]]]:
    """Headings and rows of a table with a column for each seed; means of what a cell has several.

    Args:
      table: with the columns `keys`, seed and value.
      keys: what the rows are.
      write: writes a value.
    """
    cells: dict[tuple[object, ...], dict[int, list[float]]] = {}
    for row in table.to_dict("records"):
        place = tuple(row[key] for key in keys)
        cells.setdefault(place, {}).setdefault(int(row["seed"]), []).append(float(row["value"]))
    seeds = sorted({seed for own in cells.values() for seed in own})
    rows = [
        [
            *(written(key, value) for key, value in zip(keys, place, strict=True)),
            *(write(float(np.mean(own[seed]))) if seed in own else "" for seed in seeds),
        ]
        for place, own in cells.items()
    ]
    return [*map(heading, keys), *(f"seed {seed}" for seed in seeds)], rows


def heading(name: str) -> str:
    """What a column of a table is called on a page."""
    known = {"density": "density (%)", "at": "step k", "pruned_at": "pruned at step"}
    return known.get(name, name.replace("_", " "))


def written(name: str, value: object) -> str:
    """A value of a column as text."""
    if isinstance(value, float) and name == "density":
        return f"{100 * value:.3g}"
    if isinstance(value, (bool, np.bool_)):
        return "yes" if value else "no"
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.5g}"
    return "" if value is None else str(value)


def whole(
    title: str, table: pd.DataFrame, *, note: str = "", folded: bool = False, file: str = "table"
) -> Table:
    """A table as it is: all rows where they are few, else the first of them; and a link."""
    rows = [
        [written(name, value) for name, value in row.items()] for row in records(table.head(SHORT))
    ]
    if len(table) > SHORT:
        note = f"{note} The first {SHORT} of {len(table):,} rows.".strip()
    content = table.to_csv(index=False)
    columns = [heading(str(name)) for name in table.columns]
    return Table(title, columns, rows, note, folded, content, f"{file}.csv")


def records(table: pd.DataFrame) -> list[dict[str, object]]:
    """Rows of a table, by the names of columns."""
    return [{str(name): value for name, value in row.items()} for row in table.to_dict("records")]


def evaluations(table: pd.DataFrame, training: Training) -> list[Table]:
    """The evaluations of runs: whole where they are few, else the last ones, seed by seed."""
    content = table.to_csv(index=False)
    if len(table) <= SHORT:
        return [whole("Evaluations", table)]
    first = main_metric(table, training)
    pairs = list(dict.fromkeys(zip(table["split"], table["metric"], strict=True)))
    keys = [name for name in ("pruned_at", "branch", "level", "dilation") if name in table.columns]
    if "dilation" in keys and set(table["dilation"]) == {1.0}:
        keys.remove("dilation")
    found = []
    for split, name in sorted(pairs, key=lambda pair: pair != ("test", first.name)):
        metric = metric_of(str(name), training)
        own = table.loc[(table["split"] == split) & (table["metric"] == name)]
        group = [*keys, "seed"]
        ends = own.loc[own["step"] == own.groupby(group)["step"].transform("max")]
        columns, rows = seed_by_seed(ends, keys, metric)
        title = f"{str(split).capitalize()} {metric.title} at the end of training"
        found.append(Table(title, columns, rows, folded=bool(found) or len(rows) > SHORT))
    note = f"All {len(table):,} evaluations are in the file."
    found[0] = found[0]._replace(note=note, content=content, file="table.csv")
    return found


def seconds(amount: float) -> str:
    """A duration, such as "12 s" or "3 h 20 min".

    >>> [seconds(x) for x in (0.4, 12.0, 75.0, 12_000.0)]
    ['0.4 s', '12 s', '1 min 15 s', '3 h 20 min']
    """
    if amount < 60:
        return f"{amount:.2g} s" if amount < 10 else f"{amount:.0f} s"
    minutes, rest = divmod(round(amount), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def total(values: Iterable[float]) -> float:
    """The sum of the values that are numbers."""
    return float(np.nansum(np.asarray(list(values), np.float64)))
