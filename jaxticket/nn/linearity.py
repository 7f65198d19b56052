"""Whether a network is linear in its input where all of its weights are positive."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax

from jaxticket.typing import Network

_CURVED = frozenset(
    "cbrt cos erf erf_inv exp exp2 expm1 integer_pow log log1p logistic pow rsqrt sin sqrt square "
    "tan tanh".split()
)
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))


@functools.lru_cache(maxsize=64)
def curved(net: Network) -> tuple[str, ...]:
    """The operations by which a network in evaluation is not linear in an input of ones: what
    bends values (tanh, exp), divides by what depends on the input (group and layer normalization)
    or multiplies two such values (attention). Rectifiers, pooling and BatchNorm's running
    statistics are none. Read from the traced program, nothing is computed.

    Returns:
      Names of XLA's operations, sorted; empty for a network that is linear.
    """
    params, stats = net.shapes
    traced = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x, train=False)[0])(
        params, stats, net.example(1)
    )
    count = len(traced.jaxpr.invars)
    found: set[str] = set()
    _walked(traced.jaxpr, [i == count - 1 for i in range(count)], found)
    return tuple(sorted(found))


def _walked(jaxpr: Any, depends: Sequence[bool], found: set[str]) -> list[bool]:
    """Adds what bends values that depend on the input; which outputs do."""
    known = dict(zip(jaxpr.invars, depends, strict=True))

    def of(atom: Any) -> bool:
        # literals are not hashable, and constants depend on nothing
        return not hasattr(atom, "val") and known.get(atom, False)

    for eqn in jaxpr.eqns:
        into, name = [of(atom) for atom in eqn.invars], eqn.primitive.name
        out = [any(into)] * len(eqn.outvars)
        inner = _inner(eqn)
        if any(into) and inner is not None:
            for closed, skipped in inner:
                own = getattr(closed, "jaxpr", closed)
                out = _walked(own, into[skipped:], found)
        elif any(into):
            divides = name == "div" and into[1]
            if name in _CURVED or divides or (name in _PRODUCTS and all(into)):
                found.add(name)
        known |= dict(zip(eqn.outvars, out, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _inner(eqn: Any) -> list[tuple[Any, int]] | None:
    """The programs that an operation calls on its inputs, and how many of these come before."""
    if eqn.primitive.name == "cond":
        return [(branch, 1) for branch in eqn.params["branches"]]
    if eqn.primitive.name in ("scan", "while"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params:
            return [(eqn.params[name], 0)]
    return None
