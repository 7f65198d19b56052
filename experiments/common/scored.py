"""What the scripts of chapter 5 share: methods by name, quick sizes, tables in the terminal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.job import Settings as Common
from experiments.common.report import (
    MATCHING,
    base,
    cell,
    differences,
    draw_alike,
    grid,
    in_one_panel,
    in_words,
    named,
    order,
    seeds,
    shared_legend,
    single,
)
from experiments.common.sizes import LENET
from jaxticket.controls import changed
from jaxticket.presets import Preset

AT_ONCE = "each density pruned at once"
BANDS = "bands go from the least to the greatest seed"
# images of 16 x 16 and few steps: some minutes; 26%, 6.8% and 1.8% of weights
SMALL = {
    "seeds": 2,
    "levels": 3,
    "fraction": 0.74,
    "steps": 200,
    "eval_every": 200,
    "pool": 2,
    "test_examples": 2_000,
    "eval_train_examples": 500,
}
# of LeNet 45, 20, 9.1, 4.1 and 1.8%; nothing is looked at before the end
USUAL = {
    **{name: getattr(LENET, name) for name in SMALL},
    "levels": 5,
    "fraction": 0.55,
    "eval_every": 600,
}
# every fourth level of 20% per level, to 6.9%
REDUCED = {"levels": 3, "fraction": 0.59}
# every second, to 1.2%
PAPER = {"levels": 10, "fraction": 0.36}
# what differs from pruning at initialization by the score of the same name
METHODS: dict[str, dict[str, Any]] = {
    "magnitude_after_training": {"score": "magnitude", "step": "end"}
}
KNOWN = tuple(sorted({*METHODS, *jt.SCORES}))
SNIPS = ("snip", "iterative_snip", "force")


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of the scripts of this chapter: those of all, and which methods."""

    methods: tuple[str, ...] | None = None
    """Names of scores (see jaxticket.SCORES) and "magnitude_after_training"; the script's own if
    not given."""


@dataclasses.dataclass(frozen=True)
class SnipSettings(Settings):
    """Options of the scripts that compare SNIP with SNIP in rounds."""

    batch_norm: Literal["eval", "train"] = "eval"
    """The statistics that normalize while SNIP, iterative SNIP and FORCE score: those of all three
    are the running ones (SNIP's own, as in the other figures) or those of the batch (the authors'
    choice for the latter two)."""


def seeds_of(settings: Common) -> int:
    """Give the number of seeds of the source: the preset's, or five."""
    return jt.preset(settings.preset).replicates or 5


def density_of(preset: Preset) -> float:
    """Give the least density at which magnitude pruning after training is matching."""
    return MATCHING.get(str(preset.network), preset.matching_density or 0.1)


def level_of(job: Job, density: float) -> int:
    """Give the level of the job nearest to a density, in proportion."""
    near = [abs(math.log(one / density)) for one in job.densities]
    return 1 + near.index(min(near))


def run(
    job: Job, method: str, *, sub: str | None = None, batch_norm: str | None = None, **options: Any
) -> Any:
    """Give the runs of a method, in the folder of its name; those of several steps by step.

    Args:
      job: the job.
      method: a name in `METHODS`, a score's, or that with "_inverted".
      sub: another folder.
      batch_norm: the statistics that normalize while SNIP and its variants score; each score's own
        if None.
      options: of `jt.prune_at`.
    """
    own = {"score": method, "dense": False, **METHODS.get(method, {})}
    score = own["score"]
    turned = score not in jt.SCORES and base(score)[1] == "inverted"
    name = base(score)[0] if turned else score
    if batch_norm is not None and name in SNIPS:
        score = jt.scores.configured(name, batch_norm=batch_norm)
        own["score"] = jt.scores.inverted(score) if turned else score
    elif turned:
        own["score"] = jt.scores.inverted(name)
    options = {**own, **options}
    return job.prune_at(options.pop("score"), sub=method if sub is None else sub, **options)


def ablated(job: Job, method: str, controls: Sequence[str], **options: Any) -> list[pd.DataFrame]:
    """Make the tables of a method and of its controls: METHOD and METHOD_CONTROL.

    Args:
      job: the job.
      method: its name.
      controls: "shuffle", "reinit" and "sign_flip" change what is trained; "inverted" inverts the
        score's ranking, in a second run.
      options: of `jt.prune_at`.
    """
    branches = tuple(name for name in controls if name != "inverted")
    tables = [named(run(job, method, branches=branches, **options).table(), method)]
    if "inverted" in controls:
        turned = f"{method}_inverted"
        own = run(job, turned, **{**options, "sub": turned, "dense": False})
        tables.append(named(own.table(), turned))
    return tables


