"""Data sets from arrays, which are checked and copied."""

from __future__ import annotations

import dataclasses
import os
import warnings
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _check
from jaxticket.data.arrays import ENTRIES, Data, Split, check_split, mean_and_std, read_only
from jaxticket.labels import KINDS

_KEYS = ("x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation")


def from_arrays(
    x_train: ArrayLike | None = None,
    y_train: ArrayLike | None = None,
    x_test: ArrayLike | None = None,
    y_test: ArrayLike | None = None,
    *,
    x_validation: ArrayLike | None = None,
    y_validation: ArrayLike | None = None,
    splits: Mapping[str, tuple[ArrayLike, ArrayLike]] | None = None,
    classes: int | None = None,
    labels: str | None = None,
    name: str = "arrays",
    normalize: bool | str = True,
    images: bool = True,
) -> Data:
    """A data set from arrays, which are copied: changing them later changes nothing.

    Images are standardized on their way into the network: each channel c becomes
    `(x - mean[c]) / std[c]`, with the mean and the (biased) standard deviation of that channel over
    all pixels of the training split, and std 1 where a channel is constant. The other splits use
    the same numbers. Whole numbers other than uint8 are tokens: they reach the network as int32, as
    they are.

    Args:
      x_train: images [n, height, width, channels] (channels last), or [n, height, width] for one
        channel; uint8, or floating (kept as float32). Rows of features, floating [n, features],
        where each feature is standardized by itself. Or tokens [n, length] of any integer type
        other than uint8, for networks made with `dtype="int32"`; with `normalize=False` of three
        and more dimensions too. For other arrays see `images`.
      y_train: classes [n], whole numbers in [0, classes); numbers to predict, floating [n] or
        [n, k]; several labels for each example, 0 or 1 [n, classes]; or tokens [n, length] that
        each place predicts, -1 for those that do not count (see docs/guides/tasks.md).
      x_test: examples of the test split, shaped and typed like `x_train`.
      y_test: their labels.
      x_validation: examples of a validation split, or None.
      y_validation: their labels, or None.
      splits: in place of the arrays above, (examples, labels) by the name of the split: "train" and
        "test", "validation" where there is one, and any others, such as "corrupted", which are
        evaluated as the test split is and have rows in tables under their names.
      classes: number of classes, of labels, or of tokens; by default one more than the largest one.
      labels: "classes", "numbers", "multilabel" or "tokens"; None where type and shape say it.
      name: what tables and run folders call the data set.
      normalize: False leaves images as they are (mean 0, standard deviation 1), for arrays that
        were scaled before. "entries" standardizes each entry of an example by itself, such as each
        pixel. Part of the fingerprint.
      images: False for arrays that are no images, such as sound [n, time, channels]: they keep
        their shape [n, ..., channels].

    Raises:
      ValueError: naming the argument that does not fit.

    Warns:
      UserWarning: for shapes that look like channels first, and, where `classes` is not given, for
        classes without a training example.

    >>> x, y = np.zeros((4, 2, 2), np.uint8), [0, 1, 2, 0]
    >>> data = from_arrays(x, y, x[:2], y[:2])
    >>> data.shape, data.classes, len(data.train)
    ((2, 2, 1), 3, 4)

    >>> x, y = np.eye(4, 3), [0.1, 0.4, 0.2, 0.3]
    >>> data = from_arrays(splits={"train": (x, y), "test": (x, y), "far": (10 * x, y)})
    >>> data.shape, data.labels.kind, list(data.splits)
    ((3,), 'numbers', ['train', 'test', 'far'])
    """
    if (x_validation is None) != (y_validation is None):
        given, absent = ("x", "y") if y_validation is None else ("y", "x")
        raise ValueError(f"`{given}_validation` needs `{absent}_validation`; pass both or neither")
    if not isinstance(normalize, bool) and normalize != ENTRIES:
        raise ValueError(f"`normalize` must be True, False or {ENTRIES!r}, got {normalize!r}")
    _check.flag("images", images)
    if labels is not None:
        _check.one_of("labels", labels, KINDS)
    single: dict[str, ArrayLike | None] = dict(
        zip(_KEYS, (x_train, y_train, x_test, y_test, x_validation, y_validation), strict=True)
    )
    arrays = _by_split(single, splits)
    found, kind = {}, labels
    for split, (x, y) in arrays.items():
        x_name, y_name = f"x_{split}", f"y_{split}"
        if splits is not None:
            x_name, y_name = f"splits[{split!r}][0]", f"splits[{split!r}][1]"
        examples = _examples(x_name, x, normalize=bool(normalize), images=images)
        y = _plain(y_name, y)
        if kind is None:
            # of the first split, "train"
            kind = _kind(y_name, y, examples)
        found[split] = Split(examples, _labels(y_name, y, x_name, len(examples), kind))

    for split, part in found.items():
        got, wanted = (f"{p.x.dtype} {p.x.shape[1:]}" for p in (part, found["train"]))
        if got != wanted:
            raise ValueError(
                f"`x_{split}` has images of {got}, `x_train` of {wanted}; "
                "bring all splits to the same dtype and shape"
            )
        got, wanted = (p.y.shape[1:] for p in (part, found["train"]))
        if got != wanted:
            raise ValueError(
                f"`y_{split}` has labels of shape {got}, `y_train` of {wanted}; "
                "bring all splits to one shape"
            )
    if classes is not None:
        classes = _check.whole("classes", classes, 2 if kind == "classes" else 1)
    if kind == "classes":
        classes = _counted(found) if classes is None else classes
    else:
        classes = _outputs(found, str(kind), classes)
    low = -1 if kind == "tokens" else 0
    for split, part in found.items():
        if kind == "numbers":
            break
        least, high = int(part.y.min()), int(part.y.max())
        if least < low or high >= max(classes, 2):
            raise ValueError(
                f"`y_{split}` must lie in [{low}, {classes}), got labels from {least} to {high}; "
                "number the classes from 0, or pass `classes`"
            )
    x = found["train"].x
    if images and x.ndim == 4:
        _warn_of_shape(np.shape(arrays["train"][0]), x)
    normalize = False if x.dtype == np.int32 else normalize
    mean, std = _unchanged(x)
    if normalize:
        mean, std = mean_and_std(x, entries=normalize == ENTRIES)
    return Data(
        name=name, classes=classes, train=found.pop("train"), test=found.pop("test"),
        validation=found.pop("validation", None), more=found, mean=mean, std=std,
        about={"source": "arrays"}, normalize=normalize,
    )  # fmt: skip


