"""Run folders: finished work is kept, interrupted work is resumed.

A run is a sequence of units (one level, one block of replicas). A finished unit is one .npz file
that appears at once. Inside a unit, the training state is saved from time to time; only the newest
save is kept, with a checksum. One process at a time uses a folder.

On several hosts one run has one folder, on a file system or in a bucket that all of them see.
Process 0 reads and writes it and tells the others, which wait; only states that Orbax writes are
written by all together.
"""

from __future__ import annotations

import contextlib
import fnmatch
import json
import os
import secrets
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import jax
import numpy as np

from jaxticket import _files, results
from jaxticket.engine import bucket_lock, file_states, lock, orbax_states, parallel
from jaxticket.engine.blocks import of_work
from jaxticket.engine.checksums import checksum, intact, layout
from jaxticket.engine.environment import ENVIRONMENT, environment
from jaxticket.engine.folder_errors import (
    REMEDIES,
    RunFolderError,
    explained,
    explanation,
    number_of,
)
from jaxticket.engine.hosts import meet
from jaxticket.typing import Json

T = TypeVar("T")

_SETTINGS = "settings.json"
_EVALUATED = "evaluated.json"
_FORMAT = 2
_KINDS = (file_states, orbax_states)
"""How states are written, in the order in which they are looked for."""
# seconds until a new file is seen by all hosts
_SEEN = 15.0


def agreed(numbers: Sequence[int]) -> np.ndarray:
    """A few whole numbers of every process, int32 [process, number], the same on all of them."""
    meet()
    return parallel.gathered(numbers)


def by_first(make: Callable[[], bytes | None]) -> bytes | None:
    """What a function gives on process 0, on every process: the others wait for it.

    Raises:
      RunFolderError: on the others, where it raises on process 0.
    """
    if jax.process_count() == 1:
        return make()
    message, error = b"", None
    if jax.process_index() == 0:
        try:
            made = make()
            message = b"nothing" if made is None else b"made" + made
        except BaseException as raised:
            error, message = raised, b"error" + str(raised).encode()
    meet()
    message = parallel.broadcast(message)
    if error is not None:
        raise error
    if message.startswith(b"error"):
        raise RunFolderError(message.removeprefix(b"error").decode())
    return None if message == b"nothing" else message.removeprefix(b"made")


def on_first(*todo: Callable[[], object]) -> None:
    """Call functions on process 0 alone; the others wait, and raise where one of them raises."""

    def make() -> None:
        for do in todo:
            do()

    by_first(make)


def settings_in(path: str | os.PathLike[str]) -> Json | None:
    """The settings that a folder records; None where there is no readable file of them."""

    def read() -> bytes | None:
        try:
            return (_files.absolute(path) / _SETTINGS).read_bytes()
        except OSError:
            return None

    content = by_first(read)
    with contextlib.suppress(ValueError):
        found = None if content is None else json.loads(content)
        return found if isinstance(found, dict) else None
    return None


def evaluated_in(path: Path) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Splits and metrics that a run under way evaluates, in order; none where they are unknown."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        found = json.loads((path / _EVALUATED).read_text(encoding="utf-8"))
        return tuple(map(str, found["splits"])), tuple(map(str, found["metrics"]))
    return (), ()


def saved_in(path: Path) -> tuple[str, float] | None:
    """The unit of the newest saved state and when it was saved, in seconds since 1970; or None."""
    found = file_states.newest(path / file_states.NAME)
    if found is None and not _files.is_url(path):
        found = orbax_states.newest(path / orbax_states.NAME)
    return None if found is None else (str(found[0].get("unit")), found[1])


Extends = Callable[[Json, Json], tuple[list[str], Json]]
"""`extends(ours, theirs)` of plain settings: theirs with what a call may extend as in ours, and
patterns of the units that then have to be computed again."""


