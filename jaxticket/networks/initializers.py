"""Initializers of kernels, by the names that the sources use."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxticket.types import Array, Key

Initializer = Callable[..., Array]

_in = jax.nn.initializers


def signed_constant(key: Key, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    r"""Random signs times the standard deviation of Kaiming normal, `\pm sqrt(2 / fan_in)`.

    Reference: Zhou et al. 2019, "Deconstructing lottery tickets"; Ramanujan et al. 2020, section
      3.3.
    """
    fan_in = max(1, math.prod(shape[:-1]))
    signs = jax.random.rademacher(key, shape, dtype)
    return signs * jnp.asarray((2 / fan_in) ** 0.5, dtype)


INITIALIZERS: dict[str, Initializer] = {
    # untruncated normals, as PyTorch's and the sources' are
    "glorot_normal": _in.variance_scaling(1.0, "fan_avg", "normal"),
    "kaiming_normal": _in.variance_scaling(2.0, "fan_in", "normal"),
    "kaiming_normal_fan_out": _in.variance_scaling(2.0, "fan_out", "normal"),
    "orthogonal": _in.orthogonal(),
    "signed_constant": signed_constant,
    "xavier_normal": _in.variance_scaling(1.0, "fan_avg", "normal"),
}
"""Xavier and Glorot are one: variance 2 / (fan_in + fan_out). Kaiming: variance 2 / fan."""
