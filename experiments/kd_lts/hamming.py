"""Figure 4 of KD-LTS: how its mask changes by epoch, with and without batch-normalized scores.

The share of prunable weights that the masks after two consecutive epochs of a search do not have in
common. Two random masks of density d, independent of each other, differ in 2 d (1 - d).

Command:  python -m experiments.kd_lts.hamming [--at-density SHARE] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_4, hamming.csv; the distances of some epochs in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 1 level pruning 80%, 18,760 steps; reduced 3 seeds, 1
          level pruning 80%, 6,000 steps; paper 3 seeds, 1 level pruning 80%, 18,760 steps.
Cost:     not measured at any size.
Expected: not printed. Distances fall as the mask settles, with a jump at every freezing that
          reaches what the scores would keep: it goes by `|sigmoid(beta s) w|`, the mask by s. The
          paper normalizes scores so that masks go on changing for longer.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import kd_lts
from experiments.common.report import save, seeds, single
from experiments.kd_lts._common import LENET, QUICK, dense, paper
from experiments.kd_lts._common import Settings as Common

METHODS = {"kd_lts": False, "kd_lts_normalized": True}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, which searches, and the density."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS; both if not given."""
    at_density: float = 0.2
    """Density that the searches end at."""


def watched(job: Job, name: str, epochs: int) -> pd.DataFrame:
    """Measure the distances of masks in a search: branch, seed, epoch, hamming."""
    method = kd_lts(job, normalized=METHODS[name])
    runs = job.search(method, sub=name, dense=False, train=False, watch_masks=epochs)
    trace = runs.trace()
    trace = trace.assign(branch=name, epoch=trace["step"] / trace["step"].max() * epochs)
    # the first look has no mask before it
    return trace.dropna(subset="hamming").loc[:, ["branch", "seed", "density", "epoch", "hamming"]]


def drawn(rows: pd.DataFrame, density: float) -> Figure:
    """Draw the distance by epoch, a line for each search."""
    with jt.plots.style():
        figure, ax = single(5.6, 4.0)
        for name, look in jt.plots.branch_styles(rows["branch"].unique()).items():
            by = rows.loc[rows["branch"] == name].groupby("epoch")["hamming"]
            mean = 100 * by.mean()
            ax.plot(mean.index, mean, color=look.color, linestyle=look.line, label=look.label)
            ax.fill_between(
                mean.index, 100 * by.min(), 100 * by.max(), color=look.color, alpha=0.15,
                linewidth=0,
            )  # fmt: skip
        alone = 200 * density * (1 - density)
        ax.axhline(alone, color="0.5", linestyle=":", linewidth=1, label="independent masks")
        ax.set(xlabel="Epoch of the search", ylabel="Mask entries that changed (%)", ylim=(0, None))
        ax.legend()
    return figure


def main(settings: Settings) -> None:
    """Watch the masks of both searches, draw and print."""
    names = chosen(settings.methods, METHODS)
    one = {"levels": 1, "fraction": 1 - settings.at_density}
    job = prepare(
        __file__, settings, quick={**QUICK, **one}, lenet={**LENET, **one, "eval_every": 18_760},
        reduced=one, paper=paper(settings, **one),
    )  # fmt: skip
    epochs = job.preset.settings.get("epochs", 40)
    with budget(job):
        dense(job)
        rows = jt.results.concat(watched(job, name, epochs) for name in names)
    means = rows.pivot_table(index="epoch", columns="branch", values="hamming")[list(names)]
    shown = means.iloc[np.unique(np.linspace(0, len(means) - 1, 9).round().astype(int))]
    print(f"\n{job.network_name} on {job.data_name}, {100 * job.densities[-1]:.3g}% of the weights")
    print(f"mask entries that changed within an epoch in %, mean over {seeds(job)}\n")
    looks = jt.plots.branch_styles(names)
    print(f"{'epoch':>8}" + "".join(f"{looks[name].label:>28}" for name in names))
    for epoch, row in shown.iterrows():
        print(f"{epoch:8.1f}" + "".join(f"{100 * row[name]:28.3f}" for name in names))
    more = {"methods": names, "at_density": settings.at_density}
    figures = {"figure_4": drawn(rows, job.densities[-1])}
    save(job, figures, tables={"hamming": rows}, more=more, pruning="one density")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
