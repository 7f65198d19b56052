"""Figures 8 and 30 of KD-LTS: how smooth and how flat the loss is around tickets.

Tickets of one density: those of KD-LTS, SNIP and random pruning, of iterative magnitude pruning
rewound to step 0 (LTH) and to epoch 3 (LTH-Rewind), and the dense network. Over the first six
epochs of their training the loss and its gradient are evaluated along the gradient of each batch,
at 0.5 to 4 times the learning rate. At the start of that training and at its end the Hessian of the
training loss, over the kept weights, is measured: trace, spectral density, largest eigenvalues.

Command:  python -m experiments.kd_lts.landscape [--every N] [--order N] [--samples N]
          [--examples N] [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_30 (of ResNet-20 figure_8); landscape.csv: each measure by method; claims.csv: how
          KD-LTS differs from each other method; the same in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps of batch 128;
          reduced 3 seeds, 3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 4 levels pruning 20%,
          18,760 steps.
Cost:     at quick size 21 minutes with lenet-mnist-kd_lts on 2 shared cores of an Intel Xeon, once
          the networks are trained, which took 2.5 hours; the paper's size is not measured.
Expected: no numbers are printed. With KD-LTS the gradient is more predictive and the loss varies
          less along it than with SNIP, as with LTH-Rewind; the trace of the Hessian is smaller
          (flatter minima), and saddle points are avoided (few negative eigenvalues).
"""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import draw_alike, grid, groups, save, seeds, shared_legend
from experiments.kd_lts._claims import OURS, compared, in_words
from experiments.kd_lts._common import Settings as Common
from experiments.kd_lts._networks import METHODS, checked_level, measured, over, sizes
from experiments.kd_lts.telemetry import first_epochs, from_the_start

SHOWN = ("kd_lts", "snip", "ltr", "ltr_late", "random", "dense")
# bands of more methods would hide each other
BANDS = ("kd_lts", "snip", "ltr_late")
ALONG = {"loss_range": "range of the loss along the gradient",
         "gradient_change": "greatest change of the gradient",
         "beta": "effective beta-smoothness"}  # fmt: skip
CURVED = {"trace": "trace of the Hessian", "top": "largest eigenvalue",
          "least": "least eigenvalue", "negative_share": "negative share"}  # fmt: skip
LESS = {"loss_range": "smoother", "gradient_change": "smoother", "beta": "smoother",
        "trace": "flatter", "top": "flatter", "negative_share": "less of a saddle"}  # fmt: skip
TITLES = {"loss": "Loss along the gradient", "gradient_change": "Change of the gradient",
          "beta": "Smoothness along the gradient"}  # fmt: skip
WHEN = {"start": "at the start", "end": "trained", "epochs": "over six epochs"}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, methods, and how much is measured."""

    methods: tuple[str, ...] | None = None
    """Some of kd_lts, ltr, ltr_late, gem_miner, snip, grasp, synflow, random and dense; kd_lts,
    snip, ltr, ltr_late, random and dense if not given."""
    level: int | None = None
    """Level of the tickets, which says their density; the sparsest if not given."""
    every: int = 20
    """Steps between measurements along the gradient."""
    order: int = 80
    """Products with the Hessian for its spectrum, see jt.probes.Curvature."""
    samples: int = 50
    """Products for its trace."""
    examples: int = 1000
    """Training examples of the Hessian."""


def along(table: pd.DataFrame) -> pd.DataFrame:
    """Give means over steps of what the monitor measured: branch, seed, measure, when, value."""
    rows = []
    for (branch, seed), part in groups(table, "branch", "seed"):
        wide = part.pivot_table(index="step", columns="metric", values="value", dropna=False)
        curves = {
            "loss_range": wide["loss_greatest"] - wide["loss_least"],
            "gradient_change": wide["gradient_change_greatest"],
            "beta": wide["beta_greatest"],
        }
        rows += [
            {"branch": branch, "seed": seed, "measure": name, "when": "epochs",
             "value": curve.mean(skipna=False)}
            for name, curve in curves.items()
        ]  # fmt: skip
    return jt.results.frame(rows)


def curved(table: pd.DataFrame, when: str) -> pd.DataFrame:
    """Give what the probe measured of each network: branch, seed, measure, when, value."""
    rows = []
    for (branch, seed), part in groups(table, "branch", "seed"):
        most = {metric: own["value"].max() for (metric,), own in groups(part, "metric")}
        values = {
            "trace": most["trace"], "top": most["eigenvalue"], "least": most["least_eigenvalue"],
            "negative_share": most["negative_share"],
        }  # fmt: skip
        rows += [
            {"branch": branch, "seed": seed, "measure": name, "when": when, "value": value}
            for name, value in values.items()
        ]
    return jt.results.frame(rows)


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, standard deviation, least and greatest over seeds."""
    by = rows.groupby(["when", "measure", "branch"], sort=False)["value"]
    found = by.agg(["mean", "std", "min", "max", "size"]).reset_index()
    return found.rename(columns={"size": "seeds"})


