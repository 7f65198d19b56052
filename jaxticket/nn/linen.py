"""Networks from Flax Linen modules."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jax import Array

from jaxticket._check import flag
from jaxticket._tree import varying_like
from jaxticket.nn.drop_in import Noted, conv_general_dilated
from jaxticket.nn.network import (
    MODES,
    ApplyFunction,
    Init,
    Outputs,
    Selection,
    WithOptions,
    accepted,
    asking_for_tokens,
    checked_example,
    make_network,
    modes_of,
    report_convolutions,
)
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats, SymmetryOf, Tap


@dataclass(frozen=True)
class _Swapped:
    """An interceptor under which `nn.Conv` computes by the fast convolution.

    Attributes:
      seen: where the convolutions are noted as (path, why it is native); None to note nothing.
    """

    seen: list[tuple[str, str]] | None = None

    def __call__(
        self,
        call: Callable[..., object],
        args: tuple[object, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        """Call a method of a module."""
        layer = context.module
        if not isinstance(layer, nn.Conv) or context.method_name != "__call__":
            return call(*args, **options)
        own = layer.conv_general_dilated
        if own is not None or layer.conv_general_dilated_cls is not None:
            return call(*args, **options)
        fast = conv_general_dilated
        if self.seen is not None:
            fast = Noted("/".join(layer.path), self.seen)
        # the bound copy of the layer, which lives as long as the call
        object.__setattr__(layer, "conv_general_dilated", fast)
        try:
            return call(*args, **options)
        finally:
            object.__setattr__(layer, "conv_general_dilated", own)


class _Spread:
    """An interceptor under which the first carry of `nn.RNN` differs between devices.

    Replicas and batches are spread over devices, where JAX wants what a loop begins with to differ
    as its results do. The carry that the cell begins with is made here as `nn.RNN` makes it.
    """

    def __call__(
        self,
        call: Callable[..., object],
        args: tuple[Array, ...],
        options: dict[str, object],
        context: nn.module.InterceptorContext,
    ) -> object:
        """Call a method of a module."""
        layer = context.module
        if not isinstance(layer, nn.RNN) or context.method_name != "__call__":
            return call(*args, **options)
        inputs, cell = args[0], layer.cell
        carry, key = options.get("initial_carry"), options.get("init_key")
        if carry is None:
            first = options.get("time_major")
            first = layer.time_major if first is None else first
            time = 0 if first else inputs.ndim - (cell.num_feature_axes + 1)
            shape = inputs.shape[:time] + inputs.shape[time + 1 :]
            key = key if isinstance(key, jax.Array) else jax.random.key(0)
            carry = cell.initialize_carry(key, shape)
        return call(*args, **{**options, "initial_carry": varying_like(carry, inputs)})


def _boxed(x: object) -> bool:
    return isinstance(x, nn.meta.AxisMetadata)


@dataclass(frozen=True, eq=False)
class Linen:
    """A Linen module as `init` and `apply` of a network; a class, so that networks pickle.

    Attributes:
      module: the module.
      shape, dtype: of one example.
      name: the network's name, for errors.
      modes: the arguments of `MODES` that its `__call__` takes.
      dropped: collections that are not statistics.
      outputs: selects the logits of what the module returns; None where it returns them alone.
      fast: whether `nn.Conv` computes by the fast convolution.
    """

    module: nn.Module
    shape: tuple[int, ...]
    name: str
    dtype: str
    modes: frozenset[str]
    dropped: tuple[str, ...] = ("intermediates",)
    outputs: Outputs | None = None
    fast: bool = False

    def variables(self, key: Key) -> dict[str, Params]:
        """Initialize all collections of the module."""
        # as the examples of training, the example differs from replica to replica
        x = varying_like(jnp.zeros((1, *self.shape), jnp.dtype(self.dtype)), key)
        rngs = {"params": stream(key, "params"), "dropout": stream(key, "dropout")}
        with nn.intercept_methods(_Spread()):
            variables = self.module.init(rngs, x, method=None, **modes_of(self.modes, False))
        for box in jax.tree.leaves(variables, is_leaf=_boxed):
            if _boxed(box):
                raise ValueError(
                    f"network {self.name!r} has params with metadata, a {type(box).__name__}, such "
                    f"as `nn.with_partitioning` adds; leave it out: jaxticket spreads replicas and "
                    f"batches over devices, not weights"
                )
        return dict(variables)

    def sown(self) -> tuple[str, ...]:
        """Find the collections that grow with every call, as those of `sow` do."""
        before = jax.eval_shape(self.variables, jax.random.key(0))
        names = [name for name in before if name != "params"]
        if not names:
            return ()
        x = jax.ShapeDtypeStruct((1, *self.shape), jnp.dtype(self.dtype))
        key = jax.eval_shape(lambda: jax.random.key(0))
        _, after = jax.eval_shape(
            lambda v, x, key: self._called(v, x, True, key, names), before, x, key
        )
        return tuple(
            name
            for name in names
            if jax.tree.structure(before[name]) != jax.tree.structure(after.get(name))
        )

    def init(self, key: Key) -> tuple[Params, Stats]:
        """Initialize params and statistics."""
        # sown values and the like are computed by every call: only weights and statistics are kept
        variables = self.variables(key)
        params = variables.pop("params", {})
        return params, {k: v for k, v in variables.items() if k not in self.dropped}

    def _called(
        self,
        variables: Mapping[str, Params],
        x: Array,
        train: bool,
        key: Key | None,
        mutable: list[str],
        **options: object,
    ) -> tuple[Array, dict[str, Params]]:
        """Compute (logits, the updated collections of `mutable`)."""
        # rng streams other than "dropout" draw from "params"
        rngs = None if key is None else {"dropout": key, "params": stream(key, "params")}
        module = self.module
        if "axis_name" in options:
            module = module.clone(axis_name=options.pop("axis_name"))
        options |= modes_of(self.modes, train)
        swapped = nn.intercept_methods(_Swapped()) if self.fast else contextlib.nullcontext()
        try:
            with swapped, nn.intercept_methods(_Spread()):
                returned, updated = module.apply(
                    variables, x, rngs=rngs, mutable=mutable, method=None,
                    capture_intermediates=False, **options,
                )  # fmt: skip
        except InvalidRngError as error:
            reason = str(error).partition(" (https")[0]
            raise ValueError(
                f"network {self.name!r} draws random numbers in evaluation, where networks must be "
                f"deterministic: {reason}; draw them only if its argument `train` is True"
            ) from error
        logits = returned if self.outputs is None else self.outputs(returned)
        return logits, dict(updated)

    def apply(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        *,
        train: bool,
        key: Key | None = None,
        **options: str | Tap | None,
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats); options are `axis_name` and `tap`."""
        given = {name: value for name, value in options.items() if value is not None}
        mutable = list(stats) if train else []
        variables = {"params": params, **stats}
        logits, updated = self._called(variables, x, train, key, mutable, **given)
        return logits, {**stats, **updated} if mutable else stats


