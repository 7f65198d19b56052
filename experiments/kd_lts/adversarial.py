"""Figure 13 of KD-LTS: do adversarially trained teachers make tickets robust?

Tickets of KD-LTS with standard teachers and with teachers that were trained on adversarial
examples, and random pruning, all trained on clean images as the dense network is. The attack is
projected gradient descent (PGD) within a box: the paper prints neither its radius nor its steps.

Command:  python -m experiments.kd_lts.adversarial [--radii R ...] [--preset NAME] [--size paper]
          [--budget MINUTES]
Makes:    figure_13 (adversarial accuracy at the smallest radius, and clean accuracy, by density),
          radii (adversarial accuracy by radius at the lowest density), adversarial.csv; the
          accuracies in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 2 levels pruning 80%, 18,760 steps; paper 3 seeds, 4
          levels pruning 55.3%, 18,760 steps.
Cost:     not measured at either size.
Expected: on ResNet-20 the paper reports tickets of standard teachers 2 to 3 points above the dense
          network, and those of robust teachers 3 points above them. A box of 0.3 on MNIST leaves
          networks that were trained on clean images next to nothing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import jax
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.learned import kd_lts
from experiments.common.report import (
    cell,
    groups,
    mean_line,
    pair,
    save,
    seeds,
    shared_legend,
    single,
)
from experiments.kd_lts._common import LENET, QUICK, dense, paper
from experiments.kd_lts._common import Settings as Common
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.metrics import Normalization, normalized
from jaxticket.plots._axes import density_axis
from jaxticket.typing import Params, Stats

METHODS = ("kd_lts", "kd_lts_robust", "random")
# the last radius is that of the teachers' training
RADII = {1: (0.05, 0.1, 0.3), 3: (2 / 255, 4 / 255, 8 / 255)}
"""By channels: of digits, and of photographs."""
TRAINING_STEPS = 7
"""Of the attack that teachers are trained on; evaluations take `--attack-steps`."""
BATCH = 500


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, which methods, and the attack."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS; all of them if not given."""
    radii: tuple[float, ...] | None = None
    """Largest change of a pixel, as a share of its range; 0.05, 0.1 and 0.3 of gray images, 2, 4
    and 8 / 255 of others."""
    attack_steps: int = 20
    """Iterations of the attack in evaluations."""
    attacked: int = 2_000
    """So many test examples at most are attacked."""


def attack(job: Job, radius: float, steps: int) -> PGD:
    """Make an attack whose steps together are 2.5 times the radius."""
    assert isinstance(job.data, jt.data.Data)
    x = job.data.train.x
    # bytes need not be used up: digits go to 16
    high = 255.0 if x.dtype == np.uint8 and x.max() > 127 else float(x.max())
    return PGD(radius=radius, step=2.5 * radius / max(1, steps), steps=steps, high=high)


def find(job: Job, name: str, radius: float) -> jt.Runs:
    """Find the tickets of a method, under its name."""
    if name == "random":
        runs = job.prune_at(name, sub=name, dense=False)
    else:
        own = {"attack": attack(job, radius, TRAINING_STEPS)} if name == "kd_lts_robust" else {}
        runs = job.search(kd_lts(job, **own), sub=name, dense=False, train=False)
    return dataclasses.replace(runs, branch=name)


def accuracy_of(job: Job, by: PGD | None, limit: int) -> Callable[[Params, Stats], list[float]]:
    """Make a function of (params, stats) [copy, ...]: accuracy on attacked test images."""
    net, data = job.net, job.data
    assert isinstance(data, jt.data.Data)
    scale = Normalization(jax.numpy.asarray(data.mean), jax.numpy.asarray(data.std))
    count = min(limit, len(data.test))
    size = min(BATCH, count)
    count -= count % size

    @jax.jit
    def right(
        params: Params, stats: Stats, x: jax.Array, y: jax.Array, key: jax.Array
    ) -> jax.Array:
        if by is not None:
            x = by(net, params, stats, x, y, by=scale, key=key)
        seen = normalized(x, scale, "float32")
        logits, _ = net.apply(params, stats, seen, train=False)
        return jax.numpy.argmax(logits, axis=-1) == y

    def accuracy(params: Params, stats: Stats) -> list[float]:
        found = []
        for copy in range(len(jax.tree.leaves(params)[0])):
            one = jax.tree.map(lambda leaf, copy=copy: leaf[copy], (params, stats))
            hits = []
            for begin in range(0, count, size):
                part = slice(begin, begin + size)
                x, y = data.test.x[part], data.test.y[part]
                key = jax.random.fold_in(jax.random.key(0), begin)
                hits.append(np.asarray(right(*one, x, y, key)))
            found.append(float(np.concatenate(hits).mean()))
        return found

    return accuracy


