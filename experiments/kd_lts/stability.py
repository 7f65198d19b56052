"""Figures 10 and 27 of KD-LTS: are its tickets stable to SGD noise?

Copies of each ticket are trained from initialization under different orders of examples, and the
error is taken on the line between them: tickets of KD-LTS, of iterative magnitude pruning from step
0 (LTH), and random pruning, compared with the dense network. The tickets are those of accuracy.py.

Command:  python -m experiments.kd_lts.stability [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_10 (of VGG-16 figure_27): the error barrier by density, and the error on the line
          at the lowest density; barriers.csv; barriers and errors in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 5 levels pruning 41.5%, 18,760 steps; reduced 3 seeds,
          10 levels pruning 36%, 6,000 steps; paper 3 seeds, 8 levels pruning 20.5%, 18,760 steps.
Cost:     not measured at either size.
Expected: the paper finds the tickets of KD-LTS stable (barrier below 2 points) at all densities
          that it draws on ResNet-20 and VGG-16, those of LTH and random pruning not. LeNet-300-100
          on MNIST is stable in all of them.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, of_script, prepare
from experiments.common.report import pair, save, seeds, shared_legend
from experiments.kd_lts._common import LENET, QUICK, dense, paper
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts.accuracy import find
from jaxticket.plots._axes import density_axis
from jaxticket.plots._panel import Series, draw, from_zero, stable_line
from jaxticket.plots._table import column, possible, select, spread, where, with_density

METHODS = ("kd_lts", "ltr", "random")
BANDS = "bands are standard deviations over seeds and pairs of copies"


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, and how copies are compared."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS; all of them if not given."""
    copies: int = 2
    """Copies of every ticket; all pairs of them are compared."""
    points: int = 30
    """Places on each line between two copies."""


def by_density(ax: Axes, table: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Draw barriers of each method against density, and the dense network's across."""
    rows = select("table", table, "test", "barrier", "pair")
    within = possible("barrier", rows)
    series = []
    for name, look in jt.plots.branch_styles(names).items():
        points = spread(with_density(where(rows, branch=name)), "x", "std", within)
        series.append(Series(look.label, points, look.color, look.marker))
    draw(ax, series, "std")
    stable_line(ax)
    whole = float(column(where(rows, level=0), "value").mean())
    ax.axhline(whole, color="0.45", linewidth=1.1, label="dense")
    density_axis(ax, rows.loc[rows["level"] > 0].groupby("level")["density"].median())
    low, high = from_zero(series, least=3.0, most=100.0)
    ax.set_ylim(low, max(high, 1.06 * whole if np.isfinite(whole) else high))
    ax.set_ylabel("Test error barrier (points)")


def drawn(table: pd.DataFrame, paths: pd.DataFrame, names: tuple[str, ...], level: int) -> Figure:
    """Draw barriers by density on the left, errors on the line at one density on the right."""
    with jt.plots.style():
        figure, axes = pair()
        by_density(axes[0], table, names)
        jt.plots.path(paths, axes[1], level=level, branches=("dense", *names), legend=False)
        shared_legend(figure, axes)
    return figure


def rows_of(table: pd.DataFrame, copies: pd.DataFrame) -> pd.DataFrame:
    """Mean barrier and error of each method and density."""
    parts = []
    for metric, source in (("barrier", table), ("error", copies)):
        own = source.loc[(source["metric"] == metric) & (source["split"] == "test")]
        by = own.groupby(["branch", "level"], sort=False)["value"].agg(
            ["mean", "std", "min", "max"]
        )
        parts.append(by.add_prefix(f"{metric}_"))
    density = table.groupby(["branch", "level"])["density"].median()
    rows = parts[0].join(parts[1]).join(density).reset_index()
    # the threshold of the thesis, 2 points
    return rows.assign(stable=rows["barrier_mean"] < 0.02)


def main(settings: Settings) -> None:
    """Find tickets with every method, train copies of them, compare them, and draw."""
    names = chosen(settings.methods, METHODS)
    job = prepare(__file__, settings, quick=QUICK, lenet=LENET, paper=paper(settings))
    other = of_script(job, "accuracy")
    options = {"copies": settings.copies, "points": settings.points, "keep": False}
    with budget(job):
        # folders themselves are runs'
        dense(other)
        dense(job)
        found = tuple(dataclasses.replace(find(other, name, 0), branch=name) for name in names)
        levels = tuple(range(1, job.size.levels + 1))
        whole = job.instability(sub="dense_copies", at=0, **options)
        inst = job.instability(sub="copies", tickets=found, levels=levels, **options)
    table, copies, paths = (
        jt.results.concat([getattr(whole, name)(), getattr(inst, name)()])
        for name in ("table", "copies", "paths")
    )
    rows = rows_of(table, copies)
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {settings.size} size)")
    print(f"barrier and test error in %, mean (+- std) of {settings.copies} copies, {seeds(job)}\n")
    for row in rows.to_dict("records"):
        label = "dense" if row["level"] == 0 else looks[row["branch"]].label
        cells = "".join(
            f"{100 * row[f'{name}_mean']:10.2f} +-{100 * row[f'{name}_std']:6.2f}"
            for name in ("barrier", "error")
        )
        print(
            f"{label:30}{100 * row['density']:7.2f}%{cells}   {'stable' if row['stable'] else ''}"
        )
    name = "figure_27" if job.preset.network == "vgg16" else "figure_10"
    figure = drawn(table, paths, names, levels[-1])
    more = {"methods": names, "copies": settings.copies, "points": settings.points}
    save(job, {name: figure}, tables={"barriers": rows}, more=more, bands=BANDS,
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
