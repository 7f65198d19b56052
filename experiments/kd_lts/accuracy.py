"""Figures 2, 3, 5, 6 and 23 and Tables 2 and 3 of KD-LTS: winning tickets, and what they cost.

At initialization KD-LTS against GEM-MINER, tickets from step 0 (LTR), SNIP, iterative SNIP, GraSP,
SynFlow, ProsPr and random pruning; with --start late, from epoch 3 of the schedule, KD-LTS against
continuous sparsification, tickets rewound to there, and KD-LTS at initialization. The paper reports
the epoch that is best on a validation split (G.1); figures and tables here are those of the last
one, and training.csv has both, where the data have such a split, with the generalization gap and
how many times faster than the dense network tickets learn.

A search's cost counts all before the mask is known: teachers, the search, and of LTR the levels
before. The paper says that KD-LTS costs 19 times less than LTR: 150 epochs against 19 levels of
150; its teachers are not in that number. Continuous sparsification searches in three rounds, each
as long as a training, as the paper runs it, and costs three of them.

Command:  python -m experiments.kd_lts.accuracy [--preset NAME] [--start late]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_3 and table_2, or from epoch 3 figure_5 (which is also Figure 23), figure_2 and
          table_3; cost (accuracy by cost; from epoch 3 that is figure_2), figure_6 (accuracy by
          epoch of KD-LTS's tickets and the dense network), costs.csv, final.csv, training.csv;
          accuracies, table and costs in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 5 levels pruning 41.5%, 18,760 steps; reduced 3 seeds,
          10 levels pruning 36%, 6,000 steps; paper 3 seeds, 8 levels pruning 20.5%, 18,760 steps.
Cost:     at quick size 35 minutes with the settings of
          results/kd_lts/accuracy-lenet-mnist-kd_lts-quick-5d3c409e4a on 2 cores of an AMD EPYC; the
          paper's size is not measured.
Expected: LeNet-300-100 with 20% of its weights reaches the 98% of the dense network, and 98.3% with
          55%; LTH, SNIP and iterative SNIP reach 98% with 80% alone, GraSP does not. ResNet-20 wins
          with 45% (from epoch 3: 10%), VGG-16 with 5% (2%). Tickets learn some 1.2 times faster
          than the dense network.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Literal

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import learned, trained
from experiments.common.report import Row, named, near_dense, save, seeds, single
from experiments.common.scored import figure_of, level_of, report
from experiments.kd_lts._common import (
    AT_START,
    LATE,
    LENET,
    QUICK,
    Place,
    dense,
    epochs,
    paper,
    third_epoch,
)
from experiments.kd_lts._common import Settings as Common

METHODS = {
    "initialization": ("kd_lts", "gem_miner", "ltr", "snip", "iterative_snip", "grasp", "synflow",
                       "prospr", "random"),
    "late": ("kd_lts", "continuous", "ltr", "kd_lts_at_init"),
}  # fmt: skip
NON_TRIVIAL = 0.8
"""The paper counts no winning ticket of a higher density."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, which methods, and where they start."""

    methods: tuple[str, ...] | None = None
    """Some of the script's METHODS for this start; all of them if not given."""
    start: Literal["initialization", "late"] = "initialization"
    """late: epoch 3 of the preset's schedule."""


def find(job: Job, name: str, start: int) -> jt.Runs:
    """Give the runs of a method; those from a later step are in other folders."""
    if name == "kd_lts_at_init":
        return learned(job, "kd_lts")
    sub = f"late_{name}" if start else name
    if name == "ltr":
        return job.find_tickets(sub=sub, rewind=start)
    if name in ("kd_lts", "gem_miner", "continuous"):
        # the length of KD-LTS is its own setting, that of continuous sparsification three trainings
        length = None if name in ("kd_lts", "continuous") else "long"
        return learned(job, name, sub=sub, start=start, steps=length)
    return job.prune_at(name, sub=sub, dense=False)


