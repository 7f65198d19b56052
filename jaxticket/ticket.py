"""A ticket, and its file: a mask and the weights it starts from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import json
import math
import os
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import jax
import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as serialized

from jaxticket import _files, _npz_ticket, _show, _tree, compaction, export, masks
from jaxticket.nn import flops
from jaxticket.random import stream
from jaxticket.typing import AnyArray, Json, Key, Mask, Network, Params, Stats, cached

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

_FORMAT = "jaxticket ticket 2"
_TEXTS = ("format", "sha256", "weights_sha256")
"""Entries of the metadata that are texts; all others are JSON."""
_COUNTED = 2**28
"""Entries of masks that a summary counts."""
_NUMBERS = "biuf"
"""Kinds of NumPy types that ticket files hold."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ticket:
    """A mask and the weights it starts from; a pytree.

    Stacked tickets have leading axes, such as [level, replica].

    Attributes:
      mask: tree of bools, which weights are kept.
      params: the weights at `step`, zero where the mask is False.
      stats: BatchNorm statistics at `step`.
      level: int32, how often the network was trained, pruned and rewound.
      step: int32, the step of the schedule at which training begins. Of tickets that were rewound
        it is the step of the weights; those that train with the whole schedule again, as under
        learning-rate rewinding and in other settings (`jt.transfer`), begin at 0.
    """

    mask: Mask
    params: Params
    stats: Stats
    level: AnyArray
    step: AnyArray

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        try:
            return _described(self)
        except Exception:  # a tree of something else: a ticket is a pytree, also of strings
            return _show.Summary(_show.record(self), brief=True)

    def replace(self, **changes: object) -> Ticket:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def masked(self) -> Ticket:
        """The ticket on the host, with weights of zero where the mask is False."""
        return self.replace(params=host_apply(self.mask, self.params))

    @property
    def density(self) -> float | np.ndarray:
        """The share of prunable weights that are kept; float64 [...] for stacked tickets."""
        lead = np.ndim(self.level)
        chosen = [np.asarray(m) for m in jax.tree.leaves(masks.known(self.mask))]
        kept = sum(m.sum(axis=tuple(range(lead, m.ndim)), dtype=np.int64) for m in chosen)
        found = np.asarray(kept) / sum(math.prod(m.shape[lead:]) for m in chosen)
        return found if lead else float(found)

    def to_numpy(self) -> dict[str, np.ndarray]:
        """Everything as named arrays: "params/PATH", "mask/PATH" and "stats/PATH".

        Weights are zero where the mask is False; layers that cannot be pruned have no mask.

        >>> import jaxticket as jt
        >>> net = jt.networks.lenet((2, 2, 1), 3, widths=(4,))
        >>> params, stats = net.init(jax.random.key(0))
        >>> sorted(Ticket(net.mask(), params, stats, np.int32(0), np.int32(0)).to_numpy())[:2]
        ['mask/dense_0/kernel', 'mask/dense_1/kernel']
        """
        own = self.masked()
        arrays = _tree.leaves(own.params, "params") | _tree.leaves(own.stats, "stats")
        arrays |= {f"mask/{path}": m for path, m in masks.items(own.mask)}
        return {name: np.array(x) for name, x in arrays.items()}

    def to_torch(
        self,
        net: Network,
        *,
        names: Mapping[str, str | tuple[str, export.Layout]] | None = None,
        with_masks: bool = False,
    ) -> dict[str, torch.Tensor]:
        """The state dict of the same network in PyTorch.

        Names are the paths with dots: "block_1_0/conv_0/kernel" is "block_1_0.conv_0.weight".
        Dense kernels are [out, in], convolutions [out, in, height, width], and after a flattened
        map or image the inputs are in PyTorch's order [channel, height, width]. A normalization has
        weight, bias, running_mean, running_var and num_batches_tracked.

        Args:
          net: the network.
          names: needed for networks of your own: from every path of params and statistics to a name
            (leaves called "kernel" are transposed), or to a pair of a name and a function that
            brings the array into its layout.
          with_masks: give "NAME_orig" and "NAME_mask" in the place of pruned weights, as
            `torch.nn.utils.prune` names them.

        Raises:
          ValueError: for stacked tickets, a network of other layers, and names that are missing.
          ImportError: where PyTorch is not installed.
        """
        own = self._of(net, "to_torch")
        return export.state_dict(
            net, own.mask, own.params, own.stats, names=names, masks=with_masks
        )

    def to_bcoo(self) -> Params:
        """The weights with `jax.experimental.sparse.BCOO` arrays where there is a mask.

        Each holds exactly the kept entries, in row-major order; products with it look as with the
        dense kernel, `x @ params["dense_0"]["kernel"]`. Other leaves are dense.

        Raises:
          ValueError: for stacked tickets.
        """
        own = self._single("to_bcoo")
        return export.bcoo(own.mask, own.params)

    def to_bcsr(self) -> Params:
        """The weights with `jax.experimental.sparse.BCSR` matrices where there is a mask.

        Raises:
          ValueError: for stacked tickets, and for pruned layers that are no matrices, such as
            convolutions.
        """
        own = self._single("to_bcsr")
        return export.bcsr(own.mask, own.params)

    def compact(self, net: Network) -> Compact:
        """A smaller dense network without dead units and channels, with the same outputs.

        A unit is dead where all weights that it feeds are zero, or where all that feed it are and
        its output is zero or can be added to the next layer's bias. Networks of `lenet`, `conv`,
        `vgg`, `resnet_cifar`, `resnet` and `wide_resnet`, and those of `jt.from_linen` with a
        `symmetry` (there, units that feed nothing). The outputs of evaluation mode are compared
        before this returns: they agree to 1e-5 of the largest logit.

        Args:
          net: the network of the ticket.

        Raises:
          ValueError: for stacked tickets and networks whose units are not known, naming why.

        >>> import jaxticket as jt
        >>> net = jt.networks.lenet((2, 2, 1), 3, widths=(4,))
        >>> params, stats = net.init(jax.random.key(0))
        >>> mask = net.mask()
        >>> mask["dense_0"]["kernel"][:, :3] = False
        >>> small = Ticket(mask, params, stats, np.int32(0), np.int32(0)).compact(net)
        >>> small.units, small.ticket.params["dense_1"]["kernel"].shape
        ({'dense_0': (1, 4)}, (1, 3))
        """
        own = self._of(net, "compact")
        small = compaction.compacted(net, own.mask, own.params, own.stats)
        ticket = own.replace(mask=small.mask, params=small.params, stats=small.stats)
        return Compact(small.net, ticket, net, own, small.units)

    def _single(self, call: str) -> Ticket:
        """The ticket on the host, masked, after a check that it is one."""
        check_ticket("ticket", self)
        if np.ndim(self.level):
            raise ValueError(
                f"`{call}` takes one ticket, this one is stacked {np.shape(self.level)}; take one "
                f"with runs.ticket(level, seed)"
            )
        return jax.tree.map(np.asarray, self).masked()

    def _of(self, net: Network, call: str) -> Ticket:
        """The ticket as `_single`, after a check that it is of a network."""
        own = self._single(call)
        check_ticket("ticket", own, net.shapes)
        return own

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        net: Network | None = None,
        seed: int | None = None,
        **about: object,
    ) -> Path:
        """Write one small safetensors file.

        It holds mask bits, the kept weights (or a seed), settings and a checksum.

        Tensors are "shape/PATH", "mask/PATH" of layers that can be pruned (bits, as by
        np.packbits), "kept/PATH" (the kept weights in order), "stats/PATH", "level" and "step". The
        metadata hold "net", "about" and "seed" as JSON.

        Args:
          path: the file, by custom NAME.safetensors; replaced at once or not at all.
          net: the network, whose config is recorded.
          seed: with `net`, and for a ticket at step 0 whose weights are `net.init` of this seed:
            stores the seed instead of the weights. The checksum of the weights is kept, so that
            loading on a machine that draws other numbers fails instead of giving another ticket.
          **about: anything that JSON can hold: data set, accuracy, settings.

        Raises:
          ValueError: for stacked tickets, a network of another tree, a seed that does not give
            these weights, what JSON cannot hold, and what could not be loaded again: masks that are
            not of bools, weights in bfloat16, a level or step that is no whole number.
        """
        check_ticket("ticket", self)
        if np.ndim(self.level):
            raise ValueError(
                f"`save` takes one ticket, this one is stacked {np.shape(self.level)}; "
                f"take one with jax.tree.map(lambda x: x[level, replica], tickets)"
            )
        header: Json = {
            "net": None if net is None else json.loads(net.config),
            "about": about,
            "seed": seed,
        }
        if keys := _whole_keys(self):
            header["keys"] = keys
        host = jax.tree.map(np.asarray, self).masked()
        if net is not None:
            like, _ = net.shapes
            _tree.same_structure("net", like, host.params)
        arrays = pack(host)
        texts = {"format": _FORMAT}
        if seed is not None:
            if net is None:
                raise ValueError("`seed` needs `net`, whose initializer it draws from")
            if not _same(_from_seed(net, seed, host.mask), host.params):
                raise ValueError(
                    f"`seed` {seed} does not give this ticket's weights; save it without a seed"
                )
            arrays = {name: x for name, x in arrays.items() if not name.startswith("kept/")}
            texts["weights_sha256"] = _digest(
                dict(zip(_tree.paths(host.params), jax.tree.leaves(host.params), strict=True))
            )
        texts |= {name: _json(value) for name, value in header.items()}
        texts["sha256"] = _digest(arrays, texts)
        arrays = {name: np.asarray(x, order="C") for name, x in arrays.items()}
        return _files.write_bytes(_files.absolute(path), _in_order(serialized(arrays, texts)))

    @staticmethod
    def load(
        path: str | os.PathLike[str], *, net: Network | None = None, fresh: Key | None = None
    ) -> Ticket:
        """Read a ticket file, also one of version 0.1 (.npz).

        Files of version 0.1 hold bools for all leaves. With `net`, those that it does not prune
        become None, as in new files.

        Args:
          path: the file.
          net: the network, for tickets stored by seed, for params that are not nested dicts, and
            for files of version 0.1.
          fresh: where `net` is another network than the ticket's, the key that draws the layers
            that do not fit, which are not pruned; a warning names them. None where all have to fit.

        Raises:
          ValueError: for a file that is damaged or no ticket, layers that do not fit, which are all
            named, a mask that prunes what the network does not prune, a network that none of the
            pruned layers fits, and weights that the seed no longer gives.
        """
        header, arrays = _read(_files.absolute(path))
        if header["seed"] is not None and net is None:
            raise ValueError(f"{path} stores a seed, not weights: pass `net` to rebuild them")
        if fresh is not None:
            if net is None:
                raise ValueError("`fresh` needs `net`, whose initializer it draws from")
            if header["seed"] is not None and json.loads(net.config) != header["net"]:
                raise ValueError(
                    f"{path} stores a seed of the network {header['net']}, not weights: load it "
                    f"with that network and save it without a seed first"
                )
        like = None if net is None else net.shapes
        drawn = None
        if fresh is not None and net is not None:
            drawn = (net.mask(), *_initial(net)(fresh))
        try:
            ticket = unpack(arrays, like=like, drawn=drawn, keys=header.get("keys", {}))
        except _Malformed as error:
            raise _damaged(Path(path), error) from error
        if net is not None:
            # what was excluded from pruning stays None
            dense = masks.map_with(lambda _, d: d, ticket.mask, net.mask())
            ticket = ticket.replace(
                mask=masks.conform(ticket.mask, dense, called=f"`path` {str(path)!r}")
            )
        if drawn is not None and net is not None:
            _tell_drawn(path, arrays, net)
        if header["seed"] is None:
            return ticket
        assert net is not None
        params = _from_seed(net, header["seed"], ticket.mask)
        if (
            _digest(dict(zip(_tree.paths(params), jax.tree.leaves(params), strict=True)))
            != header["weights_sha256"]
        ):
            raise ValueError(
                f"{path} stores seed {header['seed']}, but this machine draws other weights from "
                f"it "
                f"(another JAX version or network); save the ticket with its weights where it was "
                f"made"
            )
        return ticket.replace(params=params)


