"""Tables 4.1 and 4.2 of Frankle's thesis: are tickets from initialization matching?

The dense network; tickets rewound to step 0, their masks permuted within each layer (random
pruning, which keeps the layers' densities) and their masks with new weights (random reinit), at the
density next to that of Table 4.1; and tickets rewound to later steps k, where the setting needs
them (section 4.2.3). Tickets from step 0 are those of chapter 3, which are not trained again.
`--preset` chooses the rows: lenet-mnist, and resnet20-cifar10 and vgg16-cifar10, each also with
-low and -warmup.

Command:  python -m experiments.thesis_ch4.table_4_2 --preset resnet20-cifar10
          [--size reduced|paper] [--budget MINUTES]
Makes:    table_4_2.csv, final.csv, a figure of accuracy by density; the rows in the terminal,
          next to those of the thesis.
Sizes:    resnet20-cifar10: quick 2 seeds, 2 levels pruning 74%, 160 steps of batch 64, 20% of the
          examples, width 0.5; reduced 3 seeds, 6 levels pruning 36%, 2,344 steps of batch 128,
          width 0.5, images pooled by 2; paper 5 seeds, 20 levels pruning 20%, 63,000 steps.
Cost:     6.2 minutes with lenet-mnist at the paper's size on a core of an AMD EPYC, once the
          tickets are trained (53 minutes); with ResNets not measured.
Expected: at paper size, ResNet-20 on CIFAR-10 91.7% dense; with 16.8% of the weights 88.5% for
          tickets from step 0, 88.6% random, 88.8% reinitialized, and matching tickets from step
          500 on. With "-low" or "-warmup" tickets from step 0 are matching at 8.6%, 89.0 and 89.6%,
          where the controls reach 85 to 86%. All rows are in experiments/common/report.py.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, launch, prepare
from experiments.common.report import cell, compared_level, report, save, single
from experiments.thesis_ch3._tickets import Settings as Common
from experiments.thesis_ch3._tickets import beside, sizes, tickets

CONTROLS = ("shuffle", "reinit")
# Figure 4-18 finds ResNet-20 tickets matching from 500 on; 1,000 tells a plateau from a slope
REDUCED = (0.02, 0.06)
REWIND = {"resnet20-cifar10": (500, 1000), "vgg16-cifar10": (1000,)}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, and the steps to rewind to."""

    preset: str = "resnet20-cifar10"
    """Network, data and training: a name that `python -m jaxticket presets` lists."""
    rewind: tuple[int, ...] | None = None
    """Steps k other than 0, of the preset's training; they shrink with it. By default those of the
    preset."""


def later(job: Job, rewind: tuple[int, ...] | None) -> dict[int, int]:
    """Give the later steps to rewind to, as written: the step of the job's training for each.

    Raises:
      ValueError: for a step that is not inside of the training.
    """
    asked = REWIND.get(job.preset.name, ()) if rewind is None else rewind
    whole = job.preset.training.steps
    for k in asked:
        if not 0 < k < whole:
            raise ValueError(f"`rewind` must be above 0 and below {whole} steps, got {k}")
    if job.settings.size == "reduced" and rewind is None:
        # shrunk in proportion they would be a fraction of an epoch, before the rate has risen
        return {k: k for k in (round(share * job.size.steps) for share in REDUCED)}
    return {k: max(1, round(k * job.size.steps / whole)) for k in asked}


def rows(table: pd.DataFrame, level: int) -> pd.DataFrame:
    """Select final accuracies of the dense network and of every branch at a level."""
    means = jt.speed.over_seeds(jt.speed.final(table))
    last = means["level"] == level
    dense = (means["level"] == 0) & (means["branch"] == "ticket")
    chosen = means.loc[last | dense].copy()
    chosen.loc[chosen["level"] == 0, "branch"] = "dense"
    return chosen.sort_values("level", kind="stable", ignore_index=True)


def main(settings: Settings) -> None:
    """Find tickets from several steps, train the controls, and print the rows of the tables."""
    job = prepare(__file__, settings, **sizes(settings))
    steps = later(job, settings.rewind)
    level = max(1, compared_level(job))
    with budget(job):
        table = beside(job, tickets(job), CONTROLS, (level,))
        rewound = {
            f"k={k}": job.find_tickets(sub=f"k-{k}", rewind=at, levels=level)
            for k, at in steps.items()
        }
    parts = [table, *(found.table().assign(branch=name) for name, found in rewound.items())]
    table = jt.results.concat(parts)
    report(job, table)
    found = rows(table, level)
    print()
    for row in found.to_dict("records"):
        print(f"{row['branch']:>12} at {100 * row['density']:.3g}%: {cell(row, 2)}")
    figures = {}
    if rewound:
        with jt.plots.style():
            figures["rewinding"], ax = single()
            lines = [name for name in table["branch"].unique() if name not in CONTROLS]
            jt.plots.accuracy(table, ax, branches=lines)
    more = {"rewind": list(steps)}
    save(job, figures, table, tables={"table_4_2": found}, more=more)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
