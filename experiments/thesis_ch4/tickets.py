"""Figures 4-13 to 4-30 and 4-33 of Frankle's thesis: instability of tickets.

For every step k tickets are found by iterative magnitude pruning with rewinding to k. Copies of
each ticket, of its mask shuffled within layers (random pruning) and of its mask with new weights
(random reinit) are trained on from k under different orders of examples and compared. When do
tickets become stable, and when as accurate as the dense network?

Command:  python experiments/thesis_ch4/tickets.py --preset resnet20-cifar10 [--size paper]
          [--budget MINUTES]
Makes:    figures 4-13 to 4-30 and 4-33, verdicts.csv, first_steps.csv, ranges.csv; the verdict of
          every step in the terminal.
Cost:     see experiments/README.md.
Expected: at paper size LeNet's tickets are stable and matching from step 0. ResNet-20's at 16.8%
          and VGG-16's at 1.5% are neither at step 0, and both from about step 500 and 1,000 on;
          random and reinitialized networks are unstable and not matching at any step. Tickets of
          ResNet-20 match at densities of 80 to 13.4% (range II), random ones above 80% (range I).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import _path  # noqa: F401
import tyro
from _copies import BANDS, SMALL, USUAL, comparison, report, verdicts
from _copies import Settings as Common
from _job import analyse, budget, prepare, search
from _report import pair, renamed, save, single
from dense import both, grid

import jaxticket as jt

CONTROLS = ("shuffle", "reinit")
# a mask shuffled within its layers is what the thesis calls random pruning here
NAMES = {"shuffle": "layerwise_random"}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script: those of the chapter, and which densities are analysed."""

    all_levels: bool | None = None
    """Analyse every density (figures 4-18 and 4-27 to 4-30), not the sparsest alone; done if not
    said otherwise, but for a quick ResNet."""


def best(table: Any) -> Any:
    """Final accuracies of the step k that is best at each density, as tickets of their own.

    The dense network keeps its branch "ticket" at level 0.
    """
    final = jt.speed.final(table)
    tickets = final[(final["branch"] == "ticket") & (final["level"] > 0)]
    means = tickets.groupby(["level", "k"])["value"].mean().reset_index()
    chosen = means.loc[means.groupby("level")["value"].idxmax(), ["level", "k"]]
    found = tickets.merge(chosen, on=["level", "k"])
    return found.assign(branch="best k").drop(columns="k")


def main(settings: Settings) -> None:
    """Finds tickets of every step k, trains copies of them, compares them, and draws."""
    # 16.8% of the weights are left, of LeNet 3.5%
    quick = {**SMALL, "levels": 2, "fraction": 0.59}
    lenet = {**USUAL, "levels": 5, "fraction": 0.488}
    paper = {"levels": jt.preset(settings.preset).pruning.levels, "seeds": 3}
    job = prepare(__file__, settings, quick=quick, lenet=lenet, paper=paper)
    chosen = comparison(job, settings, quick_shares=(0, 0.1, 0.3))
    last = job.size.levels
    small = settings.size == "quick" and job.preset.network != "lenet"
    every = not small if settings.all_levels is None else settings.all_levels
    # of one density the analysis trains the controls itself
    trained = CONTROLS if every else ()
    with budget(job):
        found = {
            k: search(job, sub=f"k-{k}", branches=trained if k == chosen.at[0] else (), rewind=k)
            for k in chosen.at
        }
        levels = tuple(range(last + 1)) if every else (0, last)
        inst = analyse(
            job,
            sub="copies",
            tickets=tuple(found.values()),
            branches=CONTROLS,
            levels=levels,
            throughout=chosen.throughout,
            keep=False,
            **chosen.options,
        )
    tables = {name: getattr(inst, name)() for name in ("table", "copies", "states", "paths")}
    tables = {name: renamed(table, NAMES) for name, table in tables.items()}
    rows, steps = verdicts(inst), inst.first_steps()
    rows, steps = renamed(rows, NAMES), renamed(steps, NAMES)
    ranges = jt.stability.ranges(tables["copies"])
    report(job, rows[rows["level"].isin((0, last))], steps, ("ticket",))
    print(
        "ranges of density: "
        + ", ".join(
            f"{100 * row['density']:.1f}% {row['range']}" for row in ranges.to_dict("records")
        )
    )
    runs = jt.results.concat(runs.table().assign(k=k) for k, runs in found.items())
    at_first = runs[(runs["k"] == chosen.at[0])].drop(columns="k")
    by_density = jt.results.concat([renamed(at_first, NAMES), best(runs)])
    first, branches = chosen.at[0], ("ticket", "layerwise_random", "reinit")
    figures = {
        "figure_4-14": both(
            jt.plots.path, tables["paths"], at=first, level=last, branches=branches
        ),
        "figures_4-15_to_4-17": _two(tables, last, "test"),
        "figures_4-19_and_4-20": _two(tables, last, "train"),
        "figure_4-21": both(
            jt.plots.throughout, inst.throughout(), by_step=True, level=last, branches=("ticket",)
        ),
        "figures_4-25_and_4-26": grid(inst, level=last),
    }
    for number, branch in zip(("4-22", "4-23", "4-24"), branches, strict=True):
        figures[f"figure_{number}"] = both(
            jt.plots.path, tables["paths"], by_step=True, level=last, branches=(branch,)
        )
    with jt.plots.style():
        figures["figure_4-13"], ax = single()
        jt.plots.accuracy(by_density, ax)
        figures["figure_4-18"], ax = single()
        jt.plots.first_steps(steps, ax, at=chosen.at)
        figures["figures_4-27_to_4-30"], axes = pair()
        jt.plots.against_density(tables["table"], axes[0], legend=False)
        jt.plots.against_density(tables["copies"], axes[1], metric="error")
        figures["heat_map"], ax = single()
        jt.plots.heat_map(tables["table"], ax)
        figures["figure_4-33"], ax = single()
        jt.plots.distances_at_rewinding(
            tables["states"],
            tables["copies"],
            tables["table"],
            ax,
            level=last,
            branches=("ticket",),
        )
    more = {"at": chosen.at, **chosen.options, "throughout": chosen.throughout, "levels": levels}
    small_tables = {"verdicts": rows, "first_steps": steps, "ranges": ranges, "costs": inst.costs()}
    save(job, figures, by_density, tables=small_tables, more=more, bands=BANDS)


def _two(tables: dict[str, Any], level: int, split: str) -> Any:
    """The two panels, barrier and error, of one split."""
    with jt.plots.style():
        figure, axes = pair()
        jt.plots.stable_and_matching(
            tables["table"], tables["copies"], axes, level=level, split=split
        )
    return figure


if __name__ == "__main__":
    main(tyro.cli(Settings, description=str(__doc__).split("Command:")[0]))