@dataclasses.dataclass(frozen=True, eq=False)
class Compact:
    """A ticket without its dead units and channels.

    Attributes:
      net: the smaller network.
      ticket: its weights, statistics and mask, which may still hold pruned weights.
      before: the network of the ticket as it was.
      whole: that ticket.
      units: name of a layer or block -> how many of its units or channels are left, of how many.
    """

    net: Network
    ticket: Ticket
    before: Network
    whole: Ticket
    units: Mapping[str, tuple[int, int]]

    __repr__ = _show.record

    @property
    def flops(self) -> tuple[float, float]:
        """Operations of the forward pass of one example, of this network and of that before."""
        return flops.forward(self.net), flops.forward(self.before)

    def seconds(self, batch: int = 256, *, repeats: int = 20) -> tuple[float, float]:
        """Measure the time of a forward pass on this machine, here and before, in seconds.

        Args:
          batch: examples of the pass.
          repeats: passes, of which the median counts; the two networks take turns.
        """
        x = jax.block_until_ready(self.before.noise(jax.random.key(0), batch))
        calls = []
        for net, own in ((self.net, self.ticket), (self.before, self.whole)):
            run = jax.jit(functools.partial(_logits, net))
            given = jax.device_put((own.params, own.stats))
            # compiles
            jax.block_until_ready(run(*given, x))
            calls.append(functools.partial(run, *given, x))
        took = np.empty((repeats, 2))
        for turn, place in itertools.product(range(repeats), range(2)):
            began = time.perf_counter()
            jax.block_until_ready(calls[place]())
            took[turn, place] = time.perf_counter() - began
        here, there = np.median(took, axis=0)
        return float(here), float(there)


