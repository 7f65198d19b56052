"""What all adapters share: `init` and `apply` become a checked `Network`."""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import re
import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
from jax import Array
from jax.sharding import PartitionSpec

from jaxticket import _tree, masks
from jaxticket._check import flag, one_of, shown
from jaxticket.nn.master import HALF, MasterApply, MasterInit
from jaxticket.nn.resize import NoWidthError
from jaxticket.typing import Key, Network, Params, Prunable, Stats, SymmetryOf, Tap

Selection = Callable[[Params], Prunable] | str | Sequence[str]
"""Selects the leaves that may be pruned: `prunable(params) -> tree of python bools`, or patterns of
paths."""

Init = Callable[[Key], tuple[Params, Stats]]
ApplyFunction = Callable[..., tuple[Array, Stats]]

DTYPES = ("float32", "int32")
"""Types of examples: images, and tokens."""

Outputs = Callable[..., Array]
"""`outputs(returned) -> logits`: selects the logits of what a module returns."""

MODES = ("train", "training", "deterministic", "use_running_average")
"""Names in use for the argument that switches between training and evaluation."""

_UNPRUNED = ("bias", "scale", "embedding")
"""Last words of the paths of leaves of two or more dimensions that are usually not pruned."""


def no_tap(name: str, x: Array) -> Array:
    """The tap that does nothing."""
    del name
    return x


def accepted(function: Callable[..., object], *names: str) -> frozenset[str]:
    """Select those of `names` that a function takes as arguments."""
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return frozenset(names)
    return frozenset(names) & frozenset(parameters)


