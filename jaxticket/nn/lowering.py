"""The choice of how convolutions are computed on each platform.

`FORMS` has ways to compute the convolution, its input gradient and its kernel gradient for operands
with an axis of replicas; `LOWERINGS` chooses one for each platform.

CPU: "generated", measured. Kernels that are generated for the machine (cpu_kernels.py) where there
are some; "parts", the compiler's convolution or matrix products, elsewhere. GFLOP/s of one core of
an Intel Xeon at 2.5 GHz, inside a loop, JAX 0.12.0, by CPU time on a shared machine (only the order
counts); generated kernel / what the compiler does best:

| images, channels, batch | forward | input gradient | kernel gradient |
|---|---|---|---|
| 32 x 32, 3 to 16, 128 | 49 / 12 | | 100 / 26 |
| 32 x 32, 16, 128 | 89 / 48 | 87 / 47 | 80 / 46 |
| 32 x 32, 16 to 32, stride 2, 128 | 84 / 49 | 79 / 34 | 93 / 37 |
| 16 x 16, 32, 128 | 119 / 81 | 114 / 88 | 133 / 64 |
| 8 x 8, 64, 128 | 124 / 106 | 134 / 104 | 137 / 81 |
| 16 x 16, 128, 64 | 148 / 122 | 127 / 125 | 145 / 55 |
| 8 x 8, 256, 64 | 70 / 84 | 78 / 80 | 119 / 82 |
| 4 x 4, 512, 64 | 60 / 99 | 54 / 89 | 80 / 105 |
| 2 x 2, 512, 64 | 43 / 114 | 30 / 45 | 37 / 65 |
| 56 x 56, 64 to 256, 1 x 1, 4 | 48 / 41 | 50 / 48 | 66 / 85 |

`experiments/results/benchmarks/convolution.csv` has both forms and PyTorch's kernels on two cores,
where the same code differs by up to 1.5 times from one measurement to the next.
The generated kernels take all but kernels of one place and images of few positions, which are
matrix products, and, forward, weights that do not stay in a core's second cache.

With few channels the compiler's packing of patches is what takes the time: each number packed is
used for 16 products only. Where kernels cannot be generated, the kernel's gradient is a forward
convolution with the batch as channels, summed over parts of the batch: the compiler's own gradients
make 0.3 to 25 GFLOP/s inside a loop. oneDNN, which JAX 0.12 contains switched off, was measured in
the same way (32 x 32 with 16, 16 x 16 with 32 and 8 x 8 with 64 channels): forward 52, 70 and 93,
input gradient 51, 62 and 95, kernel gradient 31, 49 and 65 GFLOP/s of a core.

TPU: "grouped", by the compiler's estimate for a v5e. Three layers of convolution and ReLU with all
gradients, bfloat16, batches of 128, microseconds for each replica of those side by side:

| replicas, images, channels | separate | grouped | products | one replica |
|---|---|---|---|---|
| 8, 32 x 32, 16 | 348 | 229 | | 224 |
| 8, 8 x 8, 64 | 106 | 62 | | |
| 4, 16 x 16, 32 | 198 | 121 | 881 | |

The compiler takes groups for a spread axis of the window and fuses them with bias, sums and ReLU;
separate convolutions are stacked in passes of their own.

Other platforms, GPUs among them: "separate", chosen by reasoning, not measured. Several networks'
convolutions stand one after another, as the compiler would make each: a grouped convolution, which
is what `vmap` makes of them, is a slow path of cuDNN; products over gathered patches move nine
times the memory, in networks that are bound by memory. A kernel of our own would have to beat the
vendors' on every shape. How many replicas are side by side is chosen in engine/together.py.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jaxticket.nn import cpu_kernels
from jaxticket.nn.geometry import Geometry

_LAYOUT = ("NHWC", "HWIO", "NHWC")
_BACKWARD_INPUT = ("NHWC", "HWOI", "NHWC")
_BACKWARD_KERNEL = ("CHWN", "IHWO", "HWNC")
_UNROLLED = 16
"""Replicas whose convolutions stand one after another in a program; more run in a loop, so that
compilation stays bounded."""


# the three functions of one replica, by the compiler's own convolution


def _convolve(
    x: Array,
    w: Array,
    pads: Sequence[tuple[int, int]],
    precision: str | None,
    *,
    stride: tuple[int, int] = (1, 1),
    spread_x: tuple[int, int] = (1, 1),
    spread_w: tuple[int, int] = (1, 1),
    layout: tuple[str, str, str] = _LAYOUT,
) -> Array:
    return jax.lax.conv_general_dilated(
        x,
        w,
        stride,
        pads,
        lhs_dilation=spread_x,
        rhs_dilation=spread_w,
        dimension_numbers=layout,
        precision=precision,
    )


def _forward(x: Array, w: Array, at: Geometry) -> Array:
    return _convolve(x, w, at.pads, at.precision, stride=at.stride)


def _input_pads(at: Geometry) -> list[tuple[int, int]]:
    """Padding of the output's gradient after dilation by the stride."""
    sizes = zip(at.image, at.kernel, at.stride, at.pads, at.output, strict=True)
    return [(k - 1 - p[0], n + p[0] - 1 - (m - 1) * s) for n, k, s, p, m in sizes]


