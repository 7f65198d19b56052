"""The network of a saved run whose code is not there: what pages and tables need of it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

import jax
import numpy as np

from jaxticket import _tree
from jaxticket.nn.network import kernels
from jaxticket.typing import Network, Params, Prunable, Stats


@dataclass(frozen=True, eq=False, repr=False)
class Absent(Network):
    """A network of which the record is there; to draw its weights or compute is a ValueError.

    Attributes:
      recorded: shapes of the params and of the statistics, nested dicts by the paths.
    """

    recorded: tuple[Params, Stats] = field(default=({}, {}), repr=False)

    @property
    def shapes(self) -> tuple[Params, Stats]:
        """Shapes and types of the params and of the statistics."""
        return jax.tree.map(lambda leaf: leaf, self.recorded)


@dataclass(frozen=True)
class _Prunable:
    """`prunable` of the recorded paths; None for what is pruned where nothing is said."""

    paths: frozenset[str] | None

    def __call__(self, params: Params) -> Prunable:
        if self.paths is None:
            return kernels(params)
        flags = [path in self.paths for path in _tree.paths(params)]
        return jax.tree.unflatten(jax.tree.structure(params), flags)


def absent(
    config: Mapping[str, Any], *, classes: int, stats: Mapping[str, Sequence[int]] | None = None
) -> Absent:
    """Describe a network of your own whose code is not there.

    Args:
      config: what was recorded of it, with the shapes of its params.
      classes: number of logits; 0 where it is not known.
      stats: shapes of its statistics by path.

    >>> config = {"name": "mine", "shape": [4], "params": {"dense/kernel": [4, 3]}}
    >>> gone = absent(config, classes=3)
    >>> gone.shapes[0]["dense"]["kernel"].shape, gone.mask()["dense"]["kernel"].shape
    ((4, 3), (4, 3))
    """
    name = str(config.get("name", config.get("constructor")))

    def refuse(*_: object, **__: object) -> NoReturn:
        raise ValueError(
            f"`net` {name!r} was made of code of your own, and only what was recorded of it is "
            f"here; pass it, such as jt.load(folder, net=net)"
        )

    marked = config.get("prunable")
    return Absent(
        config=json.dumps(dict(config), sort_keys=True),
        init=refuse,
        apply=refuse,
        prunable=_Prunable(None if marked is None else frozenset(marked)),
        output="",
        shape=tuple(config["shape"]),
        classes=classes,
        dtype=str(config.get("dtype", "float32")),
        resized=refuse,
        adapted=refuse,
        recorded=(_shapes(config["params"]), _shapes(stats or {})),
    )


def _shapes(shapes: Mapping[str, Sequence[int]]) -> Params:
    """Make nested dicts of float32 shapes by the words of their paths."""
    leaves = {path: jax.ShapeDtypeStruct(tuple(s), np.float32) for path, s in shapes.items()}
    return _tree.nested(leaves)