def _logits(net: Network, params: Params, stats: Stats, x: jax.Array) -> jax.Array:
    return net.apply(params, stats, x, train=False)[0]


def _described(ticket: Ticket) -> _show.Summary:
    """Sum up tickets, stacked or not, whose masks are on this host and not too large to count."""
    lead = np.shape(ticket.level)
    leaves = [(path, np.asarray(leaf)) for path, leaf in masks.items(ticket.mask)]
    counted = sum(leaf.size for _, leaf in leaves) <= _COUNTED
    copies = math.prod(lead)
    rows, total, kept = [], 0, np.zeros(lead, np.int64)
    for path, leaf in leaves:
        shape = leaf.shape[len(lead) :]
        size, own = math.prod(shape), 0
        if counted:
            each = np.count_nonzero(leaf, axis=tuple(range(len(lead), leaf.ndim)))
            kept, own = kept + each, int(np.sum(each))
        total += size
        share = _show.percent(own / max(1, size * copies)) if counted else ""
        rows.append((path, _show.shape(shape), share))
    level, step = np.unique(np.asarray(ticket.level)), np.unique(np.asarray(ticket.step))
    densities = sorted({float(x) for x in np.ravel(kept) / max(1, total)})
    ends = dict.fromkeys(map(_show.percent, (densities[-1], densities[0]))) if counted else ()
    share = f"{total:,} prunable weights"
    if counted:
        share = f"{' to '.join(ends)} of {share}"
    begins = f"begins at step {_show.numbers(step)}"
    title = f"<Ticket of level {_show.numbers(level)}: {share}, {begins}>"
    if lead:
        title = f"<Tickets {lead} of levels {_show.numbers(level)}: {share}, {begins}>"
    return _show.Summary(title, (), ("layer", "shape", "density"), rows, brief=True)


