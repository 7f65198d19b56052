"""How convolutions are computed on each platform: the one place where that is chosen.

`LOWERINGS` holds, by platform, the convolution, its input gradient and its kernel gradient for
operands with an axis of replicas.

CPU (2 cores of an Intel Xeon at 2.5 GHz, JAX 0.12.0, GFLOP/s of both cores, batch 128, kernels of
3 x 3; made by experiments/benchmarks/convolution.py). The compiler has one fast convolution there:
forward, of large images, with few channels in the gradient of a kernel. Its own gradients are 40
times slower inside a loop.

| images, channels | forward | as matrix product | kernel gradient, 8 parts | a product per place |
|---|---|---|---|---|
| 32 x 32, 16 | 54 | 11 | 62 | 15 |
| 16 x 16, 32 | 91 | 21 | 63 | 23 |
| 8 x 8, 64 | 111 | 43 | 78 | 46 |
| 16 x 16, 128 | 129 | 62 | 45 | 64 |
| 8 x 8, 256 | 90 | 75 | 75 | 100 |
| 4 x 4, 512 | 48 | 101 | 78 | 125 |
| 2 x 2, 512 | 2 | 148 | 96 | 163 |

GPU and TPU: chosen by reasoning, not measured. One network's convolutions are left to the compiler.
Several networks' stand one after another: a grouped convolution, which is what `vmap` makes of
them, is a slow path of cuDNN and fills a TPU's matrix unit with one network's channels at a time;
a batched product over gathered patches moves nine times the memory in networks that are bound by
memory. A custom kernel would have to beat both.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket.types import Array

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_UNROLLED = 16
"""Replicas whose convolutions stand one after another in a program; more run in a loop, so that
compilation stays bounded."""


class Geometry(NamedTuple):
    """What both operands' shapes do not say.

    Attributes:
      image: (height, width) of x.
      kernel: (height, width) of w.
      stride: along both axes.
      pads: ((top, bottom), (left, right)).
      precision: of the products, as `jax.default_matmul_precision` has it; read when the
        convolution is traced, since the lowering runs outside that context.
    """

    image: tuple[int, int]
    kernel: tuple[int, int]
    stride: tuple[int, int]
    pads: tuple[tuple[int, int], tuple[int, int]]
    precision: str | None

    @property
    def output(self) -> tuple[int, int]:
        """(height, width) of y."""
        sizes = zip(self.image, self.kernel, self.stride, self.pads, strict=True)
        height, width = ((n + sum(p) - k) // s + 1 for n, k, s, p in sizes)
        return height, width


# the three functions of one replica, by the compiler's own convolution


def _convolve(
    x: Array,
    w: Array,
    pads: Any,
    precision: str | None,
    *,
    stride: tuple[int, int] = (1, 1),
    spread_x: tuple[int, int] = (1, 1),
    spread_w: tuple[int, int] = (1, 1),
) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        w,
        stride,
        pads,
        lhs_dilation=spread_x,
        rhs_dilation=spread_w,
        dimension_numbers=_LAYOUT,
        precision=precision,
    )


def _forward(x: Array, w: Array, at: Geometry) -> Array:
    return _convolve(x, w, at.pads, at.precision, stride=at.stride)


def _flipped(w: Array) -> Array:
    """The kernel that carries gradients back."""
    return jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)


def _input_pads(at: Geometry) -> list[tuple[int, int]]:
    """Pads of the output's gradient, after its entries were spread by the stride."""
    sizes = zip(at.image, at.kernel, at.stride, at.pads, at.output, strict=True)
    return [(k - 1 - p[0], n + p[0] - 1 - (m - 1) * s) for n, k, s, p, m in sizes]


def _input(g: Array, w: Array, at: Geometry) -> Array:
    return _convolve(g, _flipped(w), _input_pads(at), at.precision, spread_x=at.stride)


def _kernel_pads(at: Geometry) -> list[tuple[int, int]]:
    """Pads of x so that the output's gradient, spread by the stride, has a kernel's places in it;
    negative where the stride leaves out the last rows.
    """
    sizes = zip(at.image, at.kernel, at.stride, at.pads, at.output, strict=True)
    return [(p[0], (m - 1) * s + k - n - p[0]) for n, k, s, p, m in sizes]


def _kernel(x: Array, g: Array, at: Geometry) -> Array:
    # the batch takes the part of the channels, the input channels that of the batch
    y = _convolve(
        x.transpose(3, 1, 2, 0),
        g.transpose(1, 2, 0, 3),
        _kernel_pads(at),
        at.precision,
        spread_w=at.stride,
    )
    return y.transpose(1, 2, 0, 3)


# the same on a CPU, whose compiler has one fast convolution: forward, with few and large images


