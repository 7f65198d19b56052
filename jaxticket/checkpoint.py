"""Run folders: what is finished stays, what is under way is resumed; the only module that knows
Orbax.

A run is a sequence of units (one level, one block of replicas). A finished unit is one .npz file
that appears at once. Inside a unit, the training state is saved by Orbax from time to time; only
the newest save is kept.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import signal
import threading
import time
import warnings
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from jaxticket import results
from jaxticket.ticket import write_arrays

_SETTINGS = "settings.json"


class RunFolderError(ValueError):
    """A run folder cannot be used: other settings, no room, no permission."""


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turns the operating system's errors into ones that say what to do; what was saved before
    stays.
    """
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            remedy = "the disk is full; free some space"
        elif error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            remedy = "it cannot be written; choose another `folder` or mend its permissions"
        else:
            remedy = str(error)
        raise RunFolderError(
            f"`folder` {str(folder)!r}: {remedy} ({error.strerror or error}). What was saved "
            f"before is intact: "
            f"run the same command again to continue"
        ) from error


class Interrupt:
    """Whether SIGTERM or SIGINT has asked the run to stop; it does so after the chunk under way is
    saved.
    """

    def __init__(self) -> None:
        self.signal: int | None = None

    @contextlib.contextmanager
    def listening(self, saves: bool) -> Iterator[Interrupt]:
        """Catches the signals inside the block, if the run saves; only the main thread can."""
        if not saves or threading.current_thread() is not threading.main_thread():
            yield self
            return

        def note(number: int, _: Any) -> None:
            if self.signal is not None and number == signal.SIGINT:
                raise KeyboardInterrupt  # asked twice: stop at once
            self.signal = number

        before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def leave(self, folder: Path) -> None:
        """Ends the program with a message, as the signal asks."""
        assert self.signal is not None
        print(
            f"\nstopped by {signal.Signals(self.signal).name}; saved in {folder}: "
            "run the same command to continue"
        )
        raise SystemExit(128 + self.signal)


class RunFolder:
    """The folder of one run.

    Args:
      path: the folder; made if it is not there.
      settings: what the run is; a folder with other settings is refused.
      every: seconds between saves of the training state inside a unit.

    Raises:
      RunFolderError: for a folder with other settings, naming the first field, or one that cannot
        be written.
    """

    def __init__(
        self, path: str | os.PathLike[str], settings: dict[str, Any], *, every: float = 60.0
    ) -> None:
        self.path = Path(path)
        self.every = every
        self._last = time.monotonic()
        ours = json.loads(results.canonical(settings))
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            there = self.path / _SETTINGS
            if there.exists():
                theirs = json.loads(there.read_text())
                difference = results.first_difference(ours, theirs)
                if difference:
                    raise RunFolderError(
                        f"`folder` {str(self.path)!r} holds a run with other settings: "
                        f"{difference}; "
                        f"choose another folder, or the settings of {there}"
                    )
            elif any(p for p in self.path.iterdir() if not p.name.startswith(".")):
                raise RunFolderError(
                    f"`folder` {str(self.path)!r} holds other files and no {_SETTINGS}; choose an "
                    f"empty folder"
                )
            else:
                write_text(there, results.canonical(settings) + "\n")
            (self.path / "units").mkdir(exist_ok=True)
            self._environment()

    def _environment(self) -> None:
        ours = {
            "jax": jax.__version__,
            "backend": jax.default_backend(),
            "device": jax.devices()[0].device_kind,
            "devices": jax.device_count(),
        }
        path = self.path / "environment.json"
        if not path.exists():
            write_text(path, json.dumps(ours, indent=1) + "\n")
            return
        difference = results.first_difference(ours, json.loads(path.read_text()))
        if difference:
            warnings.warn(
                f"{self.path} was begun on another machine ({difference}): it continues, but not "
                f"bit for bit",
                stacklevel=3,
            )

    # finished units

    def _unit(self, name: str) -> Path:
        return self.path / "units" / f"{name}.npz"

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """A finished unit, None where there is none or its file is damaged (with a warning)."""
        path = self._unit(name)
        if not path.exists():
            return None
        try:
            # opened here, since NumPy leaves the files of damaged archives open
            with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                return {key: file[key] for key in file.files}
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            warnings.warn(f"{path} is damaged ({error}) and is computed again", stacklevel=2)
            return None

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Marks a unit as finished, at once, and forgets the state inside it."""
        if jax.process_index() == 0:
            with explained(self.path):
                write_arrays(self._unit(name), arrays)
        self._last = time.monotonic()

    # the state inside a unit

    @property
    def due(self) -> bool:
        """Whether it is time to save the training state again."""
        return time.monotonic() - self._last >= self.every

    def _discard_half_written(self) -> None:
        """Removes saves without readable metadata: Orbax would stumble over them."""
        for step in (self.path / "state").glob("[0-9]*"):
            try:
                json.loads((step / "_CHECKPOINT_METADATA").read_text())
            except (OSError, ValueError):
                warnings.warn(f"{step} is half written and is skipped", stacklevel=2)
                shutil.rmtree(step)

    @contextlib.contextmanager
    def _checkpointer(self) -> Iterator[Any]:
        policy: Any = ocp.training.preservation_policies.LatestN(1)
        with ocp.training.Checkpointer(
            str((self.path / "state").absolute()), preservation_policy=policy
        ) as saver:
            yield saver

    def save_state(self, unit: str, call: int, tree: Any) -> None:
        """Saves the state after so many calls of a unit; device arrays only."""
        with explained(self.path), self._checkpointer() as saver:
            latest = saver.latest
            step = 0 if latest is None else latest.step + 1
            about = {"unit": unit, "call": call, "layout": _layout(tree)}
            saver.save(step, tree, custom_metadata=about)
        self._last = time.monotonic()

    def load_state(self, unit: str, like: Any) -> tuple[int, Any] | None:
        """The newest state of a unit as (call, tree), None where there is none.

        Args:
          unit: the unit's name; states of other units do not count.
          like: tree of arrays (or shape structs with sharding) as they were saved.
        """
        if not (self.path / "state").exists():
            return None
        if jax.process_index() == 0:
            self._discard_half_written()
        with self._checkpointer() as saver:
            latest = saver.latest
            if latest is None:
                return None
            about = saver.metadata().custom_metadata or {}
            if about.get("unit") != unit:
                return None
            if about.get("layout") != _layout(like):
                warnings.warn(
                    f"{self.path / 'state'} was saved by another version or number of devices; "
                    f"{unit} is begun again",
                    stacklevel=2,
                )
                return None
            abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like
            )
            return int(about["call"]), saver.load(abstract_state=abstract)

    def forget_state(self) -> None:
        """Removes what is only needed while a run is under way."""
        if jax.process_index() == 0:
            shutil.rmtree(self.path / "state", ignore_errors=True)


def _layout(tree: dict[str, Any]) -> str:
    """Names, shapes and types of a flat tree as a short text."""
    about = [(name, str(tree[name].dtype), list(tree[name].shape)) for name in sorted(tree)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def write_text(path: Path, text: str) -> None:
    """Writes a text file, complete or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(text)
    os.replace(temporary, path)
