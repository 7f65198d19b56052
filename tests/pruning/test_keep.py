"""Selection: exact counts under any ties, against a sort in NumPy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine import parallel
from jaxticket.pruning import topk
from jaxticket.pruning.keep import count, layer_counts

# one tree for all examples of hypothesis, so that everything is compiled once
SHAPES = {"a": {"bias": (3,), "kernel": (4, 5)}, "b": {"bias": (2,), "kernel": (3, 2, 4)}}
SIZE = 44
FEW_VALUES = (0.0, -0.0, 1.0, -1.0, float("inf"), float("-inf"), 0.5, -2.5)
FINITE = st.floats(width=32, allow_nan=False, allow_subnormal=False)
quick = settings(max_examples=40, deadline=None)


def tree_of(kernels, biases):
    """The tree of SHAPES from 44 kernel entries, flat in the order of `jax.tree.leaves`."""
    kernels = np.asarray(kernels)
    fill = functools.partial(np.full, dtype=kernels.dtype)
    return {
        "a": {"bias": fill((3,), biases), "kernel": kernels[:20].reshape(4, 5)},
        "b": {"bias": fill((2,), biases), "kernel": kernels[20:].reshape(3, 2, 4)},
    }


def kernels_of(tree):
    return np.concatenate([np.asarray(tree[n]["kernel"]).reshape(-1) for n in ("a", "b")])


def sorted_choice(scores, alive, keep):
    """The reference: a stable sort by falling score, then by rising index."""
    scores, alive = np.asarray(scores), np.asarray(alive)
    order = np.lexsort((np.arange(len(scores)), -scores))
    chosen = np.zeros(len(scores), bool)
    chosen[order[alive[order]][: max(keep, 0)]] = True
    return chosen


def scores_strategy(size):
    ties = st.lists(st.sampled_from(FEW_VALUES), min_size=size, max_size=size)
    wild = st.lists(FINITE, min_size=size, max_size=size)
    return st.one_of(ties, wild).map(lambda x: np.asarray(x, np.float32))


def alive_strategy(size):
    return st.lists(st.booleans(), min_size=size, max_size=size).map(lambda x: np.asarray(x, bool))


jitted_global = jax.jit(jt.keep_top)
jitted_layer = jax.jit(functools.partial(jt.keep_top, scope="layer"))


@quick
@given(scores_strategy(SIZE), alive_strategy(SIZE), st.integers(0, SIZE + 3))
def test_global_equals_a_stable_sort(scores, alive, keep):
    """open_lth removes n + 1 weights and all ties, rigl over-prunes ties; here counts are exact."""
    mask = tree_of(alive, True)
    result = jitted_global(tree_of(scores, 9.0), mask, jnp.int32(keep))
    np.testing.assert_array_equal(kernels_of(result), sorted_choice(scores, alive, keep))
    assert int(masks.kept(result)) == min(keep, int(alive.sum()))
    assert bool(masks.nested(result, mask))
    assert result["a"]["bias"].all() and result["b"]["bias"].all()


@quick
@given(
    scores_strategy(SIZE),
    alive_strategy(SIZE),
    st.integers(0, 22),
    st.integers(0, 26),
    st.booleans(),
)
def test_layer_equals_a_stable_sort_of_each_layer(scores, alive, first, second, as_numbers):
    keep = [first, second] if as_numbers else jnp.asarray([first, second], jnp.int32)
    run = functools.partial(jt.keep_top, scope="layer") if as_numbers else jitted_layer
    result = run(tree_of(scores, 0.0), tree_of(alive, True), keep)
    expected = np.concatenate(
        [
            sorted_choice(scores[:20], alive[:20], first),
            sorted_choice(scores[20:], alive[20:], second),
        ]
    )
    np.testing.assert_array_equal(kernels_of(result), expected)


@pytest.mark.parametrize("keep", [0, 1, 19, 20, 21, 43, 44, 100])
@pytest.mark.parametrize(
    "value", [0.0, -0.0, 1.0, -3.0, np.inf, -np.inf, 1e-45], ids=lambda v: f"all_{v}"
)
def test_equal_scores_keep_exactly_the_first(value, keep):
    scores = tree_of(np.full(SIZE, value, np.float32), 0.0)
    result = kernels_of(jt.keep_top(scores, masks.ones(scores), keep))
    np.testing.assert_array_equal(result, np.arange(SIZE) < keep)


@pytest.mark.parametrize("keep", [1, 2, 3, 5])
def test_negative_zero_ties_with_zero(keep):
    scores = {"w": jnp.asarray([[-0.0, 0.0, -1.0, -0.0, 0.0, 0.0]])}
    for run in (jt.keep_top, jitted_global):
        result = np.asarray(run(scores, masks.ones(scores), keep)["w"])[0]
        expected = sorted_choice(np.asarray(scores["w"])[0], np.ones(6, bool), keep)
        np.testing.assert_array_equal(result, expected)


def test_many_zeros_below_the_cut_are_kept_by_index():
    scores = np.zeros(SIZE, np.float32)
    scores[[5, 30]] = 1.0
    result = kernels_of(jt.keep_top(tree_of(scores, 0.0), masks.ones(tree_of(scores, 0.0)), 4))
    assert np.flatnonzero(result).tolist() == [0, 1, 5, 30]


def test_minus_infinity_of_the_living_comes_before_the_pruned():
    scores = {"w": jnp.asarray([[jnp.inf, -jnp.inf, jnp.inf, -jnp.inf]])}
    mask = {"w": jnp.asarray([[False, True, False, True]])}
    assert jt.keep_top(scores, mask, 1)["w"].tolist() == [[False, True, False, False]]
    assert jt.keep_top(scores, mask, 3)["w"].tolist() == mask["w"].tolist()


@quick
@given(
    st.lists(FINITE, min_size=SIZE, max_size=SIZE, unique=True),
    alive_strategy(SIZE),
    st.permutations(range(SIZE)),
    st.integers(0, SIZE),
)
def test_distinct_scores_are_chosen_wherever_they_lie(scores, alive, order, keep):
    scores, order = np.asarray(scores, np.float32), np.asarray(order)
    plain = kernels_of(jitted_global(tree_of(scores, 0.0), tree_of(alive, True), keep))
    moved = jitted_global(tree_of(scores[order], 0.0), tree_of(alive[order], True), keep)
    np.testing.assert_array_equal(kernels_of(moved), plain[order])


@quick
@given(scores_strategy(SIZE), alive_strategy(SIZE), st.integers(0, SIZE), st.integers(0, SIZE))
def test_in_two_steps_as_in_one(scores, alive, few, more):
    few, more = min(few, more), max(few, more)
    tree = tree_of(scores, 0.0)
    once = jitted_global(tree, tree_of(alive, True), few)
    twice = jitted_global(tree, jitted_global(tree, tree_of(alive, True), more), few)
    np.testing.assert_array_equal(kernels_of(twice), kernels_of(once))


@pytest.mark.parametrize(
    "kth", [topk._kth_by_histogram, topk._kth_by_bisection], ids=["histogram", "bisection"]
)
def test_both_selections_find_the_kth_of_numpy(kth):
    find = jax.jit(kth)

    @settings(max_examples=40, deadline=None)
    @given(
        st.lists(
            st.one_of(
                st.integers(0, 2**32 - 1),
                st.sampled_from([0, 1, 2**16 - 1, 2**16, 2**31, 2**32 - 1]),
            ),
            min_size=17,
            max_size=17,
        ),
        st.integers(1, 17),
    )
    def check(ranks, k):
        ranks = np.asarray(ranks, np.uint32)
        found = find(jnp.asarray(ranks), jnp.int32(k))
        assert found.dtype == jnp.uint32
        assert int(found) == int(np.sort(ranks)[::-1][k - 1])

    check()


@pytest.mark.parametrize(
    "kth", [topk._kth_by_histogram, topk._kth_by_bisection], ids=["histogram", "bisection"]
)
def test_both_selections_in_a_whole_top(kth, monkeypatch):
    """`top` as it is compiled for each platform: GPU and TPU bisect, CPUs count histograms."""

    def always(*args, cpu, default):
        del cpu, default
        return kth(*args)

    monkeypatch.setattr(topk.jax.lax, "platform_dependent", always)
    run = jax.jit(lambda s, a, k: topk.top.__wrapped__(topk.sortable(s), a, k))
    rng = np.random.default_rng(0)
    for keep in (0, 1, 7, 30, 33, 40):
        scores = rng.choice(np.asarray(FEW_VALUES, np.float32), 33)
        alive = rng.random(33) < 0.8
        chosen = run(jnp.asarray(scores), jnp.asarray(alive), jnp.int32(keep))
        np.testing.assert_array_equal(chosen, sorted_choice(scores, alive, keep))


@pytest.mark.parametrize("size", [1, 2, 3, 8, 9, 256])
def test_sizes_around_powers_of_two(size):
    """The bisection for the last tie must reach every place."""
    for keep in {0, 1, size // 2, size - 1, size}:
        chosen = topk.top(jnp.zeros(size, jnp.uint32), jnp.ones(size, bool), jnp.int32(keep))
        np.testing.assert_array_equal(chosen, np.arange(size) < keep)


@quick
@given(st.lists(FINITE, min_size=8, max_size=8))
def test_ranks_order_as_numbers(values):
    values = np.asarray([*values, np.inf, -np.inf, 0.0, -0.0], np.float32)
    ranks = np.asarray(topk.sortable(jnp.asarray(values)))
    np.testing.assert_array_equal(ranks[:, None] < ranks[None], values[:, None] < values[None])
    np.testing.assert_array_equal(ranks[:, None] == ranks[None], values[:, None] == values[None])


def replicas():
    rng = np.random.default_rng(1)
    scores = rng.choice(np.asarray(FEW_VALUES, np.float32), (4, SIZE))
    alive = rng.random((4, SIZE)) < 0.9
    keep = np.asarray([0, 7, 20, 44], np.int32)
    stack = lambda *x: jax.tree.map(lambda *leaves: np.stack(leaves), *x)  # noqa: E731
    trees_ = stack(*(tree_of(s, 0.0) for s in scores)), stack(*(tree_of(a, True) for a in alive))
    expected = [sorted_choice(s, a, k) for s, a, k in zip(scores, alive, keep, strict=True)]
    return *trees_, keep, expected


def test_vmapped_with_a_count_for_every_replica():
    scores, mask, keep, expected = replicas()
    result = jax.jit(jax.vmap(jt.keep_top))(scores, mask, keep)
    for i in range(4):
        np.testing.assert_array_equal(
            kernels_of(jax.tree.map(lambda x, i=i: x[i], result)), expected[i]
        )


def test_vmapped_layers_with_counts_for_every_replica():
    scores, mask, _, _ = replicas()
    keep = np.asarray([[0, 5], [7, 24], [20, 0], [3, 3]], np.int32)
    result = jax.vmap(functools.partial(jt.keep_top, scope="layer"))(scores, mask, keep)
    for i in range(4):
        for n, layer in enumerate(("a", "b")):
            alive = int(mask[layer]["kernel"][i].sum())
            assert int(result[layer]["kernel"][i].sum()) == min(int(keep[i, n]), alive)


@pytest.mark.parametrize("data", [1, 2], ids=["data1", "data2"])
@pytest.mark.parametrize("mapped", [True, False], ids=["map", "vmap"])
def test_on_four_devices(data, mapped, vmap_replicas):
    scores, mask, keep, expected = replicas()
    mesh = parallel.mesh(data=data)
    assert mesh.devices.size == 4
    if not mapped:
        vmap_replicas()
    run = parallel.over_replicas(lambda limit, s, m, k: jt.keep_top(s, m, k), mesh)
    result = parallel.host(run(np.ones(4, np.int32), scores, mask, keep))
    for i in range(4):
        np.testing.assert_array_equal(
            kernels_of(jax.tree.map(lambda x, i=i: x[i], result)), expected[i]
        )


def test_bisection_on_four_devices():
    ranks = np.arange(32, dtype=np.uint32).reshape(4, 8)
    run = jax.shard_map(
        jax.vmap(topk._kth_by_bisection),
        mesh=parallel.mesh(),
        in_specs=(P("seed"), P("seed")),
        out_specs=P("seed"),
    )
    found = jax.jit(run)(ranks, np.asarray([1, 2, 3, 8], np.int32))
    assert np.asarray(found).tolist() == [7, 14, 21, 24]


def test_what_is_not_prunable_stays_and_does_not_count():
    scores = tree_of(np.arange(SIZE, dtype=np.float32), 100.0)
    prunable = {"a": {"bias": True, "kernel": False}, "b": {"bias": False, "kernel": True}}
    result = jt.keep_top(scores, masks.ones(scores, prunable=prunable), 4)
    assert int(masks.kept(result)) == 4
    assert result["a"]["bias"].tolist() == [True, True, True]  # scores of 100 come first
    assert result["a"]["kernel"] is None and result["b"]["bias"] is None
    assert np.flatnonzero(result["b"]["kernel"]).tolist() == [23]


def test_of_a_full_tree_of_bools_kernels_are_pruned_as_in_version_0_1():
    scores = tree_of(np.arange(SIZE, dtype=np.float32), 100.0)
    full = jax.tree.map(lambda s: np.ones(s.shape, bool), scores)
    full["b"]["bias"] = np.asarray([True, False])
    result = jt.keep_top(scores, full, 4)
    assert result["b"]["bias"].tolist() == [True, False] and result["a"]["bias"].all()
    known = jt.keep_top(scores, masks.ones(scores), 4)
    assert int(masks.kept(result)) == int(masks.kept(known)) == 4
    for layer in "ab":
        np.testing.assert_array_equal(result[layer]["kernel"], known[layer]["kernel"])


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda s, m: jt.keep_top(s, m, -1), "`keep` must be at least 0, got -1"),
        (lambda s, m: jt.keep_top(s, m, np.int32(-2)), "`keep` must be at least 0, got -2"),
        (lambda s, m: jt.keep_top(s, m, 3, scope="row"), "`scope` must be one of"),
        (lambda s, m: jt.keep_top({"a": s["a"]}, m, 3), "`scores` must have the same tree"),
        (
            lambda s, m: jt.keep_top(jax.tree.map(lambda x: x[:1], s), m, 3),
            r"`scores` has shape \(1, 5\) at 'a/kernel'",
        ),
        (lambda s, m: jt.keep_top(s, m, 3, scope="layer"), "`keep` must hold one number per"),
        (lambda s, m: jt.keep_top(s, m, [1, 2, 3], scope="layer"), r"\(2\).*got shape \(3,\)"),
        (
            lambda s, m: jt.keep_top(s, jax.tree.map(lambda _: None, s), 3),
            "`mask` has None at every leaf",
        ),
    ],
    ids=[
        "negative",
        "negative number of NumPy",
        "scope",
        "tree",
        "shape",
        "scalar",
        "long",
        "none",
    ],
)
def test_errors_name_the_argument(call, message):
    scores = tree_of(np.zeros(SIZE, np.float32), 0.0)
    with pytest.raises(ValueError, match=message):
        call(scores, masks.ones(scores))


def params_and_context():
    params = jax.tree.map(
        lambda key, shape: jax.random.normal(key, shape),
        jax.tree.unflatten(
            jax.tree.structure(SHAPES, is_leaf=lambda x: isinstance(x, tuple)),
            list(jax.random.split(jax.random.key(3), 4)),
        ),
        SHAPES,
    )
    nothing = lambda *_: jnp.float32(0)  # noqa: E731
    batches = (jnp.zeros((1, 2, 3)), jnp.zeros((1, 2), jnp.int32))
    return params, jt.ScoreContext(nothing, nothing, params, masks.ones(params), batches)


@pytest.mark.parametrize("density, rounds", [(1.0, 3), (0.5, 1), (0.1, 10), (1e-3, 3)])
def test_prune_ends_at_the_exact_count(density, rounds):
    params, context = params_and_context()
    mask = jt.prune(
        params,
        context,
        score=jt.scores.magnitude,
        density=density,
        rounds=rounds,
        key=jax.random.key(0),
    )
    assert int(masks.kept(mask)) == round(density * SIZE)
    # magnitudes do not change between rounds: many rounds give what one gives
    expected = jt.keep_top(jax.tree.map(jnp.abs, params), context.mask, round(density * SIZE))
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), mask, expected))


def test_each_round_sees_the_mask_of_the_one_before():
    """Rounds shrink as density ** (i / R), each scoring weights and mask as they are by then."""
    params, context = params_and_context()
    seen = []

    def score(params, context, *, key):
        def note(alive, masked, number):
            seen.append((int(alive), bool(masked), int(number)))

        fits = [jnp.all(m | (w == 0)) for _, m, w in masks.items(context.mask, params)]
        alive = masks.kept(context.mask)
        bits = jax.random.bits(key)
        jax.debug.callback(note, alive, jnp.all(jnp.stack(fits)), bits)
        return jax.tree.map(jnp.abs, params)

    jt.prune(params, context, score=score, density=0.1, rounds=4, key=jax.random.key(0))
    jax.effects_barrier()
    assert sorted((n for n, _, _ in seen), reverse=True) == [
        44,
        round(0.1**0.25 * 44),
        round(0.1**0.5 * 44),
        round(0.1**0.75 * 44),
    ]
    assert all(masked for _, masked, _ in seen)
    assert len({bits for _, _, bits in seen}) == 4, "each round draws numbers of its own"


def test_prune_by_layer_and_by_the_mask_of_the_context():
    params, context = params_and_context()
    run = functools.partial(
        jt.prune, params, score=jt.scores.magnitude, density=0.3, key=jax.random.key(0)
    )
    by_layer = run(context, rounds=2, scope="layer")
    assert int(by_layer["a"]["kernel"].sum()) == round(0.3 * 20)
    assert int(by_layer["b"]["kernel"].sum()) == round(0.3 * 24)
    only = {"a": {"bias": False, "kernel": True}, "b": {"bias": False, "kernel": False}}
    alone = run(context._replace(mask=masks.ones(params, prunable=only)), rounds=2)
    assert int(alone["a"]["kernel"].sum()) == 6
    assert alone["b"]["kernel"] is None


def test_prune_begins_at_the_mask_of_the_context():
    params, context = params_and_context()
    half = jt.keep_top(params, context.mask, 22)
    mask = jt.prune(
        params,
        context._replace(mask=half),
        score=jt.scores.magnitude,
        density=0.25,
        key=jax.random.key(0),
    )
    assert int(masks.kept(mask)) == 11
    assert bool(masks.nested(mask, half))


@pytest.mark.parametrize(
    "options, message",
    [
        ({"density": 0.0}, r"`density` must be in \(0, 1\], got 0.0"),
        ({"density": 1.5}, "`density`"),
        ({"density": float("nan")}, "`density`"),
        ({"density": 0.5, "rounds": 0}, "`rounds` must be a whole number"),
        ({"density": 0.5, "rounds": 2.0}, "`rounds` must be a whole number"),
        ({"density": 0.5, "scope": "row"}, "`scope` must be one of"),
    ],
    ids=["zero", "above_one", "nan", "no_rounds", "float_rounds", "scope"],
)
def test_prune_errors(options, message):
    """Synaptic-Flow prints "ERROR" and quits where a density is wrong."""
    params, context = params_and_context()
    with pytest.raises(ValueError, match=message):
        jt.prune(params, context, score=jt.scores.magnitude, key=jax.random.key(0), **options)


def test_the_ladder_of_the_sources():
    percent = [100, 80.0, 64.0, 51.2, 41.0, 32.8, 26.2, 21.0, 16.8, 13.4, 10.7, 8.59, 6.87]
    assert [float(f"{100 * d:.3g}") for d in jt.densities(12)] == percent
    assert count(float(jt.densities(1)[1]), 266_200) == 212_960


@pytest.mark.parametrize(
    "density, size, expected",
    [(0.5, 5, 2), (0.5, 7, 4), (0.5, 3, 2), (1.0, 5, 5), (1e-6, 5, 0)],
    ids=["half_to_even_down", "half_to_even_up", "one_and_a_half", "all", "none"],
)
def test_counts_round_half_to_even(density, size, expected):
    assert count(density, size) == expected


@pytest.mark.parametrize(
    "call, message",
    [
        (lambda: jt.densities(-1), "`levels`"),
        (lambda: jt.densities(2.0), "`levels`"),
        (lambda: jt.densities(3, 1.0), "`fraction`"),
        (lambda: jt.densities(3, 0.0), "`fraction`"),
        (lambda: count(0.0, 5), "`density`"),
        (lambda: count(1.1, 5), "`density`"),
    ],
    ids=["levels", "float_levels", "all", "nothing", "zero", "above"],
)
def test_ladder_errors(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_layer_counts_of_the_2019_paper():
    """The output layer at half the rate of the others: 0.9 ** n where they have 0.8 ** n."""
    params = jax.eval_shape(jt.networks.lenet().init, jax.random.key(0))[0]
    sizes = np.asarray([784 * 300, 300 * 100, 100 * 10])
    for level in (0, 1, 5):
        density = float(jt.densities(level)[-1])
        counts = layer_counts(params, density, level=level, rates=[("dense_2", 0.1)])
        expected = [round(0.8**level * sizes[0]), round(0.8**level * sizes[1])]
        assert counts.tolist() == [*expected, round(0.9**level * sizes[2])]
    assert layer_counts(params, 0.5).tolist() == (sizes // 2).tolist()
    first_match = layer_counts(params, 0.5, level=1, rates=[("dense_*", 0.25), ("dense_2", 0.9)])
    assert first_match.tolist() == (0.75 * sizes).astype(int).tolist()
    only = jt.networks.lenet().mask(("dense_0", "dense_2"))
    assert layer_counts(only, 0.5).tolist() == [15_000]
