"""Figures 19 and 26 of KD-LTS: what the last hidden layer gives, by class.

Trained networks are shown the same test examples: tickets of KD-LTS, random pruning at the same
density, and the dense network. Their penultimate activations are projected to two dimensions by
t-SNE (Figure 19) and PCA (Figure 26). How tight classes are is told by numbers: the silhouette of
the classes in the activations and in their t-SNE, the share of their variance that lies within
classes, the accuracy of a linear probe, and that of the network itself; how alike two methods are
by linear CKA.

Command:  python -m experiments.kd_lts.activations [--methods NAME ...] [--examples N]
          [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_19, figure_26: the projections of the first seed; clusters: the numbers of all
          seeds, and CKA; activations.csv, similarity.csv, compared.csv; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 7.2 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: no numbers are printed. Of VGG-16 on CIFAR-10 "well-defined, tight clusters" with KD-LTS,
          "more scattered and less discernible" ones with the dense network and random pruning.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from sklearn.metrics import silhouette_score

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import save, seeds
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import METHODS, checked_level, dense, measured, networks, sizes

SHOWN = (OURS, "random", "dense")
MEASURES = {
    "accuracy": "test accuracy",
    "silhouette": "silhouette",
    "silhouette_tsne": "silhouette of t-SNE",
    "within_share": "variance within classes",
    "linear_probe": "linear probe",
}
"""By name: in words."""
IN_PERCENT = {
    "accuracy": "Test accuracy (%)",
    "within_share": "Variance within classes (%)",
    "linear_probe": "Accuracy of a linear probe (%)",
}
"""Shares, by name: as figures call them."""
PROJECTIONS = {"tsne": "t-SNE", "pca": "PCA"}
"""By name: as figures call them."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, the level and examples."""

    methods: tuple[str, ...] | None = None
    """Some of kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow, random and dense; kd_lts,
    random and dense if not given."""
    level: int | None = None
    """Level of the tickets, which says their density; the sparsest if not given."""
    examples: int = 1_000
    """Test examples that are shown, evenly spread."""
    perplexity: float = 30.0
    """Of t-SNE: about how many neighbors are kept together."""


def together(found: Mapping[str, jt.Features]) -> jt.Features:
    """Join what a layer gives in the networks of several methods, which are the branches then."""
    first = next(iter(found.values()))
    places = tuple(
        (seed, level, name) for name, own in found.items() for seed, level, _ in own.networks
    )
    values = np.concatenate([own.values for own in found.values()])
    return jt.Features(values, places, first.labels, first.tap)


def within_share(x: np.ndarray, labels: np.ndarray) -> float:
    """Compute the share of the variance that lies within classes, in [0, 1].

    The squared distances of examples x [example, unit] to the mean of their class, over those to
    the mean of all; nan where all are equal.

    >>> within_share(np.array([[0.0], [1.0], [3.0], [4.0]]), np.array([0, 0, 1, 1]))
    0.1
    """
    own = np.unique(labels, return_inverse=True)[1]
    means = np.stack([x[own == number].mean(axis=0) for number in range(own.max() + 1)])
    inside, whole = (((x - at) ** 2).sum() for at in (means[own], x.mean(axis=0)))
    return float(inside / whole) if whole > 0 else float("nan")


def tightness(found: jt.Features, flat: pd.DataFrame) -> pd.DataFrame:
    """Compute how tight the classes of each network are.

    Args:
      found: the activations of several networks.
      flat: their t-SNE.

    Returns:
      One row per number: seed, branch, measure, value; nan for networks that diverged.

    Reference: Rousseeuw (1987) for the silhouette, which is scikit-learn's.
    """
    rows = []
    for (seed, _, branch), x in zip(found.networks, found.values, strict=True):
        values = dict.fromkeys(("silhouette", "silhouette_tsne", "within_share"), float("nan"))
        if np.isfinite(x).all():
            own = flat.loc[(flat["seed"] == seed) & (flat["branch"] == branch), ["x", "y"]]
            values["silhouette"] = float(silhouette_score(x, found.labels))
            values["silhouette_tsne"] = float(silhouette_score(own.to_numpy(), found.labels))
            values["within_share"] = within_share(x.astype(np.float64), found.labels)
        rows += [
            {"seed": seed, "branch": branch, "measure": name, "value": value}
            for name, value in values.items()
        ]
    return jt.results.frame(rows)


