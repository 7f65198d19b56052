"""Algorithm 5 of Frankle's thesis (section 6.2.2): one-shot dynamic IMP, and what it depends on.

Can a network that is sparse from its first step be as accurate as the dense one if its mask may
change, once, toward the middle of training? Dynamic IMP finds both masks in retrospect. Next to it
are IMP with rewinding (iterative and in one shot), one-shot IMP without rewinding, whose mask never
changes, and a variant of dynamic IMP for each of the thesis's preliminary results: (a) other steps
of the change, and two of them; (b) masks that are made to overlap more; (c) other values of the
connections that grow; (d) a first mask by magnitude at initialization, or a random one; (e)
connections that grow by the gradient of a batch, or at random, in the place of those that
look-ahead training chooses.

Command:  python -m experiments.thesis_ch6.dynamic_imp [--preset NAME] [--size reduced|paper]
          [--methods dynamic_imp ...] [--budget MINUTES]
Makes:    the figure dynamic_imp, final.csv, overlap.csv, gaps.csv; accuracies by density, gaps to
          dynamic IMP and the overlap of masks in the terminal.
Sizes:    lenet-mnist: quick 5 seeds, 2 levels pruning 84%, 3,200 steps; reduced 3 seeds, 1 level
          pruning 85%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000 steps.
Cost:     31 minutes with the settings of
          results/thesis_ch6/dynamic_imp-lenet-mnist-quick-4f9503d440 (--levels 4 --fraction 0.6)
          on 2 cores of an AMD EPYC with other work beside it.
Expected: the thesis has no numbers, only words on ResNet-20: with one change toward the middle of
          training networks are as accurate as the dense one at the densities of the best tickets of
          IMP with rewinding; 80% of the second mask's weights are not in the first, and more
          overlap hurts; new values of what grows do not matter; a random first mask is slightly
          worse, that by magnitude hardly; growing by the gradient is no better than at random, and
          both are far below what look-ahead training chooses.
"""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.report import (
    cell,
    draw_alike,
    grid,
    groups,
    mean_line,
    named,
    save,
    seeds,
    single,
)
from jaxticket.analysis.conditions import clear_gap

