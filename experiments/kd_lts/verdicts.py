"""Figure 11 and Table 1 of KD-LTS: what controls do to tickets, and who finds winning tickets.

For tickets of every method at one density `jt.verdict` trains the ticket, a copy under other SGD
noise, and what it has to beat: reinitialized weights, flipped signs, masks shuffled in each layer
and over all, and a small dense network of as many parameters; and the dense network at three
learning rates, of which the best on a validation split counts.

Command:  python -m experiments.kd_lts.verdicts [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    figure_11 (accuracy of tickets and controls), table_1.csv, conditions.csv; each verdict in
          the terminal, then Table 1.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps; reduced 3 seeds,
          3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 7 levels pruning 20.5%, 18,760 steps.
Cost:     at the reduced size 14 minutes with the settings of
          results/kd_lts/verdicts-lenet-mnist-kd_lts-reduced-6060aca504 on 2 cores of an AMD EPYC;
          the paper's size is not measured.
Expected: the paper finds tickets of IMP from step 0, SNIP, GraSP, SynFlow and ProsPr neither stable
          nor sensitive, those of GEM-MINER sensitive, those from epoch 3 (LTH-Rewind, CS) both, and
          only KD-LTS to find winning tickets, with 20% of LeNet's weights and 45% of ResNet-20's.
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import save, seeds, shared_legend, single
from experiments.kd_lts._common import LENET, QUICK, dense, ladder, masks, paper, third_epoch
from experiments.kd_lts._common import Settings as Common
from jaxticket.plots._style import BranchStyle

START = ("ltr", "snip", "grasp", "synflow", "prospr", "gem_miner", "kd_lts")
LATE = {"ltr_late": "ltr", "continuous_late": "continuous"}
METHODS = (*START, *LATE)
# stable, sensitive, finds masks at initialization, wins, cost in epochs
PRINTED: dict[str, tuple[bool, bool, bool, bool, float]] = {
    "ltr": (False, False, True, False, 2850),
    "snip": (False, False, True, False, 1),
    "grasp": (False, False, True, False, 1),
    "ltr_late": (True, True, False, False, 3000),
    "synflow": (False, False, True, False, 3),
    "prospr": (False, False, True, False, 200),
    "gem_miner": (False, True, True, False, 220),
    "continuous_late": (True, True, False, False, 360),
    "kd_lts": (True, True, True, True, 150),
}
"""Table 1 of the paper."""
CONTROLS = ("sign_flip", "reinit", "shuffle", "random", "small_dense")
"""What tickets have to beat."""
NAMES = {
    "ltr": "LTH",
    "ltr_late": "LTH, rewound to epoch 3",
    "continuous_late": "continuous, from epoch 3",
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, which methods, and which density."""

    methods: tuple[str, ...] | None = None
    """Some of the script's METHODS; all of them if not given."""
    at_density: float | None = None
    """Density of the tickets; that of the paper's sparsest winning ticket, or 20%, if not given."""


def label(name: str) -> str:
    """Give the name of a method in figures."""
    return NAMES.get(name) or jt.plots.branch_styles([name])[name].label


def verdict_on(job: Job, name: str) -> jt.Verdict:
    """Give the verdict on the tickets of a method at the job's lowest density."""
    start = third_epoch(job) if name in LATE else 0
    runs = masks(job, LATE.get(name, name), start)
    return job.verdict(runs, level=max(runs.levels), training=job.training, method=label(name))


def drawn(final: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw the final accuracy of tickets and of their controls, over seeds."""
    looks = jt.plots.branch_styles(CONTROLS)
    # of whatever method
    looks = {"ticket": BranchStyle("ticket", "0.2", "o"), **looks}
    final = final.loc[final["branch"].isin([*looks, "dense"])]
    rows = final.groupby(["method", "branch"])["value"].agg(["mean", "min", "max"])
    with jt.plots.style():
        figure, ax = single(1.6 + 1.15 * len(names), 4.2)
        for place, (branch, look) in enumerate(looks.items()):
            own = 100 * rows.xs(branch, level="branch").reindex(list(names))
            at = np.arange(len(names)) + (place - (len(looks) - 1) / 2) * 0.8 / len(looks)
            reach = [own["mean"] - own["min"], own["max"] - own["mean"]]
            ax.errorbar(at, own["mean"], yerr=np.asarray(reach), fmt=look.marker, color=look.color,
                        markersize=4, capsize=2, label=look.label)  # fmt: skip
        dense = 100 * float(np.mean(rows.xs("dense", level="branch")["mean"]))
        ax.axhline(dense, color="0.5", linestyle=":", linewidth=1, label="dense")
        ax.set_xticks(range(len(names)), [label(name).replace(", ", ",\n") for name in names])
        ax.set_ylabel("Test accuracy (%)")
        shared_legend(figure, [ax])
    return figure


def say(table: pd.DataFrame) -> None:
    """Print Table 1 next to the paper's."""
    print("here, and in brackets the paper; of five controls, how many are beaten by a clear gap\n")
    print(f"{'':26}{'stable':>14}{'sensitive':>16}{'at init':>12}{'wins':>12}{'epochs':>16}")
    for row in table.to_dict("records"):
        printed = PRINTED.get(row["branch"])
        cells = []
        for place, key in enumerate(("stable", "sensitive", "at_init", "wins")):
            printed_too = "" if printed is None else f" ({'yes' if printed[place] else 'no'})"
            own = "yes" if row[key] else "no"
            own += f" {row['beats']}" if key == "sensitive" else ""
            cells.append(f"{own}{printed_too}")
        cost = f"{row['cost_epochs']:.3g}" + ("" if printed is None else f" ({printed[4]:g})")
        widths = (14, 16, 12, 12)
        wide = "".join(f"{cell:>{w}}" for cell, w in zip(cells, widths, strict=True))
        print(f"{label(row['branch']):26}{wide}{cost:>16}")


def main(settings: Settings) -> None:
    """Find masks with every method, judge them, draw and print."""
    names = chosen(settings.methods, METHODS)
    asked = settings.at_density
    density = jt.preset(settings.preset).matching_density or 0.2 if asked is None else asked
    levels = ladder(settings, density)
    job = prepare(__file__, settings, quick={**QUICK, **levels}, lenet={**LENET, **levels},
                  reduced=levels, paper=paper(settings, **levels), held_out=0.1)  # fmt: skip
    with budget(job):
        # the folder itself is a run's
        dense(job)
        verdicts = {name: verdict_on(job, name) for name in names}
    for found in verdicts.values():
        print(f"\n{found}")
    conditions, final = (
        jt.results.concat([part(found).assign(method=name) for name, found in verdicts.items()])
        for part in (jt.Verdict.conditions, lambda found: jt.speed.final(found.networks()))
    )
    table = jt.overview(verdicts.values()).assign(branch=list(verdicts))
    share = f"{100 * job.densities[-1]:.3g}%"
    print(f"\n{job.network_name} on {job.data_name}, {share} of the weights, {seeds(job)}")
    say(table)
    save(job, {"figure_11": drawn(final, names)},
         tables={"table_1": table, "conditions": conditions}, more={"methods": names},
         bands=None, pruning=f"{share} of the weights; markers are means, bars go from the least "
         "to the greatest seed")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
