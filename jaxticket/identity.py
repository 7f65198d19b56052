"""What functions compute, as a short text: how run folders tell code from other code of its name.

Functions of jaxticket and of installed libraries are known by their names, those of jaxticket also
by a version. Code of the user's own is known by what it does: its bytecode (without comments,
docstrings, names of local variables and lines), default arguments, the values in its closure, and
all that it names: functions, classes with their bases, constants, arrays by their content, in their
turn. The same code gives the same text in every process.

What is not seen: what a library does differently in another version (`environment.json` records the
versions of those that jaxticket needs; the version of other libraries counts), files and
environment variables that a function reads when it runs, attributes that are looked up by a
computed name, and the state of objects that neither have fields nor can be pickled. Python's
bytecode differs between its minor versions (3.11, 3.12), so that code of the user's own cannot be
compared between them; a folder is then refused.
"""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import enum
import functools
import hashlib
import importlib.util
import inspect
import json
import site
import sys
import sysconfig
import types
import weakref
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket.types import Network

VERSIONS: dict[str, int] = {"search.distillation.Distillation": 2}
"""Versions of what jaxticket computes, 1 where nothing is said: raise one in the commit that
changes results, and folders of the version before are refused (or, where the folder's name is made
of its settings, another folder is used).

Keys are functions, classes and their methods without the package's name ("scores.snip.snip",
"search.relaxations.Concrete"), networks ("networks.resnet20"), kinds of runs ("find_tickets",
"prune_at", "search", "branch", "instability", "transfer", "verdict", "telemetry"), and "training",
which all of these share.
"""

# their versions are in environment.json, and a change of them is a warning
_ENVIRONMENT = {"jax", "jaxlib", "numpy", "flax", "optax", "orbax", "ml_dtypes", "chex"}
_PACKAGE = "jaxticket"
_FROM_CODE = ("from_linen", "from_nnx", "from_functions")
# of classes and functions: what they say of themselves, and what others keep in them
_IGNORED = {
    "__abstractmethods__", "__annotations__", "__dataclass_fields__", "__dataclass_params__",
    "__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__name__",
    "__orig_bases__", "__parameters__", "__qualname__", "__repr__", "__static_attributes__",
    "__str__", "__type_params__", "__weakref__", "_abc_impl",
}  # fmt: skip
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


def version(name: str) -> int:
    """The version of something that jaxticket computes; see `VERSIONS`."""
    return VERSIONS.get(name, 1)


class Code(NamedTuple):
    """Something that can be called, as a run folder records it.

    Attributes:
      name: module and qualified name.
      code: what tells it from others of its name, or None where the name says all: a version, or
        a digest after the Python version whose bytecode it is of.
    """

    name: str
    code: str | None

    @property
    def plain(self) -> str | dict[str, str]:
        """For JSON."""
        return self.name if self.code is None else {"name": self.name, "code": self.code}


def code_of(function: Any) -> Code:
    """The identity of a function, class, partial function or object that can be called."""
    name = name_of(function)
    walk = _Walk()
    digest = walk.digest(function).hex()[:16]
    if _known(function) is not None and not walk.own:
        numbers = version(name.removeprefix(f"{_PACKAGE}."))
        return Code(name, None if numbers == 1 else f"version {numbers}")
    found = f"python {_PYTHON} {digest}" if walk.own else digest
    _forget_compiled(function, found)
    return Code(name, found)


def network(net: Network) -> dict[str, Any]:
    """The identity of a network: its config, the version of its constructor, and, where it was made
    of code of the user's own, that code.
    """
    config = json.loads(net.config)
    constructor = config.get("constructor")
    walk = _Walk()
    digest = walk.digest((net.source, net.output)).hex()[:16]
    if walk.own or constructor in _FROM_CODE:
        code = f"python {_PYTHON} {digest}" if walk.own else digest
        _forget_compiled(net, code)
    else:
        code = f"version {version(f'networks.{constructor}')}"
    return {"config": config, "code": code}


