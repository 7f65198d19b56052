"""Masks: what is moved, what stays, and bits on disk."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxticket as jt
from jaxticket import masks

SHAPES = {"a": {"bias": (3,), "kernel": (6, 9)}, "b": {"bias": (4,), "kernel": (3, 3, 2, 5)}}
SIZE = 54 + 90
quick = settings(max_examples=30, deadline=None)


def mask_of(bits):
    """A mask of SHAPES; the biases have pruned entries too, which nothing may move."""
    bits = np.asarray(bits, bool)
    return {
        "a": {"bias": np.asarray([True, False, True]), "kernel": bits[:54].reshape(6, 9)},
        "b": {"bias": np.asarray([False] * 3 + [True]), "kernel": bits[54:].reshape(3, 3, 2, 5)},
    }


masks_strategy = st.lists(st.booleans(), min_size=SIZE, max_size=SIZE).map(mask_of)
seeds = st.integers(0, 2**32 - 1)
shuffle = jax.jit(lambda mask, key: masks.shuffle(mask, key=key))
permute = jax.jit(lambda mask, key: masks.permute(mask, key=key))


def same(a, b):
    return all(
        np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


@quick
@given(masks_strategy, seeds)
def test_shuffle_keeps_the_count_of_every_layer(mask, seed):
    moved = shuffle(mask, jax.random.key(seed))
    for layer in SHAPES:
        assert int(moved[layer]["kernel"].sum()) == int(mask[layer]["kernel"].sum())
        np.testing.assert_array_equal(moved[layer]["bias"], mask[layer]["bias"])
        assert moved[layer]["kernel"].dtype == bool
        assert moved[layer]["kernel"].shape == SHAPES[layer]["kernel"]


@quick
@given(masks_strategy, seeds)
def test_permute_keeps_the_total(mask, seed):
    moved = permute(mask, jax.random.key(seed))
    assert int(masks.kept(moved)) == int(masks.kept(mask))
    for layer in SHAPES:
        np.testing.assert_array_equal(moved[layer]["bias"], mask[layer]["bias"])
        assert moved[layer]["kernel"].shape == SHAPES[layer]["kernel"]


def halves():
    """Both kernels half full, all ones first: a shuffle that leaves this in place does nothing."""
    return mask_of([True] * 27 + [False] * 27 + [True] * 45 + [False] * 45)


@pytest.mark.parametrize("move", [shuffle, permute], ids=["shuffle", "permute"])
def test_masks_really_move(move):
    """Synaptic-Flow's `Pruner.shuffle` rebinds its loop variable, and nothing is shuffled."""
    moved = move(halves(), jax.random.key(0))
    for layer in SHAPES:
        stayed = float((np.asarray(moved[layer]["kernel"]) == halves()[layer]["kernel"]).mean())
        assert 0.2 < stayed < 0.8, "half of the entries agree by chance"


def test_every_place_is_as_likely():
    """Over many keys, each place keeps its weight in the share of the density (5 sigma)."""
    keys = jax.random.split(jax.random.key(1), 4000)
    shuffled = jax.jit(jax.vmap(lambda k: masks.shuffle(halves(), key=k)["a"]["kernel"]))(keys)
    shares = np.asarray(shuffled).mean(0)
    assert abs(shares - 0.5).max() < 5 * 0.5 / np.sqrt(4000)
    permuted = jax.jit(jax.vmap(lambda k: masks.permute(halves(), key=k)["a"]["kernel"]))(keys)
    counts = np.asarray(permuted).sum((1, 2))
    # hypergeometric: 54 of 144 places, 72 ones
    variance = 54 * 0.25 * (144 - 54) / (144 - 1)
    assert abs(counts.mean() - 27) < 5 * np.sqrt(variance / 4000)
    np.testing.assert_allclose(counts.var(), variance, rtol=5 * np.sqrt(2 / 4000))


