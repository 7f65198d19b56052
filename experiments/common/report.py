"""What the scripts have in common: tables in the terminal, figures, and the files of results."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection, PolyCollection
from matplotlib.figure import Figure
from numpy.typing import ArrayLike
from pandas.core.groupby import SeriesGroupBy

import jaxticket as jt
from experiments.common.job import Job, count_seconds
from experiments.common.machine import processor
from experiments.common.sizes import paper_size
from jaxticket.analysis.conditions import clear_gap
from jaxticket.plots._style import BranchStyle, branch_order
from jaxticket.presets import Preset

PUBLISHED = Path(__file__).resolve().parents[1] / "results"


class Row(Protocol):
    """A row of a table: numbers by column."""

    def __getitem__(self, name: str, /) -> Any:
        """Give the value of a column."""
        ...


# fields of a size that make its numbers other than the source's
PART = ("steps", "share", "width", "batch_size", "test_examples")
# chapter 3 draws new weights for its globally random networks (footnote 10)
SHOWN_AS = {"globally_permuted": "random"}
DEVIATION = "bands are one standard deviation over seeds"


def renamed(table: pd.DataFrame, names: Mapping[str, str] = SHOWN_AS) -> pd.DataFrame:
    """Give the table with other names of branches."""
    return table.assign(branch=table["branch"].replace(names))


def compared_level(job: Job) -> int:
    """Give the level whose density is next to the one that the source prints accuracies at."""
    asked = job.preset.matching_density or 1.0
    densities = (1.0, *job.densities)
    return min(range(len(densities)), key=lambda n: abs(math.log(densities[n] / asked)))


def report(job: Job, table: pd.DataFrame) -> None:
    """Print final test accuracies by density, and those of the source next to the nearest level."""
    table = renamed(table)
    rows = jt.speed.matching(table, margin=job.settings.margin, test_size=len(job.data.test))
    looks = jt.plots.branch_styles(branch_order(rows["branch"].unique(), None))
    rows = rows.set_index(["level", "branch"]).sort_index()
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"final test accuracy in %, mean (min to max) over {seeds(job)}")
    print(
        f"{'density':>8}" + "".join(f"{look.label:>25}" for look in looks.values()) + "  matching"
    )
    densities = rows.xs("ticket", level="branch")["density"].to_dict()
    for level, density in densities.items():
        cells = "".join(
            f"{cell(rows.loc[(level, name)]) if (level, name) in rows.index else '-':>25}"
            for name in looks
        )
        enough = [
            name
            for name in looks
            if level and (level, name) in rows.index and rows.loc[(level, name)]["matching"]
        ]
        print(f"{100 * density:7.2f}%{cells}  {', '.join(enough) if level else '(dense)'}")
    printed = reported(job.preset)
    if not printed:
        print(f"\n({job.preset.source}, prints no accuracies of this setting, only figures)")
        return
    asked, nearest = job.preset.matching_density or 1.0, compared_level(job)
    here = f"here, {100 * densities[nearest]:.2g}% of weights"
    print(f"\n{'':24}{here:>25}  {f'reported, {100 * asked:.2g}%':>16}")
    print(f"{'dense':24}{cell(rows.loc[(0, 'ticket')], 2):>25}  {printed.pop('dense'):16.1f}")
    for name in (name for name in printed if name in looks):
        known = (nearest, name) in rows.index
        here = cell(rows.loc[(nearest, name)], 2) if known else "-"
        print(f"{looks[name].label:24}{here:>25}  {printed[name]:16.1f}")
    usual = job.preset.training.steps
    if not at_full_size(job):
        print(f"(reported: {usual:,} steps on all of the data, {job.preset.source})")


def lost_classes(layers: pd.DataFrame, by: str = "density") -> None:
    """Print how many units of the output layer have no weights left, where there are such.

    Args:
      layers: rows of `jt.layers.report` with branch and the column `by`.
      by: "density", or "pruned_at" for the step of pruning.
    """
    outputs = layers.loc[layers["index"] == layers["index"].max()]
    lost = outputs.groupby(["branch", by], sort=False)["dead_units"].agg(["min", "max"])
    lost = lost.loc[lost["max"] > 0]
    if lost.empty:
        return
    classes, looks = outputs["units"].iloc[0], jt.plots.branch_styles(layers["branch"].unique())
    print(f"\nclasses of {classes} whose output has no weights left, least and greatest seed")
    for (name, at), row in lost.iterrows():
        where = f"at {100 * at:.3g}%" if by == "density" else f"at step {at}"
        print(f"{looks[name].label:44} {where}: {row['min']} to {row['max']}")


def at_full_size(job: Job) -> bool:
    """Tell whether networks, data and training are those of the source."""
    mine, whole = job.size, paper_size(job.preset, {})
    same = all(getattr(mine, f) == getattr(whole, f) for f in PART)
    own = job.settings
    return same and own.data is None and own.lr is None and not own.data_note


def seeds(job: Job) -> str:
    """Give the number of seeds in words."""
    return f"{job.size.seeds} seed{'s' if job.size.seeds > 1 else ''}"


def cell(row: Row, digits: int = 1) -> str:
    """Write the mean, least and greatest accuracy in percent."""
    mean, low, high = (f"{100 * row[name]:.{digits}f}" for name in ("mean", "min", "max"))
    return f"{mean} ({low} to {high})"


def grid(count: int, across: int, size: tuple[float, float]) -> tuple[Figure, list[Axes]]:
    """Make a figure of several panels of a size in inches; call it inside `jt.plots.style()`."""
    down, (width, height) = -(-count // across), size
    figure, axes = pyplot.subplots(
        down, across, figsize=(width * across, height * down), layout="constrained", squeeze=False
    )
    for ax in axes.flat[count:]:
        ax.remove()
    return figure, list(axes.flat[:count])


def pair(width: float = 8.4, height: float = 3.6) -> tuple[Figure, tuple[Axes, Axes]]:
    """Make a figure of two panels; call it inside `jt.plots.style()`."""
    figure, (left, right) = grid(2, 2, (width / 2, height))
    return figure, (left, right)


def single(width: float = 5.2, height: float = 3.6) -> tuple[Figure, Axes]:
    """Make a figure of one panel; call it inside `jt.plots.style()`."""
    return pyplot.subplots(figsize=(width, height), layout="constrained")


def draw_alike(
    axes: Sequence[Axes],
    panels: Sequence[Callable[..., Axes]],
    groups: Sequence[str] | None = None,
    *,
    ylim: tuple[float, float] | None = None,
) -> None:
    """Draw panels that are compared, with the limits of x and y that they need together.

    What a function of `jt.plots` draws depends on the limits of y, such as the triangles where
    lines leave the axes, so that they must be known before: each panel is first drawn on axes that
    are thrown away, with the limits that it has alone.

    Args:
      axes: one for each panel.
      panels: functions of `jt.plots` that take `ylim`, with their table and options
        (`functools.partial`).
      groups: for each panel which of them it is compared with, those of the same group; with all
        if None.
      ylim: limits of y of all panels, or None for those that they need.
    """
    groups = [""] * len(panels) if groups is None else groups
    for group in dict.fromkeys(groups):
        own = [
            (ax, panel)
            for ax, panel, other in zip(axes, panels, groups, strict=True)
            if other == group
        ]
        reach = ylim
        if reach is None:
            alone = [panel(ax=Figure().subplots()).get_ylim() for _, panel in own]
            reach = _around(alone)
        for ax, panel in own:
            panel(ax=ax, ylim=reach)
        across = _around([ax.get_xlim() for ax, _ in own])
        for ax, _ in own:
            ax.set_xlim(across)


def _around(limits: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Give limits that contain all others, which run in one direction."""
    first, last = zip(*limits, strict=True)
    if limits[0][0] > limits[0][1]:
        return max(first), min(last)
    return min(first), max(last)


