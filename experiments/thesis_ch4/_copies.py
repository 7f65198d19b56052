"""What the scripts of chapter 4 share: steps k, sizes of the analysis, tables in the terminal."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import pandas as pd

import jaxticket as jt
from experiments.common.job import Job
from experiments.common.job import Settings as Common
from experiments.common.sizes import LENET

BANDS = "bands are standard deviations over seeds and pairs of copies"
# steps of the source's training; at quick size shares of the shorter one, which has few steps
PAPER = {
    "lenet": (0, 25, 50, 100, 250, 500, 1000, 2500, 5000),
    "default": (0, 100, 250, 500, 1000, 2000, 4000, 16000, 32000),
}
DENSE = {"lenet": (0, 0.02, 0.05, 0.1, 0.25), "default": (0, 0.1, 0.3, 0.6)}
TICKETS = {"lenet": (0, 0.05, 0.25), "default": (0, 0.1, 0.3)}
# a ResNet on images of 16 x 16: unstable from step 0, and stable later, after some minutes
SMALL = {
    "seeds": 2,
    "steps": 300,
    "eval_every": 100,
    "pool": 2,
    "test_examples": 2_000,
    "eval_train_examples": 500,
}
REDUCED = (0, 0.02, 0.06, 0.2)
USUAL = {name: getattr(LENET, name) for name in SMALL}


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of the scripts of this chapter: those of all, and how copies are compared."""

    at: tuple[int, ...] | None = None
    """Steps k after which copies are trained apart, of the training at its size."""
    copies: int | None = None
    """Copies of every state; all pairs of them are compared (3; at other sizes some 2)."""
    points: int | None = None
    """Places on each line between two copies (30; at other sizes 11)."""
    throughout: int | None = None
    """Places on the lines that are drawn at every evaluation (10; quick 3, reduced 5)."""


@dataclasses.dataclass(frozen=True)
class Comparison:
    """How copies are compared in a job."""

    at: tuple[int, ...]
    copies: int
    points: int
    throughout: int

    @property
    def options(self) -> dict[str, Any]:
        """Options of `jt.instability`."""
        return {"copies": self.copies, "points": self.points}


def comparison(
    job: Job, settings: Settings, *, shares: dict[str, tuple[float, ...]], copies: int
) -> Comparison:
    """Choose steps and sizes: those asked for, or those of the job's size.

    Args:
      job: the job.
      settings: what the user asked for.
      shares: at quick size the steps k, as shares of the training, by network.
      copies: at quick size, of LeNet (of others 2).

    Raises:
      ValueError: for a step that is not inside of the training.
    """
    quick, reduced = (settings.size == size for size in ("quick", "reduced"))
    kind = str(job.preset.network)
    if settings.at is not None:
        at = tuple(sorted(set(settings.at)))
    elif quick or reduced:
        found = REDUCED if reduced else shares.get(kind, shares["default"])
        at = tuple(sorted({round(share * job.size.steps) for share in found}))
    else:
        shrink = job.size.steps / job.preset.training.steps
        at = tuple(sorted({round(k * shrink) for k in PAPER.get(kind, PAPER["default"])}))
    if not at or at[0] < 0 or at[-1] >= job.size.steps:
        raise ValueError(f"`at` must be steps in [0, {job.size.steps}), got {at}")
    usual = (copies if kind == "lenet" else 2, 11, 3) if quick else (3, 30, 10)
    if reduced:
        usual = (2, 11, 5)
    chosen = [
        own if given is None else given
        for given, own in zip(
            (settings.copies, settings.points, settings.throughout), usual, strict=True
        )
    ]
    return Comparison(at, *chosen)


def verdicts(inst: jt.Instability) -> pd.DataFrame:
    """Make one row per branch, level and step k.

    Columns: barrier and final error with their spread, both verdicts, the error at k, distances.
    """
    barrier = inst.stable().set_index(["branch", "level", "at"])
    error = inst.matching().set_index(["branch", "level", "at"])
    rows = barrier.loc[:, ["density", "samples", "diverged"]].copy()
    for name, found in (("barrier", barrier), ("error", error)):
        for part in ("mean", "std", "low", "high"):
            rows[f"{name}_{part}"] = found[part]
    rows["stable"], rows["matching"] = barrier["stable"], error["matching"]
    for metric, split in (
        ("barrier", "train"),
        ("loss_barrier", "test"),
        ("disagreement", "test"),
        ("disagreement_share", "test"),
        ("loss_l2", "test"),
        ("l2", "weights"),
        ("cosine", "weights"),
    ):
        found = jt.stability.summary(inst.table(), metric=metric, split=split)
        name = f"{metric}_{split}" if split == "train" else metric
        rows[f"{name}_mean"] = found.set_index(["branch", "level", "at"])["mean"]
    for metric, split in (("error", "test"), ("l2_from_init", "weights")):
        found = jt.stability.summary(inst.states(), metric=metric, split=split, unit="seed")
        name = "error_at_k" if metric == "error" else metric
        rows[f"{name}_mean"] = found.set_index(["branch", "level", "at"])["mean"]
    found = jt.stability.summary(inst.copies(), metric="l2_from_k", split="weights")
    rows["l2_from_k_mean"] = found.set_index(["branch", "level", "at"])["mean"]
    return rows.reset_index()


def report(job: Job, rows: pd.DataFrame, steps: pd.DataFrame, names: Sequence[str] = ()) -> None:
    """Print the verdicts, and the first stable and matching steps."""
    print(f"\n{job.network_name} on {job.data_name} ({job.preset.name}, {job.settings.size} size)")
    print(f"{'':>18} {'density':>8} {'k':>6} {'barrier':>14} {'error':>14}   verdict")
    for row in rows.to_dict("records"):
        dense = row["level"] == 0 and row["branch"] == "ticket"
        passed = [
            name
            for name in ("stable", "matching")
            if row[name] and not (dense and name != "stable")
        ]
        cells = "".join(
            f" {100 * row[f'{name}_mean']:6.1f} +-{100 * row[f'{name}_std']:5.1f}"
            for name in ("barrier", "error")
        )
        branch = "dense" if dense else row["branch"]
        print(
            f"{branch:>18} {100 * row['density']:7.1f}% {row['at']:6d}{cells}   {', '.join(passed)}"
        )
    for row in steps.to_dict("records"):
        if not names or row["branch"] in names:
            step = "none" if row["step"] != row["step"] else f"{row['step']:g}"
            dense = row["level"] == 0 and row["branch"] == "ticket"
            if not (dense and row["verdict"] == "matching"):
                print(
                    f"first {row['verdict']} step, {'dense' if dense else row['branch']} at "
                    f"{100 * row['density']:.1f}%: {step} ({100 * row['share']:.0f}% of samples)"
                )
