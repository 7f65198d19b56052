"""Figures 9 and 31 of KD-LTS: the loss around trained tickets, along the same random directions.

Tickets of one density are trained: those of KD-LTS and random pruning from initialization, and of
iterative magnitude pruning rewound to epoch 3 (LTH-Rewind). Around each the training loss is
evaluated on a grid along two filter-normalized random directions, whose random numbers are those of
the seed.

Command:  python -m experiments.kd_lts.surfaces [--points N] [--examples N] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_31 (of ResNet-20 figure_9): the surfaces of the first seed, and cuts through all;
          surfaces.csv: how far the loss rises around each network; claims.csv: how KD-LTS differs
          from each other method; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 10 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: the paper prints no numbers: its surfaces of KD-LTS rise less steeply than those of
          LTH-Rewind and random pruning.
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.report import save, seeds
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import METHODS, checked_level, over, sizes

SHOWN = ("kd_lts", "random", "ltr_late")
RISES = {"loss": "training loss", "rise_at_half": "rise at half the length",
         "rise_at_edge": "rise at the whole length"}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, the level and the grid."""

    methods: tuple[str, ...] | None = None
    """Some of kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow, random and dense; kd_lts,
    random and ltr_late if not given."""
    level: int | None = None
    """Level of the tickets, which says their density; the sparsest if not given."""
    points: int = 51
    """Points of the grid along each direction, an odd number."""
    examples: int = 500
    """Examples of each split that the loss is the mean over."""


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
        figure = pyplot.figure(figsize=(4.0 * count, 3.8), layout="constrained")
        for i, name in enumerate(names, start=1):
            ax = figure.add_subplot(1, count, i, projection="3d")
            jt.plots.loss_surface(table, ax, branch=name, top=top)
            ax.set(title=looks[name].label, zlim=(0, top))
            for surface in ax.collections:
                # the same colors in all panels
                surface.set_clim(0, top)
        cuts = figure.add_subplot(1, count, count)
        jt.plots.loss_cuts(table, cuts, branches=names, band="minmax")
        cuts.set_title("Cuts at $y$ = 0")
        figure.suptitle(f"Surfaces of seed {first['seed'].iloc[0]}, cut off at a loss of {top:.2g}",
                        size=9)  # fmt: skip
    return figure


def main(settings: Settings) -> None:
    """Evaluate the loss around the trained networks of every method, draw and print."""
    names = chosen(settings.methods, SHOWN, (*METHODS, "dense"))
    job = prepare(__file__, settings, **sizes(settings))
    level = checked_level(job, settings.level)
    grid = {"points": settings.points, "examples": settings.examples}
    with budget(job):
        table = over(
            job, names, lambda runs, levels: job.surface(runs, levels=levels, **grid),
            levels=(level,),
        )  # fmt: skip
    rows = rises(table)
    long = rows.melt(["branch", "seed"], list(RISES), var_name="measure")
    claims = compared(long) if OURS in names else pd.DataFrame()
    looks = jt.plots.branch_styles(names)
    density = table.loc[table["branch"] != "dense", "density"].median()
    print(f"\n{job.network_name} on {job.data_name}, {100 * density:.3g}% of the weights")
    print(f"mean +- standard deviation over {seeds(job)}\n")
    print(f"{'':30}" + "".join(f"{words:>28}" for words in RISES.values()))
    for name in names:
        own = rows.loc[rows["branch"] == name]
        cells = (f"{own[part].mean():.4f} +- {own[part].std():.4f}" for part in RISES)
        print(f"{looks[name].label:30}" + "".join(f"{cell:>28}" for cell in cells))
    for row in claims.to_dict("records"):
        words = f"{RISES[row['measure']]} of {looks[OURS].label}"
        print(f"{words}, next to {looks[row['branch']].label}: {in_words(row)}")
    figure = "figure_9" if job.preset.network == "resnet20" else "figure_31"
    tables = {"surfaces": rows} | ({} if claims.empty else {"claims": claims})
    save(job, {figure: drawn(table, names)}, tables=tables, pruning="one density",
         more={"methods": names, "level": level, **grid})  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
