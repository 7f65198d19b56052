"""Which weights decay, frozen weights, gradients in parts, averages of weights: each by hand, and
all of them together side by side, on a mesh, resumed, and in every function that trains.
"""

import dataclasses
import functools

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from steps import BATCH, NET, NORMED, STEPS, batches, outside, start, walked
from stops import killed

import jaxticket as jt
from jaxticket import _tree, masks
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.averaging import averaged, begun, rounded
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.parallel import Placement
from jaxticket.engine.supervised import Supervised, TrainBatch

BASE = jt.Training(
    steps=9, batch_size=BATCH, optimizer="momentum", lr=0.2, weight_decay=0.1, clip_norm=0.5
)


def leaves_of(state):
    return _tree.leaves(state.params)


# --- which weights decay


@functools.cache
def after_one(**changes):
    return walked(BASE.replace(clip_norm=None, **changes), steps=1)[1]


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "adamw"])
@pytest.mark.parametrize(
    "decay", ["kernels", ("*/kernel",), lambda params: jax.tree.map(lambda w: w.ndim > 1, params)]
)
def test_decay_of_kernels_alone(optimizer, decay):
    """Kernels move as where all decay, biases as where nothing does: after a step, bit for bit."""
    own = after_one(optimizer=optimizer, decay=decay)
    every = after_one(optimizer=optimizer)
    none = after_one(optimizer=optimizer, weight_decay=0.0)
    assert not outside(own.mask, own.params)
    for path in leaves_of(own):
        like, unlike = (every, none) if path.endswith("kernel") else (none, every)
        np.testing.assert_array_equal(leaves_of(own)[path], leaves_of(like)[path])
        if path.endswith("kernel"):
            assert not np.array_equal(leaves_of(own)[path], leaves_of(unlike)[path])


def test_patterns_say_which_layers_decay():
    own = after_one(decay="dense_0")
    every, none = after_one(), after_one(weight_decay=0.0)
    for path, x in leaves_of(own).items():
        np.testing.assert_array_equal(
            x, leaves_of(every if path.startswith("dense_0") else none)[path]
        )


# --- frozen weights


@pytest.mark.parametrize("optimizer", ["momentum", "adamw", optax.lamb, optax.contrib.muon])
def test_frozen_weights_stay_bit_for_bit(optimizer):
    own = {} if isinstance(optimizer, str) else {"weight_decay": 0.0}
    training = BASE.replace(optimizer=optimizer, trainable=("dense_1",), **own)
    states = walked(training)
    first, last = leaves_of(states[0]), leaves_of(states[-1])
    for path in first:
        if path.startswith("dense_0"):
            np.testing.assert_array_equal(first[path], last[path])
        else:
            assert not np.array_equal(first[path], last[path])
    assert not outside(states[-1].mask, states[-1].params)
    kept = sum(x.size for x in jax.tree.leaves(states[0].opt_state))
    assert kept < 3 * (6 * 3 + 3) + 9, "nothing is kept of frozen weights"


def test_trees_of_optax_for_all_weights_go_with_frozen_parts():
    """Masks and labels that are trees, not functions, name frozen weights too."""
    fixed = jax.tree.map(lambda w: w.ndim > 1, NET.shapes[0])
    names = jax.tree.map(lambda flag: "kernels" if flag else "others", fixed)

    def of_function(lr):
        return optax.adamw(
            lr, weight_decay=0.5, mask=lambda p: jax.tree.map(lambda w: w.ndim > 1, p)
        )

    def of_tree(lr):
        return optax.adamw(lr, weight_decay=0.5, mask=fixed)

    def of_labels(lr):
        groups = {"kernels": optax.adamw(lr, weight_decay=0.5), "others": optax.adam(lr)}
        return optax.multi_transform(groups, names)

    own = BASE.replace(trainable=("dense_1",), weight_decay=0.0)
    expected, *others = (
        walked(own.replace(optimizer=optimizer))[-1]
        for optimizer in (of_function, of_tree, of_labels)
    )
    first = start()[0]
    for found in others:
        chex.assert_trees_all_close(found.params, expected.params, rtol=1e-6, atol=1e-7)
        frozen, begun = found.params["dense_0"], first["dense_0"]
        np.testing.assert_array_equal(frozen["bias"], begun["bias"])
        assert not np.array_equal(found.params["dense_1"]["bias"], first["dense_1"]["bias"])


