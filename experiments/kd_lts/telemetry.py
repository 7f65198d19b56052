"""Figures 7 and 29 of KD-LTS: the weights of tickets over the first six epochs of their training.

Tickets of one density: those of KD-LTS and SNIP from initialization, and of iterative magnitude
pruning rewound to epoch 3 (LTH-Rewind). Each is trained again from its start, which of LTH-Rewind
is epoch 3, and its surviving weights are measured: their mean magnitude, the share whose sign is
not that at the start, the distance and the cosine similarity to the start, and the norm of the
gradient of each batch. How far two methods are apart in a measure is the mean distance of their
curves over their mean height, of networks of the same seed; of the cosine similarity c, of 1 - c.

Command:  python -m experiments.kd_lts.telemetry [--every N] [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_29 (of ResNet-20 figure_7); telemetry.csv: means and spread at some steps;
          distances.csv: how far methods are apart; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 2.9 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: no numbers are printed. Tickets of KD-LTS from initialization behave like those of
          LTH-Rewind ("analogous training behavior"), and unlike those of SNIP.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import grid, groups, save, seeds, shared_legend
from experiments.kd_lts._claims import OURS, clear
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._common import third_epoch
from experiments.kd_lts._networks import METHODS, checked_level, over, sizes

SHOWN = ("kd_lts", "snip", "ltr_late")
EPOCHS = 6
# in the order of the paper
MEASURES = ("magnitude", "sign_flips", "gradient_norm", "l2", "cosine")
BETWEEN_SEEDS = "another seed"


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, the level and the interval."""

    methods: tuple[str, ...] | None = None
    """Some of kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow, random and dense; kd_lts,
    snip and ltr_late if not given."""
    level: int | None = None
    """Level of the tickets, which says their density; the sparsest if not given."""
    every: int = 10
    """Steps between measurements."""


def first_epochs(job: Job) -> int:
    """Give the steps of six epochs, or those that are left after epoch 3 where these are fewer."""
    epoch = math.ceil(len(job.data.train) / job.training.batch_size)
    return min(EPOCHS * epoch, job.size.steps - third_epoch(job))


def from_the_start(table: pd.DataFrame) -> pd.DataFrame:
    """Count steps from the first of each method: LTH-Rewind starts at epoch 3."""
    return table.assign(step=table["step"] - table.groupby("branch")["step"].transform("min"))


def distances(table: pd.DataFrame, ours: str = OURS) -> pd.DataFrame:
    """Compute how far the curves of a method are from those of the others, and between its seeds.

    For curves a and b of networks of the same seed, d = 2 mean |a - b| / mean (|a| + |b|) over the
    steps, of the cosine similarity with 1 - a and 1 - b.

    Args:
      table: of `jt.telemetry`, with steps from the start of each.
      ours: the branch to compare.

    Returns:
      One row per measure, other branch and seed: metric, branch, seed, value. The branch
      "another seed" compares the method with itself, each seed with the next.
    """
    rows = []
    for metric, part in table.groupby("metric", sort=False):
        curves: dict[str, dict[int, pd.DataFrame]] = {}
        for (branch, seed), one in groups(part, "branch", "seed"):
            curves.setdefault(branch, {})[seed] = one
        own = curves.pop(ours)
        steps = np.unique(part.loc[part["branch"] == ours, "step"])
        known = list(own)
        pairs = [
            (branch, seed, theirs) for branch, by in curves.items() for seed, theirs in by.items()
        ]
        if len(known) > 1:
            following = zip(known, [*known[1:], known[0]], strict=True)
            pairs += [(BETWEEN_SEEDS, seed, own[other]) for seed, other in following]
        for branch, seed, theirs in pairs:
            a, b = (_curve(one, steps, far=metric == "cosine") for one in (own[seed], theirs))
            height = (np.abs(a) + np.abs(b)).mean()
            # of signs none may have changed in either
            value = 2 * np.abs(a - b).mean() / height if height != 0 else 0.0
            rows.append({"metric": metric, "branch": branch, "seed": seed, "value": value})
    return jt.results.frame(rows)


def _curve(rows: pd.DataFrame, steps: np.ndarray, *, far: bool) -> np.ndarray:
    """Interpolate a curve to steps: measurements are at multiples of the interval of a training."""
    rows = rows.sort_values("step")
    value = np.interp(steps, rows["step"].to_numpy(float), rows["value"].to_numpy(float))
    return 1 - value if far else value


