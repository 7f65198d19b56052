"""Multiply-adds of any function, and the uses of a network's kernels, read from the trace.

Only products of `dot_general` and of convolutions are counted, those of this library included: 2
floating-point operations per multiply-add. Sums, activations, normalization and pooling count as
zero, as in the papers. A product with a zero of the padding counts; one with a zero that a
transposed convolution inserts between the entries of its input, or at the same spacing around it,
does not. Nothing is compiled or run.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, TypeGuard

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Literal

from jaxticket import _tree
from jaxticket.typing import Network

if TYPE_CHECKING:
    from jax.core import Atom

_OPAQUE = ("pallas_call", "ffi_call", "ragged_dot", "ragged_dot_general", "custom_linear_solve")
_VIEWS = (
    "broadcast_in_dim", "reshape", "transpose", "squeeze", "expand_dims", "convert_element_type",
    "copy", "copy_p", "reduce_precision", "rev", "sharding_constraint", "optimization_barrier",
    "pvary", "pcast", "stop_gradient", "neg", "mul", "div", "add", "sub", "select_n", "abs", "sign",
    "max", "min", "tanh", "logistic",
)  # fmt: skip
"""Operations that move or change the entries of a kernel one by one."""
_CUTS = ("slice", "dynamic_slice", "gather", "split", "concatenate", "pad", "reduce_sum")
"""Operations that separate or combine entries of a kernel."""


class Kernel(NamedTuple):
    """A kernel and its use in the forward pass of one example.

    Attributes:
      path: of the leaf.
      shape: of the leaf.
      positions: multiply-adds per entry: the output positions of a convolution, 1 for a dense
        layer, the sum over its uses for a kernel that is shared, 0 for an embedding. The mean over
        the entries where they differ (transposed convolutions).
    """

    path: str
    shape: tuple[int, ...]
    positions: float


def count(function: Callable[..., object], *args: object) -> float:
    """Count the floating-point operations of products in `function(*args)`, 2 per multiply-add.

    Args:
      function: anything that JAX can trace; close over arguments that are not arrays.
      *args: trees of arrays or of `jax.ShapeDtypeStruct`.

    Returns:
      The number. A `scan` counts as often as it runs, a `cond` as its most expensive branch, a
      `shard_map` on all devices; operations that no result depends on do not count.

    Raises:
      ValueError: for products in a `while` loop, whose number of iterations is unknown, and in
        operations that cannot be read: foreign kernels (Pallas, FFI), ragged products, solvers.

    >>> count(lambda a, b: a @ b, jax.numpy.ones((3, 4)), jax.numpy.ones((4, 5)))
    120.0
    """
    jaxpr = jax.make_jaxpr(function)(*args).jaxpr
    return 2.0 * _walk(jaxpr, [None] * len(jaxpr.invars)).products


@functools.lru_cache(maxsize=64)
def forward(net: Network) -> float:
    """Operations of the forward pass of one example, 2 per multiply-add."""
    params, stats = net.shapes
    x = net.example(1)
    return count(lambda p, s, x: net.apply(p, s, x, train=False)[0], params, stats, x)


@functools.lru_cache(maxsize=64)
def kernels(net: Network) -> tuple[Kernel, ...]:
    """Find the kernels of a network, in the order in which its forward pass first uses them.

    Leaves are followed through casts, reshapes, transposes and elementwise changes to the products
    with values that depend on the input (`train=False`). The result has all prunable leaves, and
    other leaves of two or more dimensions that are multiplied in this way. An embedding whose rows
    the input chooses has no products; one that is the output layer too has its place there.

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
        use = uses.get(i)
        if p and (use is None or use.lost):
            why = "is not multiplied with anything that depends on the input"
            if use is not None:
                why = f"{use.lost} before it is multiplied"
            raise ValueError(
                f"`net`: {name!r} cannot be followed: it {why}; leave it out with the network's "
                f"`prunable`, or give each layer a separate leaf"
            )
    return tuple(
        Kernel(names[i], tuple(leaves[i].shape), use.products / math.prod(leaves[i].shape))
        for i, use in uses.items()
        if not use.lost and (use.products or prunable[i])
    )


