"""Networks from Flax NNX modules."""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax
from jax import Array

from jaxticket._check import flag
from jaxticket.nn.drop_in import Noted, conv_general_dilated
from jaxticket.nn.network import (
    MODES,
    Outputs,
    Selection,
    WithOptions,
    accepted,
    asking_for_tokens,
    make_network,
    modes_of,
    report_convolutions,
)
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats, SymmetryOf

# Flax imports NNX when it is first used, and so does this module
if TYPE_CHECKING:
    from flax import nnx


def _within(tree: Stats, like: Stats) -> Stats:
    """Select the entries of nested dicts that `like` has too."""
    selected = {}
    for name, inner in like.items():
        if name in tree:
            value = tree[name]
            if isinstance(value, Mapping) and isinstance(inner, Mapping):
                value = _within(value, inner)
            selected[name] = value
    return selected


Seen = Callable[[str, object, object], None]
"""`seen(path, input, output)`, called after every call of a layer."""
_SEEN: contextvars.ContextVar[Seen | None] = contextvars.ContextVar("seen", default=None)


@contextlib.contextmanager
def watching(seen: Seen) -> Iterator[None]:
    """Show what the layers of NNX modules are given and give, while they are traced inside."""
    token = _SEEN.set(seen)
    try:
        yield
    finally:
        _SEEN.reset(token)


def _shown(model: nnx.Module, seen: Seen) -> None:
    """Make every layer of a module, which lives as long as one call, show its calls."""
    from flax import nnx

    for path, layer in list(nnx.iter_modules(model)):
        if path and callable(layer):
            layer.__class__ = _showing(type(layer), "/".join(map(str, path)), seen)


def _showing(kind: type, path: str, seen: Seen) -> type:
    """The class of a layer, whose calls are shown."""

    def call(self: object, *args: object, **options: object) -> object:
        # methods are looked up in the class, not in the layer
        out = kind.__call__(self, *args, **options)
        seen(path, args[0] if args else None, out)
        return out

    return type(kind.__name__, (kind,), {"__call__": call})


@dataclass(frozen=True, eq=False)
class Nnx:
    """An NNX module as `init` and `apply` of a network; a class, so that networks pickle.

    Attributes:
      make: `make(rngs) -> module`.
      outputs: selects the logits of what the module returns; None where it returns them alone.
      fast: whether `nnx.Conv` computes by the fast convolution.
      tree: whether the module's code runs in NNX's tree mode, in which it was built.
    """

    make: Callable[[nnx.Rngs], nnx.Module]
    outputs: Outputs | None = None
    fast: bool = False
    tree: bool = False

    @staticmethod
    def split(model: nnx.Module) -> tuple[Params, Stats]:
        """Split a module into weights and statistics, without random states and sown values."""
        from flax import nnx

        _, params, _, rest = nnx.split(model, nnx.Param, (nnx.RngState, nnx.Intermediate), ...)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(rest)

    @contextlib.contextmanager
    def mode(self) -> Iterator[None]:
        """Run NNX in the mode in which the module was built, whichever is set when it is traced."""
        from flax import nnx

        if self.tree:
            with nnx.set_graph_mode(False):
                yield
        elif hasattr(nnx, "set_graph_mode"):
            with nnx.set_graph_mode(True):
                yield
        else:
            # before NNX had another mode
            yield

    def init(self, key: Key) -> tuple[Params, Stats]:
        """Initialize params and statistics."""
        from flax import nnx

        rngs = nnx.Rngs(
            default=stream(key, "default"),
            params=stream(key, "params"),
            dropout=stream(key, "dropout"),
        )
        with self.mode():
            return self.split(self.make(rngs))

    def apply(
        self, params: Params, stats: Stats, x: Array, *, train: bool, key: Key | None = None
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats)."""
        from flax import nnx

        # the initial values are all overwritten, so that the compiler drops their computation
        dropout = 0 if key is None else key
        default = 0 if key is None else stream(key, "default")
        with self.mode():
            model = self.make(nnx.Rngs(default=default, params=0, dropout=dropout))
            nnx.update(model, params)
            if jax.tree.leaves(stats):
                nnx.update(model, stats)
            (model.train if train else model.eval)()
            if self.fast:
                for _, layer in _convolutions(model):
                    layer.conv_general_dilated = conv_general_dilated
            if seen := _SEEN.get():
                _shown(model, seen)
            logits = self.called(model, x, train)
            if self.outputs is not None:
                logits = self.outputs(logits)
            return logits, _within(self.split(model)[1], stats) if train else stats

    @staticmethod
    def called(model: nnx.Module, x: Array, train: bool) -> Array:
        """What the module returns, given the mode where it takes one as an argument."""
        assert callable(model), "construction has called the module"
        return model(x, **modes_of(accepted(type(model).__call__, *MODES), train))


def _convolutions(model: nnx.Module) -> list[tuple[str, nnx.Conv]]:
    """The convolutions that are the compiler's, with their paths."""
    from flax import nnx

    return [
        ("/".join(map(str, path)), layer)
        for path, layer in nnx.iter_modules(model)
        if isinstance(layer, nnx.Conv)
        and layer.conv_general_dilated is jax.lax.conv_general_dilated
    ]