def test_and_train(table: pd.DataFrame) -> Figure:
    """Draw final accuracy against density: test on the left, train on the right, one legend."""
    with jt.plots.style():
        figure, axes = pair()
        draw = functools.partial(jt.plots.accuracy, renamed(table), legend=False)
        draw_alike(axes, [functools.partial(draw, split=split) for split in ("test", "train")])
        shared_legend(figure, axes)
    return figure


FAR = 0.08
"""Accuracy below the dense network's from which on a method is left out of figures of costs."""


def near_dense(costs: pd.DataFrame, dense: ArrayLike, title: str = "") -> tuple[pd.DataFrame, str]:
    """Leave out methods with a seed far below the dense network, so that the others are told apart.

    Args:
      costs: table for `jt.plots.accuracy_against_cost`.
      dense: accuracies of the dense network.
      title: of the figure.

    Returns:
      The rows of the others, and the title with a line that names those left out; all rows and the
      title where there are none, or nothing would be left.
    """
    own = costs.loc[costs["branch"] != "dense"]
    by = own.groupby("branch", sort=False)["accuracy"].agg(["mean", "min", "max"])
    far = by.loc[~(by["min"] >= float(np.mean(np.asarray(dense))) - FAR)]
    if len(far) in (0, len(by)):
        return costs, title
    looks = jt.plots.branch_styles(list(far.index))
    words = (f"{look.label} {cell(far.loc[name])}" for name, look in looks.items())
    near = costs.loc[~costs["branch"].isin(list(far.index))]
    return near, f"{title}\nnot shown, a seed far below dense (%): {', '.join(words)}".strip()


