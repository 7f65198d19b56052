"""RigL's accuracies on CIFAR-10, next to those that its author printed.

Masks that RigL moves (ERK, every 100 steps, 30% falling along a cosine), masks that stay as they
were drawn, and SET, at 50, 20, 10 and 5% of the weights; with `--longer` also at twice the length,
with all times of the schedule and the last update moved in proportion. WRN-22-2, whose first
convolution stays dense and is not counted.

Command:  python -m experiments.mask_rules.rigl_reference [--preset NAME] [--size paper]
          [--budget MINUTES]
Makes:    reference.csv, final.csv, accuracy.png; measured and printed accuracies in the terminal.
Sizes:    wrn22_2-cifar10-rigl: quick 2 seeds, 160 steps of batch 64, 20% of the examples, width
          0.5; paper 3 seeds, 97,656 steps.
Cost:     not measured at either size.
Expected: at paper size, with 50, 20, 10 and 5% of the weights, RigL 94.2, 93.6, 92.9 and 91.8%,
          static masks 94.1, 92.9, 91.5 and 89.0% (by the author in issue 8 of RigL's repository,
          which gives no spread); of SET nothing is printed there.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.job import Settings as Common
from experiments.common.report import at_full_size, cell, named, save, seeds, single
from jaxticket.sparsify.dynamic import DropAndGrow, MaskRule, Static

NAN = float("nan")
# in percent by density: the answers of the author in github.com/google-research/rigl/issues/8
PRINTED: dict[str, dict[float, float]] = {
    "static": {0.5: 94.1, 0.2: 92.9, 0.1: 91.5, 0.05: 89.0},
    "rigl": {0.5: 94.2, 0.2: 93.6, 0.1: 92.9, 0.05: 91.8},
    "static_longer": {0.5: 94.1, 0.2: 93.2, 0.1: 91.8, 0.05: 89.7},
    "rigl_longer": {0.5: 94.2, 0.2: 93.8, 0.1: 93.3, 0.05: 92.4},
}
OF = "wrn22_2-cifar10-rigl"
"""The preset that these numbers are of."""
RULES = ("static", "set", "rigl")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of all, with another preset, and which rules."""

    preset: str = OF
    """Network, data, training, rule and densities: a preset of RigL."""
    methods: tuple[str, ...] | None = None
    """Some of static, set and rigl; all of them if not given."""
    longer: bool = False
    """Train everything twice as long, too."""


def rule_of(job: Job, name: str) -> MaskRule:
    """Give a rule with the settings of the preset's."""
    usual = job.preset.rule
    assert isinstance(usual, DropAndGrow), "a preset of RigL"
    if name == "static":
        return Static(usual.layout)
    shared = {field.name: getattr(usual, field.name) for field in dataclasses.fields(DropAndGrow)}
    # short trainings have fewer updates, but some
    shared["every"] = max(1, min(usual.every, job.size.steps // 20))
    return dataclasses.replace(jt.RULES[name], **shared)  # type: ignore[type-var]


def compared(job: Job, table: pd.DataFrame) -> pd.DataFrame:
    """Print and return what was measured, next to the printed numbers."""
    rows = jt.speed.over_seeds(jt.speed.final(table)).sort_values(["level", "branch"])
    asked = job.preset.arguments["density"]
    found = []
    for row in rows.to_dict("records"):
        density = asked[row["level"] - 1] if row["level"] else 1.0
        known = PRINTED if job.preset.name == OF else {}
        branch = str(row["branch"]) if row["level"] else "dense"
        printed = known.get(branch, {}).get(density, NAN)
        found.append({**row, "branch": branch, "printed": printed})
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}\n")
    print(f"{'':16}{'density':>9}{'here':>24}{'printed':>9}")
    for row in found:
        here = cell(row, 2)
        print(f"{row['branch']:16}{100 * row['density']:8.2f}%{here:>24}{row['printed']:9.1f}")
    if not at_full_size(job):
        print(f"(printed numbers: {job.preset.training.steps:,} steps on all of the data)")
    return jt.results.frame(found)


def main(settings: Settings) -> None:
    """Train under the rules at the preset's densities, and print the table."""
    names = chosen(settings.methods, RULES)
    if jt.preset(settings.preset).function != "sparse_train":
        known = ", ".join(name for name, p in jt.PRESETS.items() if p.function == "sparse_train")
        raise ValueError(f"`preset` must be one of {known}, got {settings.preset!r}")
    small = {"levels": 0, "eval_every": 160}
    job = prepare(__file__, settings, quick=small, paper={"levels": 0, "seeds": 3})
    options = {name: x for name, x in job.preset.arguments.items() if name != "rule"}
    lengths = {"": 1, "_longer": 2} if settings.longer else {"": 1}
    # the dense networks are trained with the first of them
    first = names[0]
    tables = []
    with budget(job):
        for end, factor in lengths.items():
            # the rule's steps are those of the training that it is made for
            training = job.training if factor == 1 else job.training.dilated(factor)
            for name in names:
                called = f"{name}{end}"
                rule = rule_of(job, name)
                runs = job.sparse_train(
                    rule, training=training, sub=called, dense=called == first, **options
                )
                tables.append(named(runs.table(), called))
    table = jt.results.concat(tables)
    found = compared(job, table)
    with jt.plots.style():
        figure, ax = single()
        jt.plots.accuracy(table, ax)
    more = {"methods": names, "longer": settings.longer}
    save(job, {"accuracy": figure}, table, tables={"reference": found}, more=more,
         pruning="masks by each rule")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
