"""What of a network is pruned, in one line."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import jax

from jaxticket import _tree
from jaxticket.typing import Network


def pruned_line(net: Network, exclude: Sequence[str] = ()) -> str:
    """Say which weights of a network are pruned, and what is left out.

    Args:
      net: the network.
      exclude: patterns of paths that are not pruned, as in `Pruning`.

    Returns:
      The number of weights and layers that are pruned, and the names of what is not: leaves of two
      or more dimensions by their paths, biases, scales and vectors by their number.

    >>> from jaxticket.nn import lenet
    >>> pruned_line(lenet((2, 2, 1), 3, widths=(4,)), exclude=("dense_1",))
    'prunes 16 of 35 weights, in 1 of 2 layers; left out: dense_1/kernel, 2 bias'
    """
    shapes = _tree.leaves(net.shapes[0])
    flags = dict(zip(shapes, jax.tree.leaves(net.prunable_leaves(exclude)), strict=True))
    pruned = [path for path, chosen in flags.items() if chosen]
    kept = {path: shape for path, shape in shapes.items() if not flags[path]}
    last = {path: path.rsplit("/", 1)[-1] for path in kept}
    tables = [p for p, x in kept.items() if len(x.shape) >= 2 and last[p] not in ("bias", "scale")]
    vectors = Counter(name for path, name in last.items() if path not in tables)
    names = [*tables, *(f"{count} {name}" for name, count in vectors.items())]
    size = sum(math.prod(shapes[path].shape) for path in pruned)
    whole = sum(math.prod(x.shape) for x in shapes.values())
    layers = f"{len(pruned)} of {len(pruned) + len(tables)} layers"
    text = f"prunes {size:,} of {whole:,} weights, in {layers}"
    if not names:
        return text
    more = f", and {len(names) - 8} more" if len(names) > 8 else ""
    return f"{text}; left out: {', '.join(names[:8])}{more}"
