"""LeNet-300-100 and other fully connected networks."""

from __future__ import annotations

from collections.abc import Sequence

import flax.linen as nn
from jax import Array

from jaxticket._check import example_shape, several, whole
from jaxticket.nn import layers
from jaxticket.nn.family import Options, family_network
from jaxticket.nn.initializers import Initializer
from jaxticket.nn.layers import Style
from jaxticket.nn.network import no_tap
from jaxticket.nn.symmetry import chain
from jaxticket.typing import Network, Tap


class _Lenet(nn.Module):
    widths: tuple[int, ...]
    classes: int
    style: Style

    @nn.compact
    def __call__(self, x: Array, *, tap: Tap = no_tap) -> Array:
        x = x.reshape(x.shape[0], -1)
        return layers.head(x, self.widths, self.classes, self.style, tap=tap)


def _scaled(options: Options, factor: float) -> Options:
    return {**options, "widths": tuple(max(1, round(factor * w)) for w in options["widths"])}


def lenet(
    shape: tuple[int, ...] = (28, 28, 1),
    classes: int = 10,
    widths: Sequence[int] = (300, 100),
    *,
    init: str | Initializer = "glorot_normal",
) -> Network:
    """LeNet-300-100: dense layers with ReLU between them, zero biases, all kernels prunable.

    Layers are called dense_0, dense_1, ...; each has a tap of that name (after the ReLU, or the
    logits).

    Args:
      shape: shape of one example; it is flattened.
      classes: number of logits.
      widths: hidden units of each layer.
      init: name of the kernels' initializer, or a function.

    Reference: LeCun et al. 1998; Frankle's thesis, section 3.3.1. 266,200 prunable weights on
      MNIST.

    >>> lenet().output
    'dense_2'
    """
    shape = example_shape(shape)
    widths = several("widths", widths, whole, like="(300, 100)", empty=True, low=1)
    style = layers.checked_style(init, norm="none", scale="ones", bias=True)

    def module(_: float) -> nn.Module:
        return _Lenet(widths, classes, style)

    return family_network(
        lenet, module, shape, classes, output=f"dense_{len(widths)}", symmetry=chain,
        scaled=_scaled, widths=widths, init=init,
    )  # fmt: skip