def mean_line(ax: Axes, by: SeriesGroupBy, at: ArrayLike, look: BranchStyle) -> None:
    """Draw the means of groups in percent at places along x, and the minimum and maximum."""
    mean, low, high = (100 * getattr(by, name)() for name in ("mean", "min", "max"))
    ax.plot(at, mean, color=look.color, marker=look.marker, linestyle=look.line, label=look.label)
    ax.fill_between(at, low, high, color=look.color, alpha=0.15, linewidth=0)


def shared_legend(figure: Figure, axes: Iterable[Axes]) -> None:
    """Draw one legend above all panels; the caption is below them."""
    entries = {}
    for ax in axes:
        for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
            # how far a line goes below the axes differs between panels
            entries.setdefault(label.split(", falls to ")[0], handle)
    columns = legend_columns(list(entries), figure.get_figwidth())
    figure.legend(list(entries.values()), list(entries), loc="outside upper center", ncols=columns)


def legend_columns(labels: Sequence[str], width: float) -> int:
    """Give the most columns of a legend that fit into a width in inches.

    Each column is as wide as its longest label; columns are filled one after another.

    >>> legend_columns(["dense", "ticket", "a label that is much longer than the others"], 3.0)
    1
    >>> legend_columns(["dense", "ticket", "a label that is much longer than the others"], 4.2)
    2
    """
    for columns in range(len(labels), 1, -1):
        parts = np.array_split([len(label) for label in labels], columns)
        # some 15 letters to the inch, and 6 for each handle
        if sum(int(part.max()) + 6 for part in parts) <= 15 * width:
            return columns
    return 1


