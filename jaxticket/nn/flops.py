"""Multiply-adds of any function, and where a network uses its kernels, read from the trace.

Counted are the products of `dot_general` and of convolutions, those of this library included: 2
floating-point operations per multiply-add. Sums, activations, normalisation and pooling count
nothing, as in the papers. A product with a zero of the padding counts; one with a zero that a
transposed convolution puts between the entries of its input, or in step with these around it, does
not. Nothing is compiled or run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend.core import Literal

from jaxticket import _tree
from jaxticket.typing import Network

_OPAQUE = ("pallas_call", "ffi_call", "ragged_dot", "ragged_dot_general", "custom_linear_solve")
_VIEWS = (
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type",
    "copy", "copy_p", "reduce_precision", "rev", "sharding_constraint", "optimization_barrier",
    "pvary", "pcast", "stop_gradient", "neg", "mul", "div", "add", "sub", "select_n", "abs", "sign",
    "max", "min", "tanh", "logistic",
)  # fmt: skip
"""What leaves every entry of a kernel an entry, moved or changed by itself."""
_CUTS = ("slice", "dynamic_slice", "gather", "split", "concatenate", "pad", "reduce_sum")
"""What takes entries of a kernel apart or puts them together."""


class Kernel(NamedTuple):
    """A kernel and its use in the forward pass of one example.

    Attributes:
      path: of the leaf.
      shape: of the leaf.
      positions: multiply-adds per entry: the output positions of a convolution, 1 for a dense
        layer, the sum over its uses for a kernel that is shared. The mean over the entries where
        they differ (transposed convolutions).
    """

    path: str
    shape: tuple[int, ...]
    positions: float


def count(function: Callable[..., Any], *args: Any) -> float:
    """Floating-point operations of the products in `function(*args)`, 2 per multiply-add.

    Args:
      function: anything that JAX can trace; close over arguments that are not arrays.
      *args: trees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The number. A `scan` counts as often as it runs, the dearest branch of a `cond`, all devices
      of a `shard_map`; what no result needs does not count.

    Raises:
      ValueError: for products in a `while` loop, whose number of rounds is unknown, and inside
        what cannot be read: kernels of other languages (Pallas, FFI), ragged products, solvers.

    >>> count(lambda a, b: a @ b, jax.numpy.ones((3, 4)), jax.numpy.ones((4, 5)))
    120.0
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return 2.0 * _walk(jaxpr, [None] * len(jaxpr.invars)).products


@functools.lru_cache(maxsize=64)
def kernels(net: Network) -> tuple[Kernel, ...]:
    """The kernels of a network in the order in which its forward pass first uses them.

    Leaves are followed through casts, reshapes, transposes and changes of single entries to the
    products with what comes from the input (`train=False`). All prunable leaves are among them, and
    other leaves of two or more dimensions that are multiplied so.

    Raises:
      ValueError: for a prunable leaf that cannot be followed to a product, naming it.

    >>> from jaxticket.nn import lenet
    >>> [(kernel.path, kernel.positions) for kernel in kernels(lenet())][0]
    ('dense_0/kernel', 1.0)
    """
    params, stats = net.shapes
    names, leaves = _tree.paths(params), jax.tree.leaves(params)
    prunable = [bool(p) for p in jax.tree.leaves(net.prunable(params))]
    x = net.example(1)
    jaxpr = jax.make_jaxpr(lambda p, s, x: net.apply(p, s, x, train=False)[0])(params, stats, x)
    states: list[_State] = [
        _Leaf(i) if p or len(leaf.shape) >= 2 else None
        for i, (leaf, p) in enumerate(zip(leaves, prunable, strict=True))
    ]
    states += [None] * (len(jaxpr.jaxpr.invars) - len(states) - 1) + [_Data()]
    uses = _walk(jaxpr.jaxpr, states).uses
    for i, (name, p) in enumerate(zip(names, prunable, strict=True)):
        found = uses.get(i)
        if p and (found is None or found.lost):
            why = "is not multiplied with anything that comes from the input"
            if found is not None:
                why = f"{found.lost} before it is multiplied"
            raise ValueError(
                f"`net`: {name!r} cannot be followed: it {why}; leave it out with the network's "
                f"`prunable`, or give each layer a leaf of its own"
            )
    return tuple(
        Kernel(names[i], tuple(leaves[i].shape), use.products / math.prod(leaves[i].shape))
        for i, use in uses.items()
        if not use.lost
    )


# what is known of a value while walking


class _Leaf(NamedTuple):
    """Entry by entry a leaf, or, where `cut` says how, parts of it."""

    number: int
    cut: str = ""


class _Data(NamedTuple):
    """Computed from the input."""


