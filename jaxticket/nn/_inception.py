"""Inception-v3."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jaxticket._check import flag
from jaxticket.nn import layers
from jaxticket.nn.family import family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Conv, Style
from jaxticket.nn.network import no_tap
from jaxticket.typing import Network, Tap


class _C(NamedTuple):
    """A convolution; those of stride 2 and the `bare` ones are not padded."""

    features: int
    rows: int
    columns: int
    stride: int = 1
    bare: bool = False


class _Fork(NamedTuple):
    """1x3 and 3x1 convolutions side by side."""

    features: int


def _square(features: int, size: int, stride: int = 1, *, bare: bool = False) -> _C:
    return _C(features, size, size, stride, bare)


_Step = _C | _Fork | str
_Branch = tuple[_Step, ...]

# a block is a tuple of branches, a branch a tuple of steps: convolutions, "average" (a 3x3 pool of
# stride 1, padded), "max" (3x3 of stride 2), or a fork as its last
_STEM: _Branch = (
    _square(32, 3, 2), _square(32, 3, bare=True), _square(64, 3), "max",
    _square(80, 1), _square(192, 3, bare=True), "max",
)  # fmt: skip


def _a(pool: int) -> tuple[_Branch, ...]:
    return (
        (_square(64, 1),),
        (_square(48, 1), _square(64, 5)),
        (_square(64, 1), _square(96, 3), _square(96, 3)),
        ("average", _square(pool, 1)),
    )


def _c(n: int) -> tuple[_Branch, ...]:
    return (
        (_square(192, 1),),
        (_square(n, 1), _C(n, 1, 7), _C(192, 7, 1)),
        (_square(n, 1), _C(n, 7, 1), _C(n, 1, 7), _C(n, 7, 1), _C(192, 1, 7)),
        ("average", _square(192, 1)),
    )


_E = (
    (_square(320, 1),),
    (_square(384, 1), _Fork(384)),
    (_square(448, 1), _square(384, 3), _Fork(384)),
    ("average", _square(192, 1)),
)
_BLOCKS: dict[str, tuple[_Branch, ...]] = {
    "block_0": (_STEM,),
    "block_5b": _a(32),
    "block_5c": _a(64),
    "block_5d": _a(64),
    "block_6a": (
        (_square(384, 3, 2),),
        (_square(64, 1), _square(96, 3), _square(96, 3, 2)),
        ("max",),
    ),
    "block_6b": _c(128),
    "block_6c": _c(160),
    "block_6d": _c(160),
    "block_6e": _c(192),
    "block_7a": (
        (_square(192, 1), _square(320, 3, 2)),
        (_square(192, 1), _C(192, 1, 7), _C(192, 7, 1), _square(192, 3, 2)),
        ("max",),
    ),
    "block_7b": _E,
    "block_7c": _E,
}


def _least(*, auxiliary: bool) -> int:
    """The least image size: the last map has a pixel, the auxiliary head's 5x5 kernel five."""
    # backward: blocks 7a and 6a halve; the head sees 17 pixels, five after its pooling
    size = 2 * (17 if auxiliary else 3) + 1
    for step in reversed(_STEM):
        if not isinstance(step, _C) or step.stride == 2:
            size = 2 * size + 1
        elif step.bare:
            size += step.rows - 1
    return size


class _Block(nn.Module):
    branches: tuple[_Branch, ...]
    layer: Callable[..., nn.Module]
    width: float

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        outputs = [
            self.branch(x, f"conv_{i}", branch, train=train, tap=tap)
            for i, branch in enumerate(self.branches)
        ]
        return tap(str(self.name), jnp.concatenate(outputs, axis=-1))

    def branch(self, x: Array, name: str, steps: _Branch, *, train: bool, tap: Tap) -> Array:
        """One branch; its layers are called <name>_0, <name>_1, ..."""
        count = 0

        def conv(x: Array, step: _C) -> Array:
            nonlocal count
            layer = self.layer(
                layers.channels(step.features, self.width),
                kernel=(step.rows, step.columns),
                stride=step.stride,
                padding=(0, 0) if step.bare or step.stride == 2 else None,
                name=f"{name}_{count}",
            )
            x = tap(f"{self.name}/{name}_{count}", layer(x, train=train))
            count += 1
            return x

        for step in steps:
            if step == "max":
                x = layers.max_pool(x, 3, 2)
            elif step == "average":
                x = layers.average_pool(x, 3, 1, 1)
            elif isinstance(step, _Fork):
                sides = _C(step.features, 1, 3), _C(step.features, 3, 1)
                x = jnp.concatenate([conv(x, side) for side in sides], axis=-1)
            elif isinstance(step, _C):
                x = conv(x, step)
        return x


