"""The fast convolution in the place of the compiler's, for modules that have `nn.Conv`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxticket.nn.convolution import conv

_CHANNELS_LAST = ((0, 3, 1, 2), (3, 2, 0, 1), (0, 3, 1, 2))
"""[batch, height, width, channels] and [height, width, in, out], as axes of (N, C, ...)."""

Dimensions = jax.lax.ConvDimensionNumbers | tuple[str, str, str] | None


def conv_general_dilated(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    *further: object,
    **options: object,
) -> Array:
    """Convolve as `jax.lax.conv_general_dilated` does, by the fast convolution where it can.

    Flax's own layers take it as it is: `nnx.Conv(..., conv_general_dilated=conv_general_dilated)`.
    `native_because` tells which convolutions stay the compiler's.

    Args, Returns, Raises: as `jax.lax.conv_general_dilated`, to the rounding of sums; `further` are
      its other arguments, by their places.

    >>> x, w = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 5))
    >>> conv_general_dilated(x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")).shape
    (1, 4, 4, 5)
    """
    given = (lhs, rhs, window_strides, padding, *further)
    if _reason(*given, **options):
        return _NATIVE(*given, **options)
    (top, bottom), (left, right) = _sides(lhs, rhs, window_strides, padding)
    stride = (int(window_strides[0]), int(window_strides[1]))
    return conv(lhs, rhs, stride=stride, padding=((top, bottom), (left, right)))


def native_because(
    lhs: Array,
    rhs: Array,
    window_strides: Sequence[int],
    padding: str | Sequence[tuple[int, int]],
    lhs_dilation: Sequence[int] | None = None,
    rhs_dilation: Sequence[int] | None = None,
    dimension_numbers: Dimensions = None,
    feature_group_count: int = 1,
    batch_group_count: int = 1,
    precision: object = None,
    preferred_element_type: DTypeLike | None = None,
    **options: object,
) -> str:
    """Say why a convolution is left to the compiler.

    Args: as for `conv_general_dilated`.

    Returns:
      The reason, such as "it has 2 groups"; "" where the fast convolution computes it.
    """
    if lhs.ndim != 4 or rhs.ndim != 4:
        return f"it has {lhs.ndim - 2} spatial axes, not 2"
    if feature_group_count != 1 or batch_group_count != 1:
        return f"it has {max(feature_group_count, batch_group_count)} groups"
    if set(rhs_dilation or ()) - {1}:
        return "its kernel is dilated"
    if set(lhs_dilation or ()) - {1}:
        return "its input is dilated"
    if tuple(jax.lax.conv_dimension_numbers(lhs.shape, rhs.shape, dimension_numbers)) != (
        _CHANNELS_LAST
    ):
        return "its axes are not [batch, height, width, channels]"
    if precision is not None:
        return "its precision is set"
    if lhs.dtype != rhs.dtype or not jnp.issubdtype(lhs.dtype, jnp.floating):
        return f"it multiplies {lhs.dtype} with {rhs.dtype}"
    if preferred_element_type is not None and preferred_element_type != lhs.dtype:
        return "its results have another type"
    if any(value is not None for value in options.values()):
        return f"{', '.join(options)} is set"
    if min(min(side) for side in _sides(lhs, rhs, window_strides, padding)) < 0:
        return "its padding is negative"
    return ""


# for arguments that are passed on as they come, whose types the functions themselves know
_NATIVE: Callable[..., Array] = jax.lax.conv_general_dilated
_reason: Callable[..., str] = native_because


def _sides(
    lhs: Array, rhs: Array, strides: Sequence[int], padding: str | Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Give the zeros around the images, as [(top, bottom), (left, right)]."""
    if isinstance(padding, str):
        padding = jax.lax.padtype_to_pads(lhs.shape[1:3], rhs.shape[:2], strides, padding)
    return [(int(low), int(high)) for low, high in padding]


@dataclass(frozen=True, eq=False)
class Noted:
    """The fast convolution, which notes the convolutions that it is called for.

    Attributes:
      path: of the layer.
      seen: where (path, why it is native) is added.
    """

    path: str
    seen: list[tuple[str, str]] = field(default_factory=list)

    def __call__(
        self,
        lhs: Array,
        rhs: Array,
        window_strides: Sequence[int],
        padding: str | Sequence[tuple[int, int]],
        *further: object,
        **options: object,
    ) -> Array:
        """As `conv_general_dilated`."""
        args = (lhs, rhs, window_strides, padding, *further)
        self.seen.append((self.path, _reason(*args, **options)))
        return conv_general_dilated(lhs, rhs, window_strides, padding, *further, **options)