def test_clipping_is_by_the_norm_of_what_is_trained():
    """The network with the frozen layer as constants gives the same."""
    training = BASE.replace(trainable=("dense_1",), clip_norm=0.01)
    states = walked(training)
    params, stats, mask = start()
    params = masks.apply(mask, params)
    tail, mask_1 = params["dense_1"], mask["dense_1"]
    optimizer = optax.chain(
        optax.clip_by_global_norm(0.01), optax.add_decayed_weights(0.1), optax.trace(0.9)
    )
    memory = optimizer.init(tail)

    def loss(tail, x, y):
        logits, _ = NET.apply({**params, "dense_1": tail}, stats, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()

    gradient = jax.jit(jax.grad(loss))
    for x, y in zip(*batches(), strict=True):
        slope = masks.apply(mask_1, gradient(tail, x, y))
        with jax.numpy_dtype_promotion("standard"):
            move, memory = optimizer.update(slope, memory, tail)
            tail = masks.apply(mask_1, jax.tree.map(lambda w, d: w - 0.2 * d, tail, move))
    chex.assert_trees_all_close(states[-1].params["dense_1"], tail, rtol=1e-5, atol=1e-7)


def test_training_the_normalization_alone():
    """As OpenLTH's "only BatchNorm": kernels stay, masked, and running statistics move."""
    training = BASE.replace(trainable=("norm*",))
    states = walked(training, NORMED, steps=2)
    first, last = leaves_of(states[0]), leaves_of(states[-1])
    moved = {path for path in first if not np.array_equal(first[path], last[path])}
    assert moved and all("norm" in path for path in moved)
    assert len(moved) == sum("norm" in path for path in first)
    assert not outside(states[-1].mask, states[-1].params)
    before, after = (jax.tree.leaves(states[i].stats) for i in (0, -1))
    assert all(not np.array_equal(b, a) for b, a in zip(before, after, strict=True))


# --- gradients in parts


@pytest.mark.parametrize("optimizer", ["momentum", "adam"])
def test_parts_of_a_batch_give_the_gradient_of_all(optimizer):
    training = BASE.replace(optimizer=optimizer, lr=0.02, label_smoothing=0.1)
    expected = walked(training)
    for parts in (2, 8):
        found = walked(training.replace(accumulate=parts))
        for a, b in zip(found, expected, strict=True):
            chex.assert_trees_all_close(a.params, b.params, rtol=2e-5, atol=2e-6)
        assert not outside(found[-1].mask, found[-1].params)


def test_batch_norm_sees_each_part_by_itself():
    """Part j has every k-th example; running statistics take an update of each, in order."""
    states = walked(BASE.replace(accumulate=2), NORMED, steps=1)
    params, stats, mask = start(NORMED)
    params = masks.apply(mask, params)
    xs, ys = batches(1, BATCH, NORMED.shape)

    def loss(params, stats, x, y):
        logits, stats = NORMED.apply(params, stats, x, train=True)
        return optax.softmax_cross_entropy_with_integer_labels(logits, y).mean(), stats

    slopes = []
    for part in range(2):
        own, y = xs[0, part::2], ys[0, part::2]
        slope, stats = jax.jit(jax.grad(loss, has_aux=True))(params, stats, own, y)
        slopes.append(masks.apply(mask, slope))
    chex.assert_trees_all_close(states[1].stats, stats, rtol=1e-4, atol=1e-5)
    mean = jax.tree.map(lambda a, b: (a + b) / 2, *slopes)
    clip = 0.5 / max(0.5, float(optax.tree.norm(mean)))
    expected = masks.apply(
        mask, jax.tree.map(lambda w, g: w - 0.2 * (clip * g + 0.1 * w), params, mean)
    )
    chex.assert_trees_all_close(states[1].params, expected, rtol=1e-4, atol=1e-5)


def test_attacks_in_parts_are_those_of_the_whole_batch():
    attack = PGD(steps=2, low=-9.0, high=9.0)
    training = BASE.replace(attack=attack)
    expected, found = walked(training, steps=2), walked(training.replace(accumulate=4), steps=2)
    chex.assert_trees_all_close(found[-1].params, expected[-1].params, rtol=1e-5, atol=1e-6)


def test_parts_take_less_memory():
    net = jt.networks.lenet((4, 4, 1), 3, widths=(256,))
    params, stats, mask = start(net)
    x, y = jnp.zeros((512, 4, 4, 1)), jnp.zeros(512, jnp.int32)
    needed = []
    for parts in (1, 16):
        learner = Supervised(net, BASE.replace(batch_size=512, accumulate=parts))

        def slope(params, x, y, learner=learner):
            key = jax.random.key(0)
            zero = jnp.int32(0)
            state = jt.TrainState(zero, params, stats, (), mask, key, zero)
            return learner.gradient(state, TrainBatch(x, y, key), Placement())[1]

        compiled = jax.jit(slope).lower(params, x, y).compile()
        needed.append(compiled.memory_analysis().temp_size_in_bytes)
    assert needed[1] < needed[0] / 3


# --- averages


def test_the_average_in_closed_form():
    """By float64, with the bias correction of Adam; training goes on as without it."""
    d, states = 0.7, walked(BASE.replace(ema=0.7))
    plain = walked(BASE)
    for n in range(STEPS + 1):
        chex.assert_trees_all_equal(states[n].params, plain[n].params)
        seen = [states[0]] if n == 0 else states[1 : n + 1]
        shares = np.asarray([d ** (len(seen) - i) for i in range(1, len(seen) + 1)])
        shares /= shares.sum()
        expected = jax.tree.map(
            lambda *ws, s=shares: np.tensordot(s, np.stack(ws).astype(np.float64), 1),
            *(state.params for state in seen),
        )
        chex.assert_trees_all_close(states[n].average.params, expected, rtol=1e-5, atol=1e-7)
        assert not outside(states[n].mask, states[n].average.params)
    assert plain[0].average == ()


def test_statistics_are_averaged_too_and_frozen_weights_are_their_own_average():
    training = BASE.replace(ema=0.5, trainable=("*norm*",))
    states = walked(training, NORMED, steps=3)
    last = states[-1]
    for path, x in leaves_of(last).items():
        if "norm" not in path:
            np.testing.assert_array_equal(x, _tree.leaves(last.average.params)[path])
    shares = np.asarray([1, 2, 4]) / 7
    expected = jax.tree.map(
        lambda *xs: np.tensordot(shares, np.stack(xs), 1), *(s.stats for s in states[1:])
    )
    chex.assert_trees_all_close(last.average.stats, expected, rtol=1e-5, atol=1e-6)


def test_averages_of_half_precision_are_kept_in_float32():
    """A weight of 1 that moves by 1/8 a step: shares of it below bfloat16's spacing add up."""
    old = {"w": jnp.ones(1, jnp.bfloat16), "n": jnp.int32(0)}
    average, d = begun(old, {}), 0.999
    for _ in range(100):
        average = averaged(average, old, {}, d)
    for _ in range(20):
        average = averaged(average, {"w": jnp.full(1, 1.125, jnp.bfloat16), "n": old["n"]}, {}, d)
    shares = d ** np.arange(120)
    expected = np.average(np.r_[np.full(20, 1.125), np.ones(100)], weights=shares)
    assert average.params["w"].dtype == jnp.float32
    np.testing.assert_allclose(average.params["w"], [expected], rtol=1e-6)
    found, _ = rounded(average, old, {})
    assert found["w"].dtype == jnp.bfloat16
    np.testing.assert_array_equal(found["w"], jnp.asarray([expected], jnp.bfloat16))
    assert found["n"].dtype == jnp.int32


# --- through the public functions

DIGITS = jt.data.load("digits")
DATA = jt.data.from_arrays(
    DIGITS.train.x[:96], DIGITS.train.y[:96], DIGITS.test.x[:64], DIGITS.test.y[:64]
)
SMALL = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.2, eval_every=4, weight_decay=0.01,
    decay="kernels", accumulate=2, ema=0.6, trainable=("*/kernel", "dense_1"), clip_norm=1.0,
)  # fmt: skip
PLAIN = TRAINING.replace(decay="all", accumulate=1, ema=None, trainable=None)
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=2)