def save(
    job: Job,
    figures: Mapping[str, Figure],
    table=None,
    *,
    tables: Mapping[str, pd.DataFrame] | None = None,
    more: Mapping[str, object] | None = None,
    bands: str | None = "bands go from the least to the greatest seed",
    pruning: str | None = None,
    of_seed: Mapping[str, int] | None = None,
) -> None:
    """Write figures and small tables into the job's folder, and a copy of them if asked to.

    Args:
      job: the job.
      figures: by file name.
      table: the tidy table of runs, of which final accuracies are kept, over seeds and those on
        the test split by seed; None for none.
      tables: further small tables by file name.
      more: further settings to write down.
      bands: what the bands of the figures are; None where there are none.
      pruning: how networks come to their densities, for captions; by levels if None.
      of_seed: the seed that is shown, by file name, of figures that show only one.
    """
    kept = {} if table is None else {"final": _final(table), "final_by_seed": _by_seed(table)}
    small = {**kept, **(tables or {})}
    for name, figure in figures.items():
        shown = (of_seed or {}).get(name)
        whose = seeds(job) if shown is None else f"seed {shown} of {seeds(job)}"
        jt.plots.caption(figure, _note(job, figure, whose, bands, pruning))
    _write(job.folder, job.folder / "figures", figures, small)
    seconds = count_seconds(job.folder, job.name, finished=True)
    print(f"\nresults in {job.folder}")
    if job.settings.publish:
        # scripts of no paper lie in experiments/ itself
        home = PUBLISHED if job.paper == PUBLISHED.parent.name else PUBLISHED / job.paper
        target = home / _published_name(job, more or {})
        _write(target, target, figures, small)
        settings = {
            "script": job.name,
            "preset": job.preset.name,
            "size": job.settings.size,
            **job.about,
            **(more or {}),
            "data_note": job.settings.data_note,
            "margin": job.settings.margin,
        }
        for name, value in (
            ("settings", settings),
            ("environment", _machine() | seconds | mixture(job.folder)),
        ):
            text = json.dumps(jt.results.plain(value), indent=1)
            (target / f"{name}.json").write_text(text + "\n", encoding="utf-8")
        print(f"published in {target.relative_to(PUBLISHED.parents[1])}")
    for figure in figures.values():
        pyplot.close(figure)


def by_level(job: Job) -> str:
    """Say how much a level prunes, for captions."""
    return f"{100 * job.size.fraction:.3g}% pruned per level"


def _note(job: Job, figure: Figure, whose: str, bands: str | None, pruning: str | None) -> str:
    """Write the caption: where a figure's numbers come from, and how to read it."""
    note = (
        f"{job.run}: {job.network_name} on {job.data_name} ({len(job.data.train):,} "
        f"training, {len(job.data.test):,} test examples), {whose}, {job.size.steps:,} steps "
        f"of batch {job.training.batch_size}"
    )
    if job.settings.lr is not None:
        note += f", learning rate {job.settings.lr:g}"
    if pruning is None and job.size.levels:
        pruning = by_level(job)
    note += f", {pruning}" if pruning else ""
    if bands is not None and _has(figure, PolyCollection):
        note += f"; lines are means, {bands}"
    elif bands is not None and _has(figure, LineCollection):
        note += f"; lines are means, {bands.replace('bands', 'bars')}"
    if any(line.get_label() == "_exit" for ax in figure.axes for line in ax.lines):
        note += "; triangles on the x axis mark lines that go on below it"
    return note


def _has(figure: Figure, kind: type[PolyCollection | LineCollection]) -> bool:
    """Tell whether spread is drawn as areas, or as bars (unlike cells and contours)."""
    return any(isinstance(one, kind) for ax in figure.axes for one in ax.collections)


def _final(table: pd.DataFrame) -> pd.DataFrame:
    """Compute final accuracies of all splits over the seeds, by branch and level."""
    parts = []
    for split in table["split"].unique():
        rows = jt.speed.over_seeds(jt.speed.final(table, split=split))
        parts.append(rows.assign(split=split))
    return jt.results.concat(parts).sort_values(["branch", "level", "split"], ignore_index=True)


def _by_seed(table: pd.DataFrame) -> pd.DataFrame:
    """Give final test accuracies of every seed, so that differences can be taken seed by seed."""
    rows = jt.speed.final(table).loc[:, ["branch", "level", "density", "seed", "value"]]
    return rows.sort_values(["branch", "level", "seed"], ignore_index=True)


def _write(
    folder: Path, pictures: Path, figures: Mapping[str, Figure], small: Mapping[str, pd.DataFrame]
) -> None:
    pictures.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        figure.savefig(pictures / f"{name}.png", dpi=150)
    for name, table in small.items():
        table.to_csv(folder / f"{name}.csv", index=False, float_format="%.6g")


def _published_name(job: Job, more: Mapping[str, object]) -> str:
    """Name the folder SCRIPT-PRESET-SIZE, with a hash where other settings differ."""
    name = f"{job.name}-{job.preset.name}-{job.settings.size}"
    usual = type(job.settings)()
    # the network is in the preset's name
    place = {"preset", "network", "size", "folder", "data_dir", "data_note", "budget", "publish"}
    fields = {f.name for f in dataclasses.fields(job.settings)} - place
    if all(getattr(job.settings, field) == getattr(usual, field) for field in fields):
        return name
    return jt.results.run_name(name, {**job.about, **more, "margin": job.settings.margin})


