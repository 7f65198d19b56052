"""The lock of a run folder in a bucket, which has no locks and no clock: best effort.

An object names its holder and says when it last gave a sign of life, every `BEAT` seconds. Who
finds none, or one without a sign for `STALE` seconds, writes its own and reads it again after
`SETTLE` seconds: of several that write at the same time the last one has it. It keeps processes
apart that begin one after another, and those that begin together unless one of them is held up for
longer than `SETTLE` between its look and its write; clocks may differ by less than
`STALE - BEAT`. A holder whose lock is taken over notices at its next sign of life.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from jaxticket import _files
from jaxticket.engine.lock import BEAT, STALE, runs

SETTLE = 1.0

_held: set[str] = set()
"""Tokens of the locks of this process: its number may be that of a dead one in a container."""


class BucketLock:
    """A lock that this process holds until `release`.

    Attributes:
      lost: whether another process has it in the meantime.
    """

    def __init__(self, path: Path, holder: dict[str, object]) -> None:
        self.lost = False
        self._path, self._holder = path, holder
        self._released = threading.Event()
        _held.add(str(holder["token"]))
        self._thread = threading.Thread(target=self._beat, name="run folder lock", daemon=True)
        self._thread.start()

    def _beat(self) -> None:
        while not self._released.wait(BEAT) and not self.lost:
            # where the bucket cannot be reached for a moment, the next sign will
            with contextlib.suppress(Exception):
                self.lost = not self._ours()
                if not self.lost and not self._released.is_set():
                    _write(self._path, self._holder)

    def _ours(self) -> bool:
        return _read(self._path).get("token") == self._holder["token"]

    def release(self) -> None:
        """Let others take the lock."""
        if not self._released.is_set():
            self._released.set()
            # a sign that comes after the end would keep others out
            self._thread.join()
            with contextlib.suppress(Exception):
                if self._ours():
                    self._path.unlink(missing_ok=True)
            _held.discard(str(self._holder["token"]))


def acquire(path: Path) -> BucketLock | str:
    """The lock of a file in a bucket, or who holds it.

    Raises:
      Exception: of many kinds, where the bucket cannot be written.
    """
    found = _read(path)
    if _lives(found):
        return _name(found)
    since = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
    host, pid = socket.gethostname(), os.getpid()
    name = f"process {pid} on {host} since {since}"
    ours = {"host": host, "pid": pid, "name": name, "token": secrets.token_hex(8)}
    _write(path, ours)
    try:
        time.sleep(SETTLE)
        found = _read(path)
    except BaseException:
        # else a signal here would keep others out until the lock is stale
        path.unlink(missing_ok=True)
        raise
    return BucketLock(path, ours) if found.get("token") == ours["token"] else _name(found)


def holder(path: Path) -> str | None:
    """Who holds the lock of a file in a bucket, which is only read; None where nobody does."""
    found = _read(path)
    return _name(found) if _lives(found) else None


def _name(found: dict[str, object]) -> str:
    return str(found.get("name") or "another process")


def _lives(found: dict[str, object]) -> bool:
    if not found:
        return False
    if found.get("host") == socket.gethostname():
        pid = int(str(found.get("pid", 0)))
        if pid == os.getpid() and found.get("token") not in _held:
            return False
        if not runs(pid):
            return False
    return time.time() - float(str(found.get("beat", 0))) < STALE


def _write(path: Path, holder: dict[str, object]) -> None:
    _files.write_text(path, json.dumps({**holder, "beat": time.time()}))


def _read(path: Path) -> dict[str, object]:
    """What the file says; nothing where there is none."""
    with contextlib.suppress(FileNotFoundError, ValueError):
        found = json.loads(path.read_text(encoding="utf-8"))
        if isinstance(found, dict):
            return found
    return {}
