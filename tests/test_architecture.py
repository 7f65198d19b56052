"""Directions of imports and rules that hold everywhere, read from the source."""

import ast
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "jaxticket"
SOURCES = sorted(PACKAGE.rglob("*.py"))
SCRIPTS = sorted((ROOT / "experiments").rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in [*SOURCES, *SCRIPTS]}


def name_of(path):
    """ "jaxticket/data/arrays.py" -> "data.arrays"; packages by their own name."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in SOURCES}
each_source = pytest.mark.parametrize("path", SOURCES, ids=lambda p: name_of(p) or "jaxticket")
each_file = pytest.mark.parametrize(
    "path", [*SOURCES, *SCRIPTS], ids=lambda p: str(p.relative_to(ROOT))
)


def imports(path, *, typing=True):
    """Full names of all that a file imports, anywhere: lazily too, and under TYPE_CHECKING."""
    found = set()
    for_types = {
        inner
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(TREES[path]):
        if node in for_types and not typing:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "importlib.import_module",
            "import_module",
            "__import__",
        ):
            found.add(ast.literal_eval(node.args[0]))
    return found


def our_imports(path):
    """The modules of this package that a file imports, without the functions in them."""
    found = set()
    for name in imports(path):
        if name == "jaxticket" or name.startswith("jaxticket."):
            inner = name.removeprefix("jaxticket").removeprefix(".")
            while inner not in MODULES:
                inner = inner.rpartition(".")[0]
            found.add(inner)
    return found


HOMES = {
    "tensorflow_datasets": ("data.tfds",),
    "tensorflow": ("data.tfds",),
    "grain": ("data.blocks",),
    "orbax": ("engine.hosts", "engine.orbax_states"),
    "etils": ("_files",),
    "fsspec": ("_files",),
    "flax": ("nn",),
    "scipy": ("connectivity", "_stats", "data.corruptions"),
    "pandas": ("results",),
    "matplotlib": ("plots",),
    "matfree": ("analysis.probes",),
}


@pytest.mark.parametrize("library", HOMES)
def test_each_library_has_one_home(library):
    users = {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == library for name in imports(path, typing=False))
    }
    homes = HOMES[library]
    strangers = {u for u in users if not any(u == h or u.startswith(f"{h}.") for h in homes)}
    assert not strangers
    if library != "tensorflow":
        assert users, f"nothing imports {library} any more: is it still a dependency?"


# packages and top-level modules import from their own layer and those before it
LAYERS = (
    (
        "typing",
        "_check",
        "_conditions",
        "_extras",
        "_progress",
        "_promotion",
        "_show",
        "_tree",
        "_files",
        "_identity",
        "_stats",
        "_npz_ticket",
        "random",
        "masks",
        "rescaling",
        "settings",
        "pruning_settings",
        "labels",
        "losses",
        "metrics",
        "stopping",
        "teacher",
    ),
    ("data", "nn"),
    (
        "ticket",
        "_ticket_arrays",
        "_ticket_file",
        "_drawn",
        "compaction",
        "sparse_format",
        "export",
        "results",
        "_saved",
        "engine",
        "problem",
        "pruning",
    ),
    ("runs", "controls", "loops", "callbacks"),
    ("sparsify", "connectivity", "transferring"),
    ("analysis", "loading"),
    ("plots", "presets"),
    ("reporting",),
    ("cli",),
    ("",),
    ("__main__",),
)
LAYER = {name: number for number, names in enumerate(LAYERS) for name in names}


@each_source
def test_imports_point_one_way(path):
    own = name_of(path).split(".")[0]
    assert own in LAYER, f"give {own!r} its place in LAYERS"
    later = {other for other in our_imports(path) if LAYER[other.split(".")[0]] > LAYER[own]}
    assert not later


@pytest.mark.parametrize("module", [m for m in MODULES if m and m != "__main__"])
def test_no_function_shares_its_name_with_a_module(module):
    """`import jaxticket.nn.layers as l` gives the module, whatever the package exports."""
    parent, _, leaf = f"jaxticket.{module}".rpartition(".")
    imported = importlib.import_module(f"{parent}.{leaf}")
    assert getattr(importlib.import_module(parent), leaf) is imported


def test_imports_have_no_circle():
    """Sideways imports are allowed, circles are not, lazy ones included."""
    edges = {module: our_imports(path) - {module} for module, path in MODULES.items()}
    done, under_way = set(), []

    def visit(module):
        assert module not in under_way, f"circle: {[*under_way, module]}"
        if module not in done:
            under_way.append(module)
            for other in edges[module]:
                # a module of a package imports its siblings, which the package itself exports
                if not module.startswith(f"{other}.") or other == "":
                    visit(other)
            under_way.pop()
            done.add(module)

    for module in MODULES:
        visit(module)
    assert done == set(MODULES)


def reached(module):
    """Everything that importing a module imports of this package."""
    found, left = set(), [module]
    while left:
        at = left.pop()
        for other in our_imports(MODULES[at]) - found:
            found.add(other)
            left.append(other)
    return found


@pytest.mark.parametrize("module", [m for m in MODULES if m.split(".")[0] in ("plots", "results")])
def test_tables_and_figures_know_no_training(module):
    found = {m.split(".")[0] for m in reached(module)}
    assert not found & {"engine", "pruning", "sparsify", "runs", "controls"}


def test_the_engine_knows_no_tickets():
    found = {m.split(".")[0] for m in MODULES if m.startswith("engine") for m in reached(m)}
    assert not found & {"pruning", "sparsify", "runs", "controls", "ticket"}


@pytest.mark.parametrize("module", [m for m in MODULES if m.startswith("pruning.scores")])
def test_scores_know_no_training(module):
    assert not {m.split(".")[0] for m in reached(module)} & {"engine", "settings"}


def test_there_is_no_drawer_for_odds_and_ends():
    names = {part for module in MODULES for part in module.split(".")}
    assert not names & {"utils", "util", "helpers", "common", "misc"}


def is_public(name):
    return not name.startswith("_")


def is_overload(node):
    """Whether a function is an overload: the implementation says what it does."""
    return any(ast.unparse(one) == "overload" for one in node.decorator_list)


@each_source
def test_everything_public_has_a_docstring(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), "the module"
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    bare = []
    for node in tree.body:
        if isinstance(node, (*functions, ast.ClassDef)) and is_public(node.name):
            if not ast.get_docstring(node) and not is_overload(node):
                bare.append(node.name)
            if isinstance(node, ast.ClassDef):
                bare += [
                    f"{node.name}.{inner.name}"
                    for inner in node.body
                    if isinstance(inner, functions)
                    and is_public(inner.name)
                    and not ast.get_docstring(inner)
                    and not is_overload(inner)
                    # a protocol says once what it is called for
                    and not any("Protocol" in ast.unparse(base) for base in node.bases)
                ]
    assert not bare


GLOBAL = re.compile(r"(np|numpy)\.random\.[a-z]\w*|hash|random\.(random|seed|shuffle|choice)")


@each_file
def test_no_hash_of_python_and_no_global_randomness(path):
    """git-re-basin: `hash` of a string is salted again in every process."""
    allowed = {"np.random.default_rng", "numpy.random.default_rng"}
    hashing = {
        inner
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.FunctionDef) and node.name == "__hash__"
        for inner in ast.walk(node)
    }
    found = [
        f"line {node.lineno}: {ast.unparse(node.func)}"
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call)
        and node not in hashing
        and ast.unparse(node.func) not in allowed
        and GLOBAL.fullmatch(ast.unparse(node.func))
    ]
    assert not found


@each_file
def test_no_key_of_a_fixed_seed_as_default(path):
    """jaxpruner: a default `PRNGKey(8)` gives every seed the same random masks."""
    found = []
    for node in ast.walk(TREES[path]):
        if isinstance(node, (ast.FunctionDef, ast.Lambda)):
            defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
            found += [ast.unparse(d) for d in defaults if "key(" in ast.unparse(d).lower()]
        if isinstance(node, ast.Attribute) and node.attr == "PRNGKey":
            found.append(f"line {node.lineno}: PRNGKey")
    assert not found


# random and initializers speak of keys first; controls are called `change(ticket, key)`
OTHER_KEYS = ("random", "controls", "nn.initializers")


@pytest.mark.parametrize("module", [m for m in MODULES if m not in OTHER_KEYS])
def test_keys_are_keyword_only(module):
    """`key` is keyword-only in what is public and of no fixed protocol."""
    path = MODULES[module]
    found = [
        node.name
        for node in TREES[path].body
        if isinstance(node, ast.FunctionDef)
        and is_public(node.name)
        and "key" in [a.arg for a in node.args.args]
    ]
    assert not found


@each_file
def test_no_flag_of_type_bool(path):
    """Synaptic-Flow: with `type=bool`, `--pretrained False` is True."""
    found = [
        node.lineno
        for node in ast.walk(TREES[path])
        if isinstance(node, ast.Call)
        and any(k.arg == "type" and ast.unparse(k.value) == "bool" for k in node.keywords)
    ]
    assert not found


@each_file
def test_nothing_removed_from_jax_and_no_quitting(path):
    """jaxpruner uses `jax.tree_map`, gone since JAX 0.6; Synaptic-Flow calls `quit()` on errors."""
    found = [
        f"line {node.lineno}: {ast.unparse(node)}"
        for node in ast.walk(TREES[path])
        if (isinstance(node, ast.Attribute) and ast.unparse(node) in ("jax.tree_map", "jax.pmap"))
        or (isinstance(node, ast.Call) and ast.unparse(node.func) in ("quit", "exit", "os._exit"))
    ]
    assert not found


def test_the_public_names_exist_and_are_listed_once():
    package = importlib.import_module("jaxticket")
    assert len(set(package.__all__)) == len(package.__all__)
    assert all(hasattr(package, name) for name in package.__all__)


HEAVY = (
    "pandas", "orbax", "matplotlib", "scipy", "sklearn", "tensorflow", "tensorflow_datasets",
    "grain",
)  # fmt: skip
IMPORTING = f"""
import sys, jaxticket as jt
print(*(m for m in {HEAVY} if m in sys.modules))
import jax
jt.cpu_devices(3)
print(jax.device_count())
"""


def test_importing_the_package_is_light_and_does_not_start_jax():
    """Otherwise `jt.cpu_devices()`, the first call of scripts and notebooks, comes too late."""
    environment = {k: v for k, v in os.environ.items() if k != "JAX_NUM_CPU_DEVICES"}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING],
        env=environment, cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    heavy, devices = done.stdout.splitlines()
    # jax itself imports some of scipy
    assert set(heavy.split()) <= {"scipy"} and devices == "3"