class Parts(TypedDict):
    """The arguments of `make_network` that follow from a Linen module."""

    init: Init
    apply: ApplyFunction
    shape: tuple[int, ...]
    name: str
    source: Hashable
    syncs_stats: bool
    dtype: str


def parts(
    module: nn.Module,
    shape: Sequence[int],
    *,
    name: str,
    dtype: str = "float32",
    own: bool = False,
    outputs: Outputs | None = None,
    fast_conv: bool = False,
) -> Parts:
    """Derive the arguments of `make_network` from a Linen module.

    Args:
      module: as for `from_linen`.
      shape: as for `from_linen`.
      name: as for `from_linen`.
      dtype: as for `from_linen`.
      own: a module of the user's, which may sow values.
      outputs: as for `from_linen`.
      fast_conv: as for `from_linen`.
    """
    call = type(module).__call__
    has_axis = "axis_name" in getattr(module, "__dataclass_fields__", {})
    shape = checked_example(shape, dtype)
    modes = accepted(call, *MODES)
    linen = Linen(module, shape, name, dtype, modes, outputs=outputs, fast=fast_conv)
    if own:
        linen = replace(linen, dropped=(*linen.dropped, *linen.sown()))
    taken = accepted(call, "tap") | {"key"} | ({"axis_name"} if has_axis else set())
    return {
        "init": linen.init,
        "apply": WithOptions(linen.apply, taken, name, "give its __call__ a `tap` argument"),
        "shape": shape,
        "name": name,
        "source": module if outputs is None else (module, outputs),
        "syncs_stats": has_axis,
        "dtype": dtype,
    }


