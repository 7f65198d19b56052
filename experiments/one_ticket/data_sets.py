"""Figures 2, 3 and 4 of "One ticket to win them all": tickets of one data set on another.

Tickets are found on every data set and trained on each of the others, with a new output layer,
compared with the target's own tickets (whose output layer is new too) and random ones: new weights
and a mask permuted over all layers. Halves of a data set are called cifar10a and cifar10b (Figure
2).

Command:  python -m experiments.one_ticket.data_sets [--network vgg19] [--among NAME ...]
          [--size reduced|paper] [--budget MINUTES]; ResNet-50 and streamed data (imagenet,
          places365) at paper size alone: --network resnet50 --size paper
Makes:    figure_3 (figure_2 where all are halves, figure_4 of ResNet-50): accuracy by density, a
          panel for each target; matrix (accuracy relative to the target's own tickets),
          matrix.csv; accuracies in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 5 levels pruning 55%, 600 steps, 10% of the examples; reduced
          3 seeds, 10 levels pruning 36%, 6,000 steps; paper 6 seeds, 30 levels pruning 20%, 24,000
          steps.
Cost:     at the reduced size 13 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: tickets of large data sets with many classes (ImageNet, Places365, CIFAR-100) come close
          to the target's own everywhere, those of small ones less so; all beat random tickets at
          low densities; those of one half of CIFAR-10 are as good as the other half's own. The
          paper prints no numbers.
"""

from __future__ import annotations

import dataclasses
import re

import jaxticket as jt
from experiments.common.job import DATA, Job, budget, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.report import DEVIATION, renamed, save
from experiments.common.transfer import Moved, by_density, heat_map, pairs, say, tickets

USUAL = {
    "lenet": ("mnista", "mnistb"),
    "vgg19": ("mnist", "cifar10a", "cifar10b"),
}
# those that fit into memory; ResNet-50 has another stem on the small images of Fashion-MNIST
PAPER = {
    "lenet": ("mnist", "fashion_mnist"),
    "vgg19": ("svhn", "fashion_mnist", "cifar10", "cifar100"),
    "resnet50": ("svhn", "cifar10", "cifar100"),
}
STREAMED = {"imagenet", "places365"}
NAMES = {
    **DATA,
    "fashion_mnist": "Fashion-MNIST",
    "imagenet": "ImageNet",
    "places365": "Places365",
}
QUICK = {"seeds": 2, "levels": 2, "fraction": 0.74, "steps": 200, "eval_every": 200,
         "test_examples": 2_000, "eval_train_examples": 500}  # fmt: skip
