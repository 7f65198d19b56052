r"""One 2-D convolution, fast and differentiable to any order, for one network or many side by side.

The convolution, its input gradient and its kernel gradient are three bilinear functions, each the
transpose of the others:

| primitive | value | transposed in the first argument | in the second |
|---|---|---|---|
| forward(x, w) | y = x * w | input(t, w) | kernel(x, t) |
| input(g, w) | the x' with <x', x> = <g, x * w> for all x | forward(t, w) | kernel(t, g) |
| kernel(x, g) | the w' with <w', w> = <g, x * w> for all w | input(g, t) | forward(x, t) |

So derivatives of any order, forward and reverse, stay within the three. Each carries an axis of
replicas (its operands are [replica, ...]), and `vmap` moves its axis to where it costs nothing:
into the replicas if both operands have it, else into the batch or the channels of the one that has.

How each is computed on which platform is chosen in lowering.py.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.core import AbstractValue, ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from jaxticket._tree import varying_like
from jaxticket.nn.geometry import Geometry
from jaxticket.nn.lowering import LOWERINGS

Padding = str | tuple[tuple[int, int], tuple[int, int]]


def conv(
    x: Array, kernel: Array, *, stride: tuple[int, int] = (1, 1), padding: Padding = "SAME"
) -> Array:
    """2-D convolution, `y[n, i, j] = sum_{a, b} x[n, s i + a - p, s j + b - q] w[a, b]`.

    Args:
      x: [batch, height, width, in], floating.
      kernel: [height, width, in, out], of the same dtype.
      stride: s along both axes.
      padding: "SAME", "VALID" or ((top, bottom), (left, right)), the zeros around x.

    Returns:
      [batch, height', width', out].

    Raises:
      ValueError: for operands that do not fit, naming `x`, `kernel`, `stride` or `padding`.
    """
    geometry = _geometry(x, kernel, stride, padding)
    # the transpose is the sum that a kernel's gradient needs when the batch is spread over devices
    x, kernel = varying_like(x, kernel), varying_like(kernel, x)
    return _forward_p.bind(x[None], kernel[None], geometry=geometry)[0]


def _geometry(x: Array, kernel: Array, stride: tuple[int, int], padding: Padding) -> Geometry:
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(
            f"`kernel` of shape {kernel.shape} does not fit `x` of shape {x.shape}; they must be "
            f"[height, width, in, out] and [batch, height, width, in]"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(
            f"`kernel` is {kernel.dtype} and `x` {x.dtype}; bring both to the same dtype"
        )
    if len(stride) != 2 or min(stride) < 1:
        raise ValueError(f"`stride` must be two whole numbers of at least 1, got {stride}")
    image, size = x.shape[1:3], kernel.shape[:2]
    if isinstance(padding, str):
        if padding not in ("SAME", "VALID"):
            raise ValueError(
                f"`padding` must be 'SAME', 'VALID' or ((top, bottom), (left, right)), "
                f"got {padding!r}"
            )
        pads = jax.lax.padtype_to_pads(image, size, stride, padding)
    else:
        pads = padding
    (top, bottom), (left, right) = pads
    if min(top, bottom, left, right) < 0:
        raise ValueError(f"`padding` must not be negative, got {padding}")
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    geometry = Geometry(
        (int(image[0]), int(image[1])),
        (int(size[0]), int(size[1])),
        (int(stride[0]), int(stride[1])),
        ((int(top), int(bottom)), (int(left), int(right))),
        None if precision is None else str(precision),
    )
    if min(geometry.output) < 1:
        raise ValueError(
            f"`x` of {image[0]} x {image[1]} is too small for a kernel of {size[0]} x {size[1]} "
            f"with padding {pads}; use larger images or a network with fewer strides"
        )
    return geometry


class _Axes(NamedTuple):
    """Destination of a batch axis of one operand: (axis of the operand, axis of the result)."""

    first: tuple[int, int]
    second: tuple[int, int]


def _primitive(name: str, part: str, axes: _Axes) -> Primitive:
    primitive = Primitive(f"jaxticket_{name}")
    by_platform = {platform: getattr(of, part) for platform, of in LOWERINGS.items()}
    primitive.def_impl(functools.partial(_eager, primitive))
    primitive.def_abstract_eval(functools.partial(_abstract, by_platform["default"]))
    batching.primitive_batchers[primitive] = functools.partial(_batched, primitive, axes)
    for platform, function in by_platform.items():
        mlir.register_lowering(
            primitive,
            mlir.lower_fun(function, multiple_results=False),
            platform=None if platform == "default" else platform,
        )
    return primitive


def _eager(primitive: Primitive, a: Array, b: Array, *, geometry: Geometry) -> Array:
    return _compiled(primitive, geometry)(a, b)


@functools.lru_cache(maxsize=256)
def _compiled(primitive: Primitive, geometry: Geometry) -> Callable[..., Array]:
    return jax.jit(functools.partial(primitive.bind, geometry=geometry))


def _abstract(
    general: Callable[..., Array], a: ShapedArray, b: ShapedArray, *, geometry: Geometry
) -> AbstractValue:
    return _traced(general, a, b, geometry)


@functools.lru_cache(maxsize=4096)
def _traced(
    general: Callable[..., Array], a: ShapedArray, b: ShapedArray, geometry: Geometry
) -> AbstractValue:
    # the type of the compiler's convolution, mesh axes included
    return jax.make_jaxpr(functools.partial(general, geometry=geometry))(a, b).out_avals[0]


def _batched(
    primitive: Primitive,
    axes: _Axes,
    operands: tuple[Array, Array],
    dims: tuple[int | None, int | None],
    *,
    geometry: Geometry,
) -> tuple[Array, int]:
    (a, b), (at_a, at_b) = operands, dims
    if at_a is not None and at_b is not None:
        a, b = jnp.moveaxis(a, at_a, 0), jnp.moveaxis(b, at_b, 0)
        count, replicas = a.shape[0], a.shape[1]
        merged = [x.reshape(count * replicas, *x.shape[2:]) for x in (a, b)]
        y = primitive.bind(*merged, geometry=geometry)
        return y.reshape(count, replicas, *y.shape[1:]), 0
    # `x` has the axis, the other operand does not
    (place, result), x, dim = (axes.second, b, at_b) if at_a is None else (axes.first, a, at_a)
    assert dim is not None
    count = x.shape[dim]
    x = jnp.moveaxis(x, dim, place)
    shape = x.shape
    x = x.reshape(*shape[:place], count * shape[place + 1], *shape[place + 2 :])
    y = primitive.bind(*((a, x) if at_a is None else (x, b)), geometry=geometry)
    shape = y.shape
    return y.reshape(*shape[:result], count, shape[result] // count, *shape[result + 1 :]), result


# x and y are [replica, batch, height, width, channels], w is [replica, height, width, in, out]; an
# axis of x or y alone goes into the batch, or where a kernel comes out, into the channels; one of w
# alone goes into the channels that the other operand does not have
_forward_p = _primitive("convolution", "forward", _Axes((1, 1), (4, 4)))
_input_p = _primitive("convolution_input", "input", _Axes((1, 1), (3, 4)))
_kernel_p = _primitive("convolution_kernel", "kernel", _Axes((4, 3), (4, 4)))

ad.defbilinear(
    _forward_p,
    lambda t, x, w, *, geometry: _input_p.bind(t, w, geometry=geometry),
    lambda t, x, w, *, geometry: _kernel_p.bind(x, t, geometry=geometry),
)
ad.defbilinear(
    _input_p,
    lambda t, g, w, *, geometry: _forward_p.bind(t, w, geometry=geometry),
    lambda t, g, w, *, geometry: _kernel_p.bind(t, g, geometry=geometry),
)
ad.defbilinear(
    _kernel_p,
    lambda t, x, g, *, geometry: _input_p.bind(g, t, geometry=geometry),
    lambda t, x, g, *, geometry: _forward_p.bind(x, t, geometry=geometry),
)
