"""What notebooks show of objects: short texts, code that can be pasted back, small tables."""

import dataclasses
import functools
import html.parser
import re
import rlcompleter
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import optax
import pytest

import jaxticket as jt
from jaxticket import _show
from jaxticket.data.absent import absent
from jaxticket.presets import Preset

MOST = 2000
TRAINING = jt.Training(steps=20, batch_size=40, eval_every=10)


@pytest.fixture(scope="module")
def runs():
    data = jt.data.load("digits", validation=0.1)
    net = jt.networks.lenet(data.shape, data.classes, widths=(7,))
    return jt.find_tickets(
        net, data, TRAINING, jt.Pruning(levels=20), seeds=range(3), branches=["reinit"]
    )


@pytest.fixture(scope="module")
def inst(runs):
    return jt.instability(
        runs.net, runs.data, TRAINING, at=[0, 10], seeds=range(2), points=3, distances=["l2"]
    )


def own_loss(logits, labels):
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


SETTINGS = [
    jt.Training(),
    jt.Training(steps=600, lr=0.1),
    jt.Training(optimizer="momentum", milestones=tuple(range(100, 20_000, 100))),
    jt.Pruning(levels=3, rates=(("dense_2", 0.1),), scope="layer"),
    jt.EarlyPruning((0.3, 0.1), score="synflow", rounds=3),
    jt.Runtime(folder="runs/a", at_once=8),
    *(make() for make in jt.SEARCHES.values()),
    *jt.PRESETS.values(),
]
MADE_OF = {
    **vars(jt.learned),
    "Distillation": jt.learned.Distillation,
    "optax": optax,
    "Preset": Preset,
}
MADE_OF |= {name: getattr(jt, name) for name in ("Training", "Pruning", "EarlyPruning", "Runtime")}


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: getattr(s, "name", type(s).__name__))
def test_settings_are_code_that_makes_them(settings):
    text = repr(settings)
    again = eval(text, dict(MADE_OF))
    if isinstance(settings, Preset):
        # notes are texts of several lines
        settings = dataclasses.replace(settings, notes=())
    assert again == settings and len(text) <= MOST


def test_only_what_differs_from_the_defaults_is_shown():
    assert repr(jt.Training(steps=600, lr=0.1)) == "Training(steps=600, lr=0.1)"
    assert repr(jt.Pruning()) == "Pruning()" and repr(jt.Training(lr=1.2e-3)) == "Training()"
    long = repr(jt.Training(steps=600, lr=0.1, batch_size=128, optimizer="momentum", nesterov=True,
                            eval_every=10, weight_decay=1e-4))  # fmt: skip
    assert long.startswith("Training(\n    steps=600,\n    batch_size=128,\n")


def test_functions_are_called_by_their_public_names():
    training = jt.Training(
        optimizer=functools.partial(optax.adamw, b1=0.8), loss=own_loss,
        augment=(jt.augment.Crop(pixels=2), "flip"), schedule=optax.constant_schedule(1e-3),
    )  # fmt: skip
    text = repr(training)
    assert "optimizer=partial(optax.adamw, b1=0.8)" in text
    assert f"loss={__name__}.own_loss" in text and "augment=(Crop(pixels=2), 'flip')" in text
    # an inner function has no name by which it could be made
    assert "schedule=<" in text and " at 0x" not in text
    own = jt.Training(optimizer=optax.chain(optax.clip(1.0), optax.adam(1e-3)))
    assert repr(own) == "Training(optimizer=<optax.GradientTransformationExtraArgs>)"


def test_runs_say_what_was_run_and_what_came_out(runs):
    text = repr(runs)
    for said in (
        "21 levels and 3 seeds", "lenet", "'digits'", "train 1,293, validation 144, test 360",
        "Training(steps=20, batch_size=40, eval_every=10)", "Pruning(levels=20)", "0 to 2",
        "not saved", "ticket", "reinit",
    ):  # fmt: skip
        assert said in text
    table = runs.table()
    last = table[(table.step == 20) & (table.split == "test") & (table.metric == "accuracy")]
    for level, share in ((0, "100%"), (1, "79.9%"), (20, "1.16%")):
        (line,) = (line for line in text.splitlines() if line.split()[:1] == [str(level)])
        own = 100 * last[(last.level == level) & (last.branch == "ticket")]["value"]
        assert line.split()[1] == share
        assert f"{own.mean():.1f}% ({own.min():.1f}% to {own.max():.1f}%)" in line
    assert "..." in text and len(text.splitlines()) < 30


def test_tickets_say_their_level_density_and_step(runs):
    ticket = runs.ticket(3, seed=1)
    kept = sum(m.sum() for m in jax.tree.leaves(ticket.mask))
    size = 64 * 7 + 70
    share = f"{100 * kept / size:.3g}%"
    assert repr(ticket) == (
        f"<Ticket of level 3: {share} of {size} prunable weights, begins at step 0>"
    )
    assert "levels 0 to 20: 100% to 1.16%" in repr(runs.tickets)
    # a ticket is a pytree, whose leaves may be anything
    for other in (
        jax.tree.map(str, ticket),
        jax.tree.map(lambda x: None, ticket),
        jax.eval_shape(lambda t: t, ticket),
    ):
        assert repr(other).lstrip("<").startswith("Ticket")
    seen = []
    jax.jit(lambda t: seen.append(repr(t)) or t)(ticket)
    assert len(seen[0]) < MOST
    assert len(repr(runs.by_level)) < 21 * 120