def costs_of(found: dict[str, jt.Runs]) -> pd.DataFrame:
    """Compute the cost of finding each method's masks per seed, as `jt.costs.finding`."""
    parts = []
    for name, runs in found.items():
        own = jt.costs.finding(runs)
        own = own.loc[own["level"] > 0]
        parts.append(own.assign(branch=name))
    costs = jt.results.concat(parts)
    return costs.loc[:, ["branch", *(column for column in costs.columns if column != "branch")]]


def table_of(
    job: Job,
    rows: pd.DataFrame,
    costs: pd.DataFrame,
    level: int,
    printed_by: Mapping[str, tuple[Place | None, Place]],
) -> pd.DataFrame:
    """Give the paper's table: a row for each method.

    Args:
      job: the job.
      rows: final accuracies, of `jt.speed.matching`.
      costs: of `costs_of`.
      level: at which costs are compared.
      printed_by: the paper's numbers by method.
    """
    at = costs.loc[costs["level"] == level].set_index("branch")
    found = []
    for name in at.index:
        own = rows.loc[(rows["branch"] == name) & (rows["density"] < NON_TRIVIAL)]
        own = own.sort_values("density")
        wins = own[own["matching"]].head(1)
        best = own.dropna(subset="mean").sort_values("mean", kind="stable").tail(1)
        here = [
            Place(100 * one["mean"].item(), 100 * one["density"].item()) if len(one) else None
            for one in (wins, best)
        ]
        printed = printed_by.get(str(name), (None, None))
        row: dict[str, object] = {"method": name}
        for source, places in (("", here), ("paper_", printed)):
            for kind, place in zip(("sparsest", "best"), places, strict=True):
                for field in Place._fields:
                    value = math.nan if place is None else getattr(place, field)
                    row[f"{source}{kind}_{field}"] = value
        row |= {"cost_at_density": job.densities[level - 1], "epochs": at.loc[name, "epochs"]}
        row |= {"seconds": at.loc[name, "seconds"]}
        if "ltr" in at.index:
            row["share_of_ltr"] = at.loc[name, "epochs"] / at.loc["ltr", "epochs"]
        found.append(row)
    return jt.results.frame(found)


def training_of(table: pd.DataFrame) -> pd.DataFrame:
    """Describe training, one row per branch and density.

    Columns: the mean test accuracy of the last and the best checkpoint, the mean generalization
    gap, and the learning factor with that of the slowest and fastest seed.

    Args:
      table: tidy table of the dense network and all tickets; without a validation split there is no
        best checkpoint.
    """
    keys = ["branch", "level", "density"]
    found = jt.speed.learning_factor(table)
    found = found.rename(columns={"low": "factor_low", "high": "factor_high"})
    means: dict[str, pd.DataFrame] = {"last": jt.speed.over_seeds(jt.speed.final(table))}
    if "validation" in set(table["split"]):
        means["best"] = jt.speed.over_seeds(jt.speed.best(table))
    means["gap"] = jt.speed.over_seeds(jt.speed.generalization_gap(table), "gap")
    for name, own in means.items():
        found = found.merge(
            own.loc[:, [*keys, "mean"]].rename(columns={"mean": name}), on=keys, how="left"
        )
    return found


def say(job: Job, table: pd.DataFrame) -> None:
    """Print the table."""

    def words(row: Row, kind: str) -> str:
        accuracy, density = row[f"{kind}_accuracy"], row[f"{kind}_density"]
        return "x" if math.isnan(accuracy) else f"{accuracy:.2f} at {density:.3g}%"

    density = 100 * table["cost_at_density"].iloc[0]
    print(f"\nthe sparsest ticket within {100 * job.settings.margin:g} points of the dense network")
    print(f"and the best, accuracy in % at density (paper); x: none below {100 * NON_TRIVIAL:g}%")
    print(f"cost of finding a ticket of {density:.3g}%, for one of {seeds(job)}\n")
    heads = ("sparsest", "best", "paper: sparsest", "best")
    wide = "".join(f"{head:>17}" for head in heads)
    print(f"{'':30}{wide}{'epochs':>9}{'seconds':>9}{'of LTR':>8}")
    for row in table.to_dict("records"):
        places = (words(row, f"{source}{kind}") for source in ("", "paper_")
                  for kind in ("sparsest", "best"))  # fmt: skip
        share = row.get("share_of_ltr", math.nan)
        label = jt.plots.branch_styles([row["method"]])[row["method"]].label
        cells = "".join(f"{place:>17}" for place in places)
        print(f"{label:30}{cells}{row['epochs']:9.3g}{row['seconds']:9.3g}{share:8.2f}")


