"""Figure A1 of "One ticket to win them all": kinds of random mask.

Tickets compared with three controls, all with new weights: the ticket's own mask (preserved), the
mask permuted within each layer (locally permuted), and permuted over all layers (globally
permuted). `--preset` takes another network or data set than the paper's VGG-19 on CIFAR-10.

Command:  python -m experiments.one_ticket.random_masks [--size reduced|paper] [--budget MINUTES]
Makes:    figure_A1, final.csv; final accuracies by density in the terminal.
Sizes:    vgg19-cifar10-one_ticket: quick 2 seeds, 2 levels pruning 74%, 160 steps of batch 64, 20%
          of the examples, width 0.125; reduced 3 seeds, 4 levels pruning 36%, 2,344 steps of batch
          128, width 0.25, images pooled by 2; paper 6 seeds, 30 levels pruning 20%, 15,680 steps.
Cost:     not measured at either size.
Expected: tickets above preserved masks, those above locally permuted ones by little, and globally
          permuted ones far below. The paper prints no numbers.
"""

from __future__ import annotations

import dataclasses

import jaxticket as jt
from experiments.common.job import Settings as Common
from experiments.common.job import budget, launch, prepare
from experiments.common.report import DEVIATION, report, save, single

BRANCHES = ("preserved", "locally_permuted", "globally_permuted")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, with another preset."""

    preset: str = "vgg19-cifar10-one_ticket"
    """Network, data and training: a name that `python -m jaxticket presets` lists."""


def main(settings: Settings) -> None:
    """Train tickets and three kinds of random mask and draw final accuracy against density."""
    job = prepare(__file__, settings, lenet={"levels": 7, "fraction": 0.488})
    with budget(job):
        runs = job.find_tickets(branches=BRANCHES, rewind=job.late)
    table = runs.table()
    report(job, table)
    with jt.plots.style():
        figure, ax = single()
        jt.plots.accuracy(table, ax, band="std")
    save(job, {"figure_A1": figure}, table, bands=DEVIATION)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
