"""From encoded images to pixels of one size, on the host."""

from __future__ import annotations

import io
import math

import numpy as np
from PIL import Image

from jaxticket.data.records import StreamError

Box = tuple[float, float, float, float]
"""(left, top, right, bottom) in pixels of the decoded image; may lie between pixels."""

ATTEMPTS = 10
DRAWS = 2 * ATTEMPTS + 2
"""Uniform numbers in [0, 1) that one random crop takes."""


def decoded(encoded: bytes, channels: int, called: str) -> Image.Image:
    """The image in gray (1 channel) or RGB; transparency is dropped.

    Raises:
      StreamError: with the record's name `called`, if it cannot be decoded.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            # by way of RGBA, because Pillow warns of palettes with transparency otherwise
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            return opaque.convert("L" if channels == 1 else "RGB")
    except Exception as error:  # Pillow raises many kinds for damaged images
        raise StreamError(
            f"`name`: the image of {called} cannot be decoded ({type(error).__name__}: {error}); "
            "prepare the set again, or replace the file"
        ) from error


def pixels(image: Image.Image, box: Box, size: tuple[int, int]) -> np.ndarray:
    """The part in `box` at (height, width) `size`: bilinear, antialiased; uint8 [height, width,
    channels].
    """
    height, width = size
    part = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
    return np.asarray(part).reshape(height, width, -1)


def center_box(shape: tuple[int, int], size: tuple[int, int], resize: int) -> Box:
    """The box of a central crop of `size` from the image resized to a short side of `resize`.

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
    """Decodes an image and cuts its middle."""
    image = decoded(encoded, channels, called)
    return pixels(image, center_box((image.height, image.width), size, resize), size)


def random_box(
    shape: tuple[int, int],
    draws: np.ndarray,
    *,
    scale: tuple[float, float] = (0.08, 1.0),
    ratio: tuple[float, float] = (3 / 4, 4 / 3),
) -> Box:
    """The box of a random resized crop.

    An area a, uniform in `scale` times the image's, and an aspect r, log-uniform in `ratio`, give
    a box of width sqrt(a r) and height sqrt(a / r) at a uniform place. The first of ten boxes that
    lies in the image is taken; where none does, the central box with the nearest aspect.

    Args:
      shape: (height, width) of the image.
      draws: `DRAWS` uniform numbers in [0, 1): the box is a function of them alone.
      scale: bounds of the area.
      ratio: bounds of width / height.

    Reference: Szegedy et al., "Going deeper with convolutions" (2015), section 6, for the numbers.
    """
    height, width = shape
    u = [float(d) for d in draws]
    low, high = math.log(ratio[0]), math.log(ratio[1])
    for i in range(ATTEMPTS):
        area = height * width * (scale[0] + u[2 * i] * (scale[1] - scale[0]))
        aspect = math.exp(low + u[2 * i + 1] * (high - low))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < tall <= height:
            top = int(u[-2] * (height - tall + 1))
            left = int(u[-1] * (width - wide + 1))
            return left, top, left + wide, top + tall
    aspect = min(max(width / height, ratio[0]), ratio[1])
    wide, tall = min(width, round(height * aspect)), min(height, round(width / aspect))
    wide, tall = max(1, wide), max(1, tall)
    top, left = (height - tall) // 2, (width - wide) // 2
    return left, top, left + wide, top + tall