def test_diverged_seeds_are_counted():
    assert _show.spread(np.asarray([0.5, np.nan, 0.7])) == "60.0% (50.0% to 70.0%), 1 diverged"
    assert _show.spread(np.asarray([np.nan])) == "-, 1 diverged"


def objects(runs, inst):
    """An object of every public class that a user meets."""
    ticket, data, net = runs.ticket(1, 0), runs.data, runs.net
    problem, zero = jt.Problem(net, data, TRAINING), np.int32(0)
    networks = [inst.networks(at=0, seed=seed) for seed in (0, 1)]
    pairs = [jax.tree.map(lambda x: x[0], network) for network in networks]
    path = jt.connectivity.line(net, data, TRAINING, pairs, points=3)
    found = [
        runs, ticket, runs.tickets, runs.by_level[1], data, data.train, net, inst, problem, path,
        runs.histories[0], inst.labeled("line"), jt.connectivity.align(net, *pairs),
        jt.sparsify.Found(1, runs.tickets.mask, runs.origin), TRAINING, runs.pruning,
        jt.networks.resnet50((224, 224, 3), 1000), jt.Runtime(), jt.sparsify.of_training(runs, 3),
        jt.learned.Schedule(1.0, 2.0), jt.metrics.TopK(), jt.augment.Crop(),
        jt.RULES["static"], jt.PROBES["hessian_trace"], jt.scores.recipe_of("snip"),
        jt.TrainState(zero, ticket.params, {}, (), ticket.mask, jax.random.key(0), zero),
    ]  # fmt: skip
    return [*found, *SETTINGS]


class Tags(html.parser.HTMLParser):
    """Whether tags are closed in order, and what they are."""

    def __init__(self):
        super().__init__()
        self.open, self.seen, self.attributes = [], set(), set()

    def handle_starttag(self, tag, attrs):
        self.open.append(tag)
        self.seen.add(tag)
        self.attributes |= {name for name, _ in attrs}

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_no_text_is_long_and_html_is_a_small_table_without_resources(runs, inst):
    shown = 0
    for value in objects(runs, inst):
        assert len(repr(value)) <= MOST, type(value)
        if hasattr(value, "_repr_html_"):
            shown += 1
            page, tags = value._repr_html_(), Tags()
            tags.feed(page)
            assert not tags.open and len(page) < 12_000
            assert tags.seen <= {"div", "strong", "table", "tr", "td", "th"}
            assert tags.attributes <= {"style"}
    assert shown > 80


def test_html_is_escaped():
    x = np.zeros((4, 2, 2, 1), np.float32)
    data = jt.data.from_arrays(x, np.arange(4) % 2, x, np.arange(4) % 2, name="<script>")
    assert "<script>" in repr(data) and "<script>" not in data._repr_html_()


def test_data_that_were_not_found_say_so():
    gone = absent(
        "mine", classes=3, shape=(4,), splits={"train": 9, "test": 2}, about={}, fingerprint="0"
    )
    assert repr(gone) == "<Absent 'mine': 4, not found here, 3 classes; train 9, test 2>"
    assert repr(gone.test) == "<2 examples that were not found>"


def test_an_analysis_says_its_barriers(inst):
    text = repr(inst)
    barriers = 100 * inst.barriers()
    for place, step in enumerate(inst.at):
        (line,) = (
            line for line in text.splitlines() if line.split()[:3] == ["ticket", "0", str(step)]
        )
        assert f"{barriers[:, place].mean():.1f}%" in line
    assert "2 copies of every state" in text


# names


MODULES = (
    "", "data", "nn", "networks", "augment", "losses", "metrics", "presets", "scores",
    "learned", "dynamic", "sparsify", "results", "plots", "speed", "layers", "costs", "probes",
    "branches", "controls", "connectivity", "stability", "masks", "parallel", "callbacks",
    "structures",
)  # fmt: skip


@pytest.mark.parametrize("name", MODULES)
def test_completion_offers_public_names_only(name):
    module = getattr(jt, name) if name else jt
    assert dir(module) == sorted(module.__all__) and len(set(module.__all__)) == len(dir(module))
    assert all(hasattr(module, n) for n in module.__all__)
    hidden = {n for n in module.__all__ if n.startswith("_")}
    assert hidden == (set() if name else {"__version__"})
    called = f"jt.{name}." if name else "jt."
    offered = rlcompleter.Completer({"jt": jt}).attr_matches(called)
    assert {o.removeprefix(called).rstrip("()") for o in offered} == set(dir(module)) - hidden


def test_names_that_documents_and_scripts_use_are_public():
    root = Path(__file__).parents[1]
    files = [root / "README.md", *root.glob("docs/**/*.md"), *root.glob("experiments/**/*.py")]
    used = {
        pair
        for file in files
        for pair in re.findall(r"\bjt\.([a-z]\w*)\.(\w+)", file.read_text(encoding="utf-8"))
    }
    modules = {n for n, _ in used if isinstance(getattr(jt, n, None), ModuleType)}
    assert len(modules) > 8
    assert not {(m, n) for m, n in used if m in modules and n not in getattr(jt, m).__all__}


def test_every_public_module_is_among_them():
    modules = {n for n in jt.__all__ if isinstance(getattr(jt, n), ModuleType)}
    assert modules == set(MODULES) - {""}


def test_the_version_is_that_of_the_package():
    assert jt.__version__.count(".") == 2 and "__version__" in dir(jt)
