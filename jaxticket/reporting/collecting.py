"""What a page says of a run: collected from its folder, before anything is written."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from jaxticket import _files, _show, results
from jaxticket.analysis.verdict import Verdict
from jaxticket.connectivity.result import Instability
from jaxticket.data.absent import Absent
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.store import settings_in
from jaxticket.loading import Given, load_recorded
from jaxticket.reporting import contents, recorded, tables
from jaxticket.reporting.judging import Judgment, of_runs, of_verdict
from jaxticket.reporting.pictures import Picture, pictures, pictures_of_table
from jaxticket.reporting.recorded import Settings
from jaxticket.reporting.tables import Table
from jaxticket.reporting.unfinished import Unfinished, unfinished
from jaxticket.runs import Runs
from jaxticket.sparsify.early_pruning import BySteps
from jaxticket.typing import Network

if TYPE_CHECKING:
    import pandas as pd

MEASURES = ("measure", "telemetry", "surface", "trajectory")
"""Kinds of folders that hold a table and no runs."""


class Page(NamedTuple):
    """What a page says.

    Attributes:
      title: the name of the folder.
      kind: the function that made it.
      finished: whether the run is.
      facts: (name, text), the first that is said.
      judgments: whether there is a winning ticket.
      summary: tables of means.
      pictures: figures.
      settings: in groups.
      evaluations: tables of single trainings.
      environment: tables of machines and of costs in time.
      holds: tables of what lies in the folder.
      missing: of an unfinished run.
      call: how to read and continue it: lines of code, and a sentence.
    """

    title: str
    kind: str
    finished: bool
    facts: Sequence[tuple[str, str]]
    judgments: Sequence[Judgment]
    summary: Sequence[Table]
    pictures: Sequence[Picture]
    settings: Sequence[Settings]
    evaluations: Sequence[Table]
    environment: Sequence[Table]
    holds: Sequence[Table]
    missing: Sequence[tuple[str, str]]
    call: tuple[str, str]


def collected(folder: str | os.PathLike[str], given: Given) -> Page:
    """Collect what a page says of a folder.

    Raises:
      ValueError: as `jt.report`.
    """
    path = _files.absolute(folder)
    if not path.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is no folder; pass that of a run")
    settings = settings_in(path)
    kind = "" if settings is None else str(settings.get("kind", "run"))
    if settings is not None and kind in MEASURES and (path / "table.parquet").exists():
        return _of_measure(path, kind, settings)
    begun = unfinished(path)
    if begun is not None:
        return _of_unfinished(path, begun)
    found = load_recorded(path, given)
    if isinstance(found, BySteps):
        needs = _needs(next(iter(found.values())), given)
        return _of_steps(path, kind or "prune_at", settings, found, needs)
    if isinstance(found, Runs):
        return _of_runs(path, kind or "run", settings, found, _needs(found, given))
    if isinstance(found, Instability):
        return _of_instability(path, settings, found, _needs(found, given))
    return _of_verdict(path, settings, found)


def _needs(found: Runs | Instability, given: Given) -> list[str]:
    """What `jt.load` has to be passed: what was, and a network or data of the user's own."""
    needs = {name for name, value in given._asdict().items() if value is not None}
    if str(json.loads(found.net.config).get("constructor")).startswith("from_"):
        needs.add("net")
    if isinstance(found.data, Absent):
        needs.add("data")
    return [name for name in Given._fields if name in needs]


def _of_runs(
    path: Path,
    kind: str,
    settings: Mapping[str, object] | None,
    runs: Runs,
    needs: Sequence[str],
) -> Page:
    table = tables.with_branches(runs)
    if table.empty:
        raise ValueError(
            f"`folder` {str(path)!r} has no finished evaluation; train its tickets, such as by "
            f"jt.branch(jt.load(folder), 'retrain')"
        )
    metric = tables.main_metric(table, runs.training)
    own = tables.usual(table)
    judgments = [of_runs(runs)]
    judgments += [
        of_verdict(load_recorded(file.parent)) for file in _below(path, "verdicts", "verdict")
    ]
    return Page(
        title=path.name,
        kind=kind,
        finished=True,
        facts=_facts(runs, table),
        judgments=judgments,
        summary=[tables.means(own, metric, len(runs.data.test))],
        pictures=pictures(runs),
        settings=recorded.of_run(runs.net, runs.data, runs.training, runs.pruning, settings),
        evaluations=tables.evaluations(table, runs.training),
        environment=[*contents.environment(path), *contents.timings(runs.timings())],
        holds=[contents.tickets(runs), *contents.listing(path)],
        missing=(),
        call=contents.call(kind, path, "more seeds, levels or densities extend it", needs=needs),
    )


