"""Figure 21 of KD-LTS: its tickets on other data, with another optimizer, at another depth.

Tickets of KD-LTS from initialization and tickets rewound to epoch 3 (LTH-Rewind) are found in one
setting and trained in another, compared with random ones: new weights and a mask permuted over all
layers. Settings: between the halves of the data (or to other data, as the paper's CIFAR-10 and
CIFAR-100) and from SGD to Adam, both with a new output layer, and of residual networks from
ResNet-20 to ResNet-14, which keeps the output layer.

Command:  python -m experiments.kd_lts.transfer [--kinds data optimizer depth] [--to-data NAME]
          [--preset NAME] [--size reduced|paper] [--budget MINUTES]
Makes:    figure_21 (accuracy by density, a panel for each kind), gaps.csv; accuracies and the gaps
          in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps; reduced 3 seeds,
          10 levels pruning 36%, 6,000 steps; paper 3 seeds, 8 levels pruning 20.5%, 18,760 steps.
Cost:     not measured at any size.
Expected: KD-LTS above LTH-Rewind by 0.6 points between CIFAR-10 and CIFAR-100, 0.7 from SGD to
          Adam, and 0.42 from ResNet-20 to ResNet-14.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import learned
from experiments.common.report import cell, draw_alike, grid, save, seeds, shared_legend
from experiments.kd_lts._common import LENET, QUICK, dense, paper, third_epoch
from experiments.kd_lts._common import Settings as Common

# gaps of the paper, in points
KINDS = {"data": 0.6, "optimizer": 0.7, "depth": 0.42}
METHODS = ("kd_lts", "ltr")
ADAM = {"optimizer": "adam", "lr": 3e-4}
"""The rate of "One ticket to win them all"; the paper prints no settings of Adam."""
SHALLOWER = 14
TITLES = {
    "data": "Tickets moved between data sets",
    "optimizer": "Tickets moved from SGD to Adam",
    "depth": f"Tickets moved from ResNet-20 to ResNet-{SHALLOWER}",
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, and what changes."""

    kinds: tuple[str, ...] | None = None
    """Some of data, optimizer and depth; all that the network allows if not given."""
    to_data: str | None = None
    """Other data to go to, such as cifar100; from a half of the data to the other if not given."""


