"""GradBalance against a Lagrange multiplier, and how much the settings matter to both.

The same search (loss) with either, for learning rates from a tenth to ten times the usual one and,
for the multiplier, step sizes of the ascent from a tenth to a hundred times. What matters: where
the expected density ends, in units of the wanted one, and what the tickets reach.

Command:  python -m experiments.concrete.balance [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    balance (expected density over the search, and accuracies), balance.csv, trace.csv; the
          table in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 1 level pruning 97%, 600 steps, 10% of the examples; reduced 3
          seeds, 1 level pruning 97%, 6,000 steps; paper 3 seeds, 1 level pruning 99%, 24,000 steps.
Cost:     at quick size 2.9 minutes with lenet-mnist on 2 cores of an Intel Xeon of 2.5 GHz; the
          paper's size is not measured.
Expected: GradBalance ends near 1.1 times the wanted density for all learning rates; the multiplier
          only with the right step size. (Said by the paper without numbers we have.)
"""

from __future__ import annotations

import dataclasses

import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import jaxticket as jt
from experiments.common.job import Settings as Common
from experiments.common.job import budget, launch, prepare
from experiments.common.learned import late_step
from experiments.common.report import save, seeds, shared_legend
from experiments.concrete.accuracy import LENET, PAPER, QUICK
from jaxticket.sparsify.learned import GradBalance, Lagrangian, Method

RATES = (0.1, 1.0, 10.0)
ASCENTS = (0.001, 0.01, 0.1, 1.0)
USUAL = 0.1
LOOKS = 120
"""How often a search as long as a training is looked at."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, where and how long."""

    start: int | None = None
    """Step k, of the job's steps; that of the preset, or 2% of training."""
    length: str = "half"
    """Length of the searches: short (1/8 of training), half or long."""
    lr: float = USUAL
    """The usual learning rate of the scores (Adam)."""


def methods(settings: Settings) -> dict[str, Method]:
    """Give the searches by name."""
    make = jt.SEARCHES["concrete"]
    found = {
        f"GradBalance, rate x {r:g}": make("loss", lr=r * settings.lr, constraint=GradBalance())
        for r in RATES
    }
    found |= {
        f"multiplier, ascent {a:g}": make("loss", lr=settings.lr, constraint=Lagrangian(a))
        for a in ASCENTS
    }
    found |= {
        f"multiplier, rate x {r:g}": make("loss", lr=r * settings.lr, constraint=Lagrangian())
        for r in RATES
        if r != 1
    }
    return found


def label(name: str) -> str:
    """Write the name of a search out, for figures.

    >>> label("GradBalance, rate x 10"), label("multiplier, ascent 0.1")
    ('GradBalance, learning rate × 10', 'multiplier, step size 0.1')
    """
    return name.replace("rate x ", "learning rate × ").replace("ascent", "step size")


def drawn(trace: pd.DataFrame, rows: pd.DataFrame, density: float) -> Figure:
    """Draw the expected density over the search on the left, final accuracies on the right.

    Args:
      trace: of all searches.
      rows: one for each search.
      density: the wanted one.
    """
    names = list(rows["method"])
    colors = pyplot.get_cmap("viridis")
    with jt.plots.style():
        figure, (left, right) = pyplot.subplots(
            1, 2, figsize=(9.6, 5.0), layout="constrained", width_ratios=(3, 2)
        )
        for i, name in enumerate(names):
            own = trace.loc[trace["method"] == name].groupby("step")["share"].mean()
            line = "-" if name.startswith("Grad") else "--"
            color = colors(i / max(1, len(names) - 1))
            left.plot(own.index, own, line, color=color, label=label(name))
            row = rows.loc[rows["method"] == name].iloc[0]
            spread = [[row["mean"] - row["min"]], [row["max"] - row["mean"]]]
            right.errorbar(100 * row["mean"], i, xerr=[[100 * s[0]] for s in spread], fmt="o",
                           color=color)  # fmt: skip
        left.axhline(1.0, color="0.5", linewidth=1, label="as many as wanted")
        left.axhline(1.1, color="0.5", linestyle=":", linewidth=1.2, label="1.1 times as many")
        left.set(
            title="During the search", yscale="log", xlabel="Step of the search",
            ylabel="Expected number of kept weights,\nrelative to the wanted one",
        )  # fmt: skip
        left.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        left.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        left.yaxis.set_minor_formatter(NullFormatter())
        right.set(
            title=f"Trained tickets, {100 * density:.3g}% of the weights",
            xlabel="Test accuracy (%)", yticks=range(len(names)),
            yticklabels=[label(name) for name in names],
        )  # fmt: skip
        right.invert_yaxis()
        shared_legend(figure, [left])
    return figure


def table_of(
    found: dict[str, jt.Runs], trained: dict[str, jt.Runs]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Give traces of all searches, and a row for each: where its density ended, and accuracies."""
    traces, rows = [], []
    for name, runs in found.items():
        own = runs.trace()
        own = own.assign(method=name, share=own["expected"] / own["density"])
        traces.append(own)
        last = own.loc[own["step"] >= 0.9 * own["step"].max()]["share"]
        ticket = jt.speed.final(trained[name].table())["value"]
        rows.append(
            {"method": name, "share": last.mean(), "least": last.min(), "most": last.max(),
             "mean": ticket.mean(), "min": ticket.min(), "max": ticket.max()}
        )  # fmt: skip
    return jt.results.concat(traces), jt.results.frame(rows)


def main(settings: Settings) -> None:
    """Search with every setting, draw and print."""
    few = {"levels": 1, "fraction": 0.97}
    job = prepare(
        __file__, settings, quick={**QUICK, **few}, lenet={**LENET, **few},
        reduced=few, paper={**PAPER, "levels": 1, "fraction": 0.99},
    )  # fmt: skip
    start = late_step(job) if settings.start is None else settings.start
    # searches are looked at often, which costs nothing; trainings are not, which would
    often = dataclasses.replace(job.size, eval_every=max(1, job.size.steps // LOOKS))
    searching = dataclasses.replace(job, size=often)
    found, trained = {}, {}
    with budget(job):
        for i, (name, method) in enumerate(methods(settings).items()):
            sub = "" if i == 0 else name.replace(" ", "_").replace(",", "")
            options = {"start": start, "steps": settings.length, "sub": sub, "dense": False}
            found[name] = searching.search(method, train=False, **options)
            trained[name] = job.branch(found[name], "retrain", training=job.training)
    trace, rows = table_of(found, trained)
    print(f"\n{job.network_name} on {job.data_name}, {100 * job.densities[0]:.3g}% of the weights")
    print(f"expected over wanted number in the last tenth of the search, accuracy, {seeds(job)}\n")
    print(f"{'':28}{'share':>8}{'(least to most)':>20}{'accuracy %':>12}{'(least to most)':>18}")
    for _, row in rows.iterrows():
        ends = f"({row['least']:.2f} to {row['most']:.2f})"
        near = f"({100 * row['min']:.1f} to {100 * row['max']:.1f})"
        print(f"{row['method']:28}{row['share']:8.2f}{ends:>20}{100 * row['mean']:12.1f}{near:>18}")
    more = {"start": start, "length": settings.length, "lr": settings.lr}
    figures = {"balance": drawn(trace, rows, job.densities[0])}
    save(job, figures, tables={"balance": rows, "trace": trace}, more=more,
         bands=None, pruning="one density; lines and dots are means, bars go from the least to the "
         "greatest seed")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
