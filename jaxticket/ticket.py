"""A ticket, and its file: a mask and the weights it starts from."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxticket import files, trees
from jaxticket.rng import stream
from jaxticket.types import Array, Key, Mask, Network, Params, Stats

_FORMAT = "jaxticket ticket 1"


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Ticket:
    """A mask and the weights it starts from; a pytree. Stacked tickets have leading axes, such as
    [level, replica].

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
    level: Array
    step: Array

    def replace(self, **changes: Any) -> Ticket:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        net: Network | None = None,
        seed: int | None = None,
        **about: Any,
    ) -> Path:
        """Writes one small file: mask bits, the kept weights (or a seed), settings and a checksum.

        Args:
          path: where to; replaced at once or not at all.
          net: the network, whose config is recorded.
          seed: with `net`, and for a ticket at step 0 whose weights are `net.init` of this seed:
            stores the seed instead of the weights. The checksum of the weights is kept, so that
            loading on a machine that draws other numbers fails instead of giving another ticket.
          **about: anything that JSON can hold: data set, accuracy, settings.

        Raises:
          ValueError: for stacked tickets, a network of another tree, a seed that does not give
            these weights, and what JSON cannot hold.
        """
        if np.ndim(self.level):
            raise ValueError(
                f"`save` takes one ticket, this one is stacked {np.shape(self.level)}; "
                f"take one with jax.tree.map(lambda x: x[level, replica], tickets)"
            )
        header: dict[str, Any] = {
            "format": _FORMAT,
            "net": None if net is None else json.loads(net.config),
        }
        header |= {"about": about, "seed": seed}
        host = jax.tree.map(np.asarray, self)
        host = host.replace(params=host_apply(host.mask, host.params))
        if net is not None:
            like, _ = _shapes(net)
            trees.same_structure("net", like, host.params)
        arrays = pack(host)
        if seed is not None:
            if net is None:
                raise ValueError("`seed` needs `net`, whose initializer it draws from")
            if not _same(_from_seed(net, seed, host.mask), host.params):
                raise ValueError(
                    f"`seed` {seed} does not give this ticket's weights; save it without a seed"
                )
            arrays = {name: x for name, x in arrays.items() if not name.startswith("kept/")}
            header["weights_sha256"] = _digest(
                dict(zip(trees.paths(host.params), jax.tree.leaves(host.params), strict=True))
            )
        header["sha256"] = _digest(arrays)
        arrays["header"] = np.frombuffer(_json(header).encode(), np.uint8)
        return write_arrays(files.absolute(path), arrays)

    @staticmethod
    def load(
        path: str | os.PathLike[str], *, net: Network | None = None, fresh: Key | None = None
    ) -> Ticket:
        """Reads a ticket file.

        Args:
          path: the file.
          net: the network, for tickets stored by seed, and for params that are not nested dicts.
          fresh: where `net` is another network than the ticket's, the key that draws the layers
            that do not fit, which are not pruned; a warning names them. None where all have to fit.

        Raises:
          ValueError: for a file that is damaged or no ticket, layers that do not fit, which are all
            named, a network that none of the pruned layers fits, and weights that the seed no
            longer gives.
        """
        header, arrays = _read(files.absolute(path))
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
        like = None if net is None else _shapes(net)
        drawn = None if fresh is None or net is None else _initial(net)(fresh)
        ticket = unpack(arrays, like=like, drawn=drawn)
        if drawn is not None and net is not None:
            _tell_drawn(path, arrays, net)
        if header["seed"] is None:
            return ticket
        assert net is not None
        params = _from_seed(net, header["seed"], ticket.mask)
        if (
            _digest(dict(zip(trees.paths(params), jax.tree.leaves(params), strict=True)))
            != header["weights_sha256"]
        ):
            raise ValueError(
                f"{path} stores seed {header['seed']}, but this machine draws other weights from "
                f"it "
                f"(another JAX version or network); save the ticket with its weights where it was "
                f"made"
            )
        return ticket.replace(params=params)