def found(training=TRAINING, net=SMALL, **options):
    options = {"seeds": (0, 1), "progress": False, **options}
    return jt.find_tickets(net, DATA, training, PRUNING, **options)


@functools.cache
def runs():
    return found(branches=("reinit",))


def test_all_options_together_side_by_side():
    """Frozen biases stay, weights of the rewind point are the raw ones, the table is learned."""
    origin = runs().origin.params["dense_0"]["bias"]
    initial = [SMALL.init(jt.random.stream(jax.random.key(s), "init"))[0] for s in (0, 1)]
    for place in (0, 1):
        np.testing.assert_array_equal(origin[place], initial[place]["dense_0"]["bias"])
    table = runs().table().query("metric == 'loss' and split == 'train' and branch == 'ticket'")
    assert table.value.notna().all()
    means = table.groupby(["level", "step"]).value.mean()
    assert means[(0, 8)] < means[(0, 0)] and means[(1, 8)] < means[(1, 2)]
    ticket = runs().by_level[1]
    assert not outside(ticket.mask, ticket.params)


def test_an_average_changes_what_is_evaluated_and_pruned_but_no_rewind_point():
    raw, nearly = found(TRAINING.replace(ema=None)), found(TRAINING.replace(ema=1e-9))
    chex.assert_trees_all_equal(raw.origin, runs().origin)
    chex.assert_trees_all_equal(raw.by_level[1], nearly.by_level[1])
    own, same = (x.table().value.to_numpy() for x in (raw, nearly))
    np.testing.assert_allclose(own, same, rtol=1e-5)
    averaged = runs().table().query("branch == 'ticket'").value.to_numpy()
    assert not np.allclose(own, averaged, rtol=1e-3)


