"""Figures 16 and 32 of KD-LTS: tickets judged by all but their accuracy on clean images.

The trained tickets of every method are measured on the test split, by density: the error on
corrupted images relative to the dense network of the same seed (mCE), how well they tell images of
another data set (AUROC of the largest softmax), how well confidences fit (ECE, NLL), and how
faithful and stable linear explanations of their answers are (LIME). At the sparsest density the
curvature of the training loss and the accuracy under attack are measured too, for one page on which
all methods stand next to one another.

Command:  python -m experiments.kd_lts.distribution_shifts [--ood NAME] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_16 (of CIFAR-100 figure_32, of others measures): a panel for each measure;
          overview: the page; confidence: reliability and scores of unknown examples at the sparsest
          density; measures.csv, overview.csv, claims.csv; the last two in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 3.6 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon,
          after a first call of 16 minutes that made most measurements, and once the networks are
          trained, which took 2.5 hours; the paper's size is not measured.
Expected: of ResNet-20 with 40 to 80% of its weights the paper prints for KD-LTS: an mCE 3 to 4%
          better and an AUROC 1 to 2% better than of methods that prune at initialization, fidelity
          and stability 2 to 5% better than of LTH-Rewind, and confidence as of LTH-Rewind and the
          dense network, or above. The paper has no such figure of LeNet.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, pooled, prepare
from experiments.common.report import DEVIATION, grid, pair, save, seeds, shared_legend
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import KNOWN, METHODS, measured, over, sizes

PANELS = ("mce", "softmax_auroc", "ece", "nll", "fidelity", "stability", "accuracy", "gap")
AT_START = ("gem_miner", "snip", "grasp", "synflow", "random")
EARLY = "ltr_late"
DENSE = "dense"
# other images for each data set, the first that is prepared; the paper has CIFAR-100 for CIFAR-10
# and the other way round
OTHERS = {
    "mnist": ("fashion_mnist", "cifar10"),
    "cifar10": ("cifar100",),
    "cifar100": ("cifar10",),
}
# radii (L-inf, shares of the range of pixels) at which networks that were trained on clean images
# are neither always right nor always wrong
RADII = {"mnist": 0.05, "cifar10": 1 / 255, "cifar100": 1 / 255}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, and what is measured."""

    methods: tuple[str, ...] | None = None
    """Methods of the leaderboard; kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow and random
    if not given."""
    ood: str | None = None
    """Data set of unknown images, made of the size and colors of the known ones; if not given
    CIFAR-100 for CIFAR-10, CIFAR-10 for CIFAR-100, and for MNIST Fashion-MNIST, or CIFAR-10 where
    that is not prepared."""
    corrupted: int = 1_000
    """Test images that are corrupted, each in every way and severity."""
    explained: int = 200
    """Test images whose answers are explained."""
    attacked: int = 1_000
    """Test images that are attacked."""
    radius: float | None = None
    """Radius of the attack in shares of the range of pixels; 0.05 for MNIST, 1/255 for CIFAR if not
    given."""


def known(job: Job) -> str:
    """Give the name of the job's data, of which it may have a part."""
    return job.settings.data or str(job.preset.data)


def unknown(job: Job, asked: str | None) -> jt.data.Data:
    """Give the unknown images in the form of the job's data.

    Raises:
      ValueError: for data that the script knows no others for.
      MissingDataError: where none of the usual ones is prepared.
    """
    folder = job.settings.data_dir
    names = (asked,) if asked else OTHERS.get(known(job), ())
    if not names:
        raise ValueError(f"`ood` is needed: no unknown images are known for {known(job)!r}")
    found, lost = None, None
    for name in names:
        try:
            found = jt.data.load(name, data_dir=folder)
            break
        except jt.data.MissingDataError as error:
            lost = lost or error
    if found is None:
        assert lost is not None
        raise lost
    assert isinstance(found, jt.data.Data)
    assert isinstance(job.data, jt.data.Data)
    # known images were averaged over squares; what is done to the others is no sign of them
    found = found if job.size.pool == 1 else pooled(found, job.size.pool)
    return jt.data.like(found, job.data)


def measurements(job: Job, names: Sequence[str], other: jt.data.Data) -> pd.DataFrame:
    """Give all that is measured at every density, of all methods and the dense network."""
    own = job.settings
    assert isinstance(own, Settings)
    every, count = (*names, DENSE), len(job.data.test)
    corrupted = measured(job, every, jt.probes.Corruptions(), examples=min(own.corrupted, count))
    explained = jt.probes.Explanations()
    parts = [
        measured(job, every, jt.probes.Calibration(), examples=count),
        measured(job, every, jt.probes.OutOfDistribution(other), examples=count),
        measured(job, every, explained, examples=min(own.explained, count)),
        jt.mean_corruption_error(corrupted),
        over(job, every, gaps),
    ]
    return jt.results.concat(parts)


def gaps(runs: jt.Runs, levels: Sequence[int]) -> pd.DataFrame:
    """Give the generalization gaps of runs as a table of measurements."""
    table = runs.table()
    table = table.loc[table["level"].isin(list(levels)) & (table["branch"] == runs.branch)]
    found = jt.speed.generalization_gap(table)
    return found.assign(metric="gap", index=0, value=found["gap"]).drop(
        columns=["train", "test", "gap", "step"]
    )


