"""Learned masks beside rewound tickets, and which setting of a search makes the difference.

Tickets with rewinding (LTR, 20% per level) beside Concrete Ticket Search and KD-LTS, which are
searched to the densities of some of LTR's levels, at the lengths of their papers. CTS is searched
with one setting changed at a time: its objective, the learning rate and the optimizer of the scores
(Adam moves all scores alike, SGD in proportion to their weights), the temperature, what the
divergence compares with, where it starts and how long it is. KD-LTS with and without the factor of
its soft masks, which is part of the network that it searches, with normalized scores, with a
selection from which nothing returns, and from epoch 3. Both papers report their tickets above LTR:
CTS from about 1% of the weights down, KD-LTS at all densities.

Command:  python experiments/kd_lts/against_rewinding.py [--only GROUP ...] [--at LEVEL ...]
          [--preset NAME] [--size paper] [--budget MINUTES]
Makes:    settings (accuracy of each setting at each density), settings.csv; the table of settings,
          accuracies and seconds in the terminal.
Cost:     see experiments/README.md.
Expected: (papers) CTS beside LTR at 7% and above it at 1% and below; KD-LTS above it at all
          densities. Without the factor KD-LTS is below LTR.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any, NamedTuple

import _path  # noqa: F401
import tyro
from _common import QUICK, Settings, dense, paper, third_epoch
from _job import Job, budget, learn, prepare, search
from _learned import kd_lts
from _methods import chosen
from _report import cell, save, seeds
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from jaxticket.search import Method, Schedule

GROUPS = ("ltr", "kd_lts", "cts", "rate", "optimizer", "temperature", "target", "start", "length")
AT = (10, 12, 20, 25)
"""Levels of 20%: 10.7, 6.9, 1.15 and 0.38% of the weights."""
# all of MNIST at the preset's length
LENET = {"seeds": 3, "levels": max(AT), "fraction": 0.2, "steps": 18_760, "eval_every": 18_760,
         "pool": 1, "share": 1.0, "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    """Options of this script: those of the paper's scripts, what is compared and where."""

    only: tuple[str, ...] | None = None
    """Some of GROUPS; all of them if not given."""
    at: tuple[int, ...] | None = None
    """Levels of LTR whose densities are compared; AT, or the last, if not given."""
    start: int | None = None
    """Step k that LTR rewinds to and that CTS searches at; epoch 3 of the preset's schedule."""


class Variant(NamedTuple):
    """A line of the table: a search, or LTR where there is no method.

    Attributes:
      method: what is learned, and how.
      start: the step whose weights are searched, or rewound to.
      steps: length of the search as `jt.search` takes it; None for the method's own.
    """

    method: Method | None
    start: int
    steps: str | float | None = None


def cts(objective: str = "loss", **options: Any) -> Method:
    """Concrete Ticket Search."""
    return jt.SEARCHES["concrete"](objective, **options)


def by_sgd(lr: float) -> Method:
    """CTS whose scores move in proportion to their gradients, and so to their weights."""
    optimizer = (("optimizer", "momentum"), ("lr", lr))
    return dataclasses.replace(cts(), optimizer=optimizer)


