"""Results of other code are never taken for those of this one: identities of functions."""

import dataclasses
import enum
import importlib
import importlib.machinery
import json
import os
import subprocess
import sys
import types
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_classes import DATA, NET

import jaxticket as jt
from jaxticket import _identity
from jaxticket._identity.owner import version_of
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import Bernoulli

TRAINING = jt.Training(steps=2, batch_size=8, eval_every=2)

# a user's module; each kind of change is a replacement in this text
SOURCE = '''
"""A module of the user's own."""
import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

FACTOR = 2.0
TABLE = np.asarray([1.0, 3.0])
NAMES = {"dense_0", "dense_1", "bias", "kernel"}


def helper(w):
    """Doubles."""  # a comment
    return w * FACTOR + 0 * len(NAMES)


def scaled(ticket, by):
    return ticket.replace(params=jax.tree.map(lambda w: by(w), ticket.params))


def body(ticket, key, *, net):
    """A change."""
    del key, net
    return scaled(ticket, lambda w: w * 1.5)


def by_global(ticket, key, *, net):
    return scaled(ticket, helper)


def by_array(ticket, key, *, net):
    return scaled(ticket, lambda w: w * jnp.float32(TABLE[1]))


def by_module(ticket, key, *, net):
    return scaled(ticket, aside.double)


def made(factor):
    def closure(ticket, key, *, net):
        return scaled(ticket, lambda w: w * factor)

    return closure


closure = made(4.0)
anonymous = lambda ticket, key, *, net: scaled(ticket, lambda w: w * 5.0)


def with_default(ticket, key, *, net, factor=6.0):
    return scaled(ticket, lambda w: w * factor)


def with_option(ticket, key, *, net, factor):
    return scaled(ticket, lambda w: w * factor)


partial = functools.partial(with_option, factor=7.0)


class Base:
    offset = 0.5

    def inner(self, w):
        return w * self.factor + self.offset


class Change(Base):
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, ticket, key, *, net):
        return scaled(ticket, self.inner)


called = Change(8.0)


@dataclasses.dataclass(frozen=True)
class Frozen:
    factor: float = 9.0

    def __call__(self, ticket, key, *, net):
        return scaled(ticket, self.inner)

    def inner(self, w):
        return w * self.factor / 1.0


frozen = Frozen()


def score(params, context, *, key):
    return jax.tree.map(lambda w: jnp.abs(w) * 1.0, params)


class Module(nn.Module):
    width: int = 3

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(self.width)(x.reshape(x.shape[0], -1))
        return nn.Dense(2)(self.activation(x))

    def activation(self, x):
        return nn.relu(x)


class Nnx(nnx.Module):
    def __init__(self, rngs):
        self.dense = nnx.Linear(9, 2, rngs=rngs)

    def __call__(self, x):
        return 1.0 * self.dense(x.reshape(x.shape[0], -1))


def init(key):
    return {"w": {"kernel": jax.random.normal(key, (9, 2))}}, {}


def apply(params, stats, x, *, train):
    return 1.0 * x.reshape(x.shape[0], -1) @ params["w"]["kernel"], stats


def distance(a, b):
    return 1.0
'''


ASIDE = """
def double(w):
    return w * FACTOR_ASIDE

def unused(w):
    return w * 0.0

FACTOR_ASIDE = 2.0
"""


def module(*replaced, name="mine"):
    """The user's module as it is after an edit; another one each time, as in another session."""
    texts = [SOURCE, ASIDE]
    for old, new in replaced:
        assert sum(text.count(old) for text in texts) == 1, old
        texts = [text.replace(old, new) for text in texts]
    made, aside = types.ModuleType(name), types.ModuleType("aside")
    for one, text in zip((made, aside), texts, strict=True):
        exec(compile(text, f"{one.__name__}.py", "exec", dont_inherit=True), vars(one))
    vars(made)["aside"] = aside
    return made


@pytest.fixture(scope="module")
def runs():
    pruning = jt.Pruning(levels=1, fraction=0.5)
    return jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=(0,), progress=False)