PLAIN, STILL = "dynamic_imp", "no_change"
# of rewinding: options of `jt.Pruning`
REWOUND: dict[str, dict[str, Any]] = {"ltr": {}, "ltr_in_one_shot": {"one_shot": True}}
# changes by the share of training that is over then; presets of residual networks lower the rate
# at half of it, after which new weights hardly move
ONCE = (0.4,)
# options of `jt.dynamic_imp`
DYNAMIC: dict[str, tuple[tuple[float, ...], dict[str, Any]]] = {
    STILL: ((), {}),
    PLAIN: (ONCE, {}),
    "first_mask_by_magnitude": (ONCE, {"first": "magnitude"}),
    "first_mask_random": (ONCE, {"first": "random"}),
    "grown_by_gradient": (ONCE, {"growth": "gradient"}),
    "grown_at_random": (ONCE, {"growth": "random"}),
    "half_stays": (ONCE, {"overlap": 0.5}),
    "four_fifths_stay": (ONCE, {"overlap": 0.8}),
    "grown_weights_drawn_again": (ONCE, {"regrow": "reinit"}),
    "changed_at_a_fifth": ((0.2,), {}),
    "changed_at_three_fifths": ((0.6,), {}),
    "changed_twice": ((0.3, 0.6), {}),
    "grown_weights_of_initialization": (ONCE, {"regrow": "same"}),
    "grown_weights_zero": (ONCE, {"regrow": "zero"}),
}
METHODS = (STILL, PLAIN, *REWOUND, *(name for name in DYNAMIC if name not in (STILL, PLAIN)))
# of networks that take their time, at the quick size
FEW = (
    "ltr",
    "grown_at_random",
    "grown_by_gradient",
    "first_mask_random",
    "grown_weights_drawn_again",
    "four_fifths_stay",
)
# the panels of the figure, each next to dynamic IMP
PANELS: dict[str, tuple[str, ...]] = {
    "(a) whether, when and how often masks change": (
        *REWOUND,
        STILL,
        "changed_at_a_fifth",
        "changed_at_three_fifths",
        "changed_twice",
    ),
    "(b) masks that overlap more": (STILL, "half_stays", "four_fifths_stay"),
    "(c) values of what grows": (
        "grown_weights_drawn_again",
        "grown_weights_of_initialization",
        "grown_weights_zero",
    ),
    "(d) the first mask": (STILL, "first_mask_by_magnitude", "first_mask_random"),
    "(e) what grows": (STILL, "grown_by_gradient", "grown_at_random"),
}
# those whose masks overlap in another way than dynamic IMP's, by nothing that was asked for
OVERLAPPING = (
    PLAIN,
    "first_mask_by_magnitude",
    "first_mask_random",
    "changed_at_a_fifth",
    "changed_at_three_fifths",
    "grown_weights_of_initialization",
)


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, which methods, and where tickets are rewound to."""

    methods: tuple[str, ...] | None = None
    """Some of the methods, by the names in tables; all if not given (of quick residual networks the
    most telling)."""
    rewind: float = 0.04
    """Share of training that is over at the step to which tickets are rewound."""


def run(job: Job, name: str, rewind: int) -> jt.Runs:
    """Give the runs of a method; their folders are in that of the runs with one mask."""
    if name in REWOUND:
        return job.find_tickets(sub=name, rewind=rewind, **REWOUND[name])
    shares, options = DYNAMIC[name]
    changes = tuple(round(share * job.size.steps) for share in shares)
    sub = "" if name == STILL else name
    return job.dynamic_imp(changes, sub=sub, dense=name == STILL, **options)


def overlaps(trace: pd.DataFrame) -> pd.DataFrame:
    """Give the overlap of masks at every change, over seeds."""
    keys = ["branch", "level", "density", "change", "step"]
    shares = trace.groupby(keys, sort=False)["overlap"]
    return shares.agg(["mean", "min", "max"]).reset_index()


def gaps(table: pd.DataFrame) -> pd.DataFrame:
    """Compute what each method reaches beyond dynamic IMP, in points, by density.

    The columns are branch, level, density, difference of the means, std (pooled) and clear:
    whether the gap is clear, in either direction (`clear_gap`).
    """
    final = jt.speed.final(table)
    values = {key: rows for key, rows in groups(final, "branch", "level")}
    rows = []
    for (branch, level), own in values.items():
        if level == 0 or branch == PLAIN or (PLAIN, level) not in values:
            continue
        theirs = values[PLAIN, level]["value"].to_numpy(float)
        ours = own["value"].to_numpy(float)
        gap, pooled, above = clear_gap(ours, theirs)
        rows.append(
            {
                "branch": branch,
                "level": level,
                "density": float(np.median(own["density"])),
                "difference": 100 * gap,
                "std": 100 * pooled,
                "clear": above or clear_gap(theirs, ours)[2],
            }
        )
    return jt.results.frame(rows)


def report(job: Job, table: pd.DataFrame, apart: pd.DataFrame, shared: pd.DataFrame) -> None:
    """Print accuracies, gaps to dynamic IMP, and how much of a mask the next one has."""
    rows = jt.speed.matching(table, margin=job.settings.margin, test_size=len(job.data.test))
    rows = rows.set_index(["branch", "level"])
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}")
    print(f"dense {cell(rows.loc[('ticket', 0)], 2)}; * is as accurate as that\n")
    levels = sorted({level for _, level in rows.index if level})
    names = [name for name in METHODS if (name, levels[0]) in rows.index]
    print(f"{'density':34}" + "".join(f"{100 * d:26.2f}%" for d in job.densities))
    for name in names:
        marks = (rows.loc[(name, level)] for level in levels)
        cells = (cell(row, 2) + ("*" if row["matching"] else " ") for row in marks)
        print(f"{name.replace('_', ' '):34}" + "".join(f"{text:>27}" for text in cells))
    print("\nbeyond dynamic IMP, in points +- pooled standard deviation; ! is a clear gap\n")
    for name, own in apart.groupby("branch", sort=False):
        texts = (
            f"{row['difference']:+.2f} +- {row['std']:.2f}{'!' if row['clear'] else ' '}"
            for row in own.to_dict("records")
        )
        print(f"{str(name).replace('_', ' '):34}" + "".join(f"{text:>27}" for text in texts))
    print("\nshare of the new mask that the old one had, in %, mean (min to max)\n")
    for (name, change), own in groups(shared, "branch", "change"):
        title = f"{str(name).replace('_', ' ')}, change {change}"
        texts = (cell(row) for _, row in own.iterrows())
        print(f"{title:40}" + "".join(f"{text:>27}" for text in texts))


def draw(job: Job, table: pd.DataFrame, trace: pd.DataFrame) -> Figure:
    """Draw a panel for each question, with equal axes, and the overlap of the masks."""
    there = set(table["branch"])
    panels = {
        title: [PLAIN, *(name for name in names if name in there)]
        for title, names in PANELS.items()
        if there & set(names)
    }
    with jt.plots.style():
        figure, axes = grid(len(panels) + 1, 3, (4.4, 3.6))
        draw = partial(jt.plots.accuracy, band="bars", test_size=len(job.data.test))
        drawn = [
            partial(draw, table.loc[table["branch"].isin([*names, "ticket"])], branches=names)
            for names in panels.values()
        ]
        draw_alike(axes[:-1], drawn)
        for ax, title in zip(axes, panels, strict=False):
            ax.set_title(title)
        shares(trace, axes[-1])
    return figure


def shares(trace: pd.DataFrame, ax: Axes) -> None:
    """Draw the overlap of masks by density, next to that of masks without any relation."""
    names = [name for name in OVERLAPPING if name in set(trace["branch"])]
    for name, look in jt.plots.branch_styles(names).items():
        own = trace.loc[trace["branch"] == name]
        mean_line(ax, own.groupby("density")["overlap"], 100 * np.unique(own["density"]), look)
    every = np.unique(trace["density"])
    ax.plot(100 * every, 100 * every, color="0.6", linestyle=":", label="by chance")
    ax.set(xscale="log", xlabel="Density (% of weights kept)")
    ax.set(ylabel="Shared by the two masks (%)", ylim=(0, None))
    ax.invert_xaxis()
    ax.minorticks_off()
    ax.set_xticks(100 * every, [f"{100 * density:.3g}" for density in every])
    ax.set_title("the overlap of the masks")
    ax.legend(loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)


def at_one_density(table: pd.DataFrame) -> Figure:
    """Draw the seeds of every method as points, where there is one density."""
    final = jt.speed.final(table)
    names = [name for name in METHODS if name in set(final["branch"])]
    with jt.plots.style():
        figure, ax = single(5.6, 0.9 + 0.25 * len(names))
        dense = 100 * final.loc[final["level"] == 0]["value"].to_numpy(float)
        ax.axvline(dense.mean(), color="0.45", label="dense")
        ax.axvspan(dense.min(), dense.max(), color="0.45", alpha=0.15, linewidth=0)
        looks = jt.plots.branch_styles(names)
        for kind, mark in (("a seed", "."), ("their mean", "|")):
            ax.plot([], [], mark, color="0.3", label=kind)
        for place, name in enumerate(names):
            values = 100 * final.loc[final["branch"] == name]["value"].to_numpy(float)
            ax.plot(values, np.full(len(values), place), ".", color=looks[name].color)
            ax.plot(values.mean(), place, "|", color=looks[name].color, markersize=12)
        ax.set_yticks(range(len(names)), [looks[name].label for name in names])
        density = float(np.median(final.loc[final["level"] > 0]["density"]))
        xlabel = f"Test accuracy (%) at {100 * density:.3g}% of weights"
        ax.set(xlabel=xlabel, ylim=(len(names) - 0.5, -0.5))
        # names of methods are long: beside the points there is no room
        ax.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3)
    return figure


def main(settings: Settings) -> None:
    """Train every method, compare them with dynamic IMP, and draw."""
    quick = {"seeds": 2, "levels": 1, "fraction": 0.85, "steps": 2_000, "eval_every": 2_000,
             "pool": 2, "share": 1.0, "test_examples": None, "width": 0.5,
             "eval_train_examples": 1_000}  # fmt: skip
    lenet = {"seeds": 5, "levels": 2, "fraction": 0.84, "steps": 3_200, "eval_every": 3_200,
             "pool": 1, "width": 1.0}  # fmt: skip
    paper = {"levels": 10, "fraction": 0.36, "seeds": 5}
    reduced = {"levels": 1, "fraction": 0.85}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, reduced=reduced, paper=paper)
    few = settings.size != "paper" and job.preset.network != "lenet"
    names = chosen(settings.methods, FEW if few else METHODS, METHODS)
    names = tuple(dict.fromkeys((STILL, PLAIN, *names)))
    with budget(job):
        found = {name: run(job, name, round(settings.rewind * job.size.steps)) for name in names}
    tables = []
    for name, runs in found.items():
        own = runs.table()
        # one dense network for all
        tables.append(named(own if name == STILL else own.loc[own["level"] > 0], name))
    table = jt.results.concat(tables)
    traces = {name: runs.trace() for name, runs in found.items() if runs.traces}
    trace = jt.results.concat(own.assign(branch=name) for name, own in traces.items())
    shared, apart = overlaps(trace), gaps(table)
    report(job, table, apart, shared)
    figure = draw(job, table, trace) if job.size.levels > 1 else at_one_density(table)
    more = {"methods": names, "rewind": settings.rewind}
    save(
        job, {"dynamic_imp": figure}, table, tables={"gaps": apart, "overlap": shared}, more=more,
        pruning="each density found at once",
    )  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