@pytest.mark.parametrize("move", [shuffle, permute], ids=["shuffle", "permute"])
def test_one_key_gives_one_mask_and_another_key_another(move):
    mask = halves()
    once, again, other = (move(mask, jax.random.key(seed)) for seed in (0, 0, 1))
    assert same(once, again)
    for layer in SHAPES:
        assert not np.array_equal(once[layer]["kernel"], other[layer]["kernel"])


@pytest.mark.parametrize("move", [shuffle, permute], ids=["shuffle", "permute"])
def test_replicas_are_moved_by_their_own_keys(move):
    stacked = jax.tree.map(lambda x: np.stack([x] * 3), halves())
    keys = jax.random.split(jax.random.key(2), 3)
    together = jax.vmap(move)(stacked, keys)
    for i in range(3):
        alone = move(halves(), keys[i])
        assert same(alone, jax.tree.map(lambda x, i=i: x[i], together))
    kernels = [np.asarray(together["a"]["kernel"][i]) for i in range(3)]
    assert not any(np.array_equal(kernels[i], kernels[i - 1]) for i in range(3))


def test_layers_of_one_shape_are_shuffled_differently():
    half = np.arange(64).reshape(8, 8) < 32
    moved = masks.shuffle({"a": half, "b": half}, key=jax.random.key(0))
    assert not np.array_equal(moved["a"], moved["b"])


def test_the_shuffle_of_a_layer_does_not_depend_on_the_others():
    mask, key = halves(), jax.random.key(0)
    alone = masks.shuffle({"b": mask["b"]}, key=key)
    np.testing.assert_array_equal(masks.shuffle(mask, key=key)["b"]["kernel"], alone["b"]["kernel"])


@pytest.mark.parametrize("name", ["shuffle", "permute"])
def test_layers_that_are_not_prunable_stay(name):
    mask = halves()
    mask["a"]["kernel"] = mask["a"]["bias"] = mask["b"]["bias"] = None
    moved = getattr(masks, name)(mask, key=jax.random.key(0))
    assert moved["a"] == {"bias": None, "kernel": None} and moved["b"]["bias"] is None
    assert int(moved["b"]["kernel"].sum()) == 45
    assert not np.array_equal(moved["b"]["kernel"], halves()["b"]["kernel"])


def test_densities_count_prunable_entries_only():
    mask = mask_of([True] * 27 + [False] * 27 + [True] * 30 + [False] * 60)
    assert masks.prunable_size(mask) == SIZE
    assert int(masks.kept(mask)) == 57
    assert float(masks.density(mask)) == np.float32(57) / np.float32(144)
    layers = masks.layer_density(mask)
    assert list(layers) == ["a/kernel", "b/kernel"]
    assert float(layers["a/kernel"]) == 0.5
    assert float(layers["b/kernel"]) == np.float32(30) / np.float32(90)
    # None anywhere says that all others count
    less = {**mask, "b": {**mask["b"], "bias": None}}
    assert float(masks.density(less)) == np.float32(59) / np.float32(147)
    assert len(masks.layer_density(less)) == 3
    assert float(masks.density(masks.ones(mask))) == 1.0


@quick
@given(masks_strategy, masks_strategy)
def test_overlap_is_intersection_over_union(a, b):
    ours, theirs = (np.concatenate([m[n]["kernel"].reshape(-1) for n in SHAPES]) for m in (a, b))
    union = int((ours | theirs).sum())
    expected = np.float32((ours & theirs).sum()) / np.float32(union) if union else 1.0
    assert float(masks.overlap(a, b)) == pytest.approx(expected, abs=1e-7)
    assert float(masks.overlap(a, a)) == 1.0


def test_empty_masks_overlap_wholly():
    assert float(masks.overlap(mask_of([False] * SIZE), mask_of([False] * SIZE))) == 1.0


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf], ids=str)
def test_nothing_leaks_from_pruned_places(poison):
    """`0 * inf` would be nan."""
    mask = {"w": np.asarray([[True, False], [False, True]])}
    tree = {"w": jnp.asarray([[1.0, poison], [poison, -2.0]])}
    applied = masks.apply(mask, tree)["w"]
    assert applied.tolist() == [[1.0, 0.0], [0.0, -2.0]]
    assert not np.signbit(np.asarray(applied)[0, 1])
    slope = jax.grad(lambda t: masks.apply(mask, t)["w"].sum())(tree)["w"]
    assert slope.tolist() == [[1.0, 0.0], [0.0, 1.0]]


