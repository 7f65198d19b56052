"""Figures 18, 24 and 25 of KD-LTS: image regions for and against answers, and fidelity, stability.

Answers of trained networks are explained by LIME: linear models of the probability of a class by
which cells of a grid are shown, fitted to perturbed images (appendix C.3). Figure 18 has test
images of different classes that three networks (the tickets of KD-LTS and of random pruning at one
density, and the dense network) are in doubt about, the mean probability of the true answer nearest
to 1/2, with regions for that answer and for the most likely wrong one. Figures 24 and 25 have the
first test images of different classes, with regions for (green) and against (red) each answer, the
true one in a frame. All are of the first seed; each panel has its scale, and says the probability p
of the answer and the strongest weight w of a region. Fidelity and stability are of all methods and
densities; lower is better for both, and 0 of a network whose answers never change.

Command:  python -m experiments.kd_lts.explanations [--examples N] [--samples N] [--cell PIXELS]
          [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_18, figure_24, figure_25; explanations.csv: fidelity, stability and the explained
          variance of each network; claims.csv: KD-LTS against each other method; the same in the
          terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 8.1 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: the paper prints no numbers of its figures; its text says that fidelity and stability of
          KD-LTS are 2 to 5% better than those of LTH-Rewind.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from scipy.special import softmax

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import save, seeds
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import METHODS, checked_level, dense, measured, networks, sizes
from jaxticket.plots._explanations import AGAINST, FOR

SHOWN = (OURS, "dense", "random")
MEASURES = ("fidelity", "stability", "r2")
TRUE = "#E69F00"
"""Color of the frame of the true answer."""
ANSWERS = 10
"""Answers of figures 24 and 25 at most: the most likely ones."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, level and explanations."""

    methods: tuple[str, ...] | None = None
    """Methods whose fidelity and stability are measured: some of kd_lts, ltr, ltr_late, gem_miner,
    snip, grasp, synflow, random and dense; all of them if not given."""
    level: int | None = None
    """Level of the tickets in the figures, which says their density; the sparsest if not given."""
    examples: int = 200
    """Test images that fidelity and stability are means over."""
    samples: int = 1000
    """Perturbed images of each image."""
    cell: int = 4
    """Height and width of the cells of the grid in pixels."""
    images: int = 2
    """Images in each of figures 24 and 25."""
    doubtful: int = 4
    """Images in figure 18."""


Found = Mapping[str, jt.Explanation]
"""Explanations of the same images by the network's name."""


def shown_networks(job: Job, level: int) -> dict[str, tuple[jt.Runs, int]]:
    """Give the runs of the three networks of the figures, and the level of each."""
    return {
        name: (dense(job), 0) if name == "dense" else (networks(job, name), level) for name in SHOWN
    }


def doubtful(runs: Mapping[str, tuple[jt.Runs, int]], data: jt.data.Data, count: int) -> list[int]:
    """Find test images of different classes with the true answer's mean probability nearest 1/2."""
    y = data.test.y
    chances = []
    for own, level in runs.values():
        logits = jt.features(
            own, "logits", levels=(level,), seeds=own.seeds[:1], examples=None, split="test"
        ).values[0]
        chances.append(softmax(logits, axis=1)[np.arange(len(y)), y])
    order = np.argsort(np.abs(np.mean(chances, axis=0) - 0.5), kind="stable")
    return of_different_classes(y[order], order, count)


def of_different_classes(y: np.ndarray, places: np.ndarray, count: int) -> list[int]:
    """Give the first places whose classes are all different.

    >>> of_different_classes(np.array([3, 3, 1, 2]), np.array([9, 8, 7, 6]), 2)
    [9, 7]
    """
    first = np.sort(np.unique(y, return_index=True)[1])
    return [int(place) for place in places[first][:count]]


def explained(
    runs: Mapping[str, tuple[jt.Runs, int]], images: np.ndarray, lime: jt.LIME
) -> dict[str, jt.Explanation]:
    """Explain what the three networks answer to the same images, of the first seed."""
    return {
        name: jt.explain(own, images, lime=lime, levels=(level,), seeds=own.seeds[:1])
        for name, (own, level) in runs.items()
    }


def region(ax: Axes, found: jt.Explanation, image: int, answer: int, regions: str) -> None:
    """Draw the regions of an answer, with its probability and the strongest weight."""
    jt.plots.explanation(found.images[image], found.by_pixel(image, answer), ax, regions=regions)
    strongest = np.abs(found.weights[0, image, answer]).max()
    # one line of both would touch that of the next image
    words = f"p {found.answers[0, image, answer]:.2f}\nw {strongest:.2g}"
    ax.set_xlabel(words, fontsize=7, labelpad=2)


def key(figure: Figure, *, both: bool) -> None:
    """Explain colors above the panels, and the frame where `both` colors are there."""
    entries = [Patch(facecolor=FOR, label="region for the answer")]
    if both:
        entries += [
            Patch(facecolor=AGAINST, label="region against it"),
            Patch(facecolor="none", edgecolor=TRUE, linewidth=2, label="the true answer"),
        ]
    figure.legend(handles=entries, loc="outside upper center", ncols=len(entries))


def plain(ax: Axes, image: np.ndarray) -> None:
    """Draw an image without regions."""
    ax.grid(False)
    ax.imshow(image, cmap="gray", interpolation="nearest")
    ax.set(xticks=[], yticks=[])


