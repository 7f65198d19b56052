"""Whose code something is (jaxticket's, a library's or the user's), and of which version."""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import inspect
import pkgutil
import site
import sys
import sysconfig
import types
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path, PurePosixPath

VERSIONS: dict[str, int] = {"sparsify.learned.distillation.Distillation": 2}
"""Versions of jaxticket's computations, 1 by default: raise one in the commit that changes results,
and folders of the previous version are refused (or, where the folder's name is derived from its
settings, another folder is used).

Keys are functions, classes and their methods without the package's name
("pruning.scores._snip.snip", "sparsify.learned.relaxations.Concrete"), networks
("nn.resnet20"), kinds of runs ("find_tickets", "prune_at", "search", "branch",
"instability", "transfer", "verdict", "telemetry"), and "training",
which all of these share.
"""

MOVED: dict[str, str] = {
    "jaxticket.settings:Loaded": "jaxticket.pruning_settings:Loaded",
    "jaxticket.settings:PruningAtStep": "jaxticket.pruning_settings:PruningAtStep",
    "jaxticket.settings:PruningSettings": "jaxticket.pruning_settings:PruningSettings",
    "jaxticket.sparsify.at_step:EarlyPruning": "jaxticket.sparsify.early_pruning:EarlyPruning",
}
"""Where classes stand today that run folders know by an older module, as "module:name"."""
_FIRST = {now: first for first, now in MOVED.items()}

# their versions are in environment.json, and a change of them is a warning
ENVIRONMENT = {"jax", "jaxlib", "numpy", "flax", "optax", "orbax", "ml_dtypes", "chex"}
PACKAGE = "jaxticket"


def version(name: str) -> int:
    """The version of a computation of jaxticket; see `VERSIONS`."""
    return VERSIONS.get(name, 1)


def name_of(function: object) -> str:
    """Module and qualified name of a function or of an object's class; never an address."""
    if isinstance(function, functools.partial):
        return f"functools.partial of {name_of(function.func)}"
    if isinstance(function, types.MethodType):
        function = function.__func__
    named = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(named, str):
        function = type(function)
        named = function.__qualname__
    return first_name(getattr(function, "__module__", None) or "", named)


def of_users_class(value: object) -> bool:
    """Whether an object's class is the user's code."""
    return owner_of(type(value)) is None


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


def owner_of_module(name: str) -> str | None:
    """The root package of a module of jaxticket or of a library; None for one of the user's."""
    root = name.partition(".")[0]
    if root == "__main__":
        return None  # under a profiler, its file is that of the profiler
    if root == PACKAGE or root in ENVIRONMENT or root in sys.builtin_module_names:
        return root
    module = sys.modules.get(root)
    file = getattr(module, "__file__", None)
    if file is not None:
        places = [file]
    elif module is not None and getattr(module, "__spec__", None) is None:
        return None  # made by hand
    else:
        # the same answer whether or not the module is imported yet
        spec = spec_of(root)
        if spec is None:
            return None
        places = [spec.origin] if spec.has_location else spec.submodule_search_locations or []
    if root in sys.stdlib_module_names:
        # a file of the user's own may have the name of one of Python's modules
        places = [place for place in places if str(place).endswith(".py")]
    return root if all(_installed(place) for place in places if place) else None


def spec_of(name: str) -> ModuleSpec | None:
    """Where a module is, found without importing the packages that it is in."""
    package = name.rpartition(".")[0]
    if package:
        above = spec_of(package)
        places = () if above is None else above.submodule_search_locations or ()
        found = (finder.find_spec(name) for finder in map(pkgutil.get_importer, places) if finder)
        return next((spec for spec in found if spec is not None), None)
    try:
        return importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return None


def owner_of(value: object) -> str | None:
    """The root package that a function, class or module is from; None for the user's code."""
    if isinstance(value, types.FunctionType):
        # not its `__module__`: decorators of libraries take that of what they decorate
        module = value.__globals__.get("__name__")
    elif isinstance(value, types.ModuleType):
        module = value.__name__
    else:
        module = getattr(value, "__module__", None)
    return owner_of_module(module) if isinstance(module, str) else None


@functools.lru_cache(maxsize=256)
def version_of(root: str) -> str:
    """The version of a library; empty if environment.json records it."""
    if root == PACKAGE or root in ENVIRONMENT or root in sys.stdlib_module_names:
        return ""
    try:
        return _release(root)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(root, [])
        return ", ".join(f"{name} {_release(name)}" for name in sorted(found))


def _release(name: str) -> str:
    """The version of a distribution, with a digest of its files unless it is from an index.

    Code that was installed from a folder, an archive or a repository may change under the same
    version.
    """
    found = metadata.distribution(name)
    if found.read_text("direct_url.json") is None:
        return found.version
    lines = (found.read_text("RECORD") or "").splitlines()
    # not its scripts, which name the folder of Python, nor what it notes of itself
    files = [one for one in lines if ".dist-info/" not in one and not one.startswith("..")]
    digests = sorted(one for one in files if "sha256=" in one)
    return f"{found.version} {hashed(*digests).hex()[:16]}"


def known_name(value: object) -> str | None:
    """The name under which a library or jaxticket has a function, class or object, or None."""
    if isinstance(value, (types.FunctionType, type)) and owner_of(value) is None:
        return None
    module = getattr(value, "__module__", None)
    named = getattr(value, "__qualname__", None) or getattr(value, "__name__", None)
    if not isinstance(module, str) or not isinstance(named, str) or not owner_of_module(module):
        return None
    found: object = sys.modules.get(module)
    for part in named.split("."):
        # without calling properties
        found = inspect.getattr_static(found, part, None)
        found = found.__func__ if isinstance(found, (staticmethod, classmethod)) else found
    return first_name(module, named) if found is value else None


def first_name(module: str, named: str, between: str = ".") -> str:
    """The name by which run folders know a class or its method, wherever it has moved since.

    Args:
      module, named: module and qualified name today.
      between: what stands between the two.
    """
    head, dot, rest = named.partition(".")
    today = f"{module}:{head}"
    module, _, head = _FIRST.get(today, today).partition(":")
    return f"{module}{between}{head}{dot}{rest}"


def written_name(function: types.FunctionType) -> str:
    """The module and name of a function's code, whatever its attributes say."""
    return f"{function.__globals__.get('__name__')}.{function.__code__.co_qualname}"


def hashed(*parts: object) -> bytes:
    """Sha256 of parts, with their types and lengths as separators."""
    total = hashlib.sha256()
    for part in parts:
        if isinstance(part, (tuple, list)):
            part = hashed(*part)
        data = part if isinstance(part, (bytes, memoryview)) else repr(part).encode()
        total.update(f"{type(part).__name__} {len(data)} ".encode())
        total.update(data)
    return total.digest()
