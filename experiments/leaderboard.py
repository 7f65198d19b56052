"""Every method that finds a mask, on one preset: accuracy, cost, controls, and what it leaves.

Tickets (IMP from step 0 and with rewinding, learning-rate rewinding, one shot), magnitude pruning
after training, every score at initialization, random masks with the layouts ERK and smart ratio,
masks learned at the step that tickets are rewound to, and mask rules, which move masks during the
training, at one ladder of densities. At one of them every method is also trained with its masks
shuffled within layers, with new weights, and with its ranking inverted, and its trained networks
are measured: their expected calibration error (ECE), the greatest eigenvalue of the Hessian of the
loss on 1,000 training examples (sharpness), and the error barrier between two copies of the ticket
that are trained under other SGD noise (stability). Controls of mask rules are compared with the
rule's ticket (its last mask on the weights of initialization) retrained.

A method *passes* a control where its mean accuracy is above the control's by a clear gap: at least
0.5 points and two pooled standard deviations over seeds. It is then sensitive to what the control
destroys (KD-LTS, definitions 6.2 and 6.3, which ask for a clear gap and print no number); a method
that fails them has found how much of each layer to keep, and not which weights. What is not judged
(one seed, or a network that diverged) passes nothing and fails nothing.

Command:  python -m experiments.leaderboard [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    accuracy.png, cost.png, controls.png, overview.png and the tables final.csv, costs.csv,
          controls.csv and overview.csv, the first three also in the terminal; once published, a
          table of docs/leaderboard.md. A cost of 1 is the operations of training one dense network;
          the training of what a mask leaves is not counted, and so of mask rules dense gradients
          alone.
Sizes:    lenet-mnist: quick 3 seeds, 3 levels pruning 70%, 300 steps, 10% of the examples; reduced
          3 seeds, 3 levels pruning 70%, 6,000 steps; paper 5 seeds, 10 levels pruning 36%, 24,000
          steps.
Cost:     at the reduced size 60 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size tickets with rewinding and magnitude after training lead and are sensitive
          to all controls; they cost several dense trainings and one. SNIP, GraSP, SynFlow and
          magnitude at initialization cost next to nothing, beat random masks, and are not sensitive
          to shuffle and reinit. For layouts the sources print no such numbers.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import (
    Job,
    budget,
    chosen,
    launch,
    prepare,
)
from experiments.common.job import Settings as Common
from experiments.common.learned import late_step, learned
from experiments.common.report import (
    cell,
    differences,
    in_words,
    named,
    near_dense,
    save,
    seeds,
    single,
)
from experiments.common.rules import rule_of
from experiments.common.sizes import LENET
from jaxticket.plots._style import root_figure
from jaxticket.pruning.layouts import layers_of

CONTROLS = ("shuffle", "reinit", "inverted")
MANY = 12
"""Methods of which lines by density can no longer be told apart."""
CRITERIA = (
    "accuracy",
    "ece",
    "eigenvalue",
    jt.Criterion("barrier", better="lower", label="error barrier", percent=True, unit="points"),
)
"""What is measured of trained networks."""
# the greatest eigenvalue is found in few products
SHARPNESS = jt.probes.Curvature(eigenvalues=1, order=20, starts=0, samples=0, by="value")
Find = Callable[[Job, str], jt.Runs]
"""Finds masks at every density of a job and trains what they leave, in a folder of the job's."""


@dataclasses.dataclass(frozen=True)
class Method:
    """A line of the leaderboard.

    Attributes:
      find: finds masks and trains what they leave.
      inverted: the same with the ranking inverted, or None where there is none.
      layout: the name of the layout that spreads its densities over the layers, "" without one.
    """

    find: Find
    inverted: Find | None = None
    layout: str = ""