def at_the_sparsest(job: Job, names: Sequence[str]) -> pd.DataFrame:
    """Give what is measured at the sparsest density alone: curvature and accuracy under attack."""
    own, level = job.settings, (job.size.levels,)
    assert isinstance(own, Settings)
    radius = RADII.get(known(job), 1 / 255) if own.radius is None else own.radius
    every = (*names, DENSE)
    curvature = jt.probes.Curvature(eigenvalues=1, order=30, samples=50, starts=0)
    attack = jt.probes.Attack(radius=radius, steps=20)
    examples = min(own.attacked, len(job.data.test))
    return jt.results.concat([
        measured(job, every, curvature, levels=level, split="train",
                 examples=min(500, len(job.data.train))),
        measured(job, every, attack, levels=level, examples=examples),
    ])  # fmt: skip


def over_densities(table: pd.DataFrame) -> pd.DataFrame:
    """Give each network's numbers as means over densities, and methods at initialization in one.

    Returns:
      Table of branch, seed, measure and value for `compared`.
    """
    rows = table.loc[table["metric"].isin([*PANELS, "confidence"]) & (table["index"] == 0)]
    keys = ["branch", "seed", "metric"]
    by = rows.groupby(keys, sort=False)["value"].apply(lambda x: x.mean(skipna=False)).reset_index()
    start = by.loc[by["branch"].isin(AT_START)]
    if not start.empty:
        mean = start.groupby(keys[1:], sort=False)["value"].mean().reset_index()
        by = jt.results.concat([by, mean.assign(branch="at_initialization")])
    return by.rename(columns={"metric": "measure"})


def say(claims: pd.DataFrame) -> None:
    """Print what the paper claims, and what was measured."""
    asked = (
        ("mce", "at_initialization", "3 to 4% lower than of methods at initialization"),
        ("softmax_auroc", "at_initialization", "1 to 2% higher than of methods at initialization"),
        ("fidelity", EARLY, "2 to 5% better (lower) than of LTH-Rewind"),
        ("stability", EARLY, "2 to 5% better (lower) than of LTH-Rewind"),
        ("confidence", EARLY, "as of LTH-Rewind, or above"),
        ("confidence", DENSE, "as of the dense network, or above"),
    )
    rows = {(row["measure"], row["branch"]): row for row in claims.to_dict("records")}
    print("\nKD-LTS in the paper, and here: mean over densities, +- standard deviation over seeds")
    for measure, branch, words in asked:
        if (measure, branch) not in rows:
            continue
        row = rows[measure, branch]
        share = 100 * row["difference"] / abs(row["theirs"]) if row["theirs"] else np.nan
        print(f"{measure:14} {words}")
        both = f"{row['ours']:.4g} against {row['theirs']:.4g}"
        print(f"{'':14} {both}: {in_words(row)} ({share:+.2g}%)")


def drawn(table: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw a panel for each measure, by density."""
    with jt.plots.style():
        figure, axes = grid(len(PANELS), 4, (2.9, 2.8))
        for ax, metric in zip(axes, PANELS, strict=True):
            jt.plots.measured(table, ax, metric=metric, branches=list(names), legend=False)
        shared_legend(figure, axes)
    return figure


def confidence(table: pd.DataFrame, names: Sequence[str], level: int) -> Figure:
    """Draw the reliability of some methods and the scores of unknown examples of all."""
    some = [DENSE, *(name for name in (OURS, EARLY, "snip", "random") if name in names)]
    with jt.plots.style():
        figure, (left, right) = pair(10.0, 4.4)
        # legends are placed around what is there
        left.set_title("How often confident answers are right, on test images")
        right.set_title("How well test images are told from unknown ones")
        jt.plots.reliability(table, left, branches=some, level=level)
        jt.plots.separation(table, right, branches=[DENSE, *names], level=level)
    return figure


def main(settings: Settings) -> None:
    """Measure the networks of every method, draw, and print what the paper claims."""
    names = chosen(settings.methods, METHODS, KNOWN)
    job = prepare(__file__, settings, **sizes(settings))
    other = unknown(job, settings.ood)
    with budget(job):
        table = measurements(job, names, other)
        sparse = at_the_sparsest(job, names)
    level = job.size.levels
    page = jt.overview(measures=[table, sparse], level=level)
    claims = compared(over_densities(table)) if OURS in names else pd.DataFrame()
    density = page.loc[page["method"] != DENSE, "density"].median()
    print(f"\n{job.network_name} on {job.data_name}; unknown images: {other.name}")
    print(f"{100 * density:.3g}% of the weights, mean over {seeds(job)}; the best in `best`")
    shown = [name for name in page if not name.endswith("_std") and name != "seeds"]
    with pd.option_context("display.float_format", "{:.4g}".format):
        print(page[shown].to_string(index=False))
    if not claims.empty:
        say(claims)
    preset = job.preset.name
    name = {"resnet20-cifar10-kd_lts": "figure_16", "resnet20-cifar100-kd_lts": "figure_32"}
    figures = {
        name.get(preset, "measures"): drawn(table, names),
        "overview": jt.plots.overview(page).figure,
        "confidence": confidence(table, names, level),
    }
    alone = (table["index"] == 0) & ~table["metric"].str.startswith("bin_")
    means = jt.speed.over_seeds(table.loc[alone], by=("metric",))
    tables = {"measures": means, "overview": page}
    tables |= {} if claims.empty else {"claims": claims}
    more = {"methods": names, "ood": other.name, "corrupted": settings.corrupted,
            "explained": settings.explained, "attacked": settings.attacked}  # fmt: skip
    save(
        job,
        figures,
        tables=tables,
        more=more,
        bands=DEVIATION,
        pruning="densities by level or at once",
    )


if __name__ == "__main__":
    launch(main, Settings, __doc__)
