"""Optax transformations under a mask that their state holds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import optax

from jaxticket import _tree, masks
from jaxticket._check import instance
from jaxticket._promotion import relaxed_types
from jaxticket.typing import AnyArray, Array, Mask, Params

StateT = TypeVar("StateT")


class MaskedState(NamedTuple):
    """The state of `jt.masked`.

    Attributes:
      mask: which weights are kept.
      inner: the state of the transformation.
    """

    mask: Mask
    inner: optax.OptState


def masked(
    tx: optax.GradientTransformation, mask: Mask | None = None
) -> optax.GradientTransformationExtraArgs:
    """Keep pruned weights at zero under any optax transformation.

    The gradient and the weights are masked before `tx` sees them, so that clipping, moments, weight
    decay and norms know kept weights alone, and its updates are masked:
    `w + update = where(mask, w + u, 0)`. A network that starts from masked weights,
    `jt.masks.apply(mask, params)`, needs no mask in its forward pass. It trains as the library's
    own training does.

    The mask is a part of the state, `jt.mask_of(state)`, and can be another one for every replica
    under `jax.vmap`; `jt.with_mask` exchanges it. `update` takes the weights,
    `tx.update(gradient, state, params)`, and passes further arguments on.

    Args:
      tx: the transformation, such as `optax.adam(1e-3)`.
      mask: which weights are kept: a tree of bools like the weights, with None at leaves that
        cannot be pruned. The mask of a ticket, what `jt.prune` gives, or None to begin dense, where
        leaves of two or more dimensions can be pruned later.

    Returns:
      An optax transformation.

    Raises:
      ValueError: for a mask that is not of bools or has other shapes than the weights, and for an
        update without the weights.

    >>> params = {"w": jnp.array([[1.0, 0.0]]), "b": jnp.array([1.0])}
    >>> tx = masked(optax.sgd(0.5), {"w": jnp.array([[True, False]]), "b": None})
    >>> gradient = jax.tree.map(jnp.ones_like, params)
    >>> updates, state = tx.update(gradient, tx.init(params), params)
    >>> optax.apply_updates(params, updates)["w"].tolist()
    [[0.5, 0.0]]
    """
    inner = checked(tx, mask)

    def init(params: Params) -> MaskedState:
        return begin(inner, mask, params)

    def update(
        updates: Params, state: MaskedState, params: Params | None = None, **extra: object
    ) -> tuple[Params, MaskedState]:
        return advance(inner, updates, state, params, extra)

    # optax's types of trees are wider than those of weights
    return optax.GradientTransformationExtraArgs(
        cast(optax.TransformInitFn, init), cast(optax.TransformUpdateExtraArgsFn, update)
    )


def checked(
    tx: optax.GradientTransformation, mask: Mask | None
) -> optax.GradientTransformationExtraArgs:
    """Give a transformation that takes further arguments; raise where it or the mask is none."""
    instance("tx", tx, optax.GradientTransformation, "an optax transformation such as optax.sgd(1)")
    if mask is not None:
        masks.require_bools("mask", mask, "jt.masked(tx, mask)")
    return optax.with_extra_args_support(tx)


def begin(
    tx: optax.GradientTransformationExtraArgs, mask: Mask | None, params: Params
) -> MaskedState:
    """The first state of a transformation under a mask; the dense one if None."""
    own = masks.ones(params) if mask is None else jax.tree.map(jnp.asarray, mask)
    _same_shapes(own, params)
    # optax mixes types of numbers, which strict promotion (a user's choice) forbids
    with relaxed_types():
        state = MaskedState(own, tx.init(_kept(own, params)))
    # under `shard_map`, new arrays vary over devices where the weights do
    return _tree.varying_like(jax.tree.map(jnp.asarray, state), params)


def advance(
    tx: optax.GradientTransformationExtraArgs,
    gradient: Params,
    state: MaskedState,
    params: Params | None,
    extra: Mapping[str, object],
) -> tuple[Params, MaskedState]:
    """The updates of a transformation under the mask of its state, and the next state."""
    if params is None:
        raise ValueError(
            "`params` is needed, since pruned weights are kept at zero; call "
            "tx.update(gradient, state, params)"
        )
    _same_shapes(state.mask, params)
    given = _kept(state.mask, gradient), state.inner, _kept(state.mask, params)
    with relaxed_types():
        found, after = tx.update(*given, **extra)
        moved = masks.map_with(_towards_zero, state.mask, found, params, other=lambda u, w: u)
    return moved, MaskedState(state.mask, after)


def mask_of(state: object) -> Mask:
    """Give the mask in the state of `jt.masked` or `jt.gradual`, also inside other states.

    Args:
      state: of a transformation, such as of an `optax.chain` with one of the two in it.

    Raises:
      ValueError: where no state of the two is in it, or several.
    """
    return _only_state(state).mask


def with_mask(state: StateT, mask: Mask) -> StateT:
    """Give the state of `jt.masked` or `jt.gradual` with another mask.

    Moments and the like (leaves of the state with the path and shape of weights) become zero where
    the new mask is False. The weights that it prunes become zero with the next update; weights that
    it brings back start at zero.

    Args:
      state: as of `mask_of`.
      mask: which weights are kept from now on, of the shapes of the old one.

    Raises:
      ValueError: where no state of the two is in it or several, and for other shapes.
    """
    masks.require_bools("mask", mask, "jt.with_mask(state, mask)")
    old = _only_state(state)
    _same_shapes(mask, old.mask)
    new = MaskedState(jax.tree.map(jnp.asarray, mask), masked_moments(mask, old.inner))
    is_own = lambda part: isinstance(part, MaskedState)  # noqa: E731
    return jax.tree.map(lambda part: new if is_own(part) else part, state, is_leaf=is_own)


def map_moments(
    function: Callable[..., Array], mask: Mask, state: StateT, *states: StateT
) -> StateT:
    """Map over the leaves of an optimizer's state that belong to weights; others stay.

    They are those whose path ends with that of a weight and whose shape is the weight's.

    Args:
      function: `function(leaf of the mask, leaf of the state, *leaves of the others)`.
      mask: a mask, or another tree of bools with None where nothing can be pruned.
      state: of an optimizer, of one replica.
      *states: of the same structure.
    """
    named = {path: m for path, m, *_ in masks.items(mask)}

    def one(path: str, x: Array, *others: Array) -> Array:
        fitting = [
            name
            for name, m in named.items()
            if m.shape == jnp.shape(x) and f"/{path}".endswith(f"/{name}" if name else "")
        ]
        # the longest: "kernel" may stand next to "dense/kernel"
        return function(named[max(fitting, key=len)], x, *others) if fitting else x

    parts = zip(_tree.paths(state), *map(jax.tree.leaves, (state, *states)), strict=True)
    return jax.tree.unflatten(jax.tree.structure(state), [one(*part) for part in parts])


def masked_moments(mask: Mask, state: StateT) -> StateT:
    """Zero the leaves of an optimizer's state that belong to pruned weights."""
    return map_moments(_kept_leaf, mask, state)


