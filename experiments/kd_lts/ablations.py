"""Figure 15 of KD-LTS: its search with one part changed at a time.

Number of teachers, and whether a step asks all of them or one; how far they are trained; how long
the search is; how much of the data it sees, in as many steps; teachers trained before the search or
along with it; the temperature; what is learned in addition to the labels; and, which the paper has
not, whether soft masks start at 1 or at 1/2 and tickets keep that factor, and whether scores are
normalized and the selection is cumulative. Everything else is as the preset says, tickets are
trained on all data with the whole schedule.

Command:  python -m experiments.kd_lts.ablations [--only GROUP ...] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_15 (a panel for each group), ablations.csv; accuracies in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 2 levels pruning 80%, 18,760 steps; reduced 3 seeds, 2
          levels pruning 80%, 6,000 steps; paper 3 seeds, 2 levels pruning 80%, 18,760 steps.
Cost:     not measured at either size.
Expected: one teacher asked at each step is as good as the mean of all; more teachers matter at low
          densities alone; teachers of epoch 10 are better than those of 3 or 40; 70% of the epochs
          or of the data suffice; online teachers are as good as offline ones; temperatures below 1
          are better; soft answers and labels suffice. (Said by the paper without numbers.)
"""

from __future__ import annotations

import dataclasses
import re
from typing import NamedTuple

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import kd_lts
from experiments.common.report import cell, grid, save, seeds
from experiments.common.report import groups as groups_of
from experiments.kd_lts._common import LENET, QUICK, Settings, dense, epochs, paper
from jaxticket.plots._style import percent
from jaxticket.sparsify.learned import KNOWLEDGE, Method

SHARES = (0.3, 0.5, 0.7, 1.0)
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7")
GROUPS = ("teachers", "stage", "epochs", "data", "scheme", "temperature", "knowledge", "start",
          "scores")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    """Options of this script: those of the paper's scripts, and which groups."""

    only: tuple[str, ...] | None = None
    """Some of GROUPS; all of them if not given."""


class Variant(NamedTuple):
    """A search, and the share of the data that it sees."""

    method: Method
    share: float = 1.0


def variants(job: Job, group: str) -> dict[str, Variant]:
    """Give the variants that a group compares, by the name in its panel."""
    usual = kd_lts(job)
    asked, length = usual_epochs(job), usual.length
    if group == "teachers":
        found = {"1": kd_lts(job, teachers=1)}
        for count in (2, 3, 5):
            found[f"{count}, mean"] = kd_lts(job, teachers=count)
            found[f"{count}, one"] = kd_lts(job, teachers=count, one=True)
    elif group == "stage":
        # of LeNet's 40 epochs 3, 10 and 40
        found = {
            f"epoch {share * epochs(job):g}": kd_lts(job, stage=share)
            for share in (3 / 40, 0.25, 1.0)
        }
    elif group == "epochs":
        assert isinstance(length, float)
        found = {
            f"{100 * share:g}%": kd_lts(
                job, epochs=max(1, round(share * asked)), length=share * length
            )
            for share in SHARES
        }
    elif group == "data":
        return {f"{100 * share:g}%": Variant(usual, share) for share in SHARES}
    elif group == "scheme":
        found = {"offline": usual, "online": kd_lts(job, online=True, stage=0.0)}
    elif group == "temperature":
        found = {f"{t:g}": kd_lts(job, temperature=float(t)) for t in (0.5, 1, 2, 10, 30)}
    elif group == "start":
        found = {
            "1": usual,
            "1, tickets without the factor": kd_lts(job, scaled_tickets=False),
            "1/2": kd_lts(job, scaled=False),
        }
    elif group == "scores":
        found = {
            "as they are": usual,
            "normalized": kd_lts(job, normalized=True),
            "cumulative": kd_lts(job, cumulative=True),
        }
    else:
        found = {
            "labels alone": kd_lts(job, alpha=1.0, knowledge=()),
            "soft answers": kd_lts(job, knowledge=()),
            "soft answers, AE-KD": kd_lts(job, knowledge=(), ensemble="agreement"),
            "as the preset": usual,
            **{name.replace("_", " "): kd_lts(job, knowledge=(name,)) for name in KNOWLEDGE},
        }
    return {name: Variant(method) for name, method in found.items()}


def usual_epochs(job: Job) -> int:
    """Give the epochs of the preset's search."""
    return job.preset.settings.get("epochs", 40)