@dataclass(frozen=True, eq=False)
class WithOptions:
    """The `apply` of a network: passes on those options that the wrapped function takes.

    A class and no closure, so that networks pickle.

    Attributes:
      function: `function(params, stats, x, *, train, **options) -> (logits, stats)`.
      accepted: the options that it takes, of "key", "axis_name" and "tap".
      name: the network's name, for errors.
      remedy: how networks of this kind get taps.
    """

    function: ApplyFunction
    accepted: frozenset[str]
    name: str
    remedy: str

    def __call__(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Tap | None = None,
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats)."""
        if tap is not None and "tap" not in self.accepted:
            raise ValueError(f"`tap`: network {self.name!r} has no taps; {self.remedy}")
        given = {"key": key, "axis_name": axis_name, "tap": tap}
        options = {k: v for k, v in given.items() if k in self.accepted}
        # loops may begin with values made of the input, and carry some made of the params
        x = _tree.varying_like(x, params)
        return self.function(params, stats, x, train=train, **options)


def kernels(params: Params) -> Prunable:
    """Mark the leaves called "kernel" of two or more dimensions.

    If no leaf has that name, mark all leaves of two or more dimensions.
    """
    named = [path.rsplit("/", 1)[-1] == "kernel" for path in _tree.paths(params)]
    if not any(named):
        return masks.prunable_leaves(params)
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(
        tree, [k and len(x.shape) >= 2 for k, x in zip(named, leaves, strict=True)]
    )


@dataclass(frozen=True)
class _Matching:
    """`prunable` of patterns: the leaves whose paths match one of them."""

    patterns: tuple[str, ...]

    def __call__(self, params: Params) -> Prunable:
        flags = [_tree.matches(path, self.patterns) for path in _tree.paths(params)]
        return jax.tree.unflatten(jax.tree.structure(params), flags)


def _checked_prunable(prunable: Selection | None, params: Params) -> Callable[[Params], Prunable]:
    """Return what may be pruned as a function of the params.

    Raises:
      ValueError: for patterns that match nothing, and where nothing may be pruned.

    Warns:
      UserWarning: for leaves that look like kernels but are not selected by default.
    """
    paths = _tree.paths(params)
    if prunable is None:
        shapes = zip(paths, jax.tree.leaves(params), jax.tree.leaves(kernels(params)), strict=True)
        passed = [
            f"{path} {tuple(x.shape)}"
            for path, x, chosen in shapes
            if not chosen and len(x.shape) >= 2 and not path.rsplit("/", 1)[-1].endswith(_UNPRUNED)
        ]
        if passed:
            warnings.warn(
                f"not pruned, because they are not called 'kernel' as other leaves are: "
                f"{', '.join(passed[:8])}{', ...' if len(passed) > 8 else ''}; choose "
                f"them with `prunable`, such as prunable=['*/kernel', {passed[0].split(' ')[0]!r}]",
                stacklevel=4,
            )
        return kernels
    if not callable(prunable):
        patterns = (prunable,) if isinstance(prunable, str) else tuple(prunable)
        for pattern in patterns:
            if not isinstance(pattern, str) or not any(_tree.matches(p, [pattern]) for p in paths):
                raise ValueError(
                    f"`prunable` pattern {pattern!r} matches no weight; the paths are "
                    f"{', '.join(paths)}"
                )
        prunable = _Matching(patterns)
    chosen = prunable(params)
    if jax.tree.structure(chosen) != jax.tree.structure(params) or not any(jax.tree.leaves(chosen)):
        raise ValueError(
            f"`prunable` must give a bool for each of the params, at least one of them True; the "
            f"paths are {', '.join(paths)}"
        )
    return prunable


def _last_layer(params: Params, classes: int) -> str:
    """The path of the last layer whose kernel ends in `classes`, in the natural order of names."""
    leaves = zip(
        _tree.paths(params), jax.tree.leaves(params), jax.tree.leaves(kernels(params)), strict=True
    )
    found = [path.rsplit("/", 1)[0] for path, x, p in leaves if p and x.shape[-1] == classes]
    return max(found, key=_tree.natural) if found else ""


def checked_example(shape: Sequence[int], dtype: str) -> tuple[int, ...]:
    """Check shape and type of one example, and return the shape."""
    one_of("dtype", dtype, DTYPES)
    try:
        sizes = tuple(int(s) for s in shape)
    except (TypeError, ValueError):
        sizes = ()
    if not sizes or min(sizes) < 1:
        raise ValueError(
            f"`shape` must be the shape of one example, such as data.shape, got {shown(shape)}"
        )
    return sizes


def _no_width(width: float) -> Network:
    raise NoWidthError(
        width, "this network has no width; pass `resized` to the function that made it"
    )


def _fixed(**changes: object) -> Network:
    raise ValueError(
        f"`adapted({', '.join(f'{k}={v!r}' for k, v in changes.items())})`: this network was made "
        f"of a module or functions for one shape; pass `adapted`, or build the other network"
    )


def _check_params(params: Params, name: str) -> None:
    """Raise for weights of a type that training does not support."""
    for path, x in _tree.leaves(params).items():
        if x.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(
                f"`init` of network {name!r} gives params of type {x.dtype}, at {path!r}; they "
                f"must be float32: leave out `param_dtype`, and compute in another type with "
                f"Training(compute_dtype='bfloat16'), or train float32 copies of them with "
                f"master_weights=True"
            )
    if not jax.tree.leaves(params):
        raise ValueError(f"`init` of network {name!r} gives no params: there is nothing to train")


def modes_of(names: frozenset[str], train: bool) -> dict[str, bool]:
    """Give the arguments of `MODES` that a module takes."""
    values = dict(zip(MODES, (train, train, not train, not train), strict=True))
    return {name: values[name] for name in MODES if name in names}


def report_convolutions(seen: Sequence[tuple[str, str]], name: str) -> None:
    """Say which convolutions stay the compiler's under `fast_conv`.

    Args:
      seen: the layers, as (path, why it is native, "" where it is not).
      name: the network's name.

    Raises:
      ValueError: where all of them do.
    """
    native = dict.fromkeys(f"{path} ({why})" for path, why in seen if why)
    if all(why for _, why in seen):
        raise ValueError(
            f"`fast_conv` is True, but network {name!r} has no convolution that could be swapped: "
            f"{', '.join(native) or 'it has no Conv'}; leave it out"
        )
    if native:
        warnings.warn(
            f"`fast_conv` leaves convolutions of network {name!r} to the compiler: "
            f"{', '.join(native)}",
            stacklevel=4,
        )


def _with_master(init: Init, apply: ApplyFunction, name: str) -> tuple[Init, ApplyFunction]:
    """Give `init` and `apply` of weights that are kept in float32."""
    leaves = jax.tree.leaves(jax.eval_shape(init, jax.random.key(0))[0])
    types = tuple(x.dtype.name if x.dtype in HALF else "" for x in leaves)
    if not any(types):
        raise ValueError(
            f"`master_weights` is True, but no param of network {name!r} is bfloat16 or float16: "
            f"leave it out, or give the module a `param_dtype`"
        )
    return MasterInit(init), MasterApply(apply, types)


def _checked_logits(out: object, name: str) -> jax.ShapeDtypeStruct:
    """Check the output of `apply` for a batch of 2, and return the logits' shape."""
    remedy = (
        "if the module returns more than the logits, select them with `outputs`, such as "
        "outputs=lambda returned: returned[0]"
    )
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"`apply` of network {name!r} must give (logits, stats), got {_described(out)}; stats "
            f"may be {{}}"
        )
    logits = out[0]
    if not hasattr(logits, "shape"):
        raise ValueError(
            f"`apply` of network {name!r} must give logits of shape [batch, ..., classes], got "
            f"{_described(logits)}; {remedy}"
        )
    if len(logits.shape) < 2 or logits.shape[0] != 2:
        raise ValueError(
            f"`apply` of network {name!r} must give logits of shape [batch, ..., classes], got "
            f"{logits.shape} for a batch of 2; {remedy}"
        )
    return logits


