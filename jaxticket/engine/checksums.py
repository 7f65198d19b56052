"""What tells whether a saved state is whole, and of the arrays that are wanted."""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Mapping

import jax
import numpy as np

from jaxticket.engine import parallel
from jaxticket.typing import AnyArray, Json


def layout(tree: Mapping[str, jax.Array]) -> str:
    """Names, shapes and types of a flat tree as a short text."""
    about = [(name, str(tree[name].dtype), list(tree[name].shape)) for name in sorted(tree)]
    return hashlib.sha256(json.dumps(about).encode()).hexdigest()[:16]


def intact(about: Json, tree: dict[str, jax.Array]) -> tuple[int, dict[str, jax.Array]]:
    """The call and the arrays of a save, whose checksum must fit."""
    wanted = about.pop("checksum", None)
    if wanted != checksum(about, tree):
        raise ValueError("its checksum does not fit")
    return int(about["call"]), tree


def checksum(about: Mapping[str, object], tree: Mapping[str, AnyArray]) -> str:
    """The checksum of the description of a save and of the bytes of its arrays."""
    sums = {name: zlib.crc32(_bytes(tree[name])) for name in sorted(tree)}
    return hashlib.sha256(json.dumps([about, sums], sort_keys=True).encode()).hexdigest()


def _bytes(x: AnyArray) -> memoryview:
    host = parallel.host(x) if isinstance(x, jax.Array) else x
    return np.ascontiguousarray(host).reshape(-1).view(np.uint8).data
