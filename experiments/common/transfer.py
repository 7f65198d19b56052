"""What scripts that move tickets share: the tickets of each setting, all pairs, tables, figures."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.learned import late_step
from experiments.common.report import Row, draw_alike, grid, renamed, seeds, shared_legend, single


@dataclasses.dataclass(frozen=True)
class Moved:
    """Tickets of several settings on each other's.

    Attributes:
      matrix: of `jt.transfer_matrix`.
      tables: by target, tidy: its own tickets as branch "ticket", those of others by "from SOURCE",
        random ones as "random".
    """

    matrix: pd.DataFrame
    tables: Mapping[str, pd.DataFrame]


def tickets(job: Job, *, sub: str = "") -> jt.Runs:
    """Find tickets of a setting with its late rewinding; the output layer is not pruned."""
    return job.find_tickets(sub=sub, rewind=late_step(job), exclude=(job.net.output,))


def evaluated(levels: Sequence[int]) -> tuple[int, ...]:
    """Give the levels that the source trains elsewhere: the first six, then every third."""
    return tuple(level for level in levels if level <= 6 or level % 3 == 0)


def pairs(jobs: Mapping[str, Job], found: Mapping[str, jt.Runs], targets: Sequence[str]) -> Moved:
    """Train every setting's tickets in each of the others, and compare with the target's own."""
    moved: dict[tuple[str, str], jt.Runs] = {}
    tables = {}
    for target in targets:
        parts = []
        for source in (name for name in jobs if name != target):
            runs = jobs[target].transfer(found[source], to=found[target], sub=f"from_{source}",
                levels=evaluated(found[source].levels),
            )  # fmt: skip
            moved[source, target] = runs
            table = runs.table()
            names = {"own": "ticket", "globally_permuted": "random"}
            own = table.loc[table["branch"] == "transferred"].assign(branch=f"from {source}")
            # the target's own tickets, and the random ones, are drawn once
            others = renamed(table.loc[table["branch"].isin(list(names))], names)
            rows = jt.results.concat([others, own]) if not parts else own
            parts.append(rows.loc[(rows["level"] > 0) | (rows["branch"] == "ticket")])
        tables[target] = jt.results.concat(parts)
    return Moved(jt.transfer_matrix(moved), tables)


def say(job: Job, moved: Moved) -> None:
    """Print final accuracies by target and density."""
    for target, table in moved.tables.items():
        rows = jt.speed.over_seeds(jt.speed.final(table)).set_index(["branch", "level"])
        print(f"\non {target}: final test accuracy in %, mean +- standard deviation, {seeds(job)}")
        levels = sorted(set(rows.index.get_level_values("level")))
        shares = (100 * rows.loc[("ticket", level), "density"] for level in levels)
        print(f"{'':24}" + "".join(f"{share:15.3g}%" for share in shares))
        for name in dict.fromkeys(rows.index.get_level_values("branch")):
            label = "its own" if name == "ticket" else name
            cells = (
                deviating(rows.loc[(name, level)]) if (name, level) in rows.index else "-"
                for level in levels
            )
            print(f"{label:24}" + "".join(f"{text:>16}" for text in cells))


def deviating(row: Row) -> str:
    """Write mean and standard deviation in percent."""
    return f"{100 * row['mean']:.1f} +- {100 * row['std']:.1f}"


def by_density(moved: Moved, data_of: Callable[[str], str] = lambda _: "") -> Figure:
    """Draw a panel for each target: accuracy by density, a line for each source.

    Args:
      moved: the tickets.
      data_of: gives the data of a target. Targets of the same data have equal axes; accuracies on
        different data are not compared.
    """
    names = list(moved.tables)
    with jt.plots.style():
        figure, axes = grid(len(names), min(3, len(names)), (4.2, 3.4))
        panels = [
            partial(jt.plots.accuracy, moved.tables[name], band="std", legend=False)
            for name in names
        ]
        draw_alike(axes, panels, [data_of(name) for name in names])
        for ax, name in zip(axes, names, strict=True):
            ax.set_title(name)
        shared_legend(figure, axes)
    return figure


def heat_map(moved: Moved) -> Figure:
    """Give the matrix at the lowest density."""
    many = max(len(set(moved.matrix[name])) for name in ("target", "source"))
    with jt.plots.style():
        figure, ax = single(1.6 + 1.2 * many, 1.2 + 0.7 * many)
        jt.plots.transfer_matrix(moved.matrix, ax)
    return figure
