"""Weights of half precision that are trained in float32."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jax import Array

from jaxticket.typing import Key, Params, Stats

HALF = (jnp.bfloat16, jnp.float16)


@dataclass(frozen=True, eq=False)
class MasterInit:
    """An `init` whose weights of half precision are given in float32, the same numbers."""

    function: Callable[[Key], tuple[Params, Stats]]

    def __call__(self, key: Key) -> tuple[Params, Stats]:
        """Initialize params and statistics."""
        params, stats = self.function(key)
        wide = (x.astype(jnp.float32) if x.dtype in HALF else x for x in jax.tree.leaves(params))
        return jax.tree.unflatten(jax.tree.structure(params), list(wide)), stats


@dataclass(frozen=True, eq=False)
class MasterApply:
    """An `apply` that rounds float32 weights to the types that the module has them in.

    The gradient passes through the rounding, so small updates add up in float32.

    Attributes:
      function: the module's own `apply`.
      types: of its leaves, in order.
    """

    function: Callable[..., tuple[Array, Stats]]
    types: tuple[str, ...]

    def __call__(
        self, params: Params, stats: Stats, x: Array, *, train: bool, **options: object
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats)."""
        leaves, tree = jax.tree.flatten(params)
        own = [w.astype(t) if t else w for w, t in zip(leaves, self.types, strict=True)]
        return self.function(jax.tree.unflatten(tree, own), stats, x, train=train, **options)
