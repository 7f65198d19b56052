"""LeNet-300-100 and other fully connected networks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax

from jaxticket.checks import example_shape, from_table, number, several, whole
from jaxticket.networks.flax import from_linen, no_tap
from jaxticket.networks.initializers import INITIALIZERS
from jaxticket.types import Array, Network


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

    def resized(width: float) -> Network:
        width = number("width", width, 0, above=True)
        return lenet(shape, classes, [max(1, round(width * w)) for w in widths], init=init)

    def adapted(shape: tuple[int, ...] = shape, classes: int = classes, **changes: Any) -> Network:
        return lenet(shape, classes, **{"widths": widths, "init": init, **changes})

    return from_linen(
        _Lenet(widths, classes, init),
        shape,
        name="lenet",
        constructor="lenet",
        output=f"dense_{len(widths)}",
        config={"shape": list(shape), "classes": classes, "widths": list(widths), "init": init},
        resized=resized,
        adapted=adapted,
    )
