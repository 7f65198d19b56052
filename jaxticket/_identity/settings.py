"""The identity of a run: its settings as plain values, and how those of two runs differ."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import weakref
from collections.abc import Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket._identity.digest import Walk, besides_fields
from jaxticket._identity.owner import PACKAGE, known_name, name_of, version, version_of
from jaxticket.typing import Network

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

_FROM_CODE = ("from_linen", "from_nnx", "from_functions")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_LAST: weakref.WeakKeyDictionary[object, str] = weakref.WeakKeyDictionary()


class Named(Protocol):
    """A data set or stream, as far as a run's identity depends on it."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @cached_property
    def fingerprint(self) -> str:
        """A digest of its examples."""
        ...


class Code(NamedTuple):
    """A function, class or object, as a run folder records it.

    Attributes:
      name: module and qualified name.
      code: what distinguishes it from others of its name, or None if the name suffices: a version,
        or a digest, preceded by the version of Python if it is of bytecode.
    """

    name: str
    code: str | None

    @property
    def plain(self) -> str | dict[str, str]:
        """For JSON."""
        return self.name if self.code is None else {"name": self.name, "code": self.code}


def code_of(function: object) -> Code:
    """The identity of a function, class, partial function or other object."""
    name = name_of(function)
    walk = Walk()
    digest = walk.digest(function).hex()[:16]
    if known_name(function) is not None and not walk.own:
        own = version(name.removeprefix(f"{PACKAGE}."))
        release = version_of(name.partition(".")[0]) or ("" if own == 1 else str(own))
        return Code(name, f"version {release}" if release else None)
    code = f"python {_PYTHON} {digest}" if walk.own else digest
    _forget_compiled(function, code)
    return Code(name, code)


def network(net: Network) -> dict[str, object]:
    """The identity of a network: its config, and its constructor's version or the user's code."""
    config = json.loads(net.config)
    constructor = config.get("constructor")
    walk = Walk()
    digest = walk.digest((net.source, net.output)).hex()[:16]
    if walk.own or constructor in _FROM_CODE:
        code = f"python {_PYTHON} {digest}" if walk.own else digest
        _forget_compiled(net, code)
    else:
        code = f"version {version(f'nn.{constructor}')}"
    return {"config": config, "code": code}


def run(kind: str, net: Network, data: Named, **settings: object) -> dict[str, object]:
    """The settings of a run, for its folder.

    Args:
      kind: "find_tickets", "branch", ...
      net: the network.
      data: a data set or stream.
      **settings: everything else that the results depend on.
    """
    # at once, before compiled programs are used
    _look_at([net, settings])
    return {
        "kind": kind,
        # raising either gives a new number
        "version": version(kind) + version("training") - 1,
        "net": net,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        **settings,
    }


def _look_at(value: object) -> None:
    """Detect functions whose computation has changed; see `_forget_compiled`."""
    if isinstance(value, Network):
        network(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _look_at([getattr(value, field.name) for field in dataclasses.fields(value)])
        _look_at(besides_fields(value))
        code_of(type(value))
    elif isinstance(value, Mapping):
        _look_at(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            _look_at(part)
    elif callable(value):
        code_of(value)


def _forget_compiled(function: object, code: str) -> None:
    """Clear compiled programs if a function has changed since its last call of this.

    They hold old values, for instance of a global variable that the function uses.
    """
    try:
        before = _LAST.get(function)
        _LAST[function] = code
    except TypeError:  # not hashable, or without weak references
        return
    if before not in (None, code):
        jax.clear_caches()


def plain(value: object) -> Any:
    """Convert settings to JSON values.

    Dataclasses become dicts; networks and functions are given by their names and, where these do
    not identify them, by their code (`code_of`).
    """
    if isinstance(value, Network):
        return network(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        # classes that can be exchanged for one another have a `kind`
        kind = getattr(value, "kind", None)
        named = {} if kind is None else {"kind": kind}
        known = code_of(type(value))
        if known.code is not None:
            named |= {"class": known.plain}
            if more := besides_fields(value):
                # in a separate entry, since an attribute may be called "kind" or "class"
                named |= {"attributes": plain(more)}
        return named | {name: plain(getattr(value, name)) for name in noted(value)}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, range)):
        return [plain(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray, jax.Array)) and value.shape == ():
        value = value if jnp.issubdtype(value.dtype, jax.dtypes.prng_key) else value.item()
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    # functions, and other values that JSON does not have: arrays, sets, enumerations
    return code_of(value).plain


def noted(value: DataclassInstance) -> list[str]:
    """The fields that are recorded: all but defaults of fields that older records do not know."""
    return [
        field.name
        for field in dataclasses.fields(value)
        if not field.metadata.get("newer") or getattr(value, field.name) != field.default
    ]


def canonical(settings: Mapping[str, object]) -> str:
    """Settings as one JSON text, the same for equal settings."""
    return json.dumps(plain(settings), sort_keys=True, indent=1)


def run_name(name: str, settings: Mapping[str, object]) -> str:
    """A folder name: the given name and the first ten digits of the settings' sha256.

    >>> run_name("tickets", {"seeds": [0]})
    'tickets-802b2562ea'
    """
    return f"{name}-{hashlib.sha256(canonical(settings).encode()).hexdigest()[:10]}"


def first_difference(ours: object, theirs: object, at: str = "") -> str | None:
    """Describe the first field in which two plain settings differ, or return None."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        # the kind of run first: it is more informative than the other differences
        order = {"kind": -1, "code": 1}
        names = sorted(set(ours) | set(theirs), key=lambda name: (order.get(name, 0), name))
        for name in names:
            difference = first_difference(
                ours.get(name, "absent"), theirs.get(name, "absent"), f"{at}.{name}" if at else name
            )
            if difference and name == "code" and {"code", *ours} == {"code", *theirs}:
                return _other_code(ours, theirs, at)
            if difference:
                return difference
        return None
    if isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for place, pair in enumerate(zip(ours, theirs, strict=True)):
            difference = first_difference(*pair, f"{at}[{place}]")
            if difference:
                # lists of numbers and names are shown completely
                short = not any(isinstance(part, (dict, list)) for part in ours + theirs)
                return f"`{at}` is {theirs!r} there and {ours!r} here" if short else difference
        return None
    return None if ours == theirs else f"`{at}` is {theirs!r} there and {ours!r} here"


def _other_code(ours: dict[str, object], theirs: dict[str, object], at: str) -> str:
    """Describe a difference in code of the same name."""
    config = ours.get("config")
    config = config if isinstance(config, dict) else {}
    name = ours.get("name", config.get("name", config.get("constructor")))
    here, there = str(ours.get("code")), str(theirs.get("code"))
    if here.startswith("python") and there.startswith("python"):
        pythons = [" ".join(code.split()[:2]).capitalize() for code in (there, here)]
        if pythons[0] != pythons[1]:
            return (
                f"`{at}` {name!r} was recorded under {pythons[0]}, and its code cannot be compared "
                f"under {pythons[1]}"
            )
    return (
        f"the code of `{at}` {name!r} has changed (or the values that it uses): {there} there and "
        f"{here} here"
    )
