"""Data sets held in memory: plain arrays, their checks, and divisions of the training split."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxticket import _check
from jaxticket.data.sampling import permutation, stratified

_KEYS = ("x_train", "y_train", "x_test", "y_test", "x_validation", "y_validation")


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Attributes:
      x: images, uint8 or float32 [n, height, width, channels], as stored: not scaled, not centered;
        or tokens, int32 [n, length, ...].
      y: int32 [n], entries in [0, classes).
    """

    x: np.ndarray
    y: np.ndarray

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A classification data set in memory, as `from_arrays` and the loaders make it.

    Networks see `(x - mean) / std` of images, and tokens as they are.

    Attributes:
      name: what tables and run folders call it.
      classes: number of classes.
      train: training split.
      test: test split.
      validation: held-out split, or None.
      mean: float32 [channels], mean of the training split in the raw units of `x`; 0 where
        `normalize` is False. Kept by `dataclasses.replace(data, train=...)`.
      std: float32 [channels], standard deviation likewise; 1 for a channel that is constant.
      about: where the data come from and how they were divided, as values that JSON can hold.
      normalize: whether divisions of the training split measure mean and standard deviation again.

    Raises:
      ValueError: naming the field that does not fit: examples of other shapes in another split,
        labels outside of [0, classes), numbers that are not finite.
    """

    name: str
    classes: int
    train: Split
    test: Split
    validation: Split | None = None
    mean: np.ndarray
    std: np.ndarray
    about: dict[str, Any] = field(default_factory=dict)
    normalize: bool = True

    def __post_init__(self) -> None:
        _check.whole("classes", self.classes, 1)
        for name, split in self.splits.items():
            _check_split(name, split, self.train, self.classes)
        for name in ("mean", "std"):
            value = np.asarray(getattr(self, name), np.float32)
            if value.shape not in ((), (1,), self.shape[-1:]) or not np.isfinite(value).all():
                raise ValueError(
                    f"`{name}` must be one finite number per channel ({self.shape[-1]}), got "
                    f"{getattr(self, name)!r}"
                )
            value = np.broadcast_to(value, self.shape[-1:]).copy()
            object.__setattr__(self, name, _read_only(value))
        if not (self.std > 0).all():
            raise ValueError(f"`std` must be above 0, got {self.std!r}; use 1 to leave a channel")
        if self.tokens and ((self.mean != 0).any() or (self.std != 1).any() or self.normalize):
            raise ValueError(
                f"`train` holds whole numbers ({self.train.x.dtype}), which are not standardized; "
                f"leave `mean` at 0, `std` at 1 and `normalize` at False"
            )

    @property
    def tokens(self) -> bool:
        """Whether the examples are whole numbers other than pixels, which no one standardizes."""
        return self.train.x.dtype == np.int32

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example: (height, width, channels), or (length, ...) of tokens."""
        return self.train.x.shape[1:]

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name, in the order "train", "validation" (if there is one), "test"."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **held_out, "test": self.test}

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of all examples and labels, the mean and the standard deviation.

        Equal on every machine for equal data that are normalized alike; the name and `about` do not
        enter.
        """
        digest = hashlib.sha256()
        arrays = {"mean": self.mean, "std": self.std}
        for name, split in self.splits.items():
            arrays |= {f"{name}.x": split.x, f"{name}.y": split.y}
        for name, array in arrays.items():
            # little-endian everywhere, so that the byte order of the machine does not enter
            fixed = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
            digest.update(f"{name} {fixed.dtype.str} {fixed.shape}".encode())
            digest.update(fixed.data)
        if not self.normalize:
            digest.update(b"not standardized")
        return digest.hexdigest()

    def with_validation(self, share: float = 0.1, *, seed: int = 0) -> Data:
        """Holds out a random `round(share * n)` of the n training examples as validation split.

        Mean and standard deviation are those of the examples that remain. Both parts keep the
        order of the training split.

        Args:
          share: share of the training split to hold out, in (0, 1).
          seed: seed of the permutation.

        Raises:
          ValueError: if there is a validation split already, or a part would be empty.

        Reference: Frankle, thesis (2023), section 3.3.6: one tenth of the training examples,
        sampled at random.
        """
        share, seed = _check.share("share", share, one=False), _check.seed("seed", seed)
        if self.validation is not None:
            raise ValueError(
                f"`share`={share!r} asks for a second validation split: {self.name!r} has one of "
                f"{len(self.validation)} examples; leave out the argument to use that one"
            )
        n = len(self.train)
        count = round(share * n)
        if not 0 < count < n:
            raise ValueError(
                f"`share`={share!r} of {n} training examples leaves an empty part "
                f"({count} held out); choose a share nearer to 0.5 or a larger data set"
            )
        order = permutation(n, seed=seed, stream="validation")
        held_out, rest = np.sort(order[:count]), np.sort(order[count:])
        step = {"step": "with_validation", "share": share, "seed": _check.seed("seed", seed)}
        return _with_train(self, rest, step=step, validation=_take(self.train, held_out))

    def halves(self, *, seed: int = 0) -> tuple[Data, Data]:
        """Two disjoint, class-balanced halves of the training split, with the same test split.

        The halves are called "NAME-a" and "NAME-b". In every class, and in total, their counts
        differ by at most one. A validation split, if there is one, goes to both.

        Args:
          seed: seed of the permutation.

        Returns:
          (a, b), each with the mean and standard deviation of its own training split.

        Raises:
          ValueError: if the training split has fewer than two examples.

        Reference: Morcos et al., "One ticket to win them all" (2019), transfer within the same
        data distribution: CIFAR-10a and CIFAR-10b, 2,500 images per class each.
        """
        n = len(self.train)
        if n < 2:
            raise ValueError(f"`halves` needs at least 2 training examples, {self.name!r} has {n}")
        first = stratified(self.train.y, n // 2, seed=seed, stream="halves")
        second = np.setdiff1d(np.arange(n), first)

        def half(letter: str, indices: np.ndarray) -> Data:
            step = {"step": "halves", "half": letter, "seed": _check.seed("seed", seed)}
            return _with_train(self, indices, step=step, name=f"{self.name}-{letter}")

        return half("a", first), half("b", second)

    def fraction(self, share: float, *, seed: int = 0) -> Data:
        """A random, class-balanced `round(share * n)` of the n training examples.

        Each class keeps its share rounded down or up, so that the total is exact. The result is
        called "NAME-SHARE"; test and validation splits stay whole.

        Args:
          share: share of the training split to keep, in (0, 1].
          seed: seed of the permutation.

        Raises:
          ValueError: if no example would remain.
        """
        share, seed = _check.share("share", share), _check.seed("seed", seed)
        n = len(self.train)
        count = round(share * n)
        if count == 0:
            raise ValueError(
                f"`share`={share!r} of {n} training examples keeps none; pass at least {1 / n:g}"
            )
        indices = stratified(self.train.y, count, seed=seed, stream="fraction")
        step = {"step": "fraction", "share": share, "seed": _check.seed("seed", seed)}
        return _with_train(self, indices, step=step, name=f"{self.name}-{share:g}")


def from_arrays(
    x_train: Any,
    y_train: Any,
    x_test: Any,
    y_test: Any,
    *,
    x_validation: Any = None,
    y_validation: Any = None,
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
        raise ValueError(
            f"`{given}_validation` was given and `{absent}_validation` was not; "
            "pass both or neither"
        )
    if not isinstance(normalize, bool):
        raise ValueError(f"`normalize` must be True or False, got {normalize!r}")
    arrays = {"train": (x_train, y_train), "test": (x_test, y_test)}
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
    data = from_arrays(**handed_over(arrays), name=name or path.stem)
    return dataclasses.replace(data, about={"source": "npz file", "file": path.name})


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(_read_only(split.x[indices]), _read_only(split.y[indices]))


def _with_train(
    data: Data,
    indices: np.ndarray,
    *,
    step: dict[str, Any],
    name: str | None = None,
    validation: Split | None = None,
) -> Data:
    """`data` with only these training examples; what was done is added to `about["steps"]`."""
    train = _take(data.train, indices)
    mean, std = mean_and_std(train.x) if data.normalize else (data.mean, data.std)
    # a digest, not the indices: 50,000 numbers would swamp the settings they are stored with
    digest = hashlib.sha256(indices.astype("<i8").tobytes()).hexdigest()[:16]
    step = {**step, "examples": len(indices), "indices_sha256": digest}
    return dataclasses.replace(
        data,
        name=data.name if name is None else name,
        train=train,
        validation=data.validation if validation is None else validation,
        mean=mean,
        std=std,
        about={**data.about, "steps": [*data.about.get("steps", []), step]},
    )


def _read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to: the fingerprint is computed once."""
    view = array.view()
    view.flags.writeable = False
    return view


