"""Networks from Flax NNX modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

from jaxticket.nn.network import Selection, WithOptions, make_network
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats, SymmetryOf

# Flax imports NNX when it is first used, and so does this module
if TYPE_CHECKING:
    from flax import nnx


def _within(tree: Stats, like: Stats) -> Stats:
    """Select the entries of nested dicts that `like` has too."""
    selected = {}
    for name, inner in like.items():
        if name in tree:
            value = tree[name]
            if isinstance(value, Mapping) and isinstance(inner, Mapping):
                value = _within(value, inner)
            selected[name] = value
    return selected


@dataclass(frozen=True, eq=False)
class Nnx:
    """An NNX module as `init` and `apply` of a network; a class, so that networks pickle.

    Attributes:
      make: `make(rngs) -> module`.
    """

    make: Callable[[nnx.Rngs], nnx.Module]

    @staticmethod
    def split(model: nnx.Module) -> tuple[Params, Stats]:
        """Split a module into weights and statistics, without random states and sown values."""
        from flax import nnx

        _, params, _, rest = nnx.split(model, nnx.Param, (nnx.RngState, nnx.Intermediate), ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def init(self, key: Key) -> tuple[Params, Stats]:
        """Initialize params and statistics."""
        from flax import nnx

        rngs = nnx.Rngs(
            default=stream(key, "default"),
            params=stream(key, "params"),
            dropout=stream(key, "dropout"),
        )
        return self.split(self.make(rngs))

    def apply(
        self, params: Params, stats: Stats, x: Array, *, train: bool, key: Key | None = None
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats)."""
        from flax import nnx

        # the initial values are all overwritten, so that the compiler drops their computation
        dropout = 0 if key is None else key
        default = 0 if key is None else stream(key, "default")
        model = self.make(nnx.Rngs(default=default, params=0, dropout=dropout))
        assert callable(model), "construction has called the module"
        nnx.update(model, params)
        if jax.tree.leaves(stats):
            nnx.update(model, stats)
        (model.train if train else model.eval)()
        logits = model(x)
        return logits, _within(self.split(model)[1], stats) if train else stats


def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module],
    shape: Sequence[int],
    *,
    name: str,
    prunable: Selection | None = None,
    output: str | None = None,
    dtype: str = "float32",
    symmetry: SymmetryOf | None = None,
    stages: Sequence[Sequence[str]] = (),
) -> Network:
    """Make a network of a Flax NNX module.

    Args:
      make: `make(rngs) -> flax.nnx.Module`, called with `nnx.Rngs(...)`; the module maps x to
        logits.
      shape: shape of one example.
      name: the network's name in run folders; networks are distinguished by their code too.
      prunable: as for `from_linen`.
      output: as for `from_linen`.
      dtype: as for `from_linen`.
      symmetry: as for `from_linen`.
      stages: as for `from_linen`.

    The module's train and eval modes are set by `train()` and `eval()`. In training every rng
    stream draws from the replica's key of the step. Sown values are ignored. Its BatchNorm cannot
    be given the mesh axis: a module with statistics is refused on a mesh with a data axis above 1.

    Raises, Warns: as `from_linen`.
    """
    nnx_of = Nnx(make)
    return make_network(
        nnx_of.init,
        WithOptions(nnx_of.apply, frozenset({"key"}), name, "NNX modules cannot be tapped"),
        shape,
        constructor="from_nnx",
        name=name,
        source=make,
        syncs_stats=False,
        prunable=prunable,
        output=output,
        dtype=dtype,
        symmetry=symmetry,
        stages=stages,
    )
