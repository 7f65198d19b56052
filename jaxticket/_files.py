"""Files that are whole or not there, and paths that stay where they are."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


def absolute(path: str | os.PathLike[str]) -> Path:
    """The path with `~` expanded, absolute: a later change of the working directory does not move
    it.
    """
    return Path(path).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A new empty file beside `path` to write to, which takes its place when the block ends; where
    the block fails, `path` stays as it was.

    Its name cannot be guessed, its permissions are those that the umask gives, and its bytes are on
    the disk before it gets its name.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    try:
        yield temporary
        with temporary.open("r+b") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Writes a text file, complete or not at all."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes named arrays as .npz: complete or not at all, also when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # by an open file, since np.savez adds ".npz" to other names
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Writes a file, complete or not at all, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
