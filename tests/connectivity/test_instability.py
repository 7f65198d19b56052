"""Instability analysis against slow, independent computations."""

import functools
import itertools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from patterns import batch_at
from stops import after_save, in_spite_of_deaths, killed

import jaxticket as jt
from jaxticket import masks
from jaxticket.connectivity import copies as copies_module
from jaxticket.connectivity.arguments import block_of
from jaxticket.engine.program import program
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words, stream

STEPS, BATCH = 30, 40
AT = (0, 10, 30)
DESIGN = {"at": AT, "copies": 3, "points": 5, "throughout": 3, "seeds": (3, 8)}


@pytest.fixture(scope="module")
def data():
    return jt.data.load("digits")


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, data.classes, widths=(12,))


@pytest.fixture(scope="module")
def training():
    return jt.Training(steps=STEPS, batch_size=BATCH, optimizer="momentum", lr=0.1, eval_every=10)


@pytest.fixture(scope="module")
def mesh():
    return jt.parallel.mesh(devices=jax.devices()[:2])


@pytest.fixture(scope="module")
def analyze(net, data, training, mesh):
    """Analyze the network of this file, on its mesh; options replace these arguments."""

    def analyze(**options):
        fixed = {"net": net, "data": data, "training": training, "mesh": mesh, "progress": False}
        return jt.instability(**fixed | options)

    return analyze


@pytest.fixture(scope="module")
def inst(analyze):
    return analyze(**DESIGN)


@pytest.fixture(scope="module")
def runs(net, data, training, mesh):
    pruning = jt.Pruning(levels=2, fraction=0.5, rewind=10)
    return jt.find_tickets(net, data, training, pruning, seeds=(3, 8), mesh=mesh, progress=False)


@functools.cache
def plain_step(net, momentum):
    """A compiled step of SGD with momentum under a mask, by Optax."""
    optimizer = optax.trace(decay=momentum)

    @jax.jit
    def step(params, state, mask, x, y, rate):
        def loss(params):
            masked = masks.apply(mask, params)
            logits, _ = net.apply(masked, {}, x, train=True)
            return optax.losses.softmax_cross_entropy_with_integer_labels(logits, y).mean()

        direction, state = optimizer.update(jax.grad(loss)(params), state)
        return jax.tree.map(lambda p, d: p - rate * d, params, direction), state

    return optimizer.init, step


def by_hand(net, data, training, params, mask, seed, orders, start, rates=None):
    """Trains one network in a python loop.

    `orders` gives the order of the batches of each step, `rates` its learning rate.
    """
    init, step = plain_step(net, training.momentum)
    key, state = jax.random.key(seed), init(params)
    for t in range(start, training.steps):
        index = batch_at(
            permutation_words(stream(key, "order", orders(t))),
            jnp.int32(t),
            examples=len(data.train),
            batch_size=training.batch_size,
        )
        index = np.asarray(index)
        x = (data.train.x[index].astype(np.float32) - data.mean) / data.std
        rate = np.float32(training.lr if rates is None else rates(t))
        params, state = step(params, state, mask, x, data.train.y[index], rate)
    return params


def logits_of(params, data, split):
    x = (data.splits[split].x.astype(np.float64) - data.mean) / data.std
    hidden = np.maximum(
        x.reshape(len(x), -1) @ params["dense_0"]["kernel"] + params["dense_0"]["bias"], 0
    )
    return hidden @ params["dense_1"]["kernel"] + params["dense_1"]["bias"]


def slow_numbers(params, data, split):
    """Predictions and losses in float64 NumPy."""
    logits, y = logits_of(params, data, split), data.splits[split].y
    top = logits.max(axis=1, keepdims=True)
    losses = np.log(np.exp(logits - top).sum(axis=1)) + top[:, 0] - logits[np.arange(len(y)), y]
    return logits.argmax(axis=1), losses


def test_copies_equal_a_plain_training_loop(inst, net, data, training):
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, bool), net.init(jax.random.key(0))[0])
    first = copies_module.FIRST_NOISE
    for k, copy in ((0, 0), (10, 2)):
        params, _ = net.init(stream(jax.random.key(8), "init"))
        if k:
            short = training.replace(steps=k)
            params = by_hand(net, data, short, params, ones, 8, lambda _: 0, 0)
        want = by_hand(net, data, training, params, ones, 8, lambda _, c=copy: first + c, k)
        got, _ = inst.networks(at=k, seed=8)
        for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a[copy], b, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("split", ["test", "train"])
