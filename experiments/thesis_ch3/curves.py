"""Figures 3-1 and 3-2 of Frankle's thesis: test accuracy during training at several densities.

Figure 3-1 draws the tickets alone, Figure 3-2 a few of them beside the same masks with new
initial weights. LeNet-300-100 on MNIST.

Command:  python experiments/thesis_ch3/curves.py [--preset paper] [--budget MINUTES]
Makes:    figures 3-1 and 3-2, final.csv; final accuracies by density in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size, tickets with 2.8% of the weights still reach the accuracy of the dense
          network (98.3%) in at most its number of steps, and much sparser ones fall below it; at
          3.5% tickets reach 98.2%, reinitialized ones 97.5% (Table 4.2). Moderately sparse
          tickets learn faster than the dense network, reinitialized ones more slowly.
"""

from __future__ import annotations

import dataclasses
import math

import tyro
from _common import PAPER, QUICK, Settings, budget, prepare, report, save, search, single

import jaxticket as jt

# the densities of the figures, as near as the levels come
ALONE = (1.0, 0.51, 0.21, 0.07, 0.035, 0.019)
BESIDE = (1.0, 0.21, 0.035)


def nearest(runs: jt.Runs, densities: tuple[float, ...]) -> list[int]:
    """The levels nearest to some densities."""
    known = dict(zip(runs.levels, runs.densities, strict=True))
    found = {min(known, key=lambda n: abs(math.log(known[n] / asked))) for asked in densities}
    return sorted(found)


def main(settings: Settings) -> None:
    """Trains tickets and reinitialized tickets and draws their accuracy during training."""
    job = prepare(
        "curves",
        settings,
        quick=dataclasses.replace(QUICK, levels=9, eval_every=50),
        paper=dataclasses.replace(PAPER, eval_every=400),
    )
    with budget(job):
        runs = search(job, branches=("reinit",))
    table = runs.table()
    report(job, table)
    figures = {}
    with jt.plots.style():
        figures["figure_3-1"], ax = single()
        jt.plots.curves(table, ax, levels=nearest(runs, ALONE))
        figures["figure_3-2"], ax = single()
        levels = nearest(runs, BESIDE)
        jt.plots.curves(table, ax, levels=levels, branches=("ticket", "reinit"))
    save(job, figures, table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