BRANCHES = {
    "body": ("body", ("w * 1.5", "w + 1.5")),
    "global constant of a helper": ("by_global", ("FACTOR = 2.0", "FACTOR = 2.5")),
    "helper": ("by_global", ("w * FACTOR +", "w / FACTOR +")),
    "function it calls": ("closure", ("lambda w: by(w)", "lambda w: by(by(w))")),
    "function of another module": ("by_module", ("w * FACTOR_ASIDE", "w / FACTOR_ASIDE")),
    "constant of another module": ("by_module", ("FACTOR_ASIDE = 2.0", "FACTOR_ASIDE = 2.5")),
    "global array": ("by_array", ("[1.0, 3.0]", "[1.0, 3.5]")),
    "global set": ("by_global", ('"bias", "kernel"}', '"bias"}')),
    "closure": ("closure", ("made(4.0)", "made(4.5)")),
    "lambda": ("anonymous", ("w * 5.0", "w * 5.5")),
    "default": ("with_default", ("factor=6.0", "factor=6.5")),
    "partial argument": ("partial", ("factor=7.0", "factor=7.5")),
    "partial function": ("partial", ("net, factor):\n    return scaled(ticket, lambda w: w *",
                                     "net, factor):\n    return scaled(ticket, lambda w: w /")),
    "field": ("called", ("Change(8.0)", "Change(8.5)")),
    "inherited method": ("called", ("w * self.factor + self", "w / self.factor + self")),
    "class attribute": ("called", ("offset = 0.5", "offset = 0.0")),
    "field of a dataclass": ("frozen", ("factor: float = 9.0", "factor: float = 9.5")),
    "method of a dataclass": ("frozen", ("w * self.factor / 1.0", "w * self.factor / 2.0")),
}  # fmt: skip


@pytest.mark.parametrize(("name", "edit"), BRANCHES.values(), ids=BRANCHES)
def test_a_folder_of_other_code_is_refused(runs, tmp_path, name, edit):
    def branch(*replaced):
        change = getattr(module(*replaced), name)
        return jt.branch(runs, change, name="mine", folder=tmp_path / "run", progress=False)

    first = branch()
    # what changes nothing: comments, docstrings, places, names of local variables
    again = branch(
        ("Doubles.", "Makes it twice as large."),
        ("  # a comment", ""),
        ('"""A change."""\n    del key, net', "\n\n    del key, net"),
        ("def made(factor):", "def made(factor):\n"),
        ("w * 0.0", "w * 0.5"),
    )
    assert again.table().equals(first.table())
    with pytest.raises(RunFolderError, match=r"mine|change.factor` is 9.0 there and 9.5 here"):
        branch(edit)


def find(folder, net=NET, **options):
    options = {"pruning": jt.Pruning(levels=0), "seeds": (0,), **options}
    return jt.find_tickets(net, DATA, TRAINING, folder=folder, progress=False, **options)


NETWORKS = {
    "linen body": (lambda m: jt.from_linen(m.Module(), DATA.shape, name="own"),
                   ("return nn.relu(x)", "return 0 * x")),
    "nnx": (lambda m: jt.from_nnx(m.Nnx, DATA.shape, name="own"), ("1.0 * self", "2.0 * self")),
    "functions": (lambda m: jt.from_functions(m.init, m.apply, name="own", shape=DATA.shape),
                  ("return 1.0 * x", "return 2.0 * x")),
    "initializer": (lambda m: jt.from_functions(m.init, m.apply, name="own", shape=DATA.shape),
                    ("jax.random.normal(key", "jax.random.uniform(key")),
}  # fmt: skip


@pytest.mark.parametrize(("make", "edit"), NETWORKS.values(), ids=NETWORKS)
def test_a_network_of_other_code_is_refused(tmp_path, make, edit):
    first = find(tmp_path, make(module()))
    assert find(tmp_path, make(module(("Doubles.", "")))).table().equals(first.table())
    with pytest.raises(RunFolderError, match="the code of `net` 'own' has changed"):
        find(tmp_path, make(module(edit)))


