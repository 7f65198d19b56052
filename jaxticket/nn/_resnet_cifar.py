"""Residual networks for CIFAR: ResNet-14 to ResNet-110 and their wide variants."""

from __future__ import annotations

import functools

import flax.linen as nn
from jax import Array

from jaxticket._check import is_integer, one_of
from jaxticket.nn import layers
from jaxticket.nn.family import family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.residual_blocks import Basic
from jaxticket.nn.symmetry import residual
from jaxticket.typing import Network, Tap


class _ResnetCifar(nn.Module):
    blocks: tuple[int, ...]
    features: tuple[int, int, int]
    classes: int
    shortcut: str
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        layer = functools.partial(Conv, style=self.style, axis_name=self.axis_name)
        x = tap("block_0", layer(self.features[0], name="block_0")(x, train=train))
        for features, stride, name in layers.staged(self.blocks, self.features):
            block = Basic(layer, features, stride, self.shortcut, name=name)
            x = block(x, train=train, tap=tap)
        return tap(
            "dense", layers.dense(layers.global_average(x), self.classes, self.style, name="dense")
        )


def resnet_cifar(
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    depth: int = 20,
    *,
    width: float = 1.0,
    norm: str = "batch",
    shortcut: str = "projection",
    init: str | Initializer = "kaiming_normal",
    scale: str = "uniform",
) -> Network:
    """CIFAR ResNet of depth 6n + 2: a 3x3 convolution, three stages of n blocks of two 3x3
    convolutions with 16, 32 and 64 channels, global average pooling, one dense layer.

    Layers: block_0 (the first convolution), block_1_0/conv_0, block_1_0/conv_1, ...,
    block_2_0/shortcut, ..., dense. Taps: every layer by its path, and the junctions block_0,
    block_1_0, ... (after addition and ReLU), dense.

    Args:
      shape: shape of one image, at least 4 pixels high and wide.
      classes: number of logits.
      depth: 6n + 2: 14, 20, 32, 44, 56, 110, ... It counts neither shortcuts nor the first block's.
      width: factor of all channels; WRN-14-8 of the thesis is depth 14 of width 8.
      norm: normalisation after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      shortcut: where the size changes, "projection" (1x1 convolution and normalisation, OpenLTH) or
        "padding" (every second pixel, zeros for the new channels on both sides: option A).
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalisation starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

    Raises:
      ValueError: for an image too small, a depth that is not 6n + 2, and unknown norms, shortcuts,
        initializers or scales.

    Reference: He et al. 2016; OpenLTH; Frankle's thesis, sections 3.3.1 and 5.3.3. ResNet-20 has
      270,896 prunable weights of 272,474 for 10 classes.

    >>> resnet_cifar(depth=14).output
    'dense'
    """
    if not is_integer(depth) or depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"`depth` must be 6n + 2, such as 8, 14, 20, 32, 44, 56 or 110, got {depth!r}"
        )
    one_of("shortcut", shortcut, layers.SHORTCUTS)
    depth = int(depth)
    shape = layers.checked_shape(shape, 4, f"resnet_cifar of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")

    blocks = ((depth - 2) // 6,) * 3

    def module(width: float) -> nn.Module:
        first, second, third = (layers.channels(base, width) for base in (16, 32, 64))
        return _ResnetCifar(blocks, (first, second, third), classes, shortcut, style)

    return family_network(
        resnet_cifar, module, shape, classes, output="dense", symmetry=residual,
        stages=layers.block_names(blocks), width=width,
        depth=depth, norm=norm, shortcut=shortcut, init=init, scale=scale,
    )  # fmt: skip


resnet14 = functools.partial(resnet_cifar, depth=14)
resnet20 = functools.partial(resnet_cifar, depth=20)
resnet32 = functools.partial(resnet_cifar, depth=32)
resnet44 = functools.partial(resnet_cifar, depth=44)
resnet56 = functools.partial(resnet_cifar, depth=56)
resnet110 = functools.partial(resnet_cifar, depth=110)
# named by depth and width; the thesis counts no shortcuts, where SNIP says WRN-16-8, 16-10, 22-8
wrn14_8 = functools.partial(resnet_cifar, depth=14, width=8)
wrn14_10 = functools.partial(resnet_cifar, depth=14, width=10)
wrn20_8 = functools.partial(resnet_cifar, depth=20, width=8)
wrn32_2 = functools.partial(resnet_cifar, depth=32, width=2)
