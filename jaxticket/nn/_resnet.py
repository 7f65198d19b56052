"""ResNet-18 and ResNet-50, for ImageNet and for smaller images."""

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
from jaxticket.nn.residual_blocks import Basic, Bottleneck, Residual
from jaxticket.nn.symmetry import residual
from jaxticket.typing import Network, Tap

BLOCKS: dict[int, tuple[type[Residual], tuple[int, ...]]] = {
    18: (Basic, (2, 2, 2, 2)),
    50: (Bottleneck, (3, 4, 6, 3)),
}
"""Kind of block, and how many in each stage, by depth."""
STEMS = ("imagenet", "small")


class _Resnet(nn.Module):
    depth: int
    features: tuple[int, ...]
    classes: int
    stem: str
    shortcut: str
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        layer = functools.partial(Conv, style=self.style, axis_name=self.axis_name)
        if self.stem == "imagenet":
            stem = layer(self.features[0], kernel=(7, 7), stride=2, name="block_0")
        else:
            stem = layer(self.features[0], name="block_0")
        x = tap("block_0", stem(x, train=train))
        if self.stem == "imagenet":
            x = layers.max_pool(x, 3, 2, 1)
        kind, blocks = BLOCKS[self.depth]
        for features, stride, name in layers.staged(blocks, self.features):
            block = kind(layer, features, stride, self.shortcut, name=name)
            x = block(x, train=train, tap=tap)
        return tap(
            "dense", layers.dense(layers.global_average(x), self.classes, self.style, name="dense")
        )


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
    """ResNet-18 or ResNet-50: a stem, four stages of residual blocks with 64, 128, 256 and 512
    channels (bottlenecks put out four times as many), global average pooling, one dense layer.

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
      norm: normalisation after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      shortcut: where the size changes, "projection" (1x1 convolution and normalisation) or
        "padding" (pixels left out, zeros for new channels on both sides: option A).
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalisation starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

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

    def module(width: float) -> nn.Module:
        features = tuple(layers.channels(base, width) for base in (64, 128, 256, 512))
        return _Resnet(depth, features, classes, stem, shortcut, style)

    return family_network(
        resnet, module, shape, classes, output="dense", symmetry=residual,
        stages=layers.block_names(BLOCKS[depth][1]), width=width,
        depth=depth, stem=stem, norm=norm, shortcut=shortcut, init=init, scale=scale,
    )  # fmt: skip


resnet18 = functools.partial(resnet, depth=18)
resnet50 = functools.partial(resnet, depth=50)
