"""Narrower networks of the same kind with at most a given number of parameters."""

from __future__ import annotations

from jaxticket import _tree
from jaxticket._check import whole
from jaxticket.typing import Network

# relative, of the factor: it resolves widths of up to a million units per layer
PRECISION = 1e-6


class NoWidthError(ValueError):
    """A network that cannot be made wider or narrower.

    Attributes:
      why: the reason, and what to do.
    """

    def __init__(self, width: float, why: str) -> None:
        super().__init__(f"`resized({width})`: {why}")
        self.why = why


def parameters(net: Network) -> int:
    """Number of parameters of a network, biases and BatchNorm's scales among them.

    >>> from jaxticket.nn import lenet
    >>> parameters(lenet())
    266610
    """
    return _tree.size(net.shapes[0])


def narrowed(net: Network, most: int) -> Network:
    """The widest `net.resized(width)`, width <= 1, that has at most `most` parameters.

    All widths are multiplied by one factor and rounded, so the depth stays and the next wider
    network has more parameters than `most`.

    Args:
      net: a network that can be resized.
      most: parameters, of all kinds.

    Raises:
      ValueError: where even one unit per layer is too many.
      NoWidthError: for networks without a width.

    Reference: KD-LTS, Definition 6.2 (small-dense training).

    >>> from jaxticket.nn import lenet
    >>> parameters(narrowed(lenet(), 26661))
    26399
    """
    most = whole("most", most, 1, high=2**62)
    if parameters(net) <= most:
        return net
    low, high = PRECISION, 1.0
    widest = net.resized(low)
    if (least := parameters(widest)) > most:
        raise ValueError(
            f"`most` is {most}, but the narrowest network of this kind has {least} parameters; "
            f"ask for a denser one"
        )
    while high / low > 1 + PRECISION:
        # widths differ by factors, so the middle is the geometric one
        middle = (low * high) ** 0.5
        network = net.resized(middle)
        if parameters(network) <= most:
            low, widest = middle, network
        else:
            high = middle
    return widest