def rows_of(
    job: Job, parts: list[jt.Instability], settings: Settings, radii: Sequence[float]
) -> pd.DataFrame:
    """Evaluate every trained copy, clean (radius 0) and at each radius."""
    rows = []
    for radius in (0.0, *radii):
        by = attack(job, radius, settings.attack_steps) if radius else None
        accuracy = accuracy_of(job, by, settings.attacked)
        for inst in parts:
            for kind in inst.kinds:
                density = job.densities[kind.level - 1] if kind.level else 1.0
                for seed in inst.seeds:
                    networks = inst.networks(
                        at=kind.at, seed=seed, branch=kind.branch, level=kind.level
                    )
                    rows += [
                        {"branch": kind.branch if kind.level else "dense", "level": kind.level,
                         "density": density, "seed": seed, "copy": copy, "radius": radius,
                         "accuracy": value}
                        for copy, value in enumerate(accuracy(*networks))
                    ]  # fmt: skip
    return jt.results.frame(rows)


def by_density(rows: pd.DataFrame, names: tuple[str, ...], radius: float) -> Figure:
    """Draw adversarial accuracy on the left, clean accuracy on the right."""
    with jt.plots.style():
        figure, axes = pair()
        for ax, own in zip(axes, (radius, 0.0), strict=True):
            shown = rows.loc[rows["radius"] == own]
            whole = 100 * shown.loc[shown["level"] == 0]["accuracy"]
            ax.axhspan(whole.min(), whole.max(), color="0.45", alpha=0.18, linewidth=0)
            ax.axhline(whole.mean(), color="0.45", linewidth=1.1, label="dense")
            for name, look in jt.plots.branch_styles(names).items():
                by = shown.loc[shown["branch"] == name].groupby("density")["accuracy"]
                mean_line(ax, by, [100 * density for density in by.groups], look)
            density_axis(ax, shown.loc[shown["level"] > 0]["density"].unique())
            ax.set_ylabel(f"Accuracy under PGD of {own:.2g} (%)" if own else "Clean accuracy (%)")
        shared_legend(figure, axes)
    return figure


def by_radius(rows: pd.DataFrame, names: tuple[str, ...]) -> Figure:
    """Draw accuracy by radius, at the lowest density."""
    last = rows["level"].max()
    with jt.plots.style():
        figure, ax = single(5.2, 3.8)
        for name, look in jt.plots.branch_styles(["dense", *names]).items():
            own = rows.loc[(rows["branch"] == name) & rows["level"].isin((0, last))]
            by = own.groupby("radius")["accuracy"]
            mean_line(ax, by, list(by.groups), look)
        ax.set(xlabel="Radius of the attack (share of a pixel's range)", ylabel="Accuracy (%)")
        ax.legend()
    return figure


def main(settings: Settings) -> None:
    """Find tickets, train two copies of each, attack them, draw and print."""
    names = chosen(settings.methods, METHODS)
    # 20 and 4% of LeNet's weights
    two = {"levels": 2, "fraction": 0.8}
    job = prepare(
        __file__, settings, quick=QUICK, lenet={**LENET, **two, "eval_every": 18_760},
        paper=paper(settings, levels=4, fraction=1 - 0.2**0.5),
    )  # fmt: skip
    radii = settings.radii or RADII[1 if job.data.shape[-1] == 1 else 3]
    radii = tuple(sorted(radii))
    # of the copies between which barriers are taken, the trained weights are kept
    options = {"copies": 2, "points": 3, "distances": ("l2",)}
    with budget(job):
        dense(job)
        found = tuple(find(job, name, radii[-1]) for name in names)
        levels = tuple(range(1, job.size.levels + 1))
        parts = [
            job.instability(sub="dense_copies", at=0, **options),
            job.instability(sub="copies", tickets=found, levels=levels, **options),
        ]
    rows = rows_of(job, parts, settings, radii)
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {settings.size} size)")
    print(f"accuracy in % of two copies, mean (min to max) over {seeds(job)}, by radius of PGD\n")
    print(f"{'':28}{'density':>9}" + "".join(f"{radius:>24.3g}" for radius in (0, *radii)))
    looks = jt.plots.branch_styles(["dense", *names])
    for (name, density), own in groups(rows, "branch", "density"):
        by = own.groupby("radius")["accuracy"].agg(["mean", "min", "max"])
        cells = "".join(f"{cell(row):>24}" for _, row in by.iterrows())
        print(f"{looks[name].label:28}{100 * density:8.1f}%{cells}")
    figures = {"figure_13": by_density(rows, names, radii[0]), "radii": by_radius(rows, names)}
    more = {"methods": names, "radii": radii, "attack_steps": settings.attack_steps}
    save(job, figures, tables={"adversarial": rows}, more=more, pruning="densities one by one",
         bands="bands go from the least to the greatest seed and copy")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