_State = _Leaf | _Data | None


class _Use(NamedTuple):
    products: float
    lost: str = ""


class _Walked(NamedTuple):
    products: float
    uses: dict[int, _Use]
    out: list[_State]


def _add(uses: dict[int, _Use], more: dict[int, _Use], times: float = 1.0) -> None:
    for number, use in more.items():
        before = uses.get(number, _Use(0.0))
        uses[number] = _Use(before.products + times * use.products, before.lost or use.lost)


def _walk(jaxpr: Any, states: Sequence[_State]) -> _Walked:
    known: dict[Any, _State] = dict(zip(jaxpr.invars, states, strict=True))
    total, uses = 0.0, {}

    def state(atom: Any) -> _State:
        return None if isinstance(atom, Literal) else known.get(atom)

    for eqn in _live(jaxpr):
        inputs = [state(atom) for atom in eqn.invars]
        walked = _equation(eqn, inputs)
        total += walked.products
        _add(uses, walked.uses)
        known.update(zip(eqn.outvars, walked.out, strict=True))
    return _Walked(total, uses, [state(atom) for atom in jaxpr.outvars])


def _live(jaxpr: Any) -> list[Any]:
    """The equations that a result needs, in order: compilers drop the others, such as the initial
    values that NNX modules draw and never use.
    """
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            live.append(eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    return live[::-1]


def _equation(eqn: Any, inputs: list[_State]) -> _Walked:
    name = eqn.primitive.name
    if name in _OPAQUE:
        raise ValueError(
            f"`function` calls {name!r}, whose products cannot be counted; write it with matrix "
            f"products and convolutions"
        )
    if (products := _products(eqn)) is not None:
        return _product(eqn, inputs, products)
    if name == "scan":
        return _scan(eqn, inputs)
    if name == "while":
        return _while(eqn, inputs)
    if name == "cond":
        return _cond(eqn, inputs)
    inner = [_open(j) for j in jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
             if _is_jaxpr(j)]  # fmt: skip
    data = any(isinstance(s, _Data) for s in inputs)
    if len(inner) == 1 and len(inner[0].invars) == len(inputs):
        walked, times = _walk(inner[0], inputs), 1.0
        if name == "shard_map":
            sizes = dict(eqn.params["mesh"].shape)
            times = float(math.prod(sizes[axis] for axis in eqn.params["newly_manual_axes"]))
        uses: dict[int, _Use] = {}
        _add(uses, walked.uses, times)
        if len(walked.out) == len(eqn.outvars):
            return _Walked(walked.products * times, uses, walked.out)
        return _Walked(walked.products * times, uses, _same(eqn, _Data() if data else None))
    # functions whose arguments are arranged otherwise: their products count, kernels end there
    products = sum(_walk(j, [None] * len(j.invars)).products for j in inner)
    return _Walked(products, {}, _same(eqn, _Data() if data else _followed(eqn, inputs)))


def _same(eqn: Any, state: _State) -> list[_State]:
    return [state] * len(eqn.outvars)


def _followed(eqn: Any, inputs: list[_State]) -> _State:
    """What comes of leaves, and of nothing that the input has a part in."""
    found = [s for s in inputs if isinstance(s, _Leaf)]
    if not found:
        return None
    name, first = eqn.primitive.name, found[0]
    cut = next((s.cut for s in found if s.cut), "")
    sizes = {
        atom.aval.size for atom, s in zip(eqn.invars, inputs, strict=True) if isinstance(s, _Leaf)
    }
    if name in _VIEWS and len({s.number for s in found}) == 1 and len(sizes) == 1:
        # a norm that divides its own kernel is a cut of it, which changes single entries only
        return _Leaf(first.number, cut if all(s.cut for s in found) else "")
    if name in _VIEWS:
        largest = max(
            (atom.aval.size, -i)
            for i, (atom, s) in enumerate(zip(eqn.invars, inputs, strict=True))
            if isinstance(s, _Leaf)
        )
        return inputs[-largest[1]]
    if name in _CUTS:
        return _Leaf(first.number, cut or f"goes through {name!r}")
    return None


# products


def _products(eqn: Any) -> float | None:
    """Multiply-adds of an equation that is a product, None for all others."""
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape = eqn.invars[0].aval.shape
        return float(eqn.outvars[0].aval.size * math.prod(shape[i] for i in contracted))
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name.startswith("jaxticket_convolution"):
        a, b = (atom.aval for atom in eqn.invars)
        y = eqn.outvars[0].aval
        # all three are sums over replica, batch, position of the output, place of the kernel, in
        # and out; only the roles of the operands differ
        at = eqn.params["geometry"]
        places = math.prod(at.output) * math.prod(at.kernel)
        x, w, out = {
            "jaxticket_convolution": (a, b, y),
            "jaxticket_convolution_input": (y, b, a),
            "jaxticket_convolution_kernel": (a, y, b),
        }[name]
        return float(x.shape[0] * out.shape[1] * places * w.shape[3] * w.shape[4])
    return None


def _convolution(eqn: Any) -> float:
    params = eqn.params
    numbers = params["dimension_numbers"]
    w, y = eqn.invars[1].aval.shape, eqn.outvars[0].aval.shape
    positions = 1
    # per axis the pairs of an output position and a place of the kernel that meet an entry of the
    # input or its padding, rather than a zero put between entries
    for i, (low, _) in enumerate(params["padding"]):
        spread, step = params["lhs_dilation"][i], params["window_strides"][i]
        reach = params["rhs_dilation"][i]
        rows, places = y[numbers.out_spec[2 + i]], w[numbers.rhs_spec[2 + i]]
        positions *= sum(
            (o * step + a * reach - low) % spread == 0 for o in range(rows) for a in range(places)
        )
    batch, features = y[numbers.out_spec[0]], y[numbers.out_spec[1]]
    return float(batch * features * positions * w[numbers.rhs_spec[1]])


def _product(eqn: Any, inputs: list[_State], products: float) -> _Walked:
    first, second = inputs
    data = isinstance(first, _Data) or isinstance(second, _Data)
    uses: dict[int, _Use] = {}
    for leaf, other in ((first, second), (second, first)):
        if not isinstance(leaf, _Leaf):
            continue
        if isinstance(other, _Data):
            _add(uses, {leaf.number: _Use(products, leaf.cut)})
        elif isinstance(other, _Leaf):
            _add(uses, {leaf.number: _Use(products, "is multiplied with another leaf")})
    return _Walked(products, uses, _same(eqn, _Data() if data else None))


# control flow


def _is_jaxpr(x: Any) -> bool:
    return hasattr(x, "eqns") or (hasattr(x, "jaxpr") and hasattr(x.jaxpr, "eqns"))


def _open(x: Any) -> Any:
    return x if hasattr(x, "invars") and not hasattr(x, "jaxpr") else x.jaxpr


def _settled(jaxpr: Any, fixed: list[_State], carry: list[_State], rest: list[_State]) -> _Walked:
    """One round of a loop whose carried values are what they are in every round."""
    while True:
        walked = _walk(jaxpr, [*fixed, *carry, *rest])
        new = [
            a if a == b else (_Data() if _Data() in (a, b) else None)
            for a, b in zip(carry, walked.out, strict=False)
        ]
        if new == carry:
            return walked
        carry = new


def _scan(eqn: Any, inputs: list[_State]) -> _Walked:
    body = _open(eqn.params["jaxpr"])
    # [constants, carry, xs] -> [carry, ys]: only xs and ys have an axis more outside of the loop;
    # the parameters that say how many there are differ between versions of JAX
    carry = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.outvars, body.outvars, strict=True))
    end = sum(a.aval.ndim == b.aval.ndim for a, b in zip(eqn.invars, body.invars, strict=True))
    consts = end - carry
    walked = _settled(body, inputs[:consts], inputs[consts:end], inputs[end:])
    times, uses = float(eqn.params["length"]), {}
    _add(uses, walked.uses, times)
    return _Walked(walked.products * times, uses, walked.out)