def test_the_average_is_what_is_kept_pruned_and_evaluated():
    """And what `jt.make_train` gives."""
    runs = found(keep="trained")
    params, stats = runs.trained(0)
    problem = jt.Problem(SMALL, DATA, TRAINING)
    table = runs.table().query("level == 0 and split == 'train' and metric == 'loss' and step == 8")
    for place, seed in enumerate(runs.seeds):
        own = jax.tree.map(lambda x, at=place: jnp.asarray(x[at]), params)
        loss = problem.loss(own, jax.tree.map(lambda x, at=place: x[at], stats))
        assert float(loss) == pytest.approx(table[table.seed == seed].value.item(), rel=1e-4)
        dense, mask = SMALL.mask(), runs.ticket(1, seed).mask
        sizes = masks.map_with(lambda m, w: jnp.abs(w), dense, own)
        chex.assert_trees_all_equal(jt.keep_top(sizes, dense, int(masks.kept(mask))), mask)
    state, metrics = jax.jit(jt.make_train(SMALL, DATA, TRAINING))(jax.random.key(1))
    chex.assert_trees_all_close(state.average.params, own, rtol=1e-5, atol=1e-7)
    assert float(metrics["train/loss"][-1]) == pytest.approx(float(loss), rel=1e-4)


class WithBatchNorm(nn.Module):
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x, train):
        x = nn.Dense(6, use_bias=False)(x.reshape(len(x), -1))
        norm = nn.BatchNorm(not train, axis_name=self.axis_name, momentum=0.9)
        return nn.Dense(10)(nn.relu(norm(x)))


def test_parts_are_the_same_however_many_devices_share_a_batch():
    """Where the parts of a batch count: BatchNorm normalizes each."""
    net = jt.from_linen(WithBatchNorm(), DATA.shape, name="normed")
    training = TRAINING.replace(trainable=None, lr=0.05)
    frames = [
        found(training, net, mesh=jt.parallel.mesh(1, n, jax.devices()[:n])).table() for n in (1, 2)
    ]
    pd.testing.assert_frame_equal(*frames, rtol=1e-3, atol=1e-5)


def tickets_alone():
    """Those of `runs`, which has four devices with a seed each or none."""
    return runs().table().query("branch == 'ticket'").reset_index(drop=True)