LENET = {"seeds": 3, "levels": 5, "fraction": 0.55, "steps": 600, "eval_every": 600,
         "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all but `preset`, and which network and data sets."""

    network: str = "lenet"
    """vgg19, resnet50 or lenet."""
    among: tuple[str, ...] | None = None
    """Data sets, such as cifar10, and halves, such as cifar10a; sources and targets both. At paper
    size those of the paper that fit into memory if not given; else a few that are quick."""


def preset_for(network: str, data: str) -> tuple[str, str | None]:
    """Give the preset of a network and data, and the data where they are not the preset's."""
    if network == "lenet":
        return "lenet-mnist", None if data == "mnist" else data
    name = f"{network}-{data}-one_ticket"
    # MNIST, which the paper has not, is trained as Fashion-MNIST is
    return (name, None) if name in jt.PRESETS else (f"{network}-fashion_mnist-one_ticket", data)


def data_of(name: str) -> str:
    """Give the data set that a name of `among` is, or is half of."""
    half = re.fullmatch(r"(\w+?)([ab])", name)
    return half[1] if half and name not in jt.DATASETS else name


def label(name: str) -> str:
    """Write a name of `among` for figures.

    >>> label("mnista"), label("cifar100")
    ('MNIST, half A', 'CIFAR-100')
    """
    data = data_of(name)
    words = NAMES.get(data, data.replace("_", " "))
    return words if data == name else f"{words}, half {name[-1].upper()}"


def readable(moved: Moved) -> Moved:
    """Give the tables with the names of figures."""
    names = {name: label(name) for name in moved.tables}
    lines = {f"from {name}": f"from {words}" for name, words in names.items()}
    tables = {names[name]: renamed(table, lines) for name, table in moved.tables.items()}
    return Moved(moved.matrix.replace({"source": names, "target": names}), tables)


def job_of(settings: Settings, name: str) -> Job:
    """Give the job of a data set, or of half of one.

    Raises:
      ValueError: for data that have no halves.
    """
    data = data_of(name)
    preset, other = preset_for(settings.network, data)
    own = dataclasses.replace(settings, preset=preset, data=settings.data or other)
    # gray images are too small to be pooled
    pool = {"pool": 2 if data.startswith("cifar") else 1}
    job = prepare(
        __file__, own, quick={**QUICK, **pool}, lenet=LENET, reduced=pool,
        paper={"levels": 30, "seeds": 6},
    )  # fmt: skip
    if settings.folder is not None:
        job = dataclasses.replace(job, folder=settings.folder / name)
    if data == name:
        return job
    if not isinstance(job.data, jt.data.Data):
        raise ValueError(f"`among` {name!r}: data that are streamed have no halves")
    part = dataclasses.replace(job, data=job.data.halves()["ab".index(name[-1])])
    if settings.size == "paper" and settings.steps is None:
        # as many epochs
        part = dataclasses.replace(
            part, size=dataclasses.replace(job.size, steps=job.size.steps // 2)
        )
    if settings.folder is not None:
        return part
    own = jt.results.run_name(f"{job.name}-{job.preset.name}-{name}", part.about)
    return dataclasses.replace(part, folder=job.folder.with_name(own))


def main(settings: Settings) -> None:
    """Find tickets on every data set, train them on the others, draw and print."""
    if settings.preset != Settings.preset or settings.network not in PAPER:
        raise ValueError(
            f"`network` must be one of {', '.join(PAPER)}, got {settings.network!r}, and says with "
            f"`among` which presets there are: leave out `preset`"
        )
    if settings.size != "paper" and settings.network not in USUAL:
        raise ValueError(
            f"`size` {settings.size!r} is not there for `network` {settings.network!r}; use --size "
            f"paper"
        )
    usual = (PAPER if settings.size == "paper" else USUAL)[settings.network]
    names = usual if settings.among is None else settings.among
    bases = {data_of(name) for name in names}
    if settings.data is not None and (len(bases) > 1 or bases & set(names)):
        raise ValueError(
            f"`data` {settings.data!r} would take the place of every name of `among`, {names}; "
            f"leave it out, or ask for two halves of it, such as --among mnista mnistb"
        )
    for name in sorted(STREAMED & set(names)):
        if settings.network == "lenet":
            raise ValueError(f"`among` {name!r} is for vgg19 and resnet50, not for `network` lenet")
        if settings.size != "paper":
            raise ValueError(
                f"`among` {name!r} is streamed and comes whole, which is no {settings.size} size; "
                f"use --size paper"
            )
    if len(set(names)) < max(2, len(names)):
        raise ValueError(f"`among` must be at least two different data sets, got {names}")
    jobs = {name: job_of(settings, name) for name in names}
    main_job = jobs[names[-1]]
    with budget(main_job):
        # the seconds of all calls are counted in the folder that is made first
        found = {name: tickets(jobs[name]) for name in reversed(names)}
        moved = pairs(jobs, found, names)
    print(f"\n{main_job.network_name}, tickets found on {', '.join(names)}")
    say(main_job, moved)
    halves = all(name not in jt.DATASETS for name in names)
    usual_figure = "figure_4" if settings.network == "resnet50" else "figure_3"
    shown = readable(moved)
    data = {label(name): data_of(name) for name in names}
    figures = {
        "figure_2" if halves else usual_figure: by_density(shown, data.__getitem__),
        "matrix": heat_map(shown),
    }
    save(main_job, figures, tables={"matrix": moved.matrix}, bands=DEVIATION,
         more={"network": settings.network, "among": names})  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
