"""Networks from Flax modules and from plain functions."""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp

from jaxticket import masks, trees
from jaxticket.rng import stream
from jaxticket.types import Array, Key, Network, Params, Stats


def no_tap(name: str, x: Array) -> Array:
    """The tap that does nothing."""
    del name
    return x


def _accepted(function: Callable[..., Any], *names: str) -> set[str]:
    parameters = inspect.signature(function).parameters
    if any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values()):
        return set(names)
    return set(names) & set(parameters)


def _mode(accepted: set[str], train: bool) -> dict[str, bool]:
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
    named = [path.rsplit("/", 1)[-1] == "kernel" for path in trees.paths(params)]
    if not any(named):
        return masks.prunable_leaves(params)
    leaves, tree = jax.tree.flatten(params)
    return jax.tree.unflatten(
        tree, [k and len(x.shape) >= 2 for k, x in zip(named, leaves, strict=True)]
    )


def _last_layer(params: Params, classes: int) -> str:
    """The path of the last layer whose kernel ends in `classes`, in the natural order of names."""
    leaves = zip(
        trees.paths(params), jax.tree.leaves(params), jax.tree.leaves(_kernels(params)), strict=True
    )
    found = [path.rsplit("/", 1)[0] for path, x, p in leaves if p and x.shape[-1] == classes]

    def natural(path: str) -> list[Any]:
        pieces = "".join(c if c.isdigit() else f"\0{c}\0" for c in path).split("\0")
        return [
            (1, int(piece), "") if piece.isdigit() else (0, 0, piece) for piece in pieces if piece
        ]

    return max(found, key=natural) if found else ""


def _check_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
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


def _network(
    init: Callable[[Key], tuple[Params, Stats]],
    apply: Callable[..., tuple[Array, Stats]],
    shape: tuple[int, ...],
    *,
    constructor: str,
    name: str,
    source: Hashable,
    syncs_stats: bool,
    prunable: Callable[[Params], Any] | None = None,
    output: str | None = None,
    config: dict[str, Any] | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
) -> Network:
    params, stats = jax.eval_shape(init, jax.random.key(0))
    leaves = [x for x in jax.tree.leaves(params) if not jnp.issubdtype(x.dtype, jnp.floating)]
    if leaves:
        raise ValueError(
            f"`init` of network {name!r} gives params of type {leaves[0].dtype}; they must be "
            f"floating"
        )
    x = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits, _ = jax.eval_shape(lambda p, s, x: apply(p, s, x, train=False), params, stats, x)
    if len(logits.shape) != 2 or logits.shape[0] != 2:
        raise ValueError(
            f"`apply` of network {name!r} must give logits of shape [batch, classes], got "
            f"{logits.shape} for a batch of 2"
        )
    prunable = prunable or _kernels
    shapes = {
        path: list(leaf.shape)
        for path, leaf in zip(trees.paths(params), jax.tree.leaves(params), strict=True)
    }
    config = config or {"name": name, "shape": list(shape), "params": shapes}
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
        source=source,
    )


