"""Figure 5 of "One ticket to win them all": tickets of SGD trained with Adam, and back.

Tickets are found with either optimizer, and trained with the other on the same data, compared with
the tickets that were found with it and random ones: new weights and a mask permuted over all
layers.

Command:  python -m experiments.one_ticket.optimizers [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_5 (accuracy by density, a panel for each optimizer), matrix (accuracy relative to
          the tickets of the optimizer itself), matrix.csv; accuracies in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 55%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 6 seeds, 30 levels pruning 20%, 24,000
          steps.
Cost:     at the reduced size 14 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: tickets of the other optimizer nearly as good as its own, both far above random ones at
          low densities. The paper prints no numbers, and not which data set it took.
"""

from __future__ import annotations

import dataclasses

from experiments.common.job import Job, budget, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.report import DEVIATION, save
from experiments.common.sizes import FASTER, few_epochs
from experiments.common.transfer import by_density, heat_map, pairs, say, tickets
from experiments.one_ticket.data_sets import LENET, QUICK

# appendix A.1
OPTIMIZERS = {
    "SGD": {"optimizer": "momentum", "momentum": 0.9, "lr": 0.1, "weight_decay": 1e-4},
    "Adam": {"optimizer": "adam", "lr": 3e-4, "b1": 0.9, "b2": 0.999, "weight_decay": 1e-4},
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, with another preset."""

    preset: str = "lenet-mnist"
    """Network, data and schedule; the optimizers are those of the paper."""


def main(settings: Settings) -> None:
    """Find tickets with both optimizers, train them with the other, draw and print."""
    if settings.lr is not None:
        raise ValueError(f"`lr` must be left out: each optimizer has its own, got {settings.lr}")
    base = prepare(__file__, settings, quick={**QUICK, "pool": 2}, lenet={**LENET, "pool": 1},
                   paper={"levels": 30, "seeds": 6})  # fmt: skip
    jobs: dict[str, Job] = {}
    for name, optimizer in OPTIMIZERS.items():
        training = base.preset.training.replace(nesterov=False).replace(**optimizer)
        preset = dataclasses.replace(base.preset, training=training)
        if settings.size == "reduced" and preset.network in FASTER:
            preset = dataclasses.replace(preset, training=few_epochs(preset))
        # the folder itself is a run's
        folder = base.folder / name if jobs else base.folder
        jobs[name] = dataclasses.replace(base, preset=preset, folder=folder)
    with budget(base):
        found = {name: tickets(job) for name, job in jobs.items()}
        moved = pairs(jobs, found, list(jobs))
    print(f"\n{base.network_name} on {base.data_name} ({base.preset.name}, {settings.size} size)")
    say(base, moved)
    figures = {"figure_5": by_density(moved), "matrix": heat_map(moved)}
    save(base, figures, tables={"matrix": moved.matrix}, bands=DEVIATION)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