class Kind:
    """One change of setting: where tickets are found, and what they move to."""

    def __init__(self, job: Job, name: str, settings: Settings) -> None:
        """Make the change called `name`, one of KINDS."""
        self.source, self.options = job, dict[str, Any](to=job.data)
        if name == "optimizer":
            self.options["training"] = job.training.replace(**ADAM)
        elif name == "depth":
            # all but blocks carry over
            self.options |= {"net": job.net.adapted(depth=SHALLOWER), "reinit_output": False}
        elif settings.to_data is None:
            assert isinstance(job.data, jt.data.Data)
            first, self.options["to"] = job.data.halves()
            self.source = dataclasses.replace(job, data=first, folder=job.folder / "half")
            if settings.size == "paper" and settings.steps is None:
                # as many epochs
                half = dataclasses.replace(job.size, steps=job.size.steps // 2)
                self.source = dataclasses.replace(self.source, size=half)
        else:
            self.options["to"] = prepared(dataclasses.replace(settings, data=settings.to_data)).data


def prepared(settings: Settings) -> Job:
    """Give the job of these settings."""
    return prepare(
        __file__, settings, quick=QUICK, lenet={**LENET, "levels": 3, "eval_every": 18_760},
        paper=paper(settings),
    )  # fmt: skip


def allowed(job: Job) -> tuple[str, ...]:
    """Give the kinds that there are for a network."""
    deep = job.preset.network == "resnet20"
    return tuple(kind for kind in KINDS if deep or kind != "depth")


def moved(kind: Kind, name: str) -> pd.DataFrame:
    """Train all tickets in the target setting, in folders of its name, and give their tables."""
    job, parts = kind.source, []
    late = third_epoch(job)
    for method in METHODS:
        if method == "ltr":
            runs = job.find_tickets(sub=method, rewind=late)
        else:
            runs = learned(job, method, train=False)
        # random tickets, and the dense network, are drawn once
        own = {"branches": ("globally_permuted",) if method == "ltr" else ()}
        found = job.transfer(runs, sub=f"{method}_{name}", **kind.options, **own)
        table = found.table()
        random = table.loc[table["branch"] == "globally_permuted"]
        whole = random.loc[random["level"] == 0].assign(branch="ticket")
        rows = table.loc[(table["branch"] == "transferred") & (table["level"] > 0)]
        parts += [whole, rows.assign(branch=method),
                  random.loc[random["level"] > 0].assign(branch="random")]  # fmt: skip
    return jt.results.concat(parts)


def gaps_of(tables: Mapping[str, pd.DataFrame], printed: Mapping[str, float]) -> pd.DataFrame:
    """Compute the points that KD-LTS is above rewound tickets: kind, level, density, gap, paper."""
    rows = []
    for kind, table in tables.items():
        final = jt.speed.final(table)
        means = final.pivot_table(index=["branch", "level"], values=["value", "density"])
        for level, own in means.loc["kd_lts"].iterrows():
            gap = 100 * (own["value"] - means.loc[("ltr", level), "value"])
            rows.append({"kind": kind, "level": level, "density": own["density"], "gap": gap,
                         "paper": printed.get(kind, math.nan)})  # fmt: skip
    return jt.results.frame(rows)


def drawn(tables: Mapping[str, pd.DataFrame], *, other_data: bool) -> Figure:
    """Draw a panel for each kind, with equal axes but for kind "data" on `other_data`."""
    with jt.plots.style():
        figure, axes = grid(len(tables), len(tables), (4.2, 3.6))
        panels = [partial(jt.plots.accuracy, table, legend=False) for table in tables.values()]
        on = ["other" if other_data and kind == "data" else "same" for kind in tables]
        draw_alike(axes, panels, on)
        for ax, kind in zip(axes, tables, strict=True):
            halves = kind == "data" and not other_data
            ax.set_title("Tickets moved between halves of the data" if halves else TITLES[kind])
        shared_legend(figure, axes)
    return figure


def say(job: Job, tables: Mapping[str, pd.DataFrame], gaps: pd.DataFrame) -> None:
    """Print final accuracies, and the gaps next to the paper's."""
    looks = jt.plots.branch_styles([*METHODS, "random"])
    for kind, table in tables.items():
        rows = jt.speed.over_seeds(jt.speed.final(table)).set_index(["branch", "level"])
        print(f"\n{kind}: final test accuracy in %, mean (min to max) over {seeds(job)}; dense "
              f"{cell(rows.loc[('ticket', 0)])}")  # fmt: skip
        levels = rows.loc["kd_lts"].index
        print(f"{'':30}" + "".join(f"{100 * rows.loc[('kd_lts', n), 'density']:22.3g}%"
                                   for n in levels))  # fmt: skip
        for name, look in looks.items():
            print(f"{look.label:30}" + "".join(f"{cell(rows.loc[(name, n)]):>23}" for n in levels))
        mean, printed = gaps.loc[gaps["kind"] == kind].loc[:, ["gap", "paper"]].mean()
        known = "no such" if math.isnan(printed) else f"{printed:g}"
        print(f"KD-LTS above rewound tickets by {mean:.2f} points, the mean over densities "
              f"(the paper: {known})")  # fmt: skip


def main(settings: Settings) -> None:
    """Find tickets, move them, draw and print."""
    job = prepared(settings)
    names = chosen(settings.kinds, allowed(job))
    with budget(job):
        # the folder itself is a run's
        dense(job)
        tables = {}
        for name in names:
            to = f"to_{settings.to_data}" if name == "data" and settings.to_data else name
            tables[name] = moved(Kind(job, name, settings), to)
    # those between halves are not in the paper
    printed = {kind: gap for kind, gap in KINDS.items() if kind != "data" or settings.to_data}
    gaps = gaps_of(tables, printed)
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {settings.size} size)")
    say(job, tables, gaps)
    figure = drawn(tables, other_data=settings.to_data is not None)
    save(job, {"figure_21": figure}, tables={"gaps": gaps},
         more={"kinds": names, "to_data": settings.to_data},
         pruning="densities one by one, of rewound tickets level by level")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
