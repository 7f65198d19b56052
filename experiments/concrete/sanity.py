"""Figures 4 and 5 of Concrete Ticket Search: sanity checks of its tickets.

Tickets found near initialization by CTS with the reverse divergence and with the loss, against
their masks shuffled within layers, with new weights, and with the lowest scores kept in place of
the highest. They are searched for at the step that the preset rewinds to, where the dense network
that the divergence compares with has begun to learn; with --start 0, where it has not, the
divergence compares with a trained network in its place. New weights are drawn from the initializer
and trained from step 0 with the whole schedule, so that they have as many steps as the ticket's
weights, those before the search included; the published code checks new weights for tickets at
initialization alone. `--preset` chooses the network: Figure 4 is resnet20-cifar10-cts, Figure 5
vgg16-cifar10-cts.

Command:  python -m experiments.concrete.sanity [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_4 (or 5), final.csv, controls.csv; accuracies by density and what each control
          changes in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 3 levels pruning 80%, 600 steps, 10% of the examples; reduced
          3 seeds, 2 levels pruning 87%, 6,000 steps; paper 3 seeds, 16 levels pruning 36%, 24,000
          steps.
Cost:     at quick size 0.7 minutes with the settings of
          results/concrete/sanity-lenet-mnist-quick-7aeedddd5c on 2 cores of an AMD EPYC; the
          paper's size is not measured.
Expected: at paper size tickets are ahead of all controls, most clearly at the lowest densities.
"""

from __future__ import annotations

import dataclasses

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.learned import Settings as Common
from experiments.common.learned import late_step, learned, length_of, trained
from experiments.common.report import named, save
from experiments.common.scored import panels, report, report_controls
from experiments.concrete.accuracy import LENET, PAPER, QUICK

METHODS = ("cts_kl", "cts_loss")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all that learn masks, and where it starts."""

    start: int | None = None
    """Step k of the search, of the job's steps; that of the preset, or 2% of training."""


def main(settings: Settings) -> None:
    """Search, train the tickets and their controls, draw and print."""
    names = chosen(settings.methods, METHODS)
    small = {"levels": 2, "fraction": 0.87}
    job = prepare(
        __file__, settings, quick={**QUICK, **small},
        lenet={**LENET, "levels": 3, "fraction": 0.8},
        reduced=small, paper=PAPER,
    )  # fmt: skip
    start = late_step(job) if settings.start is None else settings.start
    usual = {"start": start, "steps": length_of(settings), "branches": ("shuffle", "reinit")}
    tables = []
    with budget(job):
        for i, name in enumerate(names):
            options = {"sub": "", "dense": True} if i == 0 else {}
            runs = learned(job, name, **usual, **options)
            tables.append(named(runs.table(), name))
            turned = learned(job, name, inverted=True, **{**usual, "branches": ()})
            tables.append(named(turned.table(), f"{name}_inverted"))
    table = trained(jt.results.concat(tables))
    report(job, table, title=f"Concrete Ticket Search from step {start}")
    found = report_controls(table)
    figure = "figure_5" if job.preset.network == "vgg16" else "figure_4"
    more = {"methods": names, "start": start, "length": length_of(settings)}
    save(job, {figure: panels(names, table)}, table, tables={"controls": found}, more=more,
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
