"""Corruptions of images: noise, blur, weather, changes of light and form, at five severities.

They are the 19 of CIFAR-10-C, with the constants that were published for images of 32 x 32 pixels:
lengths are pixels for images of any size, but those of "elastic_transform", which are shares of the
side. Arrays are computed by NumPy and SciPy (BSD licenses), "pixelate" and "jpeg_compression" by
Pillow (MIT-CMU license). Results are not those of the published files bit for bit:

- "frost" is drawn, since the published one lays photographs over the images
- "motion_blur" and "snow" blur as ImageMagick does, without its rounding
- the edges of drops of "spatter" are Canny's without hysteresis
- "zoom_blur" and "snow" enlarge images about their center exactly, not by whole pixels, which
  leaves small images as they are
- values are rounded, not cut off

Reference: Hendrycks and Dietterich, "Benchmarking neural network robustness to common corruptions
and perturbations" (2019).
"""

from __future__ import annotations

import dataclasses
import io
import math
import zlib
from collections.abc import Callable, Sequence

import numpy as np
import scipy
from PIL import Image

from jaxticket import _check
from jaxticket.data.alike import LUMA, need_images, white
from jaxticket.data.arrays import Data, Split

SEVERITIES = (1, 2, 3, 4, 5)
# so many images are corrupted at once, in float32
_AT_ONCE = 500
# of the published code: three corners of a square must be distinct
_LEAST = 4

Draw = Callable[[Callable[[np.random.Generator], np.ndarray]], np.ndarray]
"""`draw(one) -> [n, ...]`: what `one(rng)` draws for each of n images."""
Corruption = Callable[[Draw, np.ndarray, int], np.ndarray]
"""`(draw, x, s) -> x` of images [n, height, width, channels] in [0, 1]; s is the severity - 1."""


def corrupt(
    x: np.ndarray,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    white: float | None = None,
    numbers: Sequence[int] | np.ndarray | None = None,
) -> np.ndarray:
    """Corrupt images.

    What is drawn for an image follows from its number, the name, the severity and the seed, and not
    from the other images.

    Args:
      x: images [n, height, width, 1 or 3], uint8 or floating; black is 0. Gray images stay gray.
      name: a name in `CORRUPTIONS`.
      severity: 1 to 5.
      seed: of what is drawn.
      white: the value of white in `x`; None for 255 of uint8 and 1 of floats.
      numbers: [n], the numbers of the images; 0 to n - 1 if None.

    Returns:
      Images of the shape and range of `x`: uint8 where that is uint8 with white 255, else float32.

    Raises:
      ValueError: for an unknown name or severity, arrays that are no images, values outside of
        [0, `white`], and "saturate" of gray images, which have no saturation.

    >>> corrupt(np.full((1, 8, 8, 1), 100, np.uint8), "brightness", 4)[0, 0, 0]
    array([151], dtype=uint8)
    """
    function = CORRUPTIONS[_check.one_of("name", name, tuple(CORRUPTIONS))]
    severity = _check.whole("severity", severity, 1, len(SEVERITIES))
    seed = _check.seed("seed", seed)
    _check_images(x)
    if white is None:
        white = 255.0 if x.dtype == np.uint8 else 1.0
    white = _check.number("white", white, low=0, above=True)
    if not (x.size == 0 or (x.min() >= 0 and x.max() <= white)):
        raise ValueError(
            f"`x` must have values from 0, black, to `white`={white:g}, got {x.min():g} to "
            f"{x.max():g}; corrupt images before they are standardized, and pass `white`"
        )
    if x.shape[3] not in channels_of(name):
        raise ValueError(
            f"`name` {name!r} changes nothing of gray images, which have no saturation; leave it "
            "out"
        )
    numbers = _numbers(numbers, len(x))
    bytes_ = x.dtype == np.uint8 and white == 255
    found = np.empty(x.shape, np.uint8 if bytes_ else np.float32)
    for start in range(0, len(x), _AT_ONCE):
        here = slice(start, start + _AT_ONCE)
        rngs = [
            np.random.default_rng([seed, zlib.crc32(name.encode()), severity, int(number)])
            for number in numbers[here]
        ]
        images = x[here].astype(np.float32) / np.float32(white)
        changed = np.clip(function(_drawing(rngs), images, severity - 1), 0, 1) * white
        found[here] = np.rint(changed) if bytes_ else changed
    return found


