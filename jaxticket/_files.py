"""Atomic writes of files, and paths that do not depend on the working directory."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np


def absolute(path: str | os.PathLike[str]) -> Path:
    """Expand `~` and make a path absolute, so that changing the working directory keeps it."""
    return Path(path).expanduser().absolute()


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that replaces `path` when the block ends without an error.

    It lies in the same folder, its name cannot be guessed, its permissions follow the umask, and it
    is flushed to disk before it is renamed. If the block fails, `path` stays as it was.
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
    """Write a text file atomically."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Write named arrays as .npz, atomically, even if the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    # by an open file, since np.savez adds ".npz" to other names
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **dict(arrays))  # type: ignore[arg-type]
    return path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
