"""Run folders: finished work is kept, interrupted work is resumed.

This is the only module that knows Orbax.

A run is a sequence of units (one level, one block of replicas). A finished unit is one .npz file
that appears at once. Inside a unit, the training state is saved by Orbax from time to time; only
the newest save is kept, with a checksum. One process at a time uses a folder.

On several hosts one run has one folder, on a file system that all of them see. Process 0 reads and
writes it and tells the others, which wait; only states are written by all together.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import itertools
import json
import os
import platform
import shutil
import time
import warnings
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from jaxticket import _files, results
from jaxticket.engine import lock, parallel
from jaxticket.typing import Json

if TYPE_CHECKING:
    from orbax.checkpoint import v1 as ocp

T = TypeVar("T")

_SETTINGS = "settings.json"
_ENVIRONMENT = "environment.json"
_EVALUATED = "evaluated.json"
_FORMAT = 2
# seconds that processes of several hosts wait for one another: as long as a folder may be in use
_PATIENCE = 24 * 3600


class RunFolderError(ValueError):
    """A run folder cannot be used.

    It holds other settings or code, another process uses it, or there is no room or permission.
    """


_FULL = "the disk is full; free some space"
_REMEDIES = {
    errno.ENOSPC: _FULL,
    errno.EDQUOT: _FULL,
    errno.EFBIG: "files may not grow so large there; raise the limit (`ulimit -f`) or the quota",
    **dict.fromkeys(
        (errno.EROFS, errno.EACCES, errno.EPERM),
        "it cannot be written; choose another `folder` or correct its permissions",
    ),
}


def _number_of(error: BaseException) -> int | None:
    """The operating system's number of an error, also where a library tells it in words only."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno is not None:
            return seen.errno
        for number in _REMEDIES:
            if os.strerror(number) in str(seen):
                return number
        seen = seen.__cause__ or seen.__context__
    # what TensorStore makes of a full disk
    return errno.ENOSPC if "RESOURCE_EXHAUSTED" in str(error) else None


def _explanation(folder: Path, error: BaseException) -> RunFolderError:
    number = _number_of(error)
    said = str(error) if number is None else os.strerror(number)
    remedy = _REMEDIES.get(-1 if number is None else number, str(error))
    return RunFolderError(
        f"`folder` {str(folder)!r}: {remedy} ({said}). What was saved before is intact: run the "
        f"same command again to continue"
    )


@contextlib.contextmanager
def explained(folder: Path) -> Iterator[None]:
    """Turn the operating system's errors into ones that name a remedy.

    What was saved before stays.
    """
    try:
        yield
    except OSError as error:
        raise _explanation(folder, error) from error


_meetings = itertools.count()


def _meet() -> None:
    """Wait until all processes are here.

    Collectives on a CPU wait for half a minute only, which is too short where one host compiles,
    writes or waits for a folder longer than another.
    """
    if jax.process_count() > 1:
        from orbax.checkpoint import multihost

        everyone = set(range(jax.process_count()))
        name = f"jaxticket-{next(_meetings)}"
        multihost.sync_global_processes(name, timeout=_PATIENCE, processes=everyone)


def agreed(numbers: Sequence[int]) -> np.ndarray:
    """A few whole numbers of every process, int32 [process, number], the same on all of them."""
    _meet()
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
    _meet()
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
    steps = [p for p in (path / "state").glob("[0-9]*") if p.name.isdigit()]
    for step in sorted(steps, key=lambda p: -int(p.name)):
        file = step / "_CHECKPOINT_METADATA"
        # half a save has no readable one
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            unit = json.loads(file.read_text(encoding="utf-8"))["custom_metadata"]["unit"]
            return str(unit), file.stat().st_mtime
    return None


Extends = Callable[[Json, Json], tuple[list[str], Json]]
"""`extends(ours, theirs)` of plain settings: theirs with what a call may extend as in ours, and
patterns of the units that then have to be computed again."""


