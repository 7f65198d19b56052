"""Read presets from the TOML files beside this module, one for each paper.

A table is a preset if its name is "NETWORK-DATA" or "NETWORK-DATA-VARIANT". Other tables hold what
several have in common: `[all]` is part of every preset of its file, and `like = "NAME"` takes over
the table of that name. Fields that both have are those of the preset, tables inside are merged,
notes are added.

Training can be given in epochs (`epochs`, `drops`, `warmup_epochs`, of `pruning` also
`rewind_epochs`): an epoch has `per_epoch` steps, or the batches of the data set, the last of which
may be partial. "150/180" is a fraction, "none" is None.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxticket.presets.schema import Preset, steps_per_epoch
from jaxticket.settings import Pruning, Training

PAPERS = (
    "thesis", "lth2019", "openlth", "one_ticket", "kd_lts", "cts", "snip", "grasp", "synflow",
    "rigl",
)  # fmt: skip
FRACTION = re.compile(r"(\d+)/(\d+)")


def read(paper: str) -> dict[str, Preset]:
    """The presets of a paper, a name in `PAPERS`.

    Raises:
      ValueError: for a setting that cannot be, naming the preset.
    """
    text = Path(__file__).with_name(f"{paper}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    found = {}
    for name in (name for name in tables if "-" in name):
        try:
            found[name] = _preset(name, _whole(tables, name))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"preset {name!r} in {paper}.toml: {error}") from error
    return found


def _whole(tables: Mapping[str, Any], name: str) -> dict[str, Any]:
    """A table with all that it is like."""
    own = dict(tables[name])
    above = own.pop("like", "all" if name != "all" else None)
    return own if above not in tables else _merged(_whole(tables, above), own)


def _merged(base: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = {**base, **own}
    for name in base.keys() & own.keys():
        if isinstance(own[name], dict):
            merged[name] = {**base[name], **own[name]}
        elif name == "notes":
            merged[name] = [*own[name], *base[name]]
    return merged


def _preset(name: str, table: dict[str, Any]) -> Preset:
    network, data = name.split("-")[:2]
    fields = {"network": network, "data": data, **_value(table)}
    training, pruning = fields.pop("training"), fields.pop("pruning")
    if "epochs" in training:
        per_epoch = training.pop("per_epoch", None) or steps_per_epoch(
            data, training["batch_size"], validation=fields.get("validation", 0.0)
        )
        training["steps"] = training.pop("epochs") * per_epoch
        training["milestones"] = tuple(n * per_epoch for n in training.pop("drops", ()))
        training["warmup"] = training.pop("warmup_epochs", 0) * per_epoch
        if "rewind_epochs" in pruning:
            pruning["rewind"] = pruning.pop("rewind_epochs") * per_epoch
    pruning = Pruning(**pruning)
    if "matching_density" in fields:
        # reported of tickets that are rewound so
        fields.setdefault("matching_rewind", pruning.rewind)
    return Preset(name=name, training=Training(**training), pruning=pruning, **fields)


def _value(value: Any) -> Any:
    """Settings as Python has them."""
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(_value(inner) for inner in value)
    if value == "none":
        return None
    if isinstance(value, str) and (parts := FRACTION.fullmatch(value)):
        return int(parts[1]) / int(parts[2])
    return value