def _places(x: Array, at: Geometry) -> list[Array]:
    """For each place of the kernel, in row-major order, the entries of x that it meets: the shape
    of x with the output's height and width.
    """
    zero = jnp.zeros((), x.dtype)
    pads = [(0, 0, 0), *((low, high, 0) for low, high in _kernel_pads(at)), (0, 0, 0)]
    padded = jax.lax.pad(x, zero, pads)
    (rows, columns), (down, right) = at.output, at.stride
    return [
        padded[:, a : a + (rows - 1) * down + 1 : down, b : b + (columns - 1) * right + 1 : right]
        for a in range(at.kernel[0])
        for b in range(at.kernel[1])
    ]


def _product(x: Array, w: Array, at: Geometry) -> Array:
    """The convolution as one matrix product over gathered patches."""
    patches = jnp.concatenate(_places(x, at), axis=3)
    w = w.reshape(-1, w.shape[3])
    return jax.lax.dot_general(patches, w, (((3,), (0,)), ((), ())), precision=at.precision)


# output positions up to which patches are gathered: the compiler's convolution of 512 channels
# makes 2 GFLOP/s on 2 x 2 and 50 on 4 x 4, where the matrix product makes 150 and 100
_SMALL = 16
# input channels from which a kernel's gradient is one matrix product per place
_WIDE = 128
# parts of the batch that a kernel's gradient is summed over otherwise
_PARTS = 8


def _cpu_forward(x: Array, w: Array, at: Geometry) -> Array:
    if at.kernel == (1, 1) or math.prod(at.output) <= _SMALL:
        return _product(x, w, at)
    return _forward(x, w, at)


def _spread(x: Array, by: tuple[int, int], pads: list[tuple[int, int]]) -> Array:
    """x with zeros between its rows and columns and around it."""
    inner = [(*p, s - 1) for p, s in zip(pads, by, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _cpu_input(g: Array, w: Array, at: Geometry) -> Array:
    if at.kernel == (1, 1):
        # multiply first, then spread: the zeros between take no part
        contracted = (((3,), (1,)), ((), ()))
        product = jax.lax.dot_general(g, w[0, 0], contracted, precision=at.precision)
        return _spread(product, at.stride, _input_pads(at))
    if math.prod(at.image) > _SMALL:
        return _input(g, w, at)
    g = _spread(g, at.stride, _input_pads(at))
    whole = at._replace(image=g.shape[1:3], stride=(1, 1), pads=((0, 0), (0, 0)))
    return _product(g, _flipped(w), whole)


def _cpu_kernel(x: Array, g: Array, at: Geometry) -> Array:
    if at.kernel == (1, 1) or x.shape[3] >= _WIDE or math.prod(at.output) <= _SMALL:
        rows = g.reshape(-1, g.shape[3])
        products = [
            jax.lax.dot_general(
                part.reshape(-1, part.shape[3]),
                rows,
                (((0,), (0,)), ((), ())),
                precision=at.precision,
            )
            for part in _places(x, at)
        ]
        return jnp.stack(products).reshape(*at.kernel, x.shape[3], g.shape[3])
    size = -(-x.shape[0] // _PARTS)
    parts = [_kernel(x[i : i + size], g[i : i + size], at) for i in range(0, x.shape[0], size)]
    return functools.reduce(jnp.add, parts)


# replicas


def _separate(one: Callable[..., Array], loop_from: int) -> Callable[..., Array]:
    """Replica after replica: as many convolutions in a row, or a loop from so many on."""

    def every(a: Array, b: Array, *, geometry: Geometry) -> Array:
        if a.shape[0] == 1:
            return one(a[0], b[0], geometry)[None]
        if a.shape[0] < loop_from:
            return jnp.stack([one(x, y, geometry) for x, y in zip(a, b, strict=True)])
        return jax.lax.map(lambda pair: one(*pair, geometry), (a, b))

    return every


def _in_float32(one: Callable[..., Array]) -> Callable[..., Array]:
    """Half precision is emulated, slowly, on CPUs: products are made in float32."""

    def wide(a: Array, b: Array, at: Geometry) -> Array:
        if a.dtype.itemsize > 2:
            return one(a, b, at)
        return one(a.astype(jnp.float32), b.astype(jnp.float32), at).astype(a.dtype)

    return wide


class Lowering(NamedTuple):
    """`f(a, b, *, geometry)` for a, b and the result with a leading axis of replicas."""

    forward: Callable[..., Array]
    input: Callable[..., Array]
    kernel: Callable[..., Array]


def _lowering(forward: Any, input: Any, kernel: Any, *, loop_from: int) -> Lowering:
    return Lowering(*(_separate(one, loop_from) for one in (forward, input, kernel)))


_native = _lowering(_forward, _input, _kernel, loop_from=_UNROLLED + 1)
LOWERINGS: dict[str, Lowering] = {
    "default": _native,
    "cpu": _lowering(
        *(_in_float32(one) for one in (_cpu_forward, _cpu_input, _cpu_kernel)), loop_from=2
    ),
}
"""By platform, as JAX calls it; "default" is for those that are not named."""
