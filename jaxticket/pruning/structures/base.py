"""What structures have in common: weights that are kept or pruned together, as units."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket.pruning.ranking import floored, highest
from jaxticket.typing import AnyArray, Array, Mask, Network, Params


@runtime_checkable
class Structure(Protocol):
    """A kind of structure, as settings hold it: hashable, such as a frozen dataclass."""

    def units(self, dense: Mask, net: Network | None) -> Units:
        """Group the weights of a network.

        Args:
          dense: the dense mask of the network, with None at leaves that are not pruned; only its
            shapes count.
          net: the network; None where only its weights are known.

        Raises:
          ValueError: for layers that this structure does not fit, by their names.
        """
        ...


class Units(abc.ABC):
    """The weights of one network, grouped into units that are kept or pruned together.

    A user's structure sets `names` and `sizes` and writes `pool`, `alive` and `expand`; the
    rest holds for all whose units are ranked by one number each.

    Attributes:
      names: the layers, in the order of the leaves of trees of units.
      sizes: units of each layer.
      noun: what messages call the units.
      regrows: whether a pruned unit can learn again from zero.
    """

    names: tuple[str, ...]
    sizes: tuple[int, ...]
    noun: str = "units"
    regrows: bool = True

    @abc.abstractmethod
    def pool(self, scores: Params, mask: Mask) -> Params:
        """Scores of units: the mean of the scores of their weights that the mask keeps."""

    @abc.abstractmethod
    def alive(self, mask: Mask) -> Mask:
        """Which units a mask keeps, a tree of bools."""

    @abc.abstractmethod
    def expand(self, units: Params | Mask, mask: Mask) -> Mask:
        """Entries of weights from those of their units; the inverse of `alive`.

        Args:
          units: a tree of one number or bool for each unit.
          mask: of the weights; None stays where it has None.

        Returns:
          A tree like the mask, of the type of `units`; a weight of several units gets the product.
        """

    @property
    def density(self) -> float | None:
        """Share of the weights that the structure keeps; None where that is free."""
        return None

    @property
    def least(self) -> int:
        """The fewest units that a mask may keep."""
        return 1

    def keep(
        self,
        pooled: Params,
        alive: Mask,
        keep: Array | int | Sequence[int],
        *,
        scope: str = "global",
        floor: int = 0,
    ) -> Mask:
        """Mark the units that stay.

        Args:
          pooled: scores of units.
          alive: units that compete.
          keep: as `counts` gives it.
          scope: "global" ranks the units of all layers together, "layer" those of each by itself.
          floor: units that every layer keeps at least; with scope "global".
        """
        if floor:
            pooled = floored(pooled, alive, floor)
        return highest(pooled, alive, keep, scope=scope)

    def counts(
        self,
        density: float,
        *,
        scope: str = "global",
        level: int = 0,
        rates: Sequence[tuple[str, float]] = (),
    ) -> np.ndarray:
        """Units that a density keeps, int32: one number, or with scope "layer" one for each layer.

        Args:
          density: share of the units.
          scope: as of `keep`.
          level: of the mask, for layers with a rate.
          rates: pairs of a pattern of names and the share that a layer loses from level to level;
            with scope "layer".
        """
        if scope != "layer":
            return np.asarray(round(density * sum(self.sizes)), np.int32)
        found = []
        for name, size in zip(self.names, self.sizes, strict=True):
            rate = next((r for pattern, r in rates if _tree.matches(name, [pattern])), None)
            found.append(round((density if rate is None else (1 - rate) ** level) * size))
        return np.asarray(found, np.int32)

    def rounds(self, density: float | None, rounds: int, *, scope: str = "global") -> np.ndarray:
        """Units that each of R rounds keeps, int32 [R, ...].

        Args:
          density: share of the units that the last round keeps.
          rounds: R; the densities between fall exponentially.
          scope: as of `keep`.
        """
        if density is None:
            raise ValueError(
                f"`density` must be in (0, 1], got None: the structure keeps any share of its "
                f"{self.noun}"
            )
        shares = [density ** ((i + 1) / rounds) for i in range(rounds - 1)]
        return np.stack([self.counts(share, scope=scope) for share in (*shares, density)])

    def amounts(self, counts: Array, *, scope: str = "global") -> Array:
        """Units in all, or with scope "layer" in each layer, where `counts` are kept."""
        del scope
        return counts

    def held(self, alive: Mask) -> Array:
        """Units that a mask keeps of each layer, as `keep` takes them with scope "layer"."""
        return jnp.stack([jnp.sum(u, dtype=jnp.int32) for u in jax.tree.leaves(alive)])

    def whole(self, mask: Mask) -> Array:
        """Tell whether a mask keeps all units whole, a bool scalar."""
        again = self.expand(self.alive(mask), mask)
        same = jax.tree.map(lambda a, b: jnp.all(a == b), again, mask)
        return jnp.all(jnp.stack(jax.tree.leaves(same)))

    def complete(self, counts: np.ndarray) -> bool:
        """Tell whether `counts` are those of a final mask, for structures that imply them."""
        del counts
        return True


def mean(scores: AnyArray, mask: AnyArray, axes: tuple[int, ...]) -> Array:
    """The mean over axes of the scores that a mask keeps; 0 where it keeps none."""
    total, number = sums(scores, mask, axes)
    return total / jnp.maximum(number, 1).astype(total.dtype)


def sums(scores: AnyArray, mask: AnyArray, axes: tuple[int, ...]) -> tuple[Array, Array]:
    """The sum over axes of the scores that a mask keeps, and their number, int32."""
    values = jnp.asarray(scores)
    if not jnp.issubdtype(values.dtype, jnp.floating):
        values = values.astype(jnp.float32)
    total = jnp.sum(jnp.where(mask, values, 0), axis=axes)
    return total, jnp.sum(jnp.asarray(mask), axis=axes, dtype=jnp.int32)


def exclusion(paths: Sequence[str]) -> str:
    """The argument that leaves layers out, as it is written."""
    layers = dict.fromkeys(path.rpartition("/")[0] or path for path in paths)
    written = ", ".join(repr(layer) for layer in sorted(layers, key=_tree.natural))
    return f"exclude=({written},)" if len(layers) == 1 else f"exclude=({written})"
