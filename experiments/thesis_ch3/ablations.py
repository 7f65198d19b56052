"""Figure 3-7 of Frankle's thesis, the LeNet panel: which parts of a ticket matter.

Tickets beside the same masks with new weights (random reinit), masks permuted within each layer
(layerwise random) and over all layers (global random), the latter two also with new weights, as
in chapter 3. Gives the LeNet rows of Tables 4.1 and 4.2 too. LeNet-300-100 on MNIST.

Command:  python experiments/thesis_ch3/ablations.py [--preset paper] [--budget MINUTES]
Makes:    figure 3-7, final.csv; final accuracies by density in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size, 98.3% dense (Table 4.1); with 3.5% of the weights 98.2% for tickets, 97.5%
          reinitialized, 96.7% globally random (Table 4.2). Layerwise random lies between the last
          two: LeNet is the one network where it is worse than random reinit at low sparsities too.
"""

from __future__ import annotations

import dataclasses

import tyro
from _common import QUICK, Settings, budget, prepare, renamed, report, save, search, single

import jaxticket as jt

BRANCHES = ("reinit", "globally_permuted", "layerwise_random")


def main(settings: Settings) -> None:
    """Trains tickets and three ablations and draws final accuracy against density."""
    quick = dataclasses.replace(QUICK, levels=7, fraction=0.488)
    job = prepare("ablations", settings, quick=quick)
    with budget(job):
        runs = search(job, branches=BRANCHES)
    table = runs.table()
    report(job, table)
    with jt.plots.style():
        figure, ax = single()
        jt.plots.accuracy(renamed(table), ax)
    save(job, {"figure_3-7": figure}, table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
