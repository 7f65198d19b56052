"""Figures 4-2 to 4-12, 4-31 and 4-32 of Frankle's thesis: instability of dense networks.

From the state of the dense network at every step k, copies are trained on under different orders of
examples (and augmentation), and the networks they end at are compared: error along the line between
them, other distances, and how far the state at k has come.

Command:  python experiments/thesis_ch4/dense.py --preset resnet20-cifar10 [--size paper]
          [--budget MINUTES]
Makes:    figures 4-2 to 4-12, 4-31 and 4-32, verdicts.csv, first_steps.csv; the verdict of every
          step in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size LeNet is stable (barrier below 2 points) from step 0. ResNet-20 and VGG-16
          are not: at step 0 the error on the line reaches that of guessing; they are stable from
          about step 2,000 and 1,000 (3% and 1.5% of training), whether copies are trained for the
          remaining steps or for all of them. L2 distances fall slowly and show no threshold.
"""

from __future__ import annotations

from typing import Any

import _path  # noqa: F401
import tyro
from _copies import BANDS, SMALL, USUAL, Settings, comparison, report, verdicts
from _job import analyse, budget, prepare
from _report import pair, save, shared_legend, single
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt

DISTANCES = (
    ("l2", "weights"),
    ("cosine", "weights"),
    ("disagreement", "test"),
    ("disagreement", "train"),
    ("loss_l2", "test"),
    ("loss_l2", "train"),
)


def both(draw: Any, *tables: Any, by_step: bool = False, **options: Any) -> Figure:
    """A figure with a panel for the test and one for the train split.

    Args:
      draw: function of `jt.plots`.
      tables: what it draws.
      by_step: whether colours tell steps k, which one panel's own legend names.
      options: of the function.
    """
    with jt.plots.style():
        figure, axes = pair()
        for ax, split in zip(axes, ("test", "train"), strict=True):
            own = by_step and split == "train"
            draw(*tables, ax, split=split, legend=own, **options)
            ax.set_title(f"{split} set")
        if not by_step:
            shared_legend(figure, axes)
    return figure


def grid(inst: jt.Instability, **options: Any) -> Figure:
    """All distances against k."""
    with jt.plots.style():
        figure, axes = pyplot.subplots(3, 2, figsize=(8.4, 8.4), layout="constrained")
        for ax, (metric, split) in zip(axes.flat, DISTANCES, strict=True):
            own = None if split == "weights" else split
            jt.plots.distance(inst.table(), ax, metric=metric, split=own, legend=False, **options)
            ax.set_title("weights" if split == "weights" else f"{split} set")
        shared_legend(figure, axes.flat)
    return figure


def main(settings: Settings) -> None:
    """Trains copies from every step k, compares them, and draws the figures."""
    quick, lenet = {**SMALL, "levels": 0}, {**USUAL, "levels": 0}
    paper = {"levels": 0, "seeds": 3}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, paper=paper)
    chosen = comparison(job, settings)
    with budget(job):
        inst = analyse(job, at=chosen.at, throughout=chosen.throughout, **chosen.options)
        full = analyse(job, at=chosen.at, length="full", sub="full", keep=False, **chosen.options)
    rows, steps = verdicts(inst), inst.first_steps()
    report(job, rows, steps)
    lengths = jt.results.concat([inst.table(), full.table().assign(branch="full length")])
    figures = {
        "figure_4-2": both(jt.plots.path, inst.paths(), at=0),
        "figure_4-3": both(jt.plots.instability, inst.table()),
        "figure_4-5": both(jt.plots.throughout, inst.throughout(), by_step=True),
        "figure_4-6": both(jt.plots.path, inst.paths(), by_step=True),
        "figures_4-7_to_4-12": grid(inst),
    }
    with jt.plots.style():
        figures["figure_4-4"], ax = single()
        jt.plots.instability(lengths, ax)
        figures["figures_4-31_and_4-32"], axes = pair()
        jt.plots.error(inst.states(), axes[0], dense=inst.copies())
        axes[0].set_title("error at step k")
        jt.plots.distances_at_rewinding(inst.states(), inst.copies(), inst.table(), axes[1])
    tables = {"verdicts": rows, "first_steps": steps, "costs": inst.costs()}
    more = {"at": chosen.at, **chosen.options, "throughout": chosen.throughout}
    save(job, figures, tables=tables, more=more, bands=BANDS)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
