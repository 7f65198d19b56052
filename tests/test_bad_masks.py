"""Masks that are none, or of another tree: refused wherever a mask goes in."""

import dataclasses
import pickle

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from contexts import batches_of, context_of, mlp

import jaxticket as jt
from jaxticket import masks
from jaxticket.ticket import Ticket

PARAMS = {"a": {"bias": jnp.ones(3), "kernel": jnp.ones((4, 3))}, "b": jnp.ones((3, 2))}
MASK = jax.tree.map(lambda x: np.ones(x.shape, bool), PARAMS)
KEY = jax.random.key(0)


def changed(tree, at, value):
    return {**tree, at: value}


MASK_FUNCTIONS = {
    "apply": lambda m: masks.apply(m, PARAMS),
    "kept": masks.kept,
    "density": masks.density,
    "jt.density": jt.density,
    "layer_density": masks.layer_density,
    "shuffle": lambda m: masks.shuffle(m, key=KEY),
    "permute": lambda m: masks.permute(m, key=KEY),
    "overlap, first": lambda m: masks.overlap(m, MASK),
    "overlap, second": lambda m: masks.overlap(MASK, m),
    "nested, first": lambda m: masks.nested(m, MASK),
    "nested, second": lambda m: masks.nested(MASK, m),
    "require_nested": lambda m: masks.require_nested(m, MASK),
    "pack": masks.pack,
    "keep_top": lambda m: jt.keep_top(PARAMS, m, 3),
    "jitted keep_top": lambda m: jax.jit(lambda s, m: jt.keep_top(s, m, 3))(PARAMS, m),
    "Ticket.save": lambda m: Ticket(m, PARAMS, {}, np.int32(0), np.int32(0)).save("/nowhere/a.npz"),
}


@pytest.mark.parametrize("name", MASK_FUNCTIONS)
@pytest.mark.parametrize("kind", ["float32", "int32", "uint8"])
def test_what_is_no_mask_is_refused(name, kind):
    wrong = jax.tree.map(lambda x: jnp.asarray(x, kind), MASK)
    with pytest.raises(ValueError, match=rf"must be a tree of bools, got {kind} at 'a/bias'"):
        MASK_FUNCTIONS[name](wrong)


TREE_FUNCTIONS = {
    "apply": lambda m: masks.apply(m, PARAMS),
    "overlap": lambda m: masks.overlap(m, MASK),
    "nested": lambda m: masks.nested(m, MASK),
    "keep_top": lambda m: jt.keep_top(PARAMS, m, 3),
    "Ticket.save": lambda m: Ticket(m, PARAMS, {}, np.int32(0), np.int32(0)).save("/nowhere/a.npz"),
}


@pytest.mark.parametrize("name", TREE_FUNCTIONS)
@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (changed(MASK, "b", np.ones((1, 2), bool)), r"shape \(.*\) at 'b' where"),
        (changed(MASK, "b", np.ones(2, bool)), r"shape \(.*\) at 'b' where"),
        ({"b": MASK["b"]}, "must have the same tree"),
        (changed(MASK, "c", np.ones(2, bool)), "must have the same tree"),
    ],
    ids=["broadcast", "rank", "missing", "more"],
)
def test_masks_of_another_tree_are_refused(name, wrong, message):
    with pytest.raises(ValueError, match=message):
        TREE_FUNCTIONS[name](wrong)


def test_swapped_arguments_say_their_order():
    with pytest.raises(ValueError, match=r"the arguments is masks.apply\(mask, tree\)"):
        masks.apply(PARAMS, MASK)
    with pytest.raises(ValueError, match=r"the arguments is keep_top\(scores, mask, keep\)"):
        jt.keep_top(MASK, PARAMS, 3)
    with pytest.raises(ValueError, match=r"the arguments is Ticket\(mask, params, stats, level"):
        Ticket(PARAMS, MASK, {}, np.int32(0), np.int32(0)).save("/nowhere/a.npz")


