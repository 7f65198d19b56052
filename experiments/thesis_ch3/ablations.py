"""Figure 3-7 of Frankle's thesis: which parts of a ticket matter.

Tickets against the same masks with new weights (random reinit), masks permuted within each layer
(layerwise random) and over all layers (global random), the latter two also with new weights, as
in chapter 3. `--preset` chooses the panel: lenet-mnist, conv4-cifar10, conv6-cifar10,
conv8-cifar10, and resnet20-cifar10 and vgg16-cifar10, each also with -low and -warmup.

Command:  python -m experiments.thesis_ch3.ablations [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 3-7, final.csv; final accuracies by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 10 levels pruning 36%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 22 levels pruning 20%, 24,000
          steps.
Cost:     at quick size 4.1 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; at the
          paper's size 58 minutes with lenet-mnist on a core of an AMD EPYC, once the tickets and
          those with new weights are trained (curves.py); at the reduced size 147 minutes with
          resnet20-cifar10 on a core of an AMD EPYC, tickets included.
Expected: at paper size, 98.3% dense (Table 4.1); with 3.5% of the weights 98.2% for tickets, 97.5%
          reinitialized, 96.7% layerwise random (Table 4.2), globally random less. LeNet is the one
          network where layerwise random is worse than random reinit at low sparsities too.
          The numbers of the other settings are printed next to the measured ones; the thesis has
          none for Conv-4, -6 and -8.
"""

from __future__ import annotations

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import renamed, report, save, single
from experiments.thesis_ch3._tickets import Settings, beside, controlled, sizes, tickets

BRANCHES = ("reinit", "globally_permuted", "layerwise_random")


def main(settings: Settings) -> None:
    """Train tickets and three ablations and draw final accuracy against density."""
    job = prepare(__file__, settings, **sizes(settings))
    with budget(job):
        runs = tickets(job)
        table = beside(job, runs, BRANCHES, controlled(job, settings))
    report(job, table)
    with jt.plots.style():
        figure, ax = single()
        jt.plots.accuracy(renamed(table), ax)
    save(job, {"figure_3-7": figure}, table)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