def _input(g: Array, w: Array, at: Geometry) -> Array:
    flipped, pads = jnp.flip(w, (0, 1)), _input_pads(at)
    return _convolve(g, flipped, pads, at.precision, spread_x=at.stride, layout=_BACKWARD_INPUT)


def _kernel_pads(at: Geometry) -> list[tuple[int, int]]:
    """Padding of x with which the dilated gradient of the output yields the kernel's shape.

    Negative where the stride skips the last rows.
    """
    sizes = zip(at.image, at.kernel, at.stride, at.pads, at.output, strict=True)
    return [(p[0], (m - 1) * s + k - n - p[0]) for n, k, s, p, m in sizes]


def _kernel(x: Array, g: Array, at: Geometry) -> Array:
    # the batch takes the part of the channels, the input channels that of the batch
    pads = _kernel_pads(at)
    return _convolve(x, g, pads, at.precision, spread_w=at.stride, layout=_BACKWARD_KERNEL)


# the same by matrix products


def _places(x: Array, at: Geometry) -> list[Array]:
    """Slice x for each entry of the kernel, in row-major order.

    Returns:
      The entries of x that meet it, of the shape of x with the output's height and width.
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


def _spread(x: Array, stride: tuple[int, int], pads: list[tuple[int, int]]) -> Array:
    """Insert zeros between the rows and columns of x and around it."""
    inner = [(*p, s - 1) for p, s in zip(pads, stride, strict=True)]
    return jax.lax.pad(x, jnp.zeros((), x.dtype), [(0, 0, 0), *inner, (0, 0, 0)])


def _flipped(w: Array) -> Array:
    """Flip a kernel and exchange its channels, for gradients with respect to the input."""
    return jnp.flip(w, (0, 1)).transpose(0, 1, 3, 2)


def _input_product(g: Array, w: Array, at: Geometry) -> Array:
    if at.kernel == (1, 1):
        # multiply first, then spread: the zeros between take no part
        contracted = (((3,), (1,)), ((), ()))
        product = jax.lax.dot_general(g, w[0, 0], contracted, precision=at.precision)
        return _spread(product, at.stride, _input_pads(at))
    g = _spread(g, at.stride, _input_pads(at))
    height, width = g.shape[1:3]
    unstrided = at._replace(image=(height, width), stride=(1, 1), pads=((0, 0), (0, 0)))
    return _product(g, _flipped(w), unstrided)


def _kernel_product(x: Array, g: Array, at: Geometry) -> Array:
    rows, contracted = g.reshape(-1, g.shape[3]), (((0,), (0,)), ((), ()))
    products = [
        jax.lax.dot_general(
            part.reshape(-1, part.shape[3]), rows, contracted, precision=at.precision
        )
        for part in _places(x, at)
    ]
    return jnp.stack(products).reshape(*at.kernel, x.shape[3], g.shape[3])


# on a CPU, whichever is faster

_SMALL = 16
"""Output positions up to which the matrix product is faster than the compiler's convolution."""
_WIDE = 128
"""Input channels from which a product per place is faster in the gradient of a kernel."""
_PARTS = 8
"""Parts of the batch that this gradient is summed over otherwise."""
_HELD = 2**20
"""Bytes of weights that stay in a core's second cache, next to the image."""


def _held(w: Array) -> bool:
    return w.size * w.dtype.itemsize <= _HELD


def _few(kernel: tuple[int, int], positions: tuple[int, int]) -> bool:
    """Whether a matrix product is fastest: for kernels of one place and few positions."""
    return kernel == (1, 1) or math.prod(positions) <= _SMALL


def _parts_forward(x: Array, w: Array, at: Geometry) -> Array:
    return (_product if _few(at.kernel, at.output) else _forward)(x, w, at)


