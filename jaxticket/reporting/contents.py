"""What lies in a folder, what computed it, what it cost, and how it is continued."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from jaxticket import _files, _show
from jaxticket.engine.environment import environments_in
from jaxticket.reporting import tables
from jaxticket.reporting.tables import Table
from jaxticket.runs import Runs, density

if TYPE_CHECKING:
    import pandas as pd

_HOLDS = {
    "settings.json": "what the run is",
    "environment.json": "versions and machines that computed it",
    "evaluated.json": "splits and metrics",
    "table.csv": "every evaluation",
    "table.parquet": "the same",
    "timings.csv": "seconds of each part",
    "monitored.csv": "what monitors measured during training",
    "trace.csv": "progress of the masks",
    "networks.csv": "every evaluation of the networks of a verdict",
    "conditions.csv": "conditions of a verdict",
    "verdict.txt": "the verdict",
    "tickets": "tickets: masks and starting weights",
    "trained": "trained networks",
    "branches": "controls that were trained of these tickets",
    "measures": "measurements of these tickets",
    "verdicts": "verdicts on these tickets",
    "transfers": "trainings of these tickets elsewhere",
    "telemetry": "telemetry of trainings",
    "surfaces": "loss surfaces",
    "units": "finished parts, from which the run is continued",
}
_LISTED = 200
"""Entries of a folder that are listed at most."""


def tickets(runs: Runs) -> Table:
    """The tickets of runs, one row for each level."""
    rows = []
    for level in runs.levels:
        own = density(runs.net, runs.pruning, runs.by_level[level], runs.lost_at(level))
        least, greatest = (f"{100 * own.min():.4g}", f"{100 * own.max():.4g}")
        share = least if least == greatest else f"{least} to {greatest}"
        files = f"tickets/{runs.branch}-level-{level:02d}-seed-*.safetensors"
        rows.append((str(level), share, _show.numbers(runs.seeds), files))
    return Table("Tickets", ("level", "density (%)", "seeds", "files"), rows)


def environment(path: Path) -> list[Table]:
    """The machines that computed a run, a column for each."""
    known = environments_in(path)
    if not known:
        return []
    names = list(dict.fromkeys(name for one in known for name in one))
    rows = [(name, *(str(one.get(name, "")) for one in known)) for name in names]
    several = len(known) > 1
    columns = ["", *(f"machine {place + 1}" if several else "" for place in range(len(known)))]
    return [Table("Versions, processors and flags", columns, rows)]


def timings(costs: pd.DataFrame) -> list[Table]:
    """Seconds by unit of work, and their sum."""
    names = [str(name) for name in costs.columns if str(name).endswith("_seconds")]
    if costs.empty or not names:
        return []
    sums = {name: tables.total(costs[name]) for name in names}
    said = ", ".join(
        f"{name.removesuffix('_seconds')} {tables.seconds(amount)}" for name, amount in sums.items()
    )
    note = f"In all {tables.seconds(sum(sums.values()))}: {said}. Of a run that was stopped and "
    note += "continued they count from there on."
    return [tables.whole("Cost in time", costs, note=note, folded=True, file="timings")]


def listing(path: Path) -> list[Table]:
    """What lies in a folder."""
    rows = []
    for entry in sorted(_files.children(path), key=lambda entry: entry.name):
        if entry.name.startswith(".") or entry.suffix == ".html":
            continue
        count = ""
        if entry.is_dir():
            count = f"{len(_files.children(entry)):,}"
        rows.append((entry.name, count, _HOLDS.get(entry.name, "")))
    return [Table("Folder", ("name", "entries", "what it is"), rows[:_LISTED], folded=True)]


def call(
    kind: str, path: Path, extends: str, *, needs: Sequence[str] = (), finished: bool = True
) -> tuple[str, str]:
    """How a run is read and continued; folders record settings and no command.

    Args:
      kind: the function that made it.
      path: of the folder.
      extends: what else extends it, in words.
      needs: arguments of `jt.load` that hold code or data of the user's own.
      finished: whether the run is.
    """
    name = f"jt.{kind}"
    arguments = ", ".join([repr(path.name), *(f"{own}={own}" for own in needs)])
    read = f"import jaxticket as jt\n\nfound = jt.load({arguments})\n" if finished else ""
    said = (
        f"The folder records what was called, {name}, with the settings on this page, and not the "
        f"line of code or of a shell. "
    )
    if not finished:
        return read, f"{said}The same call with this folder again finishes the run."
    said += "The same call with this folder reads it and trains nothing"
    return read, f"{said}; {extends}." if extends else f"{said}."
