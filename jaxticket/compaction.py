"""Smaller dense networks: units and channels that do nothing are taken out.

A unit is dead where all weights that it feeds are zero, or where all weights that feed it are. In
the second case its output is a constant. If that is zero the unit goes; if not, it is added to the
bias of the next layer where that is exact (dense layers, and convolutions of one pixel), and
otherwise the unit stays: the zeros around an image are no constant.

Which weights belong to a unit says the symmetry of the network (`jaxticket.nn.symmetry`).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import time
from collections.abc import Callable, Mapping
from typing import Generic, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _check, _show, _tree
from jaxticket.data.arrays import Data
from jaxticket.engine.metrics import normalization, normalized
from jaxticket.labels import living, right
from jaxticket.nn import flops
from jaxticket.nn.features import with_features
from jaxticket.nn.symmetry import Places, places
from jaxticket.typing import AnyArray, Mask, Network, Params, Stats

EXAMPLES = 8
"""Random examples on which constants are found and the result is compared."""
TOLERANCE = 1e-5
"""Of logits, relative to the largest of them or to 1."""

Arrays = dict[str, np.ndarray]
Forward = Callable[..., tuple[jax.Array, Stats]]
"""`apply(params, stats, x, train=False) -> (logits, stats)`."""
Evaluated = tuple[Forward, Params, Stats]
"""A network with its weights, as an evaluation calls it."""


class _Weights(Protocol):
    """What is measured of a ticket."""

    @property
    def params(self) -> Params: ...
    @property
    def stats(self) -> Stats: ...


WeightsT = TypeVar("WeightsT", bound=_Weights)


class Small(NamedTuple):
    """A smaller network with the same outputs.

    Attributes:
      net: the network.
      mask, params, stats: of it, host arrays.
      units: name of the layer or block -> how many of its units or channels are left, of how many.
    """

    net: Network
    mask: Mask
    params: Params
    stats: Stats
    units: dict[str, tuple[int, int]]


def compacted(net: Network, mask: Mask, params: Params, stats: Stats) -> Small:
    """Take the dead units and channels out of a network.

    Args:
      net: the network.
      mask: of one ticket.
      params: its weights, zero where the mask is False.
      stats: its statistics.

    Raises:
      ValueError: for networks whose units are not known, or that are not made of Linen layers.
    """
    constructor = json.loads(net.config)["constructor"]
    if constructor in ("from_nnx", "from_functions"):
        raise ValueError(
            f"`net` of {constructor!r} has layers of fixed sizes; `compact` makes networks of this "
            f"library and of jt.from_linen smaller"
        )
    try:
        along, units = places(net)
    except ValueError as error:
        raise ValueError(
            f"`net`: `compact` needs to know which weights belong to a unit: {error}"
        ) from None
    work = _Work(net, along, units, params, stats, known=constructor != "from_linen")
    while work.pass_over():
        pass
    work.keep_some()
    return _sliced(work, mask)


class _Work:
    """A network from which units are taken: their weights are set to zero, until it is sliced."""

    def __init__(
        self,
        net: Network,
        along: Mapping[str, tuple[Places, ...]],
        units: Mapping[str, int],
        params: Params,
        stats: Stats,
        *,
        known: bool,
    ) -> None:
        self.net, self.along, self.known = net, along, known
        self.trees = params, stats
        self.params: Arrays = {k: np.array(x) for k, x in _tree.leaves(params).items()}
        self.stats: Arrays = {k: np.array(x) for k, x in _tree.leaves(stats).items()}
        self.names = sorted(units, key=_tree.natural)
        self.gone = {name: np.zeros(units[name], bool) for name in self.names}
        shared = [axis for axes in along.values() for axis in axes if len(axis) > 1]
        # a sum of channels and padded ones: the padding would move
        self.fixed = {name for axis in shared for name in axis}
        self.x = np.asarray(net.noise(jax.random.key(0), EXAMPLES))

        def look(params: Params, stats: Stats, x: jax.Array) -> dict[str, jax.Array]:
            seen: dict[str, jax.Array] = {}

            def tap(name: str, x: jax.Array) -> jax.Array:
                seen[name] = x
                return x

            net.apply(params, stats, x, train=False, tap=tap)
            return seen

        self.look = jax.jit(look)

    def kernels(self, name: str, *, outputs: bool) -> list[tuple[str, int, np.ndarray]]:
        """Path, axis and places of a permutation along the outputs or the inputs of kernels."""
        found = []
        for path, x in self.params.items():
            for axis, own in enumerate(self.along[path]):
                if x.ndim > 1 and name in own and (axis == x.ndim - 1) == outputs:
                    found.append((path, axis, own[name]))
        return found

    def vectors(self, name: str) -> list[tuple[str, np.ndarray]]:
        """Path and places of a permutation along vectors of the params."""
        return [
            (path, self.along[path][0][name])
            for path, x in self.params.items()
            if x.ndim == 1 and name in self.along[path][0]
        ]

    def pass_over(self) -> bool:
        """Take out the units that are dead now, and tell whether there were any."""
        found = False
        for name in self.names:
            if name in self.fixed:
                continue
            unused = self._without(name, outputs=False) & ~self.gone[name]
            found |= self._take(name, unused)
        if not self.known or not self.net.tapped:
            return found
        values = self._values()
        for name in self.names:
            if name in self.fixed:
                continue
            constant = self._without(name, outputs=True) & ~self.gone[name]
            layers = self._layers(name, values)
            if not constant.any() or layers is None:
                continue
            outputs = np.stack([values[layer] for layer in layers])
            same = (np.ptp(outputs, axis=1) == 0).all(axis=0)
            zero = same & (outputs == 0).all(axis=(0, 1))
            found |= self._take(name, constant & zero)
            rest = constant & same & ~zero
            if len(layers) == 1 and rest.any() and self._fold(name, rest, outputs[0, 0]):
                found |= self._take(name, rest)
        return found

    def _without(self, name: str, *, outputs: bool) -> np.ndarray:
        """Units without a weight other than zero in all kernels that make (or take) them."""
        kernels = self.kernels(name, outputs=outputs)
        idle = np.full(len(self.gone[name]), bool(kernels))
        for path, axis, at in kernels:
            rows = np.moveaxis(self.params[path], axis, 0)
            empty = np.logical_not(np.any(rows.reshape(len(rows), -1), axis=1))
            idle &= empty[at].all(axis=1)
        return idle

    def _take(self, name: str, units: np.ndarray) -> bool:
        """Set all weights of some units to zero."""
        if not units.any():
            return False
        self.gone[name] |= units
        for outputs in (True, False):
            for path, axis, at in self.kernels(name, outputs=outputs):
                np.moveaxis(self.params[path], axis, 0)[at[units].reshape(-1)] = 0
        for path, at in self.vectors(name):
            self.params[path][at[units].reshape(-1)] = 0
        return True

    def _network(self) -> tuple[Params, Stats]:
        params, stats = self.trees
        return _tree.unflatten(self.params, params), _tree.unflatten(self.stats, stats)

    def _values(self) -> Arrays:
        """What every tap sees, [example and pixel, unit], by its name."""
        params, stats = self._network()
        seen = self.look(params, stats, jnp.asarray(self.x))
        return {name: np.asarray(x).reshape(-1, x.shape[-1]) for name, x in seen.items()}

    def _layers(self, name: str, values: Arrays) -> list[str] | None:
        """The layers that have a unit of a permutation as their output; None if some is not seen.

        What is normalized before a convolution is a layer too.
        """
        paths = [path for path, _, _ in self.kernels(name, outputs=True)]
        paths += [path for path, _ in self.vectors(name)]
        found: list[str] = []
        for path in paths:
            layer = path.rpartition("/")[0]
            layer = layer if layer in values else layer.rpartition("/")[0]
            if layer not in values or values[layer].shape[-1] != len(self.gone[name]):
                return None
            found += [layer] if layer not in found else []
        return found

    def _fold(self, name: str, units: np.ndarray, values: np.ndarray) -> bool:
        """Add what constant units give to the biases after them, if that is exact everywhere."""
        added = []
        for path, axis, at in self.kernels(name, outputs=False):
            kernel, layer = self.params[path], path.rpartition("/")[0]
            pixels = kernel.shape[:-2]
            mean = next((p for p in self.stats if p.endswith(f"/{layer}/norm/mean")), None)
            # a convolution of more pixels sees zeros around the image; the mean of a normalization
            # takes the place of a bias
            bias = f"{layer}/bias" if f"{layer}/bias" in self.params else None
            if any(n != 1 for n in pixels) or axis != kernel.ndim - 2 or (bias or mean) is None:
                return False
            rows = np.moveaxis(kernel, axis, 0)[at[units]].astype(np.float64)
            each = rows.reshape(*at[units].shape, -1).sum(axis=1)
            added.append((bias, mean, values[units].astype(np.float64) @ each))
        for bias, mean, more in added:
            if bias is not None:
                self.params[bias] = (self.params[bias] + more).astype(self.params[bias].dtype)
            elif mean is not None:
                self.stats[mean] = (self.stats[mean] - more).astype(self.stats[mean].dtype)
        return bool(added)

    def keep_some(self) -> None:
        """Bring units back where a layer would have none, or a block would look like another.

        Their weights are zero, so that nothing changes.
        """
        for gone in self.gone.values():
            if gone.all():
                gone[0] = False
        for path, x in self.params.items():
            if "shortcut" not in path or x.ndim < 2 or x.shape[-2] == x.shape[-1]:
                continue
            ends = [next(iter(axis)) for axis in self.along[path][-2:] if len(axis) == 1]
            if len(ends) == 2 and len({int((~self.gone[name]).sum()) for name in ends}) == 1:
                # a projection is there because input and output differ
                name = max(ends, key=lambda name: int(self.gone[name].sum()))
                self.gone[name][np.argmax(self.gone[name])] = False


def _sliced(work: _Work, mask: Mask) -> Small:
    """The network without the units that are gone."""

    def cut(path: str, x: np.ndarray) -> np.ndarray:
        for axis, along in enumerate(work.along[path]):
            stay = np.ones(x.shape[axis], bool)
            for name, at in along.items():
                stay[at[work.gone[name]].reshape(-1)] = False
            x = np.compress(stay, x, axis)
        return x

    params, stats = work.trees
    small = {path: cut(path, x) for path, x in work.params.items()}
    kept = {
        path: None if m is None else cut(path, np.asarray(m))
        for path, m in _tree.leaves(mask, is_leaf=_tree.is_none).items()
    }
    features = {
        path.rpartition("/")[0]: x.shape[-1]
        for path, x in small.items()
        if x.ndim > 1 and (work.known or x.shape[-1] != work.params[path].shape[-1])
    }
    if json.loads(work.net.config)["constructor"] == "wide_resnet":
        # its blocks compare their input with their own features
        for layer in sorted(features, key=_tree.natural):
            if layer.rpartition("/")[2].startswith("conv_"):
                features |= {layer.rpartition("/")[0]: features[layer]}
    net = with_features(work.net, features)
    found = (
        _tree.unflatten(small, params),
        _tree.unflatten({path: cut(path, x) for path, x in work.stats.items()}, stats),
    )
    _compare(work, net, found)
    units = {name: (int((~gone).sum()), len(gone)) for name, gone in sorted(work.gone.items())}
    structure = jax.tree.structure(mask, is_leaf=_tree.is_none)
    return Small(net, jax.tree.unflatten(structure, list(kept.values())), *found, units)


def _compare(work: _Work, net: Network, found: tuple[Params, Stats]) -> None:
    """Raise unless the smaller network is one of its module and gives the same logits."""
    for part, ours, theirs in zip(("params", "stats"), found, net.shapes, strict=True):
        own, wanted = (
            {path: tuple(x.shape) for path, x in _tree.leaves(tree).items()}
            for tree in (ours, theirs)
        )
        odd = [path for path in own if own[path] != wanted.get(path)]
        if odd:
            raise ValueError(
                f"`net`: its layer {odd[0]!r} ({part}) does not follow the number of features of "
                f"the layers: {own[odd[0]]} where the module has {wanted.get(odd[0])}; `compact` "
                f"needs layers of Linen with `features`, such as nn.Dense and nn.Conv"
            )
    apart = difference((work.net.apply, *work.trees), (net.apply, *found), work.x)
    if not apart <= TOLERANCE:
        raise ValueError(
            f"`net` without its dead units gives other logits (by {apart:.2g} of the largest): its "
            f"`symmetry` does not describe it, or it is of a kind that `compact` does not know"
        )


def difference(before: Evaluated, after: Evaluated, x: AnyArray) -> float:
    """The largest difference of the logits of two networks, relative to the largest logit or 1."""

    def logits(apply: Forward, params: Params, stats: Stats) -> np.ndarray:
        run = jax.jit(lambda params, stats, x: apply(params, stats, x, train=False)[0])
        with jax.default_matmul_precision("highest"):
            return np.asarray(run(params, stats, jnp.asarray(x)), np.float64)

    wanted, found = logits(*before), logits(*after)
    return float(np.abs(wanted - found).max() / max(1.0, np.abs(wanted).max()))


@dataclasses.dataclass(frozen=True, eq=False)
class Compact(Generic[WeightsT]):
    """A ticket without its dead units and channels.

    Attributes:
      net: the smaller network.
      ticket: its weights, statistics and mask, which may still hold pruned weights.
      before: the network of the ticket as it was.
      whole: that ticket.
      units: name of a layer or block -> how many of its units or channels are left, of how many.
    """

    net: Network
    ticket: WeightsT
    before: Network
    whole: WeightsT
    units: Mapping[str, tuple[int, int]]

    __repr__ = _show.record

    @property
    def flops(self) -> tuple[float, float]:
        """Operations of the forward pass of one example, of this network and of that before."""
        return flops.forward(self.net), flops.forward(self.before)

    @property
    def evaluated(self) -> Evaluated:
        """What `logits`, `accuracy` and `seconds` call: an `apply`, its params and statistics."""
        return self.net.apply, self.ticket.params, self.ticket.stats

    @functools.cached_property
    def _held(self) -> Evaluated:
        """The same with its weights on the device."""
        apply, *weights = self.evaluated
        params, stats = jax.device_put(tuple(weights))
        return apply, params, stats

    def logits(self, x: AnyArray) -> jax.Array:
        """Compute the logits of evaluation mode, [batch, ..., classes].

        Args:
          x: examples as networks see them, [batch, ...]: images standardized as data do.
        """
        apply, params, stats = self._held
        return _logits(apply, params, stats, jnp.asarray(x))

    def accuracy(self, data: Data, split: str = "test", *, batch: int = 1000) -> float:
        """Measure the share of right answers on a split.

        Args:
          data: in memory.
          split: its name.
          batch: examples of one forward pass.

        Raises:
          ValueError: for data in files, and splits that there are not.
        """
        _check.instance("data", data, Data, "data in memory, such as jt.data.load('digits')")
        part = data.splits[_check.one_of("split", split, tuple(data.splits))]
        batch, by = _check.whole("batch", batch, 1), normalization(data)
        total = number = 0.0
        for begin in range(0, len(part), batch):
            x, y = (jnp.asarray(a[begin : begin + batch]) for a in (part.x, part.y))
            there = living(y)
            share = right(self.logits(normalized(x, by, "float32")), y)
            total += float(jnp.sum(jnp.where(there, share.astype(jnp.float32), 0)))
            number += float(jnp.sum(there))
        return total / number

    def seconds(self, batch: int = 256, *, repeats: int = 20) -> tuple[float, float]:
        """Measure the time of a forward pass on this machine, here and before, in seconds.

        Args:
          batch: examples of the pass.
          repeats: passes, of which the median counts; the two networks take turns.
        """
        x = jax.block_until_ready(self.before.noise(jax.random.key(0), batch))
        whole = jax.device_put((self.whole.params, self.whole.stats))
        calls = []
        for apply, params, stats in (self._held, (self.before.apply, *whole)):
            call = functools.partial(_logits, apply, params, stats, x)
            # compiles
            jax.block_until_ready(call())
            calls.append(call)
        took = np.empty((repeats, 2))
        for turn, place in itertools.product(range(repeats), range(2)):
            began = time.perf_counter()
            jax.block_until_ready(calls[place]())
            took[turn, place] = time.perf_counter() - began
        here, there = np.median(took, axis=0)
        return float(here), float(there)


@functools.partial(jax.jit, static_argnums=0)
def _logits(apply: Forward, params: Params, stats: Stats, x: jax.Array) -> jax.Array:
    return apply(params, stats, x, train=False)[0]
