"""Figure 28 of KD-LTS: how much each method leaves of every layer.

Masks at initialization of the same overall density: KD-LTS, GEM-MINER, tickets from step 0 (LTR),
SNIP, iterative SNIP, GraSP, SynFlow, ProsPr and random pruning. Nothing that is pruned is trained,
but for the levels before of LTR.

Command:  python -m experiments.kd_lts.layers [--at-density SHARE] [--preset NAME]
          [--size reduced|paper] [--budget MINUTES]
Makes:    figure_28, layers.csv; the density of each layer in the terminal.
Sizes:    lenet-mnist-kd_lts: quick 3 seeds, 3 levels pruning 41.5%, 18,760 steps; reduced 3 seeds,
          3 levels pruning 41.5%, 6,000 steps; paper 3 seeds, 7 levels pruning 20.5%, 18,760 steps.
Cost:     not measured at any size.
Expected: not printed. Random pruning leaves as much of every layer; the output layer, which is
          small, keeps most of its weights with the methods that look at the loss.
"""

from __future__ import annotations

import dataclasses

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job, budget, chosen, launch, prepare
from experiments.common.report import save, seeds, single
from experiments.kd_lts._common import LENET, QUICK, dense, ladder, masks, paper
from experiments.kd_lts._common import Settings as Common

METHODS = ("kd_lts", "gem_miner", "ltr", "snip", "iterative_snip", "grasp", "synflow", "prospr",
           "random")  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the paper's scripts, which methods, and the density."""

    methods: tuple[str, ...] | None = None
    """Some of METHODS; all of them if not given."""
    at_density: float = 0.2
    """Density of all masks; LTR comes to it in as many levels as --levels says."""


def last(runs: jt.Runs) -> jt.Runs:
    """Give the runs with their last level as the only one but the dense one."""
    return dataclasses.replace(runs, by_level={1: runs.by_level[max(runs.levels)]})


def say(job: Job, layers: pd.DataFrame, names: tuple[str, ...]) -> None:
    """Print the density of each layer, methods by layers."""
    looks = jt.plots.branch_styles(names)
    means = layers.pivot_table(index="branch", columns="index", values="layer_density")
    paths = layers.drop_duplicates("index").sort_values("index")["layer"]
    print(f"\n{job.network_name} on {job.data_name}, {100 * job.densities[-1]:.3g}% of the weights")
    print(f"density of each layer in %, mean over {seeds(job)}\n")
    print(f"{'':30}" + "".join(f"{str(p).removesuffix('/kernel')[-10:]:>11}" for p in paths))
    for name in names:
        print(f"{looks[name].label:30}" + "".join(f"{100 * x:11.2f}" for x in means.loc[name]))


def main(settings: Settings) -> None:
    """Find masks with every method, and draw what they leave of each layer."""
    names = chosen(settings.methods, METHODS)
    levels = ladder(settings, settings.at_density)
    job = prepare(
        __file__, settings, quick={**QUICK, **levels},
        lenet={**LENET, **levels, "eval_every": 18_760},
        reduced=levels,
        paper=paper(settings, **levels),
    )  # fmt: skip
    with budget(job):
        dense(job)
        found = {name: last(masks(job, name)) for name in names}
    layers = jt.results.concat(
        jt.layers.report(runs).assign(branch=name) for name, runs in found.items()
    )
    say(job, layers, names)
    with jt.plots.style():
        figure, ax = single(7.2, 4.4)
        # the legend names what is there before
        ax.axhline(100 * job.densities[-1], color="0.5", linestyle=":", linewidth=1.2,
                   label="all layers together")  # fmt: skip
        jt.plots.layer_densities(layers, ax, branches=names)
    more = {"methods": names, "at_density": settings.at_density}
    save(job, {"figure_28": figure}, tables={"layers": layers}, more=more,
         pruning="one density")  # fmt: skip


if __name__ == "__main__":
    launch(main, Settings, __doc__)