def _only_state(state: object) -> MaskedState:
    parts = jax.tree.leaves(state, is_leaf=lambda part: isinstance(part, MaskedState))
    found = [part for part in parts if isinstance(part, MaskedState)]
    if len(found) != 1:
        raise ValueError(
            f"`state` must hold one state of jt.masked or jt.gradual, got {len(found)} in a "
            f"{type(state).__name__}"
        )
    return found[0]


def _kept_leaf(m: AnyArray, x: Array) -> Array:
    return jnp.where(m, x, jnp.zeros_like(x))


def _kept(mask: Mask, tree: Params) -> Params:
    return masks.map_with(_kept_leaf, mask, tree, other=lambda x: x)


def _towards_zero(m: Array, u: Array, w: Array) -> Array:
    """The update of a leaf that leaves pruned weights at exactly zero, whatever they were."""
    kind = jnp.promote_types(u.dtype, w.dtype)
    return jnp.where(m, u.astype(kind), -w.astype(kind))


def _same_shapes(mask: Mask, params: Params | Mask) -> None:
    """Raise unless a mask fits weights, leaf by leaf.

    Containers may differ: optimizers of NNX are initialized with variables and updated with arrays.
    """
    ours = _tree.leaves(mask, is_leaf=_tree.is_none)
    theirs = jax.tree.leaves(params, is_leaf=_tree.is_none)
    if len(ours) != len(theirs):
        raise ValueError(
            f"`mask` has {len(ours)} leaves where the weights have {len(theirs)}; build it with "
            f"jax.tree.map over the weights, or by jt.masks.ones(params)"
        )
    for (path, m), w in zip(ours.items(), theirs, strict=True):
        if m is not None and w is not None and jnp.shape(m) != jnp.shape(w):
            raise ValueError(
                f"`mask` has shape {jnp.shape(m)} at {path!r} where the weights have {jnp.shape(w)}"
            )
