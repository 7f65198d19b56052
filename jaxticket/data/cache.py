"""Decoded data sets, kept as `.npz` files in the user's cache folder.

The folder is `$XDG_CACHE_HOME/jaxticket`, else `~/.cache/jaxticket`. A file counts only as long as
the files that it was decoded from have the same names, sizes and times.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
from pathlib import Path

import numpy as np

from jaxticket import _files
from jaxticket.data.arrays import Data
from jaxticket.data.conversion import from_owned

# a cache file of another layout counts as stale
_LAYOUT = 1


def folder_state(folder: Path) -> dict[str, object]:
    """Identify the files of a prepared set: its version, and name, size and time of each file."""
    stats = [(f.name, f.stat()) for f in sorted(folder.iterdir()) if f.is_file()]
    return {
        "layout": _LAYOUT,
        "version": folder.name,
        "files": [[name, stat.st_size, stat.st_mtime_ns] for name, stat in stats],
    }


def cache_file(folder: Path) -> Path:
    """Locate the file that keeps the arrays decoded from `folder`."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    # two folders may hold the same version of a set with different images
    digest = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:12]
    return Path(home, "jaxticket", "tfds", f"{folder.parent.name}-{folder.name}-{digest}.npz")


def read_cache(folder: Path, name: str) -> Data | None:
    """Read the set decoded from `folder`, and call it `name`.

    Returns:
      None if there is no cache file or it was made from other files; also, with a warning, if it
      is damaged.
    """
    path = cache_file(folder)
    if not path.is_file():
        return None
    try:
        # opened here: np.load leaves a file open that it cannot read
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            note = json.loads(str(file["note"]))
            if note["state"] != folder_state(folder):
                return None
            arrays = {key: file[key] for key in note["arrays"]}
        for key, (shape, dtype) in note["arrays"].items():
            if list(arrays[key].shape) != shape or arrays[key].dtype.str != dtype:
                raise ValueError(f"{key} has shape {arrays[key].shape}, not {shape}")
        data = from_owned(arrays, classes=note["classes"], name=name)
        return dataclasses.replace(data, about=note["about"])
    except Exception as error:  # a damaged file can raise almost anything
        warnings.warn(
            f"the cache file {path} is damaged ({type(error).__name__}: {error}); "
            "decoding the data set again",
            stacklevel=3,
        )
        return None


def write_cache(folder: Path, data: Data, state: dict[str, object]) -> None:
    """Keep `data`, decoded from `folder` in this `state`, atomically.

    A cache folder that cannot be written to gives a warning.
    """
    path = cache_file(folder)
    arrays = {}
    for split, part in data.splits.items():
        arrays |= {f"x_{split}": part.x, f"y_{split}": part.y}
    note = {
        "state": state,
        "classes": data.classes,
        "about": data.about,
        "arrays": {key: [list(a.shape), a.dtype.str] for key, a in arrays.items()},
    }
    try:
        _files.write_arrays(path, {"note": np.array(json.dumps(note)), **arrays})
    except OSError as error:
        warnings.warn(
            f"cannot keep the decoded arrays in {path.parent} ({error}), so the set is decoded "
            "again each time; set XDG_CACHE_HOME to a writable folder, or pass cache=False",
            stacklevel=3,
        )