def from_linen(
    module: nn.Module,
    shape: Sequence[int],
    *,
    name: str,
    prunable: Selection | None = None,
    output: str | None = None,
    dtype: str = "float32",
    resized: Callable[[float], Network] | None = None,
    adapted: Callable[..., Network] | None = None,
    symmetry: SymmetryOf | None = None,
    stages: Sequence[Sequence[str]] = (),
    outputs: Outputs | None = None,
    master_weights: bool = False,
    fast_conv: bool = False,
) -> Network:
    """Make a network of a Linen module.

    The module's `__call__(x)` returns the logits and may also take `train` (or `training`,
    `deterministic`, `use_running_average`) and `tap`. A field `axis_name` receives the mesh axis
    over which BatchNorm averages; a module with statistics and without that field is refused on a
    mesh with a data axis above 1. In training every rng stream (`make_rng(name)`) draws from `key`,
    which differs between replicas and steps; in evaluation there is none. Sown values are
    ignored. Call `x = tap(name, x)` with the path of the layer; a name without "/" says that all
    paths from the input to the logits pass through x.

    Args:
      module: a `flax.linen.Module`.
      shape: shape of one example, such as `data.shape`.
      name: the network's name in run folders; networks are distinguished by their code too.
      prunable: what may be pruned: patterns of paths such as `["*/kernel", "mixer/w"]`, or
        `prunable(params) -> tree of python bools`; None for every leaf called "kernel" of two or
        more dimensions (all leaves of two or more where none is called so). Embeddings are not
        pruned unless asked for.
      output: path of the output layer; None for the last layer whose kernel ends in the number of
        classes.
      dtype: type of the examples: "float32" for images, "int32" for tokens, which reach the module
        as whole numbers.
      resized: `resized(width) -> Network`, the same network `width` times as wide, with at least
        one unit in each layer; without it a verdict's small dense network has to be passed.
      adapted: `adapted(shape=..., classes=..., **options) -> Network`, the same network for other
        data, for `jt.transfer`.
      symmetry: the permutations of hidden units that leave the function as it is, for
        `jt.connectivity.align`: a dict from the path of each leaf to one entry per axis (see
        `jaxticket.nn.symmetry`), or a function of the network that returns it.
      stages: the names of the residual blocks of each stage, such as `[["block_1_0",
        "block_1_1"]]`, for `jt.elastic`.
      outputs: `outputs(returned) -> logits`, for modules that return more than the logits, such as
        `lambda returned: returned[0]`.
      master_weights: for modules whose `param_dtype` is bfloat16 or float16: the weights are kept,
        trained, pruned and saved in float32, and rounded to the module's types in every call.
      fast_conv: whether `nn.Conv` computes by the convolution of this library, which is faster for
        many networks side by side; equal to the rounding of sums. Convolutions with groups or
        dilation, in one or three dimensions, or of a set precision stay the compiler's, which a
        warning names.

    Raises:
      ValueError: for an invalid shape, logits that are not [batch, classes], params that are
        not float32, random numbers in evaluation, statistics that change their shape, loops other
        than `nn.RNN` that begin with a constant, and settings that change nothing.

    Warns:
      UserWarning: for leaves that look like kernels but have another name and are not pruned, and
        for convolutions that `fast_conv` leaves as they are.
    """
    if not isinstance(module, nn.Module):
        raise ValueError(
            f"`module` must be a flax.linen.Module, such as MyModule(), got {module!r}"
        )
    with asking_for_tokens(name, dtype):
        if flag("fast_conv", fast_conv):
            _report(module, shape, name, dtype)
        return make_network(
            **parts(
                module,
                shape,
                name=name,
                dtype=dtype,
                own=True,
                outputs=outputs,
                fast_conv=fast_conv,
            ),
            constructor="from_linen",
            prunable=prunable,
            output=output,
            resized=resized,
            adapted=adapted,
            symmetry=symmetry,
            stages=stages,
            master_weights=master_weights,
            marks={"fast_conv": True} if fast_conv else None,
        )


def _report(module: nn.Module, shape: Sequence[int], name: str, dtype: str) -> None:
    """Say which convolutions of a module stay the compiler's."""
    own = Linen(
        module, checked_example(shape, dtype), name, dtype, accepted(type(module).__call__, *MODES)
    )
    seen: list[tuple[str, str]] = []
    with nn.intercept_methods(_Swapped(seen)):
        jax.eval_shape(own.variables, jax.random.key(0))
    report_convolutions(seen, name)
