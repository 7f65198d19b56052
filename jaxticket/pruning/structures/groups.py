"""N of each M weights, and constant fan-in: every group of weights keeps the same number.

A unit is a weight here; what the structure says is who competes with whom.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import masks
from jaxticket._check import settle, whole
from jaxticket.pruning.ranking import check_scores, ranked
from jaxticket.pruning.structures.base import Units, exclusion
from jaxticket.pruning.topk import sortable, top_within
from jaxticket.typing import Array, Mask, Network, Params


@dataclass(frozen=True)
class NM:
    """N of each M consecutive inputs of every output, "N:M".

    Groups lie along the second-to-last axis of a kernel [..., inputs, outputs]: along the inputs of
    a dense layer, and along the input channels of a convolution at each of its positions.

    Attributes:
      n, m: weights that stay of each group, and weights of a group.

    Reference: Zhou et al. 2021, "Learning N:M fine-grained structured sparse neural networks";
      Mishra et al. 2021 (2:4, which tensor cores multiply).
    """

    n: int
    m: int

    def __post_init__(self) -> None:
        settle(self, whole, "n", "m", low=1)
        if self.n >= self.m:
            raise ValueError(
                f"`structure` '{self.n}:{self.m}' keeps {self.n} of each {self.m} weights, which "
                f"prunes nothing; N must be below M"
            )

    def __str__(self) -> str:
        return f"{self.n}:{self.m}"

    def units(self, dense: Mask, net: Network | None) -> Groups:
        """Group the weights; see `Structure.units`."""
        del net
        layers = _layers(dense, str(self))
        odd = [path for path, shape in layers if shape[-2] % self.m]
        if odd:
            said = ", ".join(f"{path!r} has {dict(layers)[path][-2]}" for path in odd[:4])
            raise ValueError(
                f"`structure` '{self}' needs numbers of inputs that are multiples of {self.m}, and "
                f"{said}; leave such layers out with {exclusion(odd)}, or take another structure"
            )
        return Groups(layers, (self.m,) * len(layers), (self.n,) * len(layers))


@dataclass(frozen=True)
class FanIn:
    """Every output keeps the same number of incoming weights, ("fan_in", k).

    The incoming weights of an output of a convolution are those of all positions and channels.

    Attributes:
      k: weights that stay for each output, in every layer.

    Reference: Lasby et al. 2024, "Dynamic sparse training with structured sparsity".
    """

    k: int

    def __post_init__(self) -> None:
        settle(self, whole, "k", low=1)

    def __str__(self) -> str:
        return f"fan_in {self.k}"

    def units(self, dense: Mask, net: Network | None) -> Groups:
        """Group the weights; see `Structure.units`."""
        del net
        layers = _layers(dense, str(self))
        fans = {path: int(np.prod(shape[:-1])) for path, shape in layers}
        odd = [path for path, fan in fans.items() if fan < self.k]
        if odd:
            said = ", ".join(f"{path!r} has {fans[path]}" for path in odd[:4])
            raise ValueError(
                f"`structure` ('fan_in', {self.k}) needs {self.k} incoming weights for each "
                f"output, and {said}; use a smaller number, or leave such layers out with "
                f"{exclusion(odd)}"
            )
        return Groups(layers, tuple(fans.values()), (self.k,) * len(layers))


Layers = tuple[tuple[str, tuple[int, ...]], ...]
"""Path and shape of each leaf."""


def _layers(dense: Mask, structure: str) -> Layers:
    """Path and shape of each prunable leaf, which must have inputs and outputs."""
    layers = tuple((path, tuple(m.shape)) for path, m in masks.items(masks.known(dense)))
    if flat := [path for path, shape in layers if len(shape) < 2]:
        raise ValueError(
            f"`structure` {structure!r} needs kernels [..., inputs, outputs], and {flat[0]!r} has "
            f"one axis; leave it out with exclude=({flat[0]!r},)"
        )
    return layers


@dataclass(frozen=True)
class Groups(Units):
    """Weights in groups of consecutive inputs, of which each keeps the same number.

    Attributes:
      layers: path and shape of each leaf.
      lengths: weights of a group, by layer.
      wanted: weights that final masks keep of each group, by layer.
    """

    layers: Layers
    lengths: tuple[int, ...]
    wanted: tuple[int, ...]

    noun = "weights"

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the leaves."""
        return tuple(path for path, _ in self.layers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Weights of each leaf."""
        return tuple(int(np.prod(shape)) for _, shape in self.layers)

    @property
    def density(self) -> float:
        """The density of masks that keep what the structure says of every group."""
        kept = sum(n * groups for n, groups in zip(self.wanted, self._groups, strict=True))
        return kept / sum(self.sizes)

    def pool(self, scores: Params, mask: Mask) -> Params:
        """The scores: each weight is a unit."""
        return masks.map_with(lambda _, s: jnp.asarray(s), masks.known(mask), scores)

    def alive(self, mask: Mask) -> Mask:
        """The mask."""
        return masks.known(mask)

    def expand(self, units: Params | Mask, mask: Mask) -> Mask:
        """The tree itself, completed where nothing can be pruned."""
        known = masks.known(mask)
        return masks.map_with(lambda _, u, m: u, known, units, mask, other=lambda u, m: m)

    def keep(
        self,
        pooled: Params,
        alive: Mask,
        keep: Array | int | Sequence[int],
        *,
        scope: str = "global",
        floor: int = 0,
    ) -> Mask:
        """Mark the weights with the highest scores of each group; see `Units.keep`.

        `keep` is the number of each group, one for all layers or one for each.
        """
        del scope, floor
        rows = masks.items(alive, pooled)
        values = [jnp.asarray(s) for _, _, s in rows]
        check_scores(values, [m for _, m, _ in rows], [path for path, _, _ in rows])
        amounts = jnp.broadcast_to(jnp.asarray(keep, jnp.int32), (len(rows),))
        work = zip(ranked(values), [m for _, m, _ in rows], amounts, self.lengths, strict=True)
        found = iter([_best(v, jnp.asarray(m), amount, length) for v, m, amount, length in work])
        return masks.map_with(lambda _: next(found), alive)

    def counts(
        self,
        density: float,
        *,
        scope: str = "global",
        level: int = 0,
        rates: Sequence[tuple[str, float]] = (),
    ) -> np.ndarray:
        """Weights of each group that a density keeps, but not fewer than final masks: [layer]."""
        del scope, level, rates
        pairs = zip(self.lengths, self.wanted, strict=True)
        return np.asarray([max(n, round(density * m)) for m, n in pairs], np.int32)

    def rounds(self, density: float | None, rounds: int, *, scope: str = "global") -> np.ndarray:
        """Weights of each group that each of R rounds keeps, int32 [R, layer]."""
        del density, scope
        wanted, lengths = np.asarray(self.wanted), np.asarray(self.lengths)
        steps = np.arange(1, rounds + 1)[:, None] / rounds
        counts = np.rint(lengths * (wanted / lengths) ** steps).astype(np.int32)
        return np.maximum(counts, wanted).astype(np.int32)

    def amounts(self, counts: Array, *, scope: str = "global") -> Array:
        """Weights in all, or with scope "layer" in each layer."""
        found = jnp.asarray(counts, jnp.int32) * jnp.asarray(self._groups, jnp.int32)
        return found if scope == "layer" else jnp.sum(found)

    @property
    def _groups(self) -> list[int]:
        return [size // m for size, m in zip(self.sizes, self.lengths, strict=True)]

    def held(self, alive: Mask) -> Array:
        """Weights that a mask keeps of each group, by layer."""
        return super().held(alive) // jnp.asarray(self._groups, jnp.int32)

    def whole(self, mask: Mask) -> Array:
        """Tell whether a mask keeps the same number in every group of a layer."""
        pairs = zip(jax.tree.leaves(masks.known(mask)), self.lengths, strict=True)
        numbers = [_grouped(m, length).sum(axis=1, dtype=jnp.int32) for m, length in pairs]
        return jnp.all(jnp.stack([jnp.max(n) == jnp.min(n) for n in numbers]))

    def complete(self, counts: np.ndarray) -> bool:
        """Tell whether every group keeps no more than final masks do."""
        return bool((counts <= np.asarray(self.wanted)).all())


def _best(scores: Array, alive: Array, keep: Array, length: int) -> Array:
    """The `keep` highest of each group of consecutive inputs, of each output."""
    found = top_within(_grouped(sortable(scores), length), _grouped(alive, length), keep)
    return found.reshape(scores.shape)


def _grouped(x: Array, length: int) -> Array:
    """[..., inputs, outputs] as [group, member, output]."""
    return jnp.asarray(x).reshape(-1, length, x.shape[-1])
