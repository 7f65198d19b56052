"""Figure 17 of KD-LTS: attacked digits, and what three networks answer.

The dense network, a ticket of KD-LTS and a random one, all trained, are attacked each on its own by
projected gradient descent (PGD) towards the digit 3, within a box around each image: the paper
prints neither its radius nor its steps. The digits are the first test images of each other class
that all three networks answer right.

Command:  python -m experiments.kd_lts.attacked_digits [--radius R] [--target CLASS] [--level N]
          [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_17 (the images, clean and as each network was attacked, with its answers),
          attacked_digits.csv: accuracy and success of the attack over test images, by radius; the
          same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 1.1 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: the paper shows digits and prints no numbers: its text says that KD-LTS answers wrong only
          where a digit looks like the target, unlike the random and the dense network.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, launch, prepare
from experiments.common.report import save, seeds
from experiments.kd_lts._attacked import Settings as Common
from experiments.kd_lts._attacked import radii_of
from experiments.kd_lts._networks import checked_level, dense, networks, sizes
from jaxticket.data.alike import white
from jaxticket.engine.metrics import normalized
from jaxticket.random import root_keys

NETWORKS = ("dense", "kd_lts", "random")
RIGHT, WRONG = "#0072B2", "#D55E00"


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, the attack, target and density."""

    radius: float = 0.1
    """Largest change of a pixel in the figure, as a share of its range."""
    target: int = 3
    """The class that images are moved towards."""
    level: int = 1
    """Level of the tickets, which says their density; 1 is the densest."""


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a network was shown, and what it answered.

    Attributes:
      images: [image, height, width, channels].
      answers: [image], and with which probability.
      sure: [image].
    """

    images: np.ndarray
    answers: np.ndarray
    sure: np.ndarray


def answers_of(problem: jt.Problem, ticket: jt.Ticket, x: np.ndarray) -> Shown:
    """Ask a network about raw images."""
    assert problem.by is not None
    seen = normalized(jnp.asarray(x), problem.by, "float32")
    chances = np.asarray(jax.nn.softmax(problem.logits(ticket.params, ticket.stats, seen)))
    return Shown(np.asarray(x), chances.argmax(axis=1), chances.max(axis=1))


def attacked(
    job: Job, runs: dict[str, tuple[jt.Runs, int]], settings: Settings
) -> tuple[list[int], dict[str, Shown]]:
    """Attack the first seed's networks, each on its own.

    Returns:
      The true classes, and by network what it was shown.
    """
    data = job.data
    assert isinstance(data, jt.data.Data)
    problem = jt.Problem(job.net, data, job.training)
    assert problem.by is not None
    tickets = {
        name: own.ticket(level, own.seeds[0], weights="trained")
        for name, (own, level) in runs.items()
    }
    # all of the test images, until each class has one
    x, y = data.test.x[: settings.attacked], data.test.y[: settings.attacked]
    right = np.all(
        [answers_of(problem, ticket, x).answers == y for ticket in tickets.values()], axis=0
    )
    classes = [c for c in range(data.classes) if c != settings.target and (right & (y == c)).any()]
    if not classes:
        raise ValueError(
            f"`attacked` {settings.attacked}: of so many test images none that is not of class "
            f"{settings.target} is answered right by all of {', '.join(tickets)}; train longer"
        )
    places = [int(np.flatnonzero(right & (y == c))[0]) for c in classes]
    attack = jt.PGD(
        radius=settings.radius, step=2.5 * settings.radius / settings.attack_steps,
        steps=settings.attack_steps, restarts=max(2, settings.restarts), targeted=True,
        high=white(data),
    )  # fmt: skip
    target = jnp.full(len(places), settings.target, jnp.int32)
    found = {"clean": Shown(x[places], y[places], np.ones(len(places)))}
    for name, ticket in tickets.items():
        moved = attack(
            job.net, ticket.params, ticket.stats, jnp.asarray(x[places]), target, by=problem.by,
            key=root_keys([runs[name][0].seeds[0]])[0],
        )  # fmt: skip
        found[name] = answers_of(problem, ticket, np.asarray(moved))
    return classes, found


def drawn(classes: list[int], found: dict[str, Shown], target: int) -> Figure:
    """Draw a row per network and a column per class, with each answer and its probability."""
    looks = jt.plots.branch_styles(NETWORKS)
    with jt.plots.style():
        figure, axes = pyplot.subplots(
            len(found), len(classes), figsize=(1.05 * len(classes) + 0.4, 1.3 * len(found) + 0.4),
            layout="constrained", squeeze=False,
        )  # fmt: skip
        top = max(float(own.images.max()) for own in found.values())
        for row, (name, own) in enumerate(found.items()):
            for column, true in enumerate(classes):
                ax, image = axes[row, column], own.images[column]
                ax.grid(visible=False)
                shown = image[..., 0] if image.shape[-1] == 1 else image / top
                ax.imshow(shown, cmap="gray", vmin=0, vmax=top, interpolation="nearest")
                ax.set(xticks=[], yticks=[])
                answer = int(own.answers[column])
                words = f"{answer}" if name == "clean" else f"{answer} ({own.sure[column]:.2f})"
                color = "black" if name == "clean" else RIGHT if answer == true else WRONG
                weight = "bold" if answer == target and name != "clean" else "normal"
                ax.set_xlabel(words, color=color, fontweight=weight, fontsize=8, labelpad=2)
            label = "clean" if name == "clean" else looks[name].label
            axes[row, 0].set_ylabel(label, fontsize=8)
    return figure


def main(settings: Settings) -> None:
    """Attack trained networks towards a digit, draw the images and print how often it succeeds."""
    job = prepare(__file__, settings, **sizes(settings))
    data, level = job.data, checked_level(job, settings.level)
    if not isinstance(data, jt.data.Data):
        raise ValueError(f"`preset` {job.preset.name!r} streams its images; use data in memory")
    if not 0 <= settings.target < data.classes:
        raise ValueError(f"`target` must be from 0 to {data.classes - 1}, got {settings.target}")
    radii = tuple(sorted({*radii_of(settings, data), settings.radius}))
    probe = jt.probes.Attack(
        radius=radii, steps=settings.attack_steps, restarts=settings.restarts,
        target=settings.target,
    )  # fmt: skip
    with budget(job):
        runs = {
            name: (dense(job), 0) if name == "dense" else (networks(job, name), level)
            for name in NETWORKS
        }
        parts = [
            job.measure(
                own, probe, levels=(at,), weights="trained", split="test",
                examples=settings.attacked,
            ).assign(branch=name)
            for name, (own, at) in runs.items()
        ]  # fmt: skip
        classes, found = attacked(job, runs, settings)
    table = jt.results.concat(parts)
    kinds = ("adversarial_accuracy", "success")
    rows = table.loc[table["metric"].isin(kinds)]
    rows = rows.assign(radius=[radii[place] for place in rows["index"]])
    rows = rows.loc[:, ["branch", "density", "seed", "radius", "metric", "value"]]
    print(f"\n{job.network_name} on {job.data_name}, mean over {seeds(job)}, PGD towards ", end="")
    print(f"{settings.target}: accuracy / how many are answered as the target, in %, by radius\n")
    print(f"{'':20}" + "".join(f"{radius:>16.3g}" for radius in radii))
    means: pd.Series = 100 * rows.groupby(["branch", "radius", "metric"])["value"].mean()
    looks = jt.plots.branch_styles(NETWORKS)
    for name in NETWORKS:
        cells = (f"{means[name, r, kinds[0]]:.1f} / {means[name, r, kinds[1]]:.1f}" for r in radii)
        print(f"{looks[name].label:20}" + "".join(f"{one:>16}" for one in cells))
    more = {"radius": settings.radius, "radii": radii, "target": settings.target, "level": level,
            "attack_steps": settings.attack_steps, "attacked": settings.attacked}  # fmt: skip
    note = (
        f"tickets of {100 * job.densities[level - 1]:.3g}% of the weights; PGD "
        f"of {settings.radius:g} towards {settings.target}; below each image the answer and its "
        "probability, in bold where it is the target"
    )
    save(job, {"figure_17": drawn(classes, found, settings.target)},
         tables={"attacked_digits": rows}, more=more, pruning=note,
         of_seed={"figure_17": runs["dense"][0].seeds[0]})  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
