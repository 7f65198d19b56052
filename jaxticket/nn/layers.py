"""Layers, pooling and checks of options that the convolutional networks share.

Names: the parameters of a layer lie under its path ("block_1_0/conv_0/kernel",
"block_1_0/conv_0/norm/scale"), and the tap of a layer has that path as its name. A tap whose name
has no "/" is a junction: all paths from the input to the logits pass through it (a layer of a
chain, a block after its addition or concatenation, the logits). Names with a "/" are inside a
block, which may have other paths. In natural order (block_2 before block_10) the names of the
layers are in the order of the forward pass.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jaxticket._check import example_shape, from_table, one_of
from jaxticket.nn.convolution import conv
from jaxticket.nn.initializers import INITIALIZERS, Initializer
from jaxticket.typing import Tap

NORMS = ("batch", "group", "none")
"""What `norm` of a network may be."""
SCALES = ("ones", "uniform")
"""What `scale` of a network may be: what the scale of its normalization starts at."""
SHORTCUTS = ("projection", "padding")
"""What `shortcut` of a residual network may be where its shape changes."""


@dataclass(frozen=True)
class Style:
    """Options of all layers of a network.

    Attributes:
      init: name of the kernels' initializer, or a function.
      norm: "batch", "group" or "none".
      scale: what the scale of the normalization starts at: "ones" or "uniform" (U[0, 1]).
      bias: whether convolutions add one.
      epsilon: what the normalization adds to the variance.
    """

    init: str | Initializer
    norm: str
    scale: str
    bias: bool
    epsilon: float = 1e-5

    def kernel(self) -> Initializer:
        """The kernels' initializer."""
        return from_table("init", self.init, INITIALIZERS)


