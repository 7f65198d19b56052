"""Figure 20 of KD-LTS: accuracy under attack by density, of the tickets of many methods.

All tickets are trained on clean images, and so is the dense network. The attack is untargeted
projected gradient descent (PGD) within a box, on each network for itself: the paper prints neither
its radius nor its steps.

Command:  python -m experiments.kd_lts.attacks [--radii R ...] [--methods NAME ...] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_20 (accuracy under attack at the smallest radius, and clean accuracy, by density),
          radii (accuracy by radius at the lowest density), attacks.csv; claims.csv: KD-LTS against
          each other method; the same in the terminal, with a check for masked gradients.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 22 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: the paper prints no numbers of its figure; its text says that tickets of KD-LTS are 2 to 3
          points above those of methods that prune at initialization, and as robust as those of
          early pruning.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import budget, chosen, launch, prepare
from experiments.common.report import by_level, pair, save, shared_legend, single
from experiments.kd_lts._attacked import (
    Settings as Common,
)
from experiments.kd_lts._attacked import (
    accuracies,
    by_density,
    masked_gradients,
    probe_of,
    radii_of,
    say,
)
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._networks import KNOWN, METHODS, measured, sizes


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, the attack, and which methods."""

    methods: tuple[str, ...] | None = None
    """Methods of the leaderboard; kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow and random
    if not given."""


def main(settings: Settings) -> None:
    """Attack trained tickets of all methods and the dense networks, draw and print."""
    names = chosen(settings.methods, METHODS, KNOWN)
    job = prepare(__file__, settings, **sizes(settings))
    radii = radii_of(settings, job.data)
    with budget(job):
        table = measured(
            job, ("dense", *names), probe_of(settings, radii), examples=settings.attacked
        )
    rows = accuracies(table, radii)
    say(job, rows, radii)
    print(masked_gradients(table))
    tickets = rows.loc[rows["level"] > 0]
    # in points
    tickets = tickets.assign(measure="accuracy", value=100 * tickets["accuracy"])
    claims = compared(tickets, keys=("level", "radius")) if OURS in names else pd.DataFrame()
    looks = jt.plots.branch_styles(names)
    for row in claims.to_dict("records"):
        if row["radius"] == radii[0]:
            print(
                f"points at level {row['level']} under PGD of {row['radius']:.3g}, "
                f"{looks[OURS].label} against {looks[str(row['branch'])].label}: {in_words(row)}"
            )
    with jt.plots.style():
        figure, axes = pair()
        for ax, radius in zip(axes, (radii[0], 0.0), strict=True):
            words = f"Accuracy under PGD of {radius:.2g} (%)" if radius else "Clean accuracy (%)"
            by_density(rows, names, radius, ax, ylabel=words)
        shared_legend(figure, axes)
        other, ax = single(5.4, 4.2)
        jt.plots.robustness(table, ax, level=job.size.levels, band="minmax")
    more = {"methods": names, "radii": radii, "attack_steps": settings.attack_steps,
            "restarts": settings.restarts, "attacked": settings.attacked}  # fmt: skip
    tables = {"attacks": rows} | ({} if claims.empty else {"claims": claims})
    attacked = min(settings.attacked, len(job.data.test))
    pruning = f"{by_level(job)}, {attacked:,} test images attacked"
    save(job, {"figure_20": figure, "radii": other}, tables=tables, more=more, pruning=pruning)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
