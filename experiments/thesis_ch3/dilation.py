"""Figure 3-9 of Frankle's thesis: how short training may be.

Tickets, reinitialized and layerwise random ones are trained for a multiple (the dilation) of the
usual number of steps. For each density the figure shows the smallest dilation at which the mean
test accuracy reaches that of the dense network at dilation 1. `--preset` chooses the panel:
lenet-mnist, conv4-cifar10, resnet20-cifar10, vgg16-cifar10 and the others of chapter 3.

Command:  python -m experiments.thesis_ch3.dilation [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 3-9, dilation.csv (smallest dilations), trained.csv (accuracy at each dilation),
          final.csv; the smallest dilations by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 48.8%, 500 steps, 10% of the examples;
          reduced 3 seeds, 5 levels pruning 48.8%, 6,000 steps; paper 5 seeds, 22 levels pruning
          20%, 24,000 steps.
Cost:     at the reduced size 23 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size, tickets need no greater dilation than the dense network (whose own is a
          little below 1) down to low densities, often less than half; layerwise random ones manage
          this at the highest densities only, random reinit on MNIST further than elsewhere. Final
          accuracies: 98.3% dense; with 3.5% of the weights 98.2%, reinitialized 97.5%. So far for
          LeNet; on the other networks the controls fail sooner.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import Settings as Common
from experiments.common.job import budget, launch, prepare
from experiments.common.report import report, save, single

BRANCHES = {"ticket": "retrain", "reinit": "reinit", "layerwise_random": "layerwise_random"}
QUICK_FACTORS = (0.25, 0.5, 0.75, 1.0)
QUICK_CONV_FACTORS = (0.5, 0.75, 1.0)
REDUCED_FACTORS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.8, 1.0, 1.2)
PAPER_FACTORS = tuple(round(0.1 * tenths, 1) for tenths in range(2, 22))


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, and the dilations."""

    factors: tuple[float, ...] | None = None
    """Dilations, 1.0 among them; 0.2, 0.3, ..., 2.1 at paper size."""


def smallest(table: pd.DataFrame) -> pd.DataFrame:
    """Print and return the smallest sufficient dilation of each branch and level."""
    stars = jt.speed.smallest_dilation(table)
    wide = stars.pivot(index="level", columns="branch", values="delta_star")
    print("\nsmallest dilation that reaches the accuracy of the dense network (inf: none does)")
    print(f"{'density':>8}" + "".join(f"{name:>20}" for name in BRANCHES))
    densities = stars.loc[stars["branch"] == "ticket"].set_index("level")["density"]
    for level, density in densities.items():
        cells = "".join(f"{wide.loc[level, name]:20.2f}" for name in BRANCHES)
        print(f"{100 * density:7.2f}%{cells}")
    return stars


def main(settings: Settings) -> None:
    """Find tickets, train them at every dilation and draw the smallest that suffices."""
    quick = QUICK_FACTORS if settings.preset.startswith("lenet") else QUICK_CONV_FACTORS
    by_size = {"quick": quick, "reduced": REDUCED_FACTORS, "paper": PAPER_FACTORS}
    factors = settings.factors or by_size[settings.size]
    if 1.0 not in factors:
        raise ValueError(f"`factors` must hold 1.0, the dense network's training, got {factors}")
    # evaluations before the end are not looked at
    job = prepare(
        __file__,
        settings,
        quick={"levels": 2},
        lenet={"levels": 5, "fraction": 0.488, "steps": 500, "eval_every": 500},
        reduced={"levels": 5, "fraction": 0.488},
        paper={"seeds": 5, "eval_every": 8_000},
    )
    with budget(job):
        runs = job.find_tickets()
        branches = [
            job.branch(runs, change, dilation=factors, name=name)
            for name, change in BRANCHES.items()
        ]
    table = jt.results.concat(branch.table() for branch in branches)
    usual = table.loc[table["dilation"] == 1]
    report(job, usual)
    stars = smallest(table)
    ends = [
        jt.speed.over_seeds(jt.speed.final(part)).assign(dilation=factor)
        for factor, part in table.groupby("dilation")
    ]
    with jt.plots.style():
        figure, ax = single()
        jt.plots.dilation(table, ax)
    tables = {"dilation": stars, "trained": jt.results.concat(ends)}
    save(job, {"figure_3-9": figure}, usual, tables=tables, more={"factors": factors})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