@pytest.mark.parametrize(
    "function",
    [jt.density, masks.kept, masks.layer_density],
    ids=lambda function: function.__name__,
)
def test_a_density_counts_what_the_network_prunes(function):
    """By dimensions, an embedding would count; by its None it does not."""
    mask = {"dense": {"kernel": np.asarray([[True, False]])}, "table": {"embedding": None}}
    expected = {jt.density: 0.5, masks.kept: 1}.get(function, {"dense/kernel": 0.5})
    assert function(mask) == expected


# --- scores


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
def test_scores_that_are_nan_are_refused(bad):
    scores = {"w": jnp.asarray([[1.0, bad, 3.0, 2.0]])}
    with pytest.raises(ValueError, match="`scores` are nan at 1 weights of 'w'"):
        jt.keep_top(scores, masks.ones(scores), 2)
    pruned = {"w": np.asarray([[True, False, True, True]])}
    assert jt.keep_top(scores, pruned, 2)["w"].tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("bad", [np.nan, -np.nan])
@pytest.mark.parametrize("scope", ["global", "layer"])
def test_in_compiled_code_nan_ranks_below_everything(bad, scope):
    scores = {"w": jnp.asarray([[bad, -jnp.inf, bad, 2.0]])}
    keep = [2] if scope == "layer" else 2
    for count, expected in ((2, [False, True, False, True]), (3, [True, True, False, True])):
        keep = [count] if scope == "layer" else count
        found = jax.jit(lambda s, m, k=keep: jt.keep_top(s, m, k, scope=scope))(
            scores, masks.ones(scores)
        )
        assert found["w"].tolist() == [expected]


@pytest.mark.parametrize("jitted", [False, True])
@pytest.mark.parametrize("dtype", ["int32", "uint32", "int16", "uint8"])
def test_whole_scores_are_ranked_exactly(dtype, jitted):
    top = np.iinfo(dtype).max
    scores = {"w": np.asarray([[top - 1, top, 0, top - 2]], dtype)}
    if dtype.startswith("i"):
        scores["w"][0, 2] = -top
    function = jax.jit(lambda s, m: jt.keep_top(s, m, 1)) if jitted else None
    ones = masks.ones(scores)
    found = function(scores, ones) if function else jt.keep_top(scores, ones, 1)
    assert found["w"].tolist() == [[False, True, False, False]]
    assert jt.keep_top(scores, ones, 3)["w"].tolist() == [[True, True, False, True]]


def test_scores_of_mixed_types_are_refused():
    scores = {"a": np.ones((2, 2), np.int32), "b": np.ones((2, 2), np.float32)}
    with pytest.raises(ValueError, match=r"all of int32 and smaller.*, got float32, int32"):
        jt.keep_top(scores, masks.ones(scores), 1)
    scores = {"a": np.ones((2, 2), np.int32), "b": np.ones((2, 2), np.uint32)}
    with pytest.raises(ValueError, match="all of uint32, got int32, uint32"):
        jt.keep_top(scores, masks.ones(scores), 1)


def test_prune_needs_a_mask_of_the_params():
    net = mlp((4, 3, 2))
    params, stats = net.init(KEY)
    context = context_of(net, params, stats, batches_of((4,), 2, 1, 6))
    for wrong, message in (
        (
            jax.tree.map(lambda x: x.astype(jnp.float32), context.mask),
            "must be a tree of bools, got float32",
        ),
        ({"layer_0": context.mask["layer_0"]}, "must have the same tree"),
        (jax.tree.map(lambda x: x[:1], context.mask), "has shape"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.prune(params, context._replace(mask=wrong), score="snip", density=0.5, key=KEY)


# --- runs and tickets


RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(40, 2, 4, 1)).astype(np.float32), np.arange(40) % 3
DATA = jt.data.from_arrays(X, Y, X[:12], Y[:12], name="noise")
NET = jt.networks.lenet(DATA.shape, 3, (6,))
TRAINING = jt.Training(steps=4, batch_size=8, eval_every=4, lr=0.1)


@pytest.fixture(scope="module")
def runs():
    pruning = jt.Pruning(levels=1)
    return jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=[0, 1], progress=False)