def test_lines_barriers_and_distances_equal_numpy(inst, data, split):
    table = inst.table()
    for r, seed in enumerate(inst.seeds):
        for i, k in enumerate(inst.at):
            params, _ = inst.networks(at=k, seed=seed)
            nets = [jax.tree.map(lambda x, c=c: np.float64(x[c]), params) for c in range(3)]
            for p, (a, b) in enumerate(itertools.combinations(range(3), 2)):
                errors, losses = [], []
                for alpha in inst.alphas:
                    point = jax.tree.map(
                        lambda x, y, t=alpha: (1 - t) * x + t * y, nets[a], nets[b]
                    )
                    predicted, loss = slow_numbers(point, data, split)
                    errors.append(np.mean(predicted != data.splits[split].y))
                    losses.append(loss.mean())
                lines = inst.lines(split=split)[r, i, p]
                np.testing.assert_allclose(lines, errors, atol=1.5 / len(data.splits[split]))
                np.testing.assert_allclose(
                    inst.lines(split=split, metric="loss")[r, i, p], losses, rtol=1e-4
                )
                want = max(losses) - (losses[0] + losses[-1]) / 2
                got = inst.barriers(split=split, metric="loss")[r, i, p]
                np.testing.assert_allclose(got, want, atol=1e-5)
                rows = table[
                    (table["seed"] == seed) & (table["at"] == k) & (table["pair"] == f"{a}-{b}")
                ]
                rows = rows[rows["split"].isin([split, "weights"])].set_index("metric")["value"]
                np.testing.assert_allclose(rows["barrier"], lines.max() - lines[[0, -1]].mean())
                flat = [
                    np.concatenate([x.ravel() for x in jax.tree.leaves(n)])
                    for n in (nets[a], nets[b])
                ]
                np.testing.assert_allclose(rows["l2"], np.linalg.norm(flat[0] - flat[1]), rtol=1e-6)
                cosine = flat[0] @ flat[1] / np.linalg.norm(flat[0]) / np.linalg.norm(flat[1])
                np.testing.assert_allclose(rows["cosine"], 1 - cosine, atol=1e-9)
                (predicted_a, loss_a), (predicted_b, loss_b) = (
                    slow_numbers(nets[c], data, split) for c in (a, b)
                )
                y = data.splits[split].y
                assert abs(rows["disagreement"] - np.sum(predicted_a != predicted_b)) <= 1
                most = min(len(y), np.sum(predicted_a != y) + np.sum(predicted_b != y))
                assert (
                    abs(rows["disagreement_share"] * most - np.sum(predicted_a != predicted_b))
                    <= 1 + 1e-6
                )
                np.testing.assert_allclose(
                    rows["loss_l2"], np.linalg.norm(loss_a - loss_b), rtol=1e-3, atol=1e-5
                )


def test_the_state_at_the_rewind_step(inst, net, data):
    states, copies = inst.states(), inst.copies()
    for seed in inst.seeds:
        start = net.init(stream(jax.random.key(seed), "init"))[0]
        # the copies of T are the state at T
        state = jax.tree.map(lambda x: x[0], inst.networks(at=30, seed=seed)[0])
        moved = np.sqrt(
            sum(
                np.sum((a - b) ** 2)
                for a, b in zip(*map(jax.tree.leaves, (start, state)), strict=True)
            )
        )
        rows = states[(states["seed"] == seed) & (states["at"] == 30)].set_index(
            ["split", "metric"]
        )
        np.testing.assert_allclose(rows.loc[("weights", "l2_from_init"), "value"], moved, rtol=1e-5)
        predicted, losses = slow_numbers(jax.tree.map(np.float64, state), data, "test")
        np.testing.assert_allclose(rows.loc[("test", "loss"), "value"], losses.mean(), rtol=1e-4)
        assert abs(
            rows.loc[("test", "error"), "value"] - np.mean(predicted != data.test.y)
        ) < 2 / len(data.test)
        mine = copies[
            (copies["seed"] == seed) & (copies["split"] == "weights") & (copies["copy"] == 1)
        ]
        at_end = mine[mine["at"] == 30].set_index("metric")["value"]
        assert at_end["l2_from_k"] == 0 and at_end["sign_flips"] == 0
        assert abs(at_end["cosine_from_k"]) < 1e-12
        final = jax.tree.map(lambda x: x[1], inst.networks(at=0, seed=seed)[0])
        far = np.sqrt(
            sum(
                np.sum((a - b) ** 2)
                for a, b in zip(*map(jax.tree.leaves, (start, final)), strict=True)
            )
        )
        from_k = mine[mine["at"] == 0].set_index("metric")["value"]
        np.testing.assert_allclose(from_k["l2_from_k"], far, rtol=1e-5)
        flips = [
            np.mean(np.sign(final[name]["kernel"]) != np.sign(start[name]["kernel"]))
            * start[name]["kernel"].size
            for name in start
        ]
        share = sum(flips) / sum(start[name]["kernel"].size for name in start)
        np.testing.assert_allclose(from_k["sign_flips"], share, rtol=1e-6)


