"""Data sets that do not fit on the device: read, decoded and cropped on the host during training.

A stream can be used wherever a `Data` can. Training sees exactly the batches that it would see if
the set were held in memory: the examples of a step depend on the replica's key and the step alone.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import numpy as np

from jaxticket import _check, _show
from jaxticket.data import crops
from jaxticket.data.arrays import About, mean_and_std
from jaxticket.data.folder import divided
from jaxticket.data.records import Records, Rows, open_files
from jaxticket.data.sampling import permutation
from jaxticket.data.tfds import open_records
from jaxticket.labels import CLASSES, Labels

STREAMS = {"imagenet": "imagenet2012", "places365": "places365_small"}
"""Short names of sets that are usually streamed, and what TFDS calls them."""

CROPS = ("random", "center")


@dataclass(frozen=True, eq=False, kw_only=True)
class Stream:
    """A classification data set whose images stay in their files, as `stream` makes it.

    Attributes:
      name: what tables and run folders call it.
      classes: number of classes.
      channels: 1 or 3.
      train: training split; splits have a length and give encoded images.
      test: test split.
      validation: held-out split, or None.
      size: (height, width) of the examples.
      resize: short side before the central crop.
      train_crop: "random" or "center", of the training batches.
      scale: bounds of the area of random crops.
      ratio: bounds of their aspect.
      mean: float32 [channels] in units of 0 to 255.
      std: likewise.
      about: where the data come from, as values that JSON can hold.
      identity: what identifies the files.
      threads: threads that read and decode.
      block_bytes: bytes of images that one device is fed at a time, at least one step's.
      hold_bytes: evaluation images of at most so many bytes are decoded once and stay on the
        devices; more are decoded at every evaluation.
    """

    streamed: ClassVar[bool] = True

    name: str
    classes: int
    channels: int
    train: Records
    test: Records
    validation: Records | None = None
    size: tuple[int, int]
    resize: int
    train_crop: str
    scale: tuple[float, float]
    ratio: tuple[float, float]
    mean: np.ndarray
    std: np.ndarray
    about: About = field(default_factory=dict)
    identity: About = field(default_factory=dict)
    threads: int
    block_bytes: int
    hold_bytes: int

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        return _show.data_summary(self, f"{_show.shape(self.shape)} from files")

    @property
    def labels(self) -> Labels:
        """Shape and type of the label of one example: a class."""
        return CLASSES

    def class_counts(self) -> None:
        """None, since labels are read when they are needed."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one example: (height, width, channels)."""
        return (*self.size, self.channels)

    @property
    def splits(self) -> dict[str, Records]:
        """The splits by name, in the order "train", "validation" (if there is one), "test"."""
        held_out = {} if self.validation is None else {"validation": self.validation}
        return {"train": self.train, **held_out, "test": self.test}

    @cached_property
    def fingerprint(self) -> str:
        """Sha256 (hex) of the files' identity, the crops, the mean and the standard deviation.

        The files' identity is their version, counts and sizes; the images are not read.
        """
        parts = {
            "identity": self.identity,
            "steps": self.about.get("steps", []),
            "splits": {split: len(part) for split, part in self.splits.items()},
            "shape": self.shape,
            "resize": self.resize,
            "crop": [self.train_crop, self.scale, self.ratio],
            "statistics": [np.asarray(x, np.float32).tolist() for x in (self.mean, self.std)],
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @cached_property
    def starts(self) -> dict[str, int]:
        """Number of each split's first example; examples are numbered consecutively over splits."""
        lengths = [0, *(len(part) for part in self.splits.values())]
        return dict(zip(self.splits, np.cumsum(lengths).tolist(), strict=False))

    def _within(self, number: int) -> tuple[str, int]:
        split = next(s for s, start in reversed(self.starts.items()) if start <= number)
        return split, number - self.starts[split]

    def read(self, numbers: Sequence[int]) -> list[tuple[bytes, int]]:
        """Read the encoded image and label of each of these examples."""
        if len(numbers) == 0:
            return []
        # all of one split, as nearly always
        split, first = self._within(min(numbers))
        if max(numbers) - min(numbers) + first < len(self.splits[split]):
            start = self.starts[split]
            return self.splits[split].read([n - start for n in numbers])
        return [row for n in numbers for row in self.read([n])]

    def called(self, number: int) -> str:
        """Name an example, for errors."""
        split, within = self._within(number)
        return self.splits[split].called(within)

    def with_validation(self, share: float = 0.1, *, seed: int = 0) -> Stream:
        """Hold out `round(share * n)` of the n training examples, the same as for `Data`.

        Mean and standard deviation stay the same.
        """
        share, seed = _check.share("share", share, one=False), _check.seed("seed", seed)
        n = len(self.train)
        count = round(share * n)
        if self.validation is not None or not 0 < count < n:
            raise ValueError(
                f"`share`={share!r} of {n} training examples cannot be held out: a part would be "
                f"empty, or {self.name!r} has a validation split already"
            )
        order = permutation(n, seed=seed, stream="validation")
        step = {"step": "with_validation", "share": share, "seed": _check.seed("seed", seed)}
        return dataclasses.replace(
            self,
            train=Rows(self.train, np.sort(order[count:])),
            validation=Rows(self.train, np.sort(order[:count])),
            about={**self.about, "steps": [*self.about.get("steps", []), step]},
        )


def stream(
    name: str | os.PathLike[str],
    *,
    size: tuple[int, int] = (224, 224),
    resize: int = 256,
    train_crop: str = "random",
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    validation: float = 0.0,
    seed: int = 0,
    threads: int | None = None,
    block_bytes: int = 2**28,
    hold_bytes: int = 2**31,
) -> Stream:
    """Open a data set that is decoded during training, for sets that do not fit on the device.

    Evaluation, scores and `train_crop`="center" see the image with its short side at `resize`, cut
    to `size` in the middle. With "random", each training example is a part of random area, aspect
    and place, at `size`, drawn from the replica's key, the step and the place in the batch. Further
    augmentation, such as flips, is `Training.augment`'s. Networks see standardized images, in
    training and evaluation alike: `(x - mean) / std` of each channel.

    Args:
      name: "imagenet", "places365", another set that TFDS has prepared as array_record files, or
        the path of a folder with train/CLASS/* and test/CLASS/* (images become RGB).
      size: (height, width) of the examples.
      resize: short side before the central crop, at least the larger of `size`.
      train_crop: "random" or "center".
      scale: bounds of the random part's area, as a share of the image's.
      ratio: bounds of its width / height.
      mean: of each channel, in units of 0 to 255; None measures it on at most 1,000 training
        images, evenly spread, cut in the middle.
      std: standard deviation of each channel; given if and only if `mean` is.
      data_dir: as for `load`.
      download: as for `load`.
      validation: share of the training split to hold out.
      seed: seed of that choice.
      threads: threads that decode; None for one per core.
      block_bytes: bytes of images that one device is fed at a time; several such blocks are under
        way at once. At least one step's images are fed.
      hold_bytes: evaluation images of at most so many bytes are decoded once and stay on the
        devices; more are decoded again at every evaluation.

    Raises:
      MissingDataError: if a TFDS set is not prepared.
      StreamError: for a record that cannot be read or decoded; also during training.
      ValueError: naming the argument that does not fit.
    """
    _check_arguments(size, resize, train_crop, scale, ratio, validation, block_bytes, hold_bytes)
    _check.flag("download", download)
    _check.seed("seed", seed)
    if threads is None:
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        threads = cores or 1
    threads = _check.whole("threads", threads, 1)
    if (mean is None) != (std is None):
        raise ValueError("`mean` and `std` go together; pass both or neither")
    path = Path(name).expanduser()
    if (isinstance(name, os.PathLike) or os.sep in str(name)) and path.is_dir():
        if data_dir is not None:
            raise ValueError(f"`data_dir` is not used for the folder {str(path)!r}; leave it out")
        opened = open_files(path, divided)
    else:
        called = str(name).removeprefix("tfds:")
        opened = open_records(STREAMS.get(called, called), data_dir=data_dir, download=download)
    empty = [split for split, part in opened.splits.items() if len(part) == 0]
    if empty:
        raise ValueError(f"`name`={str(name)!r} has an empty split {empty[0]!r}; prepare it again")
    if mean is None or std is None:
        mean_of, std_of = _measured(opened.splits["train"], opened.channels, size, resize)
    else:
        mean_of, std_of = np.asarray(mean, np.float32), np.asarray(std, np.float32)
        if mean_of.shape != (opened.channels,) or std_of.shape != mean_of.shape:
            raise ValueError(
                f"`mean` and `std` need one number per channel ({opened.channels}), got "
                f"{mean!r} and {std!r}"
            )
        if not (std_of > 0).all() or not np.isfinite(mean_of).all():
            raise ValueError(f"`std` must be above 0 and `mean` finite, got {std!r} and {mean!r}")
    result = Stream(
        name=opened.name,
        classes=opened.classes,
        channels=opened.channels,
        **opened.splits,
        size=(size[0], size[1]),
        resize=resize,
        train_crop=train_crop,
        scale=_check.interval("scale", scale, high=1.0),
        ratio=_check.interval("ratio", ratio),
        mean=mean_of,
        std=std_of,
        about=opened.about,
        identity=opened.identity,
        threads=threads,
        block_bytes=block_bytes,
        hold_bytes=hold_bytes,
    )
    return result.with_validation(validation, seed=seed) if validation > 0 else result


def _check_arguments(
    size: tuple[int, int],
    resize: int,
    train_crop: str,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    validation: float,
    block_bytes: int,
    hold_bytes: int,
) -> None:
    if not (isinstance(size, tuple | list) and len(size) == 2):
        raise ValueError(f"`size` must be a pair, (height, width), got {size!r}")
    for length in size:
        _check.whole("size", length, 1)
    _check.whole("resize", resize, max(size))
    _check.one_of("train_crop", train_crop, CROPS)
    _check.interval("scale", scale, high=1.0)
    _check.interval("ratio", ratio)
    _check.share("validation", validation, zero=True, one=False)
    _check.whole("block_bytes", block_bytes, 1, high=2**62)
    _check.whole("hold_bytes", hold_bytes, high=2**62)


def _measured(
    train: Records, channels: int, size: tuple[int, int], resize: int
) -> tuple[np.ndarray, np.ndarray]:
    """Measure mean and standard deviation on at most 1,000 training images."""
    count = min(1000, len(train))
    numbers = (np.arange(count, dtype=np.int64) * len(train)) // count
    images = np.empty((count, *size, channels), np.uint8)
    for begin in range(0, count, 100):
        some = numbers[begin : begin + 100].tolist()
        for i, (number, (encoded, _)) in enumerate(zip(some, train.read(some), strict=True), begin):
            images[i] = crops.center_pixels(encoded, train.called(number), channels, size, resize)
    return mean_and_std(images)
