"""Sources of a stream: splits of encoded images with their labels, read by number."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from jaxticket.data.arrays import About

Row = Mapping[str, Any]
"""An example of a prepared set: "image", encoded bytes or pixels, and "label"."""


class StreamError(ValueError):
    """A stream ends early, or one of its records cannot be read or decoded."""


class Records(Protocol):
    """The encoded images of one split; its methods are called from several threads at once."""

    def __len__(self) -> int: ...

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """Read (encoded bytes, label) of each of these records."""
        ...

    def called(self, number: int) -> str:
        """Name a record, for errors."""
        ...


class Table(Protocol):
    """Rows that are read by number, as TFDS and Grain define them."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Row: ...

    def __getitems__(self, numbers: Sequence[int], /) -> Sequence[Row]: ...


class Opened(NamedTuple):
    """A data set that can be streamed.

    Attributes:
      name: what tables call it.
      splits: "train", "test" and perhaps "validation".
      classes: number of classes.
      channels: 1 or 3.
      about: where the data come from, as values that JSON can hold.
      identity: what identifies the files, as values that JSON can hold.
    """

    name: str
    splits: dict[str, Records]
    classes: int
    channels: int
    about: About
    identity: About


class TableRecords:
    """Records of a table with rows {"image": bytes, "label": int}.

    Args:
      source: the table.
      count: number of records that the data set says it has.
      where: the split and the folder, for errors.
    """

    def __init__(self, source: Table, count: int, where: str) -> None:
        self.source, self.count, self.where = source, count, where

    def __len__(self) -> int:
        """Number of records."""
        return self.count

    def called(self, number: int) -> str:
        """Name a record, as "record 17 of split 'train' of FOLDER"."""
        return f"record {number} of {self.where}"

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """Read the rows of these numbers."""
        try:
            rows = self.source.__getitems__([int(n) for n in numbers])
        except Exception:  # array_record raises many kinds for damaged files
            # again, one by one, to find the damaged one
            rows = [self._row(int(n)) for n in numbers]
        return [(row["image"], int(row["label"])) for row in rows]

    def _row(self, number: int) -> Row:
        try:
            return self.source[number]
        except Exception as error:  # array_record raises many kinds for damaged files
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
        """Give the path of the file."""
        return repr(str(self.files[number][0]))

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """Read the contents of these files."""
        contents = []
        for number in numbers:
            path, label = self.files[number]
            try:
                contents.append((path.read_bytes(), label))
            except OSError as error:
                raise StreamError(
                    f"`name`: {self.called(number)} cannot be read ({error}); "
                    "the folder has changed since the stream was opened"
                ) from error
        return contents


def open_files(
    path: Path, divided: Callable[[Path], tuple[list[str], dict[str, list[tuple[Path, int]]]]]
) -> Opened:
    """Open a folder of image files as a stream; images become RGB.

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
        """Number of records that are taken."""
        return len(self.numbers)

    def called(self, number: int) -> str:
        """Name a record as the split does."""
        return self.records.called(int(self.numbers[number]))

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """Read the records at these places."""
        return self.records.read([int(self.numbers[n]) for n in numbers])
