"""Evaluations and stacked tickets in files, from which `jt.load` makes runs again."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import safe_open
from safetensors.numpy import save as serialized

from jaxticket import _files, _identity, _tree
from jaxticket._ticket_arrays import pack
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.results import EvaluationLog
from jaxticket.settings import Training
from jaxticket.ticket import Ticket, unpack
from jaxticket.typing import Json, Network, Params, Stats

FORMAT = "jaxticket stacked tickets 1"
VERSION = 1
"""Of records; those of another are not read."""
RUNS, INSTABILITY, VERDICT = "runs", "instability", "verdict"
"""Names of the files of a folder: NAME.json says what it is, NAME.npz holds arrays."""

_FIELDS = ("seeds", "density", "steps", "wanted", "values", "diverged", "dilation")


def setting(
    net: Network, data: Data | Stream, training: Training
) -> tuple[Json, dict[str, np.ndarray]]:
    """A network, data and training as JSON and arrays, the first entries of a record."""
    given, arrays = net.given, {}
    if given is not None:
        arrays |= _tree.leaves(given.params, "given/params")
        arrays |= _tree.leaves(given.stats, "given/stats")
    about = {
        "format": VERSION,
        "net": _identity.network(net),
        "given_seeds": None if given is None else given.seeds,
        "data": {
            "name": data.name,
            "fingerprint": data.fingerprint,
            "classes": data.classes,
            "shape": data.shape,
            "labels": {"shape": data.labels.shape, "dtype": data.labels.dtype},
            "streamed": data.streamed,
            "splits": {name: len(split) for name, split in data.splits.items()},
            "about": data.about,
        },
        "training": _identity.recorded(training),
    }
    return about, arrays


def write(folder: Path, name: str, record: Json, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a record and its arrays; the record last, so that who finds it finds all the rest."""
    # that of fewer seeds or levels does not belong to the new arrays
    (folder / f"{name}.json").unlink(missing_ok=True)
    _files.write_arrays(folder / f"{name}.npz", arrays)
    text = json.dumps({"format": VERSION, **record}, indent=1, default=_plain)
    _files.write_text(folder / f"{name}.json", text + "\n")


def _plain(value: object) -> object:
    """A number of NumPy as one of Python, for JSON; texts of anything else."""
    return value.item() if isinstance(value, np.generic) else str(value)


def packed_logs(logs: Sequence[EvaluationLog]) -> tuple[list[Json], dict[str, np.ndarray]]:
    """Evaluations as JSON and arrays."""
    about, arrays = [], {}
    for number, log in enumerate(logs):
        begin = f"log-{number:04d}"
        about.append({"level": int(log.level), "branch": log.branch})
        arrays |= {f"{begin}/{name}": np.asarray(getattr(log, name)) for name in _FIELDS}
        for kind, measured in (("looked", log.looked), ("monitored", log.monitored)):
            arrays |= {f"{begin}/{kind}/{name}": np.asarray(x) for name, x in measured.items()}
    return about, arrays


def unpacked_logs(
    about: Sequence[Json], arrays: Mapping[str, np.ndarray]
) -> tuple[EvaluationLog, ...]:
    """Invert `packed_logs`."""

    def below(begin: str) -> dict[str, np.ndarray]:
        return {name.removeprefix(begin): x for name, x in arrays.items() if name.startswith(begin)}

    return tuple(
        EvaluationLog(
            level=own["level"],
            branch=own["branch"],
            looked=below(f"log-{number:04d}/looked/"),
            monitored=below(f"log-{number:04d}/monitored/"),
            **{name: arrays[f"log-{number:04d}/{name}"] for name in _FIELDS},
        )
        for number, own in enumerate(about)
    )


def write_stacked(path: Path, ticket: Ticket) -> None:
    """Write tickets stacked over [replica]: mask bits, kept weights, statistics, a checksum."""
    arrays = {name: np.asarray(x, order="C") for name, x in pack(ticket).items()}
    texts = {"format": FORMAT, "sha256": _tree.digest(arrays)}
    _files.write_bytes(path, serialized(arrays, texts))


def read_stacked(path: Path, like: tuple[Params, Stats]) -> Ticket:
    """Read what `write_stacked` wrote.

    Args:
      path: the file.
      like: params and statistics of the network, or their shapes.

    Raises:
      ValueError: for a file that is missing or damaged.
    """
    try:
        with _files.on_disk(path) as local, safe_open(local, framework="np") as file:
            texts = file.metadata() or {}
            arrays = {name: np.array(file.get_tensor(name)) for name in file.keys()}
    except Exception as error:  # safetensors raises kinds of its own
        raise ValueError(f"{path} is missing or damaged ({error})") from error
    if texts.get("format") != FORMAT or texts.get("sha256") != _tree.digest(arrays):
        raise ValueError(f"{path} is damaged: its checksum does not fit")
    return unpack(arrays, like=like)