def _while(eqn: Any, inputs: list[_State]) -> _Walked:
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    body, test = _open(eqn.params["body_jaxpr"]), _open(eqn.params["cond_jaxpr"])
    walked = _settled(body, inputs[n : n + m], inputs[n + m :], [])
    tested = _walk(test, [*inputs[:n], *walked.out])
    if walked.products + tested.products:
        raise ValueError(
            "`function` has products in a `while` loop, whose number of rounds is unknown; use "
            "`jax.lax.scan` or a `fori_loop` with constant bounds"
        )
    return walked


def _cond(eqn: Any, inputs: list[_State]) -> _Walked:
    branches = [_walk(_open(b), inputs[1:]) for b in eqn.params["branches"]]
    dearest = max(branches, key=lambda walked: walked.products)
    uses = dict(dearest.uses)
    for walked in branches:
        for number, use in walked.uses.items():
            uses[number] = max(use, uses.get(number, _Use(0.0)), key=lambda u: u.products)
    out = [
        s[0] if all(x == s[0] for x in s) else (_Data() if _Data() in s else None)
        for s in zip(*(walked.out for walked in branches), strict=True)
    ]
    if isinstance(inputs[0], _Data):
        out = [_Data() for _ in out]
    return _Walked(dearest.products, uses, out)