def _parts_input(g: Array, w: Array, at: Geometry) -> Array:
    if _few(at.kernel, at.image):
        return _input_product(g, w, at)
    # the usual layout: others are transposed by slow code
    return _convolve(g, _flipped(w), _input_pads(at), at.precision, spread_x=at.stride)


def _parts_kernel(x: Array, g: Array, at: Geometry) -> Array:
    if _few(at.kernel, at.output) or x.shape[3] >= _WIDE:
        return _kernel_product(x, g, at)

    def part(x: Array, g: Array) -> Array:
        x, g = x.transpose(3, 1, 2, 0), g.transpose(1, 2, 0, 3)
        return _convolve(x, g, _kernel_pads(at), at.precision, spread_w=at.stride)

    size = -(-x.shape[0] // _PARTS)
    parts = [part(x[i : i + size], g[i : i + size]) for i in range(0, x.shape[0], size)]
    return functools.reduce(jnp.add, parts).transpose(1, 2, 0, 3)


def _generated_forward(x: Array, w: Array, at: Geometry) -> Array:
    if _few(at.kernel, at.output) or not (_held(w) and cpu_kernels.supports(x.dtype, w.shape[3])):
        return _parts_forward(x, w, at)
    return cpu_kernels.convolution(x, w, at)


def _generated_input(g: Array, w: Array, at: Geometry) -> Array:
    if _few(at.kernel, at.image) or not (_held(w) and cpu_kernels.supports(g.dtype, w.shape[2])):
        return _parts_input(g, w, at)
    return cpu_kernels.input_gradient(g, w.transpose(0, 1, 3, 2), at)


def _generated_kernel(x: Array, g: Array, at: Geometry) -> Array:
    if _few(at.kernel, at.output) or not cpu_kernels.supports(x.dtype, g.shape[3]):
        return _parts_kernel(x, g, at)
    return cpu_kernels.kernel_gradient(x, g, at)


# replicas


def _separate(one: Callable[..., Array], loop_from: int) -> Callable[..., Array]:
    """Compute replica by replica: unrolled below `loop_from` replicas, else in a loop."""

    def every(a: Array, b: Array, *, geometry: Geometry) -> Array:
        if a.shape[0] == 1:
            return one(a[0], b[0], geometry)[None]
        if a.shape[0] < loop_from:
            return jnp.stack([one(x, y, geometry) for x, y in zip(a, b, strict=True)])
        return jax.lax.map(lambda pair: one(*pair, geometry), (a, b))

    return every


def _in_float32(one: Callable[..., Array]) -> Callable[..., Array]:
    """Compute products of half precision in float32, since CPUs emulate it slowly."""

    def wide(a: Array, b: Array, at: Geometry) -> Array:
        if a.dtype.itemsize > 2:
            return one(a, b, at)
        return one(a.astype(jnp.float32), b.astype(jnp.float32), at).astype(a.dtype)

    return wide


def _grouped(one: Callable[..., Array]) -> Callable[..., Array]:
    def every(a: Array, b: Array, *, geometry: Geometry) -> Array:
        return jax.vmap(lambda x, y: one(x, y, geometry))(a, b)

    return every


class Lowering(NamedTuple):
    """`f(a, b, *, geometry)` for a, b and the result with a leading axis of replicas."""

    forward: Callable[..., Array]
    input: Callable[..., Array]
    kernel: Callable[..., Array]


_COMPILER = (_forward, _input, _kernel)
_PRODUCTS = (_product, _input_product, _kernel_product)
_PARTS_OF_BATCH = (_parts_forward, _parts_input, _parts_kernel)
_GENERATED = (_generated_forward, _generated_input, _generated_kernel)
FORMS: dict[str, Lowering] = {
    "separate": Lowering(*(_separate(one, _UNROLLED + 1) for one in _COMPILER)),
    "loop": Lowering(*(_separate(one, 2) for one in _COMPILER)),
    "grouped": Lowering(*map(_grouped, _COMPILER)),
    "products": Lowering(*map(_grouped, _PRODUCTS)),
    "parts": Lowering(*(_separate(_in_float32(one), 2) for one in _PARTS_OF_BATCH)),
    "generated": Lowering(*(_separate(_in_float32(one), 2) for one in _GENERATED)),
}
LOWERINGS = {"default": FORMS["separate"], "tpu": FORMS["grouped"], "cpu": FORMS["generated"]}
"""By platform, as JAX calls it; "default" is for those that are not named."""
