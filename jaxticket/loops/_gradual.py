"""Pruning along the way: an optax transformation whose mask shrinks by a schedule."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Mapping
from typing import NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxticket import _tree, masks
from jaxticket._check import number, one_of, settle, share, whole
from jaxticket._conditions import where_due
from jaxticket._promotion import relaxed_types
from jaxticket.loops._masked import MaskedState, advance, begin, checked, with_mask
from jaxticket.pruning.keep import counts_of, keep_top
from jaxticket.typing import Array, Mask, Params

GradualScore = Callable[[Params, Params], Params]
"""`(params, gradient) -> scores`, trees of one structure; the highest are kept."""


@dataclasses.dataclass(frozen=True)
class PolynomialDensity:
    r"""Densities that fall fast at first and slowly at the end.

    `final + (initial - final) * (1 - (t - begin) / (end - begin)) ** power` at the steps
    t = begin, begin + every, ... and at `end`, held in between.

    Attributes:
      final: density from `end` on.
      end: step of the last pruning.
      begin: step of the first.
      every: steps between prunings.
      initial: density that the polynomial falls from, at `begin`.
      power: 3 is the cubic schedule.

    Raises:
      ValueError: for values out of range, and an `end` that is not after `begin`.

    Reference: Zhu & Gupta 2017, "To prune, or not to prune", equation 1, in densities.

    >>> updates = PolynomialDensity(0.1, end=200, every=100).updates
    >>> {step: round(density, 4) for step, density in updates.items()}
    {0: 1.0, 100: 0.2125, 200: 0.1}
    """

    final: float
    end: int
    begin: int = 0
    every: int = 1
    initial: float = 1.0
    power: float = 3.0

    def __post_init__(self) -> None:
        settle(self, share, "final", "initial")
        settle(self, whole, "begin", low=0)
        settle(self, whole, "every", "end", low=1)
        settle(self, number, "power", low=0, above=True)
        if self.end <= self.begin:
            raise ValueError(f"`end` must be after `begin` {self.begin}, got {self.end}")
        if self.final > self.initial:
            raise ValueError(
                f"`final` must not be above `initial` {self.initial:g}, since pruned weights do "
                f"not come back, got {self.final:g}"
            )

    @property
    def updates(self) -> dict[int, float]:
        """The densities by the steps at which they are reached."""
        steps = [*range(self.begin, self.end, self.every), self.end]
        return {step: self._at(step) for step in steps}

    def _at(self, step: int) -> float:
        left = 1 - (step - self.begin) / (self.end - self.begin)
        return float(self.final + (self.initial - self.final) * left**self.power)


Densities = PolynomialDensity | Mapping[int, float] | Callable[[Array], ArrayLike]


class GradualState(NamedTuple):
    """The state of `jt.gradual`.

    Attributes:
      count: int32, updates done so far.
      masked: the mask, and the state of the transformation.
    """

    count: Array
    masked: MaskedState


def gradual(
    tx: optax.GradientTransformation,
    schedule: Densities,
    score: str | GradualScore = "magnitude",
    *,
    mask: Mask | None = None,
    scope: str = "global",
) -> optax.GradientTransformationExtraArgs:
    """Prune along the way: an optax transformation under a mask that shrinks by a schedule.

    Update t (from 0) ranks the weights as they are before it, keeps exactly
    `round(schedule(t) * P)` of the P that can be pruned, and then works as `jt.masked` with the new
    mask: the weights pruned become zero through the updates, their moments too, and none comes
    back. Nothing is ranked at steps whose density keeps as many as there are; under `jax.vmap`, at
    steps where that holds for every replica.

    Args:
      tx: the transformation, such as `optax.adam(1e-3)`.
      schedule: `jt.PolynomialDensity(...)`; densities by steps, `{1000: 0.5, 2000: 0.25}`; or a
        function `step -> density` of an int32 scalar that is traced, computed in float32.
      score: "magnitude", or a function `(params, gradient) -> scores` of masked weights and the
        gradient as it was passed to `update`.
      mask: where to begin, as of `jt.masked`; None to begin dense.
      scope: "global" ranks all layers together, "layer" each by itself.

    Returns:
      An optax transformation; `jt.mask_of(state)` is the mask.

    Raises:
      ValueError: for densities out of range or that rise, an unknown score or scope, and what
        `jt.masked` and `jt.keep_top` refuse.

    Reference: Zhu & Gupta 2017; Lee et al. 2023 (JaxPruner) for the form.

    >>> params = {"w": jnp.array([[1.0, -3.0, 2.0, 0.5]])}
    >>> tx = gradual(optax.sgd(0.0), {0: 0.75, 1: 0.5})
    >>> state = tx.init(params)
    >>> for _ in range(2):
    ...     updates, state = tx.update(params, state, params)
    ...     params = optax.apply_updates(params, updates)
    ...     print(params["w"].tolist())
    [[1.0, -3.0, 2.0, 0.0]]
    [[0.0, -3.0, 2.0, 0.0]]
    """
    one_of("scope", scope, ("global", "layer"))
    if isinstance(score, str):
        one_of("score", score, ("magnitude",))
        ranked: GradualScore = _magnitude
    elif callable(score):
        ranked = score
    else:
        raise ValueError(
            f"`score` must be 'magnitude' or a function (params, gradient) -> scores, got {score!r}"
        )
    if isinstance(schedule, PolynomialDensity):
        schedule = schedule.updates
    if isinstance(schedule, Mapping):
        schedule = _checked(schedule)
    elif not callable(schedule):
        raise ValueError(
            f"`schedule` must be a jt.PolynomialDensity, densities by steps or a function of the "
            f"step, got {schedule!r}"
        )
    inner = checked(tx, mask)

    def init(params: Params) -> GradualState:
        return GradualState(jnp.int32(0), begin(inner, mask, params))

    def update(
        updates: Params, state: GradualState, params: Params | None = None, **extra: object
    ) -> tuple[Params, GradualState]:
        if params is None:
            raise ValueError(
                "`params` is needed, since the weights are ranked; call "
                "tx.update(gradient, state, params)"
            )
        now = state.masked.mask
        keep = _amounts(schedule, state.count, now, scope)
        there = _kept(now, scope)

        def pruned(state: MaskedState) -> MaskedState:
            scores = ranked(masks.apply(state.mask, params), updates)
            return with_mask(state, keep_top(scores, state.mask, keep, scope=scope))

        before = _tree.varying_like(state.masked, (params, updates, keep))
        own = where_due(jnp.any(keep < there), pruned, before)
        moved, after = advance(inner, updates, own, params, extra)
        return moved, GradualState(state.count + 1, after)

    # optax's types of trees are wider than those of weights
    return optax.GradientTransformationExtraArgs(
        cast(optax.TransformInitFn, init), cast(optax.TransformUpdateExtraArgsFn, update)
    )


def _magnitude(params: Params, gradient: Params) -> Params:
    del gradient
    return jax.tree.map(jnp.abs, params)


def _checked(densities: Mapping[int, float]) -> dict[int, float]:
    """Densities by steps, in the order of steps."""
    if not densities:
        raise ValueError("`schedule` is empty; give densities by steps, such as {1000: 0.5}")
    found = {whole("schedule", t, 0): share("schedule", d) for t, d in sorted(densities.items())}
    values = list(found.values())
    if any(b > a for a, b in itertools.pairwise(values)):
        raise ValueError(
            f"`schedule` must not rise, since pruned weights do not come back, got {found}"
        )
    return found


def _amounts(
    schedule: Mapping[int, float] | Callable[[Array], ArrayLike],
    step: Array,
    mask: Mask,
    scope: str,
) -> Array:
    """How many weights a step keeps: int32, or int32 [prunable leaf] by layer."""
    if isinstance(schedule, Mapping):
        table = counts_of(mask, [1.0, *schedule.values()], scope)
        reached = jnp.sum(np.asarray(list(schedule), np.int32) <= step, dtype=jnp.int32)
        return jnp.asarray(table)[reached]
    sizes = counts_of(mask, [1.0], scope)[0]
    with relaxed_types():
        density = jnp.asarray(schedule(step))
        if density.ndim:
            raise ValueError(
                f"`schedule` {schedule!r} must give a density, a number, for a step; got the shape "
                f"{density.shape}"
            )
        wanted = jnp.round(jnp.clip(density, 0, 1).astype(float) * sizes.astype(float))
    return wanted.astype(jnp.int32)


def _kept(mask: Mask, scope: str) -> Array:
    """How many weights a mask keeps, likewise."""
    counts = jnp.stack([jnp.sum(m, dtype=jnp.int32) for _, m in masks.items(masks.known(mask))])
    return counts if scope == "layer" else jnp.sum(counts)
