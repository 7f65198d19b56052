"""Residual networks: for CIFAR, for ImageNet and smaller images, and wide ones of RigL."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxticket._check import is_integer, one_of
from jaxticket.nn import layers
from jaxticket.nn.family import family_network, wider
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Norm, Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.symmetry import residual
from jaxticket.typing import Network, Tap

STEMS = ("imagenet", "small")


def shorten(x: Array, features: int, stride: int) -> Array:
    """Take every `stride`-th pixel, with zeros for new channels on both sides of the old.

    Reference: He et al. 2016, option A.
    """
    new = max(0, features - x.shape[-1])
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (new // 2, new - new // 2)))


class Block(nn.Module):
    """`relu(inner(x) + shortcut(x))`; the shortcut is x itself if the shapes agree.

    Taps: "<name>/conv_0" and so on for the inner layers, "<name>/shortcut" for a projection, and
    the junction "<name>" for the sum after its ReLU.

    Attributes:
      features: channels of the inner convolutions.
      stride: of the block.
      shortcut: "projection" or "padding".
      style: options of its layers.
      axis_name: mesh axis over which batch statistics are averaged.
    """

    features: int
    stride: int
    shortcut: str
    style: Style
    axis_name: str | None = None

    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """Features, kernel size and stride of each inner convolution: two of 3x3."""
        return (self.features, 3, self.stride), (self.features, 3, 1)

    def conv(
        self, x: Array, features: int, size: int, stride: int, name: str, *, relu: bool,
        style: Style, train: bool, tap: Tap,
    ) -> Array:  # fmt: skip
        """Make a convolution and apply it and its tap."""
        layer = Conv(
            features, style, (size, size), stride, relu=relu, axis_name=self.axis_name, name=name
        )
        return tap(f"{self.name}/{name}", layer(x, train=train))

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        """Map [batch, height, width, in] to [batch, height', width', out]."""
        conv = functools.partial(self.conv, style=self.style, train=train, tap=tap)
        plan, y = self.plan(), x
        for i, (features, size, stride) in enumerate(plan):
            y = conv(y, features, size, stride, f"conv_{i}", relu=i + 1 < len(plan))
        out = y.shape[-1]
        if self.stride != 1 or x.shape[-1] != out:
            if self.shortcut == "projection":
                x = conv(x, out, 1, self.stride, "shortcut", relu=False)
            else:
                x = shorten(x, out, self.stride)
        return tap(str(self.name), jax.nn.relu(x + y))


class Bottleneck(Block):
    """1x1, 3x3 with the stride, and 1x1 to four times the channels, as in torchvision."""

    def plan(self) -> tuple[tuple[int, int, int], ...]:
        """Features, kernel size and stride of each inner convolution."""
        return (self.features, 1, 1), (self.features, 3, self.stride), (4 * self.features, 1, 1)


class Preactivation(Block):
    """`inner(x) + shortcut(x)` with normalization and ReLU before the convolutions."""

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        """Map [batch, height, width, in] to [batch, height', width', features]."""

        def normed(x: Array, name: str) -> Array:
            norm = Norm(self.style, self.axis_name, name=name)
            return tap(f"{self.name}/{name}", jax.nn.relu(norm(x, train=train)))

        bare = _bare(self.style)
        conv = functools.partial(self.conv, relu=False, style=bare, train=train, tap=tap)
        y = normed(x, "norm_0")
        if self.stride != 1 or x.shape[-1] != self.features:
            x = conv(y, self.features, 1, self.stride, "shortcut")
        y = conv(y, self.features, 3, self.stride, "conv_0")
        y = conv(normed(y, "norm_1"), self.features, 3, 1, "conv_1")
        return tap(str(self.name), x + y)


def _bare(style: Style) -> Style:
    return dataclasses.replace(style, norm="none")


class _ResidualNetwork(nn.Module):
    """A stem, stages of blocks, global average pooling and a dense layer.

    Attributes:
      block: kind of block.
      counts: blocks of each stage.
      features: channels of each stage.
      classes: number of logits.
      style: options of all layers.
      stem: "imagenet" or "small"; of preactivation blocks it has 16 channels, no normalization and
        no ReLU, and both follow the last block.
      shortcut: "projection" or "padding".
      axis_name: mesh axis over which batch statistics are averaged.
    """

    block: type[Block]
    counts: tuple[int, ...]
    features: tuple[int, ...]
    classes: int
    style: Style
    stem: str
    shortcut: str
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        before = issubclass(self.block, Preactivation)
        channels, style = (16, _bare(self.style)) if before else (self.features[0], self.style)
        size, stride = (7, 2) if self.stem == "imagenet" else (3, 1)
        stem = Conv(
            channels, style, (size, size), stride, relu=not before, axis_name=self.axis_name,
            name="block_0",
        )  # fmt: skip
        x = tap("block_0", stem(x, train=train))
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, 1)
        for features, stride, name in layers.staged(self.counts, self.features):
            block = self.block(
                features, stride, self.shortcut, self.style, self.axis_name, name=name
            )
            x = block(x, train=train, tap=tap)
        if before:
            norm = Norm(self.style, self.axis_name, name="norm")
            x = tap("norm", jax.nn.relu(norm(x, train=train)))
        x = layers.global_average(x)
        return tap("dense", layers.dense(x, self.classes, self.style, name="dense"))


def _network(
    constructor: Callable[..., Network],
    block: type[Block],
    counts: tuple[int, ...],
    base: tuple[int, ...],
    shape: tuple[int, ...],
    classes: int,
    *,
    style: Style,
    **options: object,
) -> Network:
    """Make the network of a constructor; `base` has the channels of each stage at width 1."""
    stem, shortcut = str(options.get("stem", "small")), str(options.get("shortcut", "projection"))

    def module(width: float) -> nn.Module:
        features = tuple(layers.channels(n, width) for n in base)
        return _ResidualNetwork(block, counts, features, classes, style, stem, shortcut)

    return family_network(
        constructor, module, shape, classes, output="dense", symmetry=residual,
        stages=layers.block_names(counts), scaled=wider, **options,
    )  # fmt: skip


def _stages(depth: int, rest: int, known: str) -> tuple[int, tuple[int, ...]]:
    """Check a depth of 6n + rest, and give it with the n blocks of each of three stages."""
    if not is_integer(depth) or depth < 6 + rest or depth % 6 != rest:
        raise ValueError(f"`depth` must be 6n + {rest}, such as {known}, got {depth!r}")
    return int(depth), ((depth - rest) // 6,) * 3


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
    """CIFAR ResNet of depth 6n + 2: three stages of n blocks of two 3x3 convolutions.

    A 3x3 convolution, the stages with 16, 32 and 64 channels, global average pooling and one dense
    layer.

    Layers: block_0 (the first convolution), block_1_0/conv_0, block_1_0/conv_1, ...,
    block_2_0/shortcut, ..., dense. Taps: every layer by its path, and the junctions block_0,
    block_1_0, ... (after addition and ReLU), dense.

    Args:
      shape: shape of one image, at least 4 pixels high and wide.
      classes: number of logits.
      depth: 6n + 2: 14, 20, 32, 44, 56, 110, ... It counts neither shortcuts nor the first block's.
      width: factor of all channels; WRN-14-8 of the thesis is depth 14 of width 8.
      norm: normalization after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      shortcut: where the size changes, "projection" (1x1 convolution and normalization, OpenLTH) or
        "padding" (every second pixel, zeros for the new channels on both sides: option A).
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalization starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

    Raises:
      ValueError: for an image too small, a depth that is not 6n + 2, and unknown norms, shortcuts,
        initializers or scales.

    Reference: He et al. 2016; OpenLTH; Frankle's thesis, sections 3.3.1 and 5.3.3. ResNet-20 has
      270,896 prunable weights of 272,474 for 10 classes.

    >>> resnet_cifar(depth=14).output
    'dense'
    """
    depth, counts = _stages(depth, 2, "8, 14, 20, 32, 44, 56 or 110")
    one_of("shortcut", shortcut, layers.SHORTCUTS)
    shape = layers.checked_shape(shape, 4, f"resnet_cifar of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")
    return _network(
        resnet_cifar, Block, counts, (16, 32, 64), shape, classes, style=style, shortcut=shortcut,
        depth=depth, width=width, norm=norm, init=init, scale=scale,
    )  # fmt: skip


BLOCKS: dict[int, tuple[type[Block], tuple[int, ...]]] = {
    18: (Block, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""Kind of block and number of blocks in each stage of `resnet`, by depth."""