def about(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What a ticket file says of itself: network, settings, seed, checksum, level and step."""
    header, arrays = _read(files.absolute(path))
    return {**header, **{name: int(arrays[name]) for name in ("level", "step")}}


def layer_masks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """The masks of a ticket file by layer, without its weights or its network."""
    ticket = unpack(_read(files.absolute(path))[1])
    return dict(zip(trees.paths(ticket.mask), jax.tree.leaves(ticket.mask), strict=True))


def _tell_drawn(
    path: str | os.PathLike[str], arrays: Mapping[str, np.ndarray], net: Network
) -> None:
    """Warns of the layers that were drawn anew.

    Raises:
      ValueError: where nothing that can be pruned is the ticket's.
    """
    like, lead = _shapes(net)[0], np.ndim(arrays["level"])
    leaves = zip(trees.paths(like), jax.tree.leaves(like), strict=True)
    drawn = [name for name, x in leaves if tuple(arrays.get(f"shape/{name}", ()))[lead:] != x.shape]
    named = f"{', '.join(drawn[:8])}{', ...' if len(drawn) > 8 else ''}"
    chosen = zip(trees.paths(like), jax.tree.leaves(net.prunable(like)), strict=True)
    if not any(prunable and name not in drawn for name, prunable in chosen):
        raise ValueError(
            f"`net` {net.config} has no prunable layer of the ticket in {str(path)!r}: all of it "
            f"would be a dense network drawn anew ({named}); pass a network with layers of the "
            f"same names and shapes"
        )
    if drawn:
        warnings.warn(f"{path}: drawn anew and not pruned: {named}", stacklevel=3)


@functools.lru_cache(maxsize=16)
def _shapes(net: Network) -> tuple[Params, Stats]:
    """Shapes of params and statistics; a run saves hundreds of tickets of one network."""
    return jax.eval_shape(net.init, jax.random.key(0))


def host_apply(mask: Mask, tree: Params) -> Params:
    """`masks.apply` in NumPy."""
    return jax.tree.map(lambda m, x: np.where(m, x, np.zeros_like(x)), mask, tree)


def _json(header: dict[str, Any]) -> str:
    def number(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        raise TypeError(f"{value!r}")

    try:
        return json.dumps(header, sort_keys=True, default=number)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`about` must be what JSON can hold, got {error}; turn it into numbers, texts, lists "
            f"and dicts"
        ) from error


@functools.lru_cache(maxsize=16)
def _initial(net: Network) -> Any:
    return jax.jit(lambda key: net.init(stream(key, "init")))


def _from_seed(net: Network, seed: int, mask: Mask) -> Params:
    params, _ = _initial(net)(jax.random.key(seed))
    return host_apply(mask, jax.tree.map(np.asarray, params))


def drawn_exactly(net: Network, seed: int, ticket: Ticket) -> bool:
    """Whether a ticket may be saved as seed and bits: its weights are those that the network draws
    from this seed, and every device draws them alike, which signed constants are and numbers that
    pass through a logarithm or a sine are not.
    """
    exact = json.loads(net.config).get("init") == "signed_constant"
    if not exact or int(ticket.step) != 0:
        return False
    host = jax.tree.map(np.asarray, ticket)
    return _same(_from_seed(net, seed, host.mask), host_apply(host.mask, host.params))


def _same(a: Any, b: Any) -> bool:
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def _digest(arrays: Mapping[str, np.ndarray]) -> str:
    digest = hashlib.sha256()
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        digest.update(f"{name} {x.dtype.str} {x.shape}".encode())
        digest.update(x.tobytes())
    return digest.hexdigest()


def pack(ticket: Ticket) -> dict[str, np.ndarray]:
    """A ticket, stacked or not, as named arrays: mask bits, kept weights in order, statistics,
    numbers.
    """
    arrays: dict[str, np.ndarray] = {
        "level": np.asarray(ticket.level),
        "step": np.asarray(ticket.step),
    }
    leaves = zip(
        trees.paths(ticket.mask),
        jax.tree.leaves(ticket.mask),
        jax.tree.leaves(ticket.params),
        strict=True,
    )
    for path, m, w in leaves:
        m, w = np.asarray(m), np.asarray(w)
        arrays[f"shape/{path}"] = np.asarray(m.shape, np.int64)
        arrays[f"mask/{path}"] = np.packbits(m.reshape(-1))
        arrays[f"kept/{path}"] = w[m]
    for path, x in zip(trees.paths(ticket.stats), jax.tree.leaves(ticket.stats), strict=True):
        arrays[f"stats/{path}"] = np.asarray(x)
    return arrays


def unpack(
    arrays: Mapping[str, np.ndarray],
    *,
    like: tuple[Params, Stats] | None = None,
    drawn: tuple[Params, Stats] | None = None,
) -> Ticket:
    """The inverse of `pack`; `like` = (params, stats) gives the trees' structure, nested dicts if
    None, and `drawn` what stands, unpruned, where they do not fit.

    Raises:
      ValueError: where the paths are not those of `like` and nothing is drawn.
    """
    mask: dict[str, np.ndarray] = {}
    params: dict[str, np.ndarray] = {}
    stats = {
        name.removeprefix("stats/"): x for name, x in arrays.items() if name.startswith("stats/")
    }
    for name, shape in arrays.items():
        if name.startswith("shape/"):
            path = name.removeprefix("shape/")
            m = (
                np.unpackbits(arrays[f"mask/{path}"], count=int(np.prod(shape)))
                .astype(bool)
                .reshape(shape)
            )
            kept = arrays.get(f"kept/{path}", np.zeros(np.count_nonzero(m), np.float32))
            w = np.zeros(m.shape, kept.dtype)
            w[m] = kept
            mask[path], params[path] = m, w
    if like is None:
        trees_of = _nested(mask), _nested(params), _nested(stats)
    else:
        new: Any = (None, None, None)
        if drawn is not None:
            new = (jax.tree.map(lambda x: np.ones(x.shape, bool), drawn[0]), *drawn)
        # stacked tickets have leading axes
        lead = np.ndim(arrays["level"])
        trees_of = (
            _as("mask", mask, like[0], lead, new[0]),
            _as("params", params, like[0], lead, new[1]),
            _as("stats", stats, like[1], lead, new[2]),
        )
    return Ticket(*trees_of, level=arrays["level"], step=arrays["step"])  # type: ignore[arg-type]


def _as(what: str, values: dict[str, np.ndarray], like: Any, lead: int, drawn: Any = None) -> Any:
    names, odd, found = trees.paths(like), [], []
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


def _nested(values: dict[str, np.ndarray]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for path, x in values.items():
        *parents, last = path.split("/")
        at = result
        for parent in parents:
            at = at.setdefault(parent, {})
        at[last] = x
    return result


def write_arrays(path: Path, arrays: Mapping[str, np.ndarray]) -> Path:
    """Writes named arrays as .npz: complete or not at all, also when the power fails."""
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    np.savez(buffer, **dict(arrays))  # type: ignore[arg-type]
    with files.replacing(path) as temporary:
        temporary.write_bytes(buffer.getbuffer())
    return path


def _read(path: Path) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    if not path.is_file():
        raise ValueError(
            f"`path` {str(path)!r} is no file; tickets lie in the `tickets` folder of a run"
        )
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(arrays.pop("header").tobytes())
    except Exception as error:  # numpy and zipfile raise many kinds for files that are damaged
        raise ValueError(
            f"`path` {str(path)!r} is no ticket file or is damaged ({error}); save it again"
        ) from error
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise ValueError(
            f"`path` {str(path)!r} is no file of format {_FORMAT!r}; save it with Ticket.save"
        )
    if header.get("sha256") != _digest(arrays):
        raise ValueError(
            f"`path` {str(path)!r} is damaged: its checksum does not fit; save it again"
        )
    return header, arrays