def variants(job: Job, group: str, start: int) -> dict[str, Variant]:
    """What a group compares, by name."""
    if group == "ltr":
        return {"LTR": Variant(None, start), "from step 0": Variant(None, 0)}
    if group == "kd_lts":
        return {
            "KD-LTS": Variant(kd_lts(job), 0),
            "without the factor": Variant(kd_lts(job, scaled_tickets=False), 0),
            "masks start at 1/2": Variant(kd_lts(job, scaled=False), 0),
            "normalized": Variant(kd_lts(job, normalized=True), 0),
            "cumulative": Variant(kd_lts(job, cumulative=True), 0),
            "from epoch 3": Variant(kd_lts(job), start),
        }
    if group == "start":
        early = {"0": 0, "1 epoch": max(1, start // 3), "3 epochs": start}
        return {name: Variant(cts(), at, "long") for name, at in early.items()}
    if group == "length":
        lengths = {"1/8": "short", "1/2": "half", "1": "long", "3": 3.0}
        return {name: Variant(cts(), start, length) for name, length in lengths.items()}
    methods: dict[str, Method] = {
        "cts": {"loss": cts(), "reverse KL": cts("reverse_kl"), "change": cts("change_of_loss")},
        "rate": {f"{lr:g}": cts(lr=lr) for lr in (0.01, 0.03, 0.1, 0.3)},
        "optimizer": {"Adam": cts(), **{f"SGD, {lr:g}": by_sgd(lr) for lr in (1.0, 10.0, 100.0)}},
        "temperature": {
            "2/3": cts(),
            "1/3": cts(temperature=1 / 3),
            "4/3": cts(temperature=4 / 3),
            "2 to 0.3": cts(temperature=Schedule(2.0, 0.3, "exponential")),
        },
        "target": {
            "dense at the start": cts("reverse_kl"),
            "trained a quarter": cts("reverse_kl", target=0.25),
            "trained": cts("reverse_kl", target=1.0),
        },
    }[group]
    return {name: Variant(method, start, "long") for name, method in methods.items()}


def found(job: Job, sub: str, variant: Variant, levels: tuple[int, ...]) -> Any:
    """Final test accuracy and the seconds that finding the mask took one seed: seed, at (the level
    of LTR), density, value, seconds.
    """
    if variant.method is None:
        runs = search(job, sub=sub, rewind=variant.start)
        at = {level: level for level in levels}
    else:
        densities = [job.densities[level - 1] for level in levels]
        runs = learn(job, variant.method, sub=sub, density=densities, dense=False,
                     start=variant.start, steps=variant.steps)  # fmt: skip
        at = dict(enumerate(levels, start=1))
    table = runs.table()
    rows = jt.speed.final(table[table["branch"] == "ticket"])
    seconds = jt.costs.finding(runs).set_index("level")["seconds"]
    rows = rows[rows["level"].isin(list(at))]
    return rows.assign(at=rows["level"].map(at), seconds=rows["level"].map(seconds))[
        ["seed", "at", "density", "value", "seconds"]
    ]


def summary(rows: Any) -> Any:
    """A row for each setting and density: mean, standard deviation, least and greatest accuracy
    over seeds, and the seconds for one.
    """
    keys = ["group", "setting", "at"]
    by = rows.groupby(keys, sort=False)
    stats = by["value"].agg(["mean", "std", "min", "max", "count"])
    return stats.assign(density=by["density"].mean(), seconds=by["seconds"].mean()).reset_index()


def say(job: Job, table: Any, whole: Any) -> None:
    """Prints the table."""
    levels = sorted(table["at"].unique())
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}), {job.size.steps} steps")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}; seconds to the mask of "
          f"the lowest density")  # fmt: skip
    print(f"dense {cell(whole.agg(['mean', 'min', 'max']), 2)}\n")
    shares = "".join(f"{100 * job.densities[level - 1]:24.2f}%" for level in levels)
    print(f"{'density':34}{shares}{'seconds':>10}")
    for (group, name), own in table.groupby(["group", "setting"], sort=False):
        own = own.set_index("at")
        cells = "".join(f"{cell(own.loc[level], 2):>25}" for level in levels)
        print(f"{group + ': ' + name:34}{cells}{own.loc[levels[-1], 'seconds']:10.0f}")


def drawn(job: Job, rows: Any) -> Figure:
    """A panel for each density: settings from top to bottom, a dot for each seed."""
    levels = sorted(rows["at"].unique())
    names = list(dict.fromkeys(rows["group"] + ": " + rows["setting"]))
    with jt.plots.style():
        height = 1.2 + 0.22 * len(names)
        figure, axes = pyplot.subplots(
            1, len(levels), figsize=(2.4 + 2.2 * len(levels), height), layout="constrained",
            sharey=True, squeeze=False,
        )  # fmt: skip
        for ax, level in zip(axes[0], levels, strict=True):
            own = rows[rows["at"] == level]
            place = (own["group"] + ": " + own["setting"]).map(names.index)
            ax.plot(100 * own["value"], place, "o", color="#0072B2", alpha=0.6, markersize=4)
            if "LTR" in set(own["setting"]):
                mean = 100 * own[own["setting"] == "LTR"]["value"].mean()
                ax.axvline(mean, color="0.5", linestyle=":", linewidth=1)
            ax.set(title=f"{100 * job.densities[level - 1]:.3g}%", xlabel="test accuracy, %")
        axes[0][0].set_yticks(range(len(names)), names)
        axes[0][0].invert_yaxis()
    return figure


def main(settings: Options) -> None:
    """Finds tickets with every setting, trains them, draws and prints."""
    groups = chosen(settings.only, GROUPS)
    job = prepare(
        __file__, settings, quick=QUICK, lenet=LENET,
        paper=paper(settings, levels=max(AT), fraction=0.2),
    )  # fmt: skip
    last = job.size.levels
    levels = tuple(sorted({min(level, last) for level in settings.at or AT}))
    start = third_epoch(job) if settings.start is None else settings.start
    done: dict[Variant, Any] = {}
    parts = []
    with budget(job):
        whole = jt.speed.final(dense(job).table())["value"]
        for group in groups:
            for name, variant in variants(job, group, start).items():
                if variant not in done:
                    sub = re.sub(r"[^a-z0-9]+", "_", f"{group} {name}".lower()).strip("_")
                    done[variant] = found(job, sub, variant, levels)
                parts.append(done[variant].assign(group=group, setting=name))
    rows: Any = jt.results.concat(parts)
    table = summary(rows)
    say(job, table, whole)
    save(job, {"settings": drawn(job, rows)}, tables={"settings": table, "seeds": rows},
         more={"only": groups, "at": levels, "start": start},
         pruning="LTR prunes 20% per level, searches to each density by itself")  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Options, description=str(__doc__).split("Command:")[0]))
