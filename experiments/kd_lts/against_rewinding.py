"""Learned masks against rewound tickets, and which setting of a search makes the difference.

Tickets with rewinding (LTR, 20% per level) against Concrete Ticket Search and KD-LTS, which are
searched to the densities of some of LTR's levels, at the lengths of their papers. CTS is searched
with one setting changed at a time: its objective, the learning rate and the optimizer of the scores
(Adam moves all scores alike, SGD in proportion to their weights), the temperature, what the
divergence compares with, what the weights are multiplied by (concrete samples, or hard ones), where
it starts and how long it is. KD-LTS with and without the factor of its soft masks, which is part of
the network that it searches. Both papers report their tickets above LTR: CTS from about 1% of the
weights down, KD-LTS at all densities.

Next to the accuracy of the trained tickets stand that before their training, which is what a search
at fixed weights improves, and the share of hidden units that keep an incoming weight.

Command:  python -m experiments.kd_lts.against_rewinding [--only GROUP ...] [--at LEVEL ...]
          [--preset NAME] [--start STEP] [--length long] [--size reduced|paper] [--batch-norm]
          [--budget MINUTES]
Makes:    settings (accuracy of each setting at each density), settings.csv, seeds.csv; the table in
          the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 25 levels pruning 20%, 18,760 steps; reduced 3 seeds,
          10 levels pruning 36%, 6,000 steps; paper 3 seeds, 25 levels pruning 20%, 18,760 steps.
Cost:     at quick size 51 minutes with the settings of
          results/kd_lts/against_rewinding-lenet-mnist-kd_lts-quick-ee2fd85504, 19 minutes with the
          settings of results/kd_lts/against_rewinding-lenet-mnist-quick-974856b46d, 6.5 minutes
          with the settings of results/kd_lts/against_rewinding-lenet-mnist-quick-cc5a7d8853 on 2
          cores of an Intel Xeon; the paper's size is not measured.
Expected: (papers) CTS as good as LTR at 7% and above it at 1% and below; KD-LTS above it at all
          densities. Measured with --preset lenet-mnist --steps 3000 --start 60 --length long at
          1.15%: with --batch-norm, as in the networks of CTS's paper, LTR has 94.4 and CTS 97.0;
          in LeNet as it is 97.2 and 94.0, and 96.5 with logits of dense size.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import pandas as pd
from matplotlib import pyplot
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import (
    Job,
    budget,
    chosen,
    launch,
    prepare,
)
from experiments.common.learned import kd_lts
from experiments.common.report import Row, cell, save, seeds, shared_legend
from experiments.kd_lts._common import QUICK, Settings, dense, paper, third_epoch
from jaxticket.sparsify.learned import Bernoulli, Method, Schedule
from jaxticket.typing import Params

GROUPS = {
    "ltr": (10, 12, 20, 25),
    "kd_lts": (10, 12),
    "cts": (12, 20, 25),
    "objective": (20,),
    "rate": (20,),
    "optimizer": (20,),
    "temperature": (20,),
    "target": (20,),
    "mask": (20,),
    "start": (20,),
    "length": (20,),
}
"""What is compared, and at which levels of 20%: the 10th has 10.7% of the weights, the 12th 6.9%,
the 20th 1.15%, the 25th 0.38%.
"""
CHANGED = {
    "cts": "",
    "rate": "learning rate",
    "optimizer": "by",
    "target": "reverse KL, target:",
    "mask": "weights times",
    "start": "from",
}
"""How figures write what a group changes of CTS; by its name if not here."""
LAST = max(GROUPS["ltr"])
# all of MNIST at the preset's length
LENET = {"seeds": 3, "levels": LAST, "fraction": 0.2, "steps": 18_760, "eval_every": 18_760,
         "pool": 1, "share": 1.0, "test_examples": None, "eval_train_examples": 2_000}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    """Options of this script: those of the paper's scripts, what is compared and where."""

    only: tuple[str, ...] | None = None
    """Some of GROUPS; all of them if not given."""
    at: tuple[int, ...] | None = None
    """Levels of LTR whose densities are compared; those of GROUPS if not given."""
    start: int | None = None
    """Step k that LTR rewinds to and that CTS searches at; epoch 3 of the preset's schedule."""
    length: Literal["short", "half", "long"] | None = None
    """Length of the searches of CTS (but in group length); the paper's, short (1/8 of training), if
    not given."""
    batch_norm: bool = False
    """LeNet with BatchNorm after its hidden layers, in place of the preset's network."""


