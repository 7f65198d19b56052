"""What the folder of a run that is under way, or was stopped, holds so far; nothing is changed."""

from __future__ import annotations

import dataclasses
import json
import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from jaxticket import _files, _saved, _show
from jaxticket._identity.settings import plain
from jaxticket.engine import bucket_lock, lock
from jaxticket.engine.blocks import NAME, apart, of_work
from jaxticket.engine.store import evaluated_in, saved_in, settings_in
from jaxticket.settings import Training
from jaxticket.sparsify.iterative import Pruning

_NEEDED = ("steps", "values", "diverged")


@dataclasses.dataclass(frozen=True)
class Unfinished:
    """A run without its results.

    Attributes:
      folder: where it is.
      settings: what it is, as the folder records it.
    """

    folder: Path
    settings: Mapping[str, object]

    __repr__ = _show.text

    def _summary(self) -> _show.Summary:
        columns, rows = self.finished()
        return _show.Summary(f"{self.kind}, not finished", self.facts(), columns, rows)

    @property
    def kind(self) -> str:
        """The function that was called."""
        return str(self.settings.get("kind", "run"))

    def facts(self) -> list[tuple[str, str]]:
        """What is known of the run."""
        return [(name, said) for name, said in self._facts() if said]

    def _facts(self) -> list[tuple[str, str]]:
        net, data = self.settings.get("net"), self.settings.get("data")
        config = net.get("config") if isinstance(net, dict) else None
        options = dict(config) if isinstance(config, dict) else {}
        name = options.pop("constructor", None) or options.get("name", "")
        seeds = self.settings.get("seeds")
        kind = bucket_lock if _files.is_url(self.folder) else lock
        user = kind.holder(self.folder / ".lock")
        return [
            ("network", _words({"": name, **options})),
            ("data", str(data.get("name", "")) if isinstance(data, dict) else ""),
            ("training", _changed(self.settings.get("training"), plain(Training()))),
            ("pruning", _changed(self.settings.get("pruning"), plain(Pruning()))),
            ("seeds", _show.numbers(seeds) if isinstance(seeds, list) else ""),
            ("folder", str(self.folder)),
            ("in use", f"by {user}" if user else "no: the same command continues the run"),
            ("saved", self._saved()),
        ]

    def _saved(self) -> str:
        """What is known of the training that was under way at the last save."""
        found = saved_in(self.folder)
        if found is None:
            return ""
        unit, seconds = found
        when = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        return f"inside {self._title(unit)[0]}, at {when}"

    def _title(self, unit: str) -> tuple[str, str]:
        """A unit in words, and which replicas it has."""
        # the numbers of a supermask are a step and a level
        found = None if unit.startswith("supermask-") else NAME.fullmatch(unit)
        name, replicas = unit, ""
        if found is not None:
            first, end = int(found["first"]), int(found["end"])
            name, replicas = found["work"], _show.numbers(range(first, end))
        word, _, rest = name.partition("-")
        number = int(rest) if rest.isdigit() else rest
        if word == "stage":
            finds = self.settings.get("kind") == "find_tickets"
            name = f"level {number}" if finds else "tickets"
            pruning = self.settings.get("pruning")
            if finds and number and isinstance(pruning, dict) and pruning.get("one_shot"):
                name = "pruned levels"
        elif word == "level":
            name = f"level {int(rest.partition('-')[0])}"
        elif word == "supermask":
            name = f"supermask, level {int(rest.partition('-')[2])}"
        elif word == "masks":
            name = f"masks at step {number}"
        return name, replicas

    @property
    def evaluated(self) -> bool:
        """Whether a training is finished and evaluated."""
        return any(value and "damaged" not in value for *_, value in self.finished()[1])

    def missing(self) -> list[tuple[str, str]]:
        """What of the run is not finished, as far as its settings tell: parts, and how much."""
        wanted, units = self._wanted(), [file.stem for file in self._units()]
        done = {
            work: sum(end - first for first, end in apart(of_work(work, units))) for work in wanted
        }
        rows = [
            (self._title(unit)[0], f"{count - done[unit]} of {count} trainings")
            for unit, count in wanted.items()
            if done[unit] < count
        ]
        return [*rows, ("results", "tables, timings and tickets, which are written at the end")]

    def _units(self) -> list[Path]:
        """The files of finished units, in order."""
        found = _files.children(self.folder / "units")
        return sorted(file for file in found if file.suffix == ".npz")

    def _wanted(self) -> dict[str, int]:
        """How many trainings each kind of unit has in a finished run, where that is known."""
        settings, pruning = self.settings, self.settings.get("pruning")
        branches = 1 + len(_list(settings.get("branches")))
        seeds = len(_list(settings.get("seeds")))
        if settings.get("kind") == "find_tickets" and isinstance(pruning, dict):
            levels = int(pruning.get("levels", 0))
            if pruning.get("one_shot"):
                return {"stage-000": branches * seeds, "stage-001": levels * branches * seeds}
            return {f"stage-{level:03d}": branches * seeds for level in range(levels + 1)}
        if settings.get("kind") == "instability":
            copies = len(_list(settings.get("starts"))) * int(str(settings.get("copies", 0)))
            return {"copies": copies * seeds}
        return {}

    def finished(self) -> tuple[list[str], list[tuple[str, ...]]]:
        """Headings and rows of the units that are finished."""
        splits, metrics = evaluated_in(self.folder)
        measured = next((name for name in ("accuracy", "loss") if name in metrics), "")
        place = splits.index("test") if "test" in splits else None
        rows = []
        for file in self._units():
            name, replicas = self._title(file.stem)
            steps, value = "", ""
            try:
                arrays = _files.read_arrays(file)
                found = {key: arrays[key] for key in _NEEDED if key in arrays}
            except (OSError, ValueError, zipfile.BadZipFile):
                rows.append((name, replicas, "", "damaged: computed again"))
                continue
            if "steps" in found:
                steps = f"{int(found['steps'].max(initial=0)):,}"
            if "values" in found and place is not None and measured:
                values = found["values"][:, :, place]
                final = _last(values[..., metrics.index(measured)])
                if measured == "accuracy" and not np.isfinite(final).any():
                    # there is none of labels that are numbers
                    measured = "loss"
                    final = _last(values[..., metrics.index(measured)])
                final = np.where(found["diverged"] < 0, final, np.nan)
                value = _said(final, measured)
            rows.append((name, replicas, steps, value))
        said = f"test {measured}" if any(value for *_, value in rows) else ""
        return ["finished", "replicas", "to step", said], rows


