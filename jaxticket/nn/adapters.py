"""Networks from Flax modules and from plain functions."""

from __future__ import annotations

import inspect
import json
import warnings
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket._check import one_of
from jaxticket.random import stream
from jaxticket.typing import Array, Key, Network, Params, Stats

Prunable = Callable[[Params], Any] | str | Sequence[str]
"""What may be pruned: `prunable(params) -> tree of python bools`, or patterns of paths."""

DTYPES = ("float32", "int32")
"""Types of examples: images, and tokens."""

_UNPRUNED = ("bias", "scale", "embedding")
"""Last words of the paths of leaves of two and more dimensions that nobody expects to be pruned."""


def no_tap(name: str, x: Array) -> Array:
    """The tap that does nothing."""
    del name
    return x


def _accepted(function: Callable[..., Any], *names: str) -> frozenset[str]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return frozenset(names)
    return frozenset(names) & frozenset(parameters)


def _mode(accepted: frozenset[str], train: bool) -> dict[str, bool]:
    """The module's own word for training or evaluating."""
    values = {
        "train": train,
        "training": train,
        "deterministic": not train,
        "use_running_average": not train,
    }
    return {name: values[name] for name in values if name in accepted}


def _kernels(params: Params) -> Any:
    """True for leaves called "kernel" of two or more dimensions; where no leaf is called so, for
    all such leaves.
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

    def __call__(self, params: Params) -> Any:
        leaves, tree = jax.tree.flatten(params)
        del leaves
        found = [_tree.matches(path, self.patterns) for path in _tree.paths(params)]
        return jax.tree.unflatten(tree, found)


def _checked_prunable(prunable: Prunable | None, params: Params) -> Callable[[Params], Any]:
    """What may be pruned, as a function of the params.

    Raises:
      ValueError: for patterns that match nothing, and where nothing may be pruned.

    Warns:
      UserWarning: for leaves that the default passes over though they look like kernels.
    """
    paths = _tree.paths(params)
    if prunable is None:
        shapes = zip(paths, jax.tree.leaves(params), jax.tree.leaves(_kernels(params)), strict=True)
        passed = [
            f"{path} {tuple(x.shape)}"
            for path, x, chosen in shapes
            if not chosen and len(x.shape) >= 2 and not path.rsplit("/", 1)[-1].endswith(_UNPRUNED)
        ]
        if passed:
            warnings.warn(
                f"not pruned, since other leaves are called 'kernel' and these are not: "
                f"{', '.join(passed[:8])}{', ...' if len(passed) > 8 else ''}; say what is pruned "
                f"with `prunable`, such as prunable=['*/kernel', {passed[0].split(' ')[0]!r}]",
                stacklevel=4,
            )
        return _kernels
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
        _tree.paths(params), jax.tree.leaves(params), jax.tree.leaves(_kernels(params)), strict=True
    )
    found = [path.rsplit("/", 1)[0] for path, x, p in leaves if p and x.shape[-1] == classes]

    def natural(path: str) -> list[Any]:
        pieces = "".join(c if c.isdigit() else f"\0{c}\0" for c in path).split("\0")
        return [
            (1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces if piece
        ]

    return max(found, key=natural) if found else ""


def _check_shape(shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(int(s) for s in shape)
    if not shape or min(shape) < 1:
        raise ValueError(
            f"`shape` must be the shape of one example, such as data.shape, got {shape}"
        )
    return shape


def _no_width(width: float) -> Network:
    raise ValueError(f"`resized({width})`: this network has no width; build the other size by hand")


def _fixed(**changes: Any) -> Network:
    raise ValueError(
        f"`adapted({', '.join(f'{k}={v!r}' for k, v in changes.items())})`: this network was made "
        f"of a module or functions, which are for one shape; build the other one by hand"
    )


def _check_params(params: Params, name: str) -> None:
    """Raises for weights of a type that training does not keep."""
    for path, x in zip(_tree.paths(params), jax.tree.leaves(params), strict=True):
        if x.dtype not in (jnp.float32, jnp.float64):
            raise ValueError(
                f"`init` of network {name!r} gives params of type {x.dtype}, at {path!r}; they "
                f"must be float32: leave out `param_dtype`, and compute in another type with "
                f"Training(compute_dtype='bfloat16')"
            )
    if not jax.tree.leaves(params):
        raise ValueError(f"`init` of network {name!r} gives no params: there is nothing to train")


def _checked_logits(out: Any, name: str) -> Any:
    """The logits' shape of what `apply` gives for a batch of 2."""
    remedy = "if the module returns more than the logits, wrap it in one that returns them alone"
    if not (isinstance(out, tuple) and len(out) == 2):
        raise ValueError(
            f"`apply` of network {name!r} must give (logits, stats), got {_described(out)}; stats "
            f"may be {{}}"
        )
    logits = out[0]
    if not hasattr(logits, "shape"):
        raise ValueError(
            f"`apply` of network {name!r} must give logits of shape [batch, classes], got "
            f"{_described(logits)}; {remedy}"
        )
    if len(logits.shape) != 2 or logits.shape[0] != 2:
        raise ValueError(
            f"`apply` of network {name!r} must give logits of shape [batch, classes], got "
            f"{logits.shape} for a batch of 2; {remedy}"
        )
    return logits


