"""Read presets from the TOML files next to this module, one for each paper.

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
from typing import TypeAlias

from jaxticket.presets.schema import Preset, steps_per_epoch
from jaxticket.settings import Training
from jaxticket.sparsify.iterative import Pruning
from jaxticket.typing import Json

PAPERS = (
    "thesis", "lth2019", "openlth", "one_ticket", "kd_lts", "cts", "snip", "grasp", "synflow",
    "rigl",
)  # fmt: skip
Table: TypeAlias = Json
"""A table of a TOML file."""
FRACTION = re.compile(r"(\d+)/(\d+)")


def read(paper: str) -> dict[str, Preset]:
    """The presets of a paper, a name in `PAPERS`.

    Raises:
      ValueError: for an invalid setting, naming the preset.
    """
    text = Path(__file__).with_name(f"{paper}.toml").read_text(encoding="utf-8")
    tables = tomllib.loads(text)
    presets = {}
    for name in (name for name in tables if "-" in name):
        try:
            presets[name] = _preset(name, _inherited(tables, name))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"preset {name!r} in {paper}.toml: {error}") from error
    return presets


def _inherited(tables: Mapping[str, Table], name: str) -> Table:
    """Merge a table with the one that it is `like`, recursively."""
    table = dict(tables[name])
    parent = table.pop("like", "all" if name != "all" else None)
    return table if parent not in tables else _merged(_inherited(tables, parent), table)


def _merged(base: Table, table: Table) -> Table:
    merged = {**base, **table}
    for name in base.keys() & table.keys():
        if isinstance(table[name], dict):
            merged[name] = {**base[name], **table[name]}
        elif name == "notes":
            merged[name] = [*table[name], *base[name]]
    return merged


def _preset(name: str, table: Table) -> Preset:
    network, data = name.split("-")[:2]
    fields: Table = {"network": network, "data": data}
    fields |= {key: _value(value) for key, value in table.items()}
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
        # reported for tickets that are rewound to this step
        fields.setdefault("matching_rewind", pruning.rewind)
    return Preset(name=name, training=Training(**training), pruning=pruning, **fields)


def _value(value: object) -> object:
    """Convert a value of TOML to a setting."""
    if isinstance(value, dict):
        return {name: _value(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return tuple(_value(inner) for inner in value)
    if value == "none":
        return None
    if isinstance(value, str) and (parts := FRACTION.fullmatch(value)):
        return int(parts[1]) / int(parts[2])
    return value
