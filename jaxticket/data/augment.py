"""Augmentation inside the training step: each image is read through a random window.

A window maps each row and each column of the new image to one of the old, so that any number of
moves and flips is one gather from the raw images (resizes: one pair of products). It is a function
of the key, the step and the image's place in the batch: nothing is stored, and resumed training and
batches split over devices see the same windows.

`Training(augment=...)` takes the names of `AUGMENTATIONS` and objects: those of this module, which
carry their options, and the user's own, of two kinds.

- An object with a method `window(window, *, key) -> Window` changes where the pixels of one image
  come from, and is composed with the others into one gather. One that draws as a named augmentation
  does has that name as its attribute `kind`; others have a random stream for their place in
  `augment`.
- A function (or other callable) `(images, *, key) -> images` changes pixels: raw values, float32
  [1, height, width, channels], after all windows. It gets each image by itself, as a batch of one
  with a key of its own, so that results do not depend on the devices that share a batch.

Both must be hashable: functions and frozen dataclasses are.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from types import ModuleType
from typing import ClassVar, NamedTuple, Protocol, TypeAlias, runtime_checkable

import jax
import jax.numpy as jnp

from jaxticket._check import interval, settle, whole
from jaxticket._promotion import relaxed_types
from jaxticket.random import stream
from jaxticket.settings import Training
from jaxticket.typing import AnyArray, Array, Key

ATTEMPTS = 10
"""Sizes that a random resized crop tries."""


class Window(NamedTuple):
    """The source of the pixels of one new image.

    Attributes:
      rows: [height], the row of the old image that each row of the new one shows; int32 for exact
        copies, float32 for interpolation between two rows. Rows outside the image are filled.
      columns: [width], likewise, of the same type.
      outside: float32, the fill value as a share of the data's mean: 0 is black, 1 becomes zero in
        normalization.
    """

    rows: Array
    columns: Array
    outside: Array


@runtime_checkable
class Windowed(Protocol):
    """An augmentation that changes where the pixels of an image come from."""

    def window(self, window: Window, *, key: Key) -> Window:
        """Change the window of one image."""
        ...


class Images(Protocol):
    """Data or a stream, as far as augmentations depend on it."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        ...


Change: TypeAlias = Callable[..., object]
"""An augmentation `(images, *, key) -> images` of pixels, float32 [1, height, width, channels]."""


def resized_part(
    xp: ModuleType,
    shape: tuple[int, int],
    share: AnyArray,
    turn: AnyArray,
    scale: tuple[float, float],
    ratio: tuple[float, float],
) -> tuple[tuple[AnyArray, AnyArray], AnyArray]:
    """Compute the size of a random part of an image, as random resized crops take it.

    An area a, uniform in `scale` times the image's, and an aspect r, log-uniform in `ratio`, give
    a part of width sqrt(a r) and height sqrt(a / r), rounded. The first of the parts that fit into
    the image is taken; where none does, the largest part whose aspect is within bounds.

    Args:
      xp: `numpy` or `jax.numpy`, which computes it.
      shape: (height, width) of the image.
      share: uniform numbers in [0, 1) for the areas, [ATTEMPTS].
      turn: uniform numbers in [0, 1) for the aspects, [ATTEMPTS].
      scale: bounds of the area, as a share of the image's.
      ratio: bounds of width / height.

    Returns:
      (height, width) of the part, whole numbers, and whether one of the parts did fit.

    Reference: Szegedy et al., "Going deeper with convolutions" (2015), section 6.
    """
    (height, width), (small, large), (low, high) = shape, scale, ratio
    area = (small + (large - small) * share) * (height * width)
    aspect = xp.exp(math.log(low) + (math.log(high) - math.log(low)) * turn)
    wide, tall = xp.round(xp.sqrt(area * aspect)), xp.round(xp.sqrt(area / aspect))
    fits = (wide >= 1) & (wide <= width) & (tall >= 1) & (tall <= height)
    first, some = xp.argmax(fits), xp.any(fits)
    h = xp.where(some, tall[first], max(1.0, min(height, round(width / low))))
    w = xp.where(some, wide[first], max(1.0, min(width, round(height * high))))
    return (h, w), some