def _by_split(
    single: Mapping[str, ArrayLike | None],
    splits: Mapping[str, tuple[ArrayLike, ArrayLike]] | None,
) -> dict[str, tuple[ArrayLike, ArrayLike]]:
    """(examples, labels) by split, "train" first."""
    given = [key for key, value in single.items() if value is not None]
    if splits is None:
        if missing := [key for key in _KEYS[:4] if key not in given]:
            raise ValueError(
                f"`{missing[0]}` is missing; pass x_train, y_train, x_test and y_test, or `splits`"
            )
        names = [name for name in ("train", "test", "validation") if f"x_{name}" in given]
        return {
            name: (x, y)
            for name in names
            if (x := single[f"x_{name}"]) is not None and (y := single[f"y_{name}"]) is not None
        }
    if given:
        raise ValueError(f"`splits` and `{given[0]}` are given together; leave one of them out")
    for name, pair in splits.items():
        if not isinstance(name, str) or not isinstance(pair, (tuple, list)) or len(pair) != 2:
            raise ValueError(
                f"`splits` must be (examples, labels) by name, got {_check.shown(pair)} as {name!r}"
            )
    if missing := [name for name in ("train", "test") if name not in splits]:
        raise ValueError(
            f"`splits` has no {missing[0]!r}; it has {', '.join(splits) or 'none'}: call one of "
            f"them so, or add it"
        )
    first = ["train", "test", *(["validation"] if "validation" in splits else [])]
    rest = [name for name in splits if name not in first]
    return {name: (splits[name][0], splits[name][1]) for name in (*first, *rest)}


def _kind(argument: str, y: np.ndarray, x: np.ndarray) -> str:
    """The kind of labels, of what type and shape say."""
    whole = y.dtype.kind in "iu"
    if y.ndim == 1:
        if whole:
            return "classes"
        if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all():
            return "numbers"
        raise ValueError(f"`{argument}` must be whole numbers, got {y.dtype}; {_numbered(y)}")
    if whole and x.dtype == np.int32 and y.shape == x.shape:
        return "tokens"
    binary = y.ndim == 2 and y.size and y.dtype.kind in "biuf" and bool(((y == 0) | (y == 1)).all())
    if y.ndim == 2 and y.dtype.kind == "f" and not binary:
        return "numbers"
    if binary and y.shape[1] > 1 and (y.sum(axis=1) != 1).any():
        return "multilabel"
    raise ValueError(
        f"`{argument}` must be one label per image, shape [n], got shape {y.shape}; "
        "turn one-hot rows into labels with argmax(axis=1), columns with reshape(-1), or say what "
        "they are with `labels`, such as labels='multilabel'"
    )


