"""Figures 5-12 and 5-14 of Frankle's thesis: pruning at a step k of training.

Dense networks are trained to step k, pruned to one density, and trained with the whole schedule
from its start, for every k and method. LTR is the upper line: the mask of magnitude pruning after
training on the weights of step k, trained with the whole schedule too (section 5.2; with
--ltr-schedule remaining for the steps that are left, as in chapter 4). Figure 5-14 shows the
controls of every method. `--preset` chooses the panels: lenet-mnist, resnet20-cifar10,
vgg16-cifar10.

Command:  python -m experiments.thesis_ch5.by_step [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figures 5-12 and 5-14, steps.csv, controls.csv, layers.csv (weights and units left by
          layer); accuracies by step, what each control changes, and how many classes have no
          weights left, in the terminal.
Sizes:    lenet-mnist: quick 3 seeds, 1 level pruning 96.5%, 400 steps, 10% of the examples; reduced
          3 seeds, 1 level pruning 96.5%, 6,000 steps; paper 5 seeds, 1 level pruning 96.5%, 24,000
          steps.
Cost:     at the reduced size 24 minutes with lenet-mnist on 2 cores of an AMD EPYC; the paper's
          size is not measured.
Expected: at paper size (26.2% of ResNet-20, 6.9% of VGG-16) random pruning is as accurate at every
          step. Magnitude, SNIP and SynFlow become better the later they prune, GraSP hardly.
          Magnitude pruning reaches at step 25,000 (26,000) what LTR has at 1,000 (2,000). It
          becomes sensitive to shuffling and reinitialization after 5,000 (10,000) steps, and so
          does SNIP.
"""

from __future__ import annotations

import dataclasses
from typing import Literal

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import (
    differences,
    groups,
    in_words,
    lost_classes,
    named,
    order,
    save,
    seeds,
    single,
)
from experiments.common.scored import KNOWN, SMALL, USUAL, density_of, panels, run, seeds_of
from experiments.common.scored import Settings as Common

