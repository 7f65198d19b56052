"""Paths of files on disk and in buckets (gs://, s3://), and writes that are whole or not at all.

Paths of buckets come from `etils.epath`. They have the methods of `pathlib.Path` that run folders
use; folders of a bucket are there while something lies below them, nothing is renamed or appended
to, and a file appears when it is complete.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import posixpath
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import cast

import numpy as np

_BUCKETS = {"gs": ("gcs", "gcsfs"), "s3": ("s3", "s3fs")}
"""By the scheme of URLs: fsspec's name of the file system, which is an extra, and its package."""


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a URL."""
    return "://" in os.fspath(path)


def to_path(path: str | os.PathLike[str], argument: str = "folder") -> Path:
    """A path on disk, or in a bucket where it is a URL.

    >>> to_path("results/mine").name, to_path("~").is_absolute()
    ('mine', False)

    Args:
      path: as it was given; pathlib drops a slash of "gs://bucket", which is added again.
      argument: what errors call it.

    Raises:
      ValueError: for URLs of other kinds, without a bucket, or without the package for them.
    """
    text = os.fspath(path)
    scheme, url, rest = text.partition("://")
    if not url and text.partition(":/")[0] in _BUCKETS:
        scheme, url, rest = text.partition(":/")
        if not isinstance(path, PurePath):
            raise ValueError(
                f"`{argument}` {text!r} lacks a slash; write {scheme}://{rest.lstrip('/')}"
            )
    if not url:
        return Path(path)
    if scheme not in _BUCKETS:
        kinds = " or ".join(f"{known}://bucket/folder" for known in _BUCKETS)
        raise ValueError(
            f"`{argument}` {text!r} begins with {scheme}://; write {kinds}, or a path on disk"
        )
    if not rest.strip("/"):
        raise ValueError(f"`{argument}` {text!r} names no bucket; write {scheme}://bucket/folder")
    _check_package(scheme, argument, text)
    # half a second that runs on disk need not pay
    from etils import epath

    return cast("Path", epath.Path(f"{scheme}://{rest}"))


def _check_package(scheme: str, argument: str, text: str) -> None:
    """Raise where what reads the URLs of a scheme is not installed."""
    import fsspec
    from fsspec.config import conf

    system, package = _BUCKETS[scheme]
    # else what other hosts wrote would be seen late
    conf.setdefault(system, {}).setdefault("use_listings_cache", False)
    by_tensorflow = os.environ.get("EPATH_USE_TF", "").lower() not in ("false", "no", "f", "0")
    if by_tensorflow and scheme == "gs" and importlib.util.find_spec("tensorflow") is not None:
        # etils prefers it
        return
    try:
        fsspec.get_filesystem_class(system)
    except ImportError as error:
        raise ValueError(
            f"`{argument}` {text!r} needs the package {package!r}, which is not installed; install "
            f"it with\n  pip install 'jaxticket[{system}]'"
        ) from error


def absolute(path: str | os.PathLike[str], argument: str = "folder") -> Path:
    """Expand `~` and make a path absolute, so that changing the working directory keeps it."""
    found = to_path(path, argument)
    return found if is_url(found) else found.expanduser().absolute()


def relative(path: Path, start: Path) -> str:
    """A path as seen from a folder; the whole path where they lie in different places."""
    if not is_url(path) and not is_url(start):
        return os.path.relpath(path, start)
    one, other = str(path), str(start)
    if is_url(path) and is_url(start) and path.parts[:3] == start.parts[:3]:
        # of the same scheme and bucket
        return posixpath.relpath(one.partition("://")[2], other.partition("://")[2])
    return one


def joined(folder: Path, path: str) -> Path:
    """Invert `relative`."""
    if is_url(path) or Path(path).is_absolute():
        return absolute(path)
    if not is_url(folder):
        return (folder / path).resolve()
    scheme, _, rest = str(folder).partition("://")
    return absolute(f"{scheme}://{posixpath.normpath(posixpath.join(rest, path))}")


def children(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it is not there, as an empty one of a bucket."""
    try:
        return list(folder.iterdir())
    except FileNotFoundError:
        return []


def remove_tree(folder: Path) -> None:
    """Remove a folder and all below it, where it is there."""
    if not is_url(folder):
        shutil.rmtree(folder, ignore_errors=True)
        return
    with contextlib.suppress(FileNotFoundError):
        # a path of etils, which has this method
        folder.rmtree()  # type: ignore[attr-defined]


@contextlib.contextmanager
def on_disk(path: Path) -> Iterator[Path]:
    """Give a file for libraries that read from disk only: itself, or a copy while the block runs.

    Raises:
      OSError: where a file of a bucket cannot be read.
    """
    if not is_url(path):
        yield path
        return
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder, path.name)
        copy.write_bytes(path.read_bytes())
        yield copy


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary file that replaces `path` when the block ends without an error.

    On disk it lies in the same folder, its name cannot be guessed, its permissions follow the
    umask, and it is flushed to disk before it is renamed. If the block fails, `path` stays as it
    was. For a bucket it lies on disk and is sent whole.
    """
    if is_url(path):
        with tempfile.TemporaryDirectory() as folder:
            local = Path(folder, path.name)
            yield local
            path.write_bytes(local.read_bytes())
        return
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


def read_arrays(file: Path | bytes) -> dict[str, np.ndarray]:
    """The arrays of an .npz file, or of its bytes.

    Raises:
      Exception: of many kinds, for files that are damaged.
    """
    if isinstance(file, Path):
        # opened here, since NumPy leaves the files of damaged archives open
        with file.open("rb") as raw, np.load(raw, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    content = file if isinstance(file, bytes) else file.read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, and create its parent folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    return path
