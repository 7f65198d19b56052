"""The figures of `jt.plots` that fit to what a folder holds."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from jaxticket import results
from jaxticket.analysis import layers
from jaxticket.analysis.corruption_errors import ERRORS
from jaxticket.analysis.verdict import Verdict
from jaxticket.connectivity.result import Instability
from jaxticket.nn.absent import Absent
from jaxticket.reporting.tables import usual, with_branches
from jaxticket.runs import Runs
from jaxticket.sparsify.early_pruning import BySteps
from jaxticket.sparsify.iterative import Pruning

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

MOST = 6
"""Figures of measurements at most: each of their metrics could have one."""


class Picture(NamedTuple):
    """A figure, or why there is none.

    Attributes:
      title: its heading.
      alt: what it shows, for readers who cannot see it.
      svg: the figure; empty where it cannot be drawn.
      note: why not.
    """

    title: str
    alt: str
    svg: str
    note: str = ""


class _Plan(NamedTuple):
    title: str
    alt: str
    draw: Callable[[], Axes | Sequence[Axes]]


def pictures(found: Runs | BySteps | Instability | Verdict) -> list[Picture]:
    """Draw the figures of results."""
    if isinstance(found, Runs):
        plans = _of_runs(found)
    elif isinstance(found, BySteps):
        plans = _by_steps(found)
    elif isinstance(found, Instability):
        plans = _of_instability(found)
    else:
        plans = _of_verdict(found)
    return [_drawn(plan) for plan in plans]


def pictures_of_table(kind: str, table: pd.DataFrame) -> list[Picture]:
    """Draw the figures of a measurement, by the kind of its folder."""
    plans = {"measure": _of_measure, "telemetry": _of_telemetry, "surface": _of_surface}
    return [_drawn(plan) for plan in plans[kind](table)] if kind in plans else []


def _drawn(plan: _Plan) -> Picture:
    # matplotlib takes a second to import
    from jaxticket.plots._svg import svg

    try:
        return Picture(plan.title, plan.alt, svg(plan.draw))
    except ValueError as error:
        # such as that every seed diverged
        return Picture(plan.title, plan.alt, "", f"Not drawn: {error}")


def _names(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in dict.fromkeys(table["branch"])]


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names)


def _has_dense(table: pd.DataFrame) -> bool:
    dense = (table["branch"] == "ticket") & (table["level"] == 0)
    return bool(dense.any())


def _named(runs: Runs, table: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """A table whose tickets are called by the method that found them, and the branches to draw.

    Figures call the tickets of "ticket" those of iterative magnitude pruning. The dense network
    keeps this name.
    """
    names, name = _names(table), str(runs.pruning.name)
    if isinstance(runs.pruning, Pruning) or "ticket" not in names or name in names:
        return table, names
    own = (table["branch"] == "ticket") & (table["level"] > 0)
    renamed = table.assign(branch=table["branch"].mask(own, name))
    return renamed, [one for one in _names(renamed) if one != "ticket"]


def _trained(table: pd.DataFrame) -> list[str]:
    """The branches that were trained: supermasks are evaluated at one step alone."""
    # what was rewound has no evaluation at step 0
    return [name for name in _names(table) if set(table.loc[table["branch"] == name, "step"]) - {0}]


def _of_runs(runs: Runs) -> Iterator[_Plan]:
    from jaxticket import plots

    table = with_branches(runs)
    own = usual(table)
    named, names = _named(runs, own)
    if "accuracy" in set(own["metric"]):
        if _has_dense(own) and len(set(own["density"])) > 1:
            yield _Plan(
                "Accuracy by density",
                f"Test accuracy in percent at the end of training against the density, mean and "
                f"range over seeds, of {_listed(names)}; the dense network is a line across.",
                lambda: plots.accuracy(named, branches=names, test_size=len(runs.data.test)),
            )
        if runs.branch in _trained(own):
            yield _Plan(
                "Accuracy during training",
                f"Test accuracy in percent against the training step, a line for each density, of "
                f"{runs.branch}.",
                lambda: plots.curves(own, branches=[runs.branch]),
            )
        trained = [name for name in _trained(named) if name in names]
        watched = "validation" in set(own["split"])
        if watched and trained and _has_dense(own) and len(set(own["level"])) > 2:
            yield _Plan(
                "Speed of learning",
                f"The step of least validation loss against the density, of {_listed(trained)}.",
                lambda: plots.early_stop(named, branches=trained),
            )
        if len(set(table["dilation"])) > 1:
            yield _Plan(
                "Smallest dilation",
                "The smallest factor of the schedule's times at which a ticket is as accurate as "
                "the dense network, against the density.",
                lambda: plots.dilation(table),
            )
    sparse = [level for level in runs.levels if level]
    if sparse and isinstance(runs.net, Absent):
        yield _Plan("Density of layers", "Density of each layer.", _without_network)
    elif sparse:
        kept = layers.report(runs)
        last, _ = _named(runs, kept.loc[kept["level"] == sparse[-1]])
        if len(set(last["layer"])) > 1:
            yield _Plan(
                "Density of layers",
                f"The share of weights that each layer keeps, from input to output, at level "
                f"{sparse[-1]}, mean and range over seeds.",
                lambda: plots.layer_densities(last),
            )
    if runs.traces and "expected" in runs.traces[0]:
        schedule = _expected(runs.trace())
        yield _Plan(
            "Density during the search",
            "The expected density of the soft masks against the step of the search, means over "
            "seeds, a line for each density that was asked for.",
            lambda: _of_search(plots.density_schedule(schedule)),
        )


def _without_network() -> Axes:
    raise ValueError(
        "the order of the layers, from input to output, is known of the network alone, which was "
        "made of code of your own; pass it: jt.report(folder, net=net)"
    )


def _of_search(ax: Axes) -> Axes:
    ax.set_xlabel("Step of the search")
    return ax


def _expected(trace: pd.DataFrame) -> pd.DataFrame:
    """The expected density of a search by step, a branch for each density asked for."""
    found: dict[tuple[float, int], list[float]] = {}
    for row in trace.to_dict("records"):
        place = float(row["density"]), int(row["step"])
        found.setdefault(place, []).append(float(row["expected"]))
    return results.frame(
        # those of soft masks may be a little above all weights
        {
            "branch": f"{100 * share:.3g}%",
            "step": step,
            "density": float(np.clip(np.mean(own), 1e-6, 1.0)),
        }
        for (share, step), own in sorted(found.items())
    )


def _by_steps(found: BySteps) -> Iterator[_Plan]:
    from jaxticket import plots

    parts, names = [], list[str]()
    for step, runs in found.items():
        part, names = _named(runs, usual(with_branches(runs)))
        parts.append(part.assign(pruned_at=step))
    table = results.concat(parts)
    if "accuracy" in set(table["metric"]):
        yield _Plan(
            "Accuracy by the step of pruning",
            f"Test accuracy in percent at the end of training against the step at which the "
            f"network was pruned, a line for each density, of {_listed(names)}.",
            lambda: plots.accuracy_at_step(table, branches=names),
        )
    for step, runs in found.items():
        for plan in _of_runs(runs):
            if plan.title == "Accuracy by density":
                yield plan._replace(title=f"Accuracy by density, pruned at step {step}")


def _of_instability(found: Instability) -> Iterator[_Plan]:
    from jaxticket import plots

    table, copies = found.table(), found.copies()
    steps = _listed([f"{k:,}" for k in found.at])
    if _has_dense(copies) and len(found.at) > 1:
        yield _Plan(
            "Barrier and final error",
            f"Left the error barrier between copies in points, right their final error in percent, "
            f"against the step k at which they part: {steps}.",
            lambda: plots.stable_and_matching(table, copies),
        )
    else:
        yield _Plan(
            "Error barrier",
            f"The error barrier between copies in points against the step k at which they part: "
            f"{steps}.",
            lambda: plots.instability(table),
        )
    yield _Plan(
        "Error on the line between copies",
        f"Error in percent on the straight line between two trained copies, a line for each step "
        f"k: {steps}.",
        lambda: plots.path(found.paths()),
    )
    if "l2" in set(table["metric"]) and len(found.at) > 1:
        yield _Plan(
            "Distance between copies",
            "The L2 distance between the weights of trained copies against the step k at which "
            "they part.",
            lambda: plots.distance(table),
        )
    if "throughout" in found.arrays:
        yield _Plan(
            "Barrier during training",
            "The error barrier between two copies in points during training, a line for each step "
            "k at which they part.",
            lambda: plots.throughout(found.throughout()),
        )


def _of_verdict(found: Verdict) -> Iterator[_Plan]:
    from jaxticket import plots

    table = found.networks()
    if "accuracy" not in set(table["metric"]):
        return
    names = [name for name in _names(table) if name not in ("ticket", "dense")]
    own = table.loc[(table["split"] == "test") & (table["metric"] == "accuracy")]
    ends: dict[str, list[float]] = {}
    for row in own.loc[own["step"] == found.step].to_dict("records"):
        ends.setdefault(str(row["branch"]), []).append(float(row["value"]))
    passes = {row["condition"]: row["passes"] for row in found.conditions().to_dict("records")}
    rows = [
        {
            "method": found.method,
            "control": name,
            "difference": 100 * (np.mean(ends[name]) - np.mean(ends["ticket"])),
            "std": 100 * np.std(ends[name], ddof=1),
            "passes": passes.get(name),
        }
        for name in names
        if name in passes
    ]
    if rows:
        yield _Plan(
            "Controls",
            "By how many points the accuracy of each control differs from that of the ticket, and "
            "whether the ticket beats it by a clear gap: "
            + "; ".join(f"{row['control']} {row['difference']:+.2f}" for row in rows),
            lambda: plots.controls(results.frame(rows)),
        )


def _of_measure(table: pd.DataFrame) -> Iterator[_Plan]:
    from jaxticket import plots

    known = set(table["metric"])
    special = {
        "bin_confidence": ("Calibration", plots.reliability),
        "adversarial_accuracy": ("Accuracy under attack", plots.robustness),
        "density_at": ("Spectral density", plots.spectral_density),
        "softmax_auroc": ("Unknown examples told apart", plots.separation),
        f"{ERRORS}gaussian_noise": ("Errors under corruptions", plots.corruption_errors),
    }
    for metric, (title, draw) in special.items():
        if metric in known:
            yield _Plan(title, f"{title}, of {_listed(_names(table))}.", lambda d=draw: d(table))
    if not _has_dense(table) or len(set(table["level"])) < 2:
        return
    arrays = set(table.loc[table["index"] > 0, "metric"])
    numbers = [str(name) for name in dict.fromkeys(table["metric"]) if name not in arrays]
    for name in numbers[:MOST]:
        yield _Plan(
            f"{name.replace('_', ' ')} by density".capitalize(),
            f"The mean {name} over seeds against the density, of {_listed(_names(table))}.",
            lambda n=name: plots.measured(table, metric=n),
        )


def _of_telemetry(table: pd.DataFrame) -> Iterator[_Plan]:
    from jaxticket import plots

    names = _names(table)
    for metric in [str(name) for name in dict.fromkeys(table["metric"])][:MOST]:
        yield _Plan(
            metric.replace("_", " ").capitalize(),
            f"{metric} of the weights that are left against the training step, a line for each "
            f"density, of {_listed(names)}.",
            lambda m=metric: plots.telemetry(table, metric=m),
        )


def _of_surface(table: pd.DataFrame) -> Iterator[_Plan]:
    from jaxticket import plots

    names, split = _names(table), str(table["split"].iloc[0])
    metric = main_surface(table)
    yield _Plan(
        "Cut through the surface",
        f"The {metric} on the {split} split along one direction, of {_listed(names)}.",
        lambda: plots.loss_cuts(table, split=split, metric=metric),
    )
    if len(set(table["y"])) > 1:
        yield _Plan(
            "Surface",
            f"Contours of the {metric} on the {split} split around one network.",
            lambda: plots.loss_contours(table, split=split, metric=metric, branch=names[0]),
        )


def main_surface(table: pd.DataFrame) -> str:
    """The metric of a surface that is drawn: the loss where it was measured."""
    known = [str(name) for name in dict.fromkeys(table["metric"])]
    return "loss" if "loss" in known else known[0]
