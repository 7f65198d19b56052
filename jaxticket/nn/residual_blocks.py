"""Residual blocks: two 3x3 convolutions, or a bottleneck, beside a shortcut."""

from __future__ import annotations

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxticket.typing import Tap

Layer = Callable[..., nn.Module]
"""`Conv` with style and axis name filled in."""


def shorten(x: Array, features: int, stride: int) -> Array:
    """Every `stride`-th pixel, with zeros for new channels, half before and half after the old.

    Reference: He et al. 2016, option A.
    """
    new = max(0, features - x.shape[-1])
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class Residual(nn.Module):
    """`relu(inner(x) + shortcut(x))`; the shortcut is x itself where sizes agree.

    Taps: "<name>/conv_0" and so on for the inner layers, "<name>/shortcut" for a projection, and
    the junction "<name>" for the sum after its ReLU.

    Attributes:
      layer: makes a convolution with normalisation.
      features: channels of the inner convolutions.
      stride: of the block.
      shortcut: "projection" or "padding".
    """

    layer: Layer
    features: int
    stride: int
    shortcut: str

    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """Features, kernel size and stride of each inner convolution."""
        raise NotImplementedError

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        plan, y = self.plan(), x
        for i, (features, size, stride) in enumerate(plan):
            last = i + 1 == len(plan)
            conv = self.layer(
                features, kernel=(size, size), stride=stride, relu=not last, name=f"conv_{i}"
            )
            y = tap(f"{self.name}/conv_{i}", conv(y, train=train))
        out = y.shape[-1]
        if self.stride != 1 or x.shape[-1] != out:
            if self.shortcut == "projection":
                conv = self.layer(
                    out, kernel=(1, 1), stride=self.stride, relu=False, name="shortcut"
                )
                x = tap(f"{self.name}/shortcut", conv(x, train=train))
            else:
                x = shorten(x, out, self.stride)
        return tap(str(self.name), jax.nn.relu(x + y))


class Basic(Residual):
    """Two 3x3 convolutions, the first with the stride."""

    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """Features, kernel size and stride of each inner convolution."""
        return (self.features, 3, self.stride), (self.features, 3, 1)


class Bottleneck(Residual):
    """1x1, 3x3 with the stride, and 1x1 to four times the channels, as in torchvision."""

    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """Features, kernel size and stride of each inner convolution."""
        return (self.features, 1, 1), (self.features, 3, self.stride), (4 * self.features, 1, 1)
