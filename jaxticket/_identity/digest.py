"""The digest of an object: of everything that it holds and names, recursively."""

from __future__ import annotations

import copyreg
import dataclasses
import dis
import enum
import functools
import os
import sys
import types
import warnings
import weakref
from collections.abc import Iterable, Mapping
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket._identity.owner import (
    PACKAGE,
    VERSIONS,
    first_name,
    hashed,
    known_name,
    of_users_class,
    owner_of,
    owner_of_module,
    spec_of,
    version,
    version_of,
    written_name,
)
from jaxticket.typing import Network

# attributes of classes and functions that describe them, or that libraries store in them
_IGNORED = {
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__",
    "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__",
    "__firstlineno__", "__match_args__", "__module__", "__name__", "__orig_bases__",
    "__parameters__", "__qualname__", "__repr__", "__slotnames__", "__static_attributes__",
    "__str__", "__type_params__", "__weakref__", "_abc_impl", "_value2member_map_",
}  # fmt: skip
# bytecode in bodies of classes and modules that records properties of the source text
_ABOUT = {("STORE_NAME", f"__{name}__") for name in ("doc", "firstlineno", "static_attributes")}
_GLOBALS = ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS")
# caches, which change with use
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
# of functions that jax.jit and functools.lru_cache give
_WRAPPERS = (type(jax.jit(len)), type(functools.lru_cache(len)))