def corrupted(
    data: Data,
    name: str,
    severity: int,
    *,
    seed: int = 0,
    splits: str | Sequence[str] = "test",
) -> Data:
    """Give a data set whose images are corrupted, by default those of the test split.

    Mean and standard deviation, with which networks see images, stay. White is 255 of bytes that
    go above 127, else the largest value. Bytes of fewer levels (digits go to 16) become float32
    with the same values, since rounding would be another corruption.

    Args:
      data: images, in memory.
      name: a name in `CORRUPTIONS`.
      severity: 1 to 5.
      seed: of what is drawn.
      splits: which splits, by name.

    Raises:
      ValueError: as of `corrupt`, and for an unknown split or data that are no images.

    >>> import jaxticket as jt
    >>> data = jt.data.load("digits")
    >>> foggy = corrupted(data, "fog", 3)
    >>> foggy.name, float(foggy.train.x.max()), foggy.test.x.dtype
    ('digits-fog-3', 16.0, dtype('float32'))
    """
    need_images("data", data)
    chosen = (splits,) if isinstance(splits, str) else tuple(splits)
    if not chosen:
        raise ValueError("`splits` is empty; pass names such as ('test',)")
    for split in chosen:
        _check.one_of("splits", split, tuple(data.splits))
    kind = np.uint8 if levels(data) == 255 else np.float32

    def changed(split_name: str, split: Split) -> Split:
        x = split.x
        if split_name in chosen:
            x = corrupt(x, name, severity, seed=seed, white=levels(data))
        return Split(x.astype(kind, copy=False), split.y)

    parts = {split_name: changed(split_name, one) for split_name, one in data.splits.items()}
    about = {"name": name, "severity": severity, "seed": seed, "splits": list(chosen)}
    return dataclasses.replace(
        data,
        name=f"{data.name}-{name}-{severity}",
        train=parts["train"],
        test=parts["test"],
        validation=parts.get("validation"),
        more={split_name: parts[split_name] for split_name in data.more},
        about={**data.about, "corruption": about},
    )


def levels(data: Data) -> float:
    """The value of white in all splits of a data set."""
    return max(white(data), *(float(split.x.max()) for split in data.splits.values()))


def channels_of(name: str) -> tuple[int, ...]:
    """The numbers of channels of images that a corruption changes."""
    return (3,) if name == "saturate" else (1, 3)


def corruptions_of(channels: int) -> tuple[str, ...]:
    """The names of the corruptions that change images with 1 or 3 channels."""
    return tuple(name for name in CORRUPTIONS if channels in channels_of(name))


def _check_images(x: np.ndarray) -> None:
    fits = isinstance(x, np.ndarray) and x.ndim == 4 and x.shape[3] in (1, 3)
    known = fits and (x.dtype == np.uint8 or np.issubdtype(x.dtype, np.floating))
    if not known or min(x.shape[1:3]) < _LEAST:
        about = f"{x.dtype} {x.shape}" if isinstance(x, np.ndarray) else type(x).__name__
        raise ValueError(
            "`x` must be a NumPy array of images, uint8 or floating, [n, height, width, 1 or 3] of "
            f"at least {_LEAST} x {_LEAST} pixels, got {about}; see jt.data.corrupted for data sets"
        )


def _numbers(numbers: Sequence[int] | np.ndarray | None, count: int) -> np.ndarray:
    if numbers is None:
        return np.arange(count)
    given = np.asarray(numbers)
    whole = np.issubdtype(given.dtype, np.integer) and given.shape == (count,)
    if not whole or (given < 0).any():
        raise ValueError(
            f"`numbers` must be {count} whole numbers from 0, one for each image, got "
            f"{_check.shown(numbers)}"
        )
    return given