def _described(value: Any) -> str:
    """A type, and of a tuple the types of its entries."""
    inner = f" of {len(value)}" if isinstance(value, (tuple, list, dict)) else ""
    return f"a {type(value).__name__}{inner}"


def _check_stats(old: Stats, new: Stats, name: str) -> None:
    """Raises where training would change the tree, shapes or types of the statistics."""
    before, after = (
        {p: (x.shape, x.dtype) for p, x in zip(_tree.paths(s), jax.tree.leaves(s), strict=True)}
        for s in (old, new)
    )
    odd = sorted(path for path in {*before, *after} if before.get(path) != after.get(path))
    if odd or jax.tree.structure(old) != jax.tree.structure(new):
        raise ValueError(
            f"`apply` of network {name!r} must give statistics like those of `init`; after a "
            f"training step they differ in {', '.join(map(repr, odd[:4])) or 'their containers'}"
        )


def _network(
    init: Callable[[Key], tuple[Params, Stats]],
    apply: Callable[..., tuple[Array, Stats]],
    shape: tuple[int, ...],
    *,
    constructor: str,
    name: str,
    source: Hashable,
    syncs_stats: bool,
    prunable: Prunable | None = None,
    output: str | None = None,
    config: dict[str, Any] | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    dtype: str = "float32",
) -> Network:
    params, stats = jax.eval_shape(init, jax.random.key(0))
    _check_params(params, name)
    x = jax.ShapeDtypeStruct((2, *shape), jnp.dtype(dtype))
    out = jax.eval_shape(lambda p, s, x: apply(p, s, x, train=False), params, stats, x)
    logits = _checked_logits(out, name)
    if constructor in ("from_linen", "from_nnx", "from_functions"):
        # modules of one's own; those of this library are known to keep their statistics
        key = jax.eval_shape(lambda: jax.random.key(0))
        _, new = jax.eval_shape(
            lambda p, s, x, key: apply(p, s, x, train=True, key=key), params, stats, x, key
        )
        _check_stats(stats, new, name)
    prunable = _checked_prunable(prunable, params)
    shapes = {
        path: list(leaf.shape)
        for path, leaf in zip(_tree.paths(params), jax.tree.leaves(params), strict=True)
    }
    if output and not any(_tree.matches(path, [output]) for path in shapes):
        raise ValueError(f"`output` {output!r} is no layer; the paths are {', '.join(shapes)}")
    config = config or {"name": name, "shape": list(shape), "params": shapes}
    if dtype != "float32":
        config = {**config, "dtype": dtype}
    if prunable is not _kernels:
        # part of what a network is: programs, run folders and tickets tell such networks apart
        marked = zip(shapes, jax.tree.leaves(prunable(params)), strict=True)
        config = {**config, "prunable": [path for path, p in marked if p]}
    return Network(
        config=json.dumps({"constructor": constructor, **config}, sort_keys=True),
        init=init,
        apply=apply,
        prunable=prunable,
        output=output if output is not None else _last_layer(params, logits.shape[-1]),
        shape=shape,
        classes=logits.shape[-1],
        resized=resized or _no_width,
        adapted=adapted or _fixed,
        syncs_stats=syncs_stats or not jax.tree.leaves(stats),
        dtype=dtype,
        source=source,
    )


