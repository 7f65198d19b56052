"""VGG for small images: VGG-11, -13, -16, -19, and the variants of the sources."""

from __future__ import annotations

import functools

import flax.linen as nn
from jax import Array

from jaxticket._check import flag, one_of, whole
from jaxticket.nn import layers
from jaxticket.nn.family import family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.symmetry import chain
from jaxticket.typing import Network, Tap

BLOCKS = {
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
    # the list of filters that "One ticket" prints has one convolution more than VGG-19
    20: (2, 2, 4, 5, 4),
}
"""Convolutions in each block, by depth."""
POOLS = ("average", "max")


class _Vgg(nn.Module):
    blocks: tuple[tuple[int, int], ...]
    hidden: tuple[int, ...]
    classes: int
    last_pool: str
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        convs = 0
        for i, (convolutions, features) in enumerate(self.blocks):
            if i > 0:
                x = layers.max_pool(x, 2, 2)
            for _ in range(convolutions):
                name = f"conv_{convs}"
                layer = Conv(features, self.style, axis_name=self.axis_name, name=name)
                x = tap(name, layer(x, train=train))
                convs += 1
        if self.last_pool == "max":
            x = layers.max_pool(x, 2, 2)
        x = layers.global_average(x)
        return layers.head(x, self.hidden, self.classes, self.style, tap=tap)


def vgg(
    shape: tuple[int, ...] = (32, 32, 3),
    classes: int = 10,
    depth: int = 16,
    *,
    width: float = 1.0,
    norm: str = "batch",
    dense: int = 0,
    bias: bool = True,
    last_pool: str = "average",
    init: str | Initializer = "kaiming_normal",
    scale: str = "uniform",
) -> Network:
    """VGG for small images: five blocks of 3x3 convolutions and one dense layer.

    The blocks have 64, 128, 256, 512 and 512 channels, with 2x2 max-pools between them and global
    average pooling after the last.

    Layers and taps are conv_0, conv_1, ..., dense_0; every tap is a junction (after normalization
    and ReLU, before the pooling).

    Args:
      shape: shape of one image, at least 16 pixels high and wide (32 where the last pool is "max").
      classes: number of logits.
      depth: 11, 13, 16 or 19: convolutions and the three dense layers that the ImageNet network of
        that name has. 20 is VGG-19 with one convolution more in the fourth block, the list of
        filters that "One ticket" prints (17 convolutions) under the name of VGG-19.
      width: factor of all channels and hidden units.
      norm: normalization after every convolution: "batch", "group" or "none".
      dense: hidden dense layers of 512 units with ReLU before the output layer; 1 is VGG2-16, "two
        fully-connected layers" in the thesis (hidden units and ReLU are our reading of it).
      bias: whether convolutions have biases, as in OpenLTH, also where a normalization follows.
      last_pool: what precedes the dense layers: "average" over the whole map (OpenLTH, "One
        ticket"), or a 2x2 "max" pool before that, as after the other blocks. At 32x32 pixels both
        leave 512 features.
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalization starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

    Raises:
      ValueError: for an image too small, and unknown depths, norms, pools, initializers or scales.

    Reference: OpenLTH; Frankle's thesis, sections 4.2 and 5.3.3; Morcos et al. 2019, appendix A.1.
      VGG-16 has 14,715,584 prunable weights of 14,728,266 for 10 classes.

    >>> vgg().output, vgg(dense=1).output
    ('dense_0', 'dense_1')
    """
    depth = one_of("depth", depth, tuple(BLOCKS))
    one_of("last_pool", last_pool, POOLS)
    dense = whole("dense", dense)
    flag("bias", bias)
    shape = layers.checked_shape(shape, 32 if last_pool == "max" else 16, f"vgg of depth {depth}")
    style = layers.checked_style(init, norm, scale, bias=bias)

    def module(width: float) -> nn.Module:
        sizes = [layers.channels(base, width) for base in (64, 128, 256, 512, 512)]
        hidden = (layers.channels(512, width),) * dense
        blocks = tuple(zip(BLOCKS[depth], sizes, strict=True))
        return _Vgg(blocks, hidden, classes, last_pool, style)

    return family_network(
        vgg, module, shape, classes, output=f"dense_{dense}", symmetry=chain, width=width,
        depth=depth, norm=norm, dense=dense, bias=bias, last_pool=last_pool, init=init,
        scale=scale,
    )  # fmt: skip


vgg11 = functools.partial(vgg, depth=11)
"""VGG-11: `vgg` of this depth."""
vgg13 = functools.partial(vgg, depth=13)
"""VGG-13: `vgg` of this depth."""
vgg16 = functools.partial(vgg, depth=16)
"""VGG-16: `vgg` of this depth."""
vgg19 = functools.partial(vgg, depth=19)
"""VGG-19: `vgg` of this depth."""
vgg2_16 = functools.partial(vgg, depth=16, dense=1)
"""VGG2-16: `vgg` of depth 16 with a hidden dense layer."""
vgg19_one_ticket = functools.partial(vgg, depth=19, init="xavier_normal", scale="ones")
"""VGG-19 with the initialization of "One ticket to win them all"."""
