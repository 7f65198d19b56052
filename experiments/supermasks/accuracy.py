"""Figure 22 of KD-LTS: supermasks, networks that were never trained.

Accuracy of masked networks at their initial weights, signed constants: masks learned by stochastic
sparsification, edge-popup, GEM-MINER, continuous sparsification, Concrete Ticket Search and KD-LTS,
compared with those of iterative magnitude pruning (LTH), random masks with the layout of smart
ratio, and random ones.

Command:  python -m experiments.supermasks.accuracy [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_22, supermasks.csv; accuracies by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 4 levels pruning 63%, 600 steps, 10% of the examples; reduced
          3 seeds, 4 levels pruning 63%, 6,000 steps; paper 3 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at quick size 1.5 minutes with the settings of
          results/supermasks/accuracy-lenet-mnist-quick-a8d7911402 on 2 cores of an AMD EPYC; the
          paper's size is not measured.
Expected: the learned masks are far above chance, pruned and random ones are not, at the lowest
          densities least of all. The paper reports at 2% of the weights for KD-LTS and the best of
          the others (but CTS) 94 and 60% on LeNet, 66.4 and 61.5% on ResNet-20, 90.1 and 88.2% on
          VGG-16.
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import Settings as Common
from experiments.common.learned import learned
from experiments.common.report import cell, mean_line, save, seeds, single
from jaxticket.plots._axes import density_axis
from jaxticket.plots._panel import place_legend

LEARNED = ("edge_popup", "gem_miner", "stochastic", "continuous", "cts_loss", "kd_lts")
METHODS = (*LEARNED, "ticket", "smart_ratio", "random")
QUICK = {"seeds": 2, "levels": 3, "fraction": 0.7, "steps": 200, "eval_every": 200, "pool": 2,
         "test_examples": 2_000, "eval_train_examples": 500}  # fmt: skip
LENET = {"seeds": 3, "levels": 4, "fraction": 0.63, "steps": 600, "eval_every": 600, "pool": 1,
         "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip
REDUCED = {"levels": 4, "fraction": 0.63}
PAPER = {"levels": 10, "fraction": 0.36, "seeds": 3}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all that learn masks."""

    length: str = "long"
    """Length of the searches: short (1/8 of training), half or long."""


def untrained(job: Job, name: str, length: str) -> pd.DataFrame:
    """Measure the accuracy of a method's masks before training: seed, level, density, value."""
    if name in LEARNED:
        table = learned(job, name, train=False, steps=length).table()
        rows = table.loc[table["branch"] == "supermask"]
    elif name == "ticket":
        table = job.find_tickets(sub=name).table()
        rows = table.loc[(table["level"] > 0) & (table["step"] == 0)]
    else:
        layout = {} if name == "random" else {"scope": name}
        table = job.prune_at("random", sub=name, dense=False, **layout).table()
        rows = table.loc[table["step"] == 0]
    rows = rows.loc[(rows["split"] == "test") & (rows["metric"] == "accuracy")]
    return rows.loc[:, ["seed", "level", "density", "value"]].assign(branch=name)


def drawn(values: pd.DataFrame, names: tuple[str, ...], chance: float) -> Figure:
    """Draw accuracy by density, one line per method."""
    looks = jt.plots.branch_styles(names)
    with jt.plots.style():
        figure, ax = single(6.4, 4.2)
        for name in names:
            by = values.loc[values["branch"] == name].groupby("level")
            mean_line(ax, by["value"], 100 * by["density"].mean(), looks[name])
        ax.axhline(chance, color="0.5", linestyle=":", linewidth=1.2, label="by chance")
        ax.set_ylabel("Test accuracy before training (%)")
        density_axis(ax, values.groupby("level")["density"].median())
        handles, _ = ax.get_legend_handles_labels()
        place_legend(ax, handles, corner="lower left")
    return figure


def main(settings: Settings) -> None:
    """Learn masks with every method, evaluates what was never trained, draw and print."""
    names = chosen(settings.methods, METHODS)
    job = prepare(
        __file__, settings, quick=QUICK, lenet=LENET, reduced=REDUCED, paper=PAPER,
        network={"init": "signed_constant"},
    )  # fmt: skip
    tables = []
    with budget(job):
        # the folder itself is a run's
        job.prune_at("random", dense=False)
        tables = [untrained(job, name, settings.length) for name in names]
    values = jt.results.concat(tables)
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name}, weights of signed constants, never trained")
    print(f"test accuracy in %, mean (min to max) over {seeds(job)}\n")
    print(f"{'density':32}" + "".join(f"{100 * d:21.2f}%" for d in job.densities))
    for name in names:
        by = values.loc[values["branch"] == name].groupby("level")["value"]
        rows = by.agg(["mean", "min", "max"])
        print(f"{looks[name].label:32}" + "".join(f"{cell(r):>22}" for _, r in rows.iterrows()))
    chance = 100 / job.data.classes
    more = {"methods": names, "length": settings.length}
    save(job, {"figure_22": drawn(values, names, chance)}, tables={"supermasks": values}, more=more,
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
