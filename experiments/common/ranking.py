"""The page of the leaderboards: every method on one page, made of what leaderboard.py published.

`python -m experiments.reproduced --write` writes it to docs/leaderboard.md.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.common.claims import rows_of

PAGE = "docs/leaderboard.md"
HEAD = (
    "# Leaderboard",
    "Every method that finds a sparse network, in one setting each: final test accuracy by "
    "density, and at one of the densities what it costs to find the mask (in the operations of "
    "a dense training, and in seconds of the machine), the controls it passes, and what its "
    "trained networks are like. The training of what a mask leaves is in no cost: rules that "
    "move masks while they train (`gradual`, `set`, `rigl` and the like) find theirs on the "
    "way, so that their cost has no more than gradients of weights that are not kept, though "
    "some of them train most weights for a while. Figure 5-1 of `experiments/mask_rules` "
    "compares their operations in all. What passes controls of such a rule is its last mask, "
    "trained once more from the weights of initialization: another network than that of the "
    "accuracies.",
    "A method passes a control where it is above it by a clear gap, at least 0.5 points and two "
    "pooled standard deviations over seeds: shuffled masks, new weights, the inverted ranking. "
    "Where it was measured, the barrier is between two copies of the ticket under other SGD "
    "noise, in points of test error (below 2 is called stable), sharpness is the greatest "
    "eigenvalue of the Hessian, and ECE the expected calibration error. Numbers are means and "
    "standard deviations over seeds, accuracies in %; methods that lie within each other's "
    "deviations are not told apart by their order.",
    "`python -m experiments.leaderboard` makes such a table of any preset. A method of your own"
    " is a line of its dict `METHODS`.",
)
Rows = Sequence[Mapping[str, str]]


def by(rows: Rows, name: str) -> dict[str, list[Mapping[str, str]]]:
    """Group rows by the value of a column."""
    groups: dict[str, list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        groups[row[name]].append(row)
    return groups


def spread(row: Mapping[str, str], name: str, scale: float = 1.0, form: str = ".1f") -> str:
    """Write a mean of overview.csv with its standard deviation; nothing where there is none."""
    if not row.get(name):
        return ""
    mean, std = scale * float(row[name]), row.get(f"{name}_std")
    told = f" \u00b1 {scale * float(std):{form}}" if std else ""
    return f"{mean:{form}}{told}"


def accuracy(row: Mapping[str, str]) -> str:
    """Write a mean accuracy in percent with its standard deviation, which one seed has none of."""
    mean = f"{100 * float(row['mean']):.2f}"
    return f"{mean} \u00b1 {100 * float(row['std']):.2f}" if int(row["seeds"]) > 1 else mean


def said(settings: Mapping[str, Any]) -> str:
    """Give network, data, seeds and steps of a leaderboard in words."""
    note = f", **{settings['data_note']}**" if settings["data_note"] else ""
    narrow = f" at width {settings['width']:g}" if settings["width"] != 1 else ""
    return (
        f"{settings['preset']}{narrow}, {settings['data']}{note}, "
        f"{settings['training_examples']:,} training images, {settings['steps']:,} steps, "
        f"{settings['seeds']} seeds"
    )


def leaderboard(home: Path, root: Path) -> list[str]:
    """Write the table of one published folder as lines of Markdown, the most accurate first.

    Args:
      home: the folder.
      root: top of the repository.
    """
    settings = json.loads((home / "settings.json").read_text(encoding="utf-8"))
    test = [row for row in rows_of(home / "final.csv") if row["split"] == "test"]
    final = by(test, "branch")
    (dense,) = [row for row in final["ticket"] if float(row["density"]) == 1]
    controls = by(rows_of(home / "controls.csv"), "method")
    page = {row["method"]: row for row in rows_of(home / "overview.csv")}
    ladder = {int(row["level"]): float(row["density"]) for row in test if row is not dense}
    levels = sorted(ladder)
    chosen = min(levels, key=lambda n: abs(ladder[n] - settings["at_density"]))
    lines, cells_of = [], {}
    for name, spent in by(rows_of(home / "costs.csv"), "branch").items():
        if name == "dense":
            continue
        own = {int(row["level"]): row for row in final[name]}
        judged = controls.get(name) or controls.get(f"{name}_retrained", [])
        passed = [row["control"] for row in judged if row["passes"] == "True"]
        measured = page.get(name, {})
        cells_of[name] = (
            f"`{name}`",
            *(accuracy(own[n]) if n in own else "" for n in levels),
            f"{np.mean([float(row['cost']) for row in spent]):.3g}",
            f"{np.mean([float(row['seconds']) for row in spent]):.3g}",
            f"{', '.join(passed) or 'none'} of {len(judged)}" if judged else "",
            spread(measured, "barrier", 100, ".2f"),
            spread(measured, "eigenvalue", form=".3g"),
            spread(measured, "ece", 100, ".2f"),
        )
        lines.append((float(own[chosen]["mean"]), name))
    ranked = [cells_of[name] for _, name in sorted(lines, key=lambda pair: -pair[0])]
    heads = ("Method", *(f"{100 * ladder[n]:.3g}%" for n in levels), "Cost", "Seconds", "Passes",
             "Barrier", "Sharpness", "ECE (%)")  # fmt: skip
    # what was not measured has no column
    shown = [i for i in range(len(heads)) if any(cells[i] for cells in ranked)]
    left_out = [
        f"`{name}` is left out: {why}." for name, why in settings.get("left_out", {}).items()
    ]
    folder = home.relative_to(root).as_posix()
    pictures = [f"[{path.stem}](../{folder}/{path.name})" for path in sorted(home.glob("*.png"))]
    return [
        f"## {settings['preset']}, {settings['size']} size",
        "",
        f"{said(settings)} ([settings](../{folder}/settings.json)). The dense network has "
        f"{accuracy(dense)}. Methods are in the order of their accuracies at "
        f"{100 * ladder[chosen]:.3g}% of the weights, where the columns after the accuracies were "
        f"measured. {' '.join((*left_out, 'Figures:'))} {', '.join(pictures)}.",
        "",
        *(
            f"| {' | '.join(cells[i] for i in shown)} |"
            for cells in (heads, ["---"] * len(heads), *ranked)
        ),
        "",
    ]


def page(root: Path, folders: Iterable[Path]) -> str:
    """Write the page.

    Args:
      root: top of the repository.
      folders: of published leaderboards.
    """
    parts = [line for text in HEAD for line in (text, "")]
    for home in folders:
        parts += leaderboard(home, root)
    return "\n".join(parts).rstrip("\n") + "\n"
