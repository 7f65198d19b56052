"""Activations of networks, those without taps included: what each layer gives."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import TypeGuard, TypeVar

import flax.linen as nn
import jax
from jax import Array

from jaxticket.nn.nnx import watching
from jaxticket.typing import Network, Params, Stats

PENULTIMATE = "penultimate"
T = TypeVar("T")


def activations(net: Network, params: Params, stats: Stats, x: Array) -> dict[str, Array]:
    """Compute what every layer of a network gives, in evaluation mode.

    Networks with taps name what passes them. Of networks from Linen and NNX modules without taps,
    every module gives its output under its path. Under "penultimate" stands what the output layer
    (`net.output`) is given: the last hidden layer, after its nonlinearity. A layer that is called
    again gives "name#2" and so on.

    Args:
      net: the network.
      params, stats: its weights and statistics.
      x: standardized images or tokens [batch, *shape].

    Returns:
      Name -> [batch, ...], in the order of the calls, and the logits under "logits".

    Raises:
      ValueError: for a network of functions without taps.
    """
    found: dict[str, Array] = {}
    given: dict[str, Array] = {}
    # it is found out by a call, which must not be shown
    tapped = net.tapped

    def tap(name: str, x: Array) -> Array:
        found[_next(name, found)] = x
        return x

    def seen(name: str, into: object, out: object) -> None:
        if name == net.output and _is_batch(into, x):
            given[PENULTIMATE] = into
        if not tapped and _is_batch(out, x):
            found[_next(name, found)] = out

    with _linen(seen), watching(seen):
        logits, _ = net.apply(params, stats, x, train=False, tap=tap if tapped else None)
    if not found and not given:
        raise ValueError(
            "`net` has no taps, so that its activations cannot be seen; give `apply` an argument "
            "`tap` and call `x = tap(name, x)` where they are to be seen"
        )
    return {**found, **given, "logits": logits}


def _is_batch(value: object, x: Array) -> TypeGuard[Array]:
    return isinstance(value, jax.Array) and value.ndim > 1 and value.shape[0] == x.shape[0]


def _next(name: str, found: dict[str, Array]) -> str:
    """The name, or where it is taken the first of "name#2", "name#3" that is not."""
    names = (name, *(f"{name}#{i}" for i in range(2, len(found) + 3)))
    return next(one for one in names if one not in found)


@contextlib.contextmanager
def _linen(seen: Callable[[str, object, object], None]) -> Iterator[None]:
    """Show what Linen modules are given and give."""

    def intercept(
        call: Callable[..., T],
        args: tuple[object, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> T:
        out = call(*args, **options)
        if context.method_name == "__call__" and context.module.path:
            seen("/".join(map(str, context.module.path)), args[0] if args else None, out)
        return out

    with nn.intercept_methods(intercept):
        yield