def tickets(*, late: bool = False, **pruning: Any) -> Method:
    """Make iterative magnitude pruning; `late` rewinds to the preset's rewind step."""

    def find(job: Job, sub: str) -> jt.Runs:
        late_or_first = {"rewind": late_step(job)} if late else {}
        return job.find_tickets(sub=sub, keep="trained", **late_or_first, **pruning)

    return Method(find)


def scored(score: str, *, ranked: bool = True, **options: Any) -> Method:
    """Make pruning at once by a score; `ranked` tells whether it has a ranking to invert."""

    def find(job: Job, sub: str) -> jt.Runs:
        return job.prune_at(score, sub=sub, dense=False, keep="trained", **options)

    def turned(job: Job, sub: str) -> jt.Runs:
        return job.prune_at(jt.scores.inverted(score), sub=sub, dense=False, **options)

    scope = str(options.get("scope", ""))
    return Method(find, turned if ranked else None, scope if scope in jt.LAYOUTS else "")


def searched(name: str) -> Method:
    """Learn masks from the step that tickets are rewound to, in as many steps as training has."""

    def find(job: Job, sub: str) -> jt.Runs:
        start = late_step(job)
        return learned(job, name, sub=sub, start=start, steps="long", keep="trained")

    def turned(job: Job, sub: str) -> jt.Runs:
        return learned(job, name, sub=sub, start=late_step(job), steps="long", inverted=True)

    # these have frozen all but the ticket: no ranking is left to invert
    return Method(find, turned if name not in ("gem_miner", "kd_lts") else None)


def ruled(name: str) -> Method:
    """Train under a mask rule."""

    def find(job: Job, sub: str) -> jt.Runs:
        return job.sparse_train(rule_of(job, name), sub=sub, keep="trained")

    return Method(find, layout=getattr(jt.RULES[name], "layout", ""))


METHODS: dict[str, Method] = {
    "ticket": tickets(),
    "rewound_ticket": tickets(late=True),
    "lrr": tickets(rewind="learning_rate"),
    "one_shot": tickets(one_shot=True),
    "magnitude_after_training": scored("magnitude", step="end"),
    **{
        name: scored(name, ranked=name != "random")
        for name in jt.SCORES
        # a control, and an ablation that is random pruning in all but name
        if name not in ("grasp_inverted", "standardized_magnitude")
    },
    "erk": scored("random", ranked=False, scope="erk"),
    "smart_ratio": scored("random", ranked=False, scope="smart_ratio"),
    **{
        name: searched(name)
        for name in (
            *("cts_kl", "cts_loss", "edge_popup", "gem_miner", "stochastic", "continuous"),
            "kd_lts",
        )
    },
    **{name: ruled(name) for name in jt.RULES},
}
RANDOM = ("random", "erk", "smart_ratio", "static")
"""Methods whose masks are random, so that there is nothing to shuffle."""


