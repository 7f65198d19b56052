"""Structured masks: exact counts in units, for every structure, scope and score."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from random_tickets import NETWORKS, logits, random_ticket
from trees import leaves

import jaxticket as jt
from jaxticket import masks, structures
from jaxticket.pruning.topk import sortable, top_within

NET = jt.networks.lenet((4, 4, 1), 4, widths=(12, 8))
CONV = jt.networks.conv2((8, 8, 4), 4, width=0.125)
STRUCTURES = ("2:4", "1:4", ("block", 4, 2), "channel", ("fan_in", 3))
each_structure = pytest.mark.parametrize("structure", STRUCTURES, ids=str)
quick = settings(max_examples=25, deadline=None)


def drawn(net, seed, *, ties=False):
    """Scores of all weights."""
    draw = np.random.default_rng(seed)

    def one(x):
        values = draw.normal(size=x.shape)
        return jnp.asarray(np.round(values) if ties else values, jnp.float32)

    return jax.tree.map(one, net.shapes[0])


def kernels(mask):
    return {path: np.asarray(m) for path, m in masks.items(mask)}


def in_groups(m, size):
    """[..., inputs, outputs] as [group, member, output]."""
    return m.reshape(-1, size, m.shape[-1])


def assert_structured(net, structure, mask):
    """Whatever a structure promises of any mask."""
    units = structures.units_of(structure, net.mask(), net)
    again = units.expand(units.alive(mask), mask)
    jax.tree.map(np.testing.assert_array_equal, again, mask)


@each_structure
@pytest.mark.parametrize("net", [NET, CONV], ids=["lenet", "conv"])
def test_expand_inverts_alive(net, structure):
    units = structures.units_of(structure, net.mask(), net)
    scores = drawn(net, 0)
    pooled = units.pool(scores, net.mask())
    every = units.alive(net.mask())
    assert all(np.all(x) for x in jax.tree.leaves(every))
    assert [x.size for x in jax.tree.leaves(every)] == list(units.sizes)
    assert len(units.names) == len(units.sizes)
    chosen = units.keep(pooled, every, jnp.asarray(units.rounds(units.density or 0.4, 1)[0]))
    there = units.alive(units.expand(chosen, net.mask()))
    jax.tree.map(np.testing.assert_array_equal, there, chosen)


@quick
@given(st.integers(0, 10_000), st.integers(1, 3), st.booleans())
def test_n_of_each_m(seed, n, ties):
    """Against a stable sort of each group."""
    scores = drawn(CONV, seed, ties=ties)
    mask = jt.keep_top(scores, CONV.mask(), None, structure=f"{n}:4")
    for path, m in kernels(mask).items():
        groups = in_groups(m, 4)
        assert (groups.sum(axis=1) == n).all(), path
        values = in_groups(np.asarray(leaves(scores)[path]), 4)
        order = np.argsort(-values, axis=1, kind="stable")
        wanted = np.zeros_like(groups)
        np.put_along_axis(wanted, order[:, :n], True, axis=1)
        np.testing.assert_array_equal(groups, wanted)
    # channels that are consecutive at one position of the kernel, of one output
    first = np.asarray(mask["conv_0"]["kernel"])
    assert first[0, 0, :, 0].sum() == n and first.shape[-2] == 4


@quick
@given(st.integers(0, 10_000), st.integers(1, 8), st.booleans())
def test_fan_in(seed, k, ties):
    mask = jt.keep_top(drawn(CONV, seed, ties=ties), CONV.mask(), None, structure=("fan_in", k))
    for m in kernels(mask).values():
        assert (m.reshape(-1, m.shape[-1]).sum(axis=0) == k).all()


@quick
@given(st.integers(0, 10_000), st.integers(1, 60), st.booleans())
def test_blocks(seed, keep, ties):
    mask = jt.keep_top(drawn(CONV, seed, ties=ties), CONV.mask(), keep, structure=("block", 2, 4))
    kept = 0
    for m in kernels(mask).values():
        *lead, rows, columns = m.shape
        tiles = m.reshape(*lead, rows // 2, 2, columns // 4, 4)
        assert (tiles.any(axis=(-3, -1)) == tiles.all(axis=(-3, -1))).all()
        kept += tiles.all(axis=(-3, -1)).sum()
    assert kept == keep
    assert int(masks.kept(mask)) == 8 * keep


@quick
@given(st.integers(0, 10_000), st.integers(2, 20), st.booleans())
def test_channels(seed, keep, ties):
    mask = jt.keep_top(drawn(NET, seed, ties=ties), NET.mask(), keep, structure="channel", net=NET)
    assert_structured(NET, "channel", mask)
    first, second, last = (np.asarray(mask[f"dense_{i}"]["kernel"]) for i in range(3))
    left = [first.all(axis=0), last.all(axis=1)]
    assert sum(int(x.sum()) for x in left) == keep
    assert all(x.any() for x in left), "one unit of each layer at least"
    np.testing.assert_array_equal(second, left[0][:, None] & left[1][None])
    np.testing.assert_array_equal(first, np.broadcast_to(left[0], first.shape))


def test_the_score_of_a_unit_is_the_mean_of_its_incoming_weights():
    scores = drawn(NET, 1)
    mask = NET.mask()
    units = structures.units_of("channel", mask, NET)
    pooled = units.pool(scores, mask)
    wanted = {f"dense_{i}": np.mean(scores[f"dense_{i}"]["kernel"], axis=0) for i in range(2)}
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-5), pooled, wanted)
    # of those that are left: units that are gone do not pull down what they led to
    mask = jt.keep_top(scores, mask, 12, structure="channel", net=NET)
    there = np.asarray(mask["dense_0"]["kernel"]).any(axis=0)
    pooled = units.pool(scores, mask)["dense_1"]
    wanted = np.mean(np.asarray(scores["dense_1"]["kernel"])[there], axis=0)
    left = np.asarray(mask["dense_1"]["kernel"]).any(axis=0)
    np.testing.assert_allclose(pooled[left], wanted[left], rtol=1e-5)


def test_residual_channels_are_coupled_and_padded_ones_stay():
    net = NETWORKS["wide"]()
    units = structures.units_of("channel", net.mask(), net)
    mask = jt.keep_top(
        drawn(net, 0), net.mask(), sum(units.sizes) // 2, structure="channel", net=net
    )
    assert_structured(net, "channel", mask)
    padded = NETWORKS["resnet8_padding"]()
    names = structures.units_of("channel", padded.mask(), padded).names
    assert names and all("conv_0" in name for name in names), "inner channels alone"


QUICK = ("lenet", "conv2_batch", "resnet8")
MORE = ("conv2", "resnet8_padding", "wide")


@pytest.mark.parametrize(
    "name", [*QUICK, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)]
)
def test_a_channel_ticket_compacts_exactly(name):
    """As many units as the mask keeps, and the same logits, with biases and statistics."""
    net = NETWORKS[name]()
    ticket = random_ticket(net, 1.0, dead=0)
    units = structures.units_of("channel", net.mask(), net)
    keep = sum(units.sizes) // 2
    mask = jt.keep_top(
        jax.tree.map(jnp.abs, jax.tree.map(jnp.asarray, ticket.params)),
        net.mask(), keep, structure="channel", net=net,
    )  # fmt: skip
    ticket = ticket.replace(mask=jax.tree.map(np.asarray, mask)).masked()
    small = ticket.compact(net)
    alive = {name: int(np.sum(x)) for name, x in units.alive(mask).items()}
    assert {name: small.units[name][0] for name in units.names} == alive
    assert sum(alive.values()) == keep
    x = 2 * net.noise(jax.random.key(7), 16)
    before, after = logits(net, ticket, x), logits(small.net, small.ticket, x)
    np.testing.assert_allclose(after, before, atol=1e-5 * max(1, np.abs(before).max()))
    assert all(np.all(m) for _, m in masks.items(small.ticket.mask)), "nothing pruned is left"


@each_structure
def test_masks_are_nested_and_dead_weights_never_return(structure):
    units = structures.units_of(structure, NET.mask(), NET)
    mask = NET.mask()
    for seed, share in enumerate((0.9, 0.7, 0.6, 0.5)):
        keep = jnp.asarray(units.counts(share))
        smaller = jt.keep_top(drawn(NET, seed), mask, keep, structure=structure, net=NET)
        assert bool(masks.nested(smaller, mask))
        assert_structured(NET, structure, smaller)
        mask = smaller


@pytest.mark.parametrize(
    ("structure", "scope"),
    [(s, "global") for s in STRUCTURES] + [(("block", 4, 2), "layer"), ("channel", "layer")],
)
def test_inside_jit_as_outside(structure, scope):
    units = structures.units_of(structure, NET.mask(), NET)
    keep = jnp.asarray(units.counts(0.5, scope=scope))
    scores, mask = drawn(NET, 3), jax.tree.map(jnp.asarray, NET.mask())
    call = functools.partial(jt.keep_top, scope=scope, structure=structure, net=NET)
    jax.tree.map(
        np.testing.assert_array_equal, call(scores, mask, keep), jax.jit(call)(scores, mask, keep)
    )


@quick
@given(st.data())
def test_top_within_is_a_stable_sort_of_each_group(data):
    shape = (3, 5, 2)
    values = np.asarray(
        data.draw(st.lists(st.sampled_from([0.0, -0.0, 1.0, -2.0, np.inf, -np.inf]),
                           min_size=30, max_size=30)), np.float32,
    ).reshape(shape)  # fmt: skip
    alive = np.asarray(data.draw(st.lists(st.booleans(), min_size=30, max_size=30))).reshape(shape)
    keep = data.draw(st.integers(0, 6))
    found = np.asarray(
        top_within(sortable(jnp.asarray(values)), jnp.asarray(alive), jnp.int32(keep))
    )
    for group in np.ndindex(3, 2):
        row, there = values[group[0], :, group[1]], alive[group[0], :, group[1]]
        order = np.lexsort((np.arange(5), -row))
        wanted = np.zeros(5, bool)
        wanted[order[there[order]][:keep]] = True
        np.testing.assert_array_equal(found[group[0], :, group[1]], wanted)


def test_without_a_structure_nothing_changes():
    scores = drawn(NET, 0)
    one = jt.keep_top(scores, NET.mask(), 100)
    two = jt.keep_top(scores, NET.mask(), 100, structure=None)
    jax.tree.map(np.testing.assert_array_equal, one, two)


@each_structure
def test_prune_with_rounds(structure):
    params, _ = NET.init(jax.random.key(0))
    implied = structures.units_of(structure, NET.mask(), NET).density
    mask = jt.prune(
        params, score="magnitude", density=None if implied else 0.5, rounds=1,
        structure=structure, net=NET, key=jax.random.key(0),
    )  # fmt: skip
    assert_structured(NET, structure, mask)
    if implied:
        assert float(jt.density(mask)) == pytest.approx(implied, abs=1e-7)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2-4", r"`structure` must be \"N:M\" such as \"2:4\""),
        ("4:4", "'4:4' keeps 4 of each 4 weights, which prunes nothing"),
        ("0:4", "`n` must be"),
        (("block", 0, 4), r"`structure\[1\]`"),
        (("blocks", 2, 4), "`structure` must be"),
        (("fan_in", 1.5), r"`structure\[1\]`"),
        (7, "`structure` must be"),
    ],
)
def test_what_is_no_structure(value, text):
    with pytest.raises(ValueError, match=text):
        jt.keep_top(drawn(NET, 0), NET.mask(), 3, structure=value)
    with pytest.raises(ValueError, match=text):
        jt.Pruning(structure=value)


@pytest.mark.parametrize(
    ("structure", "text"),
    [
        ("2:5", r"multiples of 5, and 'dense_0/kernel' has 16.*exclude=\('dense_0', 'dense_1', "),
        (("block", 4, 8), r"'dense_0/kernel' has \(16, 12\).*exclude=\('dense_0', 'dense_2'\)"),
        (("fan_in", 9), r"'dense_2/kernel' has 8; use a smaller number.*exclude=\('dense_2',\)"),
        ("channel", "`net` is needed for structure='channel'"),
    ],
)
def test_layers_that_do_not_fit_are_named(structure, text):
    with pytest.raises(ValueError, match=text):
        jt.keep_top(drawn(NET, 0), NET.mask(), 3, structure=structure)


def test_excluded_layers_need_not_fit():
    mask = NET.mask(("dense_1", "dense_2"))
    kept = jt.keep_top(drawn(NET, 0), mask, None, structure="2:8")
    assert kept["dense_1"]["kernel"] is None
    assert int(masks.kept(kept)) == 16 * 12 // 4


def test_channels_need_a_symmetry():
    net = jt.from_functions(
        lambda key: ({"w": jnp.ones((4, 3))}, {}),
        lambda params, stats, x, *, train: (x @ params["w"], stats),
        shape=(4,), name="own",
    )  # fmt: skip
    with pytest.raises(ValueError, match="'channel' needs to know which weights belong to a unit"):
        jt.keep_top(drawn(net, 0), net.mask(), 2, structure="channel", net=net)
    with pytest.raises(ValueError, match="'channel' has nothing to prune"):
        structures.units_of("channel", NET.mask(("dense_0", "dense_1")), NET)


def test_counts_that_contradict():
    params, _ = NET.init(jax.random.key(0))
    call = functools.partial(jt.prune, params, score="magnitude", net=NET, key=jax.random.key(0))
    with pytest.raises(ValueError, match=r"`density` 0.3 contradicts the structure, .* 0.5"):
        call(structure="2:4", density=0.3)
    with pytest.raises(ValueError, match=r"`density` must be in \(0, 1\], got None"):
        call(structure="channel")
    with pytest.raises(ValueError, match=r"`density` 0.05 keeps 1 of 20 units, and at least 2"):
        call(structure="channel", density=0.05)
    with pytest.raises(ValueError, match="`scope` 'layer' has no effect"):
        call(structure="2:4", scope="layer")
    with pytest.raises(ValueError, match="`floor` 2 has no effect"):
        call(structure=("fan_in", 2), floor=2)
    with pytest.raises(ValueError, match="`keep` is needed: how many blocks stay"):
        jt.keep_top(params, NET.mask(), None, structure=("block", 2, 2))


def test_a_floor_counts_units():
    scores = drawn(NET, 0)
    # the first layer has the highest scores by far
    scores["dense_0"]["kernel"] = scores["dense_0"]["kernel"] + 100
    mask = jt.prune(
        scores, score="magnitude", density=0.3, structure="channel", net=NET, floor=3,
        key=jax.random.key(0),
    )  # fmt: skip
    units = structures.units_of("channel", NET.mask(), NET).alive(mask)
    assert {name: int(x.sum()) for name, x in units.items()} == {"dense_0": 3, "dense_1": 3}
