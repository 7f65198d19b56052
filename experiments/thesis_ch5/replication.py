"""Tables of sections 5.3.4, 5.3.5 and 5.4.4 and Table 5.2 of Frankle's thesis: replications.

SNIP, GraSP and SynFlow at the settings of their papers, next to the accuracies that the papers
print and those that the thesis measured. `--preset` chooses the row: vgg16-cifar10-snip (also
vgg2_16-, wrn14_8-, wrn14_10- and wrn20_8-), vgg19-cifar10-grasp, wrn32_2-cifar10-grasp and
resnet50-imagenet-grasp (SNIP and GraSP at three densities), vgg11-cifar10-synflow (also vgg16-,
resnet18-), resnet18-cifar10-synflow_tuned and resnet18-tiny_imagenet-synflow. Of SynFlow the thesis
prints dense accuracies alone.

Command:  python -m experiments.thesis_ch5.replication [--preset NAME] [--size reduced|paper]
          [--budget MINUTES]
Makes:    replication.csv, final.csv, accuracy.png; the table in the terminal.
Sizes:    vgg16-cifar10-snip: quick 2 seeds, 160 steps of batch 64, 20% of the examples, width
          0.125; reduced 3 seeds, 2,344 steps of batch 128, width 0.25, images pooled by 2; paper 5
          seeds, 150,000 steps.
Cost:     not measured at either size.
Expected: at paper size, for example VGG-16 of SNIP: dense 91.7% (thesis 93.6%), with 3% of the
          weights 92.0% (92.1%). VGG-19 of GraSP with 5%: SNIP 93.4% (93.4%), GraSP 93.0% (92.5%),
          dense 94.2% (93.5%). All numbers stand in the table that is printed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.report import at_full_size, cell, named, save, seeds
from experiments.common.scored import AT_ONCE, figure_of

NAN = float("nan")
# in percent, (paper, thesis): of the dense network, then of scores by density
DENSE = {
    "vgg16-cifar10-snip": (91.7, 93.6),
    "vgg2_16-cifar10-snip": (93.2, 93.5),
    "wrn14_8-cifar10-snip": (93.8, 95.2),
    "wrn14_10-cifar10-snip": (94.1, 95.4),
    "wrn20_8-cifar10-snip": (93.9, 95.6),
    "vgg19-cifar10-grasp": (94.2, 93.5),
    "wrn32_2-cifar10-grasp": (94.8, 94.5),
    "resnet50-imagenet-grasp": (75.7, 76.2),
    # read off figures
    "vgg11-cifar10-synflow": (92.0, 92.0),
    "vgg16-cifar10-synflow": (94.0, 93.5),
    "resnet18-cifar10-synflow": (95.0, 93.7),
    "resnet18-cifar10-synflow_tuned": (NAN, 94.6),
    "resnet18-tiny_imagenet-synflow": (64.0, 58.8),
}
PRUNED: dict[tuple[str, str], dict[float, tuple[float, float]]] = {
    ("vgg16-cifar10-snip", "snip"): {0.03: (92.0, 92.1)},
    ("vgg2_16-cifar10-snip", "snip"): {0.05: (92.9, 92.3)},
    ("wrn14_8-cifar10-snip", "snip"): {0.05: (93.4, 93.4)},
    ("wrn14_10-cifar10-snip", "snip"): {0.05: (93.6, 93.9)},
    ("wrn20_8-cifar10-snip", "snip"): {0.05: (94.1, 94.3)},
    # SNIP diverged in the thesis at 2%
    ("vgg19-cifar10-grasp", "snip"): {0.1: (93.6, 93.5), 0.05: (93.4, 93.4), 0.02: (92.1, NAN)},
    ("vgg19-cifar10-grasp", "grasp"): {0.1: (93.3, 92.8), 0.05: (93.0, 92.5), 0.02: (92.2, 91.6)},
    ("wrn32_2-cifar10-grasp", "snip"): {0.1: (92.6, 92.5), 0.05: (91.1, 91.0), 0.02: (87.5, 87.7)},
    ("wrn32_2-cifar10-grasp", "grasp"): {0.1: (92.4, 92.2), 0.05: (91.4, 90.9), 0.02: (88.8, 88.3)},
    ("resnet50-imagenet-grasp", "snip"): {0.4: (74.0, 73.9), 0.2: (69.7, 71.2), 0.1: (62.0, 65.7)},
    ("resnet50-imagenet-grasp", "grasp"): {0.4: (74.0, 73.4), 0.2: (72.0, 71.0), 0.1: (68.1, 67.0)},
}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, with another preset."""

    preset: str = "vgg16-cifar10-snip"
    """Network, data, training and densities: a preset of SNIP, GraSP or SynFlow."""


def options_of(job: Job, score: str) -> dict[str, Any]:
    """Give the preset's options of `jt.prune_at`, for its score or another one."""
    options = dict(job.preset.arguments)
    if score != job.preset.finder:
        options["score"] = score
    if "batch_size" in options:
        options["batch_size"] = min(options["batch_size"], len(job.data.train))
    return options


def compared(job: Job, table: pd.DataFrame) -> pd.DataFrame:
    """Print and return what was measured, next to the paper's numbers and the thesis's."""
    preset = job.preset.name
    rows = jt.speed.over_seeds(jt.speed.final(table)).sort_values(["level", "branch"])
    printed = []
    for row in rows.to_dict("records"):
        branch = "dense" if row["level"] == 0 else str(row["branch"])
        known = PRUNED.get((preset, branch), {})
        asked = 1.0 if row["level"] == 0 else job.preset.arguments["density"][row["level"] - 1]
        paper, thesis = DENSE[preset] if row["level"] == 0 else known.get(asked, (NAN, NAN))
        printed.append({**row, "branch": branch, "paper": paper, "thesis": thesis})
    print(f"\n{job.network_name} on {job.data_name} ({preset}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}\n")
    print(f"{'':12}{'density':>9}{'here':>24}{'paper':>8}{'thesis':>8}")
    for row in printed:
        print(
            f"{row['branch']:12}{100 * row['density']:8.2f}%{cell(row, 2):>24}"
            f"{row['paper']:8.1f}{row['thesis']:8.1f}"
        )
    if not at_full_size(job):
        print(f"(printed numbers: {job.preset.training.steps:,} steps on all of the data)")
    return jt.results.frame(printed)


def main(settings: Settings) -> None:
    """Prune with the preset's methods at its densities, train, and print the table."""
    if settings.preset not in DENSE:
        raise ValueError(f"`preset` must be one of {', '.join(DENSE)}, got {settings.preset!r}")
    small = {"levels": 0, "eval_every": 160}
    job = prepare(
        __file__, settings, quick=small, reduced={"levels": 0}, paper={"levels": 0, "seeds": 5}
    )
    scores = [score for preset, score in PRUNED if preset == settings.preset] or ["synflow"]
    tables = []
    with budget(job):
        for i, name in enumerate(scores):
            options = options_of(job, name)
            score = options.pop("score")
            runs = job.prune_at(score, sub="" if i == 0 else name, dense=i == 0, **options)
            tables.append(named(runs.table(), name))
    table = jt.results.concat(tables)
    found = compared(job, table)
    figures = {"accuracy": figure_of(scores, table)}
    save(job, figures, table, tables={"replication": found}, pruning=AT_ONCE)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