def read_linearly(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of the linear probe as `tightness` gives its own."""
    own = table.loc[table["metric"] == "linear_probe", ["seed", "branch", "value"]]
    return own.assign(measure="linear_probe")


def accuracies(runs: jt.Runs, level: int) -> pd.DataFrame:
    """Give the test accuracies of a level at the end of training, without the branch."""
    last = jt.speed.final(runs.table())
    own = last.loc[(last["branch"] == "ticket") & (last["level"] == level), ["seed", "value"]]
    return own.assign(measure="accuracy")


def scattered(
    flat: pd.DataFrame, rows: pd.DataFrame, names: Sequence[str], projection: str
) -> Figure:
    """Draw the projections of the first seed, a panel for each method.

    Args:
      flat: activations in two dimensions.
      rows: of `tightness`.
      names: of methods.
      projection: how activations were projected, one of PROJECTIONS.
    """
    looks, seed = jt.plots.branch_styles(names), flat["seed"].iloc[0]
    at = rows.loc[(rows["measure"] == "silhouette") & (rows["seed"] == seed)]
    silhouettes = at.set_index("branch")["value"]
    with jt.plots.style():
        figure, axes = pyplot.subplots(
            1, len(names), figsize=(3.1 * len(names) + 0.7, 3.6), layout="constrained",
            squeeze=False,
        )  # fmt: skip
        for i, (name, ax) in enumerate(zip(names, axes.flat, strict=True)):
            last = i == len(names) - 1
            jt.plots.features(flat, ax, branch=name, seed=seed, legend=last)
            ax.set_title(f"{looks[name].label} (silhouette {silhouettes[name]:.2f})")
            words = PROJECTIONS[projection]
            ax.set(xlabel=f"First dimension of {words}", ylabel="")
            if not i:
                ax.set_ylabel(f"Second dimension of {words}")
        # the number says how tight classes are in the layer, whatever the projection keeps of it
        figure.suptitle(
            f"Activations of the last hidden layer and their silhouette before projection, "
            f"networks of seed {seed}", size=9,
        )  # fmt: skip
    return figure


def numbers(rows: pd.DataFrame, alike: pd.DataFrame, names: Sequence[str]) -> Figure:
    """Draw the numbers of all seeds, and CKA between the methods."""
    looks = jt.plots.branch_styles(names)
    labels = [looks[name].label for name in names]
    with jt.plots.style():
        count = len(MEASURES)
        figure, axes = pyplot.subplots(
            1, count + 1, figsize=(1.9 * count + 3.6, 3.5), layout="constrained",
            width_ratios=[*([1] * count), 1.9],
        )  # fmt: skip
        for ax, (measure, words) in zip(axes[:-1], MEASURES.items(), strict=True):
            factor = 100 if measure in IN_PERCENT else 1
            for i, name in enumerate(names):
                own = rows.loc[(rows["measure"] == measure) & (rows["branch"] == name), "value"]
                color = looks[name].color
                ax.plot(np.full(len(own), i), factor * own, ".", color=color)
                ax.plot([i - 0.25, i + 0.25], [factor * own.mean()] * 2, color=color)
            ax.set_xticks(range(len(names)), labels, rotation=30, ha="right")
            label = IN_PERCENT.get(measure, words[0].upper() + words[1:])
            ax.set(ylabel=label, xlim=(-0.6, len(names) - 0.4))
        jt.plots.similarity(alike, axes[-1])
        axes[-1].set_xticks(range(len(names)), labels, rotation=30, ha="right")
        axes[-1].set_yticks(range(len(names)), labels)
        axes[-1].set_title("Linear CKA")
        entries = [
            Line2D([], [], color="0.3", marker=".", linestyle="none", label="one seed"),
            Line2D([], [], color="0.3", label="mean over seeds"),
        ]
        figure.legend(handles=entries, loc="outside upper center", ncols=2)
    return figure


def say(job: Job, rows: pd.DataFrame, verdicts: pd.DataFrame, names: Sequence[str]) -> None:
    """Print the numbers by method, and how KD-LTS differs from the others."""
    looks = jt.plots.branch_styles(names)
    by = rows.groupby(["branch", "measure"])["value"].agg(["mean", "std"])
    print(f"\n{job.network_name} on {job.data_name}: activations of the last hidden layer")
    print(f"mean +- standard deviation over {seeds(job)}")
    print(f"{'':30}" + "".join(f"{words:>26}" for words in MEASURES.values()))
    for name in names:
        cells = (by.loc[(name, measure)] for measure in MEASURES)
        text = "".join(f"{cell['mean']:17.3f} +- {cell['std']:5.3f}" for cell in cells)
        print(f"{looks[name].label:30}{text}")
    for _, row in verdicts.iterrows():
        measure, branch = str(row["measure"]), str(row["branch"])
        words = f"{MEASURES[measure]}, against {looks[branch].label}"
        print(f"{looks[OURS].label}: {words}: {in_words(row)}")


def main(settings: Settings) -> None:
    """Train networks of every method, look at their last hidden layer, and draw."""
    names = chosen(settings.methods, SHOWN, (*METHODS, "dense"))
    job = prepare(__file__, settings, **sizes(settings))
    level = checked_level(job, settings.level)
    with budget(job):
        found, right = {}, []
        for name in names:
            runs, own = (dense(job), 0) if name == "dense" else (networks(job, name), level)
            found[name] = jt.features(runs, levels=(own,), examples=settings.examples)
            right.append(accuracies(runs, own).assign(branch=name))
        probe = jt.probes.LinearProbe()
        read = measured(job, names, probe, levels=(level,), examples=settings.examples)
    seen = together(found)
    flat = {
        "tsne": seen.projected("tsne", perplexity=settings.perplexity),
        "pca": seen.projected("pca"),
    }
    rows = jt.results.concat([*right, tightness(seen, flat["tsne"]), read_linearly(read)])
    alike = seen.similarity()
    verdicts = compared(rows) if OURS in names else pd.DataFrame()
    say(job, rows, verdicts, names)
    figures = {
        figure: scattered(flat[name], rows, names, name)
        for figure, name in (("figure_19", "tsne"), ("figure_26", "pca"))
    }
    figures["clusters"] = numbers(rows, alike, names)
    tables = {"activations": rows, "similarity": alike}
    tables |= {} if verdicts.empty else {"compared": verdicts}
    more = {"methods": names, "level": level, "examples": settings.examples,
            "perplexity": settings.perplexity}  # fmt: skip
    density = f"tickets of {100 * job.densities[level - 1]:.3g}% of the weights"
    seed = int(flat["tsne"]["seed"].iloc[0])
    shown = {name: seed for name in figures if name != "clusters"}
    save(job, figures, tables=tables, more=more, bands=None, pruning=density, of_seed=shown)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
