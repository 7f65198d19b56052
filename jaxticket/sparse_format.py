"""Evaluation of very sparse tickets with sparse kernels, `ticket.compact(format="bcsr")`.

Dead units are taken out first. Then each dense layer of which few weights are left holds its
kernel, transposed, as a BCSR matrix; a sparse product costs what its weights cost and the two
transpositions around it. Convolutions stay dense: a sparse product of their patches pays with 128
channels from 98% sparsity on, with 64 or fewer on small maps it mostly loses
(`experiments.benchmarks.sparse_evaluation` has the times).
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping

import jax
import numpy as np

from jaxticket import _check, _show, _tree
from jaxticket.compaction import TOLERANCE, Compact, Evaluated, Forward, WeightsT, difference
from jaxticket.nn import flops
from jaxticket.nn.sparse_layers import WithSparse, dense_layers, rows_of
from jaxticket.typing import Network, Params

FORMATS = ("dense", "bcsr")
DENSEST = 0.1
"""Layers of a greater density stay dense; measured on a CPU."""
EXAMPLES = 8
"""Random examples on which the result is compared."""


@dataclasses.dataclass(frozen=True, eq=False)
class SparseCompact(Compact[WeightsT]):
    """A ticket without its dead units, whose sparse dense layers are evaluated as BCSR.

    `net` and `ticket` are the smaller network with dense kernels, which can be trained further.

    Attributes:
      layers: path of a layer that is evaluated as BCSR -> the share of its weights that is left,
        of those of the smaller network.
      params: the weights with `BCSR` matrices [out, in] as the kernels of these layers.
      apply: `apply(params, stats, x) -> (logits, stats)`, of evaluation mode.
    """

    layers: Mapping[str, float]
    params: Params
    apply: Forward

    __repr__ = _show.record

    @property
    def evaluated(self) -> Evaluated:
        """What `logits`, `accuracy` and `seconds` call: `apply`, its params and statistics."""
        return self.apply, self.params, self.ticket.stats

    @property
    def flops(self) -> tuple[float, float]:
        """Operations of the forward pass of one example, with the weights left, and before."""
        dense, before = super().flops
        spared = 0.0
        for kernel in flops.kernels(self.net):
            share = self.layers.get(kernel.path.rpartition("/")[0], 1.0)
            spared += 2 * kernel.positions * np.prod(kernel.shape) * (1 - share)
        return float(dense - spared), before


def sparse(small: Compact[WeightsT], densest: float | None) -> SparseCompact[WeightsT]:
    """Give a compact ticket BCSR kernels where its dense layers are sparse enough.

    Args:
      small: the ticket without dead units.
      densest: the density above which a layer stays dense; None for `DENSEST`.

    Raises:
      ValueError: where no layer is sparse enough, or the logits differ.
    """
    bound = DENSEST if densest is None else _check.share("densest", densest)
    config = json.loads(small.net.config)
    if config.get("master_weights"):
        raise ValueError(
            f"`net` of {config['constructor']!r} rounds its weights in every call "
            f"(master_weights=True), which sparse kernels do not; use format='dense'"
        )
    layers = _sparse_enough(small.net, small.ticket.params, bound)
    apply = WithSparse(small.net.apply, frozenset(layers))
    params = _with_kernels(small.ticket.params, layers)
    found = SparseCompact(
        small.net, small.ticket, small.before, small.whole, small.units, layers, params, apply
    )
    x = small.before.noise(jax.random.key(0), EXAMPLES)
    before = small.before.apply, small.whole.params, small.whole.stats
    apart = difference(before, found.evaluated, x)
    if not apart <= TOLERANCE:
        raise ValueError(
            f"`net` with sparse kernels in {', '.join(layers)} gives other logits (by {apart:.2g} "
            f"of the largest): a layer there is no plain nn.Dense in float32; use format='dense'"
        )
    return found


def _sparse_enough(net: Network, params: Params, densest: float) -> dict[str, float]:
    """Choose the dense layers that become sparse, with their densities.

    Raises:
      ValueError: where there are none, with the densities that the layers have.
    """
    called, dense, other = dense_layers(net), {}, {}
    for path, w in _tree.leaves(params).items():
        layer, _, leaf = path.rpartition("/")
        if leaf != "kernel" or np.ndim(w) < 2:
            continue
        share = np.count_nonzero(np.asarray(w)) / np.size(w)
        (dense if np.ndim(w) == 2 and layer in called else other)[layer] = share
    chosen = {layer: share for layer, share in dense.items() if share <= densest}
    if not chosen:
        has = ", ".join(f"{layer} {_show.percent(share)}" for layer, share in dense.items())
        kinds = f"; {', '.join(other)} are of other kinds and stay dense" if other else ""
        raise ValueError(
            f"`format` is 'bcsr', and no nn.Dense layer of the network without dead units has at "
            f"most {_show.percent(densest)} of its weights left ({has or 'there is none'}){kinds}; "
            f"use format='dense', or a greater `densest`"
        )
    return chosen


def _with_kernels(params: Params, layers: Mapping[str, float]) -> Params:
    """The params with transposed BCSR matrices as the kernels of some layers."""
    chosen = {f"{layer}/kernel" for layer in layers}
    leaves = {
        path: rows_of(np.asarray(w).T) if path in chosen else w
        for path, w in _tree.leaves(params).items()
    }
    return jax.tree.unflatten(jax.tree.structure(params), list(leaves.values()))