@contextlib.contextmanager
def asking_for_tokens(name: str, dtype: str) -> Iterator[None]:
    """Name the argument where a layer, such as an embedding, refuses examples in float32."""
    try:
        yield
    except (TypeError, ValueError) as error:
        text = str(error).strip().partition("\n")[0]
        if dtype == "int32" or "must be an integer" not in text:
            raise
        raise ValueError(
            f"`dtype` is {dtype!r}, and a layer of network {name!r} takes whole numbers ({text}); "
            f"pass dtype='int32' for tokens"
        ) from error


# how JAX and Flax say that arrays do not fit together
_MISFITS = re.compile(r"dot_general|conv_general|[Ii]ncompatible shapes|cannot reshape|same shape")


@contextlib.contextmanager
def _called_with(shape: tuple[int, ...], name: str) -> Iterator[None]:
    """Name the argument where layers refuse examples of another shape than they are made for."""
    try:
        yield
    except jax.errors.ConcretizationTypeError:
        raise
    except (TypeError, ValueError) as error:
        text = str(error).strip().partition("\n")[0]
        if not _MISFITS.search(text):
            raise
        raise ValueError(
            f"network {name!r} cannot be applied to examples of `shape` {shape} ({text}); pass the "
            f"shape that its layers are made for, or make them for this one"
        ) from error


def _described(value: object) -> str:
    """Name a type, and of a container the number of its entries."""
    inner = f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
    return f"a {type(value).__name__}{inner}"


def _check_stats(old: Stats, new: Stats, name: str) -> None:
    """Raise where training would change the tree, shapes or types of the statistics."""
    before, after = (
        {path: (x.shape, x.dtype) for path, x in _tree.leaves(s).items()} for s in (old, new)
    )
    odd = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    if odd or jax.tree.structure(old) != jax.tree.structure(new):
        raise ValueError(
            f"`apply` of network {name!r} must give statistics like those of `init`; after a "
            f"training step they differ in {', '.join(map(repr, odd[:4])) or 'their containers'}"
        )


@functools.lru_cache(maxsize=256)
def _outputs(net: Network, train: bool, real: str) -> tuple[jax.ShapeDtypeStruct, Stats]:
    """Trace the shapes that `apply` returns for a batch of 2; equal networks are traced once."""
    del real  # as for the network's own shapes
    key = jax.eval_shape(lambda: jax.random.key(0)) if train else None

    def run(params: Params, stats: Stats, x: Array, key: Key | None) -> tuple[Array, Stats]:
        if key is None:
            return net.apply(params, stats, x, train=False)
        return net.apply(params, stats, x, train=True, key=key)

    return jax.eval_shape(run, *net.shapes, net.example(2), key)


def _check_loops(net: Network, name: str) -> None:
    """Raise for a loop whose first carry does not depend on params or input.

    Replicas are spread over devices by `shard_map`, where JAX refuses such a carry.
    """
    # the default of newer versions is Explicit, which refuses inputs that are not sharded so
    mesh = jax.sharding.AbstractMesh((1,), ("seed",), axis_types=(jax.sharding.AxisType.Auto,))

    def run(params: Params, stats: Stats, x: Array) -> Array:
        return net.apply(params, stats, x, train=False)[0]

    spread = jax.shard_map(
        lambda *trees: run(*jax.tree.map(lambda x: x[0], trees))[None],
        mesh=mesh,
        in_specs=PartitionSpec("seed"),
        out_specs=PartitionSpec("seed"),
    )
    stacked = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct((1, *x.shape), x.dtype), (*net.shapes, net.example(2))
    )
    try:
        jax.eval_shape(spread, *stacked)
    except TypeError as error:
        if "manual axis types do not match" not in str(error):
            raise
        raise ValueError(
            f"network {name!r} has a loop (`jax.lax.scan`, `nnx.RNN`, ...) whose first carry is a "
            f"constant, which JAX refuses where networks are spread over devices; make it of the "
            f"input, such as `initial_carry=jax.tree.map(lambda c: c + 0 * jnp.sum(x), carry)`"
        ) from error


