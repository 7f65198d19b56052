"""Explanations: which regions of an image speak for and against an answer."""

from __future__ import annotations

import jax
import numpy as np
from matplotlib.axes import Axes

from jaxticket._check import instance, number, one_of, or_none, whole
from jaxticket.data.alike import white_of
from jaxticket.plots._style import panel
from jaxticket.typing import AnyArray

REGIONS = ("both", "for", "against")
# of the markers of `style`: bluish green and vermilion, which color-blind readers tell apart
FOR, AGAINST = (0.0, 0.62, 0.25), (0.84, 0.15, 0.1)
STRONGEST = 0.85
# of the image, so that colors look alike over black and white
CONTRAST = 0.6


def explanation(
    image: AnyArray,
    weights: AnyArray,
    ax: Axes | None = None,
    *,
    regions: str = "both",
    most: int | None = None,
    scale: float | None = None,
    white: float | None = None,
) -> Axes:
    """Draw regions of an image that speak for an answer in green, those against it in red.

    The stronger the weight of a region, the stronger its color; the image itself is gray, with less
    contrast.

    Args:
      image: raw values, [height, width] or [height, width, 1 or 3 channels].
      weights: of each pixel, [height, width], as `found.by_pixel(image, answer)` of
        `found = jt.explain(runs)` gives them.
      ax: axes to draw on, or None for a new figure.
      regions: "both", or only those "for" or "against" the answer.
      most: draw at most so many different weights, the strongest; all if None.
      scale: the weight that has the full color, to compare panels; the strongest here if None.
      white: the raw value of white; 255 of bytes that go above 127, else the largest value, if
        None.

    Returns:
      The axes, with one image.

    Raises:
      ValueError: for arrays of other shapes, weights that are not finite, and wrong options.

    Reference: Ribeiro et al. (2016); KD-LTS, figures 18, 24 and 25.
    """
    for name, value in (("image", image), ("weights", weights)):
        instance(name, value, (np.ndarray, jax.Array), "an array of a number for each pixel")
    pixels, by_pixel = np.asarray(image), np.asarray(weights, float)
    if pixels.ndim == 2:
        pixels = pixels[..., None]
    if pixels.ndim != 3 or pixels.shape[-1] not in (1, 3) or not pixels.size:
        raise ValueError(
            f"`image` must be [height, width] or [height, width, 1 or 3 channels], got the shape "
            f"{image.shape}; pass found.images[i]"
        )
    if by_pixel.shape != pixels.shape[:2] or not np.isfinite(by_pixel).all():
        raise ValueError(
            f"`weights` must be a finite number for each pixel, {pixels.shape[:2]}, got the shape "
            f"{by_pixel.shape}; pass found.by_pixel(image, answer) of a network that did not "
            f"diverge"
        )
    one_of("regions", regions, REGIONS)
    most = or_none(whole)("most", most, low=1)
    scale = or_none(number)("scale", scale, low=0, above=True)
    white = or_none(number)("white", white, low=0, above=True)
    if white is None:
        white = white_of(pixels)
    if regions != "both":
        by_pixel = np.maximum(by_pixel, 0) if regions == "for" else np.minimum(by_pixel, 0)
    if most is not None:
        sizes = np.unique(np.abs(by_pixel[by_pixel != 0]))
        if len(sizes) > most:
            by_pixel = np.where(np.abs(by_pixel) >= sizes[-most], by_pixel, 0)
    strongest = float(np.abs(by_pixel).max()) if scale is None else scale
    opacity = STRONGEST * np.minimum(np.abs(by_pixel) / (strongest or 1.0), 1)[..., None]
    color = np.where(by_pixel[..., None] > 0, FOR, AGAINST)
    gray = np.clip(pixels.astype(float).mean(axis=-1, keepdims=True) / white, 0, 1)
    gray = 0.5 + CONTRAST * (gray - 0.5)
    with panel(ax) as shown:
        shown.grid(False)
        shown.imshow(
            (1 - opacity) * gray + opacity * color, vmin=0, vmax=1, interpolation="nearest"
        )
        shown.set(xticks=[], yticks=[])
    return shown
