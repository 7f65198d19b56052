"""Mask rules that move structured masks: exact counts in units at every moment."""

import dataclasses
import functools

import jax
import numpy as np
import pytest
from few_digits import DATA

import jaxticket as jt
from jaxticket import masks, structures

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(12, 8))
TRAINING = jt.Training(steps=12, batch_size=16, eval_every=4, eval_batch_size=48)
RIGL = jt.dynamic.RigL(every=3, end=10, fraction=0.5, decay="constant")
train = functools.partial(jt.sparse_train, NET, DATA, seeds=(0, 3), progress=False)


def groups(mask, length=None):
    """The numbers that groups of so many inputs (all of them, if None) keep."""
    found = set()
    for _, m in masks.items(mask):
        kernel = np.asarray(m)
        of = kernel.reshape(-1, length or kernel.shape[-2], kernel.shape[-1]).sum(axis=1)
        found |= set(np.unique(of).tolist())
    return found


@dataclasses.dataclass(frozen=True)
class Masks:
    """The mask at each step."""

    every: int = 1

    def __call__(self, problem, state, batch):
        return {path: m for path, m in masks.items(state.mask)}


@pytest.mark.parametrize(
    "rule",
    [
        RIGL,
        pytest.param(jt.dynamic.SET(every=3, end=10, fraction=0.7), marks=pytest.mark.slow),
        jt.dynamic.Gradual(begin=1, end=10, every=3),
        pytest.param(jt.dynamic.StraightThrough(every=2), marks=pytest.mark.slow),
        pytest.param(jt.dynamic.ACDC(begin=2, end=10, every=2), marks=pytest.mark.slow),
        pytest.param(jt.dynamic.TopKAST(every=2, extra=0.2), marks=pytest.mark.slow),
    ],
    ids=lambda rule: type(rule).__name__,
)
@pytest.mark.parametrize("structure", ["2:4", ("block", 4, 2), ("fan_in", 4)], ids=str)
def test_rules_keep_structures(rule, structure):
    units = structures.units_of(structure, NET.mask(), NET)
    density = None if units.density else 0.5
    runs = train(TRAINING, rule, density=density, structure=structure)
    for seed in (0, 3):
        mask = runs.ticket(1, seed).mask
        if structure == "2:4":
            assert groups(mask, 4) == {2}
        elif structure == ("fan_in", 4):
            assert groups(mask) == {4}
        else:
            assert bool(units.whole(mask))
            kept = sum(int(np.sum(x)) for x in jax.tree.leaves(units.alive(mask)))
            assert kept == round(0.5 * sum(units.sizes))
    assert runs.pruning.name.endswith(("_2:4", "_block_4x2", "_fan_in_4"))


@pytest.mark.parametrize(
    "rule",
    [jt.dynamic.Static("uniform"), jt.dynamic.Iterative(begin=1, end=10, every=3)],
    ids=lambda rule: type(rule).__name__,
)
def test_rules_that_only_prune_take_channels(rule):
    runs = train(TRAINING, rule, density=0.5, structure="channel")
    units = structures.units_of("channel", NET.mask(), NET)
    for seed in (0, 3):
        ticket = runs.ticket(1, seed)
        assert bool(units.whole(ticket.mask))
        alive = {name: int(np.sum(x)) for name, x in units.alive(ticket.mask).items()}
        assert sum(alive.values()) == 10
        small = ticket.compact(NET)
        assert {name: left for name, (left, _) in small.units.items()} == alive


def test_every_update_exchanges_within_its_groups():
    """Constant fan-in at every step, and weights do move."""
    monitored = TRAINING.replace(monitors=(Masks(),))
    runs = train(monitored, RIGL, structure=("fan_in", 4))
    mask = runs.ticket(1, 0).mask
    units = structures.units_of(("fan_in", 4), NET.mask(), NET)
    key, weights = jax.random.key(0), NET.init(jax.random.key(1))[0]
    first = RIGL.structured(units).init(jt.Problem(NET, None, jt.Training()), 0.1, key=key)
    moved = jt.dynamic.exchanged(first, masks.apply(first, weights), weights, 0.5, units=units)
    assert groups(first) == groups(moved) == groups(mask) == {4}
    seen = runs.monitored().query("seed == 0")
    for path in units.names:
        rows = seen[seen.metric == path]
        for _, at in rows.groupby("step"):
            shape = NET.shapes[0][path.split("/")[0]]["kernel"].shape
            assert set(at.sort_values("index").value.to_numpy().reshape(shape).sum(0)) == {4}
    assert seen[seen.metric == "mask_grown"].value.max() > 0
    assert not bool(jax.tree.reduce(
        lambda a, b: a & b, jax.tree.map(lambda a, b: bool((a == b).all()), first, moved)
    ))  # fmt: skip
    # with nothing to exchange the mask stays
    same = jt.dynamic.exchanged(first, masks.apply(first, weights), weights, 0.2, units=units)
    jax.tree.map(np.testing.assert_array_equal, same, first)


def test_a_rule_that_breaks_the_structure_is_found():
    @dataclasses.dataclass(frozen=True)
    class Redraw(jt.dynamic.Static):
        def when(self, step):
            return step == 5

        def update(self, state, dense_gradient, *, step, key):
            return state._replace(mask=masks.shuffle(state.mask, key=key))

    with pytest.raises(RuntimeError, match="a mask rule"):
        train(TRAINING, Redraw(), structure="2:4")


@pytest.mark.parametrize(
    ("rule", "options", "text"),
    [
        (RIGL, {"structure": "channel", "density": 0.5}, "a pruned one has no gradient"),
        ("static", {"structure": "channel", "density": 0.5}, r"`layout` 'erk' spreads weights"),
        (
            jt.dynamic.RigL(every=3),
            {"structure": "2:4"},
            r"`fraction` 0.3 of RigL exchanges none of the 2",
        ),
        ("static", {"structure": "2:4", "density": 0.3}, r"`density` 0.3 contradicts"),
        ("static", {"structure": ("block", 4, 4), "density": 0.3}, r"exclude=\('dense_2',\)"),
        ("static", {}, r"`density` must be in \(0, 1\], got None"),
    ],
)
def test_what_does_not_fit(rule, options, text):
    with pytest.raises(ValueError, match=text):
        train(TRAINING, rule, **options)


def test_folders_and_loading(tmp_path):
    runs = train(TRAINING, "static", structure="2:4", folder=tmp_path / "run")
    again = jt.load(tmp_path / "run", data=DATA)
    assert again.pruning == runs.pruning and again.pruning.structure == "2:4"
    with pytest.raises(jt.RunFolderError, match="structure"):
        train(TRAINING, "static", structure="1:2", folder=tmp_path / "run")
