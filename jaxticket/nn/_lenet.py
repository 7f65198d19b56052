"""LeNet-300-100 and other fully connected networks."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxticket._check import example_shape, from_table, number, several, whole
from jaxticket.nn.adapters import from_linen, no_tap
from jaxticket.nn.initializers import INITIALIZERS
from jaxticket.typing import Array, Network


class _Lenet(nn.Module):
    widths: tuple[int, ...]
    classes: int
    kernel_init: str

    @nn.compact
    def __call__(self, x: Array, *, tap: Callable[[str, Array], Array] = no_tap) -> Array:
        x = x.reshape(x.shape[0], -1)
        kernel_init = INITIALIZERS[self.kernel_init]
        for i, width in enumerate(self.widths):
            x = nn.Dense(width, kernel_init=kernel_init, dtype=x.dtype, name=f"dense_{i}")(x)
            x = tap(f"dense_{i}", jax.nn.relu(x))
        last = f"dense_{len(self.widths)}"
        return tap(
            last, nn.Dense(self.classes, kernel_init=kernel_init, dtype=x.dtype, name=last)(x)
        )


def _resized(
    shape: tuple[int, ...], classes: int, widths: Sequence[int], init: str, width: float
) -> Network:
    width = number("width", width, 0, above=True)
    return lenet(shape, classes, [max(1, round(width * w)) for w in widths], init=init)


def _adapted(
    old_shape: tuple[int, ...],
    old_classes: int,
    widths: Sequence[int],
    init: str,
    *,
    shape: tuple[int, ...] | None = None,
    classes: int | None = None,
    **changes: Any,
) -> Network:
    options = {"widths": widths, "init": init, **changes}
    return lenet(
        old_shape if shape is None else shape,
        old_classes if classes is None else classes,
        **options,
    )


def lenet(
    shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    widths: Sequence[int] = (300, 100),
    *,
    init: str = "glorot_normal",
) -> Network:
    """LeNet-300-100: dense layers with ReLU between them, zero biases, all kernels prunable.

    Layers are called dense_0, dense_1, ...; each has a tap of that name (after the ReLU, or the
    logits).

    Args:
      shape: shape of one example; it is flattened.
      classes: number of logits.
      widths: hidden units of each layer.
      init: name of the kernels' initializer.

    Reference: LeCun et al. 1998; Frankle's thesis, section 3.3.1. 266,200 prunable weights on
      MNIST.

    >>> lenet().output
    'dense_2'
    """
    shape = example_shape(shape)
    classes = whole("classes", classes, 1)
    widths = several("widths", widths, whole, like="(300, 100)", empty=True, low=1)
    from_table("init", init, INITIALIZERS)

    return from_linen(
        _Lenet(widths, classes, init),
        shape,
        name="lenet",
        constructor="lenet",
        output=f"dense_{len(widths)}",
        config={"shape": list(shape), "classes": classes, "widths": list(widths), "init": init},
        resized=functools.partial(_resized, shape, classes, widths, init),
        adapted=functools.partial(_adapted, shape, classes, widths, init),
    )