class BatchNormed(nn.Module):
    """LeNet-300-100 whose hidden layers are normalized before their ReLU, in place of a bias."""

    widths: tuple[int, ...]
    classes: int

    @nn.compact
    def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
        """Compute logits."""
        x = x.reshape(x.shape[0], -1)
        init = nn.initializers.glorot_normal()
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, use_bias=False, kernel_init=init, name=f"dense_{i}")(x)
            x = nn.relu(nn.BatchNorm(not train, momentum=0.9, name=f"norm_{i}")(x))
        return nn.Dense(self.classes, kernel_init=init, name=f"dense_{len(self.widths)}")(x)


def batch_normed(job: Job) -> Job:
    """Give the job with that network."""
    widths = tuple(round(job.size.width * width) for width in (300, 100))
    module = BatchNormed(widths, job.data.classes)
    net = jt.from_linen(module, job.data.shape, name="lenet_batch_norm")
    preset = dataclasses.replace(job.preset, network="LeNet-300-100 with BatchNorm", options={})
    job = dataclasses.replace(job, net=net, preset=preset)
    own = jt.results.run_name(f"{job.name}-{job.preset.name}", job.about)
    return dataclasses.replace(job, folder=job.settings.folder or job.folder.with_name(own))


class Variant(NamedTuple):
    """A line of the table: a search, or LTR where there is no method.

    Attributes:
      method: what is learned, and how.
      start: the step whose weights are searched, or rewound to.
      steps: length of the search as `jt.search` takes it; None for the method's own.
      change: a branch that trains in place of the tickets.
    """

    method: Method | None
    start: int
    steps: str | float | None = None
    change: Callable[..., jt.Ticket] | None = None


def cts(objective: str = "loss", **options: Any) -> Method:
    """Make the search of Concrete Ticket Search."""
    return jt.SEARCHES["concrete"](objective, **options)


def by_sgd(lr: float) -> Method:
    """Make CTS by SGD, which moves scores in proportion to gradients, and so to weights."""
    optimizer = (("optimizer", "momentum"), ("lr", lr))
    return dataclasses.replace(cts(), optimizer=optimizer)


def without_the_factor(ticket: jt.Ticket, key: jax.Array, *, net: jt.Network) -> jt.Ticket:
    """Give the ticket of KD-LTS with the bare weights, half of those that were searched."""
    del key
    params: Params = jax.tree.map(
        lambda w, p: w / 2 if p else w, ticket.params, net.prunable(ticket.params)
    )
    return ticket.replace(params=params)


