"""Callbacks that write evaluations where they can be watched, for `on_evaluation` of a run.

A callback is a function of rows: those of one evaluation as `runs.table()` has them, a list of
dicts by column.

>>> import jaxticket as jt
>>> data = jt.data.load("digits")
>>> net = jt.networks.lenet(data.shape, data.classes, widths=(8,))
>>> seen = []
>>> runs = jt.find_tickets(
...     net, data, jt.Training(steps=2), jt.Pruning(levels=0), seeds=(0,), progress=False,
...     on_evaluation=seen.extend,
... )
>>> len(seen) == len(runs.table()), seen[0]["metric"]
(True, 'loss')
"""

from __future__ import annotations

import csv
import io
import os
from typing import Protocol

from jaxticket import _files
from jaxticket._check import path_or_none
from jaxticket._extras import require
from jaxticket.engine.runtime import Row as Row
from jaxticket.results import COLUMNS

_COLUMNS = (*COLUMNS, "dilation", "diverged")
_KEY = tuple(name for name in _COLUMNS if name not in ("value", "diverged"))


class CSV:
    """Append rows to a CSV file with the columns of `runs.table()`.

    Rows that the file has already are left out, so that a run that was killed and resumed is in it
    once. Each evaluation is complete on disk when the callback returns. In a bucket the whole file
    is written again each time.

    Args:
      path: the file, or its URL (gs://, s3://); made with its folder if it is not there.

    Raises:
      ValueError: for a file with other columns.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        path_or_none("path", path)
        self.path = _files.to_path(path, "path")
        self._known: set[tuple[str, ...]] | None = None

    def __call__(self, rows: list[Row]) -> None:
        """Append the rows of an evaluation."""
        if self._known is None:
            self._known = self._begin()
        texts = [{name: str(row[name]) for name in _COLUMNS} for row in rows]
        new = [text for text in texts if tuple(text[name] for name in _KEY) not in self._known]
        self._known.update(tuple(text[name] for name in _KEY) for text in new)
        lines = io.StringIO()
        csv.writer(lines, lineterminator="\n").writerows([text.values() for text in new])
        if _files.is_url(self.path):
            # nothing is appended to a file in a bucket
            _files.write_text(self.path, self.path.read_text() + lines.getvalue())
            return
        with self.path.open("a", encoding="utf-8", newline="") as file:
            file.write(lines.getvalue())

    def _begin(self) -> set[tuple[str, ...]]:
        """The keys of rows that the file has; a last line that was cut off is removed."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        header = ",".join(_COLUMNS) + "\n"
        there = self.path.read_text(encoding="utf-8") if self.path.exists() else ""
        whole = there[: there.rfind("\n") + 1]
        if whole and not whole.startswith(header):
            raise ValueError(
                f"`path` {str(self.path)!r} has other columns than {','.join(_COLUMNS)}; choose "
                f"another file"
            )
        if not whole or whole != there:
            self.path.write_text(whole or header, encoding="utf-8")
        rows = csv.DictReader(io.StringIO(whole))
        return {tuple(row[name] for name in _KEY) for row in rows}


class _Writer(Protocol):
    """What is used of `tensorboardX.SummaryWriter`."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> None: ...


class _WandBRun(Protocol):
    """What is used of `wandb.Run`."""

    def define_metric(self, name: str, **options: object) -> object: ...
    def log(self, data: dict[str, object]) -> None: ...
    def finish(self) -> None: ...


def series(row: Row) -> str:
    """The name of the network that a row is of, such as "ticket/level-2/seed-0"."""
    name = f"{row['branch']}/level-{row['level']}/seed-{row['seed']}"
    return name if row["dilation"] == 1 else f"{name}/dilation-{row['dilation']:g}"


class TensorBoard:
    """Write scalars for TensorBoard: a run for each network, `branch/level-n/seed-s`.

    Their tags are "split/metric", and steps those of the training. Needs the package tensorboardX,
    `pip install 'jaxticket[tensorboard]'`.

    Args:
      folder: of the event files, which `tensorboard --logdir` shows.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        path_or_none("folder", folder)
        require("tensorboardX", "tensorboard")
        self.folder = _files.to_path(folder)
        self._writers: dict[str, _Writer] = {}

    def __call__(self, rows: list[Row]) -> None:
        """Write the rows of an evaluation."""
        from tensorboardX import SummaryWriter  # type: ignore[import-not-found]

        for row in rows:
            name = series(row)
            if name not in self._writers:
                self._writers[name] = SummaryWriter(str(self.folder / name))
            tag = f"{row['split']}/{row['metric']}"
            self._writers[name].add_scalar(tag, float(row["value"]), int(row["step"]))
        for name in {series(row) for row in rows}:
            self._writers[name].flush()

    def close(self) -> None:
        """Close the event files; further rows begin new ones."""
        for writer in self._writers.values():
            writer.close()
        self._writers = {}


class WandB:
    """Log to Weights & Biases: one run, whose metrics are "branch/level-n/seed-s/split/metric".

    Each network has a step of its own, "branch/level-n/seed-s/step", which its metrics are drawn
    over. Needs the package wandb, `pip install 'jaxticket[wandb]'`, whose own settings say where it
    sends what, or that it sends nothing (`mode="offline"`).

    Args:
      **options: of `wandb.init`, such as `project="tickets"`; give `id` and `resume="allow"` to
        continue the same W&B run with a run that is resumed.
    """

    def __init__(self, **options: object) -> None:
        require("wandb", "wandb")
        self.options = options
        self._run: _WandBRun | None = None
        self._defined: set[str] = set()

    def __call__(self, rows: list[Row]) -> None:
        """Log the rows of an evaluation."""
        run = self._run = self._run or self._begun()
        logged: dict[str, dict[str, object]] = {}
        for row in rows:
            name = series(row)
            own = logged.setdefault(name, {f"{name}/step": row["step"]})
            own[f"{name}/{row['split']}/{row['metric']}"] = row["value"]
        for name, own in logged.items():
            if name not in self._defined:
                self._defined.add(name)
                run.define_metric(f"{name}/step", hidden=True)
                run.define_metric(f"{name}/*", step_metric=f"{name}/step")
            run.log(own)

    def _begun(self) -> _WandBRun:
        import wandb  # type: ignore[import-not-found]

        return wandb.init(**self.options)

    def close(self) -> None:
        """Finish the W&B run; further rows begin another."""
        if self._run is not None:
            self._run.finish()
        self._run = None
        self._defined = set()


__all__ = ["CSV", "Row", "TensorBoard", "WandB", "series"]


def __dir__() -> list[str]:
    return __all__
