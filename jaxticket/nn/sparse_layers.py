"""Dense layers of Linen whose kernels are sparse matrices.

`y = x W + b` is computed as `(W^T x^T)^T + b`, with W^T in rows (BCSR) on the left: of the sparse
products of JAX, this one has a kernel of its own on a CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.experimental.sparse import BCSR

from jaxticket.typing import Network, Params, Stats

MOST, LEAST = 1000, 100
"""Rows of one product, measured on a CPU: 2 to 3 times as fast as 10,000 rows at once."""


def _path(layer: nn.Module) -> str:
    return "/".join(map(str, layer.path))


@dataclass(frozen=True, eq=False)
class WithSparse:
    """The `apply` of a network of Linen that also takes sparse kernels.

    Where the kernel of an `nn.Dense` in the params is a `BCSR` matrix [out, in], transposed, the
    layer multiplies with it; all other layers compute as ever. For evaluation. A class and no
    closure, so that it pickles.

    Attributes:
      function: the network's own `apply`.
      layers: paths of the layers whose kernels are sparse.
    """

    function: Callable[..., tuple[Array, Stats]]
    layers: frozenset[str]

    def __call__(
        self, params: Params, stats: Stats, x: Array, *, train: bool = False
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats)."""
        with nn.intercept_methods(self._intercept):
            return self.function(params, stats, x, train=train)

    def _intercept(
        self,
        call: Callable[..., object],
        args: tuple[Array, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        """Call a method of a module."""
        layer = context.module
        if not isinstance(layer, nn.Dense) or context.method_name != "__call__":
            return call(*args, **options)
        if _path(layer) not in self.layers:
            return call(*args, **options)
        own = layer.variables["params"]
        return product(args[0], own["kernel"], own["bias"] if layer.use_bias else None)


def product(x: Array, kernel: BCSR, bias: Array | None) -> Array:
    """A dense layer of a sparse kernel, `y = x W + b`.

    Args:
      x: [..., in].
      kernel: W^T, [out, in].
      bias: [out], or None.

    >>> import jax.numpy as jnp
    >>> kernel = BCSR.fromdense(jnp.asarray([[0.0, 2.0, 0.0]]))
    >>> product(jnp.asarray([[1.0, 3.0, 5.0]]), kernel, jnp.ones(1)).tolist()
    [[7.0]]
    """
    rows = x.reshape(-1, x.shape[-1]).astype(kernel.dtype)
    size = block(len(rows))
    if size == len(rows):
        y = (kernel @ rows.T).T
    else:
        parts = rows.reshape(-1, size, rows.shape[1])
        y = jax.lax.map(lambda part: (kernel @ part.T).T, parts).reshape(len(rows), -1)
    if bias is not None:
        y = y + bias[None]
    return y.reshape(*x.shape[:-1], y.shape[-1])


def rows_of(matrix: np.ndarray, kept: np.ndarray | None = None) -> BCSR:
    """The entries of a matrix where `kept` is True, by rows; None for those that are not zero."""
    chosen = np.asarray(matrix != 0 if kept is None else kept)
    starts = np.concatenate([[0], np.cumsum(chosen.sum(axis=1))]).astype(np.int32)
    columns = np.nonzero(chosen)[1].astype(np.int32)
    data = (jnp.asarray(matrix[chosen]), jnp.asarray(columns), jnp.asarray(starts))
    return BCSR(data, shape=matrix.shape, indices_sorted=True, unique_indices=True)


def block(rows: int) -> int:
    """The number of rows of one product: those of many do not fit into a cache.

    It divides the number of rows, since a remainder costs a copy of all of them.

    >>> block(60), block(10_000), block(1500), block(10_007)
    (60, 1000, 750, 10007)
    """
    if rows <= MOST:
        return rows
    size = max(n for n in range(1, MOST + 1) if rows % n == 0)
    return size if size >= LEAST else rows


def dense_layers(net: Network) -> frozenset[str]:
    """Find the paths of the `nn.Dense` layers that a network of Linen calls."""
    seen: set[str] = set()

    def note(
        call: Callable[..., object],
        args: tuple[object, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        if isinstance(context.module, nn.Dense) and context.method_name == "__call__":
            seen.add(_path(context.module))
        return call(*args, **options)

    with nn.intercept_methods(note):
        jax.eval_shape(lambda *given: net.apply(*given, train=False), *net.shapes, net.example(2))
    return frozenset(seen)