def test_instability_throughout_training(inst):
    """Copies are one network at k, and what is drawn last is what lies between them at the end."""
    table = inst.throughout()
    for k in inst.at:
        rows = table[table["at"] == k]
        steps = sorted(rows["step"].unique())
        assert steps == [k, *range(k - k % 10 + 10, 31, 10)]
        begun = rows[(rows["step"] == k) & rows["metric"].isin(["barrier", "loss_barrier"])]
        assert (begun["value"] == 0).all()
    # three places of five: every second one
    lines = inst.lines(metric="loss")[..., ::2]
    want = lines.max(axis=-1) - lines[..., [0, -1]].mean(axis=-1)
    rows = table[
        (table["step"] == STEPS) & (table["metric"] == "loss_barrier") & (table["split"] == "test")
    ]
    rows = rows.set_index(["seed", "at", "pair"])["value"]
    for (r, seed), (i, k), (p, pair) in itertools.product(
        enumerate(inst.seeds), enumerate(inst.at), enumerate(["0-1", "0-2", "1-2"])
    ):
        np.testing.assert_allclose(rows[seed, k, pair], want[r, i, p], atol=1e-6)


def test_without_noise_copies_are_equal_bit_for_bit(analyze):
    off = analyze(at=(0, 10), noise=(), points=5, seeds=(3,))
    params, _ = off.networks(at=0, seed=3)
    assert all(np.array_equal(x[0], x[1]) for x in jax.tree.leaves(params))
    # the copies are the dense training too
    assert all(
        np.ptp(off.lines(split=s, metric=m)) >= 0 and (off.barriers(split=s, metric=m) == 0).all()
        for s in ("test", "train")
        for m in ("error", "loss")
    )
    assert (off.lines(metric="loss") == off.lines(metric="loss")[..., :1]).all()
    table = off.table()
    zero = table[table["metric"].isin(["l2", "disagreement", "loss_l2", "mask_hamming"])]
    assert len(zero) and (zero["value"] == 0).all()


