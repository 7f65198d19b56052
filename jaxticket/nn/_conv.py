"""Conv-2, Conv-4, Conv-6 and Conv-8."""

from __future__ import annotations

import functools

import flax.linen as nn
from jax import Array

from jaxticket._check import one_of
from jaxticket.nn import layers
from jaxticket.nn.family import family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.symmetry import chain
from jaxticket.typing import Network, Tap

DEPTHS = (2, 4, 6, 8)


class _ConvNet(nn.Module):
    pairs: tuple[int, ...]
    hidden: tuple[int, ...]
    classes: int
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        for i, features in enumerate(self.pairs):
            for name in (f"conv_{2 * i}", f"conv_{2 * i + 1}"):
                layer = Conv(features, self.style, axis_name=self.axis_name, name=name)
                x = tap(name, layer(x, train=train))
            x = layers.max_pool(x, 2, 2)
        x = x.reshape(x.shape[0], -1)
        return layers.head(x, self.hidden, self.classes, self.style, tap=tap)


def conv(
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    depth: int = 4,
    *,
    width: float = 1.0,
    norm: str = "none",
    init: str | Initializer = "glorot_normal",
    scale: str = "ones",
) -> Network:
    """Conv-2, -4, -6 and -8: pairs of 3x3 convolutions and three dense layers.

    Each pair is followed by a 2x2 max-pool; the dense layers have 256, 256 and `classes` units,
    with ReLU between all layers. The pairs have 64, 128, 256 and 512 channels. Layers and taps are
    conv_0, conv_1, ..., dense_0, dense_1, dense_2; every tap is a junction.

    Args:
      shape: shape of one image, at least 2^(depth / 2) pixels high and wide.
      classes: number of logits.
      depth: number of convolutions: 2, 4, 6 or 8.
      width: factor of all channels and hidden units.
      norm: normalization after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalization starts at, "ones" or "uniform" (U[0, 1]).

    Raises:
      ValueError: for an image too small, and unknown depths, norms, initializers or scales.

    Reference: Frankle & Carbin 2019; Frankle's thesis, section 3.3.1. Conv-2, -4, -6, -8 have
      4,300,992, 2,425,024, 2,261,184 and 5,275,840 prunable weights on CIFAR-10.

    >>> conv(depth=2).output
    'dense_2'
    """
    depth = one_of("depth", depth, DEPTHS)
    shape = layers.checked_shape(shape, 2 ** (depth // 2), f"conv of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")

    def module(width: float) -> nn.Module:
        pairs = tuple(layers.channels(64 * 2**i, width) for i in range(depth // 2))
        return _ConvNet(pairs, (layers.channels(256, width),) * 2, classes, style)

    return family_network(
        conv, module, shape, classes, output="dense_2", symmetry=chain, width=width,
        depth=depth, norm=norm, init=init, scale=scale,
    )  # fmt: skip


conv2 = functools.partial(conv, depth=2)
"""Conv-2: `conv` of this depth."""
conv4 = functools.partial(conv, depth=4)
"""Conv-4: `conv` of this depth."""
conv6 = functools.partial(conv, depth=6)
"""Conv-6: `conv` of this depth."""
conv8 = functools.partial(conv, depth=8)
"""Conv-8: `conv` of this depth."""
