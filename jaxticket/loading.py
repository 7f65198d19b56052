"""`jt.load`: results from their folder, without the arguments that they were made with."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, TypeVar

import jax
import numpy as np

from jaxticket import _files, _identity, _saved, _ticket_file, _tree, nn, results
from jaxticket import data as data_module
from jaxticket._check import instance, shown
from jaxticket._ticket_arrays import Malformed, part
from jaxticket.analysis.verdict import Verdict
from jaxticket.connectivity.origins import Start
from jaxticket.connectivity.result import Instability
from jaxticket.data.absent import absent
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.judged import ACCURACY
from jaxticket.labels import Labels
from jaxticket.nn.absent import Absent
from jaxticket.nn.absent import absent as absent_network
from jaxticket.pruning_settings import PruningSettings
from jaxticket.runs import Runs
from jaxticket.settings import Training
from jaxticket.sparsify.early_pruning import BySteps
from jaxticket.ticket import Ticket, unpack
from jaxticket.typing import Json, Network

T = TypeVar("T")
_SETTINGS = "settings.json"


class Given(NamedTuple):
    """What a user passed with a folder, as the arguments of `load`."""

    net: Network | None = None
    data: Data | Stream | None = None
    training: Training | None = None
    pruning: PruningSettings | None = None


def load(
    folder: str | os.PathLike[str],
    *,
    net: Network | None = None,
    data: Data | Stream | None = None,
    training: Training | None = None,
    pruning: PruningSettings | None = None,
) -> Runs | BySteps | Instability | Verdict:
    """Read a finished run from its folder; nothing is trained.

    Networks of this library and data sets of `jt.DATASETS` are made from what the folder recorded;
    other objects have to be passed. If a data set is not on this machine, tables and tickets are
    read with a warning, and calls that need its examples raise an error.

    Args:
      folder: that of `find_tickets`, `prune_at`, `search`, `run_strategy`, `sparse_train`,
        `branch`, `transfer`, `instability` or `verdict`.
      net: the network, which is needed where it was made of a module or functions of your own, but
        not by verdicts, which have tables alone.
      data: the data, which are needed for examples where they were made by your own code.
      training: the training, which is needed where it holds code of your own.
      pruning: how tickets were found, which is needed where it holds code of your own.

    Returns:
      What the function returned: `Runs`; runs by step, of `prune_at` at several steps; an
      `Instability` or a `Verdict`.

    Raises:
      ValueError: for a folder without a finished run, damaged files, objects that have to be passed
        (they are named), and objects other than those that the run was made with.

    >>> load("no/folder")
    Traceback (most recent call last):
    ValueError: `folder` 'no/folder' is no folder; pass that of a run
    """
    return _read_folder(folder, _Given(net, data, training, pruning))


def load_recorded(
    folder: str | os.PathLike[str], given: Given | None = None
) -> Runs | BySteps | Instability | Verdict:
    """As `load`, for tables and masks alone: networks of your own code need not be passed.

    In their place stands what was recorded of them, which computes nothing. Weights that are stored
    as a seed, from which such a network draws them, are nan. There is no warning where the data are
    not on this machine. Whether the runs in which the masks of a transfer were found have changed
    since is not checked.

    Args:
      folder: as for `load`.
      given: what the user passed with it; None for nothing.

    Raises:
      ValueError: as `load`.
    """
    return _read_folder(folder, _Given(*(given or Given()), recorded=True))


def _read_folder(
    folder: str | os.PathLike[str], given: _Given
) -> Runs | BySteps | Instability | Verdict:
    if not (isinstance(folder, (str, os.PathLike)) and str(folder)):
        raise ValueError(f"`folder` must be the path of a run's folder, got {shown(folder)}")
    path = _files.absolute(folder)
    if not path.is_dir():
        raise ValueError(f"`folder` {str(folder)!r} is no folder; pass that of a run")
    if (path / f"{_saved.INSTABILITY}.json").exists():
        return _instability(path, given)
    if (path / f"{_saved.VERDICT}.json").exists():
        return _verdict(path, given)
    steps = sorted(
        (int(below.parent.name.removeprefix("step-")), below.parent)
        for below in path.glob(f"step-*/{_saved.RUNS}.json")
    )
    if not (path / f"{_saved.RUNS}.json").exists() and steps:
        found = {step: _runs(below, given) for step, below in steps}
        return BySteps(found, next(iter(found.values())).training.steps)
    return _runs(path, given)


class _Given:
    """What a user passed with the folder, and whether a record may stand for a network."""

    def __init__(
        self,
        net: Network | None,
        data: Data | Stream | None,
        training: Training | None,
        pruning: PruningSettings | None,
        *,
        recorded: bool = False,
    ) -> None:
        if net is not None:
            instance("net", net, Network, "a network, or None")
        if training is not None:
            instance("training", training, Training, "a jt.Training, or None")
        if pruning is not None:
            instance("pruning", pruning, PruningSettings, "settings such as jt.Pruning, or None")
        if data is not None and not isinstance(data, (Data, Stream)):
            raise ValueError(
                f"`data` must be a data set or a stream, or None, got {type(data).__name__}"
            )
        self.net, self.data, self.training, self.pruning = net, data, training, pruning
        self.recorded = recorded


def _runs(path: Path, given: _Given) -> Runs:
    record, arrays = _read(path, _saved.RUNS)
    net, data, training = _setting(path, record, arrays, given)
    pruning = _settings(path, "pruning", record["pruning"], given.pruning)
    seeds, branch = tuple(record["seeds"]), record["branch"]
    tickets = {level: _stacked(path, net, branch, level, seeds) for level in record["levels"]}
    like = net.shapes
    origin = tickets[0] if record["origin"] == "dense" else None
    mesh = parallel.check_mesh(None)
    try:
        if origin is None:
            origin = _saved.read_stacked(path / "origin.safetensors", like)
        final = {
            (own["branch"], own["level"], own["dilation"]): _saved.read_stacked(
                path / own["file"], like
            )
            for own in record["final"]
        }
        at = {
            (own["branch"], own["level"], own["dilation"], own["step"]): _saved.read_stacked(
                path / own["file"], like
            )
            for own in record.get("at", ())
        }
    except ValueError as error:
        raise ValueError(f"`folder` {str(path)!r}: {error}; {_AGAIN}") from error
    return Runs(
        net=net,
        data=data,
        training=training,
        pruning=pruning,
        seeds=seeds,
        branch=branch,
        histories=_saved.unpacked_logs(record["logs"], arrays),
        by_level=tickets,
        origin=origin,
        costs=tuple(record["costs"]),
        folder=path,
        mesh=mesh,
        size=parallel.block_size(len(seeds), mesh, None),
        traces=tuple(record["traces"]),
        found_in=_source(path, record["found_in"], given),
        moved=record["moved"],
        lost={int(level): np.asarray(lost, bool) for level, lost in record["lost"].items()},
        final=final,
        at=at,
    )


_AGAIN = "run the same call with this folder again, which reads what is there and finishes it"


def _read(path: Path, name: str) -> tuple[Json, dict[str, np.ndarray]]:
    """The record of a folder and the arrays that belong to it."""
    there = path / f"{name}.json"
    if not there.exists():
        if not (path / _SETTINGS).exists():
            raise ValueError(f"`folder` {str(path)!r} is no folder of a run; pass that of a run")
        raise ValueError(
            f"`folder` {str(path)!r} has no finished run (no {there.name}); one was begun there: "
            f"{_AGAIN}"
        )
    try:
        record = json.loads(there.read_text(encoding="utf-8"))
        arrays = _files.read_arrays(path / f"{name}.npz")
    except Exception as error:  # json, numpy and zipfile raise many kinds
        raise ValueError(
            f"`folder` {str(path)!r} is damaged ({name}.json, {name}.npz: {error}); {_AGAIN}"
        ) from error
    if not isinstance(record, dict) or record.get("format") != _saved.VERSION:
        raise ValueError(
            f"`folder` {str(path)!r} was written by another version of jaxticket; {_AGAIN}"
        )
    return record, arrays


def _setting(
    path: Path, record: Json, arrays: Mapping[str, np.ndarray], given: _Given
) -> tuple[Network, Data | Stream, Training]:
    net = _network(path, record, arrays, given)
    data = _data(path, record["data"], given)
    return net, data, _settings(path, "training", record["training"], given.training)


def _instability(path: Path, given: _Given) -> Instability:
    record, arrays = _read(path, _saved.INSTABILITY)
    net, data, training = _setting(path, record, arrays, given)
    kind = "arrays/"
    return Instability(
        net=net,
        data=data,
        training=training,
        seeds=tuple(record["seeds"]),
        kinds=tuple(Start(*own) for own in record["kinds"]),
        copies_of_each=record["copies_of_each"],
        alphas=arrays["alphas"],
        length=record["length"],
        splits=tuple(record["splits"]),
        distances=tuple(record["distances"]),
        of_weights=tuple(record["of_weights"]),
        arrays={name.removeprefix(kind): x for name, x in arrays.items() if name.startswith(kind)},
        costs_of_units=tuple(record["costs_of_units"]),
        metric=record.get("metric", ACCURACY.name),
        folder=path,
        mesh=parallel.check_mesh(None),
    )


def _verdict(path: Path, given: _Given) -> Verdict:
    record, arrays = _read(path, _saved.VERDICT)
    small = None
    if record["small"] is not None:
        # nothing is asked of it but its name and size, and `net` may be that of the runs
        named = _Given(None, None, None, None, recorded=True)
        known = {"net": record["small"], "data": {"classes": record.get("small_classes", 0)}}
        small = _network(path, known, arrays, named)
    named = ("method", "density", "start", "at_init", "dense_lr", "tuned", "step", "cost")
    table = results.read(path / "conditions.parquet")
    # Parquet makes bools with gaps of another kind
    table["passes"] = record["passes"]
    return Verdict(
        **{name: record[name] for name in named},
        seeds=tuple(record["seeds"]),
        small=small,
        metric=record.get("metric", ACCURACY.name),
        shares=record.get("shares", ACCURACY.shares),
        folder=path,
        _conditions=table,
        _networks=results.read(path / "networks.parquet"),
    )


def _network(path: Path, record: Json, arrays: Mapping[str, np.ndarray], given: _Given) -> Network:
    config = dict(record["net"]["config"])
    weights = config.pop("weights", None)
    net = given.net
    if net is None:
        constructor = getattr(nn, str(config.get("constructor")), None)
        known = constructor is not None and not str(config["constructor"]).startswith("from_")
        options = {k: _tuples(v) for k, v in config.items() if k != "constructor"}
        try:
            net = constructor(**options) if known and constructor is not None else None
        except (TypeError, ValueError):
            net = None
        if net is None or json.loads(net.config) != config:
            if given.recorded and "params" in config:
                classes = record.get("data", {}).get("classes", 0)
                return absent_network(config, classes=classes, stats=_statistics(path))
            name = config.get("name", config.get("constructor"))
            raise ValueError(
                f"`net` is needed: the network of {str(path)!r}, {name!r}, was made of code of "
                f"your own; pass net=... to jt.load, as it was passed to the run"
            )
    if weights is not None and net.given is None:
        seeds = record["given_seeds"]
        params, stats = (
            _tree.unflatten(arrays, like, f"given/{part}")
            for part, like in zip(("params", "stats"), net.shapes, strict=True)
        )
        net = net.with_params(params, stats, seeds=seeds)
    difference = _identity.first_difference(
        json.loads(json.dumps(_identity.network(net))), record["net"], "net"
    )
    if difference:
        raise ValueError(
            f"`net` is not the network of {str(path)!r}: {difference}; pass the one that the run "
            f"was made with"
        )
    return net


def _statistics(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the statistics by their paths, of the first ticket of a folder."""
    for file in sorted((path / "tickets").glob("*.safetensors")):
        _, arrays = _ticket_file.read(file)
        return {name: x.shape for name, x in part(arrays, "stats").items()}
    return {}


