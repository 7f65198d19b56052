"""Data sets held in memory: their splits, divisions of the training split, and their identity."""

from __future__ import annotations

import dataclasses
import hashlib
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np

from jaxticket import _check, _show
from jaxticket.data.sampling import permutation, stratified
from jaxticket.typing import Json

About: TypeAlias = Json
"""Where data come from and how they were divided, as values that JSON can hold."""


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

    __repr__ = _show.record

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

    streamed: ClassVar[bool] = False
    """Whether examples are read from files while they are used."""

    name: str
    classes: int
    train: Split
    test: Split
    validation: Split | None = None
    mean: np.ndarray
    std: np.ndarray
    about: About = field(default_factory=dict)
    normalize: bool = True

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        kind = f"{_show.shape(self.shape)} {self.train.x.dtype}"
        return _show.data_summary(self, kind)

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
            object.__setattr__(self, name, read_only(value))
        if not (self.std > 0).all():
            raise ValueError(f"`std` must be above 0, got {self.std!r}; use 1 to leave a channel")
        if self.tokens and ((self.mean != 0).any() or (self.std != 1).any() or self.normalize):
            raise ValueError(
                f"`train` holds whole numbers ({self.train.x.dtype}), which are not standardized; "
                f"leave `mean` at 0, `std` at 1 and `normalize` at False"
            )

    def class_counts(self) -> np.ndarray | None:
        """Training examples of each class, int [classes]; None where labels are in files."""
        return np.bincount(self.train.y, minlength=self.classes)

    @property
    def tokens(self) -> bool:
        """Whether the examples are whole numbers other than pixels, which are not standardized."""
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
        """Hold out a random `round(share * n)` of the n training examples as validation split.

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


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(read_only(split.x[indices]), read_only(split.y[indices]))


def _with_train(
    data: Data,
    indices: np.ndarray,
    *,
    step: About,
    name: str | None = None,
    validation: Split | None = None,
) -> Data:
    """Keep only these training examples, and add a record of it to `about["steps"]`."""
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


def read_only(array: np.ndarray) -> np.ndarray:
    """A view that cannot be written to, since the fingerprint is computed only once."""
    view = array.view()
    view.flags.writeable = False
    return view


def _check_split(name: str, split: Split, train: Split, classes: int) -> None:
    """Raise unless a split fits the training split."""
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
    return read_only(np.array(mean, np.float32)), read_only(np.array(std, np.float32))
