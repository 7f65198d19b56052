"""Winning tickets, end to end: LeNet-300-100, pruned by magnitude, with controls at every level.

Command:  python -m experiments.winning_tickets [--folder FOLDER]
          [--data mnist --steps 24000 --eval-every 1200]
Makes:    a table in the terminal; in the folder: table, summary and timings (Parquet, CSV),
          settings.json, tickets/*.safetensors and figures/*.png (accuracy against density at the
          end and at a quarter of training, accuracy during training, early stopping).
Cost:     defaults (digits, 5 seeds, 20 levels, 4 networks each): about a minute on 2 CPU cores;
          see README.md.
Expected: tickets at about 1% of the weights lose a few points where reinitialized ones lose ten
          and shuffled ones most of their accuracy; at a quarter of training the tickets lead from
          about 60% density down.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

import jaxticket as jt
from experiments.common.job import launch
from jaxticket._progress import progress

BRANCHES = ("reinit", "shuffle", "random")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Iterative magnitude pruning, with three controls at every level."""

    folder: Path | None = None
    """Where results go, and where a run that was stopped goes on; results/NAME-HASH by default."""
    data: str = "digits"
    """digits, mnist, ... or the path of an .npz file or image folder."""
    data_dir: str | None = None
    """Folder of prepared TFDS data sets."""
    seeds: int = 5
    """Seeds 0, 1, ..., trained side by side."""
    levels: int = 20
    """How often to prune; the last level keeps (1 - fraction) ** levels of the weights."""
    fraction: float = 0.2
    """Share of the remaining weights that each level prunes."""
    steps: int = 400
    """Training steps of each network."""
    eval_every: int = 25
    """Steps between evaluations."""
    batch_size: int = 60
    """Examples per step."""
    lr: float = 1.2e-3
    """Learning rate of Adam."""
    rewind: int = 0
    """Step to rewind to."""
    margin: float = 0.002
    """A ticket is matching at the dense accuracy minus this share (but at least one test image)."""


def main(settings: Settings) -> None:
    """Find the tickets and write tables and figures."""
    jt.cpu_devices()
    # a tenth is held out for the early-stop metric
    data = jt.data.load(settings.data, data_dir=settings.data_dir, validation=0.1)
    net = jt.networks.lenet(data.shape, data.classes)
    training = jt.Training(
        steps=settings.steps,
        batch_size=settings.batch_size,
        lr=settings.lr,
        eval_every=settings.eval_every,
        eval_train_examples=300 if settings.data == "digits" else 10_000,
    )
    pruning = jt.Pruning(levels=settings.levels, fraction=settings.fraction, rewind=settings.rewind)
    chosen = dataclasses.replace(settings, folder=None)
    name = jt.results.run_name(f"winning-tickets-{data.name}", vars(chosen))
    folder = settings.folder or Path("results") / name
    runs = jt.find_tickets(
        net, data, training, pruning, seeds=range(settings.seeds), branches=BRANCHES, folder=folder
    )
    table = runs.table()
    rows = jt.speed.matching(table, margin=settings.margin, test_size=len(data.test))
    jt.results.write(rows, folder, "summary")
    summary(runs, rows, settings.margin)
    size = f"{settings.seeds} seeds, {settings.steps} steps"
    note = f"{folder.name}: LeNet-300-100 on {data.name}, {size}"
    figures(table, folder / "figures", note, margin=max(settings.margin, 1 / len(data.test)))
    print(f"results in {folder}")


def summary(runs: jt.Runs, rows: pd.DataFrame, margin: float) -> None:
    """Print accuracy against density for every branch, and the sparsest winning ticket."""
    names = ("ticket", *BRANCHES)
    print(f"\nfinal test accuracy in %, mean (min to max) over {len(runs.seeds)} seeds")
    print(f"{'density':>8}" + "".join(f"{name:>22}" for name in names) + "  matching")
    for level in runs.levels:
        here = rows.loc[rows.level == level].set_index("branch")
        cells = ""
        for name in names:
            row = here.loc[name]
            mean, low, high = (f"{100 * row[column]:.1f}" for column in ("mean", "min", "max"))
            cells += f"{f'{mean} ({low} to {high})':>22}"
        verdict = "dense" if level == 0 else "yes" if here.loc["ticket"]["matching"] else "no"
        print(f"{100 * here.loc['ticket']['density']:7.2f}%{cells}  {verdict}")
    best = runs.winning(margin)
    if best is None:
        late = " (tickets that rewind to a later step are matching, not winning)"
        print(f"\nno winning ticket found{'' if runs.pruning.from_initialization else late}")
    else:
        density = runs.densities[runs.levels.index(best)]
        print(f"\nsparsest winning ticket: level {best}, {100 * density:.2f}% of the weights")


def figures(table: pd.DataFrame, folder: Path, note: str, *, margin: float) -> None:
    """Draw the figures of chapter 3 of Frankle's thesis for this run.

    Args:
      table: the run's tidy table.
      folder: where the figures go.
      note: the caption.
      margin: accuracy that matching tickets may lose.
    """
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    folder.mkdir(parents=True, exist_ok=True)
    with jt.plots.style(), progress(total=4, title="figures", unit="") as bar:

        def keep(figure: Figure, name: str) -> None:
            jt.plots.caption(figure, note)
            figure.savefig(folder / f"{name}.png", dpi=200)
            plt.close(figure)
            bar.update()

        for name, at in (("accuracy", 1.0), ("accuracy_at_a_quarter", 0.25)):
            figure, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
            jt.plots.accuracy(table, ax, at=at, margin=margin)
            keep(figure, name)
        figure, ax = plt.subplots(figsize=(5.2, 3.6), layout="constrained")
        jt.plots.curves(table, ax, branches=("ticket", "reinit"))
        keep(figure, "training")
        figure, axes = plt.subplots(1, 2, figsize=(8.4, 3.6), layout="constrained")
        jt.plots.early_stop(table, axes[0], what="step", legend=False)
        jt.plots.early_stop(table, axes[1], what="accuracy", legend=False)
        # above the panels, for the caption stands below them
        handles, labels = axes[1].get_legend_handles_labels()
        labels = [label.split(", falls to ")[0] for label in labels]
        figure.legend(handles, labels, loc="outside upper center", ncols=5)
        keep(figure, "early_stop")


if __name__ == "__main__":
    launch(main, Settings)
