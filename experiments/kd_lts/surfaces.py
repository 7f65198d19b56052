"""Figures 9 and 31 of KD-LTS: the loss around trained tickets, along the same random directions.

Tickets of one density from initialization are trained: those of KD-LTS, of iterative magnitude
pruning rewound to step 0 (LTH), and random pruning. Around each the training loss is evaluated on a
grid along two filter-normalized random directions, whose random numbers are those of the seed.

Command:  python -m experiments.kd_lts.surfaces [--points N] [--examples N] [--preset NAME]
          [--size paper] [--budget MINUTES]
Makes:    figure_31 (of ResNet-20 figure_9): the surfaces of the first seed, and cuts through all;
          surfaces.csv: how far the loss rises around each network; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps; paper 3 seeds, 7
          levels pruning 20.5%, 18,760 steps.
Cost:     not measured at either size.
Expected: the paper prints no numbers: its surfaces of KD-LTS rise less steeply than those of LTH
          and random pruning.
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import learned
from experiments.common.report import save, seeds
from experiments.kd_lts._common import LENET, QUICK, ladder, masks, paper
from experiments.kd_lts._common import Settings as Common

METHODS = ("kd_lts", "random", "ltr")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, density and grid."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS; all of them if not given."""
    at_density: float = 0.2
    """Density of all tickets; LTH comes to it in as many levels as --levels says."""
    points: int = 51
    """Points of the grid along each direction, an odd number."""
    examples: int = 500
    """Examples of each split that the loss is the mean over."""


def trained(job: Job, name: str) -> jt.Runs:
    """Give a method's tickets at the job's lowest density with their trained weights."""
    density = job.densities[-1]
    if name == "ltr":
        found = masks(job, name)
        return job.branch(found, "retrain", levels=(max(found.levels),), keep="trained")
    if name == "kd_lts":
        return learned(job, name, density=density, steps=None, keep="trained")
    return job.prune_at(name, sub=name, density=density, dense=False, keep="trained")


def rises(table: pd.DataFrame) -> pd.DataFrame:
    """Give the training loss at the network, and how far it rises at half and at the whole extent.

    The rise is the mean over the points of the grid at that distance from the center.
    """
    rows = table.loc[(table["split"] == "train") & (table["metric"] == "loss")]
    far = rows[["x", "y"]].abs().max(axis=1)
    edge = far.max()
    parts = {"loss": 0.0, "rise_at_half": edge / 2, "rise_at_edge": edge}
    places = sorted(far.unique())
    means = {}
    for name, distance in parts.items():
        nearest = min(places, key=lambda place: abs(place - distance))
        means[name] = (
            rows.loc[far == nearest].groupby(["branch", "seed"], sort=False)["value"].mean()
        )
    found = pd.DataFrame(means)
    for name in ("rise_at_half", "rise_at_edge"):
        found[name] -= found["loss"]
    return found.reset_index()


def drawn(table: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw the surface of each method at the same height, and cuts through all of them."""
    loss = table.loc[(table["split"] == "train") & (table["metric"] == "loss")]
    first = loss.loc[loss["seed"] == loss["seed"].iloc[0]]
    top = float(first["value"].quantile(0.95))
    looks = jt.plots.branch_styles(names)
    with jt.plots.style():
        count = len(names) + 1
        figure = pyplot.figure(figsize=(3.4 * count, 3.4), layout="constrained")
        for i, name in enumerate(names, start=1):
            ax = figure.add_subplot(1, count, i, projection="3d")
            jt.plots.loss_surface(table, ax, branch=name, top=top)
            ax.set(title=looks[name].label, zlim=(0, top))
        jt.plots.loss_cuts(table, figure.add_subplot(1, count, count), branches=names)
    return figure


def main(settings: Settings) -> None:
    """Find and train tickets with every method, evaluate the loss around them, and draw."""
    names = chosen(settings.methods, METHODS)
    levels = ladder(settings, settings.at_density)
    job = prepare(
        __file__, settings, quick={**QUICK, **levels},
        lenet={**LENET, **levels, "eval_every": 18_760},
        paper=paper(settings, **levels),
    )  # fmt: skip
    parts = []
    with budget(job):
        for name in names:
            runs = trained(job, name)
            table = jt.surface(
                runs, levels=(max(runs.levels),), points=settings.points,
                examples=settings.examples,
            )  # fmt: skip
            parts.append(table.assign(branch=name))
    table = jt.results.concat(parts)
    rows = rises(table)
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name}, {100 * job.densities[-1]:.3g}% of the weights")
    print(f"training loss, and its rise at half of and at the whole length, mean over {seeds(job)}")
    for name in names:
        own = rows.loc[rows["branch"] == name]
        cells = (own[part].mean() for part in ("loss", "rise_at_half", "rise_at_edge"))
        print(f"{looks[name].label:30}" + "".join(f"{x:12.4f}" for x in cells))
    figure = "figure_9" if job.preset.network == "resnet20" else "figure_31"
    more = {"methods": names, "points": settings.points, "at_density": settings.at_density}
    save(job, {figure: drawn(table, names)}, tables={"surfaces": rows}, more=more,
         pruning="one density")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