def without_room(job: Job) -> dict[str, str]:
    """Say which methods cannot keep as little as the job's densities, as their layout says it."""
    layers = layers_of(job.net)
    reasons = {}
    for name, method in METHODS.items():
        for density in job.densities if method.layout else ():
            try:
                jt.LAYOUTS[method.layout](layers, density)
            except ValueError as error:
                reasons[name] = str(error)
                break
    return reasons


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, methods, and the density of the controls."""

    methods: tuple[str, ...] | None = None
    """Names of METHODS in this script; if not given all that the densities leave room for."""
    at_density: float | None = None
    """Density of the controls and of the costs (the nearest of the ladder); the middle one if not
    given."""
    controls: tuple[str, ...] = CONTROLS
    """shuffle, reinit, sign_flip and inverted."""
    measure: bool = True
    """Measure calibration, sharpness and stability at that density."""


def report(
    job: Job, table: pd.DataFrame, costs: pd.DataFrame, found: pd.DataFrame, level: int
) -> None:
    """Print accuracies by density with the cost at one of them, and what controls change there."""
    rows = jt.speed.matching(table, margin=job.settings.margin, test_size=len(job.data.test))
    rows = rows.set_index(["branch", "level"])
    names = [name for name in costs["branch"].unique() if name != "dense"]
    looks = jt.plots.branch_styles(names)
    cost = {name: float(np.mean(own["cost"])) for name, own in costs.groupby("branch")}
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}; cost in dense trainings")
    print(f"at {100 * job.densities[level - 1]:.3g}%; dense {cell(rows.loc[('ticket', 0)])}\n")
    print(f"{'density':32}{'cost':>9}" + "".join(f"{100 * d:21.2f}%" for d in job.densities))
    for name in names:
        cells = (
            cell(rows.loc[(name, n)]) if (name, n) in rows.index else "-"
            for n in range(1, len(job.densities) + 1)
        )
        words = "".join(f"{word:>22}" for word in cells)
        print(f"{looks[name].label:32}{cost[name]:9.3g}{words}")
    if found.empty:
        return
    print("\ncontrol minus method, in points +- pooled standard deviation; * the method passes\n")
    for method, own in found.groupby("method", sort=False):
        words = (f"{row['control']} {in_words(row)}" for _, row in own.iterrows())
        print(f"{method:28}" + "".join(f"{word:>28}" for word in words))


def costs_of(job: Job, found: dict[str, jt.Runs], table: pd.DataFrame, level: int) -> pd.DataFrame:
    """Make a row per method and seed at one density, and one per dense network.

    Columns: branch, seed, accuracy, cost (operations spent to find the mask, in dense trainings),
    training_steps and seconds.
    """
    forward = jt.layers.cost(job.net)["flops"]
    whole = 3.0 * forward * job.training.steps * job.training.batch_size
    final = jt.speed.final(table)
    rows = []
    for name, runs in found.items():
        spent = jt.costs.finding(runs).set_index("level").loc[level].copy()
        if name in jt.RULES:
            # the steps in which the mask moves are those of the one training that there is
            spent["flops"] -= whole * spent["training_steps"] / job.training.steps
            spent[["training_steps", "seconds"]] = 0.0
        own = final.loc[(final["branch"] == name) & (final["level"] == level)]
        rows += [
            {
                "branch": name,
                "seed": int(seed),
                "accuracy": float(value),
                "cost": float(spent["flops"]) / whole,
                "training_steps": float(spent["training_steps"]),
                "seconds": float(spent["seconds"]),
            }
            for seed, value in zip(own["seed"], own["value"], strict=True)
        ]
    dense = final.loc[final["level"] == 0]
    nothing = {"branch": "dense", "cost": 0.0, "training_steps": 0.0, "seconds": 0.0}
    rows += [
        {**nothing, "seed": int(seed), "accuracy": float(value)}
        for seed, value in zip(dense["seed"], dense["value"], strict=True)
    ]
    return jt.results.frame(rows)


def measured(job: Job, name: str, runs: jt.Runs, level: int) -> pd.DataFrame:
    """Measure what a method leaves at one density.

    Returns:
      Columns branch ("ticket"), level, density, seed, index, metric and value: accuracy, ece, the
      greatest eigenvalue, and barrier, the mean over pairs of copies.
    """
    options = {"weights": "trained", "levels": (level,)}
    parts = [
        job.measure(runs, "calibration", examples=None, split="test", **options),
        job.measure(runs, SHARPNESS, examples=1_000, split="train", **options),
    ]
    copies = job.instability(
        sub=f"{name}_copies", tickets=runs, levels=(level,), points=11, distances=(), keep=False
    ).table()
    rows = copies.loc[(copies["metric"] == "barrier") & (copies["split"] == "test")]
    keys = ["branch", "level", "density", "seed", "metric"]
    parts.append(rows.groupby(keys, as_index=False)["value"].mean())
    return jt.results.concat(parts)


def own_names(table: pd.DataFrame, name: str) -> pd.DataFrame:
    """Rename as `named` does, without the dense network's rows: those of one method are enough."""
    return named(table.loc[table["level"] > 0], name)