def _drawing(rngs: Sequence[np.random.Generator]) -> Draw:
    return lambda one: np.stack([one(rng) for rng in rngs])


# --- noise


def _normal(draw: Draw, shape: tuple[int, ...], mean: float = 0, std: float = 1) -> np.ndarray:
    return mean + std * draw(lambda rng: rng.standard_normal(shape, np.float32))


def _gaussian_noise(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    return x + _normal(draw, x.shape[1:], std=(0.04, 0.06, 0.08, 0.09, 0.10)[s])


def _shot_noise(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    photons = (500, 250, 100, 75, 50)[s]
    images = iter(x * photons)
    return (draw(lambda rng: rng.poisson(next(images))) / photons).astype(np.float32)


def _impulse_noise(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    share = (0.01, 0.02, 0.03, 0.05, 0.07)[s]
    drawn = draw(lambda rng: rng.random(x.shape[1:], np.float32))
    # half of it white
    return np.where(drawn < share / 2, 1, np.where(drawn < share, 0, x))


def _speckle_noise(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    return x + x * _normal(draw, x.shape[1:], std=(0.06, 0.10, 0.12, 0.16, 0.20)[s])


# --- blur


def _smooth(x: np.ndarray, std: float) -> np.ndarray:
    return scipy.ndimage.gaussian_filter(x, (0, std, std, 0), mode="nearest")


def _gaussian_blur(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    return _smooth(x, (0.4, 0.6, 0.7, 0.8, 1)[s])


def _glass_blur(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    std, times = ((0.05, 1), (0.25, 1), (0.4, 1), (0.25, 2), (0.4, 2))[s]
    height, width = x.shape[1:3]
    moves = draw(lambda rng: rng.integers(-1, 1, (times, height, width, 2)))
    x, every = _smooth(x, std), np.arange(len(x))
    for again in range(times):
        for h in range(height - 1, 1, -1):
            for w in range(width - 1, 1, -1):
                dy, dx = moves[:, again, h, w].T
                # the published code means to exchange two pixels, but copies the other one
                x[:, h, w] = x[every, h + dy, w + dx]
    return _smooth(x, std)


def _defocus_blur(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    radius, alias = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[s]
    place = np.arange(-2, 3)
    disk = (place[:, None] ** 2 + place**2 <= radius**2).astype(np.float32)
    edge = math.exp(-1 / (2 * alias**2))
    line = np.array([edge, 1, edge]) / (1 + 2 * edge)
    kernel = scipy.ndimage.convolve(disk / disk.sum(), np.outer(line, line), mode="constant")
    return scipy.ndimage.correlate(x, kernel[None, :, :, None], mode="mirror")


def _along(
    draw: Draw, x: np.ndarray, radius: int, std: float, angles: tuple[float, float]
) -> np.ndarray:
    """Blur each image in a direction, drawn in degrees: half a Gaussian of 2 radius + 1 taps."""
    taps = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * std**2))
    taps /= taps.sum()
    angle = np.deg2rad(draw(lambda rng: rng.uniform(*angles, 1))[:, 0])
    height, width = x.shape[1:3]
    every, found = np.arange(len(x))[:, None, None], np.zeros_like(x)
    for i, tap in enumerate(taps):
        dy, dx = (np.ceil(i * f(angle) - 0.5).astype(int)[:, None] for f in (np.sin, np.cos))
        rows = np.clip(np.arange(height) + dy, 0, height - 1)
        columns = np.clip(np.arange(width) + dx, 0, width - 1)
        found += np.float32(tap) * x[every, rows[:, :, None], columns[:, None, :]]
    return found


def _motion_blur(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    radius, std = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[s]
    return _along(draw, x, radius, std, (-45, 45))


def _enlarging(size: int, factor: float) -> np.ndarray:
    """The matrix [size, size] that enlarges a line of pixels about its center, linearly."""
    center = (size - 1) / 2
    source = center + (np.arange(size) - center) / factor
    low = np.clip(np.floor(source).astype(int), 0, max(size - 2, 0))
    share = source - low
    found = np.zeros((size, size), np.float32)
    found[np.arange(size), low] = 1 - share
    found[np.arange(size), np.minimum(low + 1, size - 1)] += share
    return found


def _enlarged(x: np.ndarray, factor: float) -> np.ndarray:
    rows, columns = (_enlarging(size, factor) for size in x.shape[1:3])
    wide = np.einsum("wv,nhvc->nhwc", columns, x, optimize=True)
    return np.einsum("hg,ngwc->nhwc", rows, wide, optimize=True)


def _zoom_blur(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    factors = 1 + 0.01 * np.arange((6, 11, 16, 21, 26)[s])
    return (x + sum(_enlarged(x, factor) for factor in factors)) / (len(factors) + 1)


# --- weather


def _gray(x: np.ndarray) -> np.ndarray:
    return (x @ LUMA)[..., None] if x.shape[3] == 3 else x


def _snow(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    mean, std, zoom, least, radius, blur, mix = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95), (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9), (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[s]  # fmt: skip
    flakes = _enlarged(_normal(draw, (*x.shape[1:3], 1), mean, std), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = _along(draw, flakes, radius, blur, (-135, -45))
    x = mix * x + (1 - mix) * np.maximum(x, _gray(x) * 1.5 + 0.5)
    return x + flakes + flakes[:, ::-1, ::-1]


def _fractal(draw: Draw, shape: tuple[int, ...], decay: float) -> np.ndarray:
    """Clouds in [0, 1], [n, height, width, 1], by the diamond-square algorithm."""
    height, width = shape[1:3]
    size = 2 ** math.ceil(math.log2(max(height, width)))
    drawn = draw(lambda rng: rng.uniform(-1, 1, size * size))
    maps, used = np.zeros((len(drawn), size, size)), 0
    step, wibble = size, 100.0

    def moved(total: np.ndarray) -> np.ndarray:
        nonlocal used
        count = total[0].size
        moves = drawn[:, used : used + count].reshape(total.shape)
        used += count
        # the square of the wibble, as published
        return total / 4 + wibble**2 * moves

    while step >= 2:
        half = step // 2
        corner = maps[:, ::step, ::step]
        total = corner + np.roll(corner, -1, 1)
        maps[:, half::step, half::step] = moved(total + np.roll(total, -1, 2))
        center, corner = maps[:, half::step, half::step], maps[:, ::step, ::step]
        across = center + np.roll(center, 1, 1) + corner + np.roll(corner, -1, 2)
        down = center + np.roll(center, 1, 2) + corner + np.roll(corner, -1, 1)
        maps[:, ::step, half::step] = moved(across)
        maps[:, half::step, ::step] = moved(down)
        step, wibble = half, wibble / decay
    low, high = (f(maps, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
    return ((maps - low) / (high - low)).astype(np.float32)[:, :height, :width, None]


def _frost(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    image, frost = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[s]
    # crystals are the ridges of a fractal
    ridges = 1 - np.abs(2 * _fractal(draw, x.shape, 1.6) - 1)
    tint = np.array([0.8, 0.9, 1.0], np.float32) if x.shape[3] == 3 else np.float32(0.9)
    return image * x + frost * ridges * tint


def _fog(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    amount, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[s]
    most = x.max(axis=(1, 2, 3), keepdims=True)
    return (x + amount * _fractal(draw, x.shape, decay)) * most / (most + amount)


def _spatter(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    mean, std, blur, least, mix = (
        (0.62, 0.1, 0.7, 0.7, 0.5), (0.65, 0.1, 0.8, 0.7, 0.5), (0.65, 0.3, 1, 0.69, 0.5),
        (0.65, 0.1, 0.7, 0.69, 0.6), (0.65, 0.1, 0.5, 0.68, 0.6),
    )[s]  # fmt: skip
    liquid = _smooth(_normal(draw, (*x.shape[1:3], 1), mean, std), blur)
    liquid = np.where(liquid < least, 0, liquid)
    if SEVERITIES[s] <= 3:
        drops = liquid * _drops(liquid)
        most = drops.max(axis=(1, 2, 3), keepdims=True)
        # water
        return x + mix * drops / np.where(most > 0, most, 1) * _colored((175, 238, 238), x)
    mud = _smooth((liquid > least).astype(np.float32), mix)
    mud = np.where(mud < 0.8, 0, mud)
    return x * (1 - mud) + mud * _colored((63, 42, 20), x)


def _drops(liquid: np.ndarray) -> np.ndarray:
    """How bright drops are: their distances from edges, equalized and embossed, [0, 1]."""
    ndimage = scipy.ndimage
    far = [
        ndimage.distance_transform_edt(~one) if one.any() else np.full(one.shape, 20.0)
        for one in _edges(liquid[..., 0])
    ]
    far = np.floor(ndimage.uniform_filter(np.minimum(far, 20), (0, 3, 3), mode="mirror"))
    below = np.stack([(far <= level).mean(axis=(1, 2)) for level in range(21)])
    rank = np.take_along_axis(below.T, far.reshape(len(far), -1).astype(int), axis=1)
    least = rank.min(axis=1, keepdims=True)
    equal = ((rank - least) / np.where(least < 1, 1 - least, 1)).reshape(far.shape)
    emboss = np.array([[-2, -1, 0], [-1, 1, 1], [0, 1, 2]])
    embossed = np.clip(ndimage.correlate(equal, emboss[None], mode="mirror"), 0, 1)
    return ndimage.uniform_filter(embossed, (0, 3, 3), mode="mirror")[..., None].astype(np.float32)


def _edges(x: np.ndarray) -> np.ndarray:
    """Where the slope of images [n, height, width] is steep, and steepest in its direction."""
    # Sobel's filter, of each image alone
    rise = np.outer([1, 2, 1], [-1, 0, 1])
    dy, dx = (scipy.ndimage.correlate(x, k[None], mode="nearest") for k in (rise.T, rise))
    steep = np.abs(dy) + np.abs(dx)
    around = np.pad(steep, ((0, 0), (1, 1), (1, 1)))
    height, width = x.shape[1:]

    def greatest(down: int, right: int) -> np.ndarray:
        before = around[:, 1 - down : 1 - down + height, 1 - right : 1 - right + width]
        after = around[:, 1 + down : 1 + down + height, 1 + right : 1 + right + width]
        return (steep > before) & (steep >= after)

    flat = math.tan(math.pi / 8)
    kept = np.select(
        [np.abs(dy) < flat * np.abs(dx), np.abs(dx) < flat * np.abs(dy), dx * dy < 0],
        [greatest(0, 1), greatest(1, 0), greatest(1, -1)],
        greatest(1, 1),
    )
    return kept & (steep > 150 / 255)


def _colored(color: tuple[int, int, int], x: np.ndarray) -> np.ndarray:
    """A color in [0, 1], or its brightness for gray images."""
    found = np.array(color, np.float32) / 255
    return found if x.shape[3] == 3 else found @ LUMA


# --- light and form


def _brightness(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    # the value of HSV alone is raised, so that channels keep their ratios; black becomes gray
    value = x.max(axis=3, keepdims=True)
    raised = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[s], 0, 1)
    return np.where(value > 0, x / np.where(value > 0, value, 1), 1) * raised


def _saturate(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    scale, shift = ((0.3, 0), (0.1, 0), (1.5, 0), (2, 0.1), (2.5, 0.2))[s]
    value, low = x.max(axis=3, keepdims=True), x.min(axis=3, keepdims=True)
    spread = value - low
    # gray has the hue of red
    hue = np.where(spread > 0, (value - x) / np.where(spread > 0, spread, 1), (0, 1, 1))
    saturation = spread / np.where(value > 0, value, 1)
    return value * (1 - np.clip(saturation * scale + shift, 0, 1) * hue)


def _contrast(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    mean = x.mean(axis=(1, 2), keepdims=True)
    return (x - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[s] + mean


def _elastic_transform(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    alpha, std, affine = (
        (0, 0, 0.08), (0.05, 0.2, 0.07), (0.08, 0.06, 0.06), (0.1, 0.04, 0.05), (0.1, 0.03, 0.03),
    )[s]  # fmt: skip
    height, width = x.shape[1:3]
    side = min(height, width)
    center, arm = np.array([height // 2, width // 2]), side // 3
    corners = center + np.array([[arm, arm], [arm, -arm], [-arm, -arm]])
    moved = corners + draw(lambda rng: rng.uniform(-affine * side, affine * side, (3, 2)))
    # where pixels come from: an affine map that takes the moved corners back
    back = np.linalg.solve(np.concatenate([moved, np.ones((len(x), 3, 1))], axis=2), corners)
    grid = np.stack(np.meshgrid(np.arange(height), np.arange(width), indexing="ij"))
    source = np.einsum("nij,ihw->njhw", back[:, :2], grid) + back[:, 2, :, None, None]
    x = _sampled(x, source, "mirror")
    if not alpha:
        return x
    moves = draw(lambda rng: rng.uniform(-1, 1, (2, height, width)))
    smooth = scipy.ndimage.gaussian_filter(
        moves, (0, 0, std * side, std * side), mode="reflect", truncate=3
    )
    return _sampled(x, grid + alpha * side * smooth, "reflect")


def _sampled(x: np.ndarray, source: np.ndarray, mode: str) -> np.ndarray:
    """The pixels of images at places [n, 2, height, width], linearly."""
    found = np.empty_like(x)
    for place in np.ndindex(len(x), x.shape[3]):
        i, channel = place
        found[i, ..., channel] = scipy.ndimage.map_coordinates(
            x[i, ..., channel], source[i], order=1, mode=mode
        )
    return found


def _through(change: Callable[[Image.Image], Image.Image], x: np.ndarray) -> np.ndarray:
    """Pass each image through Pillow, as bytes."""
    found = np.empty_like(x)
    for i, image in enumerate(np.rint(x * 255).astype(np.uint8)):
        before = Image.fromarray(image[..., 0] if image.shape[2] == 1 else image)
        found[i] = np.asarray(change(before), np.float32).reshape(image.shape) / 255
    return found


def _pixelate(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw
    share, (height, width) = (0.95, 0.9, 0.85, 0.75, 0.65)[s], x.shape[1:3]
    small, box = (int(width * share), int(height * share)), Image.Resampling.BOX
    return _through(lambda image: image.resize(small, box).resize((width, height), box), x)


def _jpeg_compression(draw: Draw, x: np.ndarray, s: int) -> np.ndarray:
    del draw

    def compressed(image: Image.Image) -> Image.Image:
        file = io.BytesIO()
        image.save(file, "JPEG", quality=(80, 65, 58, 50, 40)[s])
        return Image.open(file)

    return _through(compressed, x)


CORRUPTIONS: dict[str, Corruption] = {
    "gaussian_noise": _gaussian_noise,
    "shot_noise": _shot_noise,
    "impulse_noise": _impulse_noise,
    "speckle_noise": _speckle_noise,
    "defocus_blur": _defocus_blur,
    "glass_blur": _glass_blur,
    "motion_blur": _motion_blur,
    "zoom_blur": _zoom_blur,
    "gaussian_blur": _gaussian_blur,
    "snow": _snow,
    "frost": _frost,
    "fog": _fog,
    "spatter": _spatter,
    "brightness": _brightness,
    "contrast": _contrast,
    "saturate": _saturate,
    "elastic_transform": _elastic_transform,
    "pixelate": _pixelate,
    "jpeg_compression": _jpeg_compression,
}
"""The corruptions by name: noise, blur, weather, light and form."""

__all__ = ["CORRUPTIONS", "SEVERITIES", "corrupt", "corrupted"]


def __dir__() -> list[str]:
    return __all__