@dataclasses.dataclass(frozen=True)
class Crop:
    """Pad with black by `pixels` on all sides, then take a random part of the old size.

    Offsets are uniform in {-pixels, ..., pixels}, one for the rows, one for the columns. Black is
    0 before normalization.

    Attributes:
      pixels: the largest move in each direction.

    Reference: OpenLTH, the framework of Frankle's thesis, for CIFAR-10.
    """

    kind: ClassVar[str] = "crop"
    moves: ClassVar[bool] = True
    outside: ClassVar[float] = 0.0
    pixels: int = 4

    def __post_init__(self) -> None:
        settle(self, whole, "pixels", low=1)

    def window(self, window: Window, *, key: Key) -> Window:
        """Move the window by a random offset."""
        # the remainder favors no offset by more than 2**-28
        drawn = jax.random.bits(key, (2,), jnp.uint32) % jnp.uint32(2 * self.pixels + 1)
        offset = drawn.astype(jnp.int32) - self.pixels
        rows, columns = window.rows + offset[0], window.columns + offset[1]
        return window._replace(rows=rows, columns=columns, outside=jnp.float32(self.outside))


@dataclasses.dataclass(frozen=True)
class Shift(Crop):
    """Move by a random offset of up to `pixels` in each direction, filled with the mean color.

    Like `Crop`, but the fill is zero after normalization.

    Attributes:
      pixels: the largest move in each direction.

    Reference: KD-LTS, its section on experiments ("random pixel shifts of up to four pixels"),
      which names normalization first.
    """

    kind: ClassVar[str] = "shift"
    outside: ClassVar[float] = 1.0


@dataclasses.dataclass(frozen=True)
class ResizedCrop:
    """Take a part of random area and aspect, resized to the size of the image (bilinear).

    The size is that of `resized_part`, the place is uniform (central if none of ten sizes fits).
    Row i of h rows shown as H is `(i + 1/2) h / H - 1/2`, kept inside the part.

    Attributes:
      scale: bounds of the part's area, as a share of the image's.
      ratio: bounds of the part's width / height.

    Reference: Szegedy et al., "Going deeper with convolutions" (2015), section 6; KD-LTS for
      scale (.1, 1) and ratio (.8, 1.25).
    """

    kind: ClassVar[str] = "resized_crop"
    moves: ClassVar[bool] = True
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)

    def __post_init__(self) -> None:
        settle(self, interval, "scale", high=1.0)
        settle(self, interval, "ratio")

    def window(self, window: Window, *, key: Key) -> Window:
        """Give the window of a random part."""
        height, width = window.rows.shape[0], window.columns.shape[0]
        shape_key, place_key = stream(key, "shape"), stream(key, "place")
        share, turn = jax.random.uniform(shape_key, (2, ATTEMPTS))
        size = (height, width)
        (h, w), fits = resized_part(jnp, size, share, turn, self.scale, self.ratio)
        place = jnp.where(fits, jax.random.uniform(place_key, (2,)), 0.5)

        def axis(size: int, part: AnyArray, at: Array) -> Array:
            # uniform numbers lie below 1, but their product with a whole number may be rounded up
            # to it
            begin = jnp.minimum(jnp.floor(at * (size - part + 1)), size - part)
            center = (jnp.arange(size, dtype=jnp.float32) + 0.5) * (part / size) - 0.5
            return begin + jnp.clip(center, 0, part - 1)

        return Window(axis(height, h, place[0]), axis(width, w, place[1]), jnp.float32(0))


@dataclasses.dataclass(frozen=True)
class Flip:
    """Exchange left and right with probability 1/2."""

    kind: ClassVar[str] = "flip"

    def window(self, window: Window, *, key: Key) -> Window:
        """Reverse the columns of the window with probability 1/2."""
        turned = jax.random.bits(key, (), jnp.uint32) >= jnp.uint32(2**31)
        return window._replace(columns=jnp.where(turned, window.columns[::-1], window.columns))


AUGMENTATIONS: dict[str, type[Crop] | type[ResizedCrop] | type[Flip]] = {
    "crop": Crop,
    "shift": Shift,
    "resized_crop": ResizedCrop,
    # last, so that it flips the result of the others
    "flip": Flip,
}
"""The augmentations that `Training.augment` knows by name, in the order in which they are
applied."""


