"""Figure 3-3 of Frankle's thesis, the LeNet panels: one-shot against iterative pruning.

Iterative mode prunes level after level and trains again each time. One-shot mode prunes the
trained dense network straight to each density. Final test accuracy stands on the left, train
accuracy on the right. LeNet-300-100 on MNIST.

Command:  python experiments/thesis_ch3/one_shot.py [--preset paper] [--budget MINUTES]
Makes:    figure 3-3, final.csv; final accuracies by density in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size, 98.3% dense and 98.2% for iterative tickets with 3.5% of the weights
          (Tables 4.1 and 4.2); at every density iterative tickets are at least as accurate as
          one-shot ones, and they stay matching at sparser levels, on test and train data alike.
"""

from __future__ import annotations

import tyro
from _common import Settings, budget, prepare, renamed, report, save, search, test_and_train

import jaxticket as jt


def main(settings: Settings) -> None:
    """Prunes both ways and draws final accuracy against density."""
    job = prepare("one_shot", settings)
    with budget(job):
        iterative = search(job)
        one_shot = search(job, sub="one_shot", one_shot=True)
    table = jt.results.concat(
        [iterative.table(), renamed(one_shot.table(), {"ticket": "one_shot"})]
    )
    report(job, table)
    save(job, {"figure_3-3": test_and_train(table)}, table)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
