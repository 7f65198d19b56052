"""Layouts: how a density is spread over the layers before anything is scored.

A layout is `layout(layers, density) -> int32 [layer]`, the weights that each layer keeps. All
layouts here keep exactly `round(density * P)` of the P weights of all layers. What a formula gives
is rounded by largest remainders: every layer gets the whole part of its number, and the weights
that are left go one by one to the layers with the largest fractions, the first of equal ones first.
(The sources round every layer by itself, and so miss the total by up to one weight per layer.) A
density of 1 is the dense network, whatever the layout.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from jaxticket import _tree, masks
from jaxticket._check import share
from jaxticket.nn.flops import kernels
from jaxticket.typing import Layer as Layer
from jaxticket.typing import Layout as Layout
from jaxticket.typing import Network

OUTPUT_SHARE = 0.3
"""What the smart ratio keeps of the output layer."""


def uniform(layers: Sequence[Layer], density: float) -> np.ndarray:
    """The same density in every layer, `n_l = density * P_l`.

    Args:
      layers: the prunable layers, in any order.
      density: share of all their weights that stays, in (0, 1].

    Returns:
      int32 [layer], in the order of `layers`, of sum `round(density * P)`.

    Raises:
      ValueError: without layers, and for a density out of range.

    >>> uniform([Layer("a", (2, 5), 0), Layer("b", (5, 1), 1)], 0.5).tolist()
    [5, 3]
    """
    sizes, total = _sizes(layers, density)
    return _rounded(sizes * density, sizes, total)


def uniform_dense_first(layers: Sequence[Layer], density: float) -> np.ndarray:
    """The first layer dense, all others with one density.

    That density is a little below the asked one, so that the first layer does not add to the total;
    in the source it is the asked one and the total is larger.

    Args, Returns: as for `uniform`.

    Raises:
      ValueError: where the first layer alone has more weights than the density keeps.

    Reference: Evci et al. 2020 (RigL), section 3, "uniform".
    """
    sizes, total = _sizes(layers, density)
    first = int(np.argmin([layer.place for layer in layers]))
    if sizes[first] > total:
        raise ValueError(
            f"`density` {density:g} keeps {total:,} weights, fewer than the first layer, "
            f"{layers[first].path!r} with {sizes[first]:,}; use a higher density or the layout "
            f"'uniform'"
        )
    others = np.arange(len(sizes)) != first
    counts = sizes.copy()
    left = total - int(sizes[first])
    whole = int(sizes[others].sum())
    if whole:
        counts[others] = _rounded(sizes[others] * (left / whole), sizes[others], left)
    return counts.astype(np.int32)


def erdos_renyi(layers: Sequence[Layer], density: float) -> np.ndarray:
    """`density_l = epsilon * (in + out) / (in * out)`, at most 1.

    For kernels of convolutions too, in and out are the channels alone. epsilon is what gives the
    total; layers that would exceed 1 are dense, and epsilon is solved for the others again, until
    none exceeds 1.

    Args, Returns, Raises: as for `uniform`.

    Reference: Mocanu et al. 2018; Evci et al. 2020, section 3.
    """
    return _by_weight(layers, density, [_channels(layer.shape) for layer in layers])


def erk(layers: Sequence[Layer], density: float) -> np.ndarray:
    """Erdos-Renyi-Kernel densities (ERK).

    `density_l = epsilon * (sum of the shape) / (product of the shape)`, at most 1.

    For a convolution, `epsilon * (height + width + in + out) / (height * width * in * out)`; for a
    dense layer the same as `erdos_renyi`. epsilon is solved as there.

    Args, Returns, Raises: as for `uniform`.

    Reference: Evci et al. 2020 (RigL), section 3.

    >>> erk([Layer("a", (100, 10), 0), Layer("b", (10, 10), 1)], 0.8).tolist()
    [780, 100]
    """
    return _by_weight(layers, density, [sum(layer.shape) / layer.size for layer in layers])


def smart_ratio(
    layers: Sequence[Layer], density: float, *, falling: int = 0, output_share: float = OUTPUT_SHARE
) -> np.ndarray:
    """Densities that fall from the input to the output (smart ratio).

    Proportional to `((L - l + 1)^2 + (L - l + 1)) / l^falling` for layer l = 1 .. L by `place`.

    The output layer counts among the L and keeps 0.3 of its weights. What a layer would keep above
    all of its weights goes to the layers after it, in order.

    Args:
      layers: the prunable layers, in any order; one at most is the output layer.
      density: share of all their weights that stays, in (0, 1].
      falling: the power of l, 0 for residual networks, 2 for VGG ("smart_ratio_vgg").
      output_share: what the output layer keeps.

    Returns:
      int32 [layer], in the order of `layers`, of sum `round(density * P)`.

    Raises:
      ValueError: for two output layers, and for a density that cannot be reached: below what the
        output layer keeps, or above what is left with all other layers dense.

    Reference: Su et al. 2020, "Sanity-Checking Pruning Methods", section 4, and its code, which
      fixes all dense layers: those of its networks are output layers.

    >>> smart_ratio([Layer("a", (10, 10), 0), Layer("b", (10, 10), 1, output=True)], 0.25).tolist()
    [20, 30]
    """
    sizes, total = _sizes(layers, density)
    last = [i for i, layer in enumerate(layers) if layer.output]
    if len(last) > 1:
        raise ValueError(
            f"`layers` has {len(last)} output layers, {[layers[i].path for i in last]}; mark one "
            f"at most"
        )
    if total == sizes.sum():
        return sizes.astype(np.int32)
    counts = np.zeros_like(sizes)
    counts[last] = np.round(sizes[last] * output_share).astype(np.int64)
    order = np.argsort([layer.place for layer in layers], kind="stable")
    number = np.empty(len(layers), np.int64)
    number[order] = np.arange(1, len(layers) + 1)
    hidden = np.asarray([i for i in order if i not in last], np.int64)
    left, most = total - int(counts.sum()), int(sizes[hidden].sum())
    if not 0 <= left <= most:
        end = "least" if left < 0 else "most"
        reached = int(counts.sum()) + (0 if left < 0 else most)
        raise ValueError(
            f"`density` {density:g} keeps {total:,} weights, where the smart ratio keeps at {end} "
            f"{reached:,} of {sizes.sum():,} with {output_share:g} of the output layer; use a "
            f"{'higher' if left < 0 else 'lower'} density or another layout"
        )
    remaining = (len(layers) - number + 1).astype(np.float64)
    quota = ((remaining**2 + remaining) / number.astype(np.float64) ** falling)[hidden]
    wanted = quota * sizes[hidden]
    # nothing is hidden in a network of one layer
    wanted *= left / wanted.sum() if len(hidden) else 0.0
    excess = 0.0
    for i, size in enumerate(sizes[hidden]):
        amount = wanted[i] + excess
        wanted[i] = min(amount, float(size))
        excess = amount - wanted[i]
    counts[hidden] = _rounded(wanted, sizes[hidden], left)
    return counts.astype(np.int32)


def smart_ratio_vgg(layers: Sequence[Layer], density: float) -> np.ndarray:
    """The smart ratio of VGG: the quota of layer l divided by l^2. As `smart_ratio` otherwise."""
    return smart_ratio(layers, density, falling=2)


LAYOUTS: dict[str, Layout] = {
    "uniform": uniform,
    "uniform_dense_first": uniform_dense_first,
    "erdos_renyi": erdos_renyi,
    "erk": erk,
    "smart_ratio": smart_ratio,
    "smart_ratio_vgg": smart_ratio_vgg,
}
"""Layouts by name: how many weights each layer keeps at a density."""


def _sizes(layers: Sequence[Layer], density: float) -> tuple[np.ndarray, int]:
    """The sizes of the layers, int64, and how many weights stay."""
    share("density", density)
    if not layers:
        raise ValueError("`layers` is empty; pass the prunable layers of a network")
    sizes = np.asarray([layer.size for layer in layers], np.int64)
    return sizes, round(density * int(sizes.sum()))


def _channels(shape: tuple[int, ...]) -> float:
    n_in, n_out = (1, *shape)[-2:]
    return (n_in + n_out) / (n_in * n_out)


def _by_weight(layers: Sequence[Layer], density: float, weights: Sequence[float]) -> np.ndarray:
    """Densities proportional to the weights, at most 1."""
    sizes, total = _sizes(layers, density)
    weight = np.asarray(weights, np.float64)
    dense = np.zeros(len(sizes), bool)
    densities = np.ones(len(sizes))
    while not dense.all():
        rest = ~dense
        # above 0: each dense layer had been given more than it has
        left = density * float(sizes.sum()) - float(sizes[dense].sum())
        epsilon = left / float((weight * sizes)[rest].sum())
        densities[rest] = epsilon * weight[rest]
        above = rest & (densities > 1)
        if not above.any():
            break
        dense |= above
        densities[above] = 1.0
    return _rounded(densities * sizes, sizes, total)


def _rounded(wanted: np.ndarray, sizes: np.ndarray, total: int) -> np.ndarray:
    """Whole numbers in [0, size] of a given sum, int32: largest remainders, ties by index."""
    # what is whole but for rounding errors counts as whole
    slack = 1e-9 + 1e-13 * sizes
    whole = np.clip(np.floor(wanted + slack).astype(np.int64), 0, sizes)
    fraction = wanted - whole
    order = np.argsort(-np.round(fraction, 9), kind="stable")
    left = total - int(whole.sum())
    while left:
        step = 1 if left > 0 else -1
        room = whole < sizes if left > 0 else whole > 0
        chosen = [i for i in (order if left > 0 else order[::-1]) if room[i]][: abs(left)]
        assert chosen, "the sum lies between 0 and all weights"
        whole[chosen] += step
        left -= step * len(chosen)
    return whole.astype(np.int32)


def layers_of(net: Network, exclude: Sequence[str] = ()) -> tuple[Layer, ...]:
    """Give the prunable leaves as layouts see them, in the order of `jax.tree.leaves`.

    Args:
      net: the network.
      exclude: patterns of paths that are not pruned.

    Returns:
      A `Layer` each: `place` counts from the input to the output, in the order of first use.

    Raises:
      ValueError: for leaves that cannot be followed, as `kernels`.
    """
    place = {kernel.path: i for i, kernel in enumerate(kernels(net))}
    picked = [(path, tuple(m.shape)) for path, m in masks.items(net.mask(exclude))]
    if lost := [path for path, _ in picked if path not in place]:
        raise ValueError(
            f"`prunable` marks {lost[:4]}, which are not multiplied with anything that comes from "
            f"the input; mark kernels alone"
        )
    return tuple(
        Layer(path, shape, place[path], bool(net.output) and _tree.matches(path, [net.output]))
        for path, shape in picked
    )