def test_scores_distances_and_layouts_of_other_code_are_refused(runs, tmp_path):
    edited = module(("jnp.abs(w) * 1.0", "-jnp.abs(w)"), ("    return 1.0\n", "    return 2.0\n"))
    own = module()
    pruned = dict(density=0.5, seeds=(0,), dense=False, progress=False)

    def prune(score, **options):
        folder = tmp_path / "prune"
        return jt.prune_at(NET, DATA, TRAINING, score=score, folder=folder, **pruned, **options)

    prune(own.score)
    with pytest.raises(RunFolderError, match=r"`pruning\[0\].score` 'mine.score' has changed"):
        prune(edited.score)
    with pytest.raises(RunFolderError, match=r"\[0\].score` is .*mine.score.* there and 'snip'"):
        prune("snip")

    def compare(distance):
        jt.instability(
            NET, DATA, TRAINING, at=0, points=3, seeds=(0,), distances=[distance],
            folder=tmp_path / "compare", progress=False,
        )  # fmt: skip

    compare(own.distance)
    with pytest.raises(RunFolderError, match=r"mine.distance' has changed"):
        compare(edited.distance)


def test_other_tickets_are_refused(runs, tmp_path):
    """The same settings, but tickets of another source."""
    other = jt.branch(runs, "shuffle", progress=False)
    calls = {
        "branch": lambda of, folder: jt.branch(of, "retrain", folder=folder, progress=False),
        "telemetry": lambda of, folder: jt.telemetry(of, folder=folder, progress=False),
        "transfer": lambda of, folder: jt.transfer(
            of, to=DATA, branches=(), folder=folder, progress=False
        ),
    }
    for name, call in calls.items():
        call(runs, tmp_path / name)
        with pytest.raises(RunFolderError, match=r"`of.branch` is 'ticket' there and 'shuffle'"):
            call(other, tmp_path / name)


def test_weights_of_other_tickets_are_refused(runs, tmp_path):
    level = {n: t.replace(params=jax.tree.map(lambda w: 2 * w, t.params))
             for n, t in runs.by_level.items()}  # fmt: skip
    other = dataclasses.replace(runs, by_level=level)
    for call in (jt.telemetry, lambda of, **options: jt.branch(of, "retrain", **options)):
        folder = tmp_path / str(len(list(tmp_path.iterdir())))
        call(runs, folder=folder, progress=False)
        with pytest.raises(RunFolderError, match=r"`of\.sha256`"):
            call(other, folder=folder, progress=False)


WORKER = """
import sys
import jax
jax.config.update("jax_platforms", "cpu")
jax.config.update("jax_num_cpu_devices", 4)
import mine
import test_identity as t
runs = t.find(t.Path("run"), t.jt.from_linen(mine.Module(), t.DATA.shape, name="own"),
              branches=[mine.body, mine.closure, mine.partial])
for change in (mine.called, mine.frozen, mine.by_global):
    t.jt.branch(runs, change, name="own", progress=False)
print(runs.table().to_csv())
"""