class Conv(nn.Module):
    """A convolution with its normalization and ReLU.

    Attributes:
      features: output channels.
      style: kind of normalization, initializers, whether there is a bias (it starts at 0).
      kernel: its height and width.
      stride: along both axes.
      padding: rows and columns of zeros on either side; None for (size - 1) / 2 of the kernel, as
        PyTorch's sources pad ("SAME" would pad a stride of 2 unevenly).
      relu: whether a ReLU follows.
      axis_name: mesh axis over which batch statistics are averaged.
    """

    features: int
    style: Style
    kernel: tuple[int, int] = (3, 3)
    stride: int = 1
    padding: tuple[int, int] | None = None
    relu: bool = True
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Map [batch, height, width, in] to [batch, height', width', features]."""
        style = self.style
        shape = (*self.kernel, x.shape[-1], self.features)
        kernel = self.param("kernel", style.kernel(), shape, jnp.float32)
        rows, columns = self.padding or tuple((size - 1) // 2 for size in self.kernel)
        padding = ((rows, rows), (columns, columns))
        x = conv(x, kernel.astype(x.dtype), stride=(self.stride, self.stride), padding=padding)
        if style.bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            x = x + bias.astype(x.dtype)[None, None, None]
        x = Norm(style, self.axis_name, name="norm")(x, train=train)
        return jax.nn.relu(x) if self.relu else x


class Norm(nn.Module):
    """Normalization, `scale * (x - mean) / sqrt(var + epsilon) + bias`.

    Batch: with the statistics of the batch in training and their running averages (`new = 0.9 * old
    + 0.1 * batch`) in evaluation; the biased variance in both, where PyTorch averages the unbiased
    one. Group: with the statistics of every example and group of channels alone. None: x as it is.

    All is computed in float32, or in float64 where the images are (Flax's own modules refuse a
    bfloat16 scale where implicit promotion is an error).

    Attributes:
      style: kind, start of the scale, epsilon.
      axis_name: mesh axis over which batch statistics are averaged.

    Reference: Ioffe & Szegedy 2015; Wu & He 2018; OpenLTH, and running averages as with PyTorch's
      momentum of 0.1.
    """

    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool) -> Array:
        """Normalize [batch, height, width, channels]."""
        if self.style.norm == "none":
            return x
        n = x.shape[-1]
        ones, uniform = nn.initializers.ones, nn.initializers.uniform(1.0)
        scale_init = ones if self.style.scale == "ones" else uniform
        kind = jnp.float64 if x.dtype == jnp.float64 else jnp.float32
        scale = self.param("scale", scale_init, (n,), jnp.float32).astype(kind)
        bias = self.param("bias", nn.initializers.zeros, (n,), jnp.float32).astype(kind)
        y = x.astype(kind)
        if self.style.norm == "batch":
            mean, var = self.batch_statistics(y, train=train)
            y = y - mean[None, None, None]
            y = y * (jax.lax.rsqrt(var + self.style.epsilon) * scale)[None, None, None]
        else:
            y = y.reshape(*x.shape[:3], groups(n), -1)
            mean = jnp.mean(y, (1, 2, 4), keepdims=True)
            var = jnp.var(y, (1, 2, 4), keepdims=True)
            y = ((y - mean) * jax.lax.rsqrt(var + self.style.epsilon)).reshape(x.shape)
            y = y * scale[None, None, None]
        return (y + bias[None, None, None]).astype(x.dtype)

    def batch_statistics(self, y: Array, *, train: bool) -> tuple[Array, Array]:
        """Mean and variance of the batch, which update the running ones, or in evaluation these."""
        n = y.shape[-1]
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (n,), jnp.float32)
        running_var = self.variable("batch_stats", "var", jnp.ones, (n,), jnp.float32)
        if not train:
            return running_mean.value.astype(y.dtype), running_var.value.astype(y.dtype)
        # mean and mean of squares in one pass over the activations, and one sum over the devices
        moments = jnp.stack([jnp.mean(y, (0, 1, 2)), jnp.mean(y * y, (0, 1, 2))])
        if self.axis_name is not None:
            moments = jax.lax.pmean(moments, self.axis_name)
        mean = moments[0]
        var = jnp.maximum(moments[1] - mean * mean, 0)
        if not self.is_initializing():
            for running, new in ((running_mean, mean), (running_var, var)):
                running.value = 0.9 * running.value + 0.1 * new.astype(running.value.dtype)
        return mean, var


def groups(channels: int) -> int:
    """The largest number of equal groups, at most 32, with four or more channels each.

    Groups of one channel would turn a map of one pixel into a constant.

    >>> groups(512), groups(16), groups(6), groups(3)
    (32, 4, 1, 1)
    """
    return max(n for n in range(1, 33) if n == 1 or (channels % n == 0 and channels // n >= 4))


def dense(x: Array, features: int, style: Style, *, name: str) -> Array:
    """A dense layer with a bias that starts at 0; call it inside a compact module."""
    return nn.Dense(features, kernel_init=style.kernel(), dtype=x.dtype, name=name)(x)


def head(x: Array, hidden: Sequence[int], classes: int, style: Style, *, tap: Tap) -> Array:
    """Dense layers dense_0, dense_1, ... with ReLU between them; the last gives the logits.

    Each has a tap of its name. Call it inside a compact module.
    """
    for i, units in enumerate(hidden):
        x = tap(f"dense_{i}", jax.nn.relu(dense(x, units, style, name=f"dense_{i}")))
    last = f"dense_{len(hidden)}"
    return tap(last, dense(x, classes, style, name=last))


def block_names(counts: Sequence[int]) -> tuple[tuple[str, ...], ...]:
    """Names of the residual blocks of each stage.

    >>> block_names((2, 1))
    (('block_1_0', 'block_1_1'), ('block_2_0',))
    """
    return tuple(
        tuple(f"block_{stage}_{i}" for i in range(count))
        for stage, count in enumerate(counts, start=1)
    )


def staged(counts: Sequence[int], features: Sequence[int]) -> Iterator[tuple[int, int, str]]:
    """Features, stride and name of each residual block.

    Each stage but the first begins with a stride of 2.

    >>> list(staged((1, 2), (16, 32)))
    [(16, 1, 'block_1_0'), (32, 2, 'block_2_0'), (32, 1, 'block_2_1')]
    """
    for stage, (names, width) in enumerate(zip(block_names(counts), features, strict=True)):
        for i, name in enumerate(names):
            yield width, 2 if stage > 0 and i == 0 else 1, name


def max_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """The maximum of every window; windows that do not fit are left out."""
    sides = ((padding, padding),) * 2
    return nn.pool(x, -jnp.inf, jax.lax.max, (size, size), (stride, stride), sides)


def average_pool(x: Array, size: int, stride: int, padding: int = 0) -> Array:
    """The mean of every window, zeros of the padding counted, as PyTorch does by default."""
    total = nn.pool(x, 0.0, jax.lax.add, (size, size), (stride, stride), ((padding, padding),) * 2)
    return total / jnp.asarray(size**2, x.dtype)


def global_average(x: Array) -> Array:
    """[batch, height, width, channels] -> [batch, channels]."""
    return jnp.mean(x, axis=(1, 2))


def is_junction(name: str) -> bool:
    """Whether all paths from the input to the logits pass through the tap of this name.

    >>> is_junction("block_1_0"), is_junction("block_1_0/conv_0")
    (True, False)
    """
    return "/" not in name


def channels(base: int, width: float) -> int:
    """Channels of a network `width` times as wide, at least one.

    >>> channels(64, 0.5), channels(16, 0.01)
    (32, 1)
    """
    return max(1, round(base * width))


def checked_style(
    init: str | Initializer, norm: str, scale: str, *, bias: bool, epsilon: float = 1e-5
) -> Style:
    """Check the options and return them as a style."""
    from_table("init", init, INITIALIZERS)
    one_of("norm", norm, NORMS)
    one_of("scale", scale, SCALES)
    return Style(init, norm, scale, bias, epsilon)


def checked_shape(shape: tuple[int, ...], least: int, network: str) -> tuple[int, ...]:
    """Check the shape of one image, which must be at least `least` pixels high and wide."""
    shape = example_shape(shape, "(height, width, channels)")
    if min(shape[:2]) < least:
        raise ValueError(
            f"`shape`: {network} needs images of at least {least} x {least} pixels, got {shape}; "
            f"use larger images or a network with fewer stages"
        )
    return shape
