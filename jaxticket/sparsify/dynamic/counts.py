"""Layers that a density leaves without weights."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxticket import masks
from jaxticket.typing import Mask


def require_some(
    mask: Mask, kept: Sequence[int] | np.ndarray, density: float, setting: str, other: str
) -> None:
    """Raise where a layer keeps nothing, naming the layers.

    Args:
      mask: the dense mask of a network.
      kept: by layer, in the order of `jax.tree.leaves`.
      density: that asks for so many.
      setting: what spreads it over the layers, in backticks.
      other: what to use in its place.
    """
    paths = [path for path, *_ in masks.items(masks.known(mask))]
    if empty := [path for path, count in zip(paths, kept, strict=True) if not count]:
        raise ValueError(
            f"`density` {density:g} with {setting} keeps no weight of "
            f"{', '.join(map(repr, empty))}; use a higher density or {other}"
        )
