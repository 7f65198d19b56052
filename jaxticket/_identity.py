"""What functions compute, as a short text: how run folders tell code from other code of its name.

Functions of jaxticket and of installed libraries are known by their names and versions. Code of the
user's own is known by what it does: its bytecode (without comments, docstrings, names of local
variables and lines), default arguments, the values in its closure, and all that it names:
functions, classes with their bases, constants, arrays by their content, in their turn. Of modules
that it imports when it runs, and of those that it passes on, the files count, with those that they
import. The same code gives the same text in every process.

What is not seen:

- what a library does differently in another version: `environment.json` records the versions of
  those that jaxticket needs; the versions of others count, and where they were installed from a
  folder or a repository, their files; edits of installed files are not seen, nor those of jaxticket
- what code does to libraries: functions put in place of theirs, what is registered with them
  (pytrees, primitives), their settings
- files and environment variables that a function reads when it runs
- attributes that are looked up by a computed name, and code that is made of a text
- values that are set from outside in a module that a function imports when it runs, and that such a
  module was loaded before its file was edited
- the state of objects that neither have fields nor can be pickled, such as generators, compiled
  programs and functions of `ctypes` or `np.frompyfunc`, and arrays spread over processes

A folder is refused though results are the same where values change that code names and does not
use, such as another field of a global object, or a cache that it fills; where other names give
variables of a closure another order; and between minor versions of Python (3.11, 3.12), whose
bytecode differs. Code that names some hundred and fifty parts one inside the other is too deep for
Python's recursion limit.
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
import os
import pkgutil
import site
import sys
import sysconfig
import types
import warnings
import weakref
from collections.abc import Iterable, Mapping
from importlib import metadata
from importlib.machinery import EXTENSION_SUFFIXES, ModuleSpec
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer

from jaxticket.typing import Network

VERSIONS: dict[str, int] = {"sparsify.learned.distillation.Distillation": 2}
"""Versions of what jaxticket computes, 1 where nothing is said: raise one in the commit that
changes results, and folders of the version before are refused (or, where the folder's name is made
of its settings, another folder is used).

Keys are functions, classes and their methods without the package's name
("pruning.scores._snip.snip", "sparsify.learned.relaxations.Concrete"), networks
("nn.resnet20"), kinds of runs ("find_tickets", "prune_at", "search", "branch",
"instability", "transfer", "verdict", "telemetry"), and "training",
which all of these share.
"""

# their versions are in environment.json, and a change of them is a warning
_ENVIRONMENT = {"jax", "jaxlib", "numpy", "flax", "optax", "orbax", "ml_dtypes", "chex"}
_PACKAGE = "jaxticket"
_FROM_CODE = ("from_linen", "from_nnx", "from_functions")
# of classes and functions: what they say of themselves, and what others keep in them
_IGNORED = {
    "__abstractmethods__", "__annotate__", "__annotate_func__", "__annotations__",
    "__annotations_cache__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__",
    "__firstlineno__", "__match_args__", "__module__", "__name__", "__orig_bases__",
    "__parameters__", "__qualname__", "__repr__", "__slotnames__", "__static_attributes__",
    "__str__", "__type_params__", "__weakref__", "_abc_impl", "_value2member_map_",
}  # fmt: skip
# in bodies of classes and modules: what the compiler notes of the text
_ABOUT = {("STORE_NAME", f"__{name}__") for name in ("doc", "firstlineno", "static_attributes")}
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
    """The identity of a function, class, partial function or other object."""
    name = name_of(function)
    walk = _Walk()
    digest = walk.digest(function).hex()[:16]
    if _known(function) is not None and not walk.own:
        own = version(name.removeprefix(f"{_PACKAGE}."))
        told = _version_of(name.partition(".")[0]) or ("" if own == 1 else str(own))
        return Code(name, f"version {told}" if told else None)
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
        code = f"version {version(f'nn.{constructor}')}"
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
        _look_at(besides_fields(value))
        code_of(type(value))
    elif isinstance(value, Mapping):
        _look_at(list(value.values()))
    elif isinstance(value, (list, tuple)):
        for part in value:
            _look_at(part)
    elif callable(value):
        code_of(value)


def name_of(function: Any) -> str:
    """Module and qualified name of a function or of an object's class; never an address."""
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


