"""The selection of the highest scores of a tree, of all layers together or of each by itself."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket import masks
from jaxticket.pruning.topk import top_scores
from jaxticket.typing import AnyArray, Array, Mask, Params


def highest(
    scores: Params, mask: Mask, keep: Array | int | Sequence[int], *, scope: str = "global"
) -> Mask:
    """Mark the `keep` highest scores; `jt.keep_top` without its checks of trees.

    Args:
      scores: tree like the mask.
      mask: tree of bools: what competes.
      keep, scope: as of `jt.keep_top`.

    Raises:
      ValueError: for scores that cannot be ranked, and a `keep` of another length than the layers.
    """
    counted = masks.known(mask)
    rows = masks.items(counted, scores)
    leaves = [m for _, m, _ in rows]
    values = [jnp.asarray(s).reshape(-1) for _, _, s in rows]
    check_scores(values, leaves, [path for path, _, _ in rows])
    values = ranked(values)
    amounts = jnp.asarray(keep, jnp.int32)
    if scope == "layer":
        if amounts.shape != (len(rows),):
            raise ValueError(
                f"`keep` must hold one number per prunable layer ({len(rows)}) with "
                f"scope='layer', got shape {amounts.shape}"
            )
        found = [
            top_scores(v, m.reshape(-1), amount)
            for v, m, amount in zip(values, leaves, amounts, strict=True)
        ]
    else:
        flat = top_scores(
            jnp.concatenate(values), jnp.concatenate([m.reshape(-1) for m in leaves]), amounts
        )
        ends = np.cumsum([m.size for m in leaves]).tolist()
        found = [flat[end - m.size : end] for end, m in zip(ends, leaves, strict=True)]
    kept = iter(found)
    return masks.map_with(
        lambda m, given: next(kept).reshape(m.shape), counted, mask, other=lambda given: given
    )


def floored(scores: Params, mask: Mask, floor: int) -> Params:
    """Scores in which the `floor` best of each layer come before everything else."""

    def one(m: Array, s: Array) -> Array:
        best = top_scores(s.reshape(-1).astype(jnp.float32), m.reshape(-1), jnp.int32(floor))
        return jnp.where(best.reshape(s.shape), jnp.asarray(jnp.inf, s.dtype), s)

    return masks.map_with(one, masks.known(mask), scores, other=lambda s: s)


def check_scores(values: Sequence[Array], alive: Sequence[AnyArray], paths: list[str]) -> None:
    """Raise for scores that cannot be ranked: of mixed types, or nan where weights compete."""
    kinds = {jnp.dtype(v.dtype) for v in values}
    if _whole(kinds):
        return
    if not all(jnp.issubdtype(kind, jnp.floating) for kind in kinds):
        raise ValueError(
            f"`scores` must be all floating, all of int32 and smaller types, or all of uint32, got "
            f"{', '.join(sorted(map(str, kinds)))}; convert them with astype('float32')"
        )
    for path, v, m in zip(paths, values, alive, strict=True):
        if isinstance(v, Tracer) or isinstance(m, Tracer):
            continue
        bad = int(np.sum(np.isnan(v).reshape(-1) & np.asarray(m).reshape(-1)))
        if bad:
            raise ValueError(
                f"`scores` are nan at {bad} weights of {path!r}; make every score a number, such "
                f"as -inf for what is to be pruned first"
            )


def ranked(values: list[Array]) -> list[Array]:
    """Scores in a type that `top_scores` ranks: float32, int32 or uint32, the same for all."""
    whole = _whole({jnp.dtype(v.dtype) for v in values})
    return [v.astype(whole) for v in values] if whole else _single(values)


def _whole(kinds: set[np.dtype]) -> str | None:
    """The type of whole numbers that holds all of these exactly; None where there is none."""
    return next((t for t in ("int32", "uint32") if all(np.can_cast(k, t) for k in kinds)), None)


def _single(values: list[Array]) -> list[Array]:
    """Scores in float32, those of float64 brought into its range together."""
    if all(v.dtype != jnp.float64 for v in values):
        return [v.astype(jnp.float32) for v in values]
    tops = [jnp.max(jnp.where(jnp.isfinite(v), jnp.abs(v), 0)) for v in values]
    most = jnp.max(jnp.stack([t.astype(jnp.float64) for t in tops]))
    most = jnp.where(most > 0, most, 1)
    return [(v / most.astype(v.dtype)).astype(jnp.float32) for v in values]
