"""Figures 3-3 and 3-4 of Frankle's thesis: one-shot against iterative pruning.

Iterative mode prunes level after level and trains again each time. One-shot mode prunes the
trained dense network straight to each density. Final test accuracy stands on the left, train
accuracy on the right. `--preset` chooses the panels: lenet-mnist, conv4-cifar10, conv6-cifar10,
conv8-cifar10, and resnet20-cifar10 and vgg16-cifar10, each also with -low and -warmup.

Command:  python -m experiments.thesis_ch3.one_shot [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure 3-3, final.csv, layers.csv (what each layer has left); final accuracies by density
          in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 10 levels pruning 36%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 5 seeds, 22 levels pruning 20%, 24,000
          steps.
Cost:     17 minutes with the settings of
          results/thesis_ch3/one_shot-lenet-mnist-paper-f21ab3f779 (11 levels pruning 36%) on 2
          cores of an AMD EPYC, once tickets are trained (lrr_and_random.py).
Expected: at paper size, 98.3% dense and 98.2% for iterative tickets with 3.5% of the weights
          (Tables 4.1 and 4.2); at every density iterative tickets are at least as accurate as
          one-shot ones, and they stay matching at sparser levels, on test and train data alike.
"""

from __future__ import annotations

import jaxticket as jt
from experiments.common.job import budget, launch, prepare
from experiments.common.report import lost_classes, renamed, report, save, test_and_train
from experiments.thesis_ch3._tickets import Settings, sizes, tickets


def main(settings: Settings) -> None:
    """Prune both ways and draw final accuracy against density."""
    job = prepare(__file__, settings, **sizes(settings))
    with budget(job):
        iterative = tickets(job)
        one_shot = job.find_tickets(sub="one_shot", one_shot=True)
    table = jt.results.concat(
        [iterative.table(), renamed(one_shot.table(), {"ticket": "one_shot"})]
    )
    report(job, table)
    at_once = renamed(jt.layers.report(one_shot), {"ticket": "one_shot"})
    layers = jt.results.concat([jt.layers.report(iterative), at_once]).query("level > 0")
    lost_classes(layers)
    save(job, {"figure_3-3": test_and_train(table)}, table, tables={"layers": layers})


if __name__ == "__main__":
    launch(main, Settings, __doc__)