METHODS = ("random", "magnitude", "snip", "grasp", "synflow")
LTR = "LTR"
# steps of the source's training; at quick size shares of the shorter one
PAPER = (0, 500, 1_000, 2_000, 5_000, 10_000, 20_000, 30_000, 40_000)
REDUCED = (0, 0.02, 0.06, 0.2, 0.5, 1)
SHARES = {"lenet": (0, 0.05, 0.25, 1), "default": (0, 0.25, 1)}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the chapter, steps k, the density and the controls."""

    at: tuple[int, ...] | None = None
    """Steps at which to prune, of the training at its size; the last one is after training."""
    at_density: float | None = None
    """Density to prune to: 0.262 for ResNet-20, 0.069 for VGG-16, 0.035 for LeNet."""
    controls: tuple[str, ...] | None = None
    """shuffle, reinit, inverted, sign_flip; the first three if not given (a quick ResNet: two)."""
    ltr_schedule: Literal["full", "remaining"] = "full"
    """Schedule of LTR: all of it, as for the other methods, or the rest of it after step k."""


def steps_of(job: Job, settings: Settings) -> tuple[int, ...]:
    """Give the steps at which to prune.

    Raises:
      ValueError: for a step outside of the training.
    """
    last = job.size.steps
    if settings.at is not None:
        steps = settings.at
    elif settings.size == "reduced":
        steps = tuple(round(share * last) for share in REDUCED)
    elif settings.size == "quick":
        shares = SHARES.get(str(job.preset.network), SHARES["default"])
        steps = tuple(round(share * last) for share in shares)
    else:
        shrink = last / job.preset.training.steps
        steps = (*(round(k * shrink) for k in PAPER if k * shrink < last), last)
    steps = tuple(sorted(set(steps)))
    if not steps or steps[0] < 0 or steps[-1] > last:
        raise ValueError(f"`at` must be steps in [0, {last}], got {steps}")
    return steps


def report(job: Job, table: pd.DataFrame, found: pd.DataFrame) -> None:
    """Print mean final accuracies by step, and what every control changes there."""
    final = jt.results.concat(
        jt.speed.final(own).assign(pruned_at=k) for k, own in table.groupby("pruned_at")
    )
    dense = 100 * final.loc[final["level"] == 0]["value"].mean()
    own = final.loc[final["level"] > 0]
    wide = own.pivot_table(index="branch", columns="pruned_at", values="value", sort=False) * 100
    names = order(wide.index)
    looks = jt.plots.branch_styles(names)
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in % by step of pruning, means over {seeds(job)}")
    print(f"{100 * job.densities[0]:.3g}% of weights; dense {dense:.1f}\n")
    print(f"{'step':44}" + "".join(f"{k:>10}" for k in wide.columns))
    for name in names:
        cells = (wide.loc[name, k] for k in wide.columns)
        print(f"{looks[name].label:44}" + "".join(f"{value:10.1f}" for value in cells))
    if found.empty:
        return
    print("\ncontrol minus method, in points +- pooled standard deviation; * is sensitive")
    for (method, control), rows in groups(found, "method", "control"):
        words = "".join(
            f"{in_words(row):>18}" for _, row in rows.sort_values("pruned_at").iterrows()
        )
        print(f"{method:12} {control:10}{words}")


def main(settings: Settings) -> None:
    """Prune at every step with every method, train, and draw accuracy against the step."""
    density = settings.at_density or density_of(jt.preset(settings.preset))
    one = {"levels": 1, "fraction": round(1 - density, 6)}
    job = prepare(
        __file__,
        settings,
        quick={**SMALL, **one, "steps": 150, "eval_every": 150},
        lenet={**USUAL, **one, "steps": 400, "eval_every": 400},
        reduced=one,
        paper={**one, "seeds": seeds_of(settings)},
    )
    small = settings.size != "paper" and job.preset.network != "lenet"
    methods = chosen(settings.methods, METHODS, KNOWN)
    usual = ("shuffle", "reinit") if small else ("shuffle", "reinit", "inverted")
    controls = usual if settings.controls is None else settings.controls
    steps = steps_of(job, settings)
    tables, layers = [], []
    with budget(job):
        # the weights of the last step are what magnitude pruning after training goes on with
        for k in (k for k in steps if k < job.size.steps):
            options = {"one_shot": True, "rewind": k, "schedule": settings.ltr_schedule}
            own = job.find_tickets(sub=f"ltr-{k}", **options)
            tables.append(named(own.table(), LTR).assign(pruned_at=k))
        for name in methods:
            # without a score there is nothing to take away
            tried = () if name == "random" else controls
            branches = tuple(control for control in tried if control != "inverted")
            parts = {name: run(job, name, step=steps, branches=branches, dense=True)}
            if "inverted" in tried:
                parts[f"{name}_inverted"] = run(job, f"{name}_inverted", step=steps)
            layers += [
                jt.layers.report(own).assign(branch=name, pruned_at=k)
                for k, own in parts[name].items()
            ]
            tables += [
                named(own.table(), label).assign(pruned_at=k)
                for label, by_step in parts.items()
                for k, own in by_step.items()
            ]
    table = jt.results.concat(tables).drop_duplicates(
        ["seed", "level", "branch", "pruned_at", "step", "split", "metric"], ignore_index=True
    )
    found = jt.results.concat(
        differences(own).assign(pruned_at=k) for k, own in table.groupby("pruned_at")
    )
    report(job, table, found)
    left = jt.results.concat(layers).query("level > 0")
    lost_classes(left, "pruned_at")
    marks = [m for m in job.training.milestones if steps[0] <= m <= steps[-1]]
    shown = table.assign(branch=table["branch"].where(table["level"] > 0, "dense"))
    with jt.plots.style():
        figure, ax = single(5.6, 4.0)
        jt.plots.accuracy_at_step(shown, ax, branches=[LTR, *methods], band="minmax", marks=marks)
    figures = {"figure_5-12": figure}
    own = [name for name in methods if len(found) and name in set(found["method"])]
    if own:
        figures["figure_5-14"] = panels(
            own, table, jt.plots.accuracy_at_step, band="minmax", marks=marks
        )
    final = jt.speed.over_seeds(
        jt.results.concat(
            jt.speed.final(own).assign(pruned_at=k) for k, own in table.groupby("pruned_at")
        ),
        by=["pruned_at"],
    )
    more = {"methods": methods, "controls": controls, "at": steps, "at_density": density}
    more["ltr_schedule"] = settings.ltr_schedule
    tables = {"steps": final, "controls": found, "layers": left}
    pruning = f"pruned to {100 * density:.3g}% at the step shown, then trained with all steps"
    save(job, figures, tables=tables, more=more, pruning=pruning)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