def resnet(
    shape: tuple[int, ...] = (224, 224, 3),
    classes: int = 1000,
    depth: int = 18,
    *,
    stem: str = "imagenet",
    width: float = 1.0,
    norm: str = "batch",
    shortcut: str = "projection",
    init: str | Initializer = "kaiming_normal",
    scale: str = "uniform",
) -> Network:
    """ResNet-18 or ResNet-50: four stages of residual blocks.

    A stem, the stages with 64, 128, 256 and 512 channels (bottlenecks have four times as many
    outputs), global average pooling and one dense layer.

    Layers: block_0 (the stem), block_1_0/conv_0, ..., block_2_0/shortcut, ..., dense. Taps: every
    layer by its path, and the junctions block_0 (before the max-pool), block_1_0, ... (after
    addition and ReLU), dense.

    Args:
      shape: shape of one image, at least 32 pixels high and wide (8 with the small stem).
      classes: number of logits.
      depth: 18 or 50.
      stem: "imagenet" (7x7 of stride 2 and a 3x3 max-pool of stride 2) or "small" (3x3 of stride 1
        and no pooling, for CIFAR and Tiny-ImageNet).
      width: factor of all channels.
      norm: normalization after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      shortcut: where the size changes, "projection" (1x1 convolution and normalization) or
        "padding" (pixels left out, zeros for new channels on both sides: option A).
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalization starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

    Raises:
      ValueError: for an image too small, and unknown depths, stems, norms, shortcuts, initializers
        or scales.

    Reference: He et al. 2016, with the stride of a bottleneck at its 3x3 convolution as in
      torchvision and OpenLTH; Frankle's thesis, sections 4.2 and 5.2. ResNet-50 has 25,502,912
      prunable weights of 25,557,032 for 1000 classes.

    >>> resnet((64, 64, 3), 200, stem="small").output
    'dense'
    """
    depth = one_of("depth", depth, tuple(BLOCKS))
    one_of("stem", stem, STEMS)
    one_of("shortcut", shortcut, layers.SHORTCUTS)
    least = 32 if stem == "imagenet" else 8
    shape = layers.checked_shape(shape, least, f"resnet of depth {depth} with the {stem} stem")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")
    return _network(
        resnet, *BLOCKS[depth], (64, 128, 256, 512), shape, classes, style=style, stem=stem,
        shortcut=shortcut, depth=depth, width=width, norm=norm, init=init, scale=scale,
    )  # fmt: skip


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
    """Pre-activation wide ResNet of depth 6n + 4: three stages of n blocks.

    A 3x3 convolution to 16 channels, the stages (in each block twice normalization, ReLU and a 3x3
    convolution) with `width` times 16, 32 and 64 channels, normalization, ReLU, global average
    pooling and one dense layer.

    Where sizes change, the shortcut is a 1x1 convolution of the normalized input. The other wide
    networks of the sources (`wrn14_8` ...) are `resnet_cifar`, which normalizes after convolutions.

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
      scale: what the scale of the normalization starts at, "ones" or "uniform" (U[0, 1]).

    Raises:
      ValueError: for an image too small, a depth that is not 6n + 4, and unknown norms,
        initializers or scales.

    Reference: Zagoruyko & Komodakis 2016; Evci et al. 2020 (RigL). WRN-16-4 has 2,745,264 prunable
      weights of 2,748,890 for 10 classes.

    >>> wide_resnet(width=0.5).output
    'dense'
    """
    depth, counts = _stages(depth, 4, "10, 16, 22, 28 or 40")
    shape = layers.checked_shape(shape, 4, f"wide_resnet of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none")
    return _network(
        wide_resnet, Preactivation, counts, (16, 32, 64), shape, classes, style=style,
        depth=depth, width=width, norm=norm, init=init, scale=scale,
    )  # fmt: skip