def from_linen(
    module: Any,
    shape: tuple[int, ...],
    *,
    name: str,
    prunable: Callable[[Params], Any] | None = None,
    output: str | None = None,
    config: dict[str, Any] | None = None,
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    constructor: str = "from_linen",
) -> Network:
    """A network from a Linen module.

    The module's `__call__(x)` may also take `train` (or `training`, `deterministic`,
    `use_running_average`) and `tap`. A field `axis_name` receives the mesh axis over which
    BatchNorm averages; a module with statistics and without that field is refused on a mesh with a
    data axis above 1. Dropout draws from `key`. Call `x = tap(name, x)` with the path of the layer;
    a name without "/" says that all paths from the input to the logits pass through x.

    Args:
      module: a `flax.linen.Module`.
      shape: shape of one example, such as `data.shape`.
      name: what run folders call the network; they tell its code apart too.
      prunable: what may be pruned; None for every leaf called "kernel" of two or more dimensions.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      config: what to record instead of the name and shapes, for constructors of this library.
      resized: `resized(width) -> Network`.
      adapted: `adapted(shape=..., classes=..., **options) -> Network`.
      constructor: the name of the constructor that is recorded.

    Raises:
      ValueError: for a shape that is none, or logits that are not [batch, classes].
    """
    shape = _check_shape(shape)
    accepted = _accepted(
        type(module).__call__, "train", "training", "deterministic", "use_running_average", "tap"
    )
    has_axis = "axis_name" in getattr(module, "__dataclass_fields__", {})

    def init(key: Key) -> tuple[Params, Stats]:
        # sown values and the like are made anew by every call: only weights and statistics are kept
        variables = dict(
            module.init(
                {"params": stream(key, "params"), "dropout": stream(key, "dropout")},
                jnp.zeros((1, *shape), jnp.float32),
                **_mode(accepted, False),
            )
        )
        params = variables.pop("params", {})
        variables.pop("intermediates", None)
        return params, variables

    def apply(
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        net = module.clone(axis_name=axis_name) if has_axis and axis_name is not None else module
        options: dict[str, Any] = dict(_mode(accepted, train))
        if tap is not None:
            if "tap" not in accepted:
                raise ValueError(
                    f"`tap`: network {name!r} has no taps; give its __call__ a `tap` argument"
                )
            options["tap"] = tap
        rngs = {"dropout": key} if key is not None else None
        variables = {"params": params, **stats}
        if train and stats:
            logits, updated = net.apply(variables, x, mutable=list(stats), rngs=rngs, **options)
            return logits, {**stats, **updated}
        return net.apply(variables, x, rngs=rngs, **options), stats

    return _network(
        init,
        apply,
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
    )


def from_nnx(
    make: Callable[..., Any],
    shape: tuple[int, ...],
    *,
    name: str,
    prunable: Callable[[Params], Any] | None = None,
    output: str | None = None,
) -> Network:
    """A network from a Flax NNX module.

    Args:
      make: `make(rngs) -> flax.nnx.Module`, called with `nnx.Rngs(...)`; the module maps x to
        logits.
      shape: shape of one example.
      name: what run folders call the network; they tell its code apart too.
      prunable, output: as for `from_linen`.

    The module's train and eval modes are set by `train()` and `eval()`. Its BatchNorm cannot be
    told the mesh axis
    from outside: with statistics it is refused on a mesh with a data axis above 1.
    """
    from flax import nnx

    shape = _check_shape(shape)

    def split(model: Any) -> tuple[Params, Stats]:
        _, params, _, rest = nnx.split(model, nnx.Param, nnx.RngState, ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    def init(key: Key) -> tuple[Params, Stats]:
        return split(make(nnx.Rngs(params=stream(key, "params"), dropout=stream(key, "dropout"))))

    def apply(
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        del axis_name
        if tap is not None:
            raise ValueError(f"`tap`: network {name!r} has no taps; NNX modules cannot be tapped")
        # the values drawn here are all overwritten, so that the compiler drops their computation
        model = make(nnx.Rngs(params=0, dropout=key if key is not None else 0))
        nnx.update(model, params)
        if jax.tree.leaves(stats):
            nnx.update(model, stats)
        (model.train if train else model.eval)()
        logits = model(x)
        return logits, split(model)[1] if train else stats

    return _network(
        init,
        apply,
        shape,
        constructor="from_nnx",
        name=name,
        source=make,
        syncs_stats=False,
        prunable=prunable,
        output=output,
    )


def from_functions(
    init: Callable[[Key], tuple[Params, Stats]],
    apply: Callable[..., tuple[Array, Stats]],
    *,
    name: str,
    shape: tuple[int, ...],
    prunable: Callable[[Params], Any] | None = None,
    output: str | None = None,
    resized: Callable[[float], Network] | None = None,
    syncs_stats: bool = False,
) -> Network:
    """A network from two pure functions.

    Args:
      init: `init(key) -> (params, stats)`; stats may be `{}`.
      apply: `apply(params, stats, x, *, train, key, axis_name, tap) -> (logits, stats)`; of the
        last three it may leave out what it does not use.
      name: what run folders call the network; they tell its code apart too.
      shape: shape of one example.
      prunable: None for leaves called "kernel", or all leaves of two or more dimensions where there
        are none.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      resized: `resized(width) -> Network`.
      syncs_stats: whether `apply` averages its batch statistics over `axis_name`.
    """
    shape = _check_shape(shape)
    accepted = _accepted(apply, "key", "axis_name", "tap")

    def wrapped(
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Callable[[str, Array], Array] | None = None,
    ) -> tuple[Array, Stats]:
        if tap is not None and "tap" not in accepted:
            raise ValueError(
                f"`tap`: network {name!r} has no taps; give its apply a `tap` argument"
            )
        given = {"key": key, "axis_name": axis_name, "tap": tap}
        return apply(
            params, stats, x, train=train, **{k: v for k, v in given.items() if k in accepted}
        )

    return _network(
        init,
        wrapped,
        shape,
        constructor="from_functions",
        name=name,
        source=(init, apply),
        syncs_stats=syncs_stats,
        prunable=prunable,
        output=output,
        resized=resized,
    )