def control_masks(runs: jt.Runs, level: int, control: str | None = None) -> jt.Runs:
    """Give the runs with one level alone, its masks as a control trained them if there is one."""
    ticket = runs.by_level[level]
    if control is not None:
        change = jt.BRANCHES[control]
        ticket = changed(change, ticket, runs.seeds, name=control, net=runs.net, mesh=runs.mesh)
    return dataclasses.replace(runs, by_level={level: ticket})


def branches_of(table: pd.DataFrame) -> list[str]:
    """Give the branches of a table but the dense network's, methods in the order of the table."""
    return order(table.loc[table["level"] > 0]["branch"].unique())


def report(
    job: Job, table: pd.DataFrame, *, title: str = "pruned at initialization"
) -> pd.DataFrame:
    """Print final test accuracies, methods by densities; return them as a table."""
    rows = jt.speed.matching(table, margin=job.settings.margin, test_size=len(job.data.test))
    names = branches_of(table)
    looks = jt.plots.branch_styles(names)
    densities = rows.loc[rows["level"] > 0].groupby("level")["density"].median()
    rows = rows.set_index(["branch", "level"])
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"{title}: final test accuracy in %, mean (min to max) over {seeds(job)}")
    print(f"dense {cell(rows.loc[('ticket', 0)])}; * is as accurate as that\n")
    wide = max(len(look.label) for look in looks.values()) + 2
    print(f"{'density':{wide}}" + "".join(f"{100 * density:21.2f}%" for density in densities))
    for name in names:
        print(
            f"{looks[name].label:{wide}}" + "".join(_cell(rows, name, n) for n in densities.index)
        )
    return rows.reset_index()


def _cell(rows: pd.DataFrame, name: str, level: int) -> str:
    if (name, level) not in rows.index:
        return f"{'-':>22}"
    row = rows.loc[(name, level)]
    star = "*" if row["matching"] else " "
    return f"{cell(row) + star:>22}"


def report_controls(table: pd.DataFrame) -> pd.DataFrame:
    """Print what every control changes, in points; return that as a table."""
    found = differences(table)
    print("\ncontrol minus method, in points +- pooled standard deviation; * the method is")
    print("sensitive: better by at least 0.5 points and two such deviations\n")
    densities = found.groupby("level")["density"].median()
    print(f"{'density':36}" + "".join(f"{100 * density:17.2f}%" for density in densities))
    cells = {
        (row["method"], row["control"], row["level"]): in_words(row) for _, row in found.iterrows()
    }
    names = order(f"{method}_{control}" for method, control, _ in cells)
    for name in names:
        row = "".join(f"{cells.get((*base(name), n), '-'):>18}" for n in densities.index)
        print(f"{' '.join(base(name)).replace('_', ' '):36}{row}")
    return found


def figure_of(names: Iterable[str], table: pd.DataFrame, *, split: str = "test") -> Figure:
    """Draw final accuracy against density."""
    with jt.plots.style():
        figure, ax = single(5.6, 4.0)
        jt.plots.accuracy(table, ax, branches=list(names), split=split)
    return figure


def panels(
    methods: Sequence[str],
    table: pd.DataFrame,
    draw: Callable[..., Axes] | None = None,
    *,
    alongside: Mapping[str, Sequence[str]] | None = None,
    **options: Any,
) -> Figure:
    """Draw a panel per method: the method and its controls, with equal axes.

    Args:
      methods: names of methods.
      table: tidy table with branches METHOD and METHOD_CONTROL.
      draw: function of `jt.plots`; accuracy against density if None.
      alongside: further methods in the panel of a method.
      options: of that function.
    """
    draw = jt.plots.accuracy if draw is None else draw
    with jt.plots.style():
        figure, axes = grid(len(methods), min(2, len(methods)), (4.2, 3.2))
        own = [in_one_panel(table, one, (alongside or {}).get(one, ())) for one in methods]
        drawn = [
            partial(draw, rows, branches=branches_of(rows), legend=False, **options) for rows in own
        ]
        draw_alike(axes, drawn, ylim=_limits(jt.results.concat(own)))
        for ax, method in zip(axes, methods, strict=True):
            ax.set_title(jt.plots.branch_styles([method])[method].label)
        shared_legend(figure, axes)
    return figure


def _limits(table: pd.DataFrame) -> tuple[float, float]:
    """Compute limits in percent for panels with equal axes.

    Inverted methods may leave the panels, and so may a method that falls far below all others:
    where less than a tenth of the numbers take more than two thirds of the height, they do not
    decide it. Triangles mark what is below.
    """
    final = table.loc[(table["split"] == "test") & (table["metric"] == "accuracy")]
    final = final.loc[(final["step"] == final["step"].max()) & (final["branch"] != "inverted")]
    values = 100 * final["value"].astype(float)
    low, high = float(values.min()), float(values.max())
    tenth = high - float(values.quantile(0.1))
    if high - low > 3 * tenth:
        low = high - 1.5 * tenth
    room = max(0.06 * (high - low), 0.5)
    return max(0.0, low - room), min(100.0, high + room)
