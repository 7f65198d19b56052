"""Test of whether a network with positive weights is linear in a positive input."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING

import jax
from jax.extend.core import Jaxpr, JaxprEqn, Literal

from jaxticket.nn.flops import open_jaxpr
from jaxticket.typing import Network

if TYPE_CHECKING:
    from jax.core import Atom

_CURVED = frozenset(
    "cbrt cos erf erf_inv exp exp2 expm1 integer_pow log log1p logistic pow rsqrt sin sqrt square "
    "tan tanh".split()
)
_PRODUCTS = frozenset(("mul", "dot_general", "conv_general_dilated"))


@functools.lru_cache(maxsize=64)
def curved(net: Network) -> tuple[str, ...]:
    """List the operations that make a network in evaluation nonlinear in an input of ones.

    These are nonlinear functions (tanh, exp), divisions by values that depend on the input (group
    and layer normalization) and products of two such values (attention). Rectifiers, pooling and
    BatchNorm's running statistics are not. The traced program is read, nothing is computed.

    Returns:
      Names of XLA's operations, sorted; empty for a network that is linear.
    """
    params, stats = net.shapes
    traced = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x, train=False)[0])(
        params, stats, net.example(1)
    )
    count = len(traced.jaxpr.invars)
    nonlinear: set[str] = set()
    _walked(traced.jaxpr, [i == count - 1 for i in range(count)], nonlinear)
    return tuple(sorted(nonlinear))


def _walked(jaxpr: Jaxpr, depends: Sequence[bool], nonlinear: set[str]) -> list[bool]:
    """Collect the nonlinear operations on values that depend on the input.

    Args:
      jaxpr: the program.
      depends: whether each of its inputs depends on the network's.
      nonlinear: the set that names are added to.

    Returns:
      Whether each output depends on the network's input.
    """
    known = dict(zip(jaxpr.invars, depends, strict=True))

    def of(atom: Atom) -> bool:
        # literals are not hashable, and constants depend on nothing
        return not isinstance(atom, Literal) and known.get(atom, False)

    for eqn in jaxpr.eqns:
        into, name = [of(atom) for atom in eqn.invars], eqn.primitive.name
        out = [any(into)] * len(eqn.outvars)
        inner = _inner(eqn)
        if any(into) and inner is not None:
            for program, skipped in inner:
                out = _walked(program, into[skipped:], nonlinear)
        elif any(into):
            divides = name == "div" and into[1]
            if name in _CURVED or divides or (name in _PRODUCTS and all(into)):
                nonlinear.add(name)
        known |= dict(zip(eqn.outvars, out, strict=True))
    return [of(atom) for atom in jaxpr.outvars]


def _inner(eqn: JaxprEqn) -> list[tuple[Jaxpr, int]] | None:
    """List the programs that an operation calls, each with the number of inputs to skip."""
    if eqn.primitive.name == "cond":
        return [(open_jaxpr(branch), 1) for branch in eqn.params["branches"]]
    if eqn.primitive.name in ("scan", "while"):
        return None
    for name in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if name in eqn.params:
            return [(open_jaxpr(eqn.params[name]), 0)]
    return None