def _of_steps(
    path: Path,
    kind: str,
    settings: Mapping[str, object] | None,
    found: BySteps,
    needs: Sequence[str],
) -> Page:
    first = next(iter(found.values()))
    parts = [tables.with_branches(runs).assign(pruned_at=step) for step, runs in found.items()]
    table = results.concat(parts)
    metric = tables.main_metric(table, first.training)
    holds = []
    for step, runs in found.items():
        own = contents.tickets(runs)
        holds.append(own._replace(title=f"Tickets of step {step}, below step-{step}"))
    judgments = [
        of_runs(runs)._replace(called=f"Pruned at step {step}") for step, runs in found.items()
    ]
    costs = [runs.timings().assign(pruned_at=step) for step, runs in found.items()]
    return Page(
        title=path.name,
        kind=kind,
        finished=True,
        facts=_facts(first, table),
        judgments=judgments,
        summary=[tables.means(tables.usual(table), metric, len(first.data.test))],
        pictures=pictures(found),
        settings=recorded.of_run(first.net, first.data, first.training, first.pruning, settings),
        evaluations=tables.evaluations(table, first.training),
        environment=[*contents.environment(path), *contents.timings(results.concat(costs))],
        holds=[*holds, *contents.listing(path)],
        missing=(),
        call=contents.call(kind, path, "more seeds or densities extend it", needs=needs),
    )


def _of_instability(
    path: Path, settings: Mapping[str, object] | None, found: Instability, needs: Sequence[str]
) -> Page:
    table, copies = found.table(), found.copies()
    facts = [
        ("seeds", f"{_show.numbers(found.seeds)}; {found.copies_of_each} copies of every state"),
        ("steps k", _show.numbers(found.at)),
    ]
    rows = []
    dense = {"ticket", 0} <= {*copies["branch"], *copies["level"]}
    matching: dict[tuple[object, ...], bool] = {}
    if dense:
        matching = {_state(row): bool(row["matching"]) for row in tables.records(found.matching())}
    for row in tables.records(found.stable()):
        name = "dense" if (row["branch"], row["level"]) == ("ticket", 0) else str(row["branch"])
        place = (name, str(row["level"]), f"{100 * float(str(row['density'])):.3g}", str(row["at"]))
        values = [f"{100 * float(str(row[key])):.2f}" for key in ("mean", "std", "min", "max")]
        match = "" if _state(row) not in matching else "yes" if matching[_state(row)] else "no"
        rows.append((*place, *values, str(row["samples"]), "yes" if row["stable"] else "no", match))
    columns = ("branch", "level", "density (%)", "step k", "barrier (points)", "std", "least",
               "greatest", "samples", "stable", "matching")  # fmt: skip
    note = (
        "Error barrier on the test split between copies that part at step k. Stable: its mean is "
        "below 2 points. "
    )
    if matching:
        note += "Matching: the mean final error is at most 0.2 points above the dense network's."
    else:
        columns, rows = columns[:-1], [row[:-1] for row in rows]
        note += "Whether they match the dense network is not told: it is not among the copies."
    barriers = table.loc[(table["split"] == "test") & (table["metric"] == "barrier")]
    headings, cells = tables.seed_by_seed(
        barriers, ("branch", "level", "at"), lambda x: f"{100 * x:.2f}"
    )
    by_seed = Table(
        "Error barrier of each seed (points)", headings, cells,
        f"Means over pairs of copies. All {len(table):,} values are in the file.",
        content=table.to_csv(index=False), file="table.csv", folded=len(cells) > tables.SHORT,
    )  # fmt: skip
    costs = found.costs()
    return Page(
        title=path.name,
        kind="instability",
        finished=True,
        facts=[*_trained_on(found.net, found.data), *facts],
        judgments=(),
        summary=[Table("Error barrier by step k", columns, rows, note)],
        pictures=pictures(found),
        settings=recorded.of_run(found.net, found.data, found.training, None, settings),
        evaluations=[by_seed, tables.whole("Copies", copies, folded=True, file="copies")],
        environment=[*contents.environment(path), *contents.timings(costs)],
        holds=contents.listing(path),
        missing=(),
        call=contents.call("instability", path, "", needs=needs),
    )


