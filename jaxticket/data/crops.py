"""From encoded images to pixels of one size, on the host."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from jaxticket.data.augment import ATTEMPTS, resized_part
from jaxticket.data.records import StreamError

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the decoded image; may lie between pixels."""

DRAWS = 2 * ATTEMPTS + 2
"""Uniform numbers in [0, 1) that one random crop takes."""


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    """Convert an image to gray ("L") or color ("RGB"); transparency is dropped."""
    # by way of RGBA, because Pillow warns of palettes with transparency otherwise
    opaque = image.convert("RGBA") if "transparency" in image.info else image
    return opaque.convert(mode)


def decoded(encoded: bytes, channels: int, called: str) -> Image.Image:
    """Decode an image to gray (1 channel) or RGB; transparency is dropped.

    Raises:
      StreamError: with the record's name `called`, if it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            return in_mode(image, "L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow raises many kinds for damaged images
        raise StreamError(
            f"`name`: the image of {called} cannot be decoded ({type(error).__name__}: {error}); "
            "prepare the set again, or replace the file"
        ) from error


def pixels(image: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray:
    """Resize the part in `box` to (height, width) `size`, bilinear with antialiasing.

    Returns:
      uint8 [height, width, channels].
    """
    height, width = size
    part = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(part).reshape(height, width, -1)


def center_box(shape: tuple[int, int], size: tuple[int, int], resize: int) -> Box:
    """Compute the box of the central crop of `size` after a resize to short side `resize`.

    >>> center_box((256, 320), (224, 224), 256)
    (48.0, 16.0, 272.0, 240.0)
    """
    height, width = shape
    short = min(height, width)
    # whole numbers as PyTorch has them, so that an image of that size already is only cut
    tall, wide = resize * height // short, resize * width // short
    top, left = (tall - size[0]) // 2, (wide - size[1]) // 2
    y, x = height / tall, width / wide
    return left * x, top * y, min(width, (left + size[1]) * x), min(height, (top + size[0]) * y)


def center_pixels(
    encoded: bytes, called: str, channels: int, size: tuple[int, int], resize: int
) -> np.ndarray:
    """Decode an image and take its central crop."""
    image = decoded(encoded, channels, called)
    return pixels(image, center_box((image.height, image.width), size, resize), size)


def random_box(
    shape: tuple[int, int],
    draws: np.ndarray,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """Compute the box of a random resized crop, of the size that `resized_part` gives.

    Its place is uniform; where no part fits, it is the central one.

    Args:
      shape: (height, width) of the image.
      draws: `DRAWS` uniform numbers in [0, 1): the box is a function of them alone.
      scale: bounds of the area.
      ratio: bounds of width / height.

    Reference: as for `resized_part`.
    """
    u = np.asarray(draws, np.float64)
    part, fits = resized_part(np, shape, u[:-2:2], u[1:-2:2], scale, ratio)
    free = [old - int(new) for old, new in zip(shape, part, strict=True)]
    place = [int(at * (n + 1)) if fits else n // 2 for at, n in zip(u[-2:], free, strict=True)]
    (top, left), (tall, wide) = place, map(int, part)
    return left, top, left + wide, top + tall