def variants(job: Job, group: str, start: int, length: str | None) -> dict[str, Variant]:
    """Give the variants that a group compares, by name.

    Args:
      job: the job.
      group: a name in GROUPS.
      start: step k of LTR and CTS.
      length: of the searches of CTS; the paper's if None.
    """
    if group == "ltr":
        return {"LTR": Variant(None, start)}
    if group == "kd_lts":
        return {
            "KD-LTS": Variant(kd_lts(job), 0),
            "without the factor": Variant(kd_lts(job), 0, change=without_the_factor),
        }
    if group == "start":
        early = (0, max(1, start // 3), start, 3 * start)
        return {f"step {at}": Variant(cts(), at, length) for at in early}
    if group == "length":
        lengths = {"1/8 of training": "short", "1/2": "half", "1": "long", "3": 3.0}
        return {name: Variant(cts(), start, steps) for name, steps in lengths.items()}
    methods: dict[str, Method] = {
        "cts": {"loss": cts(), "reverse KL": cts("reverse_kl")},
        "objective": {
            "loss": cts(),
            "loss, logits of dense size": cts(dense_sized=True),
            "reverse KL, logits of dense size": cts("reverse_kl", dense_sized=True),
            "change of loss": cts("change_of_loss"),
        },
        "rate": {f"{lr:g}": cts(lr=lr) for lr in (0.03, 0.1, 0.3)},
        "optimizer": {"Adam": cts(), **{f"SGD, {lr:g}": by_sgd(lr) for lr in (1.0, 10.0)}},
        "temperature": {
            "2/3": cts(),
            "4/3": cts(temperature=4 / 3),
            "2 to 0.3": cts(temperature=Schedule(2.0, 0.3, "exponential")),
        },
        "target": {
            "dense at the start": cts("reverse_kl"),
            "trained": cts("reverse_kl", target=1.0),
        },
        "mask": {
            "concrete samples": cts(),
            "hard samples": dataclasses.replace(cts(), relaxation=Bernoulli(keep=None)),
        },
    }[group]
    return {name: Variant(method, start, length) for name, method in methods.items()}


def found(job: Job, sub: str, variant: Variant, levels: tuple[int, ...]) -> pd.DataFrame:
    """Find masks, train them, and describe every seed at each level.

    Columns: seed, at (the level of LTR), density, value (test accuracy after training), before
    (before training), units (share of hidden units with incoming weights) and seconds (to find one
    seed's mask).
    """
    if variant.method is None:
        runs = job.find_tickets(sub=sub, rewind=variant.start)
        at = {level: level for level in levels}
    else:
        densities = [job.densities[level - 1] for level in levels]
        runs = job.search(variant.method, sub=sub, density=densities, dense=False,
                     start=variant.start, steps=variant.steps)  # fmt: skip
        at = dict(enumerate(levels, start=1))
    trained = runs if variant.change is None else job.branch(runs, variant.change)
    table = trained.table()
    table = table.loc[(table["branch"] == trained.branch) & table["level"].isin(list(at))]
    costs = jt.costs.finding(runs)
    seconds = dict(zip(costs["level"], costs["seconds"], strict=True))
    keys = ["seed", "level"]
    first = table["step"] == table.groupby(keys)["step"].transform("min")
    firsts = jt.speed.final(table[first])
    before = firsts.loc[:, [*keys, "value"]].rename(columns={"value": "before"})
    rows = jt.speed.final(table).merge(before, on=keys).merge(_units(runs), on=keys)
    return rows.assign(at=rows["level"].map(at.get), seconds=rows["level"].map(seconds.get)).loc[
        :, ["seed", "at", "density", "value", "before", "units", "seconds"]
    ]


def _units(runs: jt.Runs) -> pd.DataFrame:
    """Compute the share of hidden units that keep an incoming weight: seed, level, units."""
    report = jt.layers.report(runs)
    report = report.loc[report["branch"] == "ticket"]
    hidden = report.groupby(["seed", "level"], sort=False).apply(
        # the last layer's are the classes
        lambda own: 1 - own["dead_units"].iloc[:-1].sum() / own["units"].iloc[:-1].sum()
    )
    return hidden.rename("units").reset_index()


def summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Compute mean, deviation, minimum and maximum over seeds for each setting and density."""
    keys = ["group", "setting", "at"]
    by = rows.groupby(keys, sort=False)
    stats = by["value"].agg(["mean", "std", "min", "max", "count"])
    means = {name: by[name].mean() for name in ("density", "before", "units", "seconds")}
    return stats.assign(**means).reset_index()


def say(job: Job, table: pd.DataFrame, dense: Row) -> None:
    """Print the table: a line for each setting and density."""
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}), {job.size.steps} steps")
    print(f"test accuracy in %, mean (min to max) over {seeds(job)}; before: before training;")
    print("units: hidden units with incoming weights; seconds: to find the mask of one seed")
    print(f"dense {cell(dense, 2)}")
    for level in sorted(set(table["at"])):
        part = table.loc[table["at"] == level]
        print(f"\n{100 * job.densities[level - 1]:.2f}% of the weights")
        print(f"{'setting':36}{'accuracy':>24}{'before':>9}{'units':>8}{'seconds':>9}")
        for _, row in part.iterrows():
            shares = f"{100 * row['before']:9.1f}{100 * row['units']:7.0f}%"
            name = f"{row['group']}: {row['setting']}"
            print(f"{name:36}{cell(row, 2):>24}{shares}{row['seconds']:9.0f}")


def label(group: str, setting: str) -> str:
    """Write what a row of the figure is, with the names of methods of other figures.

    >>> label("rate", "0.3"), label("optimizer", "SGD, 10"), label("length", "1/2")
    ('CTS, learning rate 0.3', 'CTS, by SGD, learning rate 10', 'CTS, length 1/2 of training')
    """
    if group in ("ltr", "kd_lts"):
        own = jt.plots.branch_styles([group])[group].label
        return own if setting in ("LTR", own) else f"{own}, {setting}"
    if group == "length" and not setting.endswith("training"):
        setting = f"{setting} of training" if "/" in setting else f"{setting} x training"
    setting = setting.replace(" x ", " × ").replace("SGD, ", "SGD, learning rate ")
    return " ".join(
        part for part in (f"CTS, {CHANGED.get(group, group)}".rstrip(), setting) if part
    )


def rows_of(table: pd.DataFrame) -> list[tuple[str, str]]:
    """Give group and setting of every row of a table."""
    return list(zip(table["group"], table["setting"], strict=True))


def drawn(job: Job, rows: pd.DataFrame) -> Figure:
    """Draw a panel for each density: its settings from top to bottom, a dot for each seed.

    Densities at which there is nothing to compare LTR with have none.
    """
    every = {int(level): rows.loc[rows["at"] == level] for level in sorted(rows["at"].unique())}
    parts = {level: own for level, own in every.items() if set(own["group"]) != {"ltr"}} or every
    places = [
        {name: i for i, name in enumerate(dict.fromkeys(rows_of(own)))} for own in parts.values()
    ]
    mean_of = f"mean of {label('ltr', 'LTR')}"
    with jt.plots.style():
        figure, axes = pyplot.subplots(
            len(parts), 1, layout="constrained", squeeze=False,
            figsize=(6.4, sum(0.85 + 0.2 * len(names) for names in places) + 0.4),
            height_ratios=[1 + len(names) for names in places],
        )  # fmt: skip
        for ax, (level, own), names in zip(axes[:, 0], parts.items(), places, strict=True):
            place = [names[one] for one in rows_of(own)]
            ax.plot(100 * own["value"], place, "o", color="#0072B2", alpha=0.6, markersize=4,
                    label="one seed")  # fmt: skip
            if "ltr" in set(own["group"]):
                mean = 100 * own.loc[own["group"] == "ltr"]["value"].mean()
                ax.axvline(mean, color="0.5", linestyle=":", linewidth=1.2, label=mean_of)
            ax.set_title(f"{100 * job.densities[level - 1]:.3g}% of the weights")
            ax.set_yticks(range(len(names)), [label(*name) for name in names])
            ax.set_ylim(len(names) - 0.4, -0.6)
        axes[-1, 0].set_xlabel("Test accuracy (%)")
        shared_legend(figure, axes[:, 0])
    return figure


def main(settings: Options) -> None:
    """Find tickets with every setting, train them, draw and print."""
    groups = chosen(settings.only, tuple(GROUPS))
    job = prepare(
        __file__, settings, quick=QUICK, lenet=LENET,
        paper=paper(settings, levels=LAST, fraction=0.2),
    )  # fmt: skip
    if settings.batch_norm:
        job = batch_normed(job)
    last = job.size.levels
    for level in settings.at or ():
        if not 1 <= level <= last:
            raise ValueError(f"`at` must be levels from 1 to {last}, the last of LTR, got {level}")
    levels = {
        group: tuple(sorted({min(level, last) for level in settings.at or GROUPS[group]}))
        for group in groups
    }
    start = third_epoch(job) if settings.start is None else settings.start
    done: dict[Variant, pd.DataFrame] = {}
    subs: dict[tuple[Variant, tuple[int, ...]], str] = {}
    parts = []
    with budget(job):
        whole = jt.speed.final(dense(job).table())["value"].agg(["mean", "min", "max"])
        for group in groups:
            for name, variant in variants(job, group, start, settings.length).items():
                # a branch has the search of its tickets
                wanted, place = set(levels[group]), (variant._replace(change=None), levels[group])
                if variant not in done or not wanted <= set(done[variant]["at"]):
                    sub = re.sub(r"[^a-z0-9]+", "_", f"{group} {name}".lower()).strip("_")
                    subs.setdefault(place, sub)
                    done[variant] = found(job, subs[place], variant, levels[group])
                rows = done[variant]
                parts.append(
                    rows.loc[rows["at"].isin(levels[group])].assign(group=group, setting=name)
                )
    every = jt.results.concat(parts)
    table = summary(every)
    say(job, table, whole)
    save(job, {"settings": drawn(job, every)}, tables={"settings": table, "seeds": every},
         more={"only": groups, "at": levels, "start": start, "length": settings.length},
         pruning="LTR prunes 20% per level, searches to each density by itself")  # fmt: skip


if __name__ == "__main__":
    launch(main, Options, __doc__)