def _tuples(value: object) -> object:
    """Lists of JSON as the tuples that constructors take."""
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _settings(path: Path, name: str, record: object, given: T | None) -> T:
    """Settings as they were recorded, or as they were passed, if they are the same."""
    if given is None:
        try:
            return _identity.rebuilt(record)
        except _identity.OwnCodeError as error:
            raise ValueError(
                f"`{name}` is needed: in that of {str(path)!r} {error}; pass {name}=... to "
                f"jt.load, as it was passed to the run"
            ) from None
    difference = _identity.first_difference(
        json.loads(json.dumps(_identity.recorded(given))), record, name
    )
    if difference:
        raise ValueError(
            f"`{name}` is not that of {str(path)!r}: {difference}; pass the one that the run was "
            f"made with, or leave it out"
        )
    return given


def _data(path: Path, record: Json, passed: _Given) -> Data | Stream:
    given = passed.data
    if given is not None:
        if given.fingerprint != record["fingerprint"]:
            raise ValueError(
                f"`data` {given.name!r} has other examples than {record['name']!r} of "
                f"{str(path)!r}; pass the data that the run was made with, divided alike"
            )
        return given
    try:
        found = _divided(record)
    except (ValueError, OSError, KeyError, ImportError):
        found = None
    if found is not None and found.fingerprint == record["fingerprint"]:
        return found
    if not passed.recorded:
        warnings.warn(
            f"{path}: the data {record['name']!r} were not found here; tables and tickets are "
            f"there, and for what needs examples pass `data` to jt.load",
            UserWarning,
            stacklevel=6,
        )
    return absent(
        record["name"],
        classes=record["classes"],
        shape=record["shape"],
        splits=record["splits"],
        about=record["about"],
        fingerprint=record["fingerprint"],
        labels=_labels(record.get("labels")),
    )