def widened(ticket, change, lead=0):
    """The ticket with another mask of its first kernel."""
    layer = ticket.mask["dense_0"]
    return ticket.replace(
        mask={**ticket.mask, "dense_0": {**layer, "kernel": change(layer["kernel"])}}
    )


CHANGES = {
    "broadcast": (lambda m: m[..., :1, :], r"has shape \(.*1, 6\) at 'dense_0/kernel'"),
    "floats": (lambda m: m * 1.0, "must be a tree of bools, got float64 at 'dense_0/kernel'"),
    "bytes": (lambda m: m.astype(np.uint8), "must be a tree of bools, got uint8"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_tickets_with_another_mask_go_nowhere(runs, name, tmp_path):
    change, message = CHANGES[name]
    ticket = widened(runs.ticket(1, 0), change)
    with pytest.raises(ValueError, match=message):
        jt.transfer(ticket, net=NET, to=DATA, training=TRAINING, seeds=[0], progress=False)
    with pytest.raises(ValueError, match=message):
        ticket.save(tmp_path / "a.npz")
    # branch, instability, telemetry, verdict and transfer take runs
    stacked = widened(runs.by_level[1], change)
    with pytest.raises(ValueError, match=rf"`by_level\[1\]` .*{message}"):
        dataclasses.replace(runs, by_level={**runs.by_level, 1: stacked})


def filled(mask, value=True):
    """A mask with bools at every leaf, as of version 0.1; `value` is that of the biases."""
    layers = {}
    for name, layer in mask.items():
        lead = layer["kernel"].shape[:-2]
        bias = np.full((*lead, layer["kernel"].shape[-1]), value)
        layers[name] = {"bias": bias, "kernel": layer["kernel"]}
    return layers


def test_full_masks_become_the_networks_where_they_enter(runs):
    full = runs.by_level[1].replace(mask=filled(runs.by_level[1].mask))
    own = dataclasses.replace(runs, by_level={**runs.by_level, 1: full})
    assert jax.tree.structure(own.by_level) == jax.tree.structure(runs.by_level)
    assert own.densities.tolist() == runs.densities.tolist()
    pruned = full.replace(mask=filled(full.mask, value=False))
    with pytest.raises(ValueError, match=r"`by_level\[1\]` prunes dense_0/bias, dense_1/bias"):
        dataclasses.replace(runs, by_level={1: pruned})
    one = runs.ticket(1, 0)
    usual = {"net": NET, "to": DATA, "training": TRAINING, "seeds": [0], "progress": False}
    moved, again = (jt.transfer(t, **usual) for t in (one, one.replace(mask=filled(one.mask))))
    assert moved.table().equals(again.table())
    with pytest.raises(ValueError, match="`runs` prunes dense_0/bias, dense_1/bias"):
        jt.transfer(one.replace(mask=filled(one.mask, value=False)), **usual)


def emptied(ticket, key, *, net):
    mask = jax.tree.map(lambda w: jnp.zeros(w.shape, bool), ticket.params)
    return ticket.replace(mask=mask)


def dense_again(ticket, key, *, net):
    mask = jax.tree.map(lambda w: jnp.ones(w.shape, bool), ticket.params)
    return ticket.replace(mask=mask)


def test_a_control_may_return_a_full_mask_that_prunes_no_bias(runs):
    moved = jt.branch(runs, dense_again, levels=[1], progress=False)
    assert jax.tree.structure(moved.by_level[1]) == jax.tree.structure(runs.by_level[1])
    assert moved.densities.tolist() == [1.0]
    with pytest.raises(ValueError, match=r"`branches` 'emptied' prunes dense_0/bias"):
        jt.branch(runs, emptied, levels=[1], progress=False)


def test_runs_hold_as_many_tickets_as_seeds(runs):
    one = jax.tree.map(lambda x: x[:1], runs.by_level[1])
    with pytest.raises(ValueError, match=r"`by_level\[1\]` must be stacked over 2 seeds, got \(1,"):
        dataclasses.replace(runs, by_level={1: one})
    other = jt.networks.lenet(DATA.shape, 3, (5,))
    with pytest.raises(ValueError, match=r"does not fit the network: dense_0/bias \(6,\) -> \(5,"):
        dataclasses.replace(runs, net=other)


def floating(ticket, key, *, net):
    return ticket.replace(mask=jax.tree.map(lambda m: m.astype(jnp.float32), ticket.mask))


def test_a_branch_that_gives_no_mask_is_refused(runs):
    with pytest.raises(ValueError, match="`change` must be a tree of bools, got float32"):
        jt.branch(runs, floating, levels=[1], progress=False)


def test_runs_pickle(runs):
    back = pickle.loads(pickle.dumps(runs))
    assert back.table().equals(runs.table()) and back.seeds == runs.seeds
    assert back.matching() == runs.matching()
    chex.assert_trees_all_equal(back.by_level, runs.by_level)
    again = jt.branch(back, "retrain", levels=[1], progress=False).table()
    assert again.equals(jt.branch(runs, "retrain", levels=[1], progress=False).table())


# --- layers that lose everything


class Grouped(nn.Module):
    norm: str = "group"

    @nn.compact
    def __call__(self, x):
        for width in (6, 6, 6):
            x = nn.Dense(width)(x.reshape(len(x), -1))
            if self.norm == "group":
                x = nn.GroupNorm(2)(x)
            if self.norm == "layer":
                x = nn.LayerNorm()(x)
            if self.norm == "batch":
                x = nn.BatchNorm(use_running_average=True)(x)
            x = jnp.tanh(x) if self.norm == "tanh" else jax.nn.relu(x)
        return nn.Dense(3)(x)


@pytest.mark.parametrize("norm", ["group", "layer", "tanh", "batch", "none"])
def test_synflow_warns_where_there_is_no_flow(norm, recwarn):
    net = jt.from_linen(Grouped(norm), DATA.shape, name=norm)
    jt.prune_at(
        net, DATA, TRAINING, score="synflow", density=0.5, seeds=[0],
        progress=False,
    )  # fmt: skip
    told = [str(w.message) for w in recwarn]
    if norm in ("batch", "none"):
        assert not told
    else:
        assert len(told) == 1 and "this one has none" in told[0]
        assert ("tanh" if norm == "tanh" else "rsqrt") in told[0]


@pytest.mark.parametrize("entry", ["find_tickets", "prune_at"])
def test_layers_without_weights_are_said(entry, capsys):
    """One weight is left: a layer is empty, and matching is not claimed without a word."""
    if entry == "find_tickets":
        pruning = jt.Pruning(levels=1, fraction=0.98)
        found = jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=[0, 1], progress=False)
    else:
        found = jt.prune_at(
            NET, DATA, TRAINING, score="magnitude", density=0.02, seeds=[0, 1],
            progress=False,
        )  # fmt: skip
    said = capsys.readouterr().out
    (found_at,) = found.collapsed().values()
    assert list(found_at) == [0, 1] and all(len(layers) == 1 for layers in found_at.values())
    assert "layer collapse" in said and found_at[0][0] in said
    with pytest.warns(UserWarning, match=r"level 1 .*layers without weights.*dense_./kernel"):
        assert found.matching(margin=0.99)[1]


def test_a_run_without_collapse_says_nothing(runs, capsys):
    assert runs.collapsed() == {}
    runs.matching(margin=0.99)