class RunFolder:
    """The folder of one run, which this process has for itself until `close`.

    Args:
      path: the folder; made if it is not there.
      settings: what the run is; a folder with other settings is refused.
      every: seconds between saves of the training state inside a unit.
      background: whether a thread writes these while training goes on.
      wait: seconds to wait for a folder that another process uses.
      asked: whether a signal asks to stop waiting.
      extends: which other settings continue those of the folder, which then records them.

    Raises:
      RunFolderError: for a folder with other settings or code, naming the first field, one that
        another process uses, and one that cannot be read or written.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        settings: Mapping[str, object],
        *,
        every: float = 60.0,
        background: bool = False,
        wait: float = 0.0,
        asked: Callable[[], bool] = lambda: False,
        extends: Extends | None = None,
    ) -> None:
        self.path = _files.absolute(path)
        self.every = every
        self._background = background
        self._in_files = background or _files.is_url(self.path)
        self._writer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        self._last = time.monotonic()
        self._lock: lock.Lock | bucket_lock.BucketLock | None = None
        self._extends = extends
        # whether this machine stands in the list of those that computed the run
        self._noted = by_first(lambda: self._open(settings, wait, asked)) is not None
        try:
            self._check_shared()
        except BaseException:
            self.close()
            raise

    def _check_shared(self) -> None:
        """Raise where another process sees another folder under this path."""
        if jax.process_count() == 1:
            return

        def mark() -> bytes:
            # a new name, since file systems remember for a while which files are not there
            mark = self.path / f".seen-{secrets.token_hex(8)}"
            _files.write_text(mark, "")
            return mark.name.encode()

        with explained(self.path):
            name = (by_first(mark) or b"").decode()
            until = time.monotonic() + _SEEN
            while not (sees := (self.path / name).exists()) and time.monotonic() < until:
                time.sleep(0.1)
            blind = np.flatnonzero(agreed([sees])[:, 0] == 0).tolist()
            on_first(lambda: (self.path / name).unlink(missing_ok=True))
        if blind:
            raise RunFolderError(
                f"`folder` {str(self.path)!r} of process 0 is not that of processes {blind}: "
                f"all hosts must see one folder; choose one on a file system that they share, such "
                f"as NFS or a bucket"
            )

    def _open(
        self, settings: Mapping[str, object], wait: float, asked: Callable[[], bool]
    ) -> bytes | None:
        """Take the folder for this process; nothing if it existed before."""
        ours = {"format": _FORMAT, **json.loads(results.canonical(settings))}
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            there = self.path / _SETTINGS
            if not there.exists() and any(
                p for p in _files.children(self.path) if not p.name.startswith(".")
            ):
                raise RunFolderError(
                    f"`folder` {str(self.path)!r} holds other files and no {_SETTINGS}; choose an "
                    f"empty folder"
                )
            self._take(wait, asked)
            try:
                begun = there.exists()
                if begun:
                    self._compare(ours, there)
                else:
                    _files.write_text(there, results.canonical(ours) + "\n")
                    self._note_environment()
                (self.path / "units").mkdir(exist_ok=True)
            except BaseException:
                self.close()
                raise
        return None if begun else b""

    def _take(self, wait: float, asked: Callable[[], bool]) -> None:
        """Take the lock; a process that died gives it back."""
        until = time.monotonic() + wait
        kind = bucket_lock if _files.is_url(self.path) else lock
        while isinstance(found := kind.acquire(self.path / ".lock"), str):
            if asked():
                raise KeyboardInterrupt(f"stopped while waiting for {self.path}")
            if time.monotonic() >= until:
                raise RunFolderError(
                    f"`folder` {str(self.path)!r} is in use by {found}; wait until it is done, as "
                    f"jt.Runtime(wait=3600) does for an hour, or choose another folder"
                )
            time.sleep(0.2)
        self._lock = found

    def _check_lock(self) -> None:
        if self._lock is not None and self._lock.lost:
            raise RunFolderError(
                f"`folder` {str(self.path)!r} was taken over by another process, which saw no sign "
                f"of this one for {lock.STALE:g} seconds; let one of them use it"
            )

    def close(self) -> None:
        """Let other processes use the folder, when what is being written is written."""
        if self._writer is not None:
            self._writer.shutdown()
            self._writer = None
        failed = None if self._pending is None else self._pending.exception()
        if failed is not None:
            # another error, which is being raised, came first
            warnings.warn(str(explanation(self.path, failed)), stacklevel=2)
        if self._lock is not None:
            self._lock.release()
            self._lock = None

    def _compare(self, ours: Json, there: Path) -> None:
        """Raise where the folder is of another run."""
        theirs = _read_json(there, dict, "restore it from a copy, or choose another folder")
        if theirs.get("format") != _FORMAT:
            of = "an older jaxticket (0.1)" if "format" not in theirs else "another jaxticket"
            raise RunFolderError(
                f"`folder` {str(self.path)!r} was written by {of}, whose run folders this version "
                f"cannot continue; choose another folder"
            )
        stale, forward = ([], theirs) if self._extends is None else self._extends(ours, theirs)
        difference = results.first_difference(ours, forward)
        if difference:
            raise RunFolderError(
                f"`folder` {str(self.path)!r} holds a run with other settings: {difference}; "
                f"choose another folder, or the settings of {there}"
            )
        if forward != theirs:
            # units first, so that a kill in between leaves a run that can be continued either way
            for unit in self._units():
                if any(fnmatch.fnmatchcase(unit.name, name) for name in stale):
                    unit.unlink()
            _files.write_text(there, results.canonical(ours) + "\n")

    def _note_environment(self) -> None:
        """Add this machine to those on which the run was computed, and warn where they differ."""
        path, ours = self.path / ENVIRONMENT, environment()
        known: list[Json] = []
        if path.exists():
            known = _read_json(path, list, "delete it to continue as if on the same machine")
        if ours not in known:
            known.append(ours)
            _files.write_text(path, json.dumps(known, indent=1) + "\n")
        if len(known) > 1:
            names = [
                f"{name} ({' | '.join(str(one.get(name)) for one in known)})"
                for name in sorted({name for one in known for name in one})
                if any(one.get(name) != known[0].get(name) for one in known)
            ]
            warnings.warn(
                f"{self.path} is computed in several environments, which differ in "
                f"{', '.join(names)}: it continues, but not bit for bit",
                stacklevel=4,
            )

    def evaluates(self, splits: Sequence[str], metrics: Sequence[str]) -> None:
        """Note what the numbers of units are, for who looks at the run before its end."""
        text = json.dumps({"splits": list(splits), "metrics": list(metrics)})
        with explained(self.path):
            on_first(lambda: _files.write_text(self.path / _EVALUATED, text + "\n"))

    # finished units

    @property
    def done(self) -> int:
        """How many units are finished."""
        return len(self._units())

    @property
    def begun(self) -> bool:
        """Whether anything was computed before."""
        return self.done > 0 or any(self._folder(kind).exists() for kind in _KINDS)

    def _units(self) -> list[Path]:
        """The files of finished units."""
        return [path for path in _files.children(self.path / "units") if path.suffix == ".npz"]

    def _unit(self, name: str) -> Path:
        return self.path / "units" / f"{name}.npz"

    def blocks(self, work: str) -> dict[tuple[int, int], str]:
        """Names of the finished blocks of some work, by their first replica and their end."""

        def read() -> bytes:
            return "\n".join(sorted(path.stem for path in self._units())).encode()

        with explained(self.path):
            names = (by_first(read) or b"").decode().split("\n")
        return of_work(work, names)

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """A finished unit, None where there is none or its file is damaged.

        A damaged file is set aside, with a warning.

        Raises:
          RunFolderError: for a file that is there and cannot be read.
        """
        path, found, why = self._unit(name), None, ""
        several = jax.process_count() > 1

        def read() -> bytes | None:
            if not path.exists():
                return None
            return path.read_bytes() if several else b""

        with explained(self.path):
            content = by_first(read)
        if content is not None:
            found, why = _arrays_of(content if several else path)
        if why and not several:
            # a file that cannot be read for the moment is not a damaged one
            with explained(self.path):
                content = path.read_bytes()
            found, why = _arrays_of(content)
        # damaged for one is damaged for all
        if agreed([bool(why)]).any():
            found = None
            warnings.warn(f"{path} is damaged ({why}) and is computed again", stacklevel=2)
            with explained(self.path):
                # perhaps in other blocks, and then nothing replaces it
                on_first(self._check_lock, lambda: _set_aside(path))
        if found is None and not self._noted:
            self._noted = True
            with explained(self.path):
                on_first(self._note_environment)
        return found

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Mark a unit as finished, at once, and forget the state inside it."""
        self.settle()
        with explained(self.path):
            on_first(self._check_lock, lambda: _files.write_arrays(self._unit(name), arrays))
        self._last = time.monotonic()

    # the state inside a unit

    @property
    def due(self) -> bool:
        """Whether it is time to save the training state again."""
        return time.monotonic() - self._last >= self.every

    def _folder(self, kind: ModuleType) -> Path:
        """Where states of a kind lie."""
        return self.path / kind.NAME

    def _set_aside(self, kind: ModuleType) -> None:
        """Move saved states that cannot be used out of the way."""
        with explained(self.path):
            on_first(lambda: kind.set_aside(self._folder(kind), self.path / "damaged"))

    def settle(self) -> None:
        """Wait for a save in the background.

        Raises:
          RunFolderError: where it failed; the save before it stays.
        """
        if not self._background:
            return
        pending, self._pending = self._pending, None
        with explained(self.path):
            on_first(lambda: None if pending is None else pending.result())

    def save_state(self, unit: str, call: int, tree: dict[str, jax.Array]) -> None:
        """Save the state after so many calls of a unit: a flat dict of device arrays.

        In the background, it is copied to the host before this returns, and written afterwards.
        """
        about = {"unit": unit, "call": call, "layout": layout(tree)}
        if self._in_files:
            self._save_in_file(about, tree)
        else:
            self._save_by_orbax({**about, "checksum": checksum(about, tree)}, tree)
        self._last = time.monotonic()

    def _save_in_file(self, about: Json, tree: dict[str, jax.Array]) -> None:
        self.settle()
        arrays = {name: parallel.host(x) for name, x in tree.items()}

        def write() -> None:
            self._check_lock()
            own = {**about, "checksum": checksum(about, arrays)}
            file_states.save(self._folder(file_states), own, arrays)
            if not _files.is_url(self.path):
                # of an earlier process, which wrote another kind
                _files.remove_tree(self._folder(orbax_states))

        if not self._background:
            with explained(self.path):
                on_first(write)
        elif jax.process_index() == 0:
            if self._writer is None:
                self._writer = ThreadPoolExecutor(1, thread_name_prefix="run folder states")
            self._pending = self._writer.submit(write)

    def _save_by_orbax(self, about: Json, tree: dict[str, jax.Array]) -> None:
        folder = self._folder(orbax_states)
        try:
            try:
                orbax_states.save(folder, about, tree)
            except Exception as error:  # Orbax raises many kinds
                # what fails on one of several hosts may not fail on the others
                if number_of(error) in REMEDIES or jax.process_count() > 1:
                    raise
                # over what a damaged save left: without it
                self._set_aside(orbax_states)
                orbax_states.save(folder, about, tree)
        except Exception as error:  # Orbax raises many kinds
            if jax.process_index() == 0:
                orbax_states.discard_failed(folder)
            raise explanation(self.path, error) from error
        if jax.process_index() == 0:
            # of an earlier process, which wrote another kind
            _files.remove_tree(self._folder(file_states))

    def load_state(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """The newest state of a unit as (call, tree), or None.

        A damaged state gives None and a warning.

        Args:
          unit: the unit's name; states of other units do not count.
          like: tree of arrays (or shape structs with sharding) as they were saved.
        """
        for kind in _KINDS:
            if by_first(lambda kind=kind: b"" if self._folder(kind).exists() else None) is None:
                continue
            found = self._load_state(kind, unit, like)
            if found is not None:
                return found
        return None

    def _load_state(
        self, kind: ModuleType, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        folder, found, why = self._folder(kind), None, ""
        if kind is orbax_states:
            with explained(self.path):
                on_first(lambda: orbax_states.discard_half_written(folder))
        try:
            load = self._loaded_by_orbax if kind is orbax_states else self._loaded_file
            found = load(unit, like)
        except MemoryError:
            raise
        except Exception as error:  # Orbax raises many kinds for what is damaged or missing
            if isinstance(error, RunFolderError):
                raise
            if isinstance(error, PermissionError):
                raise explanation(self.path, error) from error
            if isinstance(error, jax.errors.JaxRuntimeError) and "memory" in str(error):
                raise
            why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            warnings.warn(
                f"the state saved in {folder} cannot be used ({why}): {unit} is begun again",
                stacklevel=3,
            )
        # damaged for one is damaged for all
        if not agreed([bool(why)]).any():
            return found
        self._set_aside(kind)
        return None

    def _loaded_by_orbax(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """As `load_state`, but raises for what is damaged."""
        found = orbax_states.load(self._folder(orbax_states), unit, like, layout(like))
        return None if found is None else intact(*found)

    def _loaded_file(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """As `load_state`, but raises for what is damaged."""
        folder = self._folder(file_states)

        def described() -> bytes | None:
            newest = file_states.newest(folder)
            return None if newest is None else json.dumps(newest[0]).encode()

        with explained(self.path):
            text = by_first(described)
        about: Json = {} if text is None else json.loads(text)
        if about.get("unit") != unit:
            return None
        if about.get("layout") != layout(like):
            raise ValueError("it is of another version or number of devices")
        with explained(self.path):
            content = by_first(lambda: file_states.read(folder, about))
        if content is None:
            raise ValueError("its arrays are missing")
        own = {name: about.get(name) for name in ("unit", "call", "layout", "checksum")}
        return intact(own, file_states.placed(content, like))

    def forget_state(self) -> None:
        """Remove what is only needed while a run is under way."""

        def remove() -> None:
            for name in (*(kind.NAME for kind in _KINDS), "damaged"):
                _files.remove_tree(self.path / name)
            (self.path / _EVALUATED).unlink(missing_ok=True)

        self.settle()
        with explained(self.path):
            on_first(remove)


def _arrays_of(source: Path | bytes) -> tuple[dict[str, np.ndarray] | None, str]:
    """The arrays of a unit, or why there are none."""
    try:
        return _files.read_arrays(source), ""
    except MemoryError:
        raise
    except Exception as error:  # numpy and zipfile raise many kinds for damaged files
        return None, str(error) or type(error).__name__


def _set_aside(path: Path) -> None:
    """Take a damaged file out of the units."""
    # nothing is renamed in a bucket
    _files.write_bytes(path.with_name(f"{path.name}.damaged"), path.read_bytes())
    path.unlink()


def _read_json(path: Path, kind: type[T], remedy: str) -> T:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise RunFolderError(f"`folder`: {path} is damaged ({error}); {remedy}") from error
    return found