class Walk:
    """Digests of objects and, recursively, of everything that they hold and name.

    Attributes:
      own: whether code of the user's was found.
    """

    def __init__(self) -> None:
        self.own = False
        self._done: dict[int, bytes] = {}
        self._texts: dict[Path, bytes] = {}
        self._open: dict[int, int] = {}
        # an object that is kept alive keeps its id
        self._held: list[object] = []

    def digest(self, value: object) -> bytes:
        """The digest of an object."""
        if value is None or isinstance(value, (bool, int, float, complex, str, bytes)):
            if type(value).__module__ == "builtins":
                return hashed(type(value).__name__, repr(value))
        if (found := self._done.get(id(value))) is not None:
            return found
        if id(value) in self._open:
            return hashed("again", len(self._open) - self._open[id(value)])
        self._held.append(value)
        self._open[id(value)] = len(self._open)
        try:
            found = self._of(value)
        finally:
            del self._open[id(value)]
        self._done[id(value)] = found
        return found

    def _all(self, kind: str, values: Iterable[object]) -> bytes:
        return hashed(kind, *(self.digest(value) for value in values))

    def _named(self, kind: str, values: Mapping[str, object]) -> bytes:
        return hashed(kind, *((name, self.digest(values[name])) for name in sorted(values)))

    def _of(self, value: object) -> bytes:
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
            return hashed("network", value.config, self.digest(value.source))
        if isinstance(value, jax.Array):
            return self._array(value)
        if isinstance(value, (np.ndarray, np.generic)):
            parts = self._host(np.asarray(value))
            exact = isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap)
            return parts if exact else self._beyond(value, parts)
        if isinstance(value, np.dtype):
            return hashed("dtype", str(value))
        if isinstance(value, Mapping) and type(value) in (dict, types.MappingProxyType):
            return self._all("dict", [part for pair in value.items() for part in pair])
        if isinstance(value, (set, frozenset)):
            parts = hashed("set", *sorted(self.digest(part) for part in value))
            return parts if type(value) in (set, frozenset) else self._beyond(value, parts)
        if isinstance(value, (list, tuple)):
            kind = type(value)
            named = kind.__name__ if kind in (list, tuple) else self.digest(kind).hex()
            parts = self._all(named, value)
            return self._beyond(value, parts) if plain_state(value) else parts
        if isinstance(value, enum.Enum):
            return hashed("enum", self.digest(type(value)), value.name, self.digest(value._value_))
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            own = value.__self__
            of = own.__name__ if isinstance(own, types.ModuleType) else self.digest(own).hex()
            return hashed("builtin", of, value.__name__, *self._compiled(value))
        if value is os.environ or isinstance(value, _WEAK):
            return hashed("opaque", self.digest(type(value)))
        if (known := known_name(value)) is not None:
            return self._library(known)
        return self._object(value)

    def _library(self, name: str) -> bytes:
        root = name.partition(".")[0]
        own = version(name.removeprefix(f"{PACKAGE}.")) if root == PACKAGE else 1
        return hashed("library", name, own, version_of(root))

    def _function(self, function: types.FunctionType) -> bytes:
        if (known := known_name(function)) is not None:
            return self._library(known)
        cells = function.__closure__ or ()
        closure = [part for cell in cells for part in _contents(cell)]
        defaults = [function.__defaults__, function.__kwdefaults__]
        attributes = {k: v for k, v in vars(function).items() if k not in _IGNORED}
        if owner_of(function) is None:
            self.own = True
            code = self._code(function.__code__, function.__globals__)
        else:
            code = self._library(written_name(function))
        return hashed(
            "function",
            code,
            self._all("defaults", defaults),
            self._all("closure", closure),
            self._named("attributes", attributes),
        )

    def _code(self, code: types.CodeType, names: Mapping[str, object]) -> bytes:
        """The digest of bytecode and of what it names; `names` are the global variables."""
        parts: list[object] = [
            (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount),
            code.co_varnames[: code.co_argcount + code.co_kwonlyargcount],
            # *args, **options, generators and coroutines; not whether names are nested
            code.co_flags & (0x04 | 0x08 | 0x20 | 0x80 | 0x200),
            code.co_exceptiontable,
        ]
        used: dict[str, bytes] = {}
        listing = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
        about = {n for n, one in enumerate(listing) if (one.opname, one.argval) in _ABOUT}
        # without these and the constants that they store
        instructions = [one for n, one in enumerate(listing) if not {n, n + 1} & about]
        for number, one in enumerate(instructions):
            argument: object = one.arg
            if one.opcode in dis.hasconst:
                constant = one.argval
                own = isinstance(constant, types.CodeType)
                argument = self._code(constant, names) if own else self.digest(constant)
            elif one.opcode in dis.hasname:
                argument = one.argval
                if one.opname in _GLOBALS:
                    path, value = self._looked_up(instructions[number:], names)
                    used[path] = value
                elif one.opname == "IMPORT_NAME":
                    level, given = (two.argval for two in instructions[number - 2 : number])
                    module = self._imported(str(argument), level, given, names)
                    argument = (argument, module)
            parts.append((one.opname, argument))
        return hashed("code", *parts, *sorted(used.items()))

    def _looked_up(
        self, rest: list[dis.Instruction], names: Mapping[str, object]
    ) -> tuple[str, bytes]:
        """Resolve the global name that the first instruction loads, through attributes of modules.

        Returns:
          The name with these attributes, and the digest of its value.
        """
        path = name = str(rest[0].argval)
        if name not in names:
            # built in, or not defined yet
            return path, hashed("no global")
        value = names[name]
        for one in rest[1:]:
            attribute = one.opname in ("LOAD_ATTR", "LOAD_METHOD")
            if not isinstance(value, types.ModuleType) or not attribute:
                break
            root = owner_of(value)
            if root is not None and root != PACKAGE:
                full = f"{value.__name__}.{one.argval}"
                return f"{path}.{one.argval}", self._library(full)
            path = f"{path}.{one.argval}"
            if not hasattr(value, str(one.argval)):
                return path, hashed("no attribute")
            value = getattr(value, str(one.argval))
        return path, self.digest(value)

    def _imported(
        self, name: str, level: int, given: tuple[str, ...] | None, names: Mapping[str, object]
    ) -> bytes:
        """The digest of an import statement: of the module and of imported submodules."""
        if level:
            package = names.get("__package__") or str(names.get("__name__")).rpartition(".")[0]
            name = ".".join(
                [*str(package).split(".")[: 1 - level or None], *([name] if name else [])]
            )
        if owner_of_module(name) is not None:
            return self._of_library(name)
        if given is None:
            # `import a.b` names `a`
            return self._found(name.partition(".")[0], whole=True)
        inner = [f"{name}.{one}" for one in given if spec_of(f"{name}.{one}")]
        return hashed("import", *(self._found(one, whole=False) for one in (name, *inner)))

    def _found(self, name: str, *, whole: bool) -> bytes:
        """The digest of a module by its name, whether or not it is imported yet."""
        if (spec := spec_of(name)) is not None:
            return self._files(spec, whole=whole)
        module = sys.modules.get(name)
        return hashed("import", name) if module is None else self._module(module)

    def _module(self, module: types.ModuleType) -> bytes:
        if owner_of(module) is not None:
            return self._of_library(module.__name__)
        # the functions that are used are unknown, so that all of it counts
        if (spec := getattr(module, "__spec__", None)) is not None:
            return self._files(spec, whole=True)
        if file := getattr(module, "__file__", None):
            return self._text(Path(file), module.__package__ or "")
        values = {k: v for k, v in vars(module).items() if not k.startswith("__")}
        return self._named("module", values)

    def _of_library(self, name: str) -> bytes:
        """The digest of a library's module; for jaxticket's, with all of `VERSIONS`."""
        own = sorted(VERSIONS.items()) if name.partition(".")[0] == PACKAGE else []
        return hashed("module", self._library(name), *own) if own else self._library(name)

    def _files(self, spec: ModuleSpec, *, whole: bool) -> bytes:
        """The digest of the source files of a user's module; with `whole`, of its whole package."""
        folders = [Path(place) for place in spec.submodule_search_locations or ()]
        files = [(file, folder) for folder in folders for file in sorted(folder.rglob("*.py"))]
        if not (whole and files):
            files = [(Path(spec.origin), Path(spec.origin).parent)] if spec.origin else []
        package = spec.name if folders else spec.name.rpartition(".")[0]
        parts = []
        for file, folder in files:
            inner = file.relative_to(folder)
            parts.append((str(inner), self._text(file, ".".join([package, *inner.parts[:-1]]))))
        return hashed("module", spec.name, *parts)

    def _text(self, file: Path, package: str) -> bytes:
        """The digest of a file, of its bytecode if it is Python."""
        if file in self._texts:
            return self._texts[file]
        self._texts[file] = b"again"
        self.own = True
        # the archive, for a module in an archive
        data = next((p.read_bytes() for p in (file, *file.parents) if p.is_file()), b"")
        try:
            with warnings.catch_warnings():
                # warnings about the user's code do not belong here
                warnings.simplefilter("ignore", SyntaxWarning)
                code = compile(data, file.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            self._texts[file] = hashed("file", data)
        else:
            self._texts[file] = self._code(code, {"__package__": package})
        return self._texts[file]

    def _compiled(self, value: object) -> list[bytes]:
        """The digest of the user's compiled module that something is from."""
        module = sys.modules.get(str(getattr(value, "__module__", None)))
        file = getattr(module, "__file__", None) or ""
        if module is None or not file.endswith(tuple(EXTENSION_SUFFIXES)) or owner_of(module):
            return []
        self.own = True
        return [hashed("file", Path(file).read_bytes())]

    def _class(self, kind: type) -> bytes:
        if owner_of(kind) is not None and not _made(kind):
            return self._library(first_name(kind.__module__, kind.__qualname__))
        parts = []
        for one in kind.__mro__:
            if owner_of(one) is None:
                self.own = True
                parts += self._compiled(one)
            else:
                parts.append(self._library(first_name(one.__module__, one.__qualname__)))
                if not _made(one):
                    continue
            members = {k: v for k, v in vars(one).items() if k not in _IGNORED}
            members = {k: v for k, v in members.items() if not _is_slot(v)}
            parts.append(self._named("class", members))
        return hashed("mro", self.digest(type(kind)), *parts)

    def _array(self, value: jax.Array) -> bytes:
        if isinstance(value, Tracer):
            return hashed("traced", str(value.aval))
        if jnp.issubdtype(value.dtype, jax.dtypes.prng_key):
            return hashed(
                "key", str(value.dtype), self._host(np.asarray(jax.random.key_data(value)))
            )
        if not value.is_fully_addressable:
            return hashed("spread", str(value.aval))
        found = self._host(np.asarray(value))
        return hashed("weak", found) if value.weak_type else found

    def _host(self, value: np.ndarray) -> bytes:
        if value.dtype == object:
            return self._all(f"array {value.shape}", value.reshape(-1).tolist())
        whole = np.ascontiguousarray(value).reshape(-1).view(np.uint8).data if value.size else b""
        return hashed("array", str(value.dtype), value.shape, whole)

    def _object(self, value: object) -> bytes:
        """The digest of other objects: of the class, and the fields or the pickled state."""
        kind = self.digest(type(value))
        if owner_of(type(value)) == PACKAGE:
            # data sets, streams and runs have an identity
            if (fingerprint := getattr(value, "fingerprint", None)) is not None:
                return hashed("data", kind, fingerprint)
            if callable(own := getattr(value, "identity", None)):
                return hashed("runs", kind, self.digest(own(getattr(value, "levels", None))))
        if dataclasses.is_dataclass(value):
            fields = {f.name: getattr(value, f.name, None) for f in dataclasses.fields(value)}
            return hashed("fields", kind, self._named("fields", fields | besides_fields(value)))
        if type(value) in _WRAPPERS:
            return hashed("wrapped", kind, self.digest(getattr(value, "__wrapped__", None)))
        own = of_users_class(value)
        try:
            made = value.__reduce_ex__(2)
        except RecursionError:
            raise
        except Exception:  # objects that cannot be pickled raise many kinds
            made = None
        parts: list[object] = []
        state = None
        given: tuple[object, ...] = ()
        if isinstance(made, tuple):
            given = made[1]
            parts = [*made[:2], *(None if part is None else list(part) for part in made[3:5])]
            state = made[2] if len(made) > 2 else None
            if made[0] in (copyreg.__newobj__, copyreg.__reduce_ex__):  # type: ignore[attr-defined]
                parts[0] = None
        elif not own:
            named = ["opaque", kind] if made is None else ["global", kind, made]
            return hashed(*named, *self._compiled(value))
        if own:
            # its value as a float, a dict or another built-in type that its class derives from
            more = parts and (parts[0] is not None or len(given) > 1 or any(parts[2:]))
            of = [self._all("from", parts)] if more else []
            state = self._named("state", plain_state(value))
            return hashed("object", kind, state, *of, *self._compiled(value))
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            # the order in which attributes were set does not matter
            state = self._named("state", {k: v for k, v in state.items() if k not in _IGNORED})
        return hashed("made", kind, self.digest(state), self._all("from", parts))

    def _beyond(self, value: object, held: bytes) -> bytes:
        """The digest of an object whose class derives from one of Python's or NumPy's."""
        return hashed(
            "of", self.digest(type(value)), self._named("state", plain_state(value)), held
        )


def _contents(cell: types.CellType) -> list[object]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty: a name that gets its value later
        return []


def _made(kind: type) -> bool:
    """Whether a library created a class at run time, so that it has none of that name."""
    on_heap = kind.__flags__ & (1 << 9)
    return bool(on_heap) and known_name(kind) is None


def _is_slot(value: object) -> bool:
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))


def plain_state(value: object) -> dict[str, object]:
    """The attributes of an object, in its dict and in slots, without cached properties."""
    state = dict(getattr(value, "__dict__", {}))
    cached = set()
    for one in type(value).__mro__:
        for name, member in vars(one).items():
            if isinstance(member, types.MemberDescriptorType) and hasattr(value, name):
                state[name] = getattr(value, name)
            elif isinstance(member, functools.cached_property):
                cached.add(name)
    return {k: v for k, v in state.items() if k not in _IGNORED | cached}


def besides_fields(value: object) -> dict[str, object]:
    """The attributes of a user's dataclass that are not fields, such as from `__post_init__`."""
    owners = {owner_of(kind) for kind in type(value).__mro__}
    # those of Flax modules and the like are internal to these libraries
    if None not in owners or owners - {None, PACKAGE} - sys.stdlib_module_names:
        return {}
    own = dataclasses.fields(value) if dataclasses.is_dataclass(value) else ()
    fields = {field.name for field in own}
    return {k: v for k, v in plain_state(value).items() if k not in fields}
