"""Augmentation inside the training step: each image is read through a window drawn for it.

A window says where each row and each column of the new image comes from, so moves and flips
together are one gather from the raw images (resizes: one pair of products), whatever their number.
It is drawn from the key, the step and the image's place in the batch: nothing is stored, resumed
training draws what it would have drawn, and so do the parts of a batch split over devices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.typing import Array, Key

_ATTEMPTS = 10


class Window(NamedTuple):
    """Where the pixels of one new image come from.

    Attributes:
      rows: [height], the row of the old image that each row of the new one shows; int32 for exact
        copies, float32 where rows between two are interpolated. Rows outside the image are filled.
      columns: [width], likewise, of the same type.
      outside: float32, what fills: this share of the data's mean. 0 is black, 1 becomes zero in
        normalisation.
    """

    rows: Array
    columns: Array
    outside: Array


def crop(window: Window, training: Training, *, key: Key) -> Window:
    """Padding with black by `augment_pixels` on all sides, then a random part of the old size.

    Offsets are uniform in {-pixels, ..., pixels}, one for the rows, one for the columns. Black is
    0 before normalisation.

    Reference: OpenLTH, the framework of Frankle's thesis, for CIFAR-10.
    """
    return _moved(window, training.augment_pixels, key)._replace(outside=jnp.float32(0))


def shift(window: Window, training: Training, *, key: Key) -> Window:
    """A random move by up to `augment_pixels` in each direction; what comes in is the mean colour.

    The same as `crop` but for the filling, which is zero after normalisation.

    Reference: KD-LTS, its section on experiments ("random pixel shifts of up to four pixels"),
      which names normalisation first.
    """
    return _moved(window, training.augment_pixels, key)._replace(outside=jnp.float32(1))


def _moved(window: Window, pixels: int, key: Key) -> Window:
    # the remainder favours no offset by more than 2**-28
    drawn = jax.random.bits(key, (2,), jnp.uint32) % jnp.uint32(2 * pixels + 1)
    by = drawn.astype(jnp.int32) - pixels
    return window._replace(rows=window.rows + by[0], columns=window.columns + by[1])


def resized_crop(window: Window, training: Training, *, key: Key) -> Window:
    """A random part of random area and aspect, resized to the size of the image (bilinear).

    The area is `uniform(augment_scale)` of the image's, the aspect (width / height) log-uniform in
    `augment_ratio`; sides are rounded to whole pixels and the place is uniform. The first of ten
    such parts that fit is taken; if none does, the largest part in the middle whose aspect is
    within bounds. Row i of h rows shown as H is `(i + 1/2) h / H - 1/2`, kept inside the part.

    Reference: Szegedy et al., "Going deeper with convolutions" (2015), section 6; KD-LTS for
      scale (.1, 1) and ratio (.8, 1.25).
    """
    height, width = window.rows.shape[0], window.columns.shape[0]
    shape_key, place_key = stream(key, "shape"), stream(key, "place")
    (small, large), (low, high) = training.augment_scale, training.augment_ratio
    share, turn = jax.random.uniform(shape_key, (2, _ATTEMPTS))
    area = (small + (large - small) * share) * (height * width)
    aspect = jnp.exp(math.log(low) + (math.log(high) - math.log(low)) * turn)
    wide, tall = jnp.round(jnp.sqrt(area * aspect)), jnp.round(jnp.sqrt(area / aspect))
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first = jnp.argmax(fits)
    some = jnp.any(fits)
    h = jnp.where(some, tall[first], max(1.0, min(height, round(width / low))))
    w = jnp.where(some, wide[first], max(1.0, min(width, round(height * high))))
    place = jnp.where(some, jax.random.uniform(place_key, (2,)), 0.5)

    def axis(size: int, part: Array, at: Array) -> Array:
        # uniform numbers lie below 1, but their product with a whole number may be rounded up to it
        begin = jnp.minimum(jnp.floor(at * (size - part + 1)), size - part)
        centre = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (part / size) - 0.5
        return begin + jnp.clip(centre, 0, part - 1)

    return Window(axis(height, h, place[0]), axis(width, w, place[1]), jnp.float32(0))


def flip(window: Window, training: Training, *, key: Key) -> Window:
    """Left and right change places with probability 1/2."""
    del training
    turned = jax.random.bits(key, (), jnp.uint32) >= jnp.uint32(2**31)
    return window._replace(columns=jnp.where(turned, window.columns[::-1], window.columns))


AUGMENTATIONS: dict[str, Callable[..., Window]] = {
    "crop": crop,
    "shift": shift,
    "resized_crop": resized_crop,
    # last, so that it turns the new image whatever else was done
    "flip": flip,
}
"""What `Training.augment` knows: functions `(window, training, *, key) -> window` of one image,
applied in this order. The names are also in `settings.AUGMENTATIONS`."""


def windows(shape: tuple[int, int], positions: Array, training: Training, *, key: Key) -> Window:
    """The windows of some images of a batch.

    Args:
      shape: (height, width).
      positions: int32 [images], places in the whole batch.
      training: its `augment` and the settings of that.
      key: of this replica and step.

    Returns:
      A Window whose leaves have a leading axis of images. Each augmentation draws from a stream of
      its own name, so one more leaves the others as they are.
    """
    start = Window(
        jnp.arange(shape[0], dtype=jnp.int32),
        jnp.arange(shape[1], dtype=jnp.int32),
        jnp.float32(0),
    )

    def one(position: Array) -> Window:
        window = start
        for name, change in AUGMENTATIONS.items():
            if name in training.augment:
                window = change(window, training, key=stream(key, name, position))
        return window

    return jax.vmap(one)(positions)


def seen_through(x: Array, window: Window, mean: Array) -> Array:
    """Raw images through their windows.

    Args:
      x: uint8 or float32 [images, height, width, channels].
      window: of `windows`.
      mean: float32 [channels], of the data, in the same raw units.

    Returns:
      float32 of the shape of `x`; values are not rounded.
    """
    x = jnp.asarray(x)
    height, width = x.shape[1:3]

    def inside(index: Array, size: int) -> Array:
        return (index >= 0) & (index <= size - 1)

    if jnp.issubdtype(window.rows.dtype, jnp.floating):
        new = jnp.einsum(
            "bih,bhwc,bjw->bijc",
            _weights(window.rows, height),
            x.astype(jnp.float32),
            _weights(window.columns, width),
            # 8 bits are all there is to lose
            precision="highest",
            optimize=[(0, 1), (0, 1)],
        )
    else:
        # one gather of pixels: the fastest on a CPU of what was measured (slices of padded images,
        # rows then columns, rolls, products with one-hot matrices); 128 images of 32x32x3 inside a
        # loop take 0.4 to 0.9 ms more than unaugmented ones, parts that are resized 2 to 3.5
        image = jnp.arange(x.shape[0])[:, None, None]
        rows = jnp.clip(window.rows, 0, height - 1)[:, :, None]
        columns = jnp.clip(window.columns, 0, width - 1)[:, None, :]
        new = x.at[image, rows, columns].get(mode="promise_in_bounds").astype(jnp.float32)
    there = inside(window.rows, height)[:, :, None] & inside(window.columns, width)[:, None, :]
    fill = window.outside[:, None] * mean[None]
    return jnp.where(there[..., None], new, fill[:, None, None])


def _weights(index: Array, size: int) -> Array:
    """What each of `size` rows gives to the row at `index`: `max(0, 1 - |index - row|)`."""
    # products with these are 3 times as fast on a CPU as gathering each pixel's four neighbours
    away = jnp.abs(index[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None])
    return jnp.maximum(1 - away, 0)


def augmented(
    x: Array, training: Training, mean: Array, *, key: Key, first: Array | int = 0
) -> Array:
    """A batch, or a part of it, augmented as `training.augment` says.

    Args:
      x: raw images, uint8 or float32 [images, height, width, channels].
      training: the settings.
      mean: float32 [channels], the data's mean in the same raw units.
      key: of this replica and step.
      first: place of the first image in the whole batch.

    Returns:
      Raw images in float32; evaluation and scores see none of this.
    """
    positions = jnp.arange(x.shape[0], dtype=jnp.int32) + first
    size = (x.shape[1], x.shape[2])
    return seen_through(x, windows(size, positions, training, key=key), mean)