def _outputs(splits: dict[str, Split], kind: str, classes: int | None) -> int:
    """The number of logits for labels that are not classes."""
    y = splits["train"].y
    if kind == "tokens":
        if classes is not None:
            return classes
        parts = [a for p in splits.values() for a in (p.x, p.y) if a.dtype == np.int32]
        return 1 + max(int(part.max()) for part in parts)
    count = y.shape[-1] if y.ndim > 1 else 1
    if classes not in (None, count):
        raise ValueError(
            f"`classes` {classes} are not the {count} of labels of shape {y.shape}; leave it out"
        )
    return count


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


def split_like(x: object, y: object, like: Data, argument: str, *, images: bool = True) -> Split:
    """Examples and labels of the type and shape of a data set, copied.

    Args:
      x: examples [n, ...].
      y: their labels [n, ...].
      like: the data set.
      argument: what errors call them.
      images: as of `from_arrays`.

    Raises:
      ValueError: for examples and labels that do not fit.
    """
    at = f"{argument}[0]", f"{argument}[1]"
    examples = _examples(at[0], x, normalize=bool(like.normalize), images=images)
    labels = _labels(at[1], _plain(at[1], y), at[0], len(examples), like.labels.kind)
    split = Split(examples, labels)
    check_split(argument, split, like.train, like.classes)
    return split


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


def _examples(argument: str, value: object, *, normalize: bool, images: bool) -> np.ndarray:
    """Check examples: uint8 or float32 [n, ..., channels], or tokens, int32 [n, ...]."""
    x = _plain(argument, value)
    tokens = x.dtype.kind in "iu" and x.dtype != np.uint8 and (x.ndim == 2 or not normalize)
    rows = x.ndim == 2 and x.dtype.kind == "f"
    if x.ndim == 3 and not tokens and images:
        x = x[..., None]
    if (tokens or not images) and x.ndim < 2:
        raise ValueError(
            f"`{argument}` must be [n, length] of tokens or [n, ..., channels], got shape {x.shape}"
        )
    if x.ndim != 4 and not tokens and not rows and images:
        remedy = "reshape it, or pass images=False for other arrays [n, ..., channels]"
        if x.ndim == 2:
            remedy = "rows of features are x.astype('float32'), tokens x.astype('int32')"
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


def _labels(argument: str, y: np.ndarray, images: str, n: int, kind: str) -> np.ndarray:
    """Check labels of a kind, and give them their type."""
    if y.ndim == 0 or (y.ndim != 1 and kind == "classes"):
        raise ValueError(
            f"`{argument}` must be one label per image, shape [n], got shape {y.shape}; "
            "turn one-hot rows into labels with argmax(axis=1), columns with reshape(-1)"
        )
    if len(y) != n:
        raise ValueError(
            f"`{argument}` has {len(y)} labels and `{images}` {n} images; pass one label per image"
        )
    if kind == "numbers":
        if y.dtype.kind not in "iuf":
            raise ValueError(f"`{argument}` must be numbers, got {y.dtype}; convert them")
        with np.errstate(over="ignore"):  # what becomes infinite is reported below
            found = y.astype(np.float32, copy=False)
        if bad := int(found.size - np.isfinite(found).sum()):
            raise ValueError(
                f"`{argument}` holds {bad} values that are nan or infinite in float32; "
                "remove the examples"
            )
        return _unshared(found, y)
    if kind == "multilabel":
        if y.ndim != 2 or y.dtype.kind not in "biuf" or not ((y == 0) | (y == 1)).all():
            raise ValueError(
                f"`{argument}` must be 0 or 1 for each example and label, [n, classes], got "
                f"{y.dtype} of shape {y.shape}"
            )
        return read_only(y.astype(np.int8))
    if y.dtype.kind not in "ui":
        raise ValueError(f"`{argument}` must be whole numbers, got {y.dtype}; {_numbered(y)}")
    if kind == "tokens" and y.ndim < 2:
        raise ValueError(
            f"`{argument}` must be tokens [n, length], got shape {y.shape}; leave `labels` out for "
            f"one class per example"
        )
    if y.max() > np.iinfo(np.int32).max or y.min() < np.iinfo(np.int32).min:
        raise ValueError(
            f"`{argument}` holds labels from {y.min()} to {y.max()}; number the classes from 0"
        )
    return _unshared(y.astype(np.int32, copy=False), y)


def _numbered(y: np.ndarray) -> str:
    """The remedy for labels of another type."""
    if y.dtype.kind in "USTO":
        return "number the names with names, y = np.unique(y, return_inverse=True)"
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all():
        return "these are not classes: pass labels='numbers' for regression"
    return "convert classes with astype('int32'), or pass labels='numbers' for regression"


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