def test_another_process_finds_the_same_code(tmp_path, monkeypatch):
    """No addresses, no order of sets, no place of a file in what is recorded."""
    (tmp_path / "mine.py").write_text(SOURCE)
    tables = []
    for seed in ("1", "2"):
        path = os.pathsep.join(
            [str(tmp_path), str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        )
        done = subprocess.run(
            [sys.executable, "-c", WORKER],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": path},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout)
        changed = {p: p.stat().st_mtime_ns for p in (tmp_path / "run").rglob("units/*")}
        if seed == "1":
            before = changed
    assert tables[0] == tables[1] and before == changed and len(before) == 4


def test_a_changed_global_is_computed_not_taken_from_the_compiled_program(runs, tmp_path):
    """JAX's programs hold the values of global variables, the old ones here."""
    own = module()
    before = jt.branch(runs, own.by_global, folder=tmp_path / "1", progress=False)
    vars(own)["FACTOR"] = 0.0
    after = jt.branch(runs, own.by_global, folder=tmp_path / "2", progress=False)
    weights = [np.abs(jax.tree.leaves(r.by_level[1].params)[1]).sum() for r in (before, after)]
    assert weights[0] > 0 and weights[1] == 0


def test_scores_made_of_scores_are_known_by_those():
    edit = ("jnp.abs(w) * 1.0", "jnp.abs(w) * 2.0")
    for make in (jt.scores.inverted, lambda score: jt.scores.configured(score, rounds=2)):
        first, again, other = (
            _identity.code_of(make(module(*replaced).score)) for replaced in ((), (), (edit,))
        )
        assert first == again and first != other
    built_in = _identity.code_of(jt.scores.configured("snip", temperature=2.0))
    assert built_in == _identity.code_of(jt.scores.configured("snip", temperature=2.0))
    assert built_in != _identity.code_of(jt.scores.configured("snip", temperature=3.0))
    assert _identity.code_of(jt.SCORES["snip"]).plain == "jaxticket.pruning.scores._snip.snip"


def test_numbers_of_numpy_and_jax_are_recorded_as_numbers():
    given = {"a": jnp.float32(0.5), "b": np.int64(3), "c": np.asarray(2.0)}
    assert jt.results.plain(given) == {"a": 0.5, "b": 3, "c": 2.0}


HEAD = """
import collections, dataclasses, enum, functools, os, types
from os import environ
import flax.linen as nn, jax, jax.numpy as jnp, numpy as np
from flax import nnx
"""


def function(text, name="own"):
    """The identity of `f` in a module of such a text."""
    made = types.ModuleType(name)
    exec(compile(HEAD + text, "own.py", "exec", dont_inherit=True), vars(made))
    return _identity.code_of(vars(made)["f"])


# `f` of each text computes something else with 2.0 in place of 1.0
EDITS = {
    "class that Flax makes of another": """
class Block(nn.Module):
    def __call__(self, x): return x * 1.0
f = nn.vmap(Block, variable_axes={"params": 0}, split_rngs={"params": True})()""",
    "class that a library makes of functions": """
f = dataclasses.make_dataclass("C", [], namespace={"__call__": lambda self, x: x * 1.0})()""",
    "default of a dict": """
T = collections.defaultdict(lambda: 1.0)
def f(x): return T[x]""",
    "method of a dict": """
class T(dict):
    def __missing__(self, key): return 1.0
T = T()
def f(x): return T[x]""",
    "items of a dict of one's own": """
class T(dict): pass
T = T(a=1.0)
def f(x): return T["a"]""",
    "method of a set": """
class T(set):
    def factor(self): return 1.0
T = T()
def f(x): return x * T.factor()""",
    "attribute of a list": """
class T(list): pass
T = T()
T.by = 1.0
def f(x): return x * T.by""",
    "number of one's own": """
class T(float): pass
T = T(1.0)
def f(x): return x * T""",
    "arguments of an exception": """
class T(Exception): pass
T = T(1.0)
def f(x): return x * T.args[0]""",
    "member of an enumeration": """
class T(enum.Enum): A = 1.0
def f(x): return x * T.A.value""",
    "private slot": """
class T:
    __slots__ = ("__by",)
    def __init__(self, by): self.__by = by
    def __call__(self, x): return x * self.__by
f = T(1.0)""",
    "what a dataclass does not call a field": """
@dataclasses.dataclass
class T:
    by: dataclasses.InitVar[float]
    def __post_init__(self, by): self.kept = by
T = T(1.0)
def f(x): return x * T.kept""",
    "mask of an array": """
T = np.ma.array([3, 4], mask=np.array([1, 2]) == 1.0)
def f(x): return x * T.sum()""",
    "module made by hand": """
T = types.ModuleType("T")
T.by = 1.0
def f(x): return x * getattr(T, "by")""",
}


@pytest.mark.parametrize("text", EDITS.values(), ids=EDITS)
def test_edits_are_seen(text):
    assert function(text) == function(text) != function(text.replace("1.0", "2.0"))


def test_a_number_whose_type_gives_way_is_another():
    text = "T = jnp.asarray(1.0)\ndef f(x): return x * T"
    assert function(text) != function(text.replace("(1.0)", "(1.0, jnp.float32)"))


def test_docstrings_of_classes_inside_functions_do_not_count():
    text = "def f(x):\n    class C:\n        'A docstring.'\n        by = 1.0\n    return x * C.by"
    assert function(text) == function(text.replace("A docstring", "Another"))
    assert function(text) != function(text.replace("1.0", "2.0"))


USES = {
    "single dispatch": ("@functools.singledispatch\ndef f(x): return x", "f(1)"),
    "flags": ("class T(enum.Flag):\n A = 1\n B = 2\n C = 4\ndef f(x): return T.A | T.B", "f(1)"),
    "object": ("class T:\n def __call__(self, x): return x\nf = T()", "f(1)"),
    "environment": ("def f(x): return environ.get('A')", "environ['JAXTICKET_USE'] = '1'"),
    "attributes in another order": (
        "T = nnx.Linear(2, 2, rngs=nnx.Rngs(0))\ndef f(x): return T(x)",
        "vars(T)['kernel'] = vars(T).pop('kernel')",
    ),
}


@pytest.mark.parametrize(("text", "use"), USES.values(), ids=USES)
def test_use_changes_nothing(monkeypatch, text, use):
    monkeypatch.setenv("JAXTICKET_USE", "0")
    made: dict[str, Any] = {}
    exec(HEAD + text, made)
    before = _identity.code_of(made["f"])
    exec(use, made)
    assert _identity.code_of(made["f"]) == before


BODY = "def g(x):\n    return x * 1.0\n"
# file by file; `f` of the first computes something else with 2.0 in place of 1.0
FOLDERS = {
    "relative import": {
        "pk/first.py": "def f(x):\n    from .second import g\n    return g(x)",
        "pk/__init__.py": "", "pk/second.py": BODY,
    },
    "relative imports of modules": {
        "pk/in/first.py": "def f(x):\n    from .. import second\n    from .. import third\n"
                          "    return second.g(x)",
        "pk/__init__.py": "", "pk/in/__init__.py": "", "pk/second.py": BODY, "pk/third.py": "",
    },
    "module of a package": {
        "first.py": "def f(x):\n    from pk import second\n    return second.g(x)",
        "pk/__init__.py": "", "pk/second.py": BODY,
    },
    "dotted name": {
        "first.py": "def f(x):\n    import pk.sub.second\n    return pk.sub.second.g(x)",
        "pk/__init__.py": "", "pk/sub/__init__.py": "", "pk/sub/second.py": BODY,
    },
    "folder without __init__": {
        "first.py": "def f(x):\n    from pk.sub.second import g\n    return g(x)",
        "pk/sub/second.py": BODY,
    },
    "import of an import": {
        "first.py": "def f(x):\n    from second import g\n    return g(x)",
        "second.py": "import first\nfrom third import g", "third.py": BODY,
    },
    "module that is passed on": {
        "first.py": "import pk.second\ndef f(x):\n    m = pk\n    return m.second.g(x)",
        "pk/__init__.py": "", "pk/second.py": BODY,
    },
    "import after many names": {
        "first.py": "def f(x):\n" + "".join(f"    x.a{i}\n" for i in range(300))
                    + "    from second import g\n    return g(x)",
        "second.py": BODY,
    },
    "name of one of Python's modules": {"statistics.py": BODY + "f = g"},
    "alongside a library": {"first.py": BODY + "f = g", "other-1.0.dist-info/RECORD": "other.py,,"},
}  # fmt: skip


def in_folder(folder, files, monkeypatch):
    """The identity of `f` in the first of some files, the only ones imported of their names."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    first = next(iter(files)).removesuffix(".py").replace("/", ".")
    roots = {name.removesuffix(".py").partition("/")[0] for name in files}
    with monkeypatch.context() as patch:
        patch.syspath_prepend(str(folder))
        for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
            patch.delitem(sys.modules, name)
        try:
            own = importlib.import_module(first)
            found = _identity.code_of(own.f)
            if "pk" in roots:
                # also once all that it imports is imported
                own.f(1.0)
                assert _identity.code_of(own.f) == found
            return found
        finally:
            for name in [name for name in sys.modules if name.partition(".")[0] in roots]:
                del sys.modules[name]


@pytest.mark.parametrize("files", FOLDERS.values(), ids=FOLDERS)
def test_edits_of_other_files_are_seen(tmp_path, monkeypatch, files):
    commented = {name: text.replace("1.0", "1.0  # as it was") for name, text in files.items()}
    edited = {name: text.replace("1.0", "2.0") for name, text in files.items()}
    edited = {name: edited[name] if name.endswith(".py") else files[name] for name in files}
    first, again, other = (
        in_folder(tmp_path / str(i), text, monkeypatch)
        for i, text in enumerate((files, commented, edited))
    )
    assert first == again != other


def test_a_program_that_a_profiler_runs_is_the_users_own(monkeypatch):
    """`python -m cProfile train.py`: the file of the main module is the profiler's."""
    # workers of xdist have no file
    monkeypatch.setattr(
        sys.modules["__main__"], "__file__", importlib.import_module("cProfile").__file__,
        raising=False,
    )  # fmt: skip
    text = "def f(x): return x * 1.0"
    assert function(text, "__main__") != function(text.replace("1.0", "2.0"), "__main__")


def test_functions_of_other_versions_of_a_library_are_others(tmp_path, monkeypatch):
    """Of what an index gives the version says all; the code of one's own changes without it."""

    def installed(version, digest, local):
        info = f"library-{version}.dist-info"
        files = {
            "library.py": "def f(x):\n    return x",
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: library\nVersion: {version}\n",
            f"{info}/RECORD": f"library.py,sha256={digest},9\n{info}/RECORD,,\n",
            **({f"{info}/direct_url.json": "{}"} if local else {}),
        }
        folder = tmp_path / f"{version} {digest} {local}"
        version_of.cache_clear()
        return in_folder(folder, files, monkeypatch).code

    assert installed("1.0", "a", False) == installed("1.0", "b", False) == "version 1.0"
    seen = [installed("1.0", "a", True), installed("1.0", "b", True), installed("1.1", "a", False)]
    assert len({"version 1.0", *seen}) == 4


def test_settings_that_json_does_not_know_are_known_by_what_they_hold():
    class T(enum.Enum):
        A = 1
        B = 2

    @dataclasses.dataclass(frozen=True)
    class Part:
        held: Any

    pairs = [
        (np.arange(3), np.arange(1, 4)), (jnp.arange(3), jnp.arange(1, 4)), (T.A, T.B),
        ({"a", "b"}, {"a"}), (1j, 2j), (b"a", b"b"), (jax.random.key(0), jax.random.key(1)),
    ]  # fmt: skip
    for one, other in pairs:
        texts = [jt.results.canonical({"part": Part(held)}) for held in (one, one, other)]
        assert texts[0] == texts[1] != texts[2]


def test_what_a_dataclass_does_not_call_a_field_is_recorded():
    @dataclasses.dataclass
    class Part:
        by: dataclasses.InitVar[float]

        def __post_init__(self, by: float) -> None:
            # this name would hide what the settings say of the class
            vars(self)["class"] = by

    recorded = jt.results.plain(Part(0.5))
    assert recorded["attributes"] == {"class": 0.5}
    assert "Part" in str(recorded["class"])


def test_compiled_modules_of_ones_own_count_by_their_files(tmp_path, monkeypatch):
    compiled = types.ModuleType("compiled")
    compiled.__file__ = str(tmp_path / f"compiled{importlib.machinery.EXTENSION_SUFFIXES[0]}")
    monkeypatch.setitem(sys.modules, "compiled", compiled)
    kind = type("Kind", (), {"__module__": "compiled"})
    found = []
    for data in (b"1", b"1", b"2"):
        Path(compiled.__file__).write_bytes(data)
        found.append(_identity.code_of(kind))
    assert found[0] == found[1] != found[2]


def test_networks_of_modules_that_hold_arrays_can_be_compared():
    own = types.ModuleType("own")
    text = "class Net(nn.Module):\n  by: object\n  @nn.compact\n  def __call__(self, x):\n"
    text += "    return nn.Dense(2)(x.reshape(len(x), -1) * self.by)"
    exec(HEAD + text, vars(own))
    first, second = (
        jt.from_linen(own.Net(np.ones((1, 9), np.float32)), DATA.shape, name="own")
        for _ in range(2)
    )
    assert first == first and first != second
    assert _identity.network(first) == _identity.network(second)


def test_modules_that_a_function_imports_when_it_runs_count(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    own = types.ModuleType("own")
    text = "def change(ticket, key, *, net):\n    import near\n    return near.moved(ticket)"
    exec(compile(text, "own.py", "exec", dont_inherit=True), vars(own))
    found = []
    for factor in (1, 2):
        (tmp_path / "near.py").write_text(f"def moved(ticket):\n    return {factor}\n")
        before = _identity.code_of(own.change)
        importlib.invalidate_caches()
        assert importlib.import_module("near").moved(None) == factor
        assert _identity.code_of(own.change) == before
        found.append(before)
        sys.modules.pop("near")
    assert found[0] != found[1]


def test_data_and_runs_that_a_function_holds_count_by_what_they_are(runs):
    def change(ticket, key, *, net):
        return ticket.replace(params=held.by_level[1].params if data is DATA else ticket.params)

    def code(own, other):
        nonlocal held, data
        held, data = own, other
        return _identity.code_of(change)

    held, data = runs, DATA
    slower = dataclasses.replace(runs, costs=())
    other = dataclasses.replace(runs, by_level={1: runs.by_level[0]})
    assert code(runs, DATA) == code(slower, dataclasses.replace(DATA, name="another name"))
    seen = [code(runs, DATA), code(other, DATA), code(runs, DATA.with_validation(0.5))]
    assert len(set(seen)) == 3


def test_bytecode_of_another_python_is_not_compared(runs, tmp_path):
    change = module().body
    folder = tmp_path / "run"
    jt.branch(runs, change, folder=folder, progress=False)
    settings = folder / "settings.json"
    here = f"python {sys.version_info.major}.{sys.version_info.minor}"
    text = settings.read_text()
    assert here in text
    settings.write_text(text.replace(here, "python 2.7"))
    with pytest.raises(RunFolderError, match=r"recorded under Python 2.7"):
        jt.branch(runs, change, folder=folder, progress=False)


def test_a_version_that_was_raised_refuses_older_results(runs, tmp_path, monkeypatch):
    jt.branch(runs, "shuffle", folder=tmp_path, progress=False)
    matches = {"controls.shuffle": "controls.shuffle", "branch": "`version` is 1 there and 2"}
    for name, match in (matches | {"training": matches["branch"]}).items():
        with monkeypatch.context() as patch, pytest.raises(RunFolderError, match=match):
            patch.setitem(_identity.VERSIONS, name, 2)
            jt.branch(runs, "shuffle", folder=tmp_path, progress=False)


@pytest.mark.parametrize(
    ("written", "said"), [(None, r"older jaxticket \(0\.1\)"), (3, "another jaxticket")]
)
def test_folders_of_other_formats_are_refused(tmp_path, written, said):
    find(tmp_path)
    path = tmp_path / "settings.json"
    settings = json.loads(path.read_text())
    assert settings.pop("format") == 2
    path.write_text(json.dumps(settings if written is None else {"format": written, **settings}))
    with pytest.raises(RunFolderError, match=f"{said}.*another folder"):
        find(tmp_path)


PARTS = '''
"""Parts of searches and trainings of the user's own; whoever gets to use them stops there."""
import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxticket.sparsify.learned.constraints import Constraint
from jaxticket.sparsify.learned.relaxations import Bernoulli


class Used(Exception):
    pass


def objective(view):
    raise Used("objective 1")


@dataclasses.dataclass(frozen=True)
class Soft(Bernoulli):
    def leaf(self, scores, done, *, key):
        raise Used("relaxation 1")


@dataclasses.dataclass(frozen=True)
class Held(Constraint):
    def cost(self, expected):
        raise Used("constraint 1")


def layout(layers, density):
    raise Used("layout 1")


def attack(net, params, stats, x, y, **options):
    raise Used("attack 1")
'''


def part(number, name):
    """One of the parts, edited where the number is not 1."""
    made = types.ModuleType("parts")
    text = PARTS.replace(f"{name} 1", f"{name} {number}")
    exec(compile(text, "parts.py", "exec", dont_inherit=True), vars(made))
    return made


SEARCHES = ("objective", "relaxation", "constraint")


@pytest.mark.parametrize("name", [*SEARCHES, "layout", "attack"])
def test_parts_of_other_code_are_refused(tmp_path, name):
    options: dict[str, Any] = dict(seeds=(0,), folder=tmp_path / "run", progress=False)

    def run(number):
        own = part(number, name)
        made = {"objective": own.objective, "relaxation": own.Soft(), "constraint": own.Held()}
        try:
            if name in SEARCHES:
                method = Method("own", **{"relaxation": Bernoulli(), name: made[name]})
                jt.search(NET, DATA, TRAINING, method, density=0.5, dense=False, **options)
            elif name == "layout":
                jt.prune_at(
                    NET, DATA, TRAINING, score="random", scope=own.layout, density=0.5,
                    dense=False, **options,
                )  # fmt: skip
            else:
                jt.find_tickets(NET, DATA, TRAINING.replace(attack=own.attack), **options)
        except own.Used as error:
            return str(error)
        raise AssertionError("not used")

    assert run(1) == run(1) == f"{name} 1"
    with pytest.raises(RunFolderError, match=r"parts\.|has changed"):
        run(2)