@dataclass(frozen=True, eq=False)
class _Linen:
    """A Linen module as `init` and `apply` of a network."""

    module: Any
    shape: tuple[int, ...]
    name: str
    dtype: str
    accepted: frozenset[str]
    has_axis: bool
    dropped: tuple[str, ...] = ("intermediates",)

    def variables(self, key: Key) -> dict[str, Any]:
        """All collections as the module initializes them."""
        return dict(
            self.module.init(
                {"params": stream(key, "params"), "dropout": stream(key, "dropout")},
                jnp.zeros((1, *self.shape), jnp.dtype(self.dtype)),
                **_mode(self.accepted, False),
            )
        )

    def sown(self) -> tuple[str, ...]:
        """Collections that grow with every call, as those of `sow` do."""
        before = jax.eval_shape(self.variables, jax.random.key(0))
        names = [name for name in before if name != "params"]
        if not names:
            return ()
        x = jax.ShapeDtypeStruct((1, *self.shape), jnp.dtype(self.dtype))
        key = jax.eval_shape(lambda: jax.random.key(0))
        _, after = jax.eval_shape(
            lambda v, x, key: self._called(v, x, True, key, mutable=names), before, x, key
        )
        return tuple(
            name
            for name in names
            if jax.tree.structure(before[name]) != jax.tree.structure(after.get(name))
        )

    def init(self, key: Key) -> tuple[Params, Stats]:
        # sown values and the like are made by every call: only weights and statistics are kept
        variables = self.variables(key)
        params = variables.pop("params", {})
        return params, {k: v for k, v in variables.items() if k not in self.dropped}

    def _called(
        self, variables: Mapping[str, Any], x: Array, train: bool, key: Key | None, **options: Any
    ) -> Any:
        from flax.errors import InvalidRngError

        # what is neither called "dropout" nor has a stream of its own draws from "params"
        rngs = None if key is None else {"dropout": key, "params": stream(key, "params")}
        options = {**_mode(self.accepted, train), **options}
        net = self.module
        if "axis_name" in options:
            net = net.clone(axis_name=options.pop("axis_name"))
        try:
            return net.apply(variables, x, rngs=rngs, **options)
        except InvalidRngError as error:
            told = str(error).partition(" (https")[0]
            raise ValueError(
                f"network {self.name!r} draws random numbers in evaluation, where networks are "
                f"deterministic: {told}; draw them where its argument `train` is True"
            ) from error

    def apply(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        options: dict[str, Any] = {}
        if self.has_axis and axis_name is not None:
            options["axis_name"] = axis_name
        if tap is not None:
            if "tap" not in self.accepted:
                raise ValueError(
                    f"`tap`: network {self.name!r} has no taps; give its __call__ a `tap` argument"
                )
            options["tap"] = tap
        variables = {"params": params, **stats}
        if train and stats:
            logits, updated = self._called(variables, x, train, key, mutable=list(stats), **options)
            return logits, {**stats, **updated}
        return self._called(variables, x, train, key, **options), stats


def from_linen(
    module: Any,
    shape: Sequence[int],
    *,
    name: str,
    prunable: Prunable | None = None,
    output: str | None = None,
    dtype: str = "float32",
    config: dict[str, Any] | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    constructor: str = "from_linen",
) -> Network:
    """A network from a Linen module.

    The module's `__call__(x)` returns the logits and may also take `train` (or `training`,
    `deterministic`, `use_running_average`) and `tap`. A field `axis_name` receives the mesh axis
    over which BatchNorm averages; a module with statistics and without that field is refused on a
    mesh with a data axis above 1. In training every rng stream (`make_rng(name)`) draws from `key`,
    which differs between replicas and steps; in evaluation there is none. What the module sows is
    ignored. Call `x = tap(name, x)` with the path of the layer; a name without "/" says that all
    paths from the input to the logits pass through x.

    Args:
      module: a `flax.linen.Module`.
      shape: shape of one example, such as `data.shape`.
      name: what run folders call the network; they tell its code apart too.
      prunable: what may be pruned: patterns of paths such as `["*/kernel", "mixer/w"]`, or
        `prunable(params) -> tree of python bools`; None for every leaf called "kernel" of two or
        more dimensions (all leaves of two or more where none is called so). Embeddings are not
        pruned unless asked for.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      dtype: type of the examples: "float32" for images, "int32" for tokens, which reach the module
        as whole numbers.
      config: what to record instead of the name and shapes, for constructors of this library.
      resized: `resized(width) -> Network`.
      adapted: `adapted(shape=..., classes=..., **options) -> Network`.
      constructor: the name of the constructor that is recorded.

    Raises:
      ValueError: for a shape that is none, logits that are not [batch, classes], params that are
        not float32, random numbers in evaluation, statistics that change their shape.

    Warns:
      UserWarning: for leaves that look like kernels, are not called so and would not be pruned.
    """
    shape = _check_shape(shape)
    one_of("dtype", dtype, DTYPES)
    accepted = _accepted(
        type(module).__call__, "train", "training", "deterministic", "use_running_average", "tap"
    )
    has_axis = "axis_name" in getattr(module, "__dataclass_fields__", {})
    linen = _Linen(module, shape, name, dtype, accepted, has_axis)
    if constructor == "from_linen":
        linen = _Linen(
            module, shape, name, dtype, accepted, has_axis, ("intermediates", *linen.sown())
        )
    return _network(
        linen.init,
        linen.apply,
        shape,
        constructor=constructor,
        name=name,
        source=module,
        syncs_stats=has_axis,
        prunable=prunable,
        output=output,
        config=config,
        resized=resized,
        adapted=adapted,
        dtype=dtype,
    )


def _within(tree: Any, like: Any) -> Any:
    """The part of nested dicts that `like` has too."""
    if not isinstance(like, dict):
        return tree
    return {name: _within(tree[name], inner) for name, inner in like.items() if name in tree}


@dataclass(frozen=True, eq=False)
class _Nnx:
    """An NNX module as `init` and `apply` of a network."""

    make: Callable[..., Any]
    name: str

    @staticmethod
    def split(model: Any) -> tuple[Params, Stats]:
        """Weights and statistics, without random states and sown values."""
        from flax import nnx

        _, params, _, rest = nnx.split(model, nnx.Param, (nnx.RngState, nnx.Intermediate), ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def init(self, key: Key) -> tuple[Params, Stats]:
        from flax import nnx

        rngs = nnx.Rngs(
            default=stream(key, "default"),
            params=stream(key, "params"),
            dropout=stream(key, "dropout"),
        )
        return self.split(self.make(rngs))

    def apply(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        from flax import nnx

        del axis_name
        if tap is not None:
            raise ValueError(
                f"`tap`: network {self.name!r} has no taps; NNX modules cannot be tapped"
            )
        # the values drawn here are all overwritten, so that the compiler drops their computation
        drawn: Any = 0 if key is None else key
        other: Any = 0 if key is None else stream(key, "default")
        model = self.make(nnx.Rngs(default=other, params=0, dropout=drawn))
        nnx.update(model, params)
        if jax.tree.leaves(stats):
            nnx.update(model, stats)
        (model.train if train else model.eval)()
        logits = model(x)
        return logits, _within(self.split(model)[1], stats) if train else stats


def from_nnx(
    make: Callable[..., Any],
    shape: Sequence[int],
    *,
    name: str,
    prunable: Prunable | None = None,
    output: str | None = None,
    dtype: str = "float32",
) -> Network:
    """A network from a Flax NNX module.

    Args:
      make: `make(rngs) -> flax.nnx.Module`, called with `nnx.Rngs(...)`; the module maps x to
        logits.
      shape: shape of one example.
      name: what run folders call the network; they tell its code apart too.
      prunable, output, dtype: as for `from_linen`.

    The module's train and eval modes are set by `train()` and `eval()`. In training every rng
    stream draws from the replica's key of the step. What the module sows is ignored. Its BatchNorm
    cannot be told the mesh axis from outside: with statistics it is refused on a mesh with a data
    axis above 1.

    Raises, Warns: as `from_linen`.
    """
    shape = _check_shape(shape)
    one_of("dtype", dtype, DTYPES)
    nnx_of = _Nnx(make, name)
    return _network(
        nnx_of.init,
        nnx_of.apply,
        shape,
        constructor="from_nnx",
        name=name,
        source=make,
        syncs_stats=False,
        prunable=prunable,
        output=output,
        dtype=dtype,
    )


@dataclass(frozen=True, eq=False)
class _Functions:
    """`apply` of a network of plain functions."""

    function: Callable[..., Any]
    name: str
    accepted: frozenset[str]

    def apply(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        if tap is not None and "tap" not in self.accepted:
            raise ValueError(
                f"`tap`: network {self.name!r} has no taps; give its apply a `tap` argument"
            )
        given = {"key": key, "axis_name": axis_name, "tap": tap}
        options = {k: v for k, v in given.items() if k in self.accepted}
        return self.function(params, stats, x, train=train, **options)


def from_functions(
    init: Callable[[Key], tuple[Params, Stats]],
    apply: Callable[..., tuple[Array, Stats]],
    *,
    name: str,
    shape: Sequence[int],
    prunable: Prunable | None = None,
    output: str | None = None,
    resized: Callable[[float], Network] | None = None,
    syncs_stats: bool = False,
    dtype: str = "float32",
) -> Network:
    """A network from two pure functions.

    Args:
      init: `init(key) -> (params, stats)`; stats may be `{}`.
      apply: `apply(params, stats, x, *, train, key, axis_name, tap) -> (logits, stats)`; of the
        last three it may leave out what it does not use.
      name: what run folders call the network; they tell its code apart too.
      shape: shape of one example.
      prunable: patterns of paths or a function, as for `from_linen`; None for leaves called
        "kernel", or all leaves of two or more dimensions where there are none.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      resized: `resized(width) -> Network`.
      syncs_stats: whether `apply` averages its batch statistics over `axis_name`.
      dtype: type of the examples, as for `from_linen`.

    Raises, Warns: as `from_linen`.
    """
    shape = _check_shape(shape)
    one_of("dtype", dtype, DTYPES)
    functions = _Functions(apply, name, _accepted(apply, "key", "axis_name", "tap"))
    return _network(
        init,
        functions.apply,
        shape,
        constructor="from_functions",
        name=name,
        source=(init, apply),
        syncs_stats=syncs_stats,
        prunable=prunable,
        output=output,
        resized=resized,
        dtype=dtype,
    )