def run(kind: str, net: Network, data: Any, **settings: Any) -> dict[str, Any]:
    """The settings of a run, for its folder.

    Args:
      kind: "find_tickets", "branch", ...
      net: the network.
      data: a data set or stream.
      **settings: all else that the results depend on.
    """
    # at once, before compiled programs are used
    _look_at([net, settings])
    return {
        "kind": kind,
        # every raise of either gives a number that was not there before
        "version": version(kind) + version("training") - 1,
        "net": net,
        "data": {"name": data.name, "fingerprint": data.fingerprint},
        **settings,
    }


def _look_at(value: Any) -> None:
    """Notices functions that compute something else than before; see `_forget_compiled`."""
    if isinstance(value, Network):
        network(value)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _look_at([getattr(value, field.name) for field in dataclasses.fields(value)])
        code_of(type(value))
    elif isinstance(value, Mapping):
        _look_at(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            _look_at(part)
    elif callable(value):
        code_of(value)


def name_of(function: Any) -> str:
    """Module and qualified name of what can be called; never an address."""
    if isinstance(function, functools.partial):
        return f"functools.partial of {name_of(function.func)}"
    if isinstance(function, types.MethodType):
        function = function.__func__
    named = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(named, str):
        function = type(function)
        named = function.__qualname__
    return f"{getattr(function, '__module__', None) or ''}.{named}"


def of_users_class(value: Any) -> bool:
    """Whether an object's class is code of the user's own."""
    return _owner(type(value)) is None


# of functions that jax.jit and functools.lru_cache give
_WRAPPERS = (type(jax.jit(len)), type(functools.lru_cache(len)))
_LAST: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def _forget_compiled(function: Any, code: str) -> None:
    """Forgets compiled programs where a function computes something else than when it was last
    looked at, such as with another value of a global variable: they hold the old value.
    """
    try:
        before = _LAST.get(function)
        _LAST[function] = code
    except TypeError:  # not hashable, or without weak references
        return
    if before not in (None, code):
        jax.clear_caches()


# whose code it is


@functools.lru_cache(maxsize=1)
def _libraries() -> tuple[Path, ...]:
    paths = [sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")]
    paths += [*site.getsitepackages(), site.getusersitepackages()]
    return tuple(Path(path).resolve() for path in paths if path)


@functools.lru_cache(maxsize=1024)
def _installed(file: str) -> bool:
    """Whether a source file belongs to Python or an installed distribution."""
    path = Path(file).resolve()
    if any(folder in path.parents for folder in _libraries()):
        return True
    # `pip install --target` puts packages and what it notes of them side by side
    return any(any(folder.glob("*.dist-info")) for folder in list(path.parents)[:3])


def _owner_of_module(name: str) -> str | None:
    """The root package of a module of jaxticket or of a library; None for one of the user's."""
    root = name.partition(".")[0]
    known = root == _PACKAGE or root in _ENVIRONMENT
    if known or root in sys.builtin_module_names or root in sys.stdlib_module_names:
        return None if root == "__main__" else root
    module = sys.modules.get(root)
    if module is not None:
        file = getattr(module, "__file__", None)
        if file is None:
            # made by hand, or built in
            return None if getattr(module, "__spec__", None) is None else _owner_of_spec(root)
        return root if _installed(file) else None
    # the same answer whether or not the module is imported yet
    return _owner_of_spec(root)


def _owner_of_spec(root: str) -> str | None:
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        spec = None
    if spec is None:
        return None
    places = [spec.origin] if spec.has_location else list(spec.submodule_search_locations or ())
    return root if all(_installed(place) for place in places if place) else None


def _owner(value: Any) -> str | None:
    """The root package whose code a function, class or module is; None for the user's own."""
    if isinstance(value, types.FunctionType):
        # not its `__module__`: decorators of libraries take that of what they decorate
        module = value.__globals__.get("__name__")
    elif isinstance(value, types.ModuleType):
        module = value.__name__
    else:
        module = getattr(value, "__module__", None)
    return _owner_of_module(module) if isinstance(module, str) else None


@functools.lru_cache(maxsize=256)
def _version_of(root: str) -> str:
    """What tells versions of a library apart, empty where environment.json does."""
    if root == _PACKAGE or root in _ENVIRONMENT or root in sys.stdlib_module_names:
        return ""
    try:
        return metadata.version(root)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(root, [])
        return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(found))


def _known(value: Any) -> str | None:
    """The name by which a library (or jaxticket) knows a function, class or object; None where it
    knows none.
    """
    if isinstance(value, (types.FunctionType, type)) and _owner(value) is None:
        return None
    module = getattr(value, "__module__", None)
    named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(named, str) or not _owner_of_module(module):
        return None
    found: Any = sys.modules.get(module)
    for part in named.split("."):
        # without calling properties
        found = inspect.getattr_static(found, part, None)
        found = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    return f"{module}.{named}" if found is value else None


def _written(function: types.FunctionType) -> str:
    """Where a function was written, whatever it says of itself."""
    return f"{function.__globals__.get('__name__')}.{function.__code__.co_qualname}"


# the walk


class _Walk:
    """Digests of objects: those of all that they hold and name, in their turn.

    Attributes:
      own: whether code of the user's own was met.
    """

    def __init__(self) -> None:
        self.own = False
        self._done: dict[int, bytes] = {}
        self._open: dict[int, int] = {}
        # what lives on keeps its id
        self._held: list[Any] = []

    def digest(self, value: Any) -> bytes:
        """The digest of an object."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            if type(value).__module__ == "builtins":
                return _hash(type(value).__name__, repr(value))
        if (found := self._done.get(id(value))) is not None:
            return found
        if id(value) in self._open:
            return _hash("again", len(self._open) - self._open[id(value)])
        self._held.append(value)
        self._open[id(value)] = len(self._open)
        try:
            found = self._of(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = found
        return found

    def _all(self, kind: str, values: Iterable[Any]) -> bytes:
        return _hash(kind, *(self.digest(value) for value in values))

    def _named(self, kind: str, values: Mapping[str, Any]) -> bytes:
        return _hash(kind, *((name, self.digest(values[name])) for name in sorted(values)))

    def _of(self, value: Any) -> bytes:
        if isinstance(value, types.FunctionType):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, types.ModuleType):
            return self._module(value)
        if isinstance(value, types.MethodType):
            return self._all("method", [value.__func__, value.__self__])
        if isinstance(value, functools.partial):
            return self._all("partial", [value.func, value.args, value.keywords])
        if isinstance(value, (staticmethod, classmethod)):
            return self._all(type(value).__name__, [value.__func__])
        if isinstance(value, property):
            return self._all("property", [value.fget, value.fset, value.fdel])
        if isinstance(value, functools.cached_property):
            return self._all("cached_property", [value.func])
        if isinstance(value, types.CellType):
            return self._all("cell", _contents(value))
        if isinstance(value, types.CodeType):
            return self._code(value, {})
        if isinstance(value, Network):
            return _hash("network", value.config, self.digest(value.source))
        if isinstance(value, jax.Array):
            return self._array(value)
        if isinstance(value, (np.ndarray, np.generic)):
            return self._host(np.asarray(value))
        if isinstance(value, np.dtype):
            return _hash("dtype", str(value))
        if isinstance(value, (dict, types.MappingProxyType)):
            return self._all("dict", [part for pair in value.items() for part in pair])
        if isinstance(value, (set, frozenset)):
            return _hash("set", *sorted(self.digest(part) for part in value))
        if isinstance(value, (list, tuple)):
            kind = type(value)
            named = kind.__name__ if kind in (list, tuple) else self.digest(kind).hex()
            return self._all(named, value)
        if isinstance(value, enum.Enum):
            return _hash("enum", self.digest(type(value)), value.name)
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            own = value.__self__
            of = own.__name__ if isinstance(own, types.ModuleType) else self.digest(own).hex()
            return _hash("builtin", of, value.__name__)
        if (known := _known(value)) is not None:
            return self._library(known)
        return self._object(value)

    def _library(self, name: str) -> bytes:
        root = name.partition(".")[0]
        own = version(name.removeprefix(f"{_PACKAGE}.")) if root == _PACKAGE else 1
        return _hash("library", name, own, _version_of(root))

    def _function(self, function: types.FunctionType) -> bytes:
        if (known := _known(function)) is not None:
            return self._library(known)
        cells = function.__closure__ or ()
        closure = [part for cell in cells for part in _contents(cell)]
        defaults = [function.__defaults__, function.__kwdefaults__]
        attributes = {k: v for k, v in vars(function).items() if k not in _IGNORED}
        if _owner(function) is None:
            self.own = True
            code = self._code(function.__code__, function.__globals__)
        else:
            code = self._library(_written(function))
        return _hash(
            "function",
            code,
            self._all("defaults", defaults),
            self._all("closure", closure),
            self._named("attributes", attributes),
        )

    def _code(self, code: types.CodeType, names: Mapping[str, Any]) -> bytes:
        """The digest of bytecode and of what it names; `names` are the global variables."""
        parts: list[Any] = [
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
            code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
            # *args, **options, generators and coroutines; not whether names are nested
            code.co_flags & (0x04 | 0x08 | 0x20 | 0x80 | 0x200),
            code.co_exceptiontable,
        ]
        used: dict[str, bytes] = {}
        instructions = list(dis.get_instructions(code))
        for number, one in enumerate(instructions):
            said: Any = one.arg
            if one.opcode in dis.hasconst:
                constant = one.argval
                own = isinstance(constant, types.CodeType)
                said = self._code(constant, names) if own else self.digest(constant)
            elif one.opcode in dis.hasname:
                said = one.argval
                if one.opname in _GLOBALS:
                    path, value = self._looked_up(instructions[number:], names)
                    used[path] = value
                elif one.opname == "IMPORT_NAME":
                    used[f"import {said}"] = self._imported(str(said))
            parts.append((one.opname, said))
        return _hash("code", *parts, *sorted(used.items()))

    def _looked_up(
        self, rest: list[dis.Instruction], names: Mapping[str, Any]
    ) -> tuple[str, bytes]:
        """The global name that the first instruction loads, with attributes where it is a module,
        and the digest of what is there.
        """
        path = name = str(rest[0].argval)
        if name not in names:
            # of Python itself, or not there yet
            return path, _hash("no global")
        value = names[name]
        for one in rest[1:]:
            attribute = one.opname in ("LOAD_ATTR", "LOAD_METHOD")
            if not isinstance(value, types.ModuleType) or not attribute:
                break
            root = _owner(value)
            if root is not None and root != _PACKAGE:
                full = f"{value.__name__}.{one.argval}"
                return f"{path}.{one.argval}", self._library(full)
            path = f"{path}.{one.argval}"
            if not hasattr(value, str(one.argval)):
                return path, _hash("no attribute")
            value = getattr(value, str(one.argval))
        return path, self.digest(value)

    def _imported(self, name: str) -> bytes:
        """A module that a function imports when it runs."""
        if _owner_of_module(name) is not None:
            return self._library(name)
        module = sys.modules.get(name)
        if module is not None:
            return self.digest(module)
        try:
            found = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            found = None
        if found is None or found.origin is None or _installed(found.origin):
            return _hash("import", name)
        return self._file(found.origin)

    def _module(self, module: types.ModuleType) -> bytes:
        if _owner(module) is not None:
            return self._library(module.__name__)
        # which of its functions are used is not known: the whole file counts
        return self._file(getattr(module, "__file__", None) or "")

    def _file(self, name: str) -> bytes:
        self.own = True
        path = Path(name)
        return _hash("file", path.read_bytes() if path.is_file() else path.name)

    def _class(self, kind: type) -> bytes:
        if _owner(kind) is not None:
            return self._library(f"{kind.__module__}.{kind.__qualname__}")
        self.own = True
        parts = []
        for one in kind.__mro__:
            if _owner(one) is not None:
                parts.append(self._library(f"{one.__module__}.{one.__qualname__}"))
                continue
            members = {k: v for k, v in vars(one).items() if k not in _IGNORED}
            members = {k: v for k, v in members.items() if not _is_slot(v)}
            parts.append(self._named("class", members))
        return _hash("mro", self.digest(type(kind)), *parts)

    def _array(self, value: jax.Array) -> bytes:
        if isinstance(value, Tracer):
            return _hash("traced", str(value.aval))
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return _hash(
                "key", str(value.dtype), self._host(np.asarray(jax.random.key_data(value)))
            )
        if not value.is_fully_addressable:
            return _hash("spread", str(value.aval))
        return self._host(np.asarray(value))

    def _host(self, value: np.ndarray) -> bytes:
        if value.dtype == object:
            return self._all(f"array {value.shape}", value.reshape(-1).tolist())
        whole = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b""
        return _hash("array", str(value.dtype), value.shape, whole)

    def _object(self, value: Any) -> bytes:
        """Any other object: its class, and its fields or what it is pickled from."""
        kind = self.digest(type(value))
        if _owner(type(value)) == _PACKAGE:
            # data sets, streams and runs say themselves what they are
            if (fingerprint := getattr(value, "fingerprint", None)) is not None:
                return _hash("data", kind, fingerprint)
            if callable(own := getattr(value, "identity", None)):
                return _hash("runs", kind, self.digest(own(value.levels)))
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
            return _hash("fields", kind, self._named("fields", fields))
        if type(value) in _WRAPPERS:
            return _hash("wrapped", kind, self.digest(value.__wrapped__))
        if of_users_class(value):
            state = _plain_state(value)
            cached = {
                name
                for one in type(value).__mro__
                for name, member in vars(one).items()
                if isinstance(member, functools.cached_property)
            }
            state = {k: v for k, v in state.items() if k not in cached}
            return _hash("object", kind, self._named("state", state))
        try:
            made = value.__reduce_ex__(2)
        except Exception:  # what cannot be pickled says so in many ways
            return _hash("opaque", kind)
        if isinstance(made, str):
            return _hash("global", kind, made)
        parts: list[Any] = list(made[:2])
        parts += [None if part is None else list(part) for part in made[3:5]]
        state = made[2] if len(made) > 2 else None
        if parts[0] in (copyreg.__newobj__, copyreg.__reduce_ex__):  # type: ignore[attr-defined]
            parts[0] = None
        if isinstance(state, dict):
            state = {k: v for k, v in state.items() if k not in _IGNORED}
        return _hash("made", kind, self.digest(state), self._all("from", parts))


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty: a name that gets its value later
        return []


def _is_slot(value: Any) -> bool:
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))


def _plain_state(value: Any) -> dict[str, Any]:
    """The attributes of an object, in its dict and in slots."""
    state = dict(getattr(value, "__dict__", {}))
    for one in type(value).__mro__:
        slots = vars(one).get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(value, name):
                state[name] = getattr(value, name)
    return {k: v for k, v in state.items() if k not in _IGNORED}


def _hash(*parts: Any) -> bytes:
    """Sha256 of parts, each of which is told from its neighbors."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, (tuple, list)):
            part = _hash(*part)
        data = part if isinstance(part, (bytes, memoryview)) else repr(part).encode()
        total.update(f"{type(part).__name__} {len(data)} ".encode())
        total.update(data)
    return total.digest()