def test_apply_keeps_the_type():
    tree = {"w": jnp.ones((2, 2), jnp.bfloat16)}
    assert masks.apply(masks.ones(tree), tree)["w"].dtype == jnp.bfloat16


@quick
@given(masks_strategy)
def test_bits_come_back(mask):
    bits = masks.pack(mask)
    assert bits["a"]["kernel"].dtype == np.uint8
    assert [x.size for x in jax.tree.leaves(bits)] == [1, 7, 1, 12]
    like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, bool), mask)
    back = masks.unpack(bits, like)
    assert same(back, mask)
    assert all(x.dtype == bool for x in jax.tree.leaves(back))


@pytest.mark.parametrize("length", [0, 1, 3], ids=str)
def test_bits_of_another_size_are_refused(length):
    with pytest.raises(ValueError, match=rf"`bits` holds {length} bytes where shape \(3, 5\)"):
        masks.unpack({"w": np.zeros(length, np.uint8)}, {"w": np.zeros((3, 5), bool)})


def test_nested():
    outer = halves()
    inner = mask_of([True] * 20 + [False] * 34 + [True] * 10 + [False] * 80)
    assert bool(masks.nested(inner, outer))
    assert bool(masks.nested(outer, outer))
    assert not bool(masks.nested(outer, inner))
    masks.require_nested(inner, outer)
    masks.require_nested(outer, outer)


def test_regrown_weights_are_refused_with_their_layer():
    inner = halves()
    inner["b"]["kernel"] = ~inner["b"]["kernel"]
    with pytest.raises(ValueError, match=r"`inner` keeps weights.*\['b/kernel'\]"):
        masks.require_nested(inner, halves())


@pytest.mark.parametrize(
    "other, message",
    [
        ({"a": np.ones((6, 9), bool)}, "`inner` must have the same tree"),
        ({"a": np.ones(3, bool), "b": np.ones(4, bool)}, r"`inner` has shape \(3,\) at 'a'"),
    ],
    ids=["tree", "shape"],
)
def test_nested_needs_one_tree(other, message):
    outer = {"a": np.ones((6, 9), bool), "b": np.ones(4, bool)}
    with pytest.raises(ValueError, match=message):
        masks.require_nested(other, outer)


def test_only_matrices_and_kernels_are_prunable_by_default():
    mask = halves()
    expected = {"a": {"bias": False, "kernel": True}, "b": {"bias": False, "kernel": True}}
    assert masks.prunable_leaves(mask) == expected


# --- None at leaves that cannot be pruned


def known_halves():
    """As `halves`, but the network prunes its kernels alone."""
    mask = halves()
    return {name: {"bias": None, "kernel": layer["kernel"]} for name, layer in mask.items()}


def weights():
    return jax.tree.map(lambda m: np.full(m.shape, 2.0, np.float32), halves())


