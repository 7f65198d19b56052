"""Buckets on disk for tests, which do what object stores do and no more.

An object appears when it is complete, has no time, cannot be appended to or renamed, and folders
are there while something lies below them.
"""

import io
import os
import secrets
from pathlib import Path
from urllib.parse import quote, unquote

import pytest
from fsspec import AbstractFileSystem
from fsspec.registry import _registry

SYSTEMS = ("gcs", "s3")


class _Written(io.BytesIO):
    """What is written to an object, which is there when it is closed."""

    def __init__(self, file):
        super().__init__()
        self.file = file

    def close(self):
        if not self.closed:
            part = self.file.with_name(f".{secrets.token_hex(8)}")
            part.write_bytes(self.getvalue())
            part.replace(self.file)
        super().close()


class Buckets(AbstractFileSystem):
    """Objects are files with their names quoted, all in one folder."""

    protocol = ("gs", "gcs", "s3")
    root = Path()

    def _file(self, path):
        return self.root / quote(self._strip_protocol(path), safe="")

    def _names(self):
        return [unquote(name) for name in os.listdir(self.root) if not name.startswith(".")]

    def info(self, path, **_):
        path = self._strip_protocol(path)
        if self._file(path).exists():
            return {"name": path, "size": self._file(path).stat().st_size, "type": "file"}
        if any(name.startswith(f"{path}/") for name in self._names()):
            return {"name": path, "size": 0, "type": "directory"}
        raise FileNotFoundError(path)

    def ls(self, path, detail=True, **_):
        found = [self.info(path)]
        if found[0]["type"] == "directory":
            begin = f"{self._strip_protocol(path)}/"
            inner = {name.removeprefix(begin).partition("/")[0] for name in self._names()
                     if name.startswith(begin)}  # fmt: skip
            found = [self.info(begin + name) for name in sorted(inner)]
        return found if detail else [one["name"] for one in found]

    def _open(self, path, mode="rb", **_):
        if mode == "rb":
            return io.BytesIO(self._file(path).read_bytes())
        assert mode == "wb", f"objects are read, or written whole, not opened as {mode}"
        return _Written(self._file(path))

    def _rm(self, path):
        self._file(path).unlink(missing_ok=True)

    def mv(self, *_, **__):
        raise AssertionError("objects are not renamed")

    def mkdir(self, path, create_parents=True, **_):
        pass

    def makedirs(self, path, exist_ok=False):
        pass


def mount(root):
    """Serve gs:// and s3:// from a folder, in this process."""
    Buckets.root = Path(root)
    for system in SYSTEMS:
        _registry[system] = Buckets


def objects(below):
    """The bytes of all objects below a URL, by the rest of their name."""
    begin = below.partition("://")[2] + "/"
    return {
        name.removeprefix(begin): (Buckets.root / quote(name, safe="")).read_bytes()
        for name in sorted(Buckets()._names())
        if name.startswith(begin)
    }


@pytest.fixture
def buckets(tmp_path, monkeypatch):
    """A folder of objects behind gs:// and s3://, while the test runs."""
    root = tmp_path / "objects"
    root.mkdir()
    for system in SYSTEMS:
        monkeypatch.setitem(_registry, system, Buckets)
    monkeypatch.setattr(Buckets, "root", root)
    return root
