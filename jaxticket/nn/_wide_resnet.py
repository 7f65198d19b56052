"""Wide residual networks whose blocks normalise first (pre-activation), as RigL uses them."""

from __future__ import annotations

import dataclasses
import functools

import flax.linen as nn
import jax
from jax import Array

from jaxticket._check import is_integer
from jaxticket.nn import layers
from jaxticket.nn.family import family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.symmetry import residual
from jaxticket.typing import Network, Tap


class _Block(nn.Module):
    features: int
    stride: int
    style: Style
    axis_name: str | None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        def normed(x: Array, name: str) -> Array:
            x = layers.Norm(self.style, self.axis_name, name=name)(x, train=train)
            return tap(f"{self.name}/{name}", jax.nn.relu(x))

        def conv(x: Array, size: int, stride: int, name: str) -> Array:
            bare = dataclasses.replace(self.style, norm="none")
            layer = Conv(self.features, bare, (size, size), stride, relu=False, name=name)
            return tap(f"{self.name}/{name}", layer(x, train=train))

        changes = self.stride != 1 or x.shape[-1] != self.features
        y = normed(x, "norm_0")
        if changes:
            x = conv(y, 1, self.stride, "shortcut")
        y = conv(y, 3, self.stride, "conv_0")
        y = conv(normed(y, "norm_1"), 3, 1, "conv_1")
        return tap(str(self.name), x + y)


class _WideResnet(nn.Module):
    blocks: tuple[int, ...]
    features: tuple[int, ...]
    classes: int
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        bare = dataclasses.replace(self.style, norm="none")
        x = tap("block_0", Conv(16, bare, relu=False, name="block_0")(x, train=train))
        for features, stride, name in layers.staged(self.blocks, self.features):
            block = _Block(features, stride, self.style, self.axis_name, name=name)
            x = block(x, train=train, tap=tap)
        x = layers.Norm(self.style, self.axis_name, name="norm")(x, train=train)
        x = layers.global_average(tap("norm", jax.nn.relu(x)))
        return tap("dense", layers.dense(x, self.classes, self.style, name="dense"))


def wide_resnet(
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    depth: int = 16,
    *,
    width: float = 4.0,
    norm: str = "batch",
    init: str | Initializer = "kaiming_normal",
    scale: str = "ones",
) -> Network:
    """Pre-activation wide ResNet of depth 6n + 4: a 3x3 convolution to 16 channels, three stages of
    n blocks (normalisation, ReLU, 3x3 convolution, twice) with `width` times 16, 32 and 64
    channels, normalisation, ReLU, global average pooling, one dense layer.

    Where sizes change, the shortcut is a 1x1 convolution of the normalised input. The other wide
    networks of the sources (`wrn14_8` ...) are `resnet_cifar`, which normalises after convolutions.

    Layers: block_0, block_1_0/conv_0, block_1_0/shortcut, ..., dense. Taps: every layer by its path
    (norm_0 and norm_1 after the ReLU), and the junctions block_0, block_1_0, ... (the sums), norm,
    dense.

    Args:
      shape: shape of one image, at least 4 pixels high and wide.
      classes: number of logits.
      depth: 6n + 4, such as 16, 22, 28 or 40.
      width: factor of the channels of the stages; the first convolution keeps its 16.
      norm: "batch", "group" or "none"; without one, convolutions have biases.
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalisation starts at, "ones" or "uniform" (U[0, 1]).

    Raises:
      ValueError: for an image too small, a depth that is not 6n + 4, and unknown norms,
        initializers or scales.

    Reference: Zagoruyko & Komodakis 2016; Evci et al. 2020 (RigL). WRN-16-4 has 2,745,264 prunable
      weights of 2,748,890 for 10 classes.

    >>> wide_resnet(width=0.5).output
    'dense'
    """
    if not is_integer(depth) or depth < 10 or depth % 6 != 4:
        raise ValueError(f"`depth` must be 6n + 4, such as 10, 16, 22, 28 or 40, got {depth!r}")
    depth = int(depth)
    shape = layers.checked_shape(shape, 4, f"wide_resnet of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")

    blocks = ((depth - 4) // 6,) * 3

    def module(width: float) -> nn.Module:
        features = tuple(layers.channels(base, width) for base in (16, 32, 64))
        return _WideResnet(blocks, features, classes, style)

    return family_network(
        wide_resnet, module, shape, classes, output="dense", symmetry=residual,
        stages=layers.block_names(blocks), width=width,
        depth=depth, norm=norm, init=init, scale=scale,
    )  # fmt: skip


wrn16_4 = functools.partial(wide_resnet, depth=16, width=4)
