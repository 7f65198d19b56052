"""Figure 5-1 of Frankle's thesis: how many weights are left at every step of training.

Each method at the least density at which it is within a point of the dense network, as the thesis
reports it, drawn from settings alone: nothing is trained. Methods are those that this library has;
gradual and dynamic pruning, which the thesis took from other papers, are not among them. Masks that
were found by training to the end and only then applied early (tickets with rewinding) are dashed.
`--preset` chooses the network: resnet50-imagenet (that of the figure), resnet20-cifar10,
vgg16-cifar10.

Command:  python -m experiments.thesis_ch5.schedules [--preset NAME] [--final FINAL.csv] [--publish]
Makes:    figure 5-1, schedules.csv; densities and steps in the terminal.
Cost:     seconds on a CPU.
Expected: tickets with rewinding keep 30% of ResNet-50 from 5.5% of training on (16.8% of ResNet-20
          from 0.8%, 1.5% of VGG-16 from 1.6%), magnitude pruning after training 32.8% (26.2%, 6.9%)
          from its end. At initialization SNIP and SynFlow keep 41% of VGG-16, random pruning 80%.
"""

from __future__ import annotations

import csv
import dataclasses
import json
from pathlib import Path

import matplotlib
import pandas as pd

import jaxticket as jt
from experiments.common.job import launch
from experiments.common.report import MATCHING, PUBLISHED, single
from jaxticket.presets import Preset

TICKET, AFTER = "ticket", "magnitude_after_training"
# section 5.6: the least densities at which pruning at initialization reaches full accuracy; of
# ResNet-20 none does beyond those at which random pruning (chapter 4) does too
AT_START = {
    "resnet20": {"random": 0.8},
    "vgg16": {"random": 0.8, "snip": 0.41, "synflow": 0.41},
    "resnet18": {"random": 0.8, "snip": 0.107, "synflow": 0.21},
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """Options of this script, which trains nothing."""

    preset: str = "resnet50-imagenet"
    """Network and training: a preset with a reported density of matching tickets."""
    final: Path | None = None
    """final.csv of at_initialization.py: take the least densities measured there instead."""
    margin: float = 0.01
    """What counts as the dense network's accuracy there: one point below it."""
    folder: Path | None = None
    """Where results go; results/schedules-PRESET by default."""
    publish: bool = False
    """Also put figure and table into experiments/results/."""


def reported(preset: Preset) -> dict[str, float]:
    """Give the least densities by method as the thesis reports them.

    Raises:
      ValueError: for a preset of which it reports none.
    """
    network = str(preset.network)
    found = dict(AT_START.get(network, {}))
    if network in MATCHING and network != "lenet":
        found[AFTER] = MATCHING[network]
    if preset.matching_density is not None:
        found[TICKET] = preset.matching_density
    if not found:
        raise ValueError(
            f"`preset` {preset.name!r} has no reported densities; use resnet50-imagenet, "
            f"resnet20-cifar10 or vgg16-cifar10, or pass --final"
        )
    return found


def measured(path: Path, margin: float) -> dict[str, float]:
    """Find for each method the least density from which on all means match the dense mean."""
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["split"] == "test"]
    rows.sort(key=lambda row: int(row["level"]))
    dense = next(float(row["mean"]) for row in rows if row["level"] == "0")
    found: dict[str, float] = {}
    lost = set()
    for row in (row for row in rows if row["level"] != "0"):
        if float(row["mean"]) < dense - margin:
            lost.add(row["branch"])
        elif row["branch"] not in lost:
            found[row["branch"]] = float(row["density"])
    return found


def schedule(preset: Preset, densities: dict[str, float]) -> pd.DataFrame:
    """Make a row per method and step at which its density changes: branch, step, density."""
    steps = preset.training.steps
    rewind = preset.matching_rewind
    at = {TICKET: rewind if isinstance(rewind, int) else 0, AFTER: steps}
    rows = [
        {"branch": name, "step": at.get(name, 0), "density": density}
        for name, density in densities.items()
    ]
    return jt.results.frame(rows)


def main(settings: Settings) -> None:
    """Draw the densities of every method over training."""
    matplotlib.use("Agg")
    preset = jt.preset(settings.preset)
    if settings.final is None:
        densities, origin = reported(preset), "as reported in the thesis"
    else:
        densities = measured(settings.final, settings.margin)
        origin = f"measured, within {100 * settings.margin:g} points of dense"
        if not densities:
            raise ValueError(f"`final` {settings.final} has no method that reaches the dense one")
    table = schedule(preset, densities)
    steps = preset.training.steps
    print(f"{preset.name}, {steps:,} steps: least densities {origin}\n")
    for row in table.to_dict("records"):
        share = 100 * row["step"] / steps
        print(f"{row['branch']:26}{100 * row['density']:6.1f}% from {share:.1f}% of training on")
    with jt.plots.style():
        figure, ax = single()
        later = [TICKET] if TICKET in densities and preset.matching_rewind != 0 else []
        jt.plots.density_schedule(table, ax, steps=steps, retroactive=later)
    jt.plots.caption(figure, f"{preset.name}: least densities {origin}; nothing was trained")
    folders = [settings.folder or Path("results") / f"schedules-{preset.name}"]
    if settings.publish:
        folders.append(PUBLISHED / "thesis_ch5" / f"schedules-{preset.name}")
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        figure.savefig(folder / "figure_5-1.png", dpi=150)
        table.to_csv(folder / "schedules.csv", index=False, float_format="%.6g")
        about = {"preset": preset.name, "steps": steps, "densities": origin}
        text = json.dumps(about, indent=1)
        (folder / "settings.json").write_text(text + "\n", encoding="utf-8")
        print(f"results in {folder}")


if __name__ == "__main__":
    launch(main, Settings, __doc__)