def chosen(training: Training) -> tuple[tuple[Windowed | Change, str], ...]:
    """List the augmentations of a training as objects, in the order in which they are applied.

    Returns:
      Pairs of an augmentation and the name of its rng stream.
    """
    named: dict[str, Windowed] = {
        "crop": Crop(training.augment_pixels),
        "shift": Shift(training.augment_pixels),
        "resized_crop": ResizedCrop(training.augment_scale, training.augment_ratio),
        "flip": Flip(),
    }
    pairs: list[tuple[Windowed | Change, str]] = []
    for place, given in enumerate(training.augment):
        augmentation = named[given] if isinstance(given, str) else given
        assert isinstance(augmentation, Windowed) or callable(augmentation), "settings check this"
        pairs.append((augmentation, getattr(augmentation, "kind", f"own {place}")))
    order = {kind: number for number, kind in enumerate(AUGMENTATIONS)}
    return tuple(sorted(pairs, key=lambda pair: order.get(pair[1], len(order))))


def check(training: Training, data: Images) -> None:
    """Raise if augmentations do not fit the images of some data, or do not return images.

    Args:
      training: its `augment`.
      data: the data or stream.
    """
    kinds = [kind for _, kind in chosen(training)]
    if repeated := sorted({kind for kind in kinds if kinds.count(kind) > 1}):
        raise ValueError(f"`augment` holds {repeated[0]!r} more than once; leave out the repeats")
    for made, kind in chosen(training):
        pixels = getattr(made, "pixels", 0) if isinstance(made, Crop) else 0
        if pixels >= min(data.shape[:2]):
            option = "`augment_pixels`" if kind in training.augment else "`augment` with pixels"
            raise ValueError(
                f"{option} {pixels} can move images of {data.shape[:2]} out of view "
                f"({data.name!r}); use fewer"
            )
        if kind == "resized_crop" and getattr(data, "train_crop", None) == "random":
            raise ValueError(
                f"`augment` holds 'resized_crop', but the stream {data.name!r} already takes such "
                f"crops; leave it out, or make the stream with train_crop='center'"
            )
    if any(not isinstance(made, tuple(AUGMENTATIONS.values())) for made, _ in chosen(training)):
        x = jax.ShapeDtypeStruct((1, *data.shape), jnp.float32)
        mean = jax.ShapeDtypeStruct(data.shape[-1:], jnp.float32)
        key = jax.eval_shape(lambda: jax.random.key(0))
        jax.eval_shape(lambda x, mean, key: augmented(x, training, mean, key=key), x, mean, key)


def windows(shape: tuple[int, int], positions: Array, training: Training, *, key: Key) -> Window:
    """Draw the windows of some images of a batch.

    Args:
      shape: (height, width).
      positions: int32 [images], places in the whole batch.
      training: its `augment` and the settings of that.
      key: of this replica and step.

    Returns:
      A Window whose leaves have a leading axis of images. Each augmentation draws from the rng
      stream of its name, so adding one does not change the others.
    """
    start = Window(
        jnp.arange(shape[0], dtype=jnp.int32),
        jnp.arange(shape[1], dtype=jnp.int32),
        jnp.float32(0),
    )

    def one(position: Array) -> Window:
        window = start
        for made, name in chosen(training):
            if isinstance(made, Windowed):
                window = _changed_window(made, window, stream(key, name, position))
        return window

    return jax.vmap(one)(positions)


def _changed_window(made: Windowed, window: Window, key: Key) -> Window:
    """Apply one more augmentation to a window, and check what a user's returns."""
    if isinstance(made, tuple(AUGMENTATIONS.values())):
        return made.window(window, key=key)
    with relaxed_types():
        new = made.window(window, key=key)
    like = tuple(x.shape for x in window)
    if not isinstance(new, Window) or tuple(jnp.shape(x) for x in new) != like:
        raise ValueError(
            f"`augment` {made!r} must give a Window of rows {like[0]}, columns {like[1]} and a "
            f"number outside, got {new!r}"
        )
    exact = all(jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer) for x in new[:2])
    types = (*2 * (jnp.int32 if exact else jnp.float32,), jnp.float32)
    return Window(*(jnp.asarray(x, t) for x, t in zip(new, types, strict=True)))


