"""What scripts of attacks share: the attack, accuracies by radius as a table, and lines of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence

import pandas as pd
from matplotlib.axes import Axes

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.report import cell, groups, mean_line, seeds
from experiments.kd_lts._common import Settings as Common
from jaxticket.plots._axes import density_axis

RADII = {1: (0.05, 0.1, 0.2), 3: (2 / 255, 4 / 255, 8 / 255)}
"""By channels: of digits, and of photographs."""


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of scripts that attack networks: those of the paper's scripts, and the attack."""

    radii: tuple[float, ...] | None = None
    """Largest change of a pixel, as a share of its range; 0.05, 0.1 and 0.2 of gray images, 2, 4
    and 8 / 255 of others."""
    attack_steps: int = 20
    """Iterations of the attack."""
    restarts: int = 1
    """Random starts of each example; the worst counts."""
    attacked: int = 2_000
    """So many test examples at most are attacked."""


def radii_of(settings: Settings, data: jt.data.Data | jt.data.Stream) -> tuple[float, ...]:
    """Give the radii, ascending.

    Raises:
      ValueError: for none.
    """
    usual = RADII[1 if data.shape[-1] == 1 else 3]
    asked = usual if settings.radii is None else settings.radii
    if not asked or min(asked) <= 0:
        raise ValueError(f"`radii` must be above 0, got {asked}")
    return tuple(sorted(asked))


def probe_of(settings: Settings, radii: tuple[float, ...]) -> jt.probes.Attack:
    """Give the attack of a script."""
    return jt.probes.Attack(
        radius=radii, steps=settings.attack_steps, restarts=settings.restarts, check=True
    )


def accuracies(table: pd.DataFrame, radii: Sequence[float]) -> pd.DataFrame:
    """Give accuracies by radius from a table of the probe, 0 being clean examples.

    Returns:
      One row per network and radius: branch, level, density, seed, radius, accuracy.
    """
    clean = table.loc[table["metric"] == "clean_accuracy"].assign(radius=0.0)
    moved = table.loc[table["metric"] == "adversarial_accuracy"]
    moved = moved.assign(radius=[radii[place] for place in moved["index"]])
    rows = jt.results.concat([clean, moved]).rename(columns={"value": "accuracy"})
    return rows.loc[:, ["branch", "level", "density", "seed", "radius", "accuracy"]]


def masked_gradients(table: pd.DataFrame) -> str:
    """Say in a line whether gradients seem to be masked, which makes weak attacks look strong."""
    by = table.pivot_table(
        index=["branch", "level", "seed", "index"], columns="metric", values="value"
    )
    weaker = by[["single_step_accuracy", "random_accuracy"]].min(axis=1)
    ahead = (by["adversarial_accuracy"] - weaker).max()
    left = by["unbounded_accuracy"].max()
    return (
        "check for masked gradients: weaker attacks are at most "
        f"{100 * max(0.0, ahead):.1f} points ahead of this one, which leaves {100 * left:.1f}% at "
        "most when nothing bounds it"
    )


def by_density(
    rows: pd.DataFrame,
    names: Iterable[str],
    radius: float,
    ax: Axes,
    *,
    ylabel: str,
    ylim: tuple[float, float] | None = None,
) -> Axes:
    """Draw accuracy at a radius against density: a line per method, the dense network across."""
    shown = rows.loc[rows["radius"] == radius]
    whole = 100 * shown.loc[shown["branch"] == "dense"]["accuracy"]
    if len(whole):
        ax.axhspan(whole.min(), whole.max(), color="0.45", alpha=0.18, linewidth=0)
        ax.axhline(whole.mean(), color="0.45", linewidth=1.1, label="dense")
    pruned = shown.loc[shown["level"] > 0]
    for name, look in jt.plots.branch_styles(names).items():
        by = pruned.loc[pruned["branch"] == name].groupby("density")["accuracy"]
        if by.ngroups:
            mean_line(ax, by, [100 * density for density in by.groups], look)
    density_axis(ax, pruned["density"].unique())
    ax.set_ylabel(ylabel)
    if ylim is not None:
        ax.set_ylim(ylim)
    return ax


def say(
    job: Job, rows: pd.DataFrame, radii: Sequence[float], keys: Sequence[str] = ("branch",)
) -> None:
    """Print accuracies by network, density and radius."""
    looks = jt.plots.branch_styles(rows["branch"].unique())
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"accuracy in %, mean (min to max) over {seeds(job)}, by radius of PGD\n")
    print(f"{'':40}{'density':>9}" + "".join(f"{radius:>24.3g}" for radius in (0, *radii)))
    for (*place, density), own in groups(rows, *keys, "density"):
        by = own.groupby("radius")["accuracy"].agg(["mean", "min", "max"])
        cells = "".join(f"{cell(row):>24}" for _, row in by.iterrows())
        label = ", ".join(looks[part].label if part in looks else part for part in place)
        print(f"{label:40}{100 * density:8.1f}%{cells}")
