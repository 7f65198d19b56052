"""Figure 13 of KD-LTS: do adversarially trained teachers make tickets robust?

Tickets of KD-LTS with standard teachers and with teachers that were trained on adversarial
examples, and random pruning, all trained on clean images as the dense network is. Supermasks, which
are these tickets before they are trained, and the teachers themselves are attacked too, so that it
shows whether robust teachers are robust. The attack is untargeted projected gradient descent (PGD)
within a box: the paper prints neither its radius nor its steps.

Appendix E compares masks that are learned from labels, soft answers and the singular values of the
teachers' weights with such of labels alone: `--methods kd_lts_spectra kd_lts_labels`.

Command:  python -m experiments.kd_lts.adversarial [--radii R ...] [--teacher-radius R]
          [--methods NAME ...] [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_13 (accuracy of tickets under attack at the smallest radius and clean, and of
          supermasks under attack, by density), radii (accuracy by radius: tickets of the lowest
          density, teachers), adversarial.csv; the accuracies in the terminal, with a check for
          masked gradients.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     not measured at either size.
Expected: on ResNet-20 the paper reports tickets of standard teachers 2 to 3 points above the dense
          network, those of robust teachers 3 points above them, and supermasks of robust teachers 2
          to 4 points above others. Appendix E: 79% with singular values, 63% of labels alone, after
          training on clean images.
"""

from __future__ import annotations

import dataclasses
from functools import partial

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import kd_lts
from experiments.common.report import draw_alike, grid, save, shared_legend
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
from experiments.kd_lts._networks import dense, networks, sizes
from jaxticket.data.alike import white
from jaxticket.sparsify.learned import Method, teachers_of

METHODS = ("kd_lts", "kd_lts_robust", "random")
KNOWN = (*METHODS, "kd_lts_spectra", "kd_lts_labels")
TRAINING_STEPS = 7
"""Of the attack that teachers are trained on; evaluations take `--attack-steps`."""
TEACHER_RADIUS = {1: 0.1, 3: 8 / 255}
"""By channels."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, the attack, methods and teachers."""

    methods: tuple[str, ...] | None = None
    """Some of kd_lts, kd_lts_robust, random, kd_lts_spectra and kd_lts_labels; the first three if
    not given."""
    teacher_radius: float | None = None
    """Radius of the attack that robust teachers are trained on; 0.1 of gray images, 8 / 255 of
    others."""


def method_of(job: Job, name: str, settings: Settings) -> Method:
    """Make the search of a method."""
    if name == "kd_lts_labels":
        return kd_lts(job, alpha=1.0, knowledge=())
    if name == "kd_lts_spectra":
        return kd_lts(job, knowledge=("spectra",))
    assert isinstance(job.data, jt.data.Data)
    radius = settings.teacher_radius
    if radius is None:
        radius = TEACHER_RADIUS[1 if job.data.shape[-1] == 1 else 3]
    attack = jt.PGD(
        radius=radius, step=2.5 * radius / TRAINING_STEPS, steps=TRAINING_STEPS,
        high=white(job.data),
    )  # fmt: skip
    return kd_lts(job, attack=attack)


def find(job: Job, name: str, settings: Settings) -> jt.Runs:
    """Give the trained tickets of a method; those of other scripts too are found where they lie."""
    if name in ("kd_lts", "random"):
        return networks(job, name)
    method = method_of(job, name, settings)
    return job.search(method, sub=name, dense=False, keep="trained")


def measured(job: Job, names: tuple[str, ...], settings: Settings) -> pd.DataFrame:
    """Attack dense networks, trained tickets, supermasks and teachers: the table of the probe."""
    radii = radii_of(settings, job.data)
    parts = []

    def add(runs: jt.Runs, name: str, kind: str, weights: str, levels: tuple[int, ...]) -> None:
        table = job.measure(
            runs, probe_of(settings, radii), levels=levels, weights=weights, split="test",
            examples=settings.attacked,
        )  # fmt: skip
        parts.append(table.assign(branch=name, kind=kind))

    levels = tuple(range(1, job.size.levels + 1))
    add(dense(job), "dense", "trained", "trained", (0,))
    for name in names:
        runs = find(job, name, settings)
        add(runs, name, "trained", "trained", levels)
        if name != "random":
            add(runs, name, "supermask", "start", levels)
        # teachers of the other searches are those of kd_lts
        if name in ("kd_lts", "kd_lts_robust"):
            teaching = kd_lts(job).teaching
            assert teaching is not None
            for number in range(teaching.count):
                add(teachers_of(runs, number), name, f"teacher {number}", "start", (0,))
    return jt.results.concat(parts)


def figure_13(rows: pd.DataFrame, names: tuple[str, ...], radius: float) -> Figure:
    """Draw tickets under attack and clean, and supermasks under attack.

    Both panels under attack have equal axes.
    """
    trained, masks = (rows.loc[rows["kind"] == kind] for kind in ("trained", "supermask"))
    with jt.plots.style():
        figure, axes = grid(3, 3, (3.7, 3.5))
        words = f"under PGD of {radius:.2g} (%)"
        panels = [
            partial(by_density, trained, names, radius, ylabel=f"Accuracy {words}"),
            partial(by_density, trained, names, 0.0, ylabel="Clean accuracy (%)"),
            partial(by_density, masks, names, radius, ylabel=f"Supermasks {words}"),
        ]
        draw_alike(axes, panels, ["attacked", "clean", "attacked"])
        shared_legend(figure, axes)
    return figure


def radii_figure(table: pd.DataFrame, level: int) -> Figure:
    """Draw accuracy by radius, of tickets on the left and of the first teachers on the right."""
    with jt.plots.style():
        figure, axes = grid(2, 2, (4.2, 3.6))
        parts = {"trained": ("trained tickets", level), "teacher 0": ("a teacher of each seed", 0)}
        for ax, (kind, (title, at)) in zip(axes, parts.items(), strict=True):
            own = table.loc[table["kind"] == kind].drop(columns="kind")
            jt.plots.robustness(own, ax, level=at, band="minmax")
            ax.set(title=title, ylim=(-3, 103))
    return figure


def main(settings: Settings) -> None:
    """Find and train tickets, attack them, their supermasks and teachers, draw and print."""
    names = chosen(settings.methods, METHODS, KNOWN)
    job = prepare(__file__, settings, **sizes(settings))
    radii = radii_of(settings, job.data)
    with budget(job):
        table = measured(job, names, settings)
    rows = jt.results.concat([
        accuracies(own, radii).assign(kind=kind) for kind, own in table.groupby("kind", sort=False)
    ])  # fmt: skip
    say(job, rows, radii, ("branch", "kind"))
    print(masked_gradients(table.loc[table["kind"] == "trained"]))
    figures = {"figure_13": figure_13(rows, names, radii[0])}
    if rows["kind"].str.startswith("teacher").any():
        figures["radii"] = radii_figure(table, job.size.levels)
    more = {"methods": names, "radii": radii, "attack_steps": settings.attack_steps,
            "restarts": settings.restarts, "attacked": settings.attacked,
            "teacher_radius": settings.teacher_radius}  # fmt: skip
    save(job, figures, tables={"adversarial": rows}, more=more)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
