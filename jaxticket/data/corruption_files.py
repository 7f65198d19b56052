"""Corrupted images that were prepared: CIFAR-10-C and CIFAR-100-C.

They are read from the sets of TensorFlow Datasets, "cifar10_corrupted/fog_3", or from the published
folders, CIFAR-10-C and CIFAR-100-C: a file `fog.npy` with five severities one after the other, each
of all test images, and `labels.npy`.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from jaxticket.data.arrays import Data
from jaxticket.data.corruptions import SEVERITIES
from jaxticket.data.sampling import spread
from jaxticket.data.tfds import MissingDataError, folders, read_split

PUBLISHED = {"cifar10": "CIFAR-10-C", "cifar100": "CIFAR-100-C"}
"""The folders of published files, by the data set that they are made of."""
# names that TensorFlow Datasets has changed
_RENAMED = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic"}


def prepared(
    data: Data,
    name: str,
    severity: int,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    examples: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read corrupted test images that were prepared.

    Args:
      data: the data set that they are made of, such as `jt.data.load("cifar10")`.
      name: a name in `jt.data.CORRUPTIONS`.
      severity: 1 to 5.
      data_dir: the only folder to be searched; by default those of `jt.data.load_tfds`.
      examples: at most so many, evenly spread; None for all.

    Returns:
      Images and labels [n, ...].

    Raises:
      MissingDataError: where they are not prepared.
      ValueError: where they are not of the shape, type and classes of `data`.
    """
    of = of_data(data)
    found = _published(of, name, severity, data_dir, examples)
    if found is None:
        label = f"{of}_corrupted/{_RENAMED.get(name, name)}_{severity}"
        try:
            found = read_split(label, "test", data_dir=data_dir, examples=examples)
        except MissingDataError as error:
            raise MissingDataError(_missing(error, of)) from error
    x, y = found
    if x.shape[1:] != data.shape or x.dtype != data.train.x.dtype:
        raise ValueError(
            f"`data` {data.name!r} has examples of {data.train.x.dtype} {data.shape}, its prepared "
            f"corruptions of {x.dtype} {x.shape[1:]}; compute them with source='computed'"
        )
    if y.min() < 0 or y.max() >= data.classes:
        raise ValueError(
            f"`data` {data.name!r} has {data.classes} classes, its prepared corruptions labels "
            f"from {y.min()} to {y.max()}; compute them with source='computed'"
        )
    return x, y


def of_data(data: Data) -> str:
    """The name of the data set that prepared corruptions go by: that of TensorFlow Datasets."""
    return str(data.about.get("builder", data.name))


def _published(
    of: str,
    name: str,
    severity: int,
    data_dir: str | os.PathLike[str] | None,
    examples: int | None,
) -> tuple[np.ndarray, np.ndarray] | None:
    """Read a part of a published file, if there is one."""
    folder = PUBLISHED.get(of)
    homes = [] if folder is None else [root / folder for root in folders(data_dir)]
    home = next((one for one in homes if (one / f"{name}.npy").is_file()), None)
    if home is None:
        return None
    x, y = _array(home / f"{name}.npy"), _array(home / "labels.npy")
    count = len(x) // len(SEVERITIES)
    if x.ndim != 4 or len(x) == 0 or len(x) != count * len(SEVERITIES) or y.shape != (len(x),):
        raise ValueError(
            f"`data_dir`: {home} must have as many labels as images, five times all test images; "
            f"{name}.npy has the shape {x.shape}, labels.npy {y.shape}; download them again"
        )
    chosen = (severity - 1) * count + spread(count, examples)
    return x[chosen], y[chosen].astype(np.int32)


def _array(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(
            f"`data_dir`: {path} cannot be read ({type(error).__name__}: {error}); download it "
            "again"
        ) from error


def _missing(error: MissingDataError, of: str) -> str:
    published = PUBLISHED.get(of)
    if published is None:
        return (
            f"`source`='prepared' has no corruptions of {of!r}, only of "
            f"{' and '.join(map(repr, PUBLISHED))}; compute them with source='computed'.\n{error}"
        )
    return (
        f"`source`='prepared' needs the corruptions of {of!r}: all sets {of}_corrupted/... of "
        f"TensorFlow Datasets in array_record files, or the published folder {published} (fog.npy, "
        f"..., labels.npy). Compute them otherwise with source='computed'.\n{error}"
    )
