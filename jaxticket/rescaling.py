"""Factors of a ticket's weights: the weights that are kept, made larger before they are trained.

Masks and weights are host arrays of several networks, [replica, ...]; factors are a float32
[replica] for each leaf that can be pruned, and None for the others, which keep their weights.
"""

from __future__ import annotations

import jax
import numpy as np

from jaxticket import masks
from jaxticket.typing import Mask, Params

RESCALE = ("global", "layer")
"""Which density the kept weights of a layer are divided by: that of the network or its own."""


def by_density(mask: Mask, rescale: str) -> Params:
    """`1 / density` for each prunable leaf.

    A layer of which nothing is kept has the factor of one kept weight.

    Args:
      mask: of several networks.
      rescale: "global" for the share of all prunable weights that is kept, "layer" for that of each
        layer.

    Reference: KD-LTS, appendix H, Algorithms 2 to 5.
    """
    leaves, tree = jax.tree.flatten(mask)
    kept = [np.count_nonzero(np.reshape(m, (len(m), -1)), axis=1) for m in leaves]
    sizes = [m[0].size for m in leaves]
    if rescale == "global":
        kept, sizes = [sum(kept)] * len(leaves), [sum(sizes)] * len(leaves)
    made = [
        (size / np.maximum(k, 1)).astype(np.float32) for k, size in zip(kept, sizes, strict=True)
    ]
    return jax.tree.unflatten(tree, made)


def constant(mask: Mask, factor: float) -> Params:
    """One factor for all prunable leaves."""
    return jax.tree.map(lambda m: np.full(len(m), factor, np.float32), mask)


def scaled(params: Params, factors: Params | None) -> Params:
    """Weights of several networks times their factors, of which None is 1."""
    if factors is None:
        return params
    return masks.map_with(
        lambda f, w: w * np.reshape(f, (-1, *(1,) * (w.ndim - 1))),
        factors,
        params,
        other=lambda w: w,
    )


def together(one: Params | None, other: Params | None) -> Params | None:
    """The product of factors; None is 1."""
    if one is None or other is None:
        return other if one is None else one
    return jax.tree.map(np.multiply, one, other)
