"""Figures 5-3, 5-4, 5-6, 5-10 and 5-11 of Frankle's thesis: pruning at initialization.

Random, magnitude, SNIP, GraSP and SynFlow at initialization, between the dense network and
magnitude pruning after training (one shot, then the whole schedule again). What do they reach at
each density, how many channels are left with nothing, and how are the weights spread over the
layers? Figure 5-10 has GraSP that removes the smallest |score| and SynFlow with its masks shuffled
within layers instead. `--preset` chooses the panel: lenet-mnist, resnet20-cifar10, vgg16-cifar10.
Figure 5-3 is the same at SynFlow's settings: --preset vgg11-cifar10-synflow (or vgg16-, resnet18-)
--fraction 0.5.

Command:  python -m experiments.thesis_ch5.at_initialization [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 5-4 (5-3), 5-6, 5-10 and 5-11, final.csv, units.csv, layers.csv; accuracies by
          density, gaps between methods and dead units in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 55%, 600 steps, 10% of the examples; reduced
          3 seeds, 3 levels pruning 59%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at quick size 12 minutes with resnet20-cifar10 on 2 cores of an Intel Xeon of 2.5 GHz; at
          the reduced size 5.3 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's size
          is not measured.
Expected: at paper size magnitude after training is as accurate as the dense network with 26.2%
          (ResNet-20) and 6.9% (VGG-16) of the weights. Down to there the best method at
          initialization lies below it by 1.5 and 0.7 points or less, the worst above random pruning
          by 0.4 and 3.0 points or less, and the two within 0.3 and 0.9 points. SynFlow leaves most
          channels with nothing, 31% and 52% (SNIP 5% and 11%, GraSP 1% and 6%, magnitude 0%).
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import NEURONS, named, save, single
from experiments.common.scored import (
    AT_ONCE,
    KNOWN,
    PAPER,
    REDUCED,
    SMALL,
    USUAL,
    branches_of,
    control_masks,
    density_of,
    figure_of,
    level_of,
    report,
    run,
    seeds_of,
)
from experiments.common.scored import Settings as Common

AFTER = "magnitude_after_training"
METHODS = (AFTER, "random", "magnitude", "snip", "grasp", "synflow", "grasp_absolute")
# Figure 5-10 has these in the place of GraSP and SynFlow
IMPROVED = {"grasp": "grasp_absolute", "synflow": "synflow_shuffle"}
SHARES = tuple(round(0.01 * percent, 2) for percent in range(101))
# what units.csv has of these
KEPT = (0.0, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the chapter, and the density of two figures."""

    at_density: float | None = None
    """Density of figures 5-6 and 5-11 (the nearest of the levels); 0.262 for ResNet-20, 0.069 for
    VGG-16 and 0.035 for LeNet."""


def gaps(rows: pd.DataFrame) -> pd.DataFrame:
    """Print and return by density how methods at initialization compare, in points.

    They are compared with each other, with random pruning and with pruning after training.
    """
    means = rows.loc[rows["level"] > 0].pivot(index="level", columns="branch", values="mean") * 100
    densities = rows.loc[rows["level"] > 0].groupby("level")["density"].median()
    own = [name for name in ("magnitude", "snip", "grasp", "synflow") if name in means]
    found: dict[str, pd.DataFrame] = {}
    if own:
        best, worst = means[own].max(axis=1), means[own].min(axis=1)
        found |= {"best": means[own].idxmax(axis=1), "best_minus_worst": best - worst}
        if "random" in means:
            found |= {"best_minus_random": best - means["random"]}
            found |= {"worst_minus_random": worst - means["random"]}
        if AFTER in means:
            found |= {"after_training_minus_best": means[AFTER] - best}
    table = densities.to_frame().assign(**found)
    print("\nmagnitude, SNIP, GraSP and SynFlow at initialization, in points")
    print(table.round(3).to_string(index=False))
    return table.reset_index()


def dead(job: Job, units: pd.DataFrame, density: float) -> None:
    """Print how many units have lost all weights, next to the numbers of the thesis."""
    known = NEURONS.get(str(job.preset.network), {})
    none = units.loc[units["threshold"] == 0].groupby("branch", sort=False)["share"].mean()
    print(f"\nunits without any weight at {100 * density:.3g}% of weights, means over seeds, in %")
    print(f"{'':28}{'here':>8}{'thesis':>9}")
    for name, share in none.items():
        printed = f"{known[str(name)]:9g}" if str(name) in known else f"{'-':>9}"
        print(f"{str(name).replace('_', ' '):28}{100 * share:8.1f}{printed}")


def main(settings: Settings) -> None:
    """Prune with every method, train, and draw accuracies and the densities of layers and units."""
    paper = {**PAPER, "seeds": seeds_of(settings)}
    job = prepare(__file__, settings, quick=SMALL, lenet=USUAL, reduced=REDUCED, paper=paper)
    methods = chosen(settings.methods, METHODS, KNOWN)
    with budget(job):
        found = {
            name: run(
                job,
                name,
                # one of them trains the dense networks, in the folder that the others are in
                sub="" if i == 0 else None,
                dense=i == 0,
                branches=("shuffle",) if name == "synflow" else (),
            )
            for i, name in enumerate(methods)
        }
    level = level_of(job, settings.at_density or density_of(job.preset))
    density = job.densities[level - 1]
    masks = {name: control_masks(runs, level) for name, runs in found.items()}
    if "synflow" in found:
        masks["synflow_shuffle"] = control_masks(found["synflow"], level, "shuffle")
    units = jt.results.concat(
        jt.layers.collapse(runs, SHARES).assign(branch=name) for name, runs in masks.items()
    )
    layers = jt.results.concat(
        jt.layers.report(runs).assign(branch=name) for name, runs in masks.items()
    )
    table = jt.results.concat(named(runs.table(), name) for name, runs in found.items())
    rows = report(job, table)
    differences = gaps(rows)
    dead(job, units, density)
    plain = [name for name in branches_of(table) if name not in IMPROVED.values()]
    improved = [name for name in branches_of(table) if name not in IMPROVED]
    synflow = job.preset.method == "SynFlow"
    figures = {"figure_5-3" if synflow else "figure_5-4": figure_of(plain, table)}
    if set(IMPROVED.values()) <= set(improved):
        figures["figure_5-10"] = figure_of(improved, table)
    with jt.plots.style():
        figures["figure_5-6"], ax = single(5.6, 4.0)
        drawn = [name for name in masks if name != "grasp_absolute"]
        jt.plots.unit_collapse(units, ax, branches=drawn, band="minmax")
        ax.set_title(f"{100 * density:.3g}% of the weights kept")
        figures["figure_5-11"], ax = single(6.4, 4.0)
        jt.plots.layer_densities(layers, ax, branches=[name for name in masks if name in plain])
        ax.set_title(f"{100 * density:.3g}% of the weights kept")
    few = units[np.isclose(units["threshold"].to_numpy()[:, None], KEPT).any(axis=1)]
    tables = {"gaps": differences, "units": few, "layers": layers}
    more = {"methods": methods, "at_density": density}
    save(job, figures, table, tables=tables, more=more, pruning=AT_ONCE)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
