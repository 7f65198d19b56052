"""A ticket: a mask and the weights it starts from."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, overload

import jax
import numpy as np

from jaxticket import (
    _check,
    _drawn,
    _files,
    _show,
    _ticket_arrays,
    _ticket_file,
    _tree,
    export,
    masks,
)
from jaxticket._ticket_arrays import pack as pack
from jaxticket._ticket_file import about as about
from jaxticket._ticket_file import layer_masks as layer_masks
from jaxticket.compaction import Compact, compacted
from jaxticket.masks import host_apply as host_apply
from jaxticket.sparse_format import FORMATS, SparseCompact, sparse
from jaxticket.typing import AnyArray, Json, Key, Mask, Network, Params, Stats

if TYPE_CHECKING:
    import torch  # pyright: ignore[reportMissingImports]

_COUNTED = 2**28
"""Entries of masks that a summary counts."""


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

    @overload
    def compact(
        self, net: Network, *, format: Literal["dense"] = "dense", densest: None = None
    ) -> Compact[Ticket]: ...

    @overload
    def compact(
        self, net: Network, *, format: Literal["bcsr"], densest: float | None = None
    ) -> SparseCompact[Ticket]: ...

    def compact(
        self, net: Network, *, format: str = "dense", densest: float | None = None
    ) -> Compact[Ticket]:
        """A smaller network without dead units and channels, with the same outputs.

        A unit is dead where all weights that it feeds are zero, or where all that feed it are and
        its output is zero or can be added to the next layer's bias. Networks of `lenet`, `conv`,
        `vgg`, `resnet_cifar`, `resnet` and `wide_resnet`, and those of `jt.from_linen` with a
        `symmetry` (there, units that feed nothing). The outputs of evaluation mode are compared
        before this returns: they agree to 1e-5 of the largest logit.

        Args:
          net: the network of the ticket.
          format: "dense", or "bcsr": the kernels of dense layers that are sparse then are
            multiplied as sparse matrices, which is faster on a CPU from about 95% sparsity on
            (docs/guides/export.md has the times).
          densest: of "bcsr": layers of which a greater share is left stay dense, as convolutions
            do; None for 0.1.

        Returns:
          The smaller network with `logits(x)`, `accuracy(data)`, `seconds()` and `flops`.

        Raises:
          ValueError: for stacked tickets and networks whose units are not known, naming why; for
            "bcsr", where no layer is sparse enough.

        >>> import jaxticket as jt
        >>> net = jt.networks.lenet((2, 2, 1), 3, widths=(4,))
        >>> params, stats = net.init(jax.random.key(0))
        >>> mask = net.mask()
        >>> mask["dense_0"]["kernel"][:, :3] = False
        >>> small = Ticket(mask, params, stats, np.int32(0), np.int32(0)).compact(net)
        >>> small.units, small.ticket.params["dense_1"]["kernel"].shape
        ({'dense_0': (1, 4)}, (1, 3))
        """
        _check.one_of("format", format, FORMATS)
        if format == "dense" and densest is not None:
            raise ValueError(
                f"`densest` is {densest!r}, which only format='bcsr' knows; leave it out"
            )
        own = self._of(net, "compact")
        small = compacted(net, own.mask, own.params, own.stats)
        ticket = own.replace(mask=small.mask, params=small.params, stats=small.stats)
        compact = Compact(small.net, ticket, net, own, small.units)
        return compact if format == "dense" else sparse(compact, densest)

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
        if keys := _ticket_arrays.whole_keys(self):
            header["keys"] = keys
        host = jax.tree.map(np.asarray, self).masked()
        if net is not None:
            like, _ = net.shapes
            _tree.same_structure("net", like, host.params)
        arrays, weights = pack(host), None
        if seed is not None:
            if net is None:
                raise ValueError("`seed` needs `net`, whose initializer it draws from")
            if not _drawn.same(_drawn.from_seed(net, seed, host.mask), host.params):
                raise ValueError(
                    f"`seed` {seed} does not give this ticket's weights; save it without a seed"
                )
            arrays = {name: x for name, x in arrays.items() if not name.startswith("kept/")}
            weights = _ticket_file.digest(_tree.leaves(host.params))
        file = _files.absolute(path, "path")
        return _ticket_file.write(file, header, arrays, weights_sha256=weights)

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
        header, arrays = _ticket_file.read(_files.absolute(path, "path"))
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
            drawn = (net.mask(), *_drawn.initial(net)(fresh))
        try:
            ticket = unpack(arrays, like=like, drawn=drawn, keys=header.get("keys", {}))
        except _ticket_arrays.Malformed as error:
            raise _ticket_file.damaged(path, error) from error
        if net is not None:
            # what was excluded from pruning stays None
            dense = masks.map_with(lambda _, d: d, ticket.mask, net.mask())
            ticket = ticket.replace(
                mask=masks.conform(ticket.mask, dense, called=f"`path` {str(path)!r}")
            )
        if drawn is not None and net is not None:
            _drawn.tell_drawn(path, arrays, net)
        if header["seed"] is None:
            return ticket
        assert net is not None
        params = _drawn.from_seed(net, header["seed"], ticket.mask)
        if _ticket_file.digest(_tree.leaves(params)) != header["weights_sha256"]:
            raise ValueError(
                f"{path} stores seed {header['seed']}, but this machine draws other weights from "
                f"it (another JAX version or network); save the ticket with its weights where it "
                f"was made"
            )
        return ticket.replace(params=params)


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


def unpack(
    arrays: Mapping[str, np.ndarray],
    *,
    like: tuple[Params, Stats] | None = None,
    drawn: tuple[Mask, Params, Stats] | None = None,
    keys: Mapping[str, Sequence[str | int]] | None = None,
) -> Ticket:
    """Invert `pack`; Args, Raises: as of `jaxticket._ticket_arrays.unpack`."""
    return Ticket(*_ticket_arrays.unpack(arrays, like=like, drawn=drawn, keys=keys))
