"""Settings of a run for a page: what differs from the defaults first."""

from __future__ import annotations

import dataclasses
import inspect
import json
from collections.abc import Mapping
from typing import NamedTuple

from jaxticket import _show, nn
from jaxticket._identity.settings import plain
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.pruning_settings import PruningSettings
from jaxticket.settings import Training
from jaxticket.sparsify.iterative import Pruning
from jaxticket.typing import Network

_ELSEWHERE = ("net", "data", "training", "pruning", "kind", "format", "version", "seeds")
"""Entries of a folder's settings that are shown otherwise, or that say how they are written."""
_FINGERPRINT = 16


class Settings(NamedTuple):
    """Settings as they are written.

    Attributes:
      title: what they are of.
      changed: name and value of those that differ from the defaults, or have none.
      usual: of the others.
    """

    title: str
    changed: list[tuple[str, str]]
    usual: list[tuple[str, str]]


def of_object(title: str, settings: object) -> Settings:
    """The fields of settings such as `jt.Training`."""
    if not dataclasses.is_dataclass(settings) or isinstance(settings, type):
        return Settings(title, [("", _show.written(settings))], [])
    own = _show.changed(settings)
    names = [field.name for field in dataclasses.fields(settings) if field.repr and field.init]
    said = {name: _show.written(getattr(settings, name)) for name in names}
    return Settings(
        f"{title}: {type(settings).__name__}",
        [(name, said[name]) for name in names if name in own],
        [(name, said[name]) for name in names if name not in own],
    )


def of_network(net: Network) -> Settings:
    """The constructor of a network and its options."""
    return _of_config(json.loads(net.config))


def of_data(data: Data | Stream) -> Settings:
    """What is known of data."""
    rows = [
        ("name", data.name),
        ("shape", _show.shape(data.shape)),
        ("classes", f"{data.classes:,}"),
        *((f"{name} examples", f"{len(part):,}") for name, part in data.splits.items()),
    ]
    about = [(str(name), _json(value)) for name, value in data.about.items()]
    return Settings("Data", [*rows, *about], [("fingerprint", str(data.fingerprint))])


def of_folder(settings: Mapping[str, object]) -> list[Settings]:
    """Everything that a folder's `settings.json` has, for folders that are read by it alone."""
    found = []
    # of a measurement or a branch: the run that it is of
    source = settings.get("of")
    source = source if isinstance(source, dict) else {}
    net = settings.get("net")
    if isinstance(net, dict) and isinstance(net.get("config"), dict):
        found.append(_of_config(net["config"]))
    data = settings.get("data")
    if isinstance(data, dict):
        found.append(Settings("Data", [(str(k), _json(v)) for k, v in data.items()], []))
    for name, title, usual in (
        ("training", "Training", plain(Training())),
        ("pruning", "Pruning", plain(Pruning())),
    ):
        record = settings.get(name, source.get(name))
        records = record if isinstance(record, list) else [record]
        found += [_of_record(title, one, usual) for one in records if isinstance(one, dict)]
    return found


def of_call(settings: Mapping[str, object] | None) -> list[Settings]:
    """The other arguments of the call that a folder records."""
    if settings is None:
        return []
    given, left_out = [], []
    for name, value in settings.items():
        if name == "of" and isinstance(value, (dict, list)):
            # tickets of an instability can be of several runs
            sources = [one for one in [value, *value] if isinstance(one, dict)]
            of_them = [f"sha256 {str(one.get('sha256'))[:_FINGERPRINT]}" for one in sources]
            (given if of_them else left_out).append(("of the run", ", ".join(of_them)))
        elif name == "seeds" or name not in _ELSEWHERE:
            (left_out if value in (None, [], {}) else given).append((name, _json(value)))
    return [Settings(f"Call: {settings.get('kind', 'run')}", given, left_out)]


def of_run(
    net: Network,
    data: Data | Stream,
    training: Training,
    pruning: PruningSettings | None,
    settings: Mapping[str, object] | None,
) -> list[Settings]:
    """The settings of a run that was loaded."""
    found = [of_network(net), of_data(data), of_object("Training", training)]
    if pruning is not None:
        found.append(of_object("Pruning", pruning))
    return [*found, *of_call(settings)]


def _of_config(config: Mapping[str, object]) -> Settings:
    options = dict(config)
    constructor = str(options.pop("constructor", options.get("name", "")))
    # a digest of given weights
    options.pop("weights", None)
    known = getattr(nn, constructor, None)
    defaults = {}
    if inspect.isfunction(known):
        parameters = inspect.signature(known).parameters.values()
        defaults = {one.name: one.default for one in parameters}
    changed, usual = [("constructor", constructor)], []
    for name, value in options.items():
        same = name in defaults and plain(defaults[name]) == value
        (usual if same else changed).append((name, _json(value)))
    return Settings("Network", changed, usual)


def _of_record(
    title: str, record: Mapping[str, object], defaults: Mapping[str, object]
) -> Settings:
    changed, usual = [], []
    for name, value in record.items():
        same = name in defaults and defaults[name] == value
        (usual if same else changed).append((name, _json(value)))
    return Settings(title, changed, usual)


def _json(value: object) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