@pytest.mark.parametrize("shape", [(2, 2), pytest.param((1, 4), marks=pytest.mark.slow)], ids=str)
def test_devices_that_share_batches_change_nothing(shape):
    """Examples of a part are the same however many devices share the batch."""
    seeds, data = shape
    mesh = jt.parallel.mesh(seeds, data=data)
    if data == 4:
        with pytest.raises(ValueError, match="`accumulate` 8 does not divide the 4 examples"):
            found(TRAINING.replace(accumulate=8), mesh=mesh)
    pd.testing.assert_frame_equal(found(mesh=mesh).table(), tickets_alone(), rtol=1e-4)


@pytest.mark.slow
def test_verdicts_take_them_on_any_devices():
    """One device, four with a seed each or none, and two for each seed that share its batches."""

    def judged(mesh, **changes):
        # verdicts are trained on the mesh of their runs
        own = found(branches=("reinit",), mesh=mesh)
        return jt.verdict(own, level=1, small_dense=False, points=3, progress=False, **changes)

    first = jt.parallel.mesh(1, data=1, devices=jax.devices()[:1])
    one, raw = judged(first), judged(first, training=TRAINING.replace(ema=None))
    # an average begins with the weights, and then lags behind
    begin, later = (
        [table.query(f"branch == 'ticket' and {when}").value for table in tables]
        for when in ("step == 2", "step > 2 and metric == 'loss'")
        for tables in [(one.networks(), raw.networks())]
    )
    np.testing.assert_array_equal(*begin)
    assert not np.isclose(*later, rtol=1e-3).any()
    for mesh in (jt.parallel.mesh(4), jt.parallel.mesh(2, data=2)):
        several = judged(mesh)
        pd.testing.assert_frame_equal(several.networks(), one.networks(), rtol=1e-4, atol=1e-6)
        pd.testing.assert_frame_equal(several.conditions(), one.conditions(), rtol=1e-3, atol=1e-4)


def test_vmapped_replicas_equal_replicas_one_by_one(vmap_replicas):
    expected = tickets_alone()
    vmap_replicas()
    mesh = jt.parallel.mesh(devices=jax.devices()[1:2])
    pd.testing.assert_frame_equal(found(mesh=mesh).table(), expected, rtol=1e-4)


def test_resumed_bit_for_bit_and_guarded(tmp_path):
    """Killed after a save in the middle of a level."""
    for number, units in ((2, False), (4, False)):
        folder = tmp_path / f"run-{number}"
        with killed(number, units=units):
            found(branches=("reinit",), folder=folder, save_every=0)
        again = found(branches=("reinit",), folder=folder, save_every=0)
        pd.testing.assert_frame_equal(again.table(), runs().table(), check_exact=True)
        chex.assert_trees_all_equal(again.by_level, runs().by_level)
    others = {"decay": "all", "trainable": ("*/kernel",), "accumulate": 4, "ema": 0.7}
    for field, other in others.items():
        with pytest.raises(RunFolderError, match=f"training.{field}"):
            found(TRAINING.replace(**{field: other}), branches=("reinit",), folder=folder)


def test_copies_are_compared_as_they_are_evaluated():
    """The ends of lines are the averages whose losses evaluations give."""
    copies = jt.instability(
        SMALL, DATA, TRAINING, at=(2,), points=3, throughout=3, seeds=(0,), progress=False
    )
    by = ["split", "end"]
    ends = (
        copies.paths()
        .query("alpha in (0, 1) and metric == 'loss'")
        .assign(end=lambda table: table.alpha.astype(int))
    )
    evaluated = copies.copies().query("metric == 'loss'").rename(columns={"copy": "end"})
    np.testing.assert_allclose(
        ends.sort_values(by).value, evaluated.sort_values(by).value, rtol=1e-4
    )
    assert np.ptp(evaluated.value) > 0 and len(ends) == len(evaluated) == 4


@pytest.mark.slow
def test_telemetry_measures_what_is_trained():
    """Prunable weights that are frozen do not move, and no gradient moves them."""
    training = TRAINING.replace(trainable=("*/bias",), decay="all")
    table = jt.telemetry(found(training), levels=[1], progress=False)
    means = table.groupby("metric").value.agg(["min", "max"])
    for metric, value in (("gradient_norm", 0), ("l2", 0), ("sign_flips", 0), ("cosine", 1)):
        assert (means.loc[metric] == value).all(), metric


ALONG = {"teachers": 1, "stage": 0.25, "online": True}


