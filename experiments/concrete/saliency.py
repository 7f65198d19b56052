"""Figure 1 of Concrete Ticket Search: does saliency pruning optimise what it linearises?

SNIP is the linearisation of the change of loss, GraSP that of the gradient's norm. The value of
both objectives at initialization, at the masks of SNIP, GraSP, magnitude at initialization, tickets
(IMP from step 0), random pruning, and of a concrete search for that very objective.

Command:  python -m experiments.concrete.saliency [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_1, values.csv; the values in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 6 levels pruning 60%, 600 steps, 10% of the examples; reduced
          3 seeds, 6 levels pruning 60%, 6,000 steps; paper 3 seeds, 16 levels pruning 36%, 24,000
          steps.
Cost:     at quick size 11 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; the
          paper's size is not measured.
Expected: at paper size (vgg16-cifar10-cts) saliency pruning is rarely ahead of the others, even on
          its own objective. (The concrete search is not in the paper's figure.)
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import Settings as Common
from experiments.common.learned import learned, length_of
from experiments.common.report import pair, save, seeds, shared_legend
from experiments.concrete.accuracy import LENET, PAPER, QUICK
from jaxticket.plots._axes import density_axis
from jaxticket.sparsify.learned import objective_values

METHODS = ("snip", "grasp", "magnitude", "ltr", "random", "cts")
REDUCED = {"levels": 6, "fraction": 0.6}
OWN = {"change_of_loss": "cts_change_of_loss", "gradient_norm": "cts_gradient_norm"}
LABELS = {
    "change_of_loss": "|loss / dense loss - 1| (lower is better)",
    "gradient_norm": "norm of the gradient (higher is better)",
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all that learn masks, and how many examples."""

    examples: int = 500
    """Training examples that the objectives look at."""


def masks_of(job: Job, name: str, objective: str, length: str) -> jt.Runs:
    """Give the masks of a method at initialization; `cts` searches for the objective itself."""
    if name == "cts":
        return learned(job, OWN[objective], steps=length, train=False)
    if name == "ltr":
        return job.find_tickets(sub=name, rewind=0)
    return job.prune_at(name, sub=name, dense=False)


def drawn(values: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw a panel per objective: its value by density, one line per method."""
    looks = jt.plots.branch_styles([OWN.get(name, name) for name in names])
    with jt.plots.style():
        figure, axes = pair(8.4, 3.8)
        for ax, objective in zip(axes, OWN, strict=True):
            for name in names:
                own = values.loc[(values["objective"] == objective) & (values["method"] == name)]
                by = own.loc[own["level"] > 0].groupby("density")["value"]
                mean, low, high = by.mean().abs(), by.min().abs(), by.max().abs()
                look = looks[OWN.get(name, name)]
                label = "CTS for this objective" if name == "cts" else look.label
                ax.plot(100 * mean.index, mean, color=look.color, marker=look.marker, label=label)
                ax.fill_between(100 * mean.index, low, high, color=look.color, alpha=0.15)
            dense = values.loc[(values["objective"] == objective) & (values["level"] == 0)]
            if objective == "gradient_norm" and not dense.empty:
                ax.axhline(dense["value"].abs().mean(), color="0.4", linestyle=":", label="dense")
            ax.set(yscale="log", ylabel=LABELS[objective])
            density_axis(ax, values.loc[values["level"] > 0].groupby("level")["density"].median())
        shared_legend(figure, axes)
    return figure


def main(settings: Settings) -> None:
    """Find masks with every method and compute both objectives at them."""
    names = chosen(settings.methods, METHODS)
    quick = {**QUICK, "levels": 3, "fraction": 0.74}
    job = prepare(__file__, settings, quick=quick, lenet=LENET, reduced=REDUCED, paper=PAPER)
    length, tables = length_of(settings), []
    with budget(job):
        # the folder itself is a run's
        learned(job, "cts_change_of_loss", steps=length, train=False, sub="")
        for name in names:
            for objective in OWN:
                runs = masks_of(job, name, objective, length)
                found = objective_values(runs, objective, examples=settings.examples)
                tables.append(found.assign(method=name, objective=objective))
    values = jt.results.concat(tables)
    means = values.loc[values["level"] > 0].pivot_table(
        index=["objective", "method"], columns="level", values="value", sort=False
    )
    means.columns = [f"{100 * d:.2f}%" for d in job.densities]
    print(f"\n{job.network_name} on {job.data_name}, objectives at initialization, {seeds(job)}")
    print(means.abs().to_string(float_format="%.4g"))
    more = {"methods": names, "examples": settings.examples, "length": length}
    save(job, {"figure_1": drawn(values, names)}, tables={"values": values}, more=more,
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
