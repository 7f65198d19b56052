"""The lock of a run folder: one process at a time uses it, and a dead one does not keep it.

The file names its holder. Between processes of one machine the operating system's lock decides,
which ends with its process. Between machines whose file system does not share such locks the
file's age does: its holder touches it every `BEAT` seconds, and counts as dead when it has not for
`STALE` seconds. Folders in buckets have locks of `bucket_lock`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import tempfile
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

try:
    import fcntl
except ImportError:  # not on Windows, where the file's age alone decides
    fcntl = None

BEAT = 10.0
STALE = 120.0


class Lock:
    """A lock that this process holds until `release`."""

    lost = False

    def __init__(self, path: Path, file: int, said: bytes) -> None:
        self._path, self._file, self._said = path, file, said
        self._released = threading.Event()
        threading.Thread(target=self._beat, name="run folder lock", daemon=True).start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT):
            with contextlib.suppress(OSError):
                os.utime(self._path)

    def release(self) -> None:
        """Let others take the lock."""
        if not self._released.is_set():
            self._released.set()
            with contextlib.suppress(OSError):
                # not where another host took this process for dead
                if self._path.read_bytes() == self._said:
                    os.ftruncate(self._file, 0)
            os.close(self._file)


def acquire(path: Path) -> Lock | str:
    """The lock of a file, or who holds it: "process 12 on node3 since 2026-01-31 12:00:00 UTC".

    Raises:
      OSError: where the file cannot be written.
    """
    file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        # None: the file system knows no locks
        ours = _locked(file)
        holder = _holder(file)
        if ours is False or _lives(path, holder, known_dead=ours is True):
            os.close(file)
            return str(holder.get("name") or "another process")
        since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        pid, host = os.getpid(), socket.gethostname()
        name = f"process {pid} on {host} since {since}"
        said = json.dumps({"host": host, "pid": pid, "name": name}).encode()
        os.ftruncate(file, 0)
        os.lseek(file, 0, os.SEEK_SET)
        os.write(file, said)
    except BaseException:
        with contextlib.suppress(OSError):
            os.close(file)
        raise
    return Lock(path, file, said)


def holder(path: Path) -> str | None:
    """Who holds the lock of a file, which is only read; None where nobody does, as far as it says.

    A process of this machine holds it while it runs, one of another while the file is young.
    """
    with contextlib.suppress(OSError):
        file = os.open(path, os.O_RDONLY)
        try:
            found = _holder(file)
        finally:
            os.close(file)
        if not found:
            return None
        if found.get("host") == socket.gethostname() and fcntl is not None:
            lives = runs(int(str(found.get("pid", 0))))
        else:
            lives = time.time() - path.stat().st_mtime < STALE
        return str(found.get("name") or "another process") if lives else None
    return None


def _locked(file: int) -> bool | None:
    if fcntl is None:
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _holder(file: int) -> dict[str, object]:
    """The holder that the file names; nothing where it was released."""
    with contextlib.suppress(ValueError):
        found = json.loads(os.read(file, 10_000))
        if isinstance(found, dict):
            return found
    return {}


def _lives(path: Path, holder: Mapping[str, object], *, known_dead: bool) -> bool:
    """Whether a holder that the system's lock does not tell of is alive.

    Args:
      path: the file.
      holder: the one that the file names.
      known_dead: whether a holder on this machine would have had the system's lock.
    """
    if not holder:
        return False
    if holder.get("host") == socket.gethostname() and fcntl is not None:
        return not known_dead and runs(int(str(holder.get("pid", 0))))
    # by the file system's own clock
    with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".clock-") as now:
        return os.stat(now.name).st_mtime - path.stat().st_mtime < STALE


def runs(pid: int) -> bool:
    """Whether a process of this machine runs."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
