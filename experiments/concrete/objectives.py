"""Figure 3 of Concrete Ticket Search: what a search should minimise.

The six objectives of the paper, and the forward divergence in addition to the reverse one, at one
length of search.

Command:  python -m experiments.concrete.objectives [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_3, final.csv; accuracies by density in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 3 levels pruning 80%, 600 steps, 10% of the examples; reduced
          3 seeds, 2 levels pruning 87%, 6,000 steps; paper 3 seeds, 16 levels pruning 36%, 24,000
          steps.
Cost:     at quick size 10 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; the
          paper's size is not measured.
Expected: at paper size tickets of the reverse divergence, the change of loss and the loss are
          ahead; those of the gradient's norm, of features and of gradients cannot match them.
"""

from __future__ import annotations

import dataclasses

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.learned import CTS, late_step, learned, length_of, trained
from experiments.common.learned import Settings as Common
from experiments.common.report import named, save
from experiments.common.scored import figure_of, report
from experiments.concrete.accuracy import LENET, PAPER, QUICK


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all that learn masks, and where it starts."""

    start: int | None = None
    """Step k, of the job's steps; that of the preset, or 2% of training."""


def main(settings: Settings) -> None:
    """Search with every objective, train the tickets, draw and print."""
    names = chosen(settings.methods, tuple(CTS))
    small = {"levels": 2, "fraction": 0.87}
    job = prepare(
        __file__, settings, quick={**QUICK, **small},
        lenet={**LENET, "levels": 3, "fraction": 0.8},
        reduced=small, paper=PAPER,
    )  # fmt: skip
    start = late_step(job) if settings.start is None else settings.start
    tables = []
    with budget(job):
        for i, name in enumerate(names):
            options = {"sub": "", "dense": True} if i == 0 else {}
            runs = learned(job, name, start=start, steps=length_of(settings), **options)
            tables.append(named(runs.table(), name))
    table = trained(jt.results.concat(tables))
    report(job, table, title=f"Concrete Ticket Search from step {start}")
    more = {"methods": names, "start": start, "length": length_of(settings)}
    save(job, {"figure_3": figure_of(names, table)}, table, more=more,
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
