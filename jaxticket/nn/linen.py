"""Networks from Flax Linen modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.errors import InvalidRngError
from jax import Array

from jaxticket.nn.network import (
    ApplyFunction,
    Init,
    Selection,
    WithOptions,
    accepted,
    checked_example,
    make_network,
)
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats, SymmetryOf, Tap

_MODES = ("train", "training", "deterministic", "use_running_average")
"""Names in use for the argument that switches between training and evaluation."""


@dataclass(frozen=True, eq=False)
class Linen:
    """A Linen module as `init` and `apply` of a network; a class, so that networks pickle.

    Attributes:
      module: the module.
      shape, dtype: of one example.
      name: the network's name, for errors.
      modes: the arguments of `_MODES` that its `__call__` takes.
      dropped: collections that are not statistics.
    """

    module: nn.Module
    shape: tuple[int, ...]
    name: str
    dtype: str
    modes: frozenset[str]
    dropped: tuple[str, ...] = ("intermediates",)

    def _mode(self, train: bool) -> dict[str, bool]:
        values = dict(zip(_MODES, (train, train, not train, not train), strict=True))
        return {name: values[name] for name in _MODES if name in self.modes}

    def variables(self, key: Key) -> dict[str, Params]:
        """Initialize all collections of the module."""
        return dict(
            self.module.init(
                {"params": stream(key, "params"), "dropout": stream(key, "dropout")},
                jnp.zeros((1, *self.shape), jnp.dtype(self.dtype)),
                method=None,
                **self._mode(False),
            )
        )

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
        options |= self._mode(train)
        try:
            logits, updated = module.apply(
                variables, x, rngs=rngs, mutable=mutable, method=None,
                capture_intermediates=False, **options,
            )  # fmt: skip
        except InvalidRngError as error:
            reason = str(error).partition(" (https")[0]
            raise ValueError(
                f"network {self.name!r} draws random numbers in evaluation, where networks must be "
                f"deterministic: {reason}; draw them only if its argument `train` is True"
            ) from error
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
    source: nn.Module
    syncs_stats: bool
    dtype: str


def parts(
    module: nn.Module, shape: Sequence[int], *, name: str, dtype: str = "float32", own: bool = False
) -> Parts:
    """Derive the arguments of `make_network` from a Linen module.

    Args:
      module: as for `from_linen`.
      shape: as for `from_linen`.
      name: as for `from_linen`.
      dtype: as for `from_linen`.
      own: a module of the user's, which may sow values.
    """
    call = type(module).__call__
    has_axis = "axis_name" in getattr(module, "__dataclass_fields__", {})
    shape = checked_example(shape, dtype)
    linen = Linen(module, shape, name, dtype, accepted(call, *_MODES))
    if own:
        linen = replace(linen, dropped=(*linen.dropped, *linen.sown()))
    taken = accepted(call, "tap") | {"key"} | ({"axis_name"} if has_axis else set())
    return {
        "init": linen.init,
        "apply": WithOptions(linen.apply, taken, name, "give its __call__ a `tap` argument"),
        "shape": shape,
        "name": name,
        "source": module,
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
      resized: `resized(width) -> Network`.
      adapted: `adapted(shape=..., classes=..., **options) -> Network`.
      symmetry: the permutations of hidden units that leave the function as it is, for
        `jt.connectivity.align`: a dict from the path of each leaf to one entry per axis (see
        `jaxticket.nn.symmetry`), or a function of the network that returns it.
      stages: the names of the residual blocks of each stage, such as `[["block_1_0",
        "block_1_1"]]`, for `jt.elastic`.

    Raises:
      ValueError: for an invalid shape, logits that are not [batch, classes], params that are
        not float32, random numbers in evaluation, statistics that change their shape.

    Warns:
      UserWarning: for leaves that look like kernels but have another name and are not pruned.
    """
    return make_network(
        **parts(module, shape, name=name, dtype=dtype, own=True),
        constructor="from_linen",
        prunable=prunable,
        output=output,
        resized=resized,
        adapted=adapted,
        symmetry=symmetry,
        stages=stages,
    )