# states of values during the walk


class _Leaf(NamedTuple):
    """A leaf, moved or changed entry by entry; `cut` tells how parts of it were taken, if so."""

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
        if use.products and not before.products:
            # an embedding that is the output layer too has its place there
            uses.pop(number, None)
        uses[number] = _Use(before.products + times * use.products, before.lost or use.lost)


def _walk(jaxpr: Jaxpr, states: Sequence[_State]) -> _Walked:
    known: dict[Atom, _State] = dict(zip(jaxpr.invars, states, strict=True))
    total, uses = 0.0, {}

    def state(atom: Atom) -> _State:
        return None if isinstance(atom, Literal) else known.get(atom)

    for eqn in _live(jaxpr):
        inputs = [state(atom) for atom in eqn.invars]
        walked = _equation(eqn, inputs)
        total += walked.products
        _add(uses, walked.uses)
        known.update(zip(eqn.outvars, walked.out, strict=True))
    return _Walked(total, uses, [state(atom) for atom in jaxpr.outvars])


def _live(jaxpr: Jaxpr) -> list[JaxprEqn]:
    """List the equations that a result depends on, in order.

    Compilers drop the others, such as initial values that NNX modules draw and never use.
    """
    needed = {atom for atom in jaxpr.outvars if not isinstance(atom, Literal)}
    live = []
    for eqn in reversed(jaxpr.eqns):
        if eqn.effects or any(var in needed for var in eqn.outvars):
            live.append(eqn)
            needed |= {atom for atom in eqn.invars if not isinstance(atom, Literal)}
    return live[::-1]


def _equation(eqn: JaxprEqn, inputs: list[_State]) -> _Walked:
    name = eqn.primitive.name
    if name in _OPAQUE:
        raise ValueError(
            f"`function` calls {name!r}, whose products cannot be counted; write it with matrix "
            f"products and convolutions"
        )
    if (products := _products(eqn)) is not None:
        return _product(eqn, inputs, products)
    if name in ("gather", "dynamic_slice") and isinstance(inputs[0], _Leaf) and _Data() in inputs:
        # rows that the input chooses: an embedding, which multiplies nothing
        table = inputs[0]
        looked_up = {table.number: _Use(0.0, table.cut)}
        return _Walked(0.0, looked_up, _same(eqn, _Data()))
    if name == "scan":
        return _scan(eqn, inputs)
    if name == "while":
        return _while(eqn, inputs)
    if name == "cond":
        return _cond(eqn, inputs)
    parameters = jax.tree.leaves(list(eqn.params.values()), is_leaf=_is_jaxpr)
    inner = [open_jaxpr(p) for p in parameters if _is_jaxpr(p)]
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
    # functions with another order of arguments: their products count, kernels are not followed
    products = sum(_walk(j, [None] * len(j.invars)).products for j in inner)
    return _Walked(products, {}, _same(eqn, _Data() if data else _followed(eqn, inputs)))


def _same(eqn: JaxprEqn, state: _State) -> list[_State]:
    return [state] * len(eqn.outvars)


def _followed(eqn: JaxprEqn, inputs: list[_State]) -> _State:
    """Give the state of an operation on leaves, none of whose inputs depends on the input."""
    pairs = zip(eqn.invars, inputs, strict=True)
    sized = [(math.prod(_shape(atom)), s) for atom, s in pairs if isinstance(s, _Leaf)]
    if not sized:
        return None
    leaves = [leaf for _, leaf in sized]
    name, first = eqn.primitive.name, leaves[0]
    cut = next((leaf.cut for leaf in leaves if leaf.cut), "")
    same = len({leaf.number for leaf in leaves}) == 1 and len({size for size, _ in sized}) == 1
    if name in _VIEWS and same:
        # a norm that divides its own kernel is a cut of it, which changes single entries only
        return _Leaf(first.number, cut if all(leaf.cut for leaf in leaves) else "")
    if name in _VIEWS:
        # the first of the largest
        return max(sized, key=lambda pair: pair[0])[1]
    if name in _CUTS:
        return _Leaf(first.number, cut or f"goes through {name!r}")
    return None


# products


