"""Figures 4-13 to 4-30 and 4-33 of Frankle's thesis: instability of tickets.

For every step k tickets are found by iterative magnitude pruning with rewinding to k. Copies of
each ticket, of its mask shuffled within layers (random pruning) and of its mask with new weights
(random reinit, which starts at step k too; with --reinit-from 0 it gets the whole schedule) are
trained under different orders of examples and compared. When do tickets become stable, and when as
accurate as the dense network?

Command:  python -m experiments.thesis_ch4.tickets --preset resnet20-cifar10 [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 4-13 to 4-30 and 4-33, verdicts.csv, first_steps.csv, ranges.csv; the verdict of
          every step in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 48.8%, 600 steps, 10% of the examples;
          reduced 3 seeds, 10 levels pruning 36%, 6,000 steps; paper 3 seeds, 22 levels pruning 20%,
          24,000 steps.
Cost:     at quick size 8.2 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; at the
          reduced size 132 minutes with the settings of
          results/thesis_ch4/tickets-resnet20-cifar10-reduced-150e3eb920 on 2 cores of an AMD EPYC;
          the paper's size is not measured.
Expected: at paper size LeNet's tickets are stable and matching from step 0. ResNet-20's at 16.8%
          and VGG-16's at 1.5% are neither at step 0, and both from about step 500 and 1,000 on;
          random and reinitialized networks are unstable and not matching at any step. Tickets of
          ResNet-20 match at densities of 80 to 13.4% (range II), random ones above 80% (range I).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import pair, save, shared_legend, single
from experiments.thesis_ch4._copies import (
    BANDS,
    SMALL,
    TICKETS,
    USUAL,
    comparison,
    report,
    verdicts,
)
from experiments.thesis_ch4._copies import Settings as Common
from experiments.thesis_ch4.dense import both, distances

REINIT = {"k": "reinit_at_k", "0": "reinit"}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the chapter, and which densities are analyzed."""

    all_levels: bool | None = None
    """Analyze every density (figures 4-18 and 4-27 to 4-30), not the sparsest alone; by
    default done, except for a quick ResNet."""
    reinit_from: Literal["k", "0"] = "k"
    """Where the schedule of reinitialized networks begins: at step k, as in the thesis (Figure
    4-24), or at step 0."""


def best(tables: dict[int, pd.DataFrame]) -> pd.DataFrame:
    """Select at each density the step k whose tickets are best, as a branch.

    Args:
      tables: of the runs, by step k.
    """
    parts = [jt.speed.final(table).assign(k=k) for k, table in tables.items()]
    final = jt.results.concat(parts)
    tickets = final.loc[(final["branch"] == "ticket") & (final["level"] > 0)]
    means = tickets.groupby(["level", "k"])["value"].mean().reset_index()
    chosen = means.loc[means.groupby("level")["value"].idxmax(), ["level", "k"]]
    return tickets.merge(chosen, on=["level", "k"]).assign(branch="best k").drop(columns="k")


def main(settings: Settings) -> None:
    """Find tickets of every step k, train copies of them, compare them, and draw."""
    # 16.8% of the weights are left, of LeNet 3.5%
    quick = {**SMALL, "levels": 2, "fraction": 0.59}
    lenet = {**USUAL, "levels": 5, "fraction": 0.488, "test_examples": 2_000}
    paper = {"levels": jt.preset(settings.preset).pruning.levels, "seeds": 3}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, paper=paper)
    chosen = comparison(job, settings, shares=TICKETS, copies=2)
    last = job.size.levels
    small = settings.size != "paper" and job.preset.network != "lenet"
    every = not small if settings.all_levels is None else settings.all_levels
    # of one density the analysis trains the controls itself
    controls = ("shuffle", REINIT[settings.reinit_from])
    trained = controls if every else ()
    with budget(job):
        found = {
            k: job.find_tickets(
                sub=f"k-{k}", branches=trained if k == chosen.at[0] else (), rewind=k
            )
            for k in chosen.at
        }
        levels = tuple(range(last + 1)) if every else (0, last)
        inst = job.instability(
            sub="copies",
            tickets=tuple(found.values()),
            branches=controls,
            levels=levels,
            throughout=chosen.throughout,
            keep=False,
            **chosen.options,
        )
    tables = {name: getattr(inst, name)() for name in ("table", "copies", "states", "paths")}
    rows, steps = verdicts(inst), inst.first_steps()
    ranges = jt.stability.ranges(tables["copies"])
    report(job, rows.loc[rows["level"].isin((0, last))], steps, ("ticket",))
    print(
        "ranges of density: "
        + ", ".join(
            f"{100 * row['density']:.1f}% {row['range']}" for row in ranges.to_dict("records")
        )
    )
    runs = {k: run.table() for k, run in found.items()}
    by_density = jt.results.concat((runs[chosen.at[0]], best(runs)))
    first, branches = chosen.at[0], ("ticket", *controls)
    looks, density = jt.plots.branch_styles(branches), 100 * job.densities[-1]
    titles = {name: f"{looks[name].label}, {density:.3g}%" for name in branches}
    figures = {
        "figure_4-14": both(
            jt.plots.path, tables["paths"], of=f"k = {first}, {density:.3g}% of weights",
            at=first, level=last, branches=branches,
        ),
        "figures_4-15_to_4-17": _two(tables, last, "test"),
        "figures_4-19_and_4-20": _two(tables, last, "train"),
        "figure_4-21": both(
            jt.plots.throughout, inst.throughout(), of=titles["ticket"],
            level=last, branches=("ticket",),
        ),
        "figures_4-25_and_4-26": distances(inst, level=last),
    }  # fmt: skip
    for number, branch in zip(("4-22", "4-23", "4-24"), branches, strict=True):
        figures[f"figure_{number}"] = both(
            jt.plots.path, tables["paths"], of=titles[branch], level=last, branches=(branch,)
        )
    with jt.plots.style():
        figures["figure_4-13"], ax = single()
        jt.plots.accuracy(by_density, ax)
        # of the dense network and one ticket there is no course along density
        if len(levels) > 2:
            figures["figure_4-18"], ax = single()
            jt.plots.first_steps(steps, ax, at=chosen.at)
            figures["figures_4-27_to_4-30"], axes = pair()
            for ax, metric in zip(axes, ("barrier", "error"), strict=True):
                jt.plots.against_density(tables["table"], ax, metric=metric, legend=False)
                ax.set_title(metric)
            shared_legend(figures["figures_4-27_to_4-30"], axes)
            figures["heat_map"], ax = single()
            jt.plots.heat_map(tables["table"], ax)
        figures["figure_4-33"], ax = single()
        jt.plots.distances_at_rewinding(
            tables["states"],
            tables["copies"],
            tables["table"],
            ax,
            level=last,
            branches=("ticket",),
        )
    more = {"at": chosen.at, **chosen.options, "throughout": chosen.throughout, "levels": levels}
    more["reinit_from"] = settings.reinit_from
    bands = f"{BANDS} (of figure 4-13 from the least to the greatest seed)"
    small_tables = {"verdicts": rows, "first_steps": steps, "ranges": ranges, "costs": inst.costs()}
    save(job, figures, by_density, tables=small_tables, more=more, bands=bands)


def _two(tables: Mapping[str, pd.DataFrame], level: int, split: str) -> Figure:
    """Give the two panels, barrier and error, of one split."""
    with jt.plots.style():
        figure, axes = pair()
        jt.plots.stable_and_matching(
            tables["table"], tables["copies"], axes, level=level, split=split
        )
    return figure


if __name__ == "__main__":
    launch(main, Settings, __doc__)
