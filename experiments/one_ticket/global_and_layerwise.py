"""Figure 1 of "One ticket to win them all": global against layerwise pruning.

(a) Final accuracy by density of tickets whose weights were ranked over all layers together, of
tickets pruned by the same share in every layer, and of random tickets (the global mask permuted
over all layers, new weights). (b) What global pruning does to each convolution: the share of its
weights that is pruned, divided by the share pruned overall, which is layerwise pruning's in every
layer. `--preset` takes another network or data set than the paper's VGG-19 on CIFAR-10.

Command:  python -m experiments.one_ticket.global_and_layerwise [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_1, layers.csv (density of each layer, level and seed), final.csv; both panels'
          numbers in the terminal.
Sizes:    vgg19-cifar10-one_ticket: quick 2 seeds, 2 levels pruning 74%, 160 steps of batch 64, 20%
          of the examples, width 0.125; reduced 3 seeds, 4 levels pruning 36%, 2,344 steps of batch
          128, width 0.25, images pooled by 2; paper 6 seeds, 30 levels pruning 20%, 15,680 steps.
Cost:     not measured at either size.
Expected: global above layerwise pruning, most at low densities, both far above random tickets. The
          first convolution is pruned far less than the others, deep ones a little more than the
          average. The paper prints no numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TypeVar

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

import jaxticket as jt
from experiments.common.job import Settings as Common
from experiments.common.job import budget, launch, prepare
from experiments.common.report import DEVIATION, pair, renamed, report, save
from jaxticket.plots._style import percent

T = TypeVar("T")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, with another preset."""

    preset: str = "vgg19-cifar10-one_ticket"
    """Network, data and training: a name that `python -m jaxticket presets` lists."""


def layers(runs: jt.Runs) -> pd.DataFrame:
    """Compute each layer's density, and its pruned share relative to that of all layers.

    ratio = (1 - density of the layer) / (1 - density of all), nan for the dense network.
    """
    rows = []
    for level, overall in zip(runs.levels, runs.densities, strict=True):
        for seed in runs.seeds:
            ticket = runs.ticket(level, seed)
            found = jt.masks.layer_density(ticket.mask)
            for place, (path, density) in enumerate(by_depth(found)):
                ratio = (1 - float(density)) / (1 - overall) if level else np.nan
                rows.append(
                    {
                        "seed": seed,
                        "level": level,
                        "overall": overall,
                        "layer": path.removesuffix("/kernel"),
                        "place": place,
                        "density": float(density),
                        "ratio": ratio,
                    }
                )
    return jt.results.frame(rows)


def by_depth(found: Mapping[str, T]) -> list[tuple[str, T]]:
    """Sort layers in the order of the network, by numbers in names; the output layer is last."""

    def place(path: str) -> tuple[bool, list[tuple[int, str]]]:
        words = path.replace("/", "_").split("_")
        parts = [(int(word), "") if word.isdigit() else (-1, word) for word in words]
        return path.startswith("dense"), parts

    return sorted(found.items(), key=lambda item: place(item[0]))


def ratios(table: pd.DataFrame, ax: Axes) -> None:
    """Draw a line per level over the layers, darker at lower densities."""
    pruned = table.loc[table["level"] > 0]
    levels = sorted(pruned["level"].unique())
    shades = matplotlib.colormaps["Blues"](np.linspace(0.35, 1.0, len(levels)))
    # a legend of thirty levels tells less than one of six
    named = {levels[i] for i in np.linspace(0, len(levels) - 1, min(6, len(levels))).astype(int)}
    for level, shade in zip(levels, shades, strict=True):
        means = pruned.loc[pruned["level"] == level].groupby("place").mean(numeric_only=True)
        label = f"{percent(means['overall'].iloc[0])}%" if level in named else f"_{level}"
        ax.plot(1 + means.index, means["ratio"], color=shade, marker=".", label=label)
    ax.axhline(1, color="0.45", linewidth=0.8, zorder=1)
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ax.set(xlabel="Layer", ylabel="Pruned share, global / layerwise", ylim=(0, None))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(title="Density", alignment="left", loc="lower right")


def main(settings: Settings) -> None:
    """Prune globally and layer by layer and draw accuracies and the layers' pruned shares."""
    job = prepare(__file__, settings, lenet={"levels": 7, "fraction": 0.488})
    with budget(job):
        runs = job.find_tickets(branches=("globally_permuted",), scope="global", rewind=job.late)
        layerwise = job.find_tickets(sub="layerwise", scope="layer", rewind=job.late)
    parts = [runs.table(), renamed(layerwise.table(), {"ticket": "layerwise_pruning"})]
    table = renamed(jt.results.concat(parts))
    report(job, table)
    shares = layers(runs)
    wide = shares.pivot_table(index=["place", "layer"], columns="level", values="ratio")
    print("\npruned share of each layer / pruned share of all, by level (means over seeds)")
    print(wide.round(2).to_string())
    with jt.plots.style():
        figure, axes = pair()
        jt.plots.accuracy(table, axes[0], band="std")
        ratios(shares, axes[1])
    save(job, {"figure_1": figure}, table, tables={"layers": shares}, bands=DEVIATION)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
