"""States in one file each, which the first host writes: in a bucket, or in the background.

A save is `N.npz`, the bytes of every array, and then `N.json`, which says what they are and makes
it count. Nothing of it needs the other hosts, so that a thread can write it while networks train.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from jaxticket import _files
from jaxticket.typing import Json

NAME = "saves"
"""The folder of saves in that of a run."""


def _numbers(folder: Path) -> list[int]:
    """The numbers of saves that count, the newest first."""
    names = [path.stem for path in folder.glob("*.json")]
    return sorted((int(name) for name in names if name.isdigit()), reverse=True)


def newest(folder: Path) -> tuple[Json, float] | None:
    """What the newest save of a folder is, and when it was made in seconds since 1970; or None."""
    for number in _numbers(folder):
        with contextlib.suppress(FileNotFoundError, ValueError, KeyError, TypeError):
            about = json.loads((folder / f"{number}.json").read_text(encoding="utf-8"))
            return {**about, "number": number}, float(about["time"])
    return None


def save(folder: Path, about: Json, arrays: Mapping[str, np.ndarray]) -> None:
    """Save a state, and remove the one before.

    Raises:
      OSError: where it cannot be written; the one before stays.
    """
    number = max(_numbers(folder), default=-1) + 1
    stored = {name: _bytes(x) for name, x in arrays.items()}
    _files.write_arrays(folder / f"{number}.npz", stored)
    _files.write_text(folder / f"{number}.json", json.dumps({**about, "time": time.time()}))
    for old in _files.children(folder):
        if old.stem != str(number):
            old.unlink(missing_ok=True)


def read(folder: Path, about: Json) -> bytes | None:
    """The bytes of the arrays of a save that `newest` described; None where they are missing."""
    with contextlib.suppress(FileNotFoundError):
        return (folder / f"{about['number']}.npz").read_bytes()
    return None


def placed(content: bytes, like: Mapping[str, jax.Array]) -> dict[str, jax.Array]:
    """The arrays of a save on the devices.

    Args:
      content: as `read` gives it, the same on all hosts.
      like: arrays of the shapes, types and places that they have.

    Raises:
      Exception: of many kinds, for a save that is damaged.
    """
    stored = _files.read_arrays(content)

    def one(name: str, x: jax.Array) -> jax.Array:
        host = stored[name].view(x.dtype).reshape(x.shape)
        return jax.make_array_from_callback(x.shape, x.sharding, lambda at: host[at])

    return {name: one(name, x) for name, x in like.items()}


def set_aside(folder: Path, to: Path) -> None:
    """Move saves that cannot be used out of the way."""
    _files.remove_tree(to)
    for file in _files.children(folder):
        # nothing is renamed in a bucket
        _files.write_bytes(to / file.name, file.read_bytes())
    _files.remove_tree(folder)


def _bytes(x: np.ndarray) -> np.ndarray:
    """An array as uint8 [byte]; NumPy's files know no bfloat16."""
    return np.ascontiguousarray(x).reshape(-1).view(np.uint8)
