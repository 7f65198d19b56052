"""Settings as JSON from which they can be made again.

The identity of a run (`plain`) says whether two settings are equal; a record also says which class
to make of which fields. What is the user's own code, or an object that its fields do not describe,
is recorded by its name and identity alone, and has to be passed when settings are made again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pkgutil
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxticket._identity.owner import MOVED, first_name
from jaxticket._identity.settings import code_of, network, noted
from jaxticket.typing import Network

LIBRARIES = ("jaxticket", "optax", "jax", "flax")
"""Packages whose functions and classes are found again by their names."""


class OwnCodeError(ValueError):
    """A record holds what only the user's own code can make."""


def recorded(value: object) -> Any:
    """Settings as JSON values.

    >>> rebuilt(recorded({"rates": (0.1, 0.2)}))
    {'rates': (0.1, 0.2)}
    """
    if isinstance(value, np.generic):
        value = value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (tuple, range)) and not hasattr(value, "_fields"):
        return {"tuple": [recorded(one) for one in value]}
    if isinstance(value, list):
        return [recorded(one) for one in value]
    if isinstance(value, Mapping):
        return {"dict": [[recorded(k), recorded(v)] for k, v in value.items()]}
    if isinstance(value, Network):
        return {"network": network(value)}
    if isinstance(value, functools.partial):
        return {
            "partial": recorded(value.func),
            "args": recorded(value.args),
            "keywords": recorded(value.keywords),
        }
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        if (name := _known(type(value))) is not None:
            given = {field.name for field in dataclasses.fields(value) if field.init}
            names = [name for name in noted(value) if name in given]
            return {"class": name, "fields": {n: recorded(getattr(value, n)) for n in names}}
    elif (name := _known(value)) is not None:
        return {"name": name}
    return {"own": code_of(value).plain}


def rebuilt(record: Any, at: str = "") -> Any:
    """The settings of a record.

    Args:
      record: as `recorded` gives it.
      at: where it stands, for errors.

    Raises:
      OwnCodeError: for the user's own code, naming it and where it stands.
    """
    if isinstance(record, list):
        return [rebuilt(one, f"{at}[{i}]") for i, one in enumerate(record)]
    if not isinstance(record, dict):
        return record
    if "tuple" in record:
        return tuple(rebuilt(record["tuple"], at))
    if "dict" in record:
        return {rebuilt(k): rebuilt(v, f"{at}.{k}" if at else str(k)) for k, v in record["dict"]}
    if "partial" in record:
        function = rebuilt(record["partial"], at)
        return functools.partial(
            function, *rebuilt(record["args"], at), **rebuilt(record["keywords"], at)
        )
    if "class" in record:
        fields = {
            name: rebuilt(value, f"{at}.{name}" if at else name)
            for name, value in record["fields"].items()
        }
        return _found(record["class"], at)(**fields)
    if "name" in record:
        return _found(record["name"], at)
    if "network" in record:
        config = record["network"]["config"]
        name = config.get("name", config.get("constructor"))
        raise OwnCodeError(f"`{at}` is a network, {name!r}, whose weights are not recorded")
    own = record.get("own")
    name = own.get("name") if isinstance(own, dict) else own
    raise OwnCodeError(f"`{at}` is code of your own, {name}")


def _known(value: object) -> str | None:
    """The name "module:qualified name" by which a library's function or class is found again."""
    module, name = getattr(value, "__module__", None), getattr(value, "__qualname__", None)
    if not isinstance(module, str) or not isinstance(name, str):
        return None
    # functions with options are no attributes: "snip(batch_norm='eval')", "<lambda>"
    if module.partition(".")[0] not in LIBRARIES or not _is_path(name):
        return None
    known = first_name(module, name, ":")
    try:
        return known if _found(known, "") is value else None
    except OwnCodeError:
        return None


def _is_path(name: str) -> bool:
    """Whether it is names with points between them."""
    return all(part.isidentifier() for part in name.split("."))


def _found(known: str, at: str) -> Any:
    module, _, name = known.partition(":")
    if module.partition(".")[0] in LIBRARIES and (not name or _is_path(name)):
        with contextlib.suppress(ImportError, AttributeError):
            return pkgutil.resolve_name(MOVED.get(known, known))
    raise OwnCodeError(f"`{at}` is {known}, which this version does not have")