def figures_of(
    table: pd.DataFrame,
    costs: pd.DataFrame,
    judged: pd.DataFrame,
    names: Sequence[str],
    density: float,
) -> dict[str, Figure]:
    """Draw accuracies by density, and at one of them costs and what controls change.

    Args:
      table: tidy table of all that was trained.
      costs: of `costs_of`.
      judged: of `differences`; without rows there is no figure of controls.
      names: of methods.
      density: of the costs and the controls.
    """
    figures = {}
    title = f"{100 * density:.3g}% of the weights"
    with jt.plots.style():
        if len(names) > MANY:
            figures["accuracy"], ax = single(6.4, 1.6 + 0.2 * len(names))
            by_method(table, ax, names, density)
        else:
            # the legend below has a row for two methods
            figures["accuracy"], ax = single(7.2, 4.0 + 0.1 * len(names))
            jt.plots.accuracy(table, ax, branches=list(names))
        figures["cost"], ax = single(7.2, 4.6)
        dense = jt.speed.final(table.query("level == 0"))["value"]
        near, own = near_dense(costs, dense, title)
        # names are placed next to markers, for which the title must be there
        ax.set_title(own)
        jt.plots.accuracy_against_cost(near, ax, band="minmax")
        if not judged.empty:
            rows = len(set(judged["method"]))
            # cells of few methods are higher, up to half an inch
            height = max(min(2.4, 1.4 + 0.5 * rows), 0.9 + 0.3 * rows)
            figures["controls"], ax = single(5.6, height)
            jt.plots.controls(judged, ax)
            ax.set_title(title)
    return figures


def by_method(table: pd.DataFrame, ax: Axes, names: Sequence[str], density: float) -> None:
    """Draw a row for each method, the most accurate at a density first, and a mark per density.

    The least accurate methods do not decide the limits: numbers of marks further to the left stand
    at the edge, as does what diverged. Of many densities four are shown and the one that orders
    the methods.

    Args:
      table: tidy table of all that was trained.
      ax: where.
      names: of methods.
      density: which orders the methods.
    """
    final = jt.speed.final(table)
    dense = 100 * final.loc[final["level"] == 0, "value"]
    own = final.loc[final["branch"].isin(names) & (final["level"] > 0)]
    ladder = own.groupby("level")["density"].first()
    ordering = (ladder - density).abs().idxmin()
    # four marks in a row are told apart
    some = np.linspace(0, len(ladder) - 1, min(4, len(ladder))).round().astype(int)
    ladder = ladder.loc[sorted({*ladder.index[some], ordering})]
    by = 100 * own.groupby(["level", "branch"])["value"].agg(["mean", "min", "max"])
    order = by.loc[ordering, "mean"].sort_values().index
    tenth = by["mean"].groupby("level").quantile(0.1).min()
    low, high = tenth - 0.5, max(by["max"].max(), dense.max()) + 0.1
    ax.axvspan(dense.min(), dense.max(), color="0.88", zorder=0)
    ax.axvline(dense.mean(), color="0.45", linewidth=1, label="dense, mean and range", zorder=0)
    colors = colormaps["viridis"](np.linspace(0, 0.88, len(ladder)))
    for i, (level, share) in enumerate(ladder.items()):
        rows = by.loc[level].reindex(order)
        inside, left = rows["mean"] >= low, low + (0.01 + 0.1 * i) * (high - low)
        # densities stand a little below each other, so that equal marks are all seen
        place = np.arange(len(order)) + 0.66 / len(ladder) * ((len(ladder) - 1) / 2 - i)
        bars = np.abs(rows[["min", "max"]].to_numpy().T - rows["mean"].to_numpy())
        ax.errorbar(
            rows["mean"][inside], place[inside], xerr=bars[:, inside], fmt="os^Dv"[i % 5],
            color=colors[i], markersize=4, elinewidth=1, capsize=0, label=f"{100 * share:.3g}%",
        )  # fmt: skip
        for at, mean in zip(place[~inside], rows["mean"][~inside], strict=True):
            words = "diverged" if math.isnan(mean) else f"\u25c4 {mean:.1f}%"
            ax.text(left, at, words, color=colors[i], fontsize=6, va="center")
    looks = jt.plots.branch_styles(list(order))
    ax.set_yticks(np.arange(len(order)), [looks[name].label for name in order])
    ax.set(xlim=(low, high), ylim=(-0.7, len(order) - 0.3), xlabel="Test accuracy (%)")
    ax.grid(axis="y", visible=False)
    ax.set_title(
        f"in the order at {100 * density:.3g}% of the weights; bars: least to greatest seed"
    )
    root_figure(ax).legend(loc="outside upper center", ncols=len(ladder) + 1)