def _products(eqn: JaxprEqn) -> float | None:
    """Count the multiply-adds of an equation that is a product; None for all others."""
    name = eqn.primitive.name
    if name == "dot_general":
        (contracted, _), _ = eqn.params["dimension_numbers"]
        shape, size = _shape(eqn.invars[0]), math.prod(_shape(eqn.outvars[0]))
        return float(size * math.prod(shape[i] for i in contracted))
    if name == "conv_general_dilated":
        return _convolution(eqn)
    if name.startswith("jaxticket_convolution"):
        a, b = map(_shape, eqn.invars)
        y = _shape(eqn.outvars[0])
        # all three are sums over replica, batch, position of the output, place of the kernel, in
        # and out; only the roles of the operands differ
        at = eqn.params["geometry"]
        places = math.prod(at.output) * math.prod(at.kernel)
        x, w, out = {
            "jaxticket_convolution": (a, b, y),
            "jaxticket_convolution_input": (y, b, a),
            "jaxticket_convolution_kernel": (a, y, b),
        }[name]
        return float(x[0] * out[1] * places * w[3] * w[4])
    return None


def _convolution(eqn: JaxprEqn) -> float:
    params = eqn.params
    numbers = params["dimension_numbers"]
    w, y = _shape(eqn.invars[1]), _shape(eqn.outvars[0])
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


def _product(eqn: JaxprEqn, inputs: list[_State], products: float) -> _Walked:
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


def _shape(atom: Atom) -> tuple[int, ...]:
    return getattr(atom.aval, "shape", ())


def _is_jaxpr(x: object) -> TypeGuard[Jaxpr | ClosedJaxpr]:
    return isinstance(x, (Jaxpr, ClosedJaxpr))


def open_jaxpr(program: Jaxpr | ClosedJaxpr) -> Jaxpr:
    """Give the program without its constants; versions of JAX differ in whether it has some."""
    return program.jaxpr if isinstance(program, ClosedJaxpr) else program


def _settled(jaxpr: Jaxpr, fixed: list[_State], carry: list[_State], rest: list[_State]) -> _Walked:
    """Walk one iteration of a loop, with states of the carried values that hold in all."""
    while True:
        walked = _walk(jaxpr, [*fixed, *carry, *rest])
        new = [
            a if a == b else (_Data() if _Data() in (a, b) else None)
            for a, b in zip(carry, walked.out, strict=False)
        ]
        if new == carry:
            return walked
        carry = new


def _scan(eqn: JaxprEqn, inputs: list[_State]) -> _Walked:
    body = open_jaxpr(eqn.params["jaxpr"])
    # [constants, carry, xs] -> [carry, ys]: only xs and ys have one more axis outside of the loop;
    # the parameters that tell their numbers differ between versions of JAX
    carry = sum(map(_same_rank, eqn.outvars, body.outvars))
    end = sum(map(_same_rank, eqn.invars, body.invars))
    consts = end - carry
    walked = _settled(body, inputs[:consts], inputs[consts:end], inputs[end:])
    times, uses = float(eqn.params["length"]), {}
    _add(uses, walked.uses, times)
    return _Walked(walked.products * times, uses, walked.out)


def _same_rank(a: Atom, b: Atom) -> bool:
    return len(_shape(a)) == len(_shape(b))


def _while(eqn: JaxprEqn, inputs: list[_State]) -> _Walked:
    n, m = eqn.params["cond_nconsts"], eqn.params["body_nconsts"]
    body, test = open_jaxpr(eqn.params["body_jaxpr"]), open_jaxpr(eqn.params["cond_jaxpr"])
    walked = _settled(body, inputs[n : n + m], inputs[n + m :], [])
    tested = _walk(test, [*inputs[:n], *walked.out])
    if walked.products + tested.products:
        raise ValueError(
            "`function` has products in a `while` loop, whose number of iterations is unknown; use "
            "`jax.lax.scan` or a `fori_loop` with constant bounds"
        )
    return walked


def _cond(eqn: JaxprEqn, inputs: list[_State]) -> _Walked:
    branches = [_walk(open_jaxpr(b), inputs[1:]) for b in eqn.params["branches"]]
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
