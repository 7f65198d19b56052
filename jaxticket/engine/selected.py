"""Which weights are trained, and which of them decay."""

from __future__ import annotations

from typing import TypeVar

import jax

from jaxticket import _tree, masks
from jaxticket._check import naming
from jaxticket.settings import Training
from jaxticket.typing import DecayRule, Params, Prunable

T = TypeVar("T")


def trained_part(training: Training, tree: T) -> T:
    """The leaves of the weights that are trained, None in the place of frozen ones.

    Args:
      training: whose `trainable` says which they are.
      tree: weights, or another tree like them.
    """
    patterns = training.trainable
    if patterns is None:
        return tree
    leaves = zip(_tree.paths(tree), jax.tree.leaves(tree), strict=True)
    chosen = [x if _tree.matches(path, patterns) else None for path, x in leaves]
    return jax.tree.unflatten(jax.tree.structure(tree), chosen)


def completed(part: T, like: T) -> T:
    """The tree of which `trained_part` took a part: leaves of `like` where that has None."""
    return jax.tree.map(lambda old, new: old if new is None else new, like, part)


def decaying(decay: str | tuple[str, ...] | DecayRule, params: Params) -> Prunable:
    """Mark the leaves that weight decay acts on.

    Args:
      decay: as `Training.decay`.
      params: the weights that are trained.
    """
    if callable(decay):
        return decay(params)
    if decay == "kernels":
        return masks.prunable_leaves(params)
    flags = [decay == "all" or _tree.matches(path, decay) for path in _tree.paths(params)]
    return jax.tree.unflatten(jax.tree.structure(params), flags)


def check(training: Training, params: Params) -> None:
    """Raise for patterns that match no weight, and decay that acts on none.

    Args:
      training: the settings.
      params: weights of the network, or their shapes.
    """
    paths = _tree.paths(params)
    for name in ("trainable", "decay"):
        patterns = getattr(training, name)
        for pattern in patterns if isinstance(patterns, tuple) else ():
            if not any(_tree.matches(path, [pattern]) for path in paths):
                raise ValueError(
                    f"`{name}` pattern {pattern!r} matches no weight; the paths are "
                    f"{', '.join(paths)}"
                )
    if training.decay == "all":
        return
    part = trained_part(training, params)
    with naming("decay", training.decay):
        marked = decaying(training.decay, part)
    flags = jax.tree.leaves(marked)
    if jax.tree.structure(marked) != jax.tree.structure(part) or not all(
        isinstance(flag, bool) for flag in flags
    ):
        raise ValueError(
            f"`decay` {training.decay!r} must give a bool for each of the weights that are "
            f"trained, such as `lambda params: jax.tree.map(lambda w: w.ndim > 1, params)`"
        )
    if not any(flags):
        raise ValueError(
            f"`decay` {training.decay!r} leaves no weight that decays; those that are trained are "
            f"{', '.join(_tree.paths(part))}: leave out `weight_decay`, or choose others"
        )