def test_copies_differ_and_share_what_they_should(inst):
    for k in (0, 10):
        params, _ = inst.networks(at=k, seed=3)
        kernels = params["dense_0"]["kernel"]
        assert all(not np.array_equal(kernels[a], kernels[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert (inst.barriers()[:, -1] == 0).all()


def test_ends_are_evaluated_as_alone_and_swapping_copies_changes_nothing(
    inst, net, data, training, mesh
):
    run = jt.stability.Evaluator(net, data, training, mesh)
    params, stats = inst.networks(at=0, seed=3)
    alone = run.points((params, stats), [[0, 0], [1, 1]], [[1, 0], [1, 0]])
    pair = [jax.tree.map(lambda x, c=c: x[c], (params, stats)) for c in (0, 1)]
    forth = jt.stability.line(net, data, training, pair, points=5, evaluator=run)
    back = jt.stability.line(net, data, training, pair[::-1], points=5, evaluator=run)
    assert np.array_equal(forth.values[[0, -1]], alone)
    assert np.array_equal(forth.values[[-1, 0]], back.values[[0, -1]])
    np.testing.assert_allclose(forth.values, back.values[::-1], atol=2e-5)
    np.testing.assert_allclose(forth.barrier(metric="loss"), back.barrier(metric="loss"), atol=2e-6)
    # and they are the last evaluations of training
    ended = inst.copies().query("at == 0 and seed == 3 and split == 'test'")
    of = ended.set_index(["copy", "metric"])["value"]
    for copy in (0, 1):
        index = forth.splits.index("test")
        assert of[copy, "error"] == 1 - np.float64(alone[copy, index, 1])
        np.testing.assert_allclose(of[copy, "loss"], alone[copy, index, 0], rtol=1e-6)


def test_a_linear_model_has_no_loss_barrier(analyze, data):
    size = int(np.prod(data.shape))

    def apply(params, stats, x, *, train, key=None, axis_name=None, tap=None):
        return x.reshape(x.shape[0], -1) @ params["kernel"], stats

    linear = jt.from_functions(
        lambda key: ({"kernel": 0.1 * jax.random.normal(key, (size, 10))}, {}),
        apply,
        shape=data.shape,
        name="linear",
    )
    training = jt.Training(steps=20, batch_size=20, optimizer="sgd", lr=0.1)
    inst = analyze(net=linear, training=training, at=0, points=7, seeds=(0,))
    # nowhere above the straight line between the losses of its ends
    lines = inst.lines(metric="loss")[0, 0, 0]
    straight = (1 - inst.alphas) * lines[0] + inst.alphas * lines[-1]
    assert (lines - straight < 1e-6).all() and (lines - straight)[3] < -1e-5
    barrier = inst.barriers(metric="loss")[0, 0, 0]
    np.testing.assert_allclose(barrier, abs(lines[0] - lines[-1]) / 2, atol=1e-6)


def test_tickets_keep_their_masks_along_the_line(analyze, runs):
    inst = analyze(tickets=runs, branches=("layerwise_random", "reinit"), points=3)
    assert inst.at == (10,)
    for kind in inst.kinds:
        params, _ = inst.networks(at=10, seed=8, branch=kind.branch, level=kind.level)
        ticket = runs.ticket(kind.level, 8)
        kept = sum(int(np.count_nonzero(x)) for x in jax.tree.leaves(ticket.mask) if x.ndim > 1)
        for copy in (0, 1):
            kernels = [x[copy] for x in jax.tree.leaves(params) if x.ndim > 2]
            assert sum(int(np.count_nonzero(x)) for x in kernels) <= kept
            if kind.branch != "layerwise_random":
                outside = [
                    np.any(~m & (w[copy] != 0)) for _, m, w in masks.items(ticket.mask, params)
                ]
                assert outside and not any(outside)
            else:
                # the same density in every layer, elsewhere
                for _, m, w in masks.items(ticket.mask, params):
                    assert np.count_nonzero(w[copy]) <= np.count_nonzero(m)
    table = inst.table()
    assert set(table["level"]) == {0, 1, 2}
    density = table[table["branch"] == "ticket"].groupby("level")["density"].first()
    np.testing.assert_allclose(density, [1, 0.5, 0.25], atol=1e-3)
    # the masks of the run on the dense weights of the step that it rewinds to are its tickets
    put = analyze(at=(10,), tickets=runs, levels=(2,), points=3)
    for seed in (3, 8):
        a, b = (x.networks(at=10, seed=seed, level=2)[0] for x in (inst, put))
        assert all(np.array_equal(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))
    ranges = jt.stability.ranges(inst.copies(), margin=0.99)
    assert ranges["range"].tolist() == ["I", "I"]


def test_new_weights_start_at_step_k_or_at_0(analyze, net, data, training, runs):
    """Figure 4-24: copies with new weights train for T - k steps at the rate of step k."""
    starts = {"reinit_at_k": 10, "reinit": 0}
    found = analyze(tickets=runs, branches=tuple(starts), levels=(2,), points=3, seeds=(8,))
    assert found.costs()["training_steps"].sum() == 2 * (20 + 20 + 30)
    first, states = copies_module.FIRST_NOISE, found.states().set_index(["branch", "metric"])
    for name, start in starts.items():
        new = jt.branch(runs, name, levels=[2], progress=False).ticket(2, 8)
        assert int(new.step) == start
        for _, m, w, old in masks.items(new.mask, new.params, runs.ticket(2, 8).params):
            assert (w[m] != old[m]).all()
        params = jax.tree.map(np.asarray, new.params)
        want = by_hand(net, data, training, params, new.mask, 8, lambda _: first + 1, start)
        got, _ = found.networks(at=10, seed=8, branch=name, level=2)
        for a, b in zip(*map(jax.tree.leaves, (got, masks.apply(new.mask, want))), strict=True):
            np.testing.assert_allclose(a[1], b, rtol=2e-3, atol=2e-4)
        # they have not moved from where they began
        assert states.loc[(name, "l2_from_init"), "value"].item() == 0
    assert states.loc[("ticket", "l2_from_init"), "value"].item() > 0


def test_several_runs_start_at_their_rewind_steps(analyze, net, data, training, mesh, runs):
    other = jt.find_tickets(
        net,
        data,
        training,
        runs.pruning.replace(rewind=0),
        seeds=(3, 8),
        mesh=mesh,
        progress=False,
    )
    reinit = jt.branch(other, "reinit", progress=False)
    inst = analyze(tickets=(runs, other, reinit), levels=(1,), points=3, seeds=(8,))
    assert {tuple(kind) for kind in inst.kinds} == {
        ("ticket", 1, 0),
        ("ticket", 1, 10),
        ("reinit", 1, 0),
    }
    ticket = other.ticket(1, 8)
    params, _ = inst.networks(at=0, seed=8, level=1)
    assert not any(np.any((w[0] != 0) & ~m) for _, m, w in masks.items(ticket.mask, params))
    assert inst.costs()["training_steps"].sum() == 2 * (20 + 30 + 30)


def test_the_full_length_restarts_the_schedule(analyze, net, data):
    training = jt.Training(
        steps=20, batch_size=BATCH, optimizer="momentum", lr=0.1, milestones=(10,), eval_every=10
    )
    full = analyze(training=training, at=(10,), length="full", points=3, seeds=(3,))
    ones = jax.tree.map(lambda x: jnp.ones(x.shape, bool), net.init(jax.random.key(0))[0])
    params, _ = net.init(stream(jax.random.key(3), "init"))
    params = by_hand(
        net, data, training.replace(steps=10, milestones=()), params, ones, 3, lambda _: 0, 0
    )
    first = copies_module.FIRST_NOISE
    # 10 steps at the whole rate, then 10 at a tenth, momentum carried on
    params = by_hand(
        net, data, training, params, ones, 3, lambda _: first, 0,
        lambda step: training.lr * (1.0 if step < 10 else 0.1),
    )  # fmt: skip
    got, _ = full.networks(at=10, seed=3)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(params), strict=True):
        np.testing.assert_allclose(a[0], b, rtol=2e-3, atol=2e-4)
    assert set(full.table()["length"]) == {"full"}
    assert full.costs()["training_steps"].tolist() == [10, 40]


class Normed(nn.Module):
    """One hidden layer with BatchNorm."""

    @nn.compact
    def __call__(self, x, *, train):
        x = nn.Dense(8)(x.reshape(x.shape[0], -1))
        x = nn.BatchNorm(use_running_average=not train, momentum=0.8)(x)
        return nn.Dense(10)(nn.relu(x))


@pytest.mark.slow
def test_recomputed_statistics_are_averages_over_batches(analyze, data, mesh):
    net = jt.from_linen(Normed(), data.shape, name="normed")
    training = jt.Training(steps=10, batch_size=20, eval_batch_size=400, lr=0.01)
    inst = analyze(net=net, training=training, at=0, points=3, statistics="both", seeds=(1,))
    params, stats = inst.networks(at=0, seed=1)
    middle = jax.tree.map(lambda x: np.float32(0.5) * (x[0] + x[1]), params)
    fresh = jax.tree.map(lambda x: jnp.zeros_like(x[0]), stats)
    # the batches of evaluation: equal parts of the training split, without what is left over
    run = jt.stability.Evaluator(net, data, training, mesh)
    with run.data.evaluation() as blocks:
        (batched,) = blocks
    train = [i for i in range(len(batched.y)) if batched.split[i] == run.splits.index("train")]
    whole = [i for i in train if np.all(np.asarray(batched.y[i]) >= 0)]
    assert len(whole) >= 3
    apply, found = jax.jit(net.apply, static_argnames="train"), []
    for i in whole:
        x = (np.asarray(batched.x[i], np.float32) - data.mean) / data.std
        found.append(apply(middle, fresh, x, train=True)[1])
    mean = jax.tree.map(lambda *xs: sum(xs) / len(xs) / np.float32(0.2), *found)
    got = run.points((middle_stack(middle)), [[0, 0]], [[1, 0]], recomputed=True)
    x = (data.test.x.astype(np.float32) - data.mean) / data.std
    logits, _ = apply(middle, mean, x, train=False)
    want = optax.losses.softmax_cross_entropy_with_integer_labels(logits, data.test.y).mean()
    np.testing.assert_allclose(got[0, run.splits.index("test"), 0], want, rtol=1e-4)
    on_line = inst.lines(metric="loss", recomputed=True)[0, 0, 0, 1]
    np.testing.assert_allclose(on_line, want, rtol=1e-4)
    plain, recomputed = inst.lines(metric="loss"), inst.lines(metric="loss", recomputed=True)
    assert not np.allclose(plain, recomputed)
    table = inst.table()
    assert {"barrier_recomputed", "loss_barrier_recomputed"} <= set(table["metric"])
    # interpolated statistics are those between the copies
    between = jax.tree.map(lambda x: np.float32(0.5) * (x[0] + x[1]), stats)
    logits, _ = apply(middle, between, x, train=False)
    want = optax.losses.softmax_cross_entropy_with_integer_labels(logits, data.test.y).mean()
    np.testing.assert_allclose(plain[0, 0, 0, 1], want, rtol=1e-4)


def middle_stack(params):
    """A stack of one network whose statistics do not matter."""
    stats = {"batch_stats": {"BatchNorm_0": {"mean": np.zeros((1, 8)), "var": np.ones((1, 8))}}}
    stats = jax.tree.map(np.float32, stats)
    return jax.tree.map(lambda x: np.asarray(x)[None], params), stats


def test_one_program_trains_dense_networks_and_copies(analyze, net, mesh):
    training = jt.Training(steps=7, batch_size=11)
    before = program(Supervised(net, training), mesh).traces()
    for at in ((0, 3), (5,)):
        analyze(training=training, at=at, copies=2, points=3, seeds=(0,), at_once=1)
    assert program(Supervised(net, training), mesh).traces() - before == 1


def test_on_a_cpu_blocks_are_as_small_as_keeps_all_devices_busy(net, training):
    def blocks(copies, devices, at_once=None):
        mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
        return block_of(net, training, 24, copies, mesh, at_once)

    # replicas, and states that they are copies of
    assert blocks(2, 1) == (2, 1) and blocks(2, 2) == (2, 1) and blocks(2, 4) == (4, 2)
    assert blocks(3, 1) == (3, 1) and blocks(3, 2) == (6, 2) and blocks(3, 4) == (12, 4)
    assert blocks(3, 4, at_once=24) == (72, 24)


@pytest.mark.slow
def test_results_do_not_depend_on_at_once_and_mesh(analyze, inst):
    for mesh, at_once in (
        (jt.parallel.mesh(devices=jax.devices()[:1]), 3),
        (jt.parallel.mesh(seeds=2, data=2, devices=jax.devices()[:4]), 4),
    ):
        other = analyze(at=AT, copies=3, points=5, seeds=(3, 8), at_once=at_once, mesh=mesh)
        np.testing.assert_allclose(
            other.lines(metric="loss"), inst.lines(metric="loss"), rtol=1e-3, atol=1e-4
        )
        a, b = (x.table() for x in (other, inst))
        a, b = (x[x["metric"].isin(["l2", "cosine", "loss_l2"])]["value"] for x in (a, b))
        np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-4)


def test_an_interrupted_analysis_resumes(analyze, inst, tmp_path):
    def again():
        return analyze(**DESIGN, at_once=3, folder=tmp_path / "run", save_every=1e9)

    # dense training and the copies of a few steps k are done, the others not begun
    with killed(2, units=True):
        again()
    whole = again()
    for name, values in inst.arrays.items():
        if name not in ("steps", "throughout"):
            np.testing.assert_array_equal(whole.arrays[name], values, err_msg=name)
    # blocks of several steps k make other calls, of which the table shows none
    order = ["at", "seed", "pair", "step", "split", "metric"]
    for table in ("throughout", "table"):
        a, b = (getattr(x, table)() for x in (whole, inst))
        order = [name for name in order if name in a.columns]
        a, b = (x.sort_values(order, ignore_index=True) for x in (a, b))
        assert a.equals(b)
    # what is there is read and not trained again
    with after_save(None, units=True) as saves:
        third = again()
    assert not saves
    assert third.table().equals(whole.table())
    assert (tmp_path / "run" / "table.parquet").exists()
    with pytest.raises(ValueError, match="points"):
        analyze(at=AT, copies=3, points=6, throughout=3, seeds=(3, 8), folder=tmp_path / "run")


def test_an_analysis_killed_after_every_save_gives_the_same_result(analyze, inst, tmp_path):
    """Snapshots of dense training and what was seen throughout are saved with the states."""

    def again():
        return analyze(**DESIGN, folder=tmp_path / "run", save_every=0)

    found, deaths = in_spite_of_deaths(again)
    # once for each call of the program: at 0, 10, 20 and 30, of dense training and of copies, which
    # two devices train in three blocks; those of the last one begin at 10 and 30
    assert deaths == 4 + 4 + 4 + 3
    for name, values in inst.arrays.items():
        np.testing.assert_array_equal(found.arrays[name], values, err_msg=name)


def test_diverged_copies_are_never_stable_or_matching(analyze):
    """Networks of nan predict one class, so that their errors are equal numbers."""
    training = jt.Training(
        steps=20, batch_size=BATCH, optimizer="sgd", lr=1e30, warmup=0, eval_every=10
    )
    inst = analyze(training=training, at=(0, 10), points=3, throughout=3, seeds=(0,))
    assert np.isnan(inst.lines()).all() and np.isnan(inst.barriers(metric="loss")).all()
    stable = inst.stable()
    assert not stable["stable"].any() and (stable["diverged"] == 1).all()
    assert not inst.matching(dense=1.0)["matching"].any()
    table = inst.table()
    assert len(table) and table["value"].isna().all()
    assert set(table["metric"]) >= {"l2", "disagreement", "mask_iou"}
    # dense training diverged before step 10, too
    states = inst.states()
    errors = states[(states["metric"] == "error") & (states["split"] == "test")].set_index("at")
    assert np.isfinite(errors.loc[0, "value"]) and np.isnan(errors.loc[10, "value"])
    late = inst.throughout()
    late = late[(late["at"] == 0) & (late["step"] > 0)]
    assert len(late) and late["value"].isna().all()


# the longest test: everything is compiled again for replicas side by side
@pytest.mark.slow
def test_vmapped_replicas_and_points_give_the_same_result(analyze, vmap_replicas):
    """As on a GPU or TPU: many points at once, in several chunks, each with its own networks."""
    training = jt.Training(
        steps=STEPS, batch_size=BATCH, optimizer="momentum", lr=0.1, eval_every=STEPS - 1
    )
    options = {"at": (0, 10), "copies": 3, "points": 5, "seeds": (3, 8), "progress": False}
    plain = analyze(training=training, **options)
    # a mesh of other devices, for which nothing is compiled yet
    other = jt.parallel.mesh(devices=jax.devices()[2:4])
    vmap_replicas()
    run = analyze(training=training, mesh=other, points_at_once=7, **options)
    for metric in ("loss", "error"):
        a, b = (x.lines(metric=metric) for x in (plain, run))
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=3e-3 if metric == "error" else 1e-4)
    off = analyze(
        training=training, mesh=other, **{**options, "noise": (), "copies": 2, "seeds": (3,)}
    )
    assert (off.barriers() == 0).all() and (off.barriers(metric="loss") == 0).all()