def handed_over(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays that nobody else holds, marked as read-only, which `from_arrays` then need not copy.

    They keep half of the memory that a large set takes while it is loaded.
    """
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _own(array: np.ndarray, given: Any) -> np.ndarray:
    """A read-only array that nobody can change: a copy, unless it is one already."""
    at: Any = array
    while isinstance(at, np.ndarray) and not at.flags.writeable:
        at = at.base
    if at is None and isinstance(given, np.ndarray):
        return array
    return _read_only(np.array(array, order="C"))


def _plain(argument: str, value: Any) -> np.ndarray:
    """The value as an array; what NumPy would have to guess is refused."""
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


def _examples(argument: str, value: Any, *, normalize: bool) -> np.ndarray:
    """Checked images, uint8 or float32 [n, height, width, channels], or tokens, int32 [n, ...]."""
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
    return _own(np.ascontiguousarray(x), value)


def _labels(argument: str, value: Any, images: str, n: int) -> np.ndarray:
    """Checked labels: int32 [n]."""
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
    return _own(y.astype(np.int32, copy=False), value)


def _numbered(y: np.ndarray) -> str:
    """How labels of another type become whole numbers."""
    if y.dtype.kind in "USTO":
        return "number the names with names, y = np.unique(y, return_inverse=True)"
    if y.dtype.kind == "f" and not (np.isfinite(y) & (y == np.rint(y))).all():
        return (
            "these are no classes: classification needs whole numbers, and regression is not "
            "supported"
        )
    return "convert with astype('int32')"


def _counted(splits: dict[str, Split]) -> int:
    """The number of classes, one more than the largest label.

    Raises:
      ValueError: for one class, and where there are more classes than examples.
    """
    present = np.unique(np.concatenate([part.y for part in splits.values()]))
    classes = 1 + int(present.max())
    if len(present) == 1:
        raise ValueError(
            f"`y_train` holds one class, {int(present[0])}: there is nothing to tell apart; pass "
            f"labels of two classes or more"
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
    """Warns of images whose axes are probably in another order."""
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


def _check_split(name: str, split: Split, train: Split, classes: int) -> None:
    """Raises unless a split can stand beside the training split."""
    x, y = split.x, split.y
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)) or y.dtype != np.int32:
        raise ValueError(
            f"`{name}` must hold NumPy arrays, its labels int32; make it with from_arrays"
        )
    if x.dtype not in (np.uint8, np.float32, np.int32) or (x.dtype, x.shape[1:]) != (
        train.x.dtype, train.x.shape[1:],
    ):  # fmt: skip
        raise ValueError(
            f"`{name}` has examples of {x.dtype} {x.shape[1:]}, `train` of {train.x.dtype} "
            f"{train.x.shape[1:]}; all splits are uint8, float32 or int32, of one shape"
        )
    if y.shape != x.shape[:1] or len(y) == 0:
        raise ValueError(
            f"`{name}` has {len(x)} examples and labels of shape {y.shape}; pass one per example"
        )
    if x.dtype == np.float32 and not np.isfinite(x).all():
        raise ValueError(f"`{name}` holds values that are nan or infinite; remove or replace them")
    low, high = int(y.min()), int(y.max())
    if low < 0 or high >= classes:
        raise ValueError(
            f"`{name}` has labels from {low} to {high}, which must lie in [0, {classes}); number "
            f"the classes from 0, or change `classes` too"
        )


def _unchanged(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean and standard deviation that change nothing."""
    return np.zeros(x.shape[-1], np.float32), np.ones(x.shape[-1], np.float32)


def mean_and_std(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 [channels].

    With d = x - x[0, 0, 0]: mean = x[0, 0, 0] + E[d], std = sqrt(E[d^2] - E[d]^2). For uint8 all
    sums are whole numbers, so the result is the same on every machine.
    """
    channels = x.shape[-1]
    wide = np.int64 if x.dtype == np.uint8 else np.float64
    origin = x[0, 0, 0].astype(wide)
    first = np.zeros(channels, wide)
    second = np.zeros(channels, wide)
    # about 8 MB at a time, so that the wide copy of a large data set never exists
    at_once = max(1, 2**20 // x[0].size)
    for start in range(0, len(x), at_once):
        d = x[start : start + at_once].astype(wide) - origin
        first += d.sum(axis=0).sum(axis=(0, 1))
        second += np.square(d, out=d).sum(axis=0).sum(axis=(0, 1))
    n = x.size // channels
    mean, std = [], []
    # python numbers: n * sum(d^2) passes 64 bits for large data sets
    for o, a, b in zip(origin.tolist(), first.tolist(), second.tolist(), strict=True):
        mean.append(o + a / n)
        variance = (n * b - a * a) / n**2
        std.append(variance**0.5 if variance > 0 else 1.0)
    return _read_only(np.array(mean, np.float32)), _read_only(np.array(std, np.float32))