def besides_fields(value: Any) -> dict[str, Any]:
    """The attributes of a dataclass of the user's own that are no fields, such as those that its
    `__post_init__` sets.
    """
    owners = {_owner(kind) for kind in type(value).__mro__}
    # in modules of Flax and the like they are what those keep for themselves
    if None not in owners or owners - {None, _PACKAGE} - sys.stdlib_module_names:
        return {}
    fields = {field.name for field in dataclasses.fields(value)}
    return {k: v for k, v in _plain_state(value).items() if k not in fields}


# caches, which change with use
_WEAK = (weakref.WeakKeyDictionary, weakref.WeakValueDictionary, weakref.WeakSet)
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
    return any(
        path.relative_to(folder).as_posix() in _recorded(folder)
        for folder in list(path.parents)[:3]
    )


@functools.lru_cache(maxsize=256)
def _recorded(folder: Path) -> frozenset[str]:
    """The files that distributions have put into a folder, and the folders of these."""
    found: set[str] = set()
    for record in folder.glob("*.dist-info/RECORD"):
        for line in record.read_text("utf-8").splitlines():
            file = PurePosixPath(line.partition(",")[0])
            found |= {str(file), *map(str, file.parents)}
    return frozenset(found)


def _owner_of_module(name: str) -> str | None:
    """The root package of a module of jaxticket or of a library; None for one of the user's."""
    root = name.partition(".")[0]
    if root == "__main__":
        return None  # under a profiler, its file is that of the profiler
    if root == _PACKAGE or root in _ENVIRONMENT or root in sys.builtin_module_names:
        return root
    module = sys.modules.get(root)
    file = getattr(module, "__file__", None)
    if file is not None:
        places = [file]
    elif module is not None and getattr(module, "__spec__", None) is None:
        return None  # made by hand
    else:
        # the same answer whether or not the module is imported yet
        spec = _spec(root)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else spec.submodule_search_locations or []
    if root in sys.stdlib_module_names:
        # a file of the user's own may have the name of one of Python's modules
        places = [place for place in places if str(place).endswith(".py")]
    return root if all(_installed(place) for place in places if place) else None


