"""Images of one data set in the form of another: size, channels, type and range."""

from __future__ import annotations

import dataclasses

import numpy as np
from PIL import Image

from jaxticket import _check
from jaxticket.data.arrays import Data, Split

# of red, green and blue in the brightness of a color (ITU-R BT.601)
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


def like(other: Data, data: Data) -> Data:
    """Give the images of a data set the size, channels, type and range of values of another's.

    Images are resized bilinearly; colors become gray by their brightness, gray three equal
    channels; white stays white: 255 of bytes that go above 127, else the largest value of the
    training split. Labels stay. The mean and standard deviation are those of `data`.

    Args:
      other: the images to convert.
      data: the data set whose form they get.

    Raises:
      ValueError: for data in files, and for examples that are not images with 1 or 3 channels.

    >>> import jaxticket as jt
    >>> digits = jt.data.load("digits")
    >>> x = np.zeros((4, 28, 28, 3), np.uint8)
    >>> other = jt.data.from_arrays(x, np.arange(4) % 2, x, np.arange(4) % 2)
    >>> like(other, digits).shape
    (8, 8, 1)
    """
    need_images("other", other)
    need_images("data", data)
    scale = white(data) / white(other)

    def converted(split: Split) -> Split:
        x = _resized(_channels(split.x.astype(np.float32), data.shape[-1]), data.shape[:2]) * scale
        if data.train.x.dtype == np.uint8:
            x = np.clip(np.rint(x), 0, 255)
        return Split(x.astype(data.train.x.dtype), split.y)

    splits = {name: converted(split) for name, split in other.splits.items()}
    return dataclasses.replace(
        other,
        train=splits["train"],
        test=splits["test"],
        validation=splits.get("validation"),
        more={name: splits[name] for name in other.more},
        mean=data.mean,
        std=data.std,
        about={**other.about, "like": data.name},
    )


def need_images(argument: str, data: Data) -> None:
    """Raise unless a data set in memory holds images with 1 or 3 channels."""
    _check.instance(argument, data, Data, "a data set in memory, as jt.data.load gives it")
    if data.tokens or len(data.shape) != 3 or data.shape[-1] not in (1, 3):
        raise ValueError(
            f"`{argument}` must hold images [height, width, 1 or 3 channels], its examples have "
            f"the shape {data.shape}"
        )


def white(data: Data) -> float:
    """The value of white: 255 of bytes that go above 127, else the largest training value."""
    return white_of(data.train.x)


def white_of(x: np.ndarray) -> float:
    """The value of white in images: 255 of bytes that go above 127, else the largest value."""
    most = float(np.max(x))
    return 255.0 if x.dtype == np.uint8 and most > 127 else most or 1.0


def _channels(x: np.ndarray, count: int) -> np.ndarray:
    if x.shape[-1] == count:
        return x
    return np.repeat(x, 3, axis=-1) if count == 3 else (x @ LUMA)[..., None]


def _resized(x: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    if x.shape[1:3] == tuple(size):
        return x
    height, width = size
    found = np.empty((len(x), height, width, x.shape[-1]), np.float32)
    for place in np.ndindex(len(x), x.shape[-1]):
        image = Image.fromarray(x[place[0], :, :, place[1]])
        resized = image.resize((width, height), Image.Resampling.BILINEAR)
        found[place[0], :, :, place[1]] = np.asarray(resized)
    return found