def nearer(found: pd.DataFrame, one: str, other: str) -> pd.DataFrame:
    """Judge which of two methods the compared one is nearer to, by measure.

    Args:
      found: what `distances` gave.
      one: a branch.
      other: another.

    Returns:
      One row per metric: gap (distance to `one` minus that to `other`, mean over seeds), std, and
      nearer: the branch, or "neither" where the gap is not clear (`clear`).
    """
    rows = []
    for metric, part in found.groupby("metric", sort=False):
        by = part.pivot_table(index="seed", columns="branch", values="value", dropna=False)
        gaps = (by[one] - by[other]).to_numpy(float)
        side = one if gaps.mean() < 0 else other
        rows.append({
            "metric": metric, "gap": gaps.mean(),
            "std": gaps.std(ddof=1) if len(gaps) > 1 else np.nan,
            "nearer": side if clear(gaps) else "neither",
        })  # fmt: skip
    return jt.results.frame(rows)


def at_some_steps(table: pd.DataFrame, count: int = 7) -> pd.DataFrame:
    """Give mean, least and greatest over seeds at some steps, by branch and metric."""
    parts = []
    for _, own in table.groupby("branch", sort=False):
        steps = np.unique(own["step"])
        some = steps[np.unique(np.linspace(0, len(steps) - 1, count).round().astype(int))]
        by = own.loc[own["step"].isin(some.tolist())].groupby(
            ["branch", "metric", "step"], sort=False
        )
        parts.append(by["value"].agg(["mean", "min", "max"]).reset_index())
    return jt.results.concat(parts)


def drawn(table: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw a panel for each measure."""
    with jt.plots.style():
        figure, axes = grid(len(MEASURES), 3, (3.3, 2.9))
        for ax, metric in zip(axes, MEASURES, strict=True):
            jt.plots.telemetry(table, ax, metric=metric, branches=names, legend=False)
            ax.set_xlabel("Steps since the start of the ticket")
        shared_legend(figure, axes)
    return figure


def say(job: Job, table: pd.DataFrame, found: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Print the measures at the end, and how far KD-LTS is from the others."""
    looks = jt.plots.branch_styles(names)
    density = table.loc[table["branch"] != "dense", "density"].median()
    last = table["step"].max()
    ends = table.loc[table["step"] == last]
    means = ends.pivot_table(index="branch", columns="metric", values="value", dropna=False)
    print(f"\n{job.network_name} on {job.data_name}, {100 * density:.3g}% of the weights")
    print(
        f"after {table['step'].max():,} steps from the start of each ticket, mean over {seeds(job)}"
    )
    print(f"{'':34}" + "".join(f"{metric:>15}" for metric in MEASURES))
    for name in names:
        cells = "".join(f"{means.loc[name, metric]:15.4g}" for metric in MEASURES)
        print(f"{looks[name].label:34}{cells}")
    if found.empty:
        return
    print(
        f"\nhow far {looks[OURS].label} is from the others: mean distance over mean height of the"
    )
    print(f"curves, mean +- standard deviation over {seeds(job)}")
    for branch, part in found.groupby("branch", sort=False):
        own = part.groupby("metric")["value"].agg(["mean", "std"])
        cells = "".join(f"{own['mean'][m]:7.3f} +-{own['std'][m]:5.3f}" for m in MEASURES)
        label = looks[str(branch)].label if branch in looks else BETWEEN_SEEDS
        print(f"{label:34}{cells}")
    if {"ltr_late", "snip"} <= set(names):
        rows = nearer(found, "ltr_late", "snip")
        judged = dict(zip(rows["metric"], rows["nearer"], strict=True))
        words = {name: looks[name].label for name in names} | {"neither": "neither, clearly"}
        cells = "".join(f"{words[judged[metric]][:13]:>15}" for metric in MEASURES)
        print(f"{'nearer to':34}{cells}")


def main(settings: Settings) -> None:
    """Train the tickets of every method for six epochs, measure their weights, and draw."""
    names = chosen(settings.methods, SHOWN, (*METHODS, "dense"))
    job = prepare(__file__, settings, **sizes(settings))
    level, steps = checked_level(job, settings.level), first_epochs(job)
    every = min(settings.every, steps)
    with budget(job):
        table = over(
            job, names,
            lambda runs, levels: job.telemetry(runs, levels=levels, steps=steps, every=every),
            levels=(level,),
        )  # fmt: skip
    table = from_the_start(table)
    found = distances(table) if OURS in names else pd.DataFrame()
    say(job, table, found, names)
    figure = "figure_7" if job.preset.network == "resnet20" else "figure_29"
    tables = {"telemetry": at_some_steps(table)} | ({} if found.empty else {"distances": found})
    # the dense network is of level 0
    drawn_at = drawn(table.assign(level=level), names)
    more = {"methods": names, "level": level, "watched_steps": steps, "every": every}
    save(job, {figure: drawn_at}, tables=tables, pruning="one density", more=more)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