def traces(ax: Axes, rows: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Draw the trace of every network at the start (open) and trained (filled), a row a method."""
    looks = jt.plots.branch_styles(names)
    part = rows.loc[rows["measure"] == "trace"]
    for i, name in enumerate(names):
        for when, face in (("start", "white"), ("end", looks[name].color)):
            own = part.loc[(part["branch"] == name) & (part["when"] == when), "value"]
            ax.plot(own, np.full(len(own), i), "o", color=looks[name].color, markerfacecolor=face,
                    markersize=5, linestyle="none")  # fmt: skip
    # the legend above the panels has their names; here they would push the columns apart
    ax.set(yticks=range(len(names)), ylim=(len(names) - 0.4, -0.6), xlabel="Trace of the Hessian",
           ylabel="Methods, as in the legend")  # fmt: skip
    ax.tick_params(axis="y", labelleft=False, length=0)
    values = part["value"].to_numpy(float)
    if (values[np.isfinite(values)] > 0).all():
        ax.set_xscale("log")
        # matplotlib's own labels of less than a decade lie on each other
        near = np.nanmax(values) < 50 * np.nanmin(values)
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if near else (1,)))
        ax.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
    ax.set_title("Trace: open at the start, filled after training", fontsize=8)


def with_bands(names: tuple[str, ...]) -> tuple[str, ...]:
    """Give the methods of the upper panels, whose bands would hide more of them."""
    return tuple(name for name in BANDS if name in names) or names[:3]


def drawn(
    watched: pd.DataFrame, spectra: dict[str, pd.DataFrame], rows: pd.DataFrame,
    names: tuple[str, ...],
) -> Figure:  # fmt: skip
    """Draw smoothness along the gradient above, and curvature below."""
    bands = with_bands(names)
    with jt.plots.style():
        figure, axes = grid(6, 3, (3.6, 2.9))
        for ax, metric in zip(axes, ("loss", "gradient_change", "beta"), strict=False):
            jt.plots.smoothness(watched, ax, metric=metric, branches=bands, legend=False)
            ax.set_xlabel("Steps since the start of the ticket")
            ax.set_title(f"{TITLES[metric]}, {WHEN['epochs']}", fontsize=8)
        draw = partial(jt.plots.spectral_density, branches=names, band="none", legend=False)
        draw_alike(axes[3:5], [partial(draw, spectra[when]) for when in ("start", "end")])
        for ax, when in zip(axes[3:], ("start", "end"), strict=False):
            words = "at the start" if when == "start" else "after training"
            ax.set_title(f"Hessian {words}", fontsize=8)
        traces(axes[5], rows, names)
        shared_legend(figure, axes[3:5])
    return figure


def say(job: Job, rows: pd.DataFrame, claims: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Print every measure by method, and what KD-LTS is compared with each of the others."""
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name}, mean +- standard deviation over {seeds(job)}")
    for when, words in (("epochs", ALONG), ("start", CURVED), ("end", CURVED)):
        print(f"\n{WHEN[when]}\n{'':30}" + "".join(f"{name:>22}" for name in words))
        part = rows.loc[rows["when"] == when]
        for name in names:
            by = part.loc[part["branch"] == name].groupby("measure")["value"].agg(["mean", "std"])
            cells = (f"{by['mean'][m]:.4g} +- {by['std'][m]:.2g}" for m in words)
            print(f"{looks[name].label:30}" + "".join(f"{cell:>22}" for cell in cells))
    if claims.empty:
        return
    print(
        f"\n{looks[OURS].label} compared with the others, networks of the same seed with each other"
    )
    for (when, measure), part in groups(claims, "when", "measure"):
        if measure not in LESS:
            continue
        print(f"{(ALONG | CURVED)[measure]}, {WHEN[when]} (less is {LESS[measure]})")
        for row in part.to_dict("records"):
            print(f"    {looks[row['branch']].label:30}{in_words(row)}")


def main(settings: Settings) -> None:
    """Measure smoothness and curvature of every method's networks, draw and print."""
    names = chosen(settings.methods, SHOWN, (*METHODS, "dense"))
    job = prepare(__file__, settings, **sizes(settings))
    level, steps = checked_level(job, settings.level), first_epochs(job)
    every = min(settings.every, steps)
    monitor = jt.probes.Smoothness.of(job.training, every=every)
    probe = jt.probes.Curvature(order=settings.order, samples=settings.samples)
    with budget(job):
        watched = over(
            job, names,
            lambda runs, levels: job.telemetry(runs, levels=levels, steps=steps, monitor=monitor),
            levels=(level,),
        )  # fmt: skip
        spectra = {
            when: measured(
                job, names, probe, levels=(level,), split="train", examples=settings.examples,
                weights="trained" if when == "end" else "start",
            )
            for when in ("start", "end")
        }  # fmt: skip
    watched = from_the_start(watched)
    rows = jt.results.concat(
        [along(watched), *(curved(table, when) for when, table in spectra.items())]
    )
    claims = compared(rows, keys=("when",)) if OURS in names else pd.DataFrame()
    say(job, rows, claims, names)
    figure = "figure_8" if job.preset.network == "resnet20" else "figure_30"
    tables = {"landscape": summary(rows)} | ({} if claims.empty else {"claims": claims})
    more = {name: getattr(settings, name) for name in ("order", "samples", "examples")}
    looks = jt.plots.branch_styles(names)
    above = ", ".join(looks[name].label for name in with_bands(names))
    save(job, {figure: drawn(watched, spectra, rows, names)}, tables=tables,
         pruning=f"one density, in the upper panels {above} alone",
         more={"methods": names, "level": level, "watched_steps": steps, "every": every, **more},
         bands="bands go from the least to the greatest step length, means over seeds")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
