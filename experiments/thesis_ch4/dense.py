"""Figures 4-2 to 4-12, 4-31 and 4-32 of Frankle's thesis: instability of dense networks.

From the state of the dense network at every step k, copies are trained on under different orders of
examples (and augmentation), and the networks they end at are compared: error along the line between
them, other distances, and how far the state at k has come.

Command:  python -m experiments.thesis_ch4.dense --preset resnet20-cifar10 [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 4-2 to 4-12, 4-31 and 4-32, verdicts.csv, first_steps.csv; the verdict of every
          step in the terminal. Beyond the thesis: averages.csv (model soups), across_seeds.csv
          (barriers before and after permutation alignment), plane (error around two copies).
Sizes:    lenet-mnist: quick 3 seeds, 600 steps, 10% of the examples; reduced 3 seeds, 6,000 steps;
          paper 3 seeds, 24,000 steps.
Cost:     at the paper's size 66 minutes with the settings of
          results/thesis_ch4/dense-lenet-mnist-paper-a3e42b1b13 on a core of an AMD EPYC.
Expected: at paper size LeNet is stable (barrier below 2 points) from step 0. ResNet-20 and VGG-16
          are not: at step 0 the error on the line reaches that of guessing; they are stable from
          about step 2,000 and 1,000 (3% and 1.5% of training), whether copies are trained for the
          remaining steps or for all of them. L2 distances fall slowly and show no threshold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import draw_alike, grid, pair, save, shared_legend, single
from experiments.thesis_ch4._copies import (
    BANDS,
    DENSE,
    SMALL,
    USUAL,
    Settings,
    comparison,
    report,
    verdicts,
)
from jaxticket.random import stream

DISTANCES = (
    ("l2", "weights"),
    ("cosine", "weights"),
    ("disagreement", "test"),
    ("disagreement", "train"),
    ("loss_l2", "test"),
    ("loss_l2", "train"),
)


def both(draw: Callable[..., Axes], *tables: pd.DataFrame, of: str = "", **options: Any) -> Figure:
    """Draw a panel for the test and one for the train split, with equal axes and one legend.

    Args:
      draw: function of `jt.plots`.
      tables: what it draws.
      of: what is drawn, for the titles.
      options: of the function.
    """
    with jt.plots.style():
        figure, axes = pair()
        splits = ("test", "train")
        panels = [partial(draw, *tables, split=split, legend=False, **options) for split in splits]
        draw_alike(axes, panels)
        for ax, split in zip(axes, splits, strict=True):
            ax.set_title(f"{of}{', ' if of else ''}{split} set")
        shared_legend(figure, axes)
    return figure


def distances(inst: jt.Instability, **options: Any) -> Figure:
    """Draw all distances against k.

    Splits have axes of their own, since most distances grow with the number of examples.
    """
    with jt.plots.style():
        figure, axes = grid(len(DISTANCES), 2, (4.2, 2.8))
        for ax, (metric, split) in zip(axes, DISTANCES, strict=True):
            own = None if split == "weights" else split
            jt.plots.distance(inst.table(), ax, metric=metric, split=own, legend=False, **options)
            ax.set_title("weights" if split == "weights" else f"{split} set")
        shared_legend(figure, axes)
    return figure


def surface(inst: jt.Instability, *, points: int) -> Figure:
    """Draw the test error in the plane through initialization and two copies of the first seed."""
    seed, at = inst.seeds[0], inst.at[0]
    copies = inst.networks(at=at, seed=seed)
    first = inst.net.init(stream(jax.random.key(seed), "init"))
    networks = [first, *(jax.tree.map(lambda x, c=c: x[c], copies) for c in (0, 1))]
    found = jt.stability.plane(inst.net, inst.data, inst.training, networks, points=points)
    names = ("initialization", "copy 1", "copy 2")
    with jt.plots.style():
        figure, ax = single()
        jt.plots.plane(found.table(), ax, points=dict(zip(names, found.corners, strict=True)))
    return figure


def beyond(inst: jt.Instability) -> dict[str, pd.DataFrame]:
    """Compute what is not in the thesis: averages of copies, and barriers between seeds.

    Barriers are those before and after the units are aligned; the statistics of BatchNorm are
    re-estimated on the line.
    """
    tables = {"averages": jt.stability.soup(inst)}
    if len(inst.seeds) > 1:
        statistics = bool(jax.tree.leaves(inst.networks(at=inst.at[0], seed=inst.seeds[0])[1]))
        found = jt.stability.across_seeds(inst, at=inst.at[0], recomputed=statistics)
        tables["across_seeds"] = found
        shown = found.loc[(found["split"] == "test") & (found["metric"] == "barrier")]
        for aligned, own in shown.groupby("aligned"):
            print(
                f"error barrier between seeds, {'aligned' if aligned else 'as they are'}: "
                f"{100 * own['value'].mean():.1f} points, mean of {len(own)} pairs"
            )
    return tables


def main(settings: Settings) -> None:
    """Train copies from every step k, compare them, and draw the figures."""
    quick, lenet = {**SMALL, "levels": 0}, {**USUAL, "levels": 0}
    reduced, paper = {"levels": 0}, {"levels": 0, "seeds": 3}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, reduced=reduced, paper=paper)
    chosen = comparison(job, settings, shares=DENSE, copies=3)
    with budget(job):
        inst = job.instability(at=chosen.at, throughout=chosen.throughout, **chosen.options)
        # from step 0 what remains is all of the training
        usual = inst.table()
        whole = [usual.loc[usual["at"] == 0]]
        if later := tuple(k for k in chosen.at if k > 0):
            full = job.instability(
                at=later, length="full", sub="full", keep=False, **chosen.options
            )
            whole.append(full.table())
        more_tables = beyond(inst)
        plane = surface(inst, points=25 if settings.size == "paper" else 9)
    rows, steps = verdicts(inst), inst.first_steps()
    report(job, rows, steps)
    lengths = jt.results.concat(
        [usual, jt.results.concat(whole).assign(branch="full length", length="full")]
    )
    first = chosen.at[0]
    figures = {
        "figure_4-2": both(jt.plots.path, inst.paths(), of=f"k = {first}", at=first),
        "figure_4-3": both(jt.plots.instability, inst.table()),
        "figure_4-5": both(jt.plots.throughout, inst.throughout()),
        "figure_4-6": both(jt.plots.path, inst.paths()),
        "figures_4-7_to_4-12": distances(inst),
        "plane": plane,
    }
    with jt.plots.style():
        figures["figure_4-4"], ax = single()
        jt.plots.instability(lengths, ax)
        figures["figures_4-31_and_4-32"], axes = pair()
        jt.plots.error(inst.states(), axes[0], dense=inst.copies())
        axes[0].set_title("error at step $k$")
        axes[1].set_title("distances of the dense network")
        jt.plots.distances_at_rewinding(inst.states(), inst.copies(), inst.table(), axes[1])
    tables = {"verdicts": rows, "first_steps": steps, "costs": inst.costs(), **more_tables}
    more = {"at": chosen.at, **chosen.options, "throughout": chosen.throughout}
    save(job, figures, tables=tables, more=more, bands=BANDS, of_seed={"plane": inst.seeds[0]})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