def test_operations_leave_none_alone_and_count_what_is_left():
    mask, full = known_halves(), halves()
    none = {"a": {"bias": None, "kernel": None}, "b": {"bias": None, "kernel": None}}
    empty = masks.map_with(np.zeros_like, mask)
    assert jax.tree.structure(empty) == jax.tree.structure(mask) != jax.tree.structure(none)
    assert masks.prunable_sizes(mask) == [54, 90] and masks.prunable_size(mask) == SIZE
    assert int(masks.kept(mask)) == 72 and float(masks.density(mask)) == 0.5
    assert list(masks.layer_density(mask)) == ["a/kernel", "b/kernel"]
    for move in (masks.shuffle, masks.permute):
        moved, like = (move(m, key=jax.random.key(0)) for m in (mask, full))
        for layer in SHAPES:
            assert moved[layer]["bias"] is None
            np.testing.assert_array_equal(moved[layer]["kernel"], like[layer]["kernel"])
    assert bool(masks.nested(mask, mask)) and float(masks.overlap(mask, mask)) == 1.0
    assert not bool(masks.nested(mask, empty)) and float(masks.overlap(mask, empty)) == 0.0
    with pytest.raises(ValueError, match=r"in \['a/kernel', 'b/kernel'\]"):
        masks.require_nested(mask, empty)
    # a full tree alongside it: the leaves that count in both are compared
    masks.require_nested(masks.ones(weights()), jax.tree.map(np.ones_like, full))
    bits = masks.pack(mask)
    assert len(jax.tree.leaves(bits)) == 2 and same(masks.unpack(bits, weights()), mask)
    applied = masks.apply(mask, weights())
    for layer in SHAPES:
        np.testing.assert_array_equal(applied[layer]["bias"], weights()[layer]["bias"])
        np.testing.assert_array_equal(applied[layer]["kernel"] != 0, mask[layer]["kernel"])
    ones = masks.ones(weights())
    assert jax.tree.structure(ones) == jax.tree.structure(mask)
    assert all(m.all() for m in jax.tree.leaves(ones))


@pytest.mark.parametrize("stacked", [False, True])
def test_a_bias_never_counts_also_stacked_over_replicas(stacked):
    """Stacked, a bias has two dimensions."""
    net = jt.networks.lenet((3, 3, 1), 4, (5,))
    mask = net.mask(lead=(2,)) if stacked else net.mask()
    assert masks.prunable_size(mask) == (2 if stacked else 1) * (9 * 5 + 5 * 4)
    less = net.mask(("dense_1",), lead=(2,) if stacked else ())
    assert masks.prunable_size(less) == (2 if stacked else 1) * 9 * 5
    assert less["dense_1"] == {"bias": None, "kernel": None}
    if stacked:
        assert jax.vmap(masks.kept)(mask).tolist() == [65, 65]
        assert masks.empty_layers(jax.tree.map(np.zeros_like, mask)).keys() == {
            "dense_0/kernel", "dense_1/kernel"
        }  # fmt: skip


@pytest.mark.parametrize(
    "wrong, message",
    [
        ({"a": {"bias": None}, "b": {"bias": None, "kernel": None}}, "must have the same tree"),
        ({"a": {"bias": None, "kernel": np.ones((9, 6), bool)}, "b": {"bias": None,
          "kernel": None}}, r"has shape \(6, 9\) at 'a/kernel'"),
    ],
    ids=["tree", "shape"],
)  # fmt: skip
def test_none_hides_no_other_difference(wrong, message):
    with pytest.raises(ValueError, match=message):
        masks.apply(wrong, weights())
    with pytest.raises(ValueError, match=message.replace("6, 9", "9, 6")):
        masks.require_like("mask", wrong, weights())


def test_a_mask_conforms_to_its_network_or_says_where_it_does_not():
    dense = masks.map_with(np.ones_like, known_halves())
    full = {**halves(), "a": {**halves()["a"], "bias": np.ones(3, bool)}}
    full["b"] = {**full["b"], "bias": None}
    assert same(masks.conform(full, dense, called="`mask`"), known_halves())
    # what a run excluded is whole where it is not excluded
    excluded = {**known_halves(), "a": {"bias": None, "kernel": None}}
    found = masks.conform(excluded, dense, called="`mask`")
    assert found["a"]["kernel"].all() and found["a"]["kernel"].shape == (6, 9)
    with pytest.raises(ValueError, match="`mask` prunes a/bias, b/bias, which cannot be pruned"):
        masks.conform(halves(), dense, called="`mask`")


def test_where_vectors_are_pruned_too_one_leaf_has_to_stay():
    net = jt.networks.lenet((3, 3, 1), 4, (5,))
    every = dataclasses.replace(net, prunable=lambda p: jax.tree.map(lambda _: True, p))
    with pytest.raises(ValueError, match="`prunable` marks every leaf, with vectors among them"):
        every.mask()
    assert every.mask(("dense_1/bias",))["dense_0"]["bias"].all()