def _state(row: Mapping[str, object]) -> tuple[object, ...]:
    return row.get("length"), row["branch"], row["level"], row["at"]


def _of_verdict(path: Path, settings: Mapping[str, object] | None, found: Verdict) -> Page:
    table = found.networks()
    metric = tables.Metric(found.metric, found.shares)
    own = table.loc[(table["split"] == "test") & (table["metric"] == found.metric)]
    ends = own.loc[own["step"] == found.step]
    columns, rows = tables.seed_by_seed(ends, ("branch", "density"), metric)
    of_networks = Table(
        f"Test {metric.title} at step {found.step:,}", columns, rows,
        f"All {len(table):,} evaluations are in the file.",
        content=table.to_csv(index=False), file="networks.csv",
    )  # fmt: skip
    facts = [
        ("method", found.method),
        ("density", _show.percent(found.density)),
        ("seeds", _show.numbers(found.seeds)),
    ]
    return Page(
        title=path.name,
        kind="verdict",
        finished=True,
        facts=[*_recorded_on(settings), *facts],
        judgments=[of_verdict(found)],
        summary=[],
        pictures=pictures(found),
        settings=[*recorded.of_folder(settings or {}), *recorded.of_call(settings)],
        evaluations=[of_networks],
        environment=contents.environment(path),
        holds=contents.listing(path),
        missing=(),
        call=contents.call("verdict", path, ""),
    )


def _of_measure(path: Path, kind: str, settings: Mapping[str, object]) -> Page:
    table = results.read(path / "table.parquet")
    return Page(
        title=path.name,
        kind=kind,
        finished=True,
        facts=[*_recorded_on(settings), ("of", path.parent.parent.name)],
        judgments=(),
        summary=[],
        pictures=pictures_of_table(kind, table),
        settings=[*recorded.of_folder(settings), *recorded.of_call(settings)],
        evaluations=[tables.whole("What was measured", table)],
        environment=contents.environment(path),
        holds=contents.listing(path),
        missing=(),
        call=("", ""),
    )


def _of_unfinished(path: Path, begun: Unfinished) -> Page:
    if not begun.evaluated:
        raise ValueError(
            f"`folder` {str(path)!r} has no finished evaluation yet: a run was begun there, of "
            f"which nothing is done; run the same call with this folder again, which finishes it"
        )
    columns, rows = begun.finished()
    hidden = ("folder", "training", "pruning")
    return Page(
        title=path.name,
        kind=begun.kind,
        finished=False,
        facts=[(name, said) for name, said in begun.facts() if name not in hidden],
        judgments=(),
        summary=[Table("Finished so far", columns, rows, "Mean and range over trainings.")],
        pictures=(),
        settings=[*recorded.of_folder(begun.settings), *recorded.of_call(begun.settings)],
        evaluations=(),
        environment=contents.environment(path),
        holds=contents.listing(path),
        missing=begun.missing(),
        call=contents.call(begun.kind, path, "", finished=False),
    )


def _facts(runs: Runs, table: pd.DataFrame) -> list[tuple[str, str]]:
    training = runs.training
    return [
        *_trained_on(runs.net, runs.data),
        ("steps", f"{training.steps:,}, each of a batch of {training.batch_size:,}"),
        ("seeds", _show.numbers(runs.seeds)),
        ("levels", _show.numbers(runs.levels)),
        ("branches", ", ".join(dict.fromkeys(map(str, table["branch"])))),
    ]


def _trained_on(net: Network, data: Data | Stream) -> list[tuple[str, str]]:
    config = json.loads(net.config)
    return [
        ("network", _name_of(config)),
        ("data", f"{data.name}, {len(data.splits['train']):,} examples to train on"),
    ]


def _recorded_on(settings: Mapping[str, object] | None) -> list[tuple[str, str]]:
    net, data = ((settings or {}).get(name) for name in ("net", "data"))
    config = net.get("config", {}) if isinstance(net, dict) else {}
    found = [("network", _name_of(config))] if config else []
    return [*found, ("data", str(data.get("name")))] if isinstance(data, dict) else found


def _name_of(config: Mapping[str, object]) -> str:
    """The name of a network of a user's, or the constructor of one of the library's."""
    return str(config.get("name", config.get("constructor", "")))


def _below(path: Path, group: str, name: str) -> list[Path]:
    return sorted(path.glob(f"{group}/*/{name}.json"))