def test_all_points_share_a_program(net, data, training, mesh):
    run = jt.stability.Evaluator(net, data, training, mesh)
    params, stats = (
        jax.tree.map(lambda *xs: np.stack(xs), *(net.init(jax.random.key(i))[n] for i in range(3)))
        if n == 0
        else {}
        for n in (0, 1)
    )
    before = run._run.evaluate._cache_size()
    for index, pad_to in (([[0, 1]] * 5, 12), ([[1, 2]] * 12, None), ([[2, 0]] * 3, 12)):
        weight = np.tile([0.5, 0.5], (len(index), 1))
        assert run.points((params, stats), index, weight, pad_to=pad_to).shape[0] == len(index)
    assert run._run.evaluate._cache_size() <= before + 1


@pytest.mark.slow
def test_recomputed_statistics_of_a_split_batch(analyze, data):
    """Batches that two devices share give the statistics of whole batches."""
    net = jt.networks.conv(data.shape, data.classes, depth=2, norm="batch", width=0.05)
    training = jt.Training(steps=4, batch_size=20, eval_batch_size=200, lr=0.01)
    found = []
    for parts in (1, 2):
        mesh = jt.parallel.mesh(seeds=1, data=parts, devices=jax.devices()[:parts])
        inst = analyze(
            net=net, training=training, at=0, points=3, statistics="both", seeds=(1,), mesh=mesh
        )
        found.append(inst.lines(metric="loss", recomputed=True))
    np.testing.assert_allclose(*found, rtol=2e-3)


