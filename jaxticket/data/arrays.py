"""Data sets held in memory: their splits, divisions of the training split, and their identity."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import ClassVar, TypeAlias

import numpy as np

from jaxticket import _check, _show
from jaxticket.data.sampling import permutation, stratified
from jaxticket.labels import Labels, labels_of, living
from jaxticket.typing import Json

About: TypeAlias = Json
"""Where data come from and how they were divided, as values that JSON can hold."""


ENTRIES = "entries"
"""`Data.normalize` of data whose entries are standardized each by itself."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples and their labels.

    Attributes:
      x: images, uint8 or float32 [n, height, width, channels], as stored: not scaled, not centered;
        rows of features [n, features] and other arrays, whose last axis holds channels; or tokens,
        int32 [n, length, ...].
      y: labels (see docs/guides/tasks.md): int32 [n] in [0, classes), int8 [n, classes] of 0
        and 1, tokens int32 [n, ...] in [0, classes) or -1, or numbers float32 [n] or [n, k].
    """

    x: np.ndarray
    y: np.ndarray

    __repr__ = _show.record

    def __len__(self) -> int:
        return len(self.y)


@dataclass(frozen=True, eq=False, kw_only=True)
class Data:
    """A data set in memory, as `from_arrays` and the loaders make it.

    Networks see `(x - mean) / std` of images, and tokens as they are.

    Attributes:
      name: what tables and run folders call it.
      classes: number of logits that a network needs for each label: that of the classes, of the
        labels of "multilabel", of the tokens, or of the numbers to predict.
      train: training split.
      test: test split.
      validation: held-out split, or None.
      more: further splits by name, which are evaluated as the test split is.
      mean: float32 [channels], or of the shape of an example, mean of the training split in the
        raw units of `x`; 0 where `normalize` is False. Kept by
        `dataclasses.replace(data, train=...)`.
      std: float32, like `mean`: standard deviation likewise; 1 for a channel that is constant.
      about: where the data come from and how they were divided, as values that JSON can hold.
      normalize: whether divisions of the training split measure mean and standard deviation again:
        True for those of the channels, "entries" for those of each entry of an example.

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
    normalize: bool | str = True
    more: Mapping[str, Split] = field(default_factory=dict)

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        kind = f"{_show.shape(self.shape)} {self.train.x.dtype}"
        return _show.data_summary(self, kind)

    def __post_init__(self) -> None:
        _check.whole("classes", self.classes, 1)
        if taken := sorted(set(self.more) & {"train", "validation", "test"}):
            raise ValueError(f"`more` has the split {taken[0]!r}, which has a field; use that")
        for name, split in self.splits.items():
            check_split(name, split, self.train, self.classes)
        for name in ("mean", "std"):
            value = np.asarray(getattr(self, name), np.float32)
            known = value.shape in ((), (1,), self.shape[-1:], self.shape)
            if not known or not np.isfinite(value).all():
                raise ValueError(
                    f"`{name}` must be one finite number per channel ({self.shape[-1]}), or of the "
                    f"shape of an example, got {getattr(self, name)!r}"
                )
            shape = self.shape if value.ndim > 1 else self.shape[-1:]
            value = np.broadcast_to(value, shape).copy()
            object.__setattr__(self, name, read_only(value))
        if not (self.std > 0).all():
            raise ValueError(f"`std` must be above 0, got {self.std!r}; use 1 to leave a channel")
        if self.tokens and ((self.mean != 0).any() or (self.std != 1).any() or self.normalize):
            raise ValueError(
                f"`train` holds whole numbers ({self.train.x.dtype}), which are not standardized; "
                f"leave `mean` at 0, `std` at 1 and `normalize` at False"
            )

    @property
    def labels(self) -> Labels:
        """Shape and type of the label of one example."""
        return labels_of(self.train.y)

    def class_counts(self) -> np.ndarray | None:
        """Training examples of each class, int [classes]; None without classes or in files."""
        if self.labels.kind != "classes":
            return None
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
        """The splits by name: "train", "validation" (if there is one), "test", and the others."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **held_out, "test": self.test, **self.more}

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
        elif self.normalize == ENTRIES:
            digest.update(b"standardized by entry")
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
        """Two disjoint halves of the training split, with the same test split.

        The halves are called "NAME-a" and "NAME-b". In total, and in every class where labels
        are classes, their counts differ by at most one. A validation split, if there is one, goes
        to both.

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
        first = self._drawn(n // 2, seed=seed, stream="halves")
        second = np.setdiff1d(np.arange(n), first)

        def half(letter: str, indices: np.ndarray) -> Data:
            step = {"step": "halves", "half": letter, "seed": _check.seed("seed", seed)}
            return _with_train(self, indices, step=step, name=f"{self.name}-{letter}")

        return half("a", first), half("b", second)

    def fraction(self, share: float, *, seed: int = 0) -> Data:
        """A random `round(share * n)` of the n training examples.

        Each class, where labels are classes, keeps its share rounded down or up, so that the total
        is exact. The result is
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
        indices = self._drawn(count, seed=seed, stream="fraction")
        step = {"step": "fraction", "share": share, "seed": _check.seed("seed", seed)}
        return _with_train(self, indices, step=step, name=f"{self.name}-{share:g}")

    def _drawn(self, count: int, *, seed: int, stream: str) -> np.ndarray:
        """Numbers of so many training examples, sorted; every class keeps its share."""
        if self.labels.kind == "classes":
            return stratified(self.train.y, count, seed=seed, stream=stream)
        return np.sort(permutation(len(self.train), seed=seed, stream=stream)[:count])


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
    mean, std = data.mean, data.std
    if data.normalize:
        mean, std = mean_and_std(train.x, entries=data.normalize == ENTRIES)
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


def check_split(name: str, split: Split, train: Split, classes: int) -> None:
    """Raise unless a split fits the training split."""
    x, y = split.x, split.y
    kinds = (np.int32, np.int8, np.float32)
    if not (isinstance(x, np.ndarray) and isinstance(y, np.ndarray)) or y.dtype not in kinds:
        raise ValueError(
            f"`{name}` must hold NumPy arrays, its labels int32, int8 or float32; make it with "
            f"from_arrays"
        )
    own, wanted = labels_of(y), labels_of(train.y)
    if x.dtype not in (np.uint8, np.float32, np.int32) or (x.dtype, x.shape[1:]) != (
        train.x.dtype, train.x.shape[1:],
    ):  # fmt: skip
        raise ValueError(
            f"`{name}` has examples of {x.dtype} {x.shape[1:]}, `train` of {train.x.dtype} "
            f"{train.x.shape[1:]}; all splits are uint8, float32 or int32, of one shape"
        )
    if y.shape[:1] != x.shape[:1] or len(y) == 0:
        raise ValueError(
            f"`{name}` has {len(x)} examples and labels of shape {y.shape}; pass one per example"
        )
    if x.dtype == np.float32 and not np.isfinite(x).all():
        raise ValueError(f"`{name}` holds values that are nan or infinite; remove or replace them")
    if own != wanted:
        raise ValueError(
            f"`{name}` has labels of {own.dtype} {own.shape}, `train` of {wanted.dtype} "
            f"{wanted.shape}; all splits have labels of one kind and shape"
        )
    if own.kind == "numbers":
        if not np.isfinite(y).all():
            raise ValueError(f"`{name}` has labels that are nan or infinite; remove the examples")
        return
    low, high = int(y.min()), int(y.max())
    if own.kind == "multilabel":
        if y.ndim != 2 or y.shape[1] != classes or low < 0 or high > 1:
            raise ValueError(
                f"`{name}` has labels of shape {y.shape} from {low} to {high}, which must be 0 or "
                f"1, one for each of {classes} classes"
            )
        return
    if own.kind == "tokens" and low == -1:
        if empty := int((~living(y)).sum()):
            raise ValueError(
                f"`{name}` has {empty} examples whose labels are all -1, which leaves nothing to "
                f"predict; remove the examples"
            )
        low = 0
    if low < 0 or high >= classes:
        raise ValueError(
            f"`{name}` has labels from {low} to {high}, which must lie in [0, {classes}); number "
            f"the classes from 0, or change `classes` too"
        )


def mean_and_std(x: np.ndarray, *, entries: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each channel, float32 [channels].

    With `entries` those of each entry of an example, of its shape.

    With d = x - x[0, 0, 0]: mean = x[0, 0, 0] + E[d], std = sqrt(E[d^2] - E[d]^2). For uint8 all
    sums are whole numbers, so the result is the same on every machine.
    """
    if entries and x.ndim > 2:
        flat = mean_and_std(x.reshape(len(x), -1))
        mean, std = (read_only(one.reshape(x.shape[1:])) for one in flat)
        return mean, std
    channels = x.shape[-1]
    wide = np.int64 if x.dtype == np.uint8 else np.float64
    origin = x[(0,) * (x.ndim - 1)].astype(wide)
    places = tuple(range(x.ndim - 2))
    first = np.zeros(channels, wide)
    second = np.zeros(channels, wide)
    # about 8 MB at a time, so that the wide copy of a large data set never exists
    at_once = max(1, 2**20 // x[0].size)
    for start in range(0, len(x), at_once):
        d = x[start : start + at_once].astype(wide) - origin
        first += d.sum(axis=0).sum(axis=places)
        second += np.square(d, out=d).sum(axis=0).sum(axis=places)
    n = x.size // channels
    mean, std = [], []
    # python numbers: n * sum(d^2) passes 64 bits for large data sets
    for o, a, b in zip(origin.tolist(), first.tolist(), second.tolist(), strict=True):
        mean.append(o + a / n)
        variance = (n * b - a * a) / n**2
        std.append(variance**0.5 if variance > 0 else 1.0)
    return read_only(np.array(mean, np.float32)), read_only(np.array(std, np.float32))