@pytest.mark.parametrize(
    ("method", "options"),
    [
        pytest.param("edge_popup", {}, marks=pytest.mark.slow),
        ("continuous", {}),
        pytest.param("kd_lts", ALONG, marks=pytest.mark.slow),
    ],
)
def test_searches_learn_scores_under_them(method, options):
    """Scores of frozen weights too; "continuous" learns weights, and teachers learn along."""
    training = TRAINING.replace(trainable=("dense_1",))
    runs = jt.search(
        SMALL, DATA, training, jt.SEARCHES[method](**options), density=0.5, start=2, seeds=(0, 1),
        progress=False,
    )  # fmt: skip
    ticket = runs.by_level[1]
    assert not outside(ticket.mask, ticket.params) and runs.table().value.notna().all()
    assert all(0 < m.mean() < 1 for m in jax.tree.leaves(ticket.mask))


# --- errors

WRONG = [
    ({"decay": "kernel"}, "`decay` pattern 'kernel' matches no weight; the paths are dense_0/bias"),
    ({"decay": ()}, "`decay` is empty"),
    ({"decay": "kernels", "weight_decay": 0.0}, "`decay` is used with a `weight_decay` above 0"),
    ({"decay": 3}, "`decay` must be several"),
    ({"decay": lambda params: {}}, "`decay` .* must give a bool for each of the weights"),
    ({"decay": lambda params: jax.tree.map(lambda w: False, params)}, "`decay` .* no weight that"),
    ({"decay": "kernels", "trainable": ("*/bias",)}, "`decay` 'kernels' leaves no weight that"),
    ({"trainable": ("norm*",)}, r"`trainable` pattern 'norm\*' matches no weight; the paths are"),
    ({"trainable": ()}, "`trainable` is empty"),
    ({"accumulate": 0}, "`accumulate` must be a whole number of at least 1"),
    ({"accumulate": 3}, "`accumulate` 3 does not divide `batch_size` 16"),
    ({"ema": 1.0}, r"`ema` must be in \(0, 1\)"),
    ({"ema": 0}, r"`ema` must be in \(0, 1\)"),
    ({"optimizer": optax.sgd, "weight_decay": 0.0, "decay": "kernels"}, "`decay` is used with a"),
]


@pytest.mark.parametrize(("changes", "message"), WRONG)
def test_wrong_options_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        found(PLAIN.replace(**changes))


def test_settings_that_lose_their_effect_are_forgotten():
    assert TRAINING.replace(weight_decay=0.0).decay == "all"
    assert TRAINING.replace(decay="dense_0").decay == ("dense_0",)


# --- computing in bfloat16


@pytest.mark.parametrize(
    "make",
    [
        functools.partial(jt.networks.resnet_cifar, depth=8, width=0.25),
        functools.partial(jt.networks.wide_resnet, depth=10, width=0.25, norm="group"),
    ],
)
def test_norms_of_networks_stay_float32_where_they_compute_in_bfloat16(make):
    """Their gradients are sums in float32, not rounded to bfloat16; kernels are rounded."""
    net, seen = make((8, 8, 3), 3), []

    def recorded(params, *given, **options):
        seen.append({path: w.dtype for path, w in _tree.leaves(params).items()})
        return net.apply(params, *given, **options)

    learner = Supervised(
        dataclasses.replace(net, apply=recorded, source="recorded"),
        BASE.replace(compute_dtype="bfloat16", precision="default"),
    )
    params, stats = net.init(jax.random.key(0))
    x, y = jnp.ones((4, 8, 8, 3), jnp.bfloat16), jnp.arange(4, dtype=jnp.int32) % 3
    batch = TrainBatch(x, y, jax.random.key(1))
    gradient, _ = jax.eval_shape(
        jax.grad(functools.partial(learner.loss, placement=Placement()), has_aux=True),
        params, stats, batch,
    )  # fmt: skip
    assert {g.dtype for g in jax.tree.leaves(gradient)} == {jnp.dtype(jnp.float32)}
    norms = {path.rsplit("/", 1)[0] for path in seen[0] if path.endswith("/scale")}
    assert norms
    for path, dtype in seen[0].items():
        within = path.rsplit("/", 1)[0] in norms
        assert dtype == (jnp.float32 if within else jnp.bfloat16), path
