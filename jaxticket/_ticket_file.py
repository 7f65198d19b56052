"""Ticket files: safetensors with a checksum over arrays and metadata."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as serialized

from jaxticket import _files, _npz_ticket
from jaxticket._ticket_arrays import Malformed, part, unpacked_masks
from jaxticket.typing import Json

FORMAT = "jaxticket ticket 2"
_TEXTS = ("format", "sha256", "weights_sha256")
"""Entries of the metadata that are texts; all others are JSON."""


def write(
    path: Path,
    header: Json,
    arrays: Mapping[str, np.ndarray],
    *,
    weights_sha256: str | None = None,
) -> Path:
    """Write a ticket file, at once or not at all.

    Args:
      path: the file.
      header: what JSON can hold, by name.
      arrays: what `pack` gives, without the weights where they are drawn from a seed.
      weights_sha256: the digest of weights that are drawn.

    Raises:
      ValueError: for what JSON cannot hold.
    """
    texts = {"format": FORMAT, **{name: _json(value) for name, value in header.items()}}
    if weights_sha256 is not None:
        texts["weights_sha256"] = weights_sha256
    texts["sha256"] = digest(arrays, texts)
    ordered = {name: np.asarray(x, order="C") for name, x in arrays.items()}
    return _files.write_bytes(path, _in_order(serialized(ordered, texts)))


def read(path: Path) -> tuple[Json, dict[str, np.ndarray]]:
    """Read the header and the arrays of a ticket file, also of one of version 0.1.

    Raises:
      ValueError: for a file that is damaged or no ticket.
    """
    if not path.is_file():
        raise ValueError(
            f"`path` {str(path)!r} is no file; tickets lie in the `tickets` folder of a run"
        )
    with _files.on_disk(path) as local:
        old = _npz_ticket.is_npz(local)
        try:
            header, arrays = _npz_ticket.read(local) if old else _read_safetensors(local)
        except Exception as error:  # zipfile, json and safetensors raise many kinds
            raise damaged(path, error) from error
    wanted = _npz_ticket.FORMAT if old else FORMAT
    if not isinstance(header, dict) or header.get("format") != wanted:
        raise ValueError(
            f"`path` {str(path)!r} is no file of format {wanted!r}; save it with Ticket.save"
        )
    if old and header.get("sha256") != digest(arrays):
        raise damaged(path, "its checksum does not fit")
    if wrong := _wrong(header, arrays):
        raise damaged(path, wrong)
    return header, arrays


def about(path: str | os.PathLike[str]) -> Json:
    """Describe a ticket file: network, settings, seed, checksum, level and step."""
    header, arrays = read(_files.absolute(path, "path"))
    described = {name: value for name, value in header.items() if name != "keys"}
    return {**described, **{name: int(arrays[name]) for name in ("level", "step")}}


def layer_masks(path: str | os.PathLike[str]) -> dict[str, np.ndarray]:
    """Read the masks of a ticket file by layer, without its weights or its network.

    Files of version 0.1 also hold masks of layers that cannot be pruned.
    """
    try:
        return unpacked_masks(read(_files.absolute(path, "path"))[1])
    except Malformed as error:
        raise damaged(path, error) from error


def digest(arrays: Mapping[str, np.ndarray], texts: Mapping[str, str] | None = None) -> str:
    """Sha256 of named arrays, and of the metadata of a file but for the checksum itself."""
    found = hashlib.sha256()
    for name, text in sorted((texts or {}).items()):
        if name != "sha256":
            found.update(f"{name} {len(text)} {text}".encode())
    for name in sorted(arrays):
        x = np.ascontiguousarray(arrays[name])
        found.update(f"{name} {x.dtype.str} {x.shape}".encode())
        found.update(x.tobytes())
    return found.hexdigest()


def damaged(path: str | os.PathLike[str], error: Exception | str) -> ValueError:
    """The error of a file that holds no ticket, to be raised."""
    return ValueError(
        f"`path` {str(path)!r} is no ticket file or is damaged ({error}); save it again"
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
        if x.dtype.kind not in _npz_ticket.NUMBERS:
            raise Malformed(f"{name!r} is of type {x.dtype}")
    header = {name: x if name in _TEXTS else json.loads(x) for name, x in texts.items()}
    if header.get("format") == FORMAT and header.get("sha256") != digest(arrays, texts):
        raise Malformed("its checksum does not fit")
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
    elif not part(arrays, "kept"):
        return "it has neither weights nor a seed"
    keys = header.get("keys", {})
    parts = keys.values() if isinstance(keys, dict) else [None]
    for entries in parts:
        if not isinstance(entries, list) or not all(type(e) in (int, str) for e in entries):
            return "its keys are no lists of names and whole numbers"
    if any("/".join(map(str, entries)) != path for path, entries in keys.items()):
        return "its keys are not those of its paths"
    return ""