def main(settings: Settings) -> None:
    """Train every method and its controls and draw the three figures."""
    names = chosen(settings.methods, METHODS)
    quick = {"seeds": 2, "levels": 2, "fraction": 0.74, "steps": 150, "eval_every": 150, "pool": 2}
    lenet = {**{key: getattr(LENET, key) for key in quick}, "levels": 3, "fraction": 0.7}
    lenet |= {"steps": 300, "eval_every": 300}
    reduced, paper = {"levels": 3, "fraction": 0.7}, {"levels": 10, "fraction": 0.36}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, reduced=reduced, paper=paper)
    left_out = without_room(job) if settings.methods is None else {}
    names = tuple(name for name in names if name not in left_out)
    for name, reason in left_out.items():
        print(f"left out: {name}, since {reason}")
    ladder = job.densities
    middle = ladder[len(ladder) // 2]
    asked = settings.at_density or middle
    level = 1 + min(range(len(ladder)), key=lambda i: abs(math.log(ladder[i] / asked)))
    branches = [control for control in settings.controls if control != "inverted"]
    found, tables, measures = {}, [], {}
    with budget(job):
        # the dense networks that all are compared with: those of magnitude after training
        dense = job.prune_at("magnitude", step="end", keep="trained")
        tables.append(dense.table().loc[dense.table()["level"] == 0])
        for name in names:
            method = METHODS[name]
            runs = dense if name == "magnitude_after_training" else method.find(job, name)
            found[name] = runs
            tables.append(own_names(runs.table(), name))
            if settings.measure:
                measures[name] = measured(job, name, runs, level)
            called = name
            if name in jt.RULES and name not in RANDOM:
                again = job.branch(runs, "retrain", levels=(level,))
                called = f"{name}_retrained"
                tables.append(own_names(again.table().assign(branch="ticket"), called))
            for control in branches if name not in RANDOM else []:
                changed = job.branch(runs, control, levels=(level,))
                tables.append(own_names(changed.table(), called))
            if "inverted" in settings.controls and method.inverted is not None:
                turned = method.inverted(job, f"{name}_inverted")
                own = own_names(turned.table(), f"{name}_inverted")
                tables.append(own.loc[own["level"] == level])
    table = jt.results.concat(tables)
    judged = differences(table)
    costs = costs_of(job, found, table, level)
    report(job, table, costs, judged, level)
    figures = figures_of(table, costs, judged, names, ladder[level - 1])
    small = {"costs": costs, "controls": judged}
    if measures:
        page = jt.overview(measures=measures, criteria=CRITERIA, level=level)
        small["overview"] = page
        with jt.plots.style():
            figures["overview"], ax = single(6.4, max(2.4, 1.4 + 0.28 * len(page)))
            jt.plots.overview(page, ax, criteria=CRITERIA)
    more = {"methods": names, "controls": settings.controls, "at_density": ladder[level - 1]}
    more |= {"left_out": left_out} if left_out else {}
    save(job, figures, table, tables=small, more=more, pruning="densities by level or at once")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