def _spec(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing the packages that it is in."""
    package = name.rpartition(".")[0]
    if package:
        above = _spec(package)
        places = () if above is None else above.submodule_search_locations or ()
        found = (finder.find_spec(name) for finder in map(pkgutil.get_importer, places) if finder)
        return next((spec for spec in found if spec is not None), None)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


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
        return _release(root)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(root, [])
        return ", ".join(f"{name} {_release(name)}" for name in sorted(found))


def _release(name: str) -> str:
    """The version of a distribution; where it was installed from a folder, an archive or a
    repository, whose code may change under the same version, with a digest of its files.
    """
    found = metadata.distribution(name)
    if found.read_text("direct_url.json") is None:
        return found.version
    lines = (found.read_text("RECORD") or "").splitlines()
    # not its scripts, which name the folder of Python, nor what it notes of itself
    files = [one for one in lines if ".dist-info/" not in one and not one.startswith("..")]
    hashed = sorted(one for one in files if "sha256=" in one)
    return f"{found.version} {_hash(*hashed).hex()[:16]}"


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
        self._texts: dict[Path, bytes] = {}
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
            parts = self._host(np.asarray(value))
            exact = isinstance(value, np.generic) or type(value) in (np.ndarray, np.memmap)
            return parts if exact else self._beyond(value, parts)
        if isinstance(value, np.dtype):
            return _hash("dtype", str(value))
        if type(value) in (dict, types.MappingProxyType):
            return self._all("dict", [part for pair in value.items() for part in pair])
        if isinstance(value, (set, frozenset)):
            parts = _hash("set", *sorted(self.digest(part) for part in value))
            return parts if type(value) in (set, frozenset) else self._beyond(value, parts)
        if isinstance(value, (list, tuple)):
            kind = type(value)
            named = kind.__name__ if kind in (list, tuple) else self.digest(kind).hex()
            parts = self._all(named, value)
            return self._beyond(value, parts) if _plain_state(value) else parts
        if isinstance(value, enum.Enum):
            return _hash("enum", self.digest(type(value)), value.name, self.digest(value._value_))
        if isinstance(value, (types.BuiltinFunctionType, types.MethodWrapperType)):
            own = value.__self__
            of = own.__name__ if isinstance(own, types.ModuleType) else self.digest(own).hex()
            return _hash("builtin", of, value.__name__, *self._compiled(value))
        if value is os.environ or isinstance(value, _WEAK):
            return _hash("opaque", self.digest(type(value)))
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
        found = [one for one in dis.get_instructions(code) if one.opname != "EXTENDED_ARG"]
        about = {n for n, one in enumerate(found) if (one.opname, one.argval) in _ABOUT}
        # nor the constant that is stored there
        instructions = [one for n, one in enumerate(found) if not {n, n + 1} & about]
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
                    level, given = (two.argval for two in instructions[number - 2 : number])
                    said = (said, self._imported(str(said), level, given, names))
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

    def _imported(
        self, name: str, level: int, given: tuple[str, ...] | None, names: Mapping[str, Any]
    ) -> bytes:
        """What code imports when it runs: a module, and the modules among the names that it takes
        from it.
        """
        if level:
            package = names.get("__package__") or str(names.get("__name__")).rpartition(".")[0]
            name = ".".join([*package.split(".")[: 1 - level or None], *([name] if name else [])])
        if _owner_of_module(name) is not None:
            return self._of_library(name)
        if given is None:
            # `import a.b` names `a`
            return self._found(name.partition(".")[0], whole=True)
        inner = [f"{name}.{one}" for one in given if _spec(f"{name}.{one}")]
        return _hash("import", *(self._found(one, whole=False) for one in (name, *inner)))

    def _found(self, name: str, *, whole: bool) -> bytes:
        """A module by its name, whether or not it is imported yet."""
        if (spec := _spec(name)) is not None:
            return self._files(spec, whole=whole)
        module = sys.modules.get(name)
        return _hash("import", name) if module is None else self._module(module)

    def _module(self, module: types.ModuleType) -> bytes:
        if _owner(module) is not None:
            return self._of_library(module.__name__)
        # which of its functions are used is not known: all of it counts
        if (spec := getattr(module, "__spec__", None)) is not None:
            return self._files(spec, whole=True)
        if file := getattr(module, "__file__", None):
            return self._text(Path(file), module.__package__ or "")
        values = {k: v for k, v in vars(module).items() if not k.startswith("__")}
        return self._named("module", values)

    def _of_library(self, name: str) -> bytes:
        """A module of a library; of jaxticket, it is not known what is used of it."""
        own = sorted(VERSIONS.items()) if name.partition(".")[0] == _PACKAGE else []
        return _hash("module", self._library(name), *own) if own else self._library(name)

    def _files(self, spec: ModuleSpec, *, whole: bool) -> bytes:
        """The code of a module of the user's own and of those that it imports, as their files say
        it; on demand that of all modules in a package.
        """
        folders = [Path(place) for place in spec.submodule_search_locations or ()]
        files = [(file, folder) for folder in folders for file in sorted(folder.rglob("*.py"))]
        if not (whole and files):
            files = [(Path(spec.origin), Path(spec.origin).parent)] if spec.origin else []
        package = spec.name if folders else spec.name.rpartition(".")[0]
        parts = []
        for file, folder in files:
            inner = file.relative_to(folder)
            parts.append((str(inner), self._text(file, ".".join([package, *inner.parts[:-1]]))))
        return _hash("module", spec.name, *parts)

    def _text(self, file: Path, package: str) -> bytes:
        """What a file holds; where it is Python, without comments and the like."""
        if file in self._texts:
            return self._texts[file]
        self._texts[file] = b"again"
        self.own = True
        # of a module in an archive, the archive
        data = next((p.read_bytes() for p in (file, *file.parents) if p.is_file()), b"")
        try:
            with warnings.catch_warnings():
                # what Python says of the user's own text is not for here
                warnings.simplefilter("ignore", SyntaxWarning)
                code = compile(data, file.name, "exec", dont_inherit=True)
        except (SyntaxError, ValueError):
            self._texts[file] = _hash("file", data)
        else:
            self._texts[file] = self._code(code, {"__package__": package})
        return self._texts[file]

    def _compiled(self, value: Any) -> list[bytes]:
        """The file of a compiled module of the user's own that something is from."""
        module = sys.modules.get(str(getattr(value, "__module__", None)))
        file = getattr(module, "__file__", None) or ""
        if module is None or not file.endswith(tuple(EXTENSION_SUFFIXES)) or _owner(module):
            return []
        self.own = True
        return [_hash("file", Path(file).read_bytes())]

    def _class(self, kind: type) -> bytes:
        if _owner(kind) is not None and not _made(kind):
            return self._library(f"{kind.__module__}.{kind.__qualname__}")
        parts = []
        for one in kind.__mro__:
            if _owner(one) is None:
                self.own = True
                parts += self._compiled(one)
            else:
                parts.append(self._library(f"{one.__module__}.{one.__qualname__}"))
                if not _made(one):
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
        found = self._host(np.asarray(value))
        return _hash("weak", found) if value.weak_type else found

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
            return _hash("fields", kind, self._named("fields", fields | besides_fields(value)))
        if type(value) in _WRAPPERS:
            return _hash("wrapped", kind, self.digest(getattr(value, "__wrapped__", None)))
        own = of_users_class(value)
        try:
            made = value.__reduce_ex__(2)
        except RecursionError:
            raise
        except Exception:  # what cannot be pickled says so in many ways
            made = None
        parts: list[Any] = []
        state = None
        if isinstance(made, tuple):
            parts = [*made[:2], *(None if part is None else list(part) for part in made[3:5])]
            state = made[2] if len(made) > 2 else None
            if made[0] in (copyreg.__newobj__, copyreg.__reduce_ex__):  # type: ignore[attr-defined]
                parts[0] = None
        elif not own:
            named = ["opaque", kind] if made is None else ["global", kind, made]
            return _hash(*named, *self._compiled(value))
        if own:
            # what it holds as a float, a dict or another type that its class is made of
            more = parts and (parts[0] is not None or len(parts[1]) > 1 or any(parts[2:]))
            of = [self._all("from", parts)] if more else []
            state = self._named("state", _plain_state(value))
            return _hash("object", kind, state, *of, *self._compiled(value))
        if isinstance(state, dict) and all(isinstance(name, str) for name in state):
            # the order in which attributes were set says nothing
            state = self._named("state", {k: v for k, v in state.items() if k not in _IGNORED})
        return _hash("made", kind, self.digest(state), self._all("from", parts))

    def _beyond(self, value: Any, held: bytes) -> bytes:
        """An object of a class made of one of Python's or NumPy's, which holds what they do."""
        return _hash(
            "of", self.digest(type(value)), self._named("state", _plain_state(value)), held
        )


def _contents(cell: types.CellType) -> list[Any]:
    try:
        return [cell.cell_contents]
    except ValueError:  # empty: a name that gets its value later
        return []


def _made(kind: type) -> bool:
    """Whether a library made a class of others when it ran: it knows none of that name."""
    on_heap = kind.__flags__ & (1 << 9)
    return bool(on_heap) and _known(kind) is None


def _is_slot(value: Any) -> bool:
    return isinstance(value, (types.MemberDescriptorType, types.GetSetDescriptorType))


def _plain_state(value: Any) -> dict[str, Any]:
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