def found_and_trained(job: Job, name: str, variant: Variant) -> jt.Runs:
    """Find the tickets of a variant and train them on all data."""
    if variant.share == 1:
        return job.search(variant.method, sub=name, dense=False)
    assert isinstance(job.data, jt.data.Data)
    part = dataclasses.replace(job, data=job.data.fraction(variant.share))
    runs = part.search(variant.method, sub=name, dense=False, train=False)
    return job.branch(dataclasses.replace(runs, data=job.data), "retrain")


def rows_of(runs: jt.Runs) -> pd.DataFrame:
    """Give final test accuracies: seed, level, density, value."""
    table = runs.table()
    return jt.speed.final(table.loc[table["branch"] != "supermask"]).loc[
        :, ["seed", "level", "density", "value"]
    ]


def drawn(job: Job, rows: pd.DataFrame, whole: pd.Series) -> Figure:
    """Draw a panel for each group: variants from left to right, a color for each density.

    All have equal axes of accuracy.
    """
    groups = list(rows["group"].unique())
    sizes = [max(3, rows.loc[rows["group"] == group]["variant"].nunique()) for group in groups]
    levels = sorted(rows["level"].unique())
    with jt.plots.style():
        figure, axes = grid(len(groups), min(3, len(groups)), (3.6, 3.1))
        for ax in axes[1:]:
            # nothing here depends on the limits
            ax.sharey(axes[0])
        for ax, group, size in zip(axes, groups, sizes, strict=True):
            own = rows.loc[rows["group"] == group]
            names = list(own["variant"].unique())
            ax.axhspan(100 * whole.min(), 100 * whole.max(), color="0.5", alpha=0.18, linewidth=0)
            ax.axhline(100 * whole.mean(), color="0.5", linewidth=1.1, label="dense")
            for i, (level, color) in enumerate(zip(levels, COLORS, strict=False)):
                by = own.loc[own["level"] == level].groupby("variant")["value"]
                mean, low, high = (100 * getattr(by, f)()[names] for f in ("mean", "min", "max"))
                at = [place + 0.12 * (i - (len(levels) - 1) / 2) for place in range(len(names))]
                label = f"{percent(job.densities[level - 1])}% of weights"
                ax.errorbar(at, mean, [mean - low, high - mean], fmt="o", color=color, label=label)
            slanted = {"rotation": 40, "ha": "right"} if size > 5 else {}
            ax.set_xticks(range(len(names)), names, **slanted)
            ax.set(title=group, xlim=(-0.5, len(names) - 0.5))
            ax.set_ylabel("test accuracy (%)")
        handles, labels = axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper center", ncols=len(labels))
    return figure


def main(settings: Options) -> None:
    """Search with every variant, train the tickets, draw and print."""
    groups = chosen(settings.only, GROUPS)
    two = {"levels": 2, "fraction": 0.8}
    job = prepare(
        __file__, settings, quick={**QUICK, **two}, lenet={**LENET, **two, "eval_every": 9_380},
        reduced=two, paper=paper(settings, **two),
    )  # fmt: skip
    done: dict[Variant, pd.DataFrame] = {}
    parts = []
    with budget(job):
        whole = jt.speed.final(dense(job).table()).loc[:, "value"]
        for group in groups:
            for name, variant in variants(job, group).items():
                if variant not in done:
                    sub = re.sub(r"[^a-z0-9]+", "_", f"{group} {name}".lower()).strip("_")
                    done[variant] = rows_of(found_and_trained(job, sub, variant))
                parts.append(done[variant].assign(group=group, variant=name))
    rows = jt.results.concat(parts)
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}; dense ", end="")
    print(f"{cell(whole.agg(['mean', 'min', 'max']), 2)}\n")
    print(f"{'density':34}" + "".join(f"{100 * d:24.2f}%" for d in job.densities))
    for (group, name), own in groups_of(rows, "group", "variant"):
        by = own.groupby("level")["value"].agg(["mean", "min", "max"])
        cells = "".join(f"{cell(row, 2):>25}" for _, row in by.iterrows())
        print(f"{group + ': ' + name:34}{cells}")
    save(job, {"figure_15": drawn(job, rows, whole)}, tables={"ablations": rows},
         more={"only": groups}, bands="bars go from the least to the greatest seed",
         pruning="densities one by one")  # fmt: skip


if __name__ == "__main__":
    launch(main, Options, __doc__)