class RunFolder:
    """The folder of one run, which this process has for itself until `close`.

    Args:
      path: the folder; made if it is not there.
      settings: what the run is; a folder with other settings is refused.
      every: seconds between saves of the training state inside a unit.
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
        wait: float = 0.0,
        asked: Callable[[], bool] = lambda: False,
        extends: Extends | None = None,
    ) -> None:
        self.path = _files.absolute(path)
        self.every = every
        self._last = time.monotonic()
        self._lock: lock.Lock | None = None
        self._extends = extends
        # whether this machine stands in the list of those that computed the run
        self._noted = by_first(lambda: self._open(settings, wait, asked)) is not None

    def _open(
        self, settings: Mapping[str, object], wait: float, asked: Callable[[], bool]
    ) -> bytes | None:
        """Take the folder for this process; nothing if it existed before."""
        ours = {"format": _FORMAT, **json.loads(results.canonical(settings))}
        with explained(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            there = self.path / _SETTINGS
            if not there.exists() and any(
                p for p in self.path.iterdir() if not p.name.startswith(".")
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
        while isinstance(found := lock.acquire(self.path / ".lock"), str):
            if asked():
                raise KeyboardInterrupt(f"stopped while waiting for {self.path}")
            if time.monotonic() >= until:
                raise RunFolderError(
                    f"`folder` {str(self.path)!r} is in use by {found}; wait until it is done, as "
                    f"jt.Runtime(wait=3600) does for an hour, or choose another folder"
                )
            time.sleep(0.2)
        self._lock = found

    def close(self) -> None:
        """Let other processes use the folder."""
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
            for unit in (unit for name in stale for unit in (self.path / "units").glob(name)):
                unit.unlink()
            _files.write_text(there, results.canonical(ours) + "\n")

    def _note_environment(self) -> None:
        """Add this machine to those on which the run was computed, and warn where they differ."""
        path, ours = self.path / _ENVIRONMENT, environment()
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
        return len(list((self.path / "units").glob("*.npz")))

    @property
    def begun(self) -> bool:
        """Whether anything was computed before."""
        return self.done > 0 or (self.path / "state").exists()

    def _unit(self, name: str) -> Path:
        return self.path / "units" / f"{name}.npz"

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """A finished unit, None where there is none or its file is damaged (with a warning)."""
        path, found = self._unit(name), None
        several = jax.process_count() > 1

        def read() -> bytes | None:
            if not path.exists():
                return None
            return path.read_bytes() if several else b""

        content = by_first(read)
        if content is not None:
            try:
                # opened here, since NumPy leaves the files of damaged archives open
                with (
                    io.BytesIO(content) if several else path.open("rb") as raw,
                    np.load(raw, allow_pickle=False) as file,
                ):
                    found = {key: file[key] for key in file.files}
            except MemoryError:
                raise
            except Exception as error:  # numpy and zipfile raise many kinds for damaged files
                warnings.warn(f"{path} is damaged ({error}) and is computed again", stacklevel=2)
        if found is None and not self._noted:
            self._noted = True
            with explained(self.path):
                on_first(self._note_environment)
        return found

    def save(self, name: str, arrays: dict[str, np.ndarray]) -> None:
        """Mark a unit as finished, at once, and forget the state inside it."""
        with explained(self.path):
            on_first(lambda: _files.write_arrays(self._unit(name), arrays))
        self._last = time.monotonic()

    # the state inside a unit

    @property
    def due(self) -> bool:
        """Whether it is time to save the training state again."""
        return time.monotonic() - self._last >= self.every

    @contextlib.contextmanager
    def _checkpointer(self) -> Iterator[ocp.training.Checkpointer]:
        # takes half a second, which runs without a folder need not pay
        from orbax.checkpoint import v1 as ocp

        policy: Any = ocp.training.preservation_policies.LatestN(1)
        with ocp.training.Checkpointer(
            str(self.path / "state"), preservation_policy=policy
        ) as saver:
            yield saver

    def _set_aside(self) -> None:
        """Move saved states that cannot be used out of the way."""

        def move() -> None:
            shutil.rmtree(self.path / "damaged", ignore_errors=True)
            with contextlib.suppress(FileNotFoundError):
                (self.path / "state").rename(self.path / "damaged")

        with explained(self.path):
            on_first(move)

    def save_state(self, unit: str, call: int, tree: dict[str, jax.Array]) -> None:
        """Save the state after so many calls of a unit: a flat dict of device arrays."""
        about = {"unit": unit, "call": call, "layout": _layout(tree)}
        about["checksum"] = _checksum(about, tree)

        def write() -> None:
            with self._checkpointer() as saver:
                latest = saver.latest
                step = 0 if latest is None else latest.step + 1
                saver.save(step, tree, custom_metadata=about)

        try:
            try:
                write()
            except Exception as error:  # Orbax raises many kinds
                # what fails on one of several hosts may not fail on the others
                if _number_of(error) in _REMEDIES or jax.process_count() > 1:
                    raise
                # over what a damaged save left: without it
                self._set_aside()
                write()
        except Exception as error:  # Orbax raises many kinds
            # half a save would keep the room that is missing
            if jax.process_index() == 0:
                for half in (self.path / "state").glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(half, ignore_errors=True)
            raise _explanation(self.path, error) from error
        self._last = time.monotonic()

    def load_state(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """The newest state of a unit as (call, tree), or None.

        A damaged state gives None and a warning.

        Args:
          unit: the unit's name; states of other units do not count.
          like: tree of arrays (or shape structs with sharding) as they were saved.
        """
        if by_first(lambda: b"" if (self.path / "state").exists() else None) is None:
            return None
        with explained(self.path):
            on_first(self._discard_half_written)
        found, why = None, ""
        try:
            found = self._loaded_state(unit, like)
        except MemoryError:
            raise
        except Exception as error:  # Orbax raises many kinds for what is damaged or missing
            if isinstance(error, PermissionError):
                raise _explanation(self.path, error) from error
            if isinstance(error, jax.errors.JaxRuntimeError) and "memory" in str(error):
                raise
            why = str(error).strip().partition("\n")[0][:200] or type(error).__name__
            warnings.warn(
                f"the state saved in {self.path / 'state'} cannot be used ({why}): {unit} is begun "
                f"again",
                stacklevel=2,
            )
        # damaged for one is damaged for all
        if not agreed([bool(why)]).any():
            return found
        self._set_aside()
        return None

    def _loaded_state(
        self, unit: str, like: dict[str, jax.Array]
    ) -> tuple[int, dict[str, jax.Array]] | None:
        """As `load_state`, but raises for what is damaged."""
        with self._checkpointer() as saver:
            latest = saver.latest
            if latest is None:
                return None
            known = saver.metadata().custom_metadata
            about: Json = dict(known) if isinstance(known, dict) else {}
            if about.get("unit") != unit:
                return None
            if about.get("layout") != _layout(like):
                raise ValueError("it is of another version or number of devices")
            abstract = {
                name: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding)
                for name, x in like.items()
            }
            tree = saver.load(abstract_state=abstract)
        checksum = about.pop("checksum", None)
        if checksum != _checksum(about, tree):
            raise ValueError("its checksum does not fit")
        return int(about["call"]), tree

    def _discard_half_written(self) -> None:
        """Remove saves without readable metadata: Orbax would stumble over them."""
        for step in (self.path / "state").glob("[0-9]*"):
            try:
                json.loads((step / "_CHECKPOINT_METADATA").read_text())
            except (OSError, ValueError):
                warnings.warn(f"{step} is half written and is skipped", stacklevel=4)
                shutil.rmtree(step)

    def forget_state(self) -> None:
        """Remove what is only needed while a run is under way."""

        def remove() -> None:
            for name in ("state", "damaged"):
                shutil.rmtree(self.path / name, ignore_errors=True)
            (self.path / _EVALUATED).unlink(missing_ok=True)

        on_first(remove)


def environment() -> dict[str, object]:
    """Describe what the bits of a result depend on other than the settings.

    These are versions, flags and devices, and the model of the CPU where it computes.
    """
    names = ("jaxticket", "jax", "jaxlib", "flax", "optax", "numpy", "llvmlite")
    versions = {name: _version(name) for name in names}
    facts: dict[str, object] = {
        "python": platform.python_version(),
        **versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
        "backend": jax.default_backend(),
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
    }
    if jax.default_backend() == "cpu":
        return facts | _cpu()
    return facts | {"platform": str(jax.devices()[0].client.platform_version)}


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"


def _cpu() -> dict[str, str]:
    """The CPU's model and its vector instructions, by which XLA chooses code."""
    facts: dict[str, str] = {}
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            name, _, value = line.partition(":")
            facts.setdefault(name.strip().lower(), value.strip())
    flags = facts.get("flags", facts.get("features", "")).split()
    vector = ("sse", "ssse", "avx", "fma", "amx", "f16c", "asimd", "sve", "bf16", "i8mm")
    return {
        "cpu": facts.get("model name", platform.processor() or platform.machine()),
        "cores": str(parallel.cores()),
        "instructions": " ".join(sorted(flag for flag in flags if flag.startswith(vector))),
    }


def _read_json(path: Path, kind: type[T], remedy: str) -> T:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, kind):
            raise ValueError(f"it holds a {type(found).__name__}")
    except ValueError as error:
        raise RunFolderError(f"`folder`: {path} is damaged ({error}); {remedy}") from error
    return found


def _layout(tree: Mapping[str, jax.Array]) -> str:
    """Names, shapes and types of a flat tree as a short text."""
    about = [(name, str(tree[name].dtype), list(tree[name].shape)) for name in sorted(tree)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def _checksum(about: Mapping[str, object], tree: Mapping[str, jax.Array]) -> str:
    """The checksum of the description of a save and of the bytes of its arrays."""
    sums = {
        name: zlib.crc32(
            np.ascontiguousarray(parallel.host(tree[name])).reshape(-1).view(np.uint8).data
        )
        for name in sorted(tree)
    }
    return hashlib.sha256(json.dumps([about, sums], sort_keys=True).encode()).hexdigest()
