"""Figure 3-8 of Frankle's thesis: early-stopping step and accuracy there.

A tenth of the training examples is held out. On the left stands the step at which the loss on
them is least, on the right the test accuracy at that step, for tickets, random reinit, global
random and layerwise random pruning (both with new weights). `--preset` chooses the panels:
lenet-mnist, conv4-cifar10, conv6-cifar10 or conv8-cifar10, those with a constant rate.

Command:  python -m experiments.thesis_ch3.early_stopping [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 3-8, early_stop.csv, final.csv; both measures by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 6 levels pruning 48.8%, 600 steps, 10% of the examples;
          reduced 3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 22 levels pruning 20%,
          24,000 steps.
Cost:     at the reduced size 11 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size, wherever tickets are as accurate as the dense network they stop no later
          than it does, and 20 to 70% sooner at moderate densities; the three others stop as late
          or later. Accuracies are a little below those of the other figures (98.3% dense; 98.2%
          for tickets with 3.5% of the weights, 97.5% reinitialized, 96.7% layerwise random),
          because 54,000 examples are left to train on.
"""

from __future__ import annotations

import pandas as pd

import jaxticket as jt
from experiments.common.job import Settings, budget, launch, prepare
from experiments.common.report import pair, renamed, report, save, shared_legend

BRANCHES = ("reinit", "globally_permuted", "layerwise_random")


def by_density(table: pd.DataFrame) -> pd.DataFrame:
    """Print mean early-stopping step and accuracy there; returns every seed's."""
    stops = jt.speed.early_stop(table)
    steps, accuracies = (
        jt.speed.over_seeds(stops, column).pivot(index="level", columns="branch", values="mean")
        for column in ("early_stop_step", "accuracy")
    )
    names = ("ticket", *BRANCHES)
    print("\nearly-stopping step, and test accuracy in % there (means over seeds)")
    print(f"{'density':>8}" + "".join(f"{name:>20}" for name in names))
    densities = stops.loc[stops["branch"] == "ticket"].groupby("level")["density"].mean()
    for level, density in densities.items():
        cells = (
            f"{steps.loc[level, name]:12.0f} ({100 * accuracies.loc[level, name]:.1f})"
            for name in names
        )
        print(f"{100 * density:7.2f}%" + "".join(f"{cell:>20}" for cell in cells))
    return stops


def main(settings: Settings) -> None:
    """Train with a tenth held out and draw when training would have stopped."""
    job = prepare(
        __file__,
        settings,
        quick={"levels": 3, "eval_every": 35, "eval_train_examples": 500},
        lenet={"levels": 6, "fraction": 0.488, "eval_every": 60, "eval_train_examples": 2_000},
        reduced={"eval_every": 150, "eval_train_examples": 1_000},
        paper={"seeds": 5, "eval_every": 200, "eval_train_examples": 1_000},
        held_out=0.1,
    )
    usual = job.preset.training
    if usual.milestones or usual.warmup or usual.schedule != "steps":
        raise ValueError(
            f"`preset` {job.preset.name!r} has a schedule, which decides by itself when the loss "
            f"is least; Figure 3-8 has lenet-mnist, conv4-cifar10, conv6-cifar10 and conv8-cifar10"
        )
    with budget(job):
        runs = job.find_tickets(branches=BRANCHES)
    table = runs.table()
    report(job, table)
    stops = by_density(table)
    with jt.plots.style():
        figure, axes = pair()
        for ax, what in zip(axes, ("step", "accuracy"), strict=True):
            jt.plots.early_stop(renamed(table), ax, what=what, legend=False)
        shared_legend(figure, axes)
    save(job, {"figure_3-8": figure}, table, tables={"early_stop": stops})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