def about(path: str | os.PathLike[str]) -> Json:
    """Describe a ticket file: network, settings, seed, checksum, level and step."""
    header, arrays = _read(_files.absolute(path))
    described = {name: value for name, value in header.items() if name != "keys"}
    return {**described, **{name: int(arrays[name]) for name in ("level", "step")}}


def layer_masks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the masks of a ticket file by layer, without its weights or its network.

    Files of version 0.1 also hold masks of layers that cannot be pruned.
    """
    try:
        return _masks(_read(_files.absolute(path))[1])
    except _Malformed as error:
        raise _damaged(Path(path), error) from error


def check_ticket(argument: str, ticket: Ticket, like: tuple[Params, Stats] | None = None) -> None:
    """Raise unless a ticket, stacked or not, is a mask and weights of one tree.

    A function and no check of the constructor, since trees of anything are mapped over tickets.

    Args:
      argument: what the message calls it.
      ticket: the ticket.
      like: params and statistics (or their shapes) of the network whose ticket it must be.

    Raises:
      ValueError: for masks that are not of bools, weights that are not of a floating type that
        files hold, leaves of other paths or shapes (a mask of shape [1, n] is not broadcast), and a
        level or step that is no whole number.
    """
    masks.require_bools(argument, ticket.mask, "Ticket(mask, params, stats, level, step)")
    masks.require_like(argument, ticket.mask, ticket.params)
    for path, w in zip(_tree.paths(ticket.params), jax.tree.leaves(ticket.params), strict=True):
        kind = getattr(w, "dtype", type(w).__name__)
        if getattr(kind, "kind", "") != "f":
            raise ValueError(
                f"`{argument}` has weights of type {kind} at {path!r}, which ticket files do not "
                f"hold; convert them to float32, which is exact"
            )
    for name in ("level", "step"):
        value = getattr(ticket, name)
        if np.asarray(value).dtype.kind not in "iu":
            raise ValueError(
                f"`{argument}` must have a whole number as its {name}, got {value!r}; pass "
                f"np.int32(0) where there is none"
            )
    if like is None:
        return
    lead = np.ndim(ticket.level)
    for own, wanted in ((ticket.params, like[0]), (ticket.stats, like[1])):
        ours = dict(zip(_tree.paths(own), jax.tree.leaves(own), strict=True))
        theirs = dict(zip(_tree.paths(wanted), jax.tree.leaves(wanted), strict=True))
        has = {path: np.shape(x)[lead:] for path, x in ours.items()}
        needs = {path: tuple(x.shape) for path, x in theirs.items()}
        odd = [path for path in dict.fromkeys((*has, *needs)) if has.get(path) != needs.get(path)]
        if odd:
            some = [f"{p} {has.get(p, 'none')} -> {needs.get(p, 'none')}" for p in odd]
            raise ValueError(
                f"`{argument}` does not fit the network: {'; '.join(some[:4])}; pass the network "
                f"of the ticket"
            )
        if jax.tree.structure(own) != jax.tree.structure(wanted):
            raise ValueError(
                f"`{argument}` has the layers of the network in other containers, such as a dict "
                f"for a list; load the ticket with its `net`"
            )


def _whole_keys(ticket: Ticket) -> dict[str, list[str | int]]:
    """The keys of the paths that hold whole numbers as keys of dicts.

    NNX makes such dicts of lists; the text alone would come back as another tree, in another order.
    """
    found = {}
    for tree in (ticket.params, ticket.stats):
        for path, _ in jax.tree_util.tree_leaves_with_path(tree):
            entries = [getattr(entry, "key", None) for entry in path]
            if any(type(entry) is int for entry in entries) and None not in entries:
                found["/".join(map(str, entries))] = entries
    return found


class _Malformed(ValueError):
    """Arrays that are no ticket."""


def _damaged(path: Path, error: Exception | str) -> ValueError:
    return ValueError(
        f"`path` {str(path)!r} is no ticket file or is damaged ({error}); save it again"
    )


def _tell_drawn(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], net: Network
) -> None:
    """Warn of the layers that were reinitialized.

    Raises:
      ValueError: where nothing that can be pruned is the ticket's.
    """
    like, lead = net.shapes[0], np.ndim(arrays["level"])
    leaves = zip(_tree.paths(like), jax.tree.leaves(like), strict=True)
    drawn = [name for name, x in leaves if tuple(arrays.get(f"shape/{name}", ()))[lead:] != x.shape]
    named = f"{', '.join(drawn[:8])}{', ...' if len(drawn) > 8 else ''}"
    chosen = zip(_tree.paths(like), jax.tree.leaves(net.prunable(like)), strict=True)
    if not any(prunable and name not in drawn for name, prunable in chosen):
        raise ValueError(
            f"`net` {net.config} has no prunable layer of the ticket in {str(path)!r}: all of it "
            f"would be a dense, reinitialized network ({named}); pass a network with layers of the "
            f"same names and shapes"
        )
    if drawn:
        warnings.warn(f"{path}: reinitialized and not pruned: {named}", stacklevel=3)


def host_apply(mask: Mask, tree: Params) -> Params:
    """`masks.apply` in NumPy."""
    return masks.map_with(
        lambda m, x: np.where(m, x, np.zeros_like(x)), mask, tree, other=lambda x: x
    )


def _json(value: object) -> str:
    def number(value: object) -> object:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{value!r}")

    try:
        return json.dumps(value, sort_keys=True, default=number)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`about` must be what JSON can hold, got {error}; turn it into numbers, texts, lists "
            f"and dicts"
        ) from error


@cached(16)
def _initial(net: Network) -> Callable[[Key], tuple[Params, Stats]]:
    return jax.jit(lambda key: net.init(stream(key, "init")))


def _from_seed(net: Network, seed: int, mask: Mask) -> Params:
    params, _ = _initial(net)(jax.random.key(seed))
    return host_apply(mask, jax.tree.map(np.asarray, params))


def drawn_exactly(net: Network, seed: int, ticket: Ticket) -> bool:
    """Whether a ticket may be saved as seed and bits.

    It may where its weights are those that the network draws from this seed, and every device draws
    them alike, which holds for signed constants and not for numbers that pass through a logarithm
    or a sine.
    """
    exact = json.loads(net.config).get("init") == "signed_constant"
    if not exact or net.given is not None or int(ticket.step) != 0:
        return False
    host = jax.tree.map(np.asarray, ticket)
    return _same(_from_seed(net, seed, host.mask), host_apply(host.mask, host.params))


def _same(a: Params, b: Params) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None) -> str:
    """Sha256 of named arrays, and of the metadata of a file but for the checksum itself."""
    digest = hashlib.sha256()
    for name, text in sorted((texts or {}).items()):
        if name != "sha256":
            digest.update(f"{name} {len(text)} {text}".encode())
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {x.dtype.str} {x.shape}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def pack(ticket: Ticket) -> dict[str, np.ndarray]:
    """A ticket, stacked or not, as named arrays.

    They are mask bits, kept weights in order, statistics and numbers.
    """
    arrays: dict[str, np.ndarray] = {
        "level": np.asarray(ticket.level),
        "step": np.asarray(ticket.step),
    }
    kept = {path: np.asarray(m) for path, m in masks.items(ticket.mask)}
    for path, w in _tree.leaves(ticket.params).items():
        w, m = np.asarray(w), kept.get(path)
        arrays[f"shape/{path}"] = np.asarray(w.shape, np.int64)
        if m is not None:
            arrays[f"mask/{path}"] = np.packbits(m.reshape(-1))
        arrays[f"kept/{path}"] = w.reshape(-1) if m is None else w[m]
    for path, x in zip(_tree.paths(ticket.stats), jax.tree.leaves(ticket.stats), strict=True):
        arrays[f"stats/{path}"] = np.asarray(x)
    return arrays


def _part(arrays: Mapping[str, np.ndarray], kind: str) -> dict[str, np.ndarray]:
    """The arrays of one kind by path."""
    begin = f"{kind}/"
    return {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}


def _masks(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Unpack the masks by path, after a check that shapes and bits belong together.

    Layers that cannot be pruned have none.

    Raises:
      _Malformed: where they do not; nothing larger than the bits is made before.
    """
    shapes, bits, weights = (_part(arrays, kind) for kind in ("shape", "mask", "kept"))
    if not bits or bits.keys() - shapes.keys():
        odd = sorted(bits.keys() - shapes.keys())
        raise _Malformed(f"it needs masks, and a shape for each of them, which {odd[:3]} have not")
    found = {}
    for path, stated in shapes.items():
        if stated.ndim != 1 or stated.dtype.kind not in "iu" or (stated < 0).any():
            raise _Malformed(f"the shape of {path!r} is {stated.tolist()!r:.60}")
        shape = tuple(stated.tolist())
        # in python's whole numbers, which do not overflow
        size = math.prod(shape)
        if path not in bits:
            if path in weights and weights[path].size != size:
                raise _Malformed(f"it needs a mask or all {size} weights of {path!r}")
            continue
        packed = bits[path]
        if packed.dtype != np.uint8 or packed.shape != ((size + 7) // 8,):
            raise _Malformed(
                f"the mask of {path!r} has {packed.dtype} bits of shape {packed.shape} where "
                f"{shape} needs {(size + 7) // 8} bytes"
            )
        found[path] = np.unpackbits(packed, count=size).astype(bool).reshape(shape)
    return found


def unpack(
    arrays: Mapping[str, np.ndarray],
    *,
    like: tuple[Params, Stats] | None = None,
    drawn: tuple[Mask, Params, Stats] | None = None,
    keys: Mapping[str, Sequence[str | int]] | None = None,
) -> Ticket:
    """Invert `pack`.

    Args:
      arrays: what `pack` gave.
      like: (params, stats) with the structure of the trees; nested dicts if None.
      drawn: (mask, params, stats), which stand where the ticket's layers do not fit.
      keys: those of paths that are not the texts between their slashes.

    Raises:
      ValueError: where the paths are not those of `like` and nothing is drawn, and for arrays that
        do not belong together.
    """
    kept, params, stats = _masks(arrays), {}, _part(arrays, "stats")
    weights, shapes = _part(arrays, "kept"), _part(arrays, "shape")
    if weights and weights.keys() != shapes.keys():
        odd = sorted(weights.keys() ^ shapes.keys())
        raise _Malformed(f"it needs a shape and weights for each layer, which {odd[:3]} have not")
    for path, stated in shapes.items():
        params[path] = _unpacked(path, tuple(stated.tolist()), kept.get(path), weights.get(path))
    mask = {path: kept.get(path) for path in shapes}
    if like is None:
        trees = [
            _nested(mask, keys or {}),
            _nested(params, keys or {}),
            _nested(stats, keys or {}),
        ]
    else:
        # stacked tickets have leading axes
        lead = np.ndim(arrays["level"])
        new = (None, None, None) if drawn is None else drawn
        trees = [
            _masks_as(mask, params, like[0], lead, new[0]),
            _as("params", params, like[0], lead, new[1]),
            _as("stats", stats, like[1], lead, new[2]),
        ]
    return Ticket(*trees, level=arrays["level"], step=arrays["step"])


def _unpacked(
    path: str, shape: tuple[int, ...], mask: np.ndarray | None, kept: np.ndarray | None
) -> np.ndarray:
    """The weights of a layer, zeros where a file holds a seed in their place."""
    count = math.prod(shape) if mask is None else np.count_nonzero(mask)
    if kept is not None and (kept.shape != (count,) or kept.dtype.kind != "f"):
        raise _Malformed(
            f"{path!r} has weights of {kept.dtype} {kept.shape} where its mask keeps {count}"
        )
    if mask is None and kept is not None:
        return kept.reshape(shape)
    try:
        # no memory for a shape that nothing in the file is as large as
        weights = np.broadcast_to(np.float32(0), shape)
    except ValueError as error:
        raise _Malformed(f"the shape of {path!r} is {shape!r:.60}") from error
    if kept is not None:
        weights = np.zeros(shape, kept.dtype)
        weights[mask] = kept
    return weights


def _masks_as(
    masks: Mapping[str, np.ndarray | None],
    params: Mapping[str, np.ndarray],
    like: Params,
    lead: int,
    drawn: Mask | None,
) -> Mask:
    """The masks of the layers that fit, and those of `drawn` for the others."""
    others = [None] * len(_tree.paths(like))
    if drawn is not None:
        others = jax.tree.leaves(drawn, is_leaf=_tree.is_none)
    found = [
        masks[name] if name in params and params[name].shape[lead:] == tuple(x.shape) else other
        for (name, x), other in zip(_tree.leaves(like).items(), others, strict=True)
    ]
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _as(
    what: str,
    values: Mapping[str, np.ndarray],
    like: Params,
    lead: int,
    drawn: Params | None = None,
) -> Params:
    """A tree like another one; with something drawn in the place of what does not fit."""
    names, odd, found = _tree.paths(like), [], []
    others = [None] * len(names) if drawn is None else jax.tree.leaves(drawn)
    for name, x, other in zip(names, jax.tree.leaves(like), others, strict=True):
        own = values.get(name)
        tail = None if own is None else own.shape[lead:]
        if tail != tuple(x.shape):
            odd.append(
                f"{name} {tuple(x.shape)} (the ticket has {'none' if tail is None else tail})"
            )
        found.append(own if tail == tuple(x.shape) else np.asarray(other))
    odd += [f"{name} none (the ticket has it)" for name in values if name not in names]
    if odd and drawn is None:
        raise ValueError(
            f"`net` has other {what} than the ticket: {'; '.join(odd)}; pass the ticket's network, "
            f"or `fresh`, a key, to take what fits and draw the rest"
        )
    return jax.tree.unflatten(jax.tree.structure(like), found)


def _nested(
    values: Mapping[str, np.ndarray | None], keys: Mapping[str, Sequence[str | int]]
) -> Params:
    result: dict = {}
    for path, x in values.items():
        *parents, last = keys.get(path, path.split("/"))
        at = result
        for parent in parents:
            at = at.setdefault(parent, {})
            if not isinstance(at, dict):
                break
        if not isinstance(at, dict) or last in at:
            raise _Malformed(f"{path!r} lies below or above another leaf")
        at[last] = x
    return result


def _read(path: Path) -> tuple[Json, dict[str, np.ndarray]]:
    if not path.is_file():
        raise ValueError(
            f"`path` {str(path)!r} is no file; tickets lie in the `tickets` folder of a run"
        )
    old = _npz_ticket.is_npz(path)
    try:
        header, arrays = _npz_ticket.read(path) if old else _read_safetensors(path)
    except Exception as error:  # zipfile, json and safetensors raise many kinds
        raise _damaged(path, error) from error
    wanted = _npz_ticket.FORMAT if old else _FORMAT
    if not isinstance(header, dict) or header.get("format") != wanted:
        raise ValueError(
            f"`path` {str(path)!r} is no file of format {wanted!r}; save it with Ticket.save"
        )
    if old and header.get("sha256") != _digest(arrays):
        raise _damaged(path, "its checksum does not fit")
    if wrong := _wrong(header, arrays):
        raise _damaged(path, wrong)
    return header, arrays


def _in_order(file: bytes) -> bytes:
    """The bytes of a safetensors file with its metadata sorted.

    Safetensors writes them in another order each time, and files of equal tickets are equal.
    """
    end = 8 + int.from_bytes(file[:8], "little")
    header = json.loads(file[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    # tensors begin at a multiple of eight bytes
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + file[end:]


def _read_safetensors(path: Path) -> tuple[Json, dict[str, np.ndarray]]:
    """Read the header and the arrays of a file, whose checksum covers both.

    Safetensors takes no more memory than the file is long: it checks all shapes and offsets against
    the number of bytes first.
    """
    with safe_open(path, framework="np") as file:
        texts = file.metadata() or {}
        arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}
    for name, x in arrays.items():
        if x.dtype.kind not in _NUMBERS:
            raise _Malformed(f"{name!r} is of type {x.dtype}")
    header = {name: x if name in _TEXTS else json.loads(x) for name, x in texts.items()}
    if header.get("format") == _FORMAT and header.get("sha256") != _digest(arrays, texts):
        raise _Malformed("its checksum does not fit")
    return header, arrays


def _wrong(header: Json, arrays: dict[str, np.ndarray]) -> str:
    """What is wrong with a header, or with the arrays that every ticket has; nothing if ""."""
    for name in ("level", "step"):
        value = arrays.get(name)
        if value is None or value.ndim or value.dtype.kind not in "iu":
            return f"it must say one whole number as its {name}"
    for name, kinds in (("net", (dict, type(None))), ("about", dict)):
        if not isinstance(header.get(name), kinds):
            return f"its {name!r} is {header.get(name)!r:.60}"
    seed = header.get("seed")
    if seed is not None:
        if type(seed) is not int or not 0 <= seed < 2**32:
            return f"its seed is {seed!r:.60}"
        if not isinstance(header.get("weights_sha256"), str):
            return "it has a seed and no checksum of the weights"
    elif not _part(arrays, "kept"):
        return "it has neither weights nor a seed"
    keys = header.get("keys", {})
    parts = keys.values() if isinstance(keys, dict) else [None]
    for entries in parts:
        if not isinstance(entries, list) or not all(type(e) in (int, str) for e in entries):
            return "its keys are no lists of names and whole numbers"
    if any("/".join(map(str, entries)) != path for path, entries in keys.items()):
        return "its keys are not those of its paths"
    return ""
