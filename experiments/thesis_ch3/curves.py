"""Figures 3-1 and 3-2 of Frankle's thesis: test accuracy during training at several densities.

Figure 3-1 draws the tickets alone, Figure 3-2 a few of them against the same masks with new
initial weights. The thesis shows LeNet-300-100 on MNIST; `--preset` draws other settings.

Command:  python -m experiments.thesis_ch3.curves [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 3-1 and 3-2, final.csv; final accuracies by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 10 levels pruning 36%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 22 levels pruning 20%, 24,000
          steps.
Cost:     at quick size 2.5 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; at the
          paper's size 83 minutes with lenet-mnist on a core of an AMD EPYC with work beside it, of
          which 53 are the tickets that other figures of the chapter share.
Expected: at paper size, tickets with 2.8% of the weights still reach the accuracy of the dense
          network (98.3%) in at most its number of steps, and much sparser ones fall below it; at
          3.5% tickets reach 98.2%, reinitialized ones 97.5% (Table 4.2). Moderately sparse
          tickets learn faster than the dense network, reinitialized ones more slowly.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import report, save, single
from experiments.thesis_ch3._tickets import Settings, beside, controlled, sizes, tickets

# the densities of the figures, as near as the levels come
ALONE = (1.0, 0.51, 0.21, 0.07, 0.035, 0.019)
NEXT_TO = (1.0, 0.21, 0.035)


def nearest(
    runs: jt.Runs, densities: tuple[float, ...], levels: Sequence[int] | None = None
) -> list[int]:
    """Give the levels nearest to some densities, of all or of level 0 and some others."""
    known = dict(zip(runs.levels, runs.densities, strict=True))
    if levels is not None:
        known = {n: density for n, density in known.items() if n in (0, *levels)}
    found = {min(known, key=lambda n: abs(math.log(known[n] / asked))) for asked in densities}
    return sorted(found)


def main(settings: Settings) -> None:
    """Train tickets and reinitialized tickets and draw their accuracy during training."""
    job = prepare(__file__, settings, **sizes(settings))
    with budget(job):
        runs = tickets(job)
        table = beside(job, runs, ("reinit",), controlled(job, settings))
    report(job, table)
    figures = {}
    with jt.plots.style():
        figures["figure_3-1"], ax = single()
        jt.plots.curves(table, ax, levels=nearest(runs, ALONE))
        figures["figure_3-2"], ax = single()
        levels = nearest(runs, NEXT_TO, controlled(job, settings))
        jt.plots.curves(table, ax, levels=levels, branches=("ticket", "reinit"))
    save(job, figures, table)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