def speed_of(job: Job, table: pd.DataFrame) -> Figure:
    """Draw accuracy by epoch of the dense network and of KD-LTS at three densities."""
    here = range(1, len(job.densities) + 1)
    levels = {level_of(job, density) for density in (0.55, 0.2)} | {here[-1]}
    own = trained(table)
    by_epoch = own.assign(step=own["step"] * epochs(job) / job.size.steps, branch="kd_lts")
    with jt.plots.style():
        figure, ax = single(5.6, 4.0)
        jt.plots.curves(by_epoch, ax, branches=["kd_lts"], levels=[0, *sorted(levels)])
        label = jt.plots.branch_styles(["kd_lts"])["kd_lts"].label
        ax.set(xlabel="Epoch", title=f"Training of the tickets of {label}")
    return figure


def figures_of(
    job: Job,
    names: Sequence[str],
    table: pd.DataFrame,
    costs: pd.DataFrame,
    level: int,
    *,
    late: bool,
) -> dict[str, Figure]:
    """Draw accuracy by density, and by the cost of the ticket at one of them."""
    final = jt.speed.final(table)
    at = costs.loc[costs["level"] == level].set_index("branch")["epochs"]
    own = final.loc[(final["level"] == level) & final["branch"].isin(names)]
    rows = own.assign(accuracy=own["value"], cost=own["branch"].map(at))
    whole = final.loc[final["level"] == 0]
    rows = jt.results.concat([rows, whole.assign(branch="dense", accuracy=whole["value"], cost=0)])
    by_density, by_cost = ("figure_5", "figure_2") if late else ("figure_3", "cost")
    figures = {by_density: figure_of(names, table)}
    title = f"{100 * job.densities[level - 1]:.3g}% of the weights"
    near, title = near_dense(rows, whole["value"], title)
    with jt.plots.style():
        figures[by_cost], ax = single(7.2, 4.6)
        # names are placed next to markers, for which the title must be there
        ax.set_title(title)
        jt.plots.accuracy_against_cost(near, ax, unit="epochs", band="minmax")
    return figures


def main(settings: Settings) -> None:
    """Find masks with every method, train what they leave, draw and print."""
    names = chosen(settings.methods, METHODS[settings.start])
    job = prepare(__file__, settings, quick=QUICK, lenet=LENET, paper=paper(settings))
    late = settings.start == "late"
    start = third_epoch(job) if late else 0
    with budget(job):
        whole = dense(job).table()
        found = {name: find(job, name, start) for name in names}
    own = {name: runs.table().query("level > 0") for name, runs in found.items()}
    table = trained(jt.results.concat([whole, *(named(rows, name) for name, rows in own.items())]))
    title = f"masks from step {start}" if late else "masks at initialization"
    rows = report(job, table, title=title)
    costs = costs_of(found)
    level = level_of(job, job.preset.matching_density or job.densities[-1])
    printed = (LATE if late else AT_START).get(str(job.preset.network), {})
    summary = table_of(job, rows, costs, level, printed)
    say(job, summary)
    figures = figures_of(job, names, table, costs, level, late=late)
    if "kd_lts" in own:
        figures["figure_6"] = speed_of(job, jt.results.concat([whole, own["kd_lts"]]))
    tables = {"table_3" if late else "table_2": summary, "costs": costs}
    tables["training"] = training_of(table)
    more = {"methods": names, "start": start}
    save(job, figures, table, tables=tables, more=more, pruning="densities one by one")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