def logits_of(net: Network) -> jax.ShapeDtypeStruct:
    """Shape and type of the logits of a batch of 2, [2, ..., classes]."""
    return _outputs(net, False, jnp.result_type(float).name)[0]


def make_network(
    init: Init,
    apply: ApplyFunction,
    shape: Sequence[int],
    *,
    constructor: str,
    name: str,
    source: Hashable,
    syncs_stats: bool,
    prunable: Selection | None = None,
    output: str | None = None,
    config: Mapping[str, object] | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    dtype: str = "float32",
    symmetry: SymmetryOf | None = None,
    stages: Sequence[Sequence[str]] = (),
    master_weights: bool = False,
    marks: Mapping[str, object] | None = None,
    float32: Sequence[str] = (),
) -> Network:
    """Check `init` and `apply` by tracing them, and make the network.

    Args:
      init: as the attribute of `Network`.
      apply: as the attribute of `Network`.
      shape: as the attribute of `Network`.
      constructor: the constructor's name, which is recorded.
      name: the network's name, for errors and the record.
      source: what `init` and `apply` were made from.
      syncs_stats: whether `apply` averages batch statistics over `axis_name`.
      prunable: as for `from_linen`.
      output: as for `from_linen`.
      config: the arguments of a constructor of this library, recorded instead of name and shapes;
        such networks are known to keep the structure of their statistics.
      resized: as the attribute of `Network`; None if there is no such network.
      adapted: as the attribute of `Network`; None if there is no such network.
      dtype: as for `from_linen`.
      symmetry: as for `from_linen`.
      stages: as for `from_linen`.
      master_weights: as for `from_linen`.
      marks: what else is recorded of a network of the user's.
      float32: as the attribute of `Network`.

    Raises, Warns: as `from_linen`.
    """
    shape = checked_example(shape, dtype)
    users = config is None
    if users:
        config = {"name": name, "shape": list(shape), **(marks or {})}
    if flag("master_weights", master_weights):
        init, apply = _with_master(init, apply, name)
        config = {**(config or {}), "master_weights": True}
    if dtype != "float32":
        config = {**(config or {}), "dtype": dtype}
    net = Network(
        config=_recorded(constructor, config),
        init=init,
        apply=apply,
        prunable=kernels,
        output=output or "",
        shape=shape,
        classes=0,
        resized=resized or _no_width,
        adapted=adapted or _fixed,
        syncs_stats=syncs_stats,
        dtype=dtype,
        source=source,
        symmetry=symmetry,
        stages=tuple(map(tuple, stages)),
        float32=tuple(float32),
    )
    params, stats = net.shapes
    _check_params(params, name)
    real = jnp.result_type(float).name
    with _called_with(shape, name):
        outputs = _outputs(net, False, real)
    logits = _checked_logits(outputs, name)
    if users:
        _check_stats(stats, _outputs(net, True, real)[1], name)
        _check_loops(net, name)
    prunable = _checked_prunable(prunable, params)
    shapes = {path: list(leaf.shape) for path, leaf in _tree.leaves(params).items()}
    if output and not any(_tree.matches(path, [output]) for path in shapes):
        raise ValueError(f"`output` {output!r} is not a layer; the paths are {', '.join(shapes)}")
    for block in (block for stage in net.stages for block in stage):
        if not any(_tree.matches(path, [block]) for path in shapes):
            raise ValueError(
                f"`stages` names the block {block!r}, which is not a layer; the paths are "
                f"{', '.join(shapes)}"
            )
    if users:
        config = {**(config or {}), "params": shapes}
    if prunable is not kernels:
        # part of the identity of a network in programs, run folders and tickets
        marked = zip(shapes, jax.tree.leaves(prunable(params)), strict=True)
        config = {**(config or {}), "prunable": [path for path, p in marked if p]}
    return replace(
        net,
        config=_recorded(constructor, config),
        prunable=prunable,
        output=output if output is not None else _last_layer(params, logits.shape[-1]),
        classes=logits.shape[-1],
        syncs_stats=syncs_stats or not jax.tree.leaves(stats),
    )


def _recorded(constructor: str, config: Mapping[str, object] | None) -> str:
    return json.dumps({"constructor": constructor, **(config or {})}, sort_keys=True)