def right_and_wrong(found: Found, y: Sequence[int]) -> Figure:
    """Draw regions for the true answer and for the most likely wrong one, a row per network."""
    looks = jt.plots.branch_styles(SHOWN)
    with jt.plots.style():
        figure, axes = pyplot.subplots(
            len(SHOWN), 3 * len(y), figsize=(1.05 * 3 * len(y), 5.0), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for row, name in enumerate(SHOWN):
            own = found[name]
            for image, true in enumerate(y):
                ax, right, wrong = axes[row, 3 * image : 3 * image + 3]
                chances = own.answers[0, image]
                other = int(np.argmax(np.where(np.arange(len(chances)) == true, -1, chances)))
                plain(ax, own.images[image])
                region(right, own, image, true, "for")
                region(wrong, own, image, other, "for")
                right.set_title(f"for {true} (true)", fontsize=8)
                wrong.set_title(f"for {other} (wrong)", fontsize=8)
            axes[row, 0].set_ylabel(looks[name].label)
        key(figure, both=False)
    return figure


def every_answer(found: Found, y: Sequence[int]) -> Figure:
    """Draw regions for and against each answer, a row per image and network."""
    looks = jt.plots.branch_styles(SHOWN)
    mean = np.mean([own.answers[0].mean(axis=0) for own in found.values()], axis=0)
    answers = sorted(np.argsort(-mean, kind="stable")[:ANSWERS].tolist())
    with jt.plots.style():
        figure, axes = pyplot.subplots(
            len(y) * len(SHOWN), 1 + len(answers), layout="constrained", squeeze=False,
            figsize=(1.0 * (1 + len(answers)), 1.35 * len(y) * len(SHOWN) + 0.3),
        )  # fmt: skip
        for image, true in enumerate(y):
            for row, name in enumerate(SHOWN, start=image * len(SHOWN)):
                own = found[name]
                plain(axes[row, 0], own.images[image])
                axes[row, 0].set_ylabel(looks[name].label, fontsize=8)
                for ax, answer in zip(axes[row, 1:], answers, strict=True):
                    region(ax, own, image, answer, "both")
                    if answer == true:
                        ax.spines[:].set(visible=True, linewidth=2, color=TRUE)
        for ax, answer in zip(axes[0, 1:], answers, strict=True):
            ax.set_title(f"answer {answer}", fontsize=8)
        key(figure, both=True)
    return figure


def say(job: Job, table: pd.DataFrame, claims: pd.DataFrame, names: Sequence[str]) -> None:
    """Print fidelity and stability by method and density, and KD-LTS against the others."""
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name}, mean over {seeds(job)}")
    print("fidelity and stability: lower is better; r2: share of the variance that is explained")
    print(f"{'':30}{'density':>9}" + "".join(f"{measure:>12}" for measure in MEASURES))
    for name in names:
        rows = table.loc[table["branch"] == name]
        for _, own in rows.groupby("level", sort=True):
            means = own.groupby("measure")["value"].mean()
            cells = "".join(f"{means[measure]:12.4g}" for measure in MEASURES)
            print(f"{looks[name].label:30}{100 * own['density'].mean():8.3g}%{cells}")
    for row in claims.to_dict("records"):
        if row["measure"] != "r2":
            percent = 100 * np.divide(row["difference"], row["theirs"])
            print(
                f"{row['measure']} at level {row['level']}, {looks[OURS].label} against "
                f"{looks[str(row['branch'])].label}: {in_words(row)} ({percent:+.1f}%)"
            )


def main(settings: Settings) -> None:
    """Explain answers of trained networks, and measure how good the explanations are."""
    names = chosen(settings.methods, (*METHODS, "dense"))
    job = prepare(__file__, settings, **sizes(settings))
    data, level = job.data, checked_level(job, settings.level)
    if not isinstance(data, jt.data.Data):
        raise ValueError(f"`preset` {job.preset.name!r} streams its images; use data in memory")
    if not 1 <= settings.images <= data.classes // 2:
        raise ValueError(
            f"`images` must be from 1 to {data.classes // 2}, half of the classes, got "
            f"{settings.images}"
        )
    if settings.doubtful < 1:
        raise ValueError(f"`doubtful` must be at least 1, got {settings.doubtful}")
    lime = jt.LIME(segments=settings.cell, samples=settings.samples)
    probe = jt.probes.Explanations(segments=settings.cell, samples=settings.samples)
    with budget(job):
        runs = shown_networks(job, level)
        doubt = doubtful(runs, data, settings.doubtful)
        first = of_different_classes(data.test.y, np.arange(len(data.test)), 2 * settings.images)
        places = {"figure_18": doubt, "figure_24": first[: settings.images],
                  "figure_25": first[settings.images :]}  # fmt: skip
        figures = {}
        for name, own in places.items():
            found = explained(runs, data.test.x[own], lime)
            draw = right_and_wrong if name == "figure_18" else every_answer
            figures[name] = draw(found, data.test.y[own].tolist())
        table = measured(job, names, probe, examples=settings.examples)
    table = table.rename(columns={"metric": "measure"})
    tickets = table.loc[table["branch"] != "dense"]
    claims = compared(tickets, keys=("level",)) if OURS in names else pd.DataFrame()
    say(job, table, claims, names)
    more = {"methods": names, "level": level, "images": places, **dataclasses.asdict(probe)}
    note = (
        f"tickets of {100 * job.densities[level - 1]:.3g}% of the weights; p: "
        "probability of the answer, w: strongest weight of a region, which has the full color"
    )
    tables = {"explanations": table} | ({} if claims.empty else {"claims": claims})
    shown = dict.fromkeys(figures, next(iter(runs.values()))[0].seeds[0])
    save(job, figures, tables=tables, more=more, pruning=note, of_seed=shown)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