def mixture(folder: Path) -> dict[str, object]:
    """Give the environments that computed what lies in a folder, if there are several."""
    found: list[object] = []
    for path in sorted(folder.rglob("environment.json")):
        found += [one for one in json.loads(path.read_text("utf-8")) if one not in found]
    return {"computed_in": found} if len(found) > 1 else {}


def _machine() -> dict[str, object]:
    """Describe processor, devices and versions; nothing that names the host."""
    return {
        **processor(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "jax": jax.__version__,
    }


CONTROLS = ("shuffle", "reinit", "inverted", "sign_flip")


def named(table: pd.DataFrame, method: str) -> pd.DataFrame:
    """Give the table of a method's runs with its branches called METHOD and METHOD_CONTROL.

    The dense network stays level 0 of branch "ticket".
    """
    pruned = table["level"] > 0
    own = table["branch"].replace("ticket", method)
    controls = f"{method}_" + table["branch"]
    own = own.where(table["branch"] == "ticket", controls)
    return table.assign(branch=own.where(pruned, table["branch"]))


def differences(table: pd.DataFrame) -> pd.DataFrame:
    """Compute how each control changes each method's final test accuracy.

    A method passes a control, that is, it is sensitive to it, where its mean accuracy is above the
    control's by a clear gap (`clear_gap`). Whoever does not pass has found how much of each layer
    to keep, or nothing at all, but not which weights.

    Args:
      table: tidy table of runs.

    Returns:
      One row per method, control and level: method, control, level, density, difference (of the
      means over the seeds that did not diverge, control minus method, in points), std (pooled, in
      points; nan for one seed), seeds and diverged (trainings of the two, and how many of them
      diverged) and passes (None where there is no difference or no spread to judge by, or where a
      seed of the method diverged).

    Reference: KD-LTS, definitions 6.2 and 6.3.
    """
    final = jt.speed.final(table)
    parts = {(branch, level): part for (branch, level), part in groups(final, "branch", "level")}
    values = {place: part["value"].to_numpy(float) for place, part in parts.items()}
    names, rows = order(final["branch"]), []
    for branch, level in sorted(values, key=lambda place: (names.index(place[0]), place[1])):
        control = values[branch, level]
        method, name = base(branch)
        if not name or (method, level) not in values:
            continue
        own = values[method, level]
        gap, pooled, clear = clear_gap(own, control)
        # a method's mean that leaves a seed out proves nothing in its favor
        whole = bool(np.isfinite(own).all())
        judged = bool(whole and np.isfinite(gap) and np.isfinite(pooled))
        rows.append(
            {
                "method": method,
                "control": name,
                "level": int(level),
                "density": float(np.median(parts[method, level]["density"])),
                "difference": -100 * gap if np.isfinite(gap) else np.nan,
                "std": 100 * pooled,
                "seeds": len(own) + len(control),
                "diverged": int((~np.isfinite([*own, *control])).sum()),
                "passes": clear if judged else None,
            }
        )
    return jt.results.frame(rows)


def groups(table: pd.DataFrame, *keys: str) -> Iterator[tuple[tuple, pd.DataFrame]]:
    """Iterate over the values of several columns and the rows that have them, in table order."""
    for key, rows in table.groupby(list(keys), sort=False):
        yield key if isinstance(key, tuple) else (key,), rows


def base(branch: str) -> tuple[str, str]:
    """Give the method and the control that a branch's name stands for; no control for a method.

    >>> base("erk_shuffle"), base("grasp_absolute"), base("magnitude_after_training")
    (('erk', 'shuffle'), ('grasp_absolute', ''), ('magnitude_after_training', ''))
    """
    for control in CONTROLS:
        if branch.endswith(f"_{control}"):
            return branch.removesuffix(f"_{control}"), control
    return branch, ""


def in_one_panel(table: pd.DataFrame, method: str, alongside: Sequence[str] = ()) -> pd.DataFrame:
    """Select the rows of one method and its controls, for a panel of a figure of several methods.

    The method is called "unmodified" and its controls "shuffle" and so on, so that all panels share
    one legend. The dense network and methods in `alongside` keep their names.
    """
    parts = table["branch"].map(base)
    guests = table["branch"].isin(alongside)
    own = parts.map(lambda part: part[0] == method) | guests | (table["level"] == 0)
    names = parts.map(lambda part: part[1] or "unmodified").where(~guests, table["branch"])
    return table.assign(branch=names.where(table["level"] > 0, table["branch"])).loc[own]


def order(names: Iterable[str]) -> list[str]:
    """Sort methods in the order of figures, each followed by its controls."""
    names = list(dict.fromkeys(names))
    places = {name: i for i, name in enumerate(dict.fromkeys(base(name)[0] for name in names))}
    return sorted(
        names,
        key=lambda name: (places[base(name)[0]], ("", *CONTROLS).index(base(name)[1])),
    )


def in_words(row: Row) -> str:
    """Write a difference in words: "-3.1 +- 0.4 *", where the star says that the method passes."""
    lost = f"{row['diverged']} of {row['seeds']} diverged"
    if not np.isfinite(row["difference"]):
        return lost
    spread = f" +- {row['std']:.1f}" if np.isfinite(row["std"]) else ""
    words = f"{row['difference']:+.1f}{spread}" + (" *" if row["passes"] else "")
    return f"{words} ({lost})" if row["diverged"] else words


# Table 4.2, in percent: tickets rewound to step 0, the same masks permuted within each layer
# (chapter 4 prunes randomly "in the same layerwise proportions as IMP", Figure 4-23, and so does
# OpenLTH by default), and the same masks with new weights, at the density of Table 4.1
# (`Preset.matching_density`)
TABLE_4_2: dict[str, dict[str, float]] = {
    "lenet-mnist": {"ticket": 98.2, "shuffle": 96.7, "reinit": 97.5},
    "resnet20-cifar10": {"ticket": 88.5, "shuffle": 88.6, "reinit": 88.8},
    "resnet20-cifar10-low": {"ticket": 89.0, "shuffle": 85.7, "reinit": 84.7},
    "resnet20-cifar10-warmup": {"ticket": 89.6, "shuffle": 85.7, "reinit": 85.6},
    "vgg16-cifar10": {"ticket": 90.9, "shuffle": 89.4, "reinit": 91.0},
    "vgg16-cifar10-low": {"ticket": 91.6, "shuffle": 90.1, "reinit": 90.2},
    "vgg16-cifar10-warmup": {"ticket": 93.2, "shuffle": 90.1, "reinit": 90.7},
}

# footnote 8 of chapter 5: the least density at which one-shot magnitude pruning after training
# matches the dense network ("highest matching sparsity"), by network; of LeNet that of Table 4.1
MATCHING = {
    "resnet20": 0.262,
    "vgg16": 0.069,
    "resnet18": 0.035,
    "resnet50": 0.328,
    "lenet": 0.035,
}
# section 5.7.1: percentage of convolutional channels with nothing left at that density
NEURONS: dict[str, dict[str, float]] = {
    "resnet20": {"magnitude": 0, "snip": 5, "grasp": 1, "synflow": 31, "synflow_shuffle": 1},
    "vgg16": {"magnitude": 0, "snip": 11, "grasp": 6, "synflow": 52, "synflow_shuffle": 0},
    "resnet18": {"snip": 32, "grasp": 14, "synflow": 69, "synflow_shuffle": 3.5},
    "resnet50": {"magnitude": 0, "snip": 7, "grasp": 1, "synflow": 29, "synflow_shuffle": 13},
}


def reported(preset: Preset) -> dict[str, float]:
    """Give the source's accuracies of a setting, in percent by branch: "dense" first."""
    dense = preset.dense_accuracy
    return ({} if dense is None else {"dense": 100 * dense}) | TABLE_4_2.get(preset.name, {})