def _list(value: object) -> list[object]:
    return value if isinstance(value, list) else []


def _last(values: np.ndarray) -> np.ndarray:
    """The last evaluation of each replica that gave a number, of [call, replica]."""
    known = np.isfinite(values)
    last = len(known) - 1 - known[::-1].argmax(axis=0)
    return values[last, np.arange(values.shape[1])]


def _said(values: np.ndarray, measured: str) -> str:
    if measured == "accuracy":
        return _show.spread(values)
    return _show.spread(values, lambda x: f"{x:.4g}")


def _words(options: Mapping[str, object]) -> str:
    given = {name: value for name, value in options.items() if value is not None}
    return " ".join(f"{name}={json.dumps(x)}" if name else str(x) for name, x in given.items())


def _changed(settings: object, usual: Mapping[str, object]) -> str:
    """Settings of a record that are not as by default."""
    if not isinstance(settings, dict):
        return ""
    own = {k: v for k, v in settings.items() if v not in (None, [], usual.get(k, ""))}
    return _words({k: v.get("name", v) if isinstance(v, dict) else v for k, v in own.items()})


def unfinished(folder: Path) -> Unfinished | None:
    """The run of a folder; None where it is finished, or there is none."""
    names = (_saved.RUNS, _saved.INSTABILITY, _saved.VERDICT)
    below = any(folder.glob(f"step-*/{_saved.RUNS}.json"))
    if below or any((folder / f"{name}.json").exists() for name in names):
        return None
    settings = settings_in(folder)
    return None if settings is None else Unfinished(folder, settings)