def _report(nnx_of: Nnx, shape: Sequence[int], name: str, dtype: str) -> None:
    """Say which convolutions of a module stay the compiler's."""
    from flax import nnx

    seen: list[tuple[str, str]] = []

    def run(x: Array) -> None:
        model = nnx_of.make(nnx.Rngs(0))
        model.eval()
        for path, layer in _convolutions(model):
            layer.conv_general_dilated = Noted(path, seen)
        nnx_of.called(model, x, False)

    with nnx_of.mode():
        jax.eval_shape(run, jax.ShapeDtypeStruct((1, *shape), jax.numpy.dtype(dtype)))
    report_convolutions(seen, name)


def from_nnx(
    make: Callable[[nnx.Rngs], nnx.Module],
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
    """Make a network of a Flax NNX module.

    Args:
      make: `make(rngs) -> flax.nnx.Module`, called with `nnx.Rngs(...)`: the class itself where it
        takes `rngs` alone, and no module that is built already. The module maps x to logits, and
        may also take `train` (or `training`, `deterministic`, `use_running_average`).
      shape: shape of one example.
      name: the network's name in run folders; networks are distinguished by their code too.
      prunable: as for `from_linen`.
      output: as for `from_linen`.
      dtype: as for `from_linen`.
      resized: as for `from_linen`.
      adapted: as for `from_linen`.
      symmetry: as for `from_linen`.
      stages: as for `from_linen`.
      outputs: as for `from_linen`.
      master_weights: as for `from_linen`.
      fast_conv: as for `from_linen`, of `nnx.Conv`.

    The module is built and called in the mode of NNX that is set when this function is called:
    graph mode, where modules and variables may be shared, or tree mode
    (`nnx.set_graph_mode(False)`), where NNX refuses them. Shared variables are one leaf. The
    module's train and eval modes are set by `train()` and `eval()`. In training every rng
    stream draws from the replica's key of the step. Sown values are ignored. Its BatchNorm cannot
    be given the mesh axis: a module with statistics is refused on a mesh with a data axis above 1.

    Raises, Warns: as `from_linen`.
    """
    from flax import nnx

    if isinstance(make, nnx.Module) or not callable(make):
        raise ValueError(
            f"`make` must be a function of nnx.Rngs that builds the module, such as the class or "
            f"lambda rngs: MyModule(32, rngs=rngs), got {_named(make)}"
        )
    tree = hasattr(nnx, "set_graph_mode") and not nnx.set_graph_mode.current_value()
    nnx_of = Nnx(make, outputs, flag("fast_conv", fast_conv), tree)
    with asking_for_tokens(name, dtype):
        if fast_conv:
            _report(nnx_of, shape, name, dtype)
        return make_network(
            nnx_of.init,
            WithOptions(nnx_of.apply, frozenset({"key"}), name, "NNX modules cannot be tapped"),
            shape,
            constructor="from_nnx",
            name=name,
            source=make if outputs is None else (make, outputs),
            syncs_stats=False,
            prunable=prunable,
            output=output,
            dtype=dtype,
            resized=resized,
            adapted=adapted,
            symmetry=symmetry,
            stages=stages,
            master_weights=master_weights,
            marks={"fast_conv": True} if fast_conv else None,
        )


def _named(make: object) -> str:
    return f"a {type(make).__name__} that is built already"
