"""Data sets from arrays, which are checked and copied."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _check
from jaxticket.data.arrays import Data, Split, mean_and_std, read_only

_KEYS = ("x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation")


def from_arrays(
    x_train: ArrayLike,
    y_train: ArrayLike,
    x_test: ArrayLike,
    y_test: ArrayLike,
    *,
    x_validation: ArrayLike | None = None,
    y_validation: ArrayLike | None = None,
    classes: int | None = None,
    name: str = "arrays",
    normalize: bool = True,
) -> Data:
    """A data set from arrays, which are copied: changing them later changes nothing.

    Images are standardized on their way into the network: each channel c becomes
    `(x - mean[c]) / std[c]`, with the mean and the (biased) standard deviation of that channel over
    all pixels of the training split, and std 1 where a channel is constant. The other splits use
    the same numbers. Whole numbers other than uint8 are tokens: they reach the network as int32, as
    they are.

    Args:
      x_train: images [n, height, width, channels] (channels last), or [n, height, width] for one
        channel; uint8, or floating (kept as float32). Rows of features are images of one pixel,
        [n, 1, 1, features], where each feature is standardized by itself. Or tokens [n, length] of
        any other integer type, for networks made with `dtype="int32"`; with `normalize=False` of
        three and more dimensions too.
      y_train: labels [n], whole numbers in [0, classes).
      x_test: examples of the test split, shaped and typed like `x_train`.
      y_test: their labels.
      x_validation: examples of a validation split, or None.
      y_validation: their labels, or None.
      classes: number of classes; by default one more than the largest label.
      name: what tables and run folders call the data set.
      normalize: False leaves images as they are (mean 0, standard deviation 1), for arrays that
        were scaled before. Part of the fingerprint.

    Raises:
      ValueError: naming the argument that does not fit.

    Warns:
      UserWarning: for shapes that look like channels first, and, where `classes` is not given, for
        classes without a training example.

    >>> x, y = np.zeros((4, 2, 2), np.uint8), [0, 1, 2, 0]
    >>> data = from_arrays(x, y, x[:2], y[:2])
    >>> data.shape, data.classes, len(data.train)
    ((2, 2, 1), 3, 4)
    """
    if (x_validation is None) != (y_validation is None):
        given, absent = ("x", "y") if y_validation is None else ("y", "x")
        raise ValueError(f"`{given}_validation` needs `{absent}_validation`; pass both or neither")
    if not isinstance(normalize, bool):
        raise ValueError(f"`normalize` must be True or False, got {normalize!r}")
    arrays: dict[str, tuple[object, object]] = {
        "train": (x_train, y_train),
        "test": (x_test, y_test),
    }
    if x_validation is not None:
        arrays["validation"] = (x_validation, y_validation)
    splits = {}
    for split, (x, y) in arrays.items():
        examples = _examples(f"x_{split}", x, normalize=normalize)
        splits[split] = Split(examples, _labels(f"y_{split}", y, f"x_{split}", len(examples)))

    for split, part in splits.items():
        got, wanted = (f"{p.x.dtype} {p.x.shape[1:]}" for p in (part, splits["train"]))
        if got != wanted:
            raise ValueError(
                f"`x_{split}` has images of {got}, `x_train` of {wanted}; "
                "bring all splits to the same dtype and shape"
            )
    if classes is None:
        classes = _counted(splits)
    else:
        classes = _check.whole("classes", classes, 2)
    for split, part in splits.items():
        low, high = int(part.y.min()), int(part.y.max())
        if low < 0 or high >= classes:
            raise ValueError(
                f"`y_{split}` must lie in [0, {classes}), got labels from {low} to {high}; "
                "number the classes from 0, or pass `classes`"
            )
    x = splits["train"].x
    _warn_of_shape(np.shape(x_train), x)
    normalize = normalize and x.dtype != np.int32
    mean, std = mean_and_std(x) if normalize else _unchanged(x)
    return Data(
        name=name, classes=classes, **splits, mean=mean, std=std, about={"source": "arrays"},
        normalize=normalize,
    )  # fmt: skip


def from_npz(path: str | os.PathLike[str], *, name: str | None = None) -> Data:
    """A data set from an `.npz` file, as `np.savez` writes it.

    Args:
      path: file with the arrays `x_train`, `y_train`, `x_test`, `y_test`, and optionally
        `x_validation`, `y_validation`: what `from_arrays` takes. Pickled objects are refused.
      name: by default the name of the file without its ending.

    Raises:
      ValueError: if the file is missing, is not an `.npz` file, or an array is missing, unknown
        or does not fit.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"`path` is not a file: {str(path)!r}; write one with np.savez(path, x_train=..., ...)"
        )
    try:
        # opened here: np.load leaves a file open that it cannot read
        with open(path, "rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {key: file[key] for key in file.files}
    except Exception as error:  # numpy and zipfile raise many kinds for files of another format
        raise ValueError(
            f"`path` cannot be read as an .npz file of plain arrays: {str(path)!r} ({error}); "
            "write it with np.savez"
        ) from error
    missing = [key for key in _KEYS[:4] if key not in arrays]
    unknown = sorted(set(arrays) - set(_KEYS))
    if missing or unknown:
        raise ValueError(
            f"`path` {str(path)!r} must hold {', '.join(_KEYS[:4])} and may hold "
            f"{', '.join(_KEYS[4:])}; missing: {', '.join(missing) or 'none'}, "
            f"unknown: {', '.join(unknown) or 'none'}"
        )
    data = from_owned(arrays, name=name or path.stem)
    return dataclasses.replace(data, about={"source": "npz file", "file": path.name})


def from_owned(arrays: dict[str, np.ndarray], *, name: str, classes: int | None = None) -> Data:
    """Make a data set of arrays that nothing else refers to.

    They are marked as read-only, so that `from_arrays` need not copy them: loading a large set then
    takes half of the memory.

    Args:
      arrays: by the names of the arguments of `from_arrays`.
      name: as for `from_arrays`.
      classes: as for `from_arrays`.
    """
    for array in arrays.values():
        array.flags.writeable = False
    return from_arrays(
        *(arrays[key] for key in _KEYS[:4]),
        x_validation=arrays.get("x_validation"),
        y_validation=arrays.get("y_validation"),
        classes=classes,
        name=name,
    )


def _unshared(array: np.ndarray, given: object) -> np.ndarray:
    """A read-only array that no caller can change: a copy, unless it is one already."""
    at: object = array
    while isinstance(at, np.ndarray) and not at.flags.writeable:
        at = at.base
    if at is None and isinstance(given, np.ndarray):
        return array
    return read_only(np.array(array, order="C"))


def _plain(argument: str, value: object) -> np.ndarray:
    """Convert to an array; values that NumPy would have to guess about are refused."""
    if isinstance(value, np.ma.MaskedArray):
        raise ValueError(
            f"`{argument}` is a masked array, whose mask would be lost; leave out the masked "
            f"examples, or fill them with `.filled(value)`"
        )
    try:
        return np.asarray(value)
    except ValueError:
        raise ValueError(
            f"`{argument}` must be an array, got rows of different lengths; bring them to one shape"
        ) from None


def _examples(argument: str, value: object, *, normalize: bool) -> np.ndarray:
    """Check images, uint8 or float32 [n, height, width, channels], or tokens, int32 [n, ...]."""
    x = _plain(argument, value)
    tokens = x.dtype.kind in "iu" and x.dtype != np.uint8 and (x.ndim == 2 or not normalize)
    if x.ndim == 3 and not tokens:
        x = x[..., None]
    if tokens and x.ndim < 2:
        raise ValueError(f"`{argument}` must be [n, length] of tokens, got shape {x.shape}")
    if x.ndim != 4 and not tokens:
        remedy = "reshape it"
        if x.ndim == 2:
            remedy = "rows of features are x[:, None, None, :], tokens x.astype('int32')"
        raise ValueError(
            f"`{argument}` must be [n, height, width] or [n, height, width, channels], "
            f"got shape {x.shape}; {remedy}"
        )
    if x.size == 0:
        raise ValueError(f"`{argument}` is empty: shape {x.shape}; pass at least one image")
    if np.issubdtype(x.dtype, np.floating):
        with np.errstate(over="ignore"):  # what becomes infinite is reported below
            x = x.astype(np.float32, copy=False)
        bad = int(x.size - np.isfinite(x).sum())
        if bad:
            raise ValueError(
                f"`{argument}` holds {bad} values that are nan or infinite in float32; "
                "remove or replace them"
            )
    elif tokens:
        low, high = int(x.min()), int(x.max())
        if low < np.iinfo(np.int32).min or high > np.iinfo(np.int32).max:
            raise ValueError(
                f"`{argument}` holds whole numbers from {low} to {high}, which are kept as int32; "
                f"number the tokens from 0"
            )
        x = x.astype(np.int32, copy=False)
    elif x.dtype != np.uint8:
        fits = x.dtype.kind in "bui" and x.min() >= 0 and x.max() <= 255
        remedy = "convert to uint8" if fits else "convert to float32"
        if x.dtype.kind in "iu":
            remedy += " for images, or pass normalize=False for tokens"
        raise ValueError(f"`{argument}` must be uint8 or floating, got {x.dtype}; {remedy}")
    return _unshared(np.ascontiguousarray(x), value)


def _labels(argument: str, value: object, images: str, n: int) -> np.ndarray:
    """Check labels, int32 [n]."""
    y = _plain(argument, value)
    if y.ndim != 1:
        raise ValueError(
            f"`{argument}` must be one label per image, shape [n], got shape {y.shape}; "
            "turn one-hot rows into labels with argmax(axis=1), columns with reshape(-1)"
        )
    if len(y) != n:
        raise ValueError(
            f"`{argument}` has {len(y)} labels and `{images}` {n} images; pass one label per image"
        )
    if y.dtype.kind not in "ui":
        raise ValueError(f"`{argument}` must be whole numbers, got {y.dtype}; {_numbered(y)}")
    if y.max() > np.iinfo(np.int32).max or y.min() < np.iinfo(np.int32).min:
        raise ValueError(
            f"`{argument}` holds labels from {y.min()} to {y.max()}; number the classes from 0"
        )
    return _unshared(y.astype(np.int32, copy=False), value)


def _numbered(y: np.ndarray) -> str:
    """The remedy for labels of another type."""
    if y.dtype.kind in "USTO":
        return "number the names with names, y = np.unique(y, return_inverse=True)"
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all():
        return (
            "these are not classes: classification needs whole numbers, and regression is not "
            "supported"
        )
    return "convert with astype('int32')"


def _counted(splits: dict[str, Split]) -> int:
    """Count the classes: one more than the largest label.

    Raises:
      ValueError: for one class, and where there are more classes than examples.
    """
    present = np.unique(np.concatenate([part.y for part in splits.values()]))
    classes = 1 + int(present.max())
    if len(present) == 1:
        raise ValueError(
            f"`y_train` holds a single class, {int(present[0])}; pass labels of two or more classes"
        )
    n = sum(len(part) for part in splits.values())
    if classes > n:
        raise ValueError(
            f"`y_train` gives {classes:,} classes for {n:,} examples (labels up to "
            f"{classes - 1:,}); number the classes from 0, or pass `classes`"
        )
    absent = np.setdiff1d(np.arange(classes), splits["train"].y).tolist()
    if absent:
        some = f"{', '.join(map(str, absent[:8]))}{', ...' if len(absent) > 8 else ''}"
        warnings.warn(
            f"`y_train` has no example of {len(absent)} of {classes} classes ({some}); number the "
            f"classes from 0 without gaps, or pass `classes` if this is meant",
            stacklevel=3,
        )
    return classes


def _warn_of_shape(given: tuple[int, ...], x: np.ndarray) -> None:
    """Warn about images whose axes are probably in another order."""
    if x.dtype == np.int32:
        return
    height, width, channels = x.shape[1:]
    if height in (1, 3, 4) and min(width, channels) > 4:
        warnings.warn(
            f"`x_train` has images of shape {x.shape[1:]}: {height} x {width} pixels with "
            f"{channels} channels. Channels come last; if they were first, pass "
            f"np.moveaxis(x, 1, -1)",
            stacklevel=3,
        )
    elif len(given) == 3 and min(height, width) == 1 and height != width:
        warnings.warn(
            f"`x_train` of shape {given} is taken as images of {height} x {width} pixels and one "
            f"channel, standardized with one mean; rows of features are [n, 1, 1, features]",
            stacklevel=3,
        )


def _unchanged(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean 0 and standard deviation 1, which leave images as they are."""
    return np.zeros(x.shape[-1], np.float32), np.ones(x.shape[-1], np.float32)