def seen_through(x: AnyArray, window: Window, mean: Array) -> Array:
    """Apply windows to raw images.

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
            # lower precision would lose some of the 8 bits
            precision="highest",
            optimize=[(0, 1), (0, 1)],
        )
    else:
        # products of floats would spread those that are not finite
        forms = READERS if x.dtype == jnp.uint8 else {"default": gathered}
        new = jax.lax.platform_dependent(x, window.rows, window.columns, **forms)
    visible = inside(window.rows, height)[:, :, None] & inside(window.columns, width)[:, None, :]
    fill = window.outside[:, None] * mean[None]
    return jnp.where(visible[..., None], new, fill[:, None, None])


def gathered(x: Array, rows: Array, columns: Array) -> Array:
    """The pixels in these rows and columns, float32; any where these are outside the image.

    It is one gather of pixels: the fastest on a CPU of what was measured (slices of padded images,
    rows then columns, rolls, products with one-hot matrices); 128 images of 32x32x3 inside a loop
    take 0.4 to 0.9 ms more than unaugmented ones, parts that are resized 2 to 3.5.
    """
    image = jnp.arange(x.shape[0])[:, None, None]
    rows = jnp.clip(rows, 0, x.shape[1] - 1)[:, :, None]
    columns = jnp.clip(columns, 0, x.shape[2] - 1)[:, None, :]
    return x.at[image, rows, columns].get(mode="promise_in_bounds").astype(jnp.float32)


def multiplied(x: Array, rows: Array, columns: Array) -> Array:
    """As `gathered`, of uint8 images, by products with one-hot matrices, which suit a TPU.

    They are exact: bfloat16 holds whole numbers up to 256, and each sum has one term.
    """

    def chosen(index: Array, size: int) -> Array:
        places = jnp.arange(size, dtype=jnp.int32)[None, None]
        return (index[:, :, None] == places).astype(jnp.bfloat16)

    _, height, width, _ = x.shape
    of_rows, of_columns = chosen(rows, height), chosen(columns, width)
    new = jnp.einsum("bih,bhwc->biwc", of_rows, x.astype(jnp.bfloat16), precision="default")
    return jnp.einsum(
        "bjw,biwc->bijc", of_columns, new, precision="default",
        preferred_element_type=jnp.float32,
    )  # fmt: skip


READERS = {"default": gathered, "tpu": multiplied}
"""How whole rows and columns of uint8 images are read, by platform."""


def _weights(index: Array, size: int) -> Array:
    """Weights of `size` rows in the interpolation at `index`: `max(0, 1 - |index - row|)`."""
    # products with these are 3 times as fast on a CPU as gathering each pixel's four neighbors
    away = jnp.abs(index[:, :, None] - jnp.arange(size, dtype=jnp.float32)[None, None])
    return jnp.maximum(1 - away, 0)


def augmented(
    x: Array, training: Training, mean: Array, *, key: Key, first: Array | int = 0
) -> Array:
    """Augment a batch, or a part of it, as `training.augment` says.

    Args:
      x: raw images, uint8 or float32 [images, height, width, channels].
      training: the settings.
      mean: float32 [channels], the data's mean in the same raw units.
      key: of this replica and step.
      first: place of the first image in the whole batch.

    Returns:
      Raw images in float32.
    """
    positions = jnp.arange(x.shape[0], dtype=jnp.int32) + first
    size = (x.shape[1], x.shape[2])
    changes = [(made, name) for made, name in chosen(training) if not isinstance(made, Windowed)]
    if len(changes) == len(training.augment):
        x = jnp.asarray(x).astype(jnp.float32)
    else:
        x = seen_through(x, windows(size, positions, training, key=key), mean)

    def one(image: Array, position: Array) -> Array:
        for made, name in changes:
            with relaxed_types():
                new = jnp.asarray(made(image[None], key=stream(key, name, position)))
            if new.shape != (1, *image.shape):
                raise ValueError(
                    f"`augment` {made!r} must return images of the shape of its argument, "
                    f"{(1, *image.shape)}, got {new.shape}"
                )
            image = new[0].astype(jnp.float32)
        return image

    return jax.vmap(one)(x, positions) if changes else x


__all__ = [
    "Crop",
    "Flip",
    "Images",
    "ResizedCrop",
    "Shift",
    "Window",
    "Windowed",
]


def __dir__() -> list[str]:
    return __all__