resnet14 = functools.partial(resnet_cifar, depth=14)
"""ResNet-14 for small images: `resnet_cifar` of this depth."""
resnet20 = functools.partial(resnet_cifar, depth=20)
"""ResNet-20 for small images: `resnet_cifar` of this depth."""
resnet32 = functools.partial(resnet_cifar, depth=32)
"""ResNet-32 for small images: `resnet_cifar` of this depth."""
resnet44 = functools.partial(resnet_cifar, depth=44)
"""ResNet-44 for small images: `resnet_cifar` of this depth."""
resnet56 = functools.partial(resnet_cifar, depth=56)
"""ResNet-56 for small images: `resnet_cifar` of this depth."""
resnet110 = functools.partial(resnet_cifar, depth=110)
"""ResNet-110 for small images: `resnet_cifar` of this depth."""
# named by depth and width; the thesis counts no shortcuts, where SNIP says WRN-16-8, 16-10, 22-8
wrn14_8 = functools.partial(resnet_cifar, depth=14, width=8)
"""WRN-14-8: `resnet_cifar` of depth 14, 8 times as wide."""
wrn14_10 = functools.partial(resnet_cifar, depth=14, width=10)
"""WRN-14-10: `resnet_cifar` of depth 14, 10 times as wide."""
wrn20_8 = functools.partial(resnet_cifar, depth=20, width=8)
"""WRN-20-8: `resnet_cifar` of depth 20, 8 times as wide."""
wrn32_2 = functools.partial(resnet_cifar, depth=32, width=2)
"""WRN-32-2: `resnet_cifar` of depth 32, 2 times as wide."""
resnet18 = functools.partial(resnet, depth=18)
"""ResNet-18: `resnet` of this depth."""
resnet50 = functools.partial(resnet, depth=50)
"""ResNet-50: `resnet` of this depth."""
wrn16_4 = functools.partial(wide_resnet, depth=16, width=4)
"""WRN-16-4: `wide_resnet` of depth 16, 4 times as wide."""
wrn22_2 = functools.partial(wide_resnet, depth=22, width=2)
"""WRN-22-2: `wide_resnet` of depth 22, 2 times as wide."""