def _labels(record: Json | None) -> Labels | None:
    """The labels of a data set; None for classes, of which earlier records say nothing."""
    return None if record is None else Labels(tuple(record["shape"]), record["dtype"])


def _divided(record: Json) -> Data:
    """A data set by its name, divided as it was."""
    steps = record["about"].get("steps", [])
    name = record["name"]
    for step in reversed(steps):
        # divisions append to the name
        if step["step"] == "halves":
            name = name.removesuffix(f"-{step['half']}")
        elif step["step"] == "fraction":
            name = name.removesuffix(f"-{step['share']:g}")
    found = data_module.load(name)
    for step in steps:
        seed = step.get("seed", 0)
        if step["step"] == "halves":
            found = found.halves(seed=seed)["ab".index(step["half"])]
        elif step["step"] == "fraction":
            found = found.fraction(step["share"], seed=seed)
        elif step["step"] == "with_validation":
            found = found.with_validation(step["share"], seed=seed)
        else:
            raise ValueError(f"the step {step['step']!r} is not known")
    return found


def _stacked(path: Path, net: Network, branch: str, level: int, seeds: tuple[int, ...]) -> Ticket:
    """The tickets of a level, stacked over [replica]."""
    files = [
        path / "tickets" / f"{branch}-level-{level:02d}-seed-{seed}.safetensors" for seed in seeds
    ]
    read = _recorded_ticket if isinstance(net, Absent) else Ticket.load
    return jax.tree.map(lambda *x: np.stack(x), *(read(file, net=net) for file in files))