def test_augmentation_alone_is_noise(analyze, data):
    net = jt.networks.lenet(data.shape, data.classes, widths=(12,))
    training = jt.Training(steps=10, batch_size=BATCH, augment=("shift",), augment_pixels=1)
    inst = analyze(net=net, training=training, at=0, noise="augment", points=3, seeds=(0,))
    kernels = inst.networks(at=0, seed=0)[0]["dense_0"]["kernel"]
    assert not np.array_equal(kernels[0], kernels[1])


def test_soup_evaluates_averages_of_copies(inst, data):
    table = jt.stability.soup(inst)
    rows = table[(table["seed"] == 8) & (table["at"] == 0) & (table["split"] == "test")]
    params, _ = inst.networks(at=0, seed=8)
    for count in (1, 2, 3):
        mean = jax.tree.map(lambda x, n=count: x[:n].astype(np.float64).mean(axis=0), params)
        predicted, losses = slow_numbers(mean, data, "test")
        got = rows[rows["networks"] == count].set_index("metric")["value"]
        np.testing.assert_allclose(got["loss"], losses.mean(), rtol=1e-4)
        assert abs(got["error"] - np.mean(predicted != data.test.y)) < 1.5 / len(data.test)


def test_barriers_across_seeds_before_and_after_alignment(inst, data):
    table = jt.stability.across_seeds(inst)
    rows = table[(table["metric"] == "loss_barrier") & (table["split"] == "train")]
    plain, aligned = (rows[rows["aligned"] == a]["value"].item() for a in (False, True))
    a, b = (
        jax.tree.map(lambda x: np.float64(x[0]), inst.networks(at=0, seed=s)[0]) for s in (3, 8)
    )
    losses = [
        slow_numbers(jax.tree.map(lambda x, y, t=t: (1 - t) * x + t * y, a, b), data, "train")[
            1
        ].mean()
        for t in inst.alphas
    ]
    np.testing.assert_allclose(plain, max(losses) - (losses[0] + losses[-1]) / 2, rtol=1e-3)
    assert aligned < plain
    ends = table[(table["metric"] == "loss") & (table["split"] == "test")]["value"]
    np.testing.assert_allclose(ends.iloc[0], ends.iloc[1], rtol=1e-5)


