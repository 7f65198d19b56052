"""Sizes, stride and padding of a convolution."""

from __future__ import annotations

from typing import NamedTuple


class Geometry(NamedTuple):
    """Sizes, stride and padding, which the shapes of both operands do not determine.

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