def _recorded_ticket(file: Path, *, net: Network) -> Ticket:
    """A ticket of a network that cannot draw its weights: nan where the file holds a seed."""
    header, arrays = _ticket_file.read(file)
    try:
        own = unpack(arrays, like=net.shapes)
    except Malformed as error:
        raise _ticket_file.damaged(file, error) from error
    if header["seed"] is None:
        return own
    return own.replace(params=jax.tree.map(lambda x: np.full_like(x, np.nan), own.params))


def _source(path: Path, record: Json | None, given: _Given) -> Runs | None:
    """The runs that found the masks of a transfer."""
    if record is None:
        return None
    try:
        found = _runs(_files.joined(path, record["folder"]), given)
    except ValueError as error:
        # what was passed belongs to the target
        if given.net is None and given.data is None:
            raise
        del error
        found = _runs(
            _files.joined(path, record["folder"]),
            _Given(None, None, None, None, recorded=given.recorded),
        )
    # an identity holds the weights, which no record has
    if isinstance(found.net, Absent):
        return found
    if found.identity(found.levels)["sha256"] != record["sha256"]:
        raise ValueError(
            f"`folder` {str(path)!r} was found in the runs of {record['folder']!r}, which have "
            f"changed since; run it again in a new folder"
        )
    return found