def test_piecewise_linear_paths_and_planes(inst, net, data, training, mesh):
    run = jt.stability.Evaluator(net, data, training, mesh)
    params, stats = inst.networks(at=0, seed=3)
    nets = [jax.tree.map(lambda x, c=c: x[c], (params, stats)) for c in range(3)]
    bent = jt.stability.line(net, data, training, nets, points=5, evaluator=run)
    np.testing.assert_allclose(bent.alphas, np.linspace(0, 2, 9))
    first = jt.stability.line(net, data, training, nets[:2], points=5, evaluator=run)
    second = jt.stability.line(net, data, training, nets[1:], points=5, evaluator=run)
    assert np.array_equal(bent.values[:5], first.values)
    assert np.array_equal(bent.values[4:], second.values)
    losses = bent.losses()
    assert bent.barrier(metric="loss") == losses.max() - (losses[0] + losses[-1]) / 2
    assert len(bent.table()) == 9 * 2 * 2
    plane = jt.stability.plane(net, data, training, nets, points=3, margin=0.0, evaluator=run)
    flat = [np.concatenate([np.ravel(x) for x in jax.tree.leaves(n[0])]) for n in nets]
    # corners lie as far from one another as the networks
    for i, j in ((0, 1), (0, 2), (1, 2)):
        got = np.linalg.norm(plane.corners[i] - plane.corners[j])
        np.testing.assert_allclose(got, np.linalg.norm(flat[i] - flat[j]), rtol=1e-5)
    np.testing.assert_allclose(plane.values[0, 0], first.values[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plane.values[0, -1], first.values[-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(plane.values[0, 1], first.values[2], rtol=1e-3, atol=2e-3)
    # the place in the middle, by hand
    trees = [jax.tree.map(np.float64, n[0]) for n in nets]
    third = plane.y[1] / plane.corners[2, 1]
    second = (plane.x[1] - third * plane.corners[2, 0]) / plane.corners[1, 0]
    point = jax.tree.map(lambda a, b, c: a + second * (b - a) + third * (c - a), *trees)
    _, by_hand_losses = slow_numbers(point, data, "test")
    found = plane.values[1, 1, plane.splits.index("test"), 0]
    np.testing.assert_allclose(found, by_hand_losses.mean(), rtol=1e-3)
    assert set(plane.table()["metric"]) == {"error", "loss"}
    for networks, message in (
        (nets[:1], "at least two"),
        ([nets[0], "x"], r"must be \(params, stats\)"),
    ):
        with pytest.raises(ValueError, match=message):
            jt.stability.line(net, data, training, networks, evaluator=run)
    with pytest.raises(ValueError, match="`evaluator` must be of the same"):
        other = training.replace(eval_batch_size=7)
        jt.stability.line(net, data, other, nets[:2], evaluator=run)
    with pytest.raises(ValueError, match="must be three"):
        jt.stability.plane(net, data, training, nets[:2], evaluator=run)
    with pytest.raises(ValueError, match="lie on one line"):
        jt.stability.plane(net, data, training, [nets[0], nets[1], nets[0]], evaluator=run)
    with pytest.raises(ValueError, match="the network has none"):
        jt.stability.line(net, data, training, nets[:2], statistics="recomputed", evaluator=run)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`at` is needed"),
        ({"at": (0.5,)}, "`at` must be a whole number"),
        ({"at": ()}, "at least one"),
        ({"at": (0, 0)}, "distinct"),
        ({"at": (31,)}, r"\[0, 30\]"),
        ({"at": "soon"}, "`at` must be a whole number"),
        ({"at": 0, "copies": 1}, "`copies`"),
        ({"at": 0, "points": 2}, "`points`"),
        ({"at": 0, "noise": ("dropout",)}, "`noise`"),
        ({"at": 0, "noise": ("augment",)}, "no augmentation"),
        ({"at": 0, "length": "half"}, "`length`"),
        ({"at": 0, "statistics": "both"}, "needs a network with BatchNorm"),
        ({"at": 0, "throughout": 2}, "`throughout`"),
        ({"at": 0, "distances": ("l3",)}, "did you mean 'l2'"),
        ({"at": 0, "levels": (1,)}, r"pass tickets=runs, or leave `levels` out"),
        ({"at": 0, "branches": ("reinit",)}, "pass `tickets`"),
        ({"at": 0, "at_once": 1, "copies": 5}, "use at least 3"),
        ({"tickets": ()}, "must be what find_tickets"),
        ({"tickets": 5}, "must be what find_tickets"),
    ],
)
def test_bad_arguments_raise(analyze, options, message):
    with pytest.raises((ValueError, TypeError), match=message):
        analyze(**{"seeds": (0,), **options})


def test_tickets_that_do_not_fit_are_refused(analyze, data, training, runs):
    reinit = jt.branch(runs, "reinit", levels=(1,), progress=False)
    other = jt.networks.lenet(data.shape, data.classes, widths=(13,))
    for options, message in (
        ({"seeds": (3, 5)}, r"`seeds` \[5\]"),
        ({"levels": (7,)}, "`levels`"),
        ({"tickets": (runs, runs)}, "twice"),
        ({"tickets": reinit, "at": 0}, "masks of one run"),
        ({"training": training.replace(steps=5)}, "past the end of `training` at 5"),
        (
            {"tickets": (runs, reinit), "branches": "reinit"},
            r"`branches` \['reinit'\] are in `tickets`",
        ),
        ({"net": other}, "of the network"),
        ({"data": data.halves()[0]}, "were found on"),
    ):
        with pytest.raises(ValueError, match=message):
            analyze(**{"tickets": runs, **options})


def test_weights_that_were_not_kept(analyze):
    inst = analyze(at=30, points=3, seeds=(0,), keep=False)
    with pytest.raises(ValueError, match="keep=True"):
        inst.networks(at=30, seed=0)
    with pytest.raises(ValueError, match="name no state"):
        inst.networks(at=4, seed=0)
    with pytest.raises(ValueError, match="must be one of"):
        inst.lines(branch="reinit")
    with pytest.raises(ValueError, match="throughout=10"):
        inst.throughout()
    with pytest.raises(ValueError, match="statistics='both'"):
        inst.lines(recomputed=True)
    with pytest.raises(ValueError, match="at least two"):
        jt.stability.across_seeds(inst, at=30)
    with pytest.raises(ValueError, match="`folder` is needed"):
        inst.save()
