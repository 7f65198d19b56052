"""Where a stream reads: splits of encoded images with their labels, read by number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np


class StreamError(ValueError):
    """A stream ends early, or one of its records cannot be read or decoded."""


class Records(Protocol):
    """The encoded images of one split.

    `read` returns (encoded bytes, label) of each number asked for; `called` names a record in
    errors. Both are called from several threads at once.
    """

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]: ...

    def called(self, number: int) -> str: ...


class Opened(NamedTuple):
    """A data set that can be streamed.

    Attributes:
      name: what tables call it.
      splits: "train", "test" and perhaps "validation".
      classes: number of classes.
      channels: 1 or 3.
      about: where the data come from, as values that JSON can hold.
      identity: what tells the files from others, as values that JSON can hold.
    """

    name: str
    splits: dict[str, Records]
    classes: int
    channels: int
    about: dict[str, Any]
    identity: dict[str, Any]


class TableRecords:
    """Records of a source that gives rows {"image": bytes, "label": int}.

    Args:
      source: has `__getitem__` and `__getitems__`.
      count: number of records that the data set says it has.
      where: the split and the folder, for errors.
    """

    def __init__(self, source: Any, count: int, where: str) -> None:
        self.source, self.count, self.where = source, count, where

    def __len__(self) -> int:
        """Number of records."""
        return self.count

    def called(self, number: int) -> str:
        """ "record 17 of split 'train' of FOLDER"."""
        return f"record {number} of {self.where}"

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """The rows of these numbers."""
        try:
            rows = self.source.__getitems__([int(n) for n in numbers])
        except Exception:  # array_record raises many kinds for damaged files
            # once more, one by one, to know which it is
            rows = [self._row(int(n)) for n in numbers]
        return [(row["image"], int(row["label"])) for row in rows]

    def _row(self, number: int) -> Any:
        try:
            return self.source[number]
        except Exception as error:
            raise StreamError(
                f"`name`: {self.called(number)} cannot be read, the files are damaged or end "
                f"before the {self.count} records they should hold "
                f"({type(error).__name__}: {error}); prepare the set again"
            ) from error


class FileRecords:
    """Image files and their labels."""

    def __init__(self, files: Sequence[tuple[Path, int]]) -> None:
        self.files = files

    def __len__(self) -> int:
        """Number of files."""
        return len(self.files)

    def called(self, number: int) -> str:
        """The path of the file."""
        return repr(str(self.files[number][0]))

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """The contents of these files."""
        found = []
        for number in numbers:
            path, label = self.files[number]
            try:
                found.append((path.read_bytes(), label))
            except OSError as error:
                raise StreamError(
                    f"`name`: {self.called(number)} cannot be read ({error}); "
                    "the folder has changed since the stream was opened"
                ) from error
        return found


def open_files(
    path: Path, divided: Callable[[Path], tuple[list[str], dict[str, list[tuple[Path, int]]]]]
) -> Opened:
    """A folder of image files as a stream; images become RGB.

    Args:
      path: the folder.
      divided: gives the class names and the (file, label) pairs of each split.
    """
    names, pairs = divided(path)
    digest = hashlib.sha256()
    for split, files in pairs.items():
        for file, label in files:
            size = file.stat().st_size
            digest.update(f"{split} {file.relative_to(path)} {size} {label}\n".encode())
    return Opened(
        path.resolve().name,
        {split: FileRecords(files) for split, files in pairs.items()},
        len(names),
        3,
        {"source": "image folder", "classes": names},
        {"files_sha256": digest.hexdigest()},
    )


class Rows:
    """Some of the records of a split.

    Args:
      records: the split.
      numbers: int64, those that are taken, in order.
    """

    def __init__(self, records: Records, numbers: np.ndarray) -> None:
        self.records, self.numbers = records, numbers

    def __len__(self) -> int:
        """How many are taken."""
        return len(self.numbers)

    def called(self, number: int) -> str:
        """As the split calls it."""
        return self.records.called(int(self.numbers[number]))

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """The records at these places."""
        return self.records.read([int(self.numbers[n]) for n in numbers])
