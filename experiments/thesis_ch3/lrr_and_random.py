"""Figures 3-5 and 3-6 of Frankle's thesis: tickets between two baselines.

The one is pruning after training with learning-rate rewinding (LRR), which keeps the trained
weights; the other is global random pruning at initialization, with reinitialized weights. Final
test accuracy stands on the left, train accuracy on the right. `--preset` chooses the panels:
lenet-mnist, conv4-cifar10, conv6-cifar10, conv8-cifar10, and resnet20-cifar10 and vgg16-cifar10,
each also with -low and -warmup.

Command:  python -m experiments.thesis_ch3.lrr_and_random [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 3-5, final.csv, layers.csv (what each layer has left); final accuracies by density
          in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 10 levels pruning 36%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 22 levels pruning 20%, 24,000
          steps.
Cost:     52 minutes with the settings of
          results/thesis_ch3/lrr_and_random-lenet-mnist-paper-f21ab3f779 (11 levels pruning 36%) on
          2 cores of an AMD EPYC with other work beside it; at the reduced size 63 minutes with
          resnet20-cifar10 on a core of an AMD EPYC, once tickets and global random networks are
          trained (ablations.py).
Expected: at paper size and 3.5% of the weights, tickets reach 98.2% against 98.3% dense (Table
          4.2, whose random pruning keeps the layers' densities: 96.7%). Tickets are far above
          global random pruning at all but the highest densities; LRR is close to them: LeNet on
          MNIST is the one network for which it finds no sparser matching subnetworks than IMP does.
          Global random pruning almost never matches the dense network and often diverges on Conv-8.
"""

from __future__ import annotations

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import lost_classes, renamed, report, save, test_and_train
from experiments.thesis_ch3._tickets import Settings, beside, controlled, sizes, tickets


def main(settings: Settings) -> None:
    """Find tickets, prune with LRR and at random, and draw final accuracy against density."""
    job = prepare(__file__, settings, **sizes(settings))
    with budget(job):
        runs = tickets(job)
        table = beside(job, runs, ("globally_permuted",), controlled(job, settings))
        lrr = job.find_tickets(sub="lrr", rewind="learning_rate")
    table = jt.results.concat([table, renamed(lrr.table(), {"ticket": "lrr"})])
    report(job, table)
    rewound = renamed(jt.layers.report(lrr), {"ticket": "lrr"})
    layers = jt.results.concat([jt.layers.report(runs), rewound]).query("level > 0")
    lost_classes(layers)
    save(job, {"figure_3-5": test_and_train(table)}, table, tables={"layers": layers})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