class _Auxiliary(nn.Module):
    layer: Callable[..., nn.Module]
    width: float
    classes: int
    style: Style

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap) -> Array:
        x = layers.average_pool(x, 5, 3)
        for i, (features, size) in enumerate(((128, 1), (768, 5))):
            layer = self.layer(
                layers.channels(features, self.width),
                kernel=(size, size),
                padding=(0, 0),
                name=f"conv_{i}",
            )
            x = tap(f"{self.name}/conv_{i}", layer(x, train=train))
        logits = layers.dense(layers.global_average(x), self.classes, self.style, name="dense")
        return tap(f"{self.name}/dense", logits)


class _Inception(nn.Module):
    width: float
    classes: int
    auxiliary: bool
    style: Style
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: Array, *, train: bool, tap: Tap = no_tap) -> Array:
        layer = functools.partial(Conv, style=self.style, axis_name=self.axis_name)
        for name, branches in _BLOCKS.items():
            x = _Block(branches, layer, self.width, name=name)(x, train=train, tap=tap)
            if name == "block_6e" and self.auxiliary:
                # its logits are available at their tap only
                _Auxiliary(layer, self.width, self.classes, self.style, name="auxiliary")(
                    x, train=train, tap=tap
                )
        return tap(
            "dense", layers.dense(layers.global_average(x), self.classes, self.style, name="dense")
        )


def inception_v3(
    shape: tuple[int, ...] = (299, 299, 3),
    classes: int = 1000,
    *,
    width: float = 1.0,
    norm: str = "batch",
    auxiliary: bool = False,
    init: str | Initializer = "kaiming_normal",
    scale: str = "uniform",
) -> Network:
    """Inception-v3: five convolutions, eleven blocks of parallel branches, one dense layer.

    Global average pooling precedes the dense layer. Convolutions have normalization (epsilon
    0.001); there is no dropout.

    Layers: block_0/conv_0_0 to conv_0_4, block_5b/conv_0_0 (branch 0, layer 0), ..., block_7c,
    dense. Taps: every layer by its path, and the junctions block_0, block_5b, ... (after the
    branches are joined), dense.

    The auxiliary head classifies the output of block_6e in training. It exists, and its parameters
    count, only with `auxiliary=True`; `apply` returns the logits of the network alone. A loss that
    uses it reads the tap "auxiliary/dense": `tap = lambda name, x: seen.setdefault(name, x)`.
    Without such a loss its weights get no gradient.

    Args:
      shape: shape of one image, at least 75 pixels high and wide (299 with the auxiliary head).
      classes: number of logits.
      width: factor of all channels.
      norm: normalization after every convolution: "batch", "group" or "none"; without one,
        convolutions have biases.
      auxiliary: whether to build the auxiliary head, "auxiliary/conv_0" and so on.
      init: name of the kernels' initializer; biases start at 0.
      scale: what the scale of the normalization starts at, "uniform" (U[0, 1], OpenLTH) or "ones".

    Raises:
      ValueError: for an image too small, and unknown norms, initializers or scales.

    Reference: Szegedy et al. 2016, in the form of torchvision; Frankle's thesis, section 4.2, whose
      27.1M parameters include the auxiliary head (27,161,264; 23,834,568 without).
    """
    flag("auxiliary", auxiliary)
    least = _least(auxiliary=auxiliary)
    with_head = " with the auxiliary head" if auxiliary else ""
    shape = layers.checked_shape(shape, least, f"inception_v3{with_head}")
    style = layers.checked_style(init, norm, scale, bias=norm == "none", epsilon=1e-3)

    def module(width: float) -> nn.Module:
        return _Inception(width, classes, auxiliary, style)

    return family_network(
        inception_v3, module, shape, classes, output="dense", width=width,
        norm=norm, auxiliary=auxiliary, init=init, scale=scale,
    )  # fmt: skip
