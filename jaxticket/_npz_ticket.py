"""Read the ticket files of version 0.1, which are .npz archives."""

from __future__ import annotations

import io
import json
import math
import zipfile
from pathlib import Path

import numpy as np

from jaxticket.typing import Json

FORMAT = "jaxticket ticket 1"
NUMBERS = "biuf"
"""Kinds of NumPy types that ticket files hold."""


def is_npz(path: Path) -> bool:
    """Whether a file begins like an archive."""
    with path.open("rb") as file:
        return file.read(2) == b"PK"


def read(path: Path) -> tuple[Json, dict[str, np.ndarray]]:
    """Read the header and the arrays of a file.

    They take no more memory than the file's size: it is not compressed, and every shape is checked
    against the number of bytes.

    Raises:
      Exception: of many kinds, for files that are damaged.
    """
    arrays = {}
    with path.open("rb") as raw, zipfile.ZipFile(raw) as archive:
        members = archive.infolist()
        if sum(member.file_size for member in members) > path.stat().st_size:
            raise ValueError("its parts are larger than the file")
        for member in members:
            name = member.filename.removesuffix(".npy")
            if name == member.filename or name in arrays or member.compress_type:
                raise ValueError(f"{member.filename!r} is not an array, compressed or repeated")
            arrays[name] = _array(archive.read(member), name)
    return json.loads(arrays.pop("header").tobytes()), arrays


def _array(stored: bytes, name: str) -> np.ndarray:
    """Read the array of a .npy file of numbers."""
    file = io.BytesIO(stored)
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, by_columns, kind = read(file, max_header_size=10_000)
    if kind.kind not in NUMBERS or min(shape, default=0) < 0:
        raise ValueError(f"{name!r} is of type {kind} and shape {shape}")
    if file.tell() + math.prod(shape) * kind.itemsize != len(stored):
        raise ValueError(f"{name!r} has another number of bytes than its shape {shape}")
    flat = np.frombuffer(stored, kind, offset=file.tell())
    return flat.reshape(shape, order="F" if by_columns else "C").copy()
