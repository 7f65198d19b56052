"""Figure 3-5 of Frankle's thesis, the LeNet panels: tickets between two baselines.

The one is pruning after training with learning-rate rewinding (LRR), which keeps the trained
weights; the other is global random pruning at initialization, with weights drawn anew. Final test
accuracy stands on the left, train accuracy on the right. LeNet-300-100 on MNIST.

Command:  python experiments/thesis_ch3/lrr_and_random.py [--preset paper] [--budget MINUTES]
Makes:    figure 3-5, final.csv; final accuracies by density in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size and 3.5% of the weights, tickets reach 98.2% and random pruning 96.7%,
          against 98.3% dense (Table 4.2). Tickets are far above random pruning at all but the
          highest densities; LRR is close to them: LeNet on MNIST is the one network for which it
          finds no sparser matching subnetworks than IMP does.
"""

from __future__ import annotations

import tyro
from _common import Settings, budget, prepare, renamed, report, save, search, test_and_train

import jaxticket as jt


def main(settings: Settings) -> None:
    """Finds tickets, prunes with LRR and at random, and draws final accuracy against density."""
    job = prepare("lrr_and_random", settings)
    with budget(job):
        runs = search(job, branches=("globally_permuted",))
        lrr = search(job, sub="lrr", rewind="learning_rate")
    table = jt.results.concat([runs.table(), renamed(lrr.table(), {"ticket": "lrr"})])
    report(job, table)
    save(job, {"figure_3-5": test_and_train(table)}, table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
