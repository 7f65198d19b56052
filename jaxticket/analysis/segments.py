"""Segments of images: maps of which pixels belong together."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import cast

import numpy as np

from jaxticket import _extras
from jaxticket._check import is_integer, name_or_own, naming, shown, whole

Segmenter = Callable[[np.ndarray], np.ndarray]
"""A function `image -> segments`: raw values [height, width, channels] -> whole numbers, equal
within a segment, [height, width]."""
SEGMENTERS = ("slic", "quickshift")


def check_segments(argument: str, value: object) -> int | str | Segmenter:
    """A way to cut images: a cell size, a name in `SEGMENTERS`, or a function."""
    if is_integer(value):
        return whole(argument, value, 1)
    own = "the size of the cells of a grid in pixels, or a function image -> segments"
    return name_or_own(argument, cast("str | Segmenter", value), SEGMENTERS, own)


def grid(shape: tuple[int, ...], cell: int) -> np.ndarray:
    """Cut an image into square cells; those at the right and lower edges may be smaller.

    Args:
      shape: (height, width, ...).
      cell: height and width of a cell in pixels.

    Returns:
      int32 [height, width], numbered row by row.

    >>> grid((3, 4), 2)
    array([[0, 0, 1, 1],
           [0, 0, 1, 1],
           [2, 2, 3, 3]], dtype=int32)
    """
    height, width = shape[:2]
    across = -(-width // cell)
    rows, columns = np.arange(height) // cell, np.arange(width) // cell
    return (rows[:, None] * across + columns).astype(np.int32)


def segmented(images: np.ndarray, way: int | str | Segmenter, white: float) -> np.ndarray:
    """Cut images into segments.

    Args:
      images: raw values [image, height, width, channels].
      way: size of the cells of a grid in pixels; "slic" (about 50 segments) or "quickshift" (kernel
        4, distance 200, ratio 0.2, the defaults of LIME) of scikit-image; or a function.
      white: the raw value of white, for scikit-image.

    Returns:
      int32 [image, height, width], from 0 on without gaps in each image.

    Raises:
      ValueError: for a grid of one cell, images of other than 1 or 3 channels with scikit-image,
        and a function that fails or gives something else.
      ImportError: where scikit-image is needed and not installed.
    """
    if isinstance(way, int):
        own = grid(images.shape[1:], way)
        if own.max() == 0:
            raise ValueError(
                f"`segments`={way} makes a single segment of images of {images.shape[1]} x "
                f"{images.shape[2]} pixels; pass smaller cells, such as "
                f"{max(1, max(images.shape[1:3]) // 7)}"
            )
        return np.broadcast_to(own, images.shape[:3])
    if isinstance(way, str):
        if images.shape[-1] not in (1, 3):
            raise ValueError(
                f"`segments`={way!r} takes images with 1 or 3 channels, these have "
                f"{images.shape[-1]}; pass the size of the cells of a grid"
            )
        one = _of_scikit_image(way)
        colors = np.repeat(images, 3 // images.shape[-1], axis=-1).astype(np.float64) / white
        found = [one(image) for image in np.clip(colors, 0, 1)]
    else:
        with naming("segments", way):
            found = [np.asarray(way(image)) for image in images]
    for own in found:
        if own.shape != images.shape[1:3] or not np.issubdtype(own.dtype, np.integer):
            raise ValueError(
                f"`segments` {shown(way)} must give a whole number for each pixel, "
                f"{images.shape[1:3]}, got {own.dtype} {own.shape}"
            )
    # from 0 on without gaps
    numbered = [np.unique(own, return_inverse=True)[1].reshape(own.shape) for own in found]
    return np.stack(numbered).astype(np.int32)


def _of_scikit_image(way: str) -> Segmenter:
    """A function of scikit-image for colors in [0, 1]."""
    _extras.require("skimage", "explain")
    segmentation = importlib.import_module("skimage.segmentation")
    if way == "slic":
        return lambda image: segmentation.slic(
            image, n_segments=50, compactness=10, sigma=0, start_label=0
        )
    return lambda image: segmentation.quickshift(image, kernel_size=4, max_dist=200, ratio=0.2)
