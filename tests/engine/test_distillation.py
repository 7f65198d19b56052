"""Weights that learn from a teacher: by hand in float64, against plain training, side by side, on a
mesh, resumed, and in every function that trains.
"""

import dataclasses
import functools
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from steps import BATCH, NET, NORMED, batches, outside, start, walked
from stops import killed

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.parallel import Placement
from jaxticket.engine.program import program
from jaxticket.engine.supervised import Supervised, TrainBatch
from jaxticket.nn import flops

BASE = jt.Training(steps=9, batch_size=BATCH, optimizer="sgd", lr=0.2)


def settled(net, key=0, by=2.0):
    """A network of another kind with sure answers and statistics that matter."""
    params, stats = net.init(jax.random.key(key))
    params = jax.tree.map(lambda w: by * w, params)
    return net.with_params(params, jax.tree.map(lambda s: s + 0.5, stats))


TEACHER = jt.Teacher(settled(NORMED), alpha=0.3, temperature=3.0)


def written_out(student, teacher, label, alpha, temperature):
    """Loss of each example and its gradient by the student's logits, in float64."""

    def softmax(z):
        e = np.exp(z - z.max(-1, keepdims=True))
        return e / e.sum(-1, keepdims=True)

    s, t = (np.asarray(z, np.float64) for z in (student, teacher))
    plain, soft, wanted = softmax(s), softmax(s / temperature), softmax(t / temperature)
    true = np.eye(s.shape[-1])[label]
    entropy = -(true * np.log(plain)).sum(-1)
    apart = (wanted * (np.log(wanted) - np.log(soft))).sum(-1)
    loss = alpha * entropy + temperature**2 * (1 - alpha) * apart
    return loss, alpha * (plain - true) + temperature * (1 - alpha) * (soft - wanted)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("temperature", [0.5, 4.0])
def test_the_loss_is_the_formula_and_its_gradient_the_slope(alpha, temperature):
    """Against NumPy in float64, whose gradient is that of finite differences."""
    rng = np.random.default_rng(0)
    s, t = rng.normal(size=(2, 5, 4)).astype(np.float32) * 3
    y = rng.integers(0, 4, 5)
    teacher = dataclasses.replace(TEACHER, alpha=alpha, temperature=temperature)

    def losses(s):
        return teacher.losses(jt.losses.cross_entropy(s, jnp.asarray(y)), s, jnp.asarray(t))

    found, slope = losses(jnp.asarray(s)), jax.grad(lambda s: losses(s).sum())(jnp.asarray(s))
    loss, gradient = written_out(s, t, y, alpha, temperature)
    np.testing.assert_allclose(found, loss, rtol=2e-5, atol=1e-5)
    np.testing.assert_allclose(slope, gradient, rtol=1e-4, atol=1e-5)
    for place in np.ndindex(*s.shape):
        ends = []
        for move in (1e-6, -1e-6):
            moved = s.astype(np.float64)
            moved[place] += move
            ends.append(written_out(moved, t, y, alpha, temperature)[0].sum())
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(gradient[place], abs=1e-6)


@pytest.mark.parametrize("changes", [{}, {"accumulate": 2, "label_smoothing": 0.2}], ids=str)
def test_updates_are_those_of_a_loop_with_the_formula(changes):
    """The teacher is in evaluation mode; smoothing is of the labels alone."""
    states = walked(BASE.replace(teacher=TEACHER, **changes))
    params, stats, mask = start()
    params = masks.apply(mask, params)
    given, smoothing = TEACHER.given, changes.get("label_smoothing", 0.0)

    def loss(params, x, y):
        s, _ = NET.apply(params, stats, x, train=True)
        t, _ = NORMED.apply(given.params, given.stats, x, train=False)
        target = optax.smooth_labels(jax.nn.one_hot(y, 3), smoothing)
        soft = jax.nn.log_softmax(s / 3), jax.nn.softmax(t / 3)
        apart = optax.losses.kl_divergence(*soft)
        return (0.3 * optax.softmax_cross_entropy(s, target) + 9 * 0.7 * apart).mean()

    slope = jax.jit(jax.grad(loss))
    for x, y in zip(*batches(), strict=True):
        params = masks.apply(
            mask, jax.tree.map(lambda w, g: w - 0.2 * g, params, slope(params, x, y))
        )
    chex.assert_trees_all_close(states[-1].params, params, rtol=2e-5, atol=2e-6)
    assert not outside(states[-1].mask, states[-1].params)


def test_labels_alone_are_plain_training():
    """alpha = 1, to the bit here: the teacher's part is a product with 0."""
    plain = walked(BASE)
    taught = walked(BASE.replace(teacher=dataclasses.replace(TEACHER, alpha=1.0)))
    for a, b in zip(taught, plain, strict=True):
        chex.assert_trees_all_close(a.params, b.params, rtol=1e-6, atol=1e-8)


def test_a_teacher_that_is_the_student_teaches_nothing():
    params, stats, mask = start()
    own = NET.with_params(masks.apply(mask, params), stats)
    states = walked(BASE.replace(teacher=jt.Teacher(own, alpha=0.0, temperature=2.0)))
    chex.assert_trees_all_close(states[-1].params, states[0].params, rtol=0, atol=2e-6)
    other = walked(BASE.replace(teacher=jt.Teacher(settled(NET, 5), alpha=0.0, temperature=2.0)))
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), other[-1].params, other[0].params)
    assert max(jax.tree.leaves(moved)) > 0.05


def test_teachers_of_other_weights_share_compiled_programs():
    mesh = jt.parallel.mesh()
    own, other = (BASE.replace(teacher=jt.Teacher(settled(NORMED, key))) for key in (0, 1))
    assert own != other and hash(own) is not None
    assert program(Supervised(NET, own), mesh) is program(Supervised(NET, other), mesh)
    assert program(Supervised(NET, own), mesh) is not program(Supervised(NET, BASE), mesh)


def test_a_batch_without_the_teachers_answers_is_refused():
    params, stats, mask = start()
    zero, key = jnp.int32(0), jax.random.key(0)
    state = jt.TrainState(zero, params, stats, (), mask, key, zero)
    (x, *_), (y, *_) = batches()
    learner = Supervised(NET, BASE.replace(teacher=TEACHER))
    with pytest.raises(ValueError, match="no answers of the teacher"):
        learner.gradient(state, TrainBatch(jnp.asarray(x), jnp.asarray(y), key), Placement())


# --- through the public functions

DIGITS = jt.data.load("digits")
DATA = jt.data.from_arrays(
    DIGITS.train.x[:96], DIGITS.train.y[:96], DIGITS.test.x[:64], DIGITS.test.y[:64]
)
SMALL = jt.networks.lenet(DATA.shape, DATA.classes, widths=(6,))
LARGE = jt.networks.lenet(DATA.shape, DATA.classes, widths=(12,))
PLAIN = jt.Training(steps=8, batch_size=16, optimizer="momentum", lr=0.2, eval_every=4)
PRUNING = jt.Pruning(levels=1, fraction=0.5, rewind=2)


@functools.cache
def teachers():
    """One for each of two seeds."""
    drawn = [LARGE.init(jax.random.key(seed)) for seed in (10, 11)]
    params, stats = jax.tree.map(lambda *x: 3 * np.stack(x), *drawn)
    return LARGE.with_params(params, stats, seeds=(0, 1))


def training():
    return PLAIN.replace(teacher=jt.Teacher(teachers(), alpha=0.5, temperature=2.0))


def one_for_all(seed):
    params = jax.tree.map(lambda x: x[seed], teachers().given.params)
    return PLAIN.replace(teacher=jt.Teacher(LARGE.with_params(params), alpha=0.5, temperature=2.0))


def found(given=None, net=SMALL, **options):
    options = {"seeds": (0, 1), "progress": False, **options}
    given = training() if given is None else given
    return jt.find_tickets(net, DATA, given, PRUNING, **options)


@functools.cache
def runs():
    return found()


def of_seed(runs, seed):
    return runs.table().query(f"seed == {seed}").reset_index(drop=True)


def test_every_seed_has_its_own_teacher_and_one_may_teach_all():
    for seed in (0, 1):
        own = found(one_for_all(seed))
        pd.testing.assert_frame_equal(of_seed(own, seed), of_seed(runs(), seed), check_exact=True)
        assert not of_seed(own, 1 - seed).equals(of_seed(runs(), 1 - seed))
    assert not runs().table().value.equals(found(PLAIN).table().value)


def test_the_library_as_a_function_learns_from_it_too():
    state, metrics = jax.jit(jt.make_train(SMALL, DATA, one_for_all(1)))(jax.random.key(1))
    table = of_seed(runs(), 1).query("level == 0 and split == 'test' and metric == 'loss'")
    np.testing.assert_allclose(metrics["test/loss"], table.value, rtol=1e-4)
    assert int(state.diverged) == -1
    with pytest.raises(ValueError, match=r"weights of the seeds \(0, 1\)"):
        jt.make_train(SMALL, DATA, training())


def test_devices_that_share_batches_change_nothing():
    own = found(mesh=jt.parallel.mesh(2, data=2))
    pd.testing.assert_frame_equal(own.table(), runs().table(), rtol=1e-4, atol=1e-6)


def test_vmapped_replicas_equal_replicas_one_by_one(vmap_replicas):
    expected = runs().table()
    vmap_replicas()
    mesh = jt.parallel.mesh(devices=jax.devices()[1:2])
    pd.testing.assert_frame_equal(found(mesh=mesh).table(), expected, rtol=1e-4, atol=1e-6)


def test_resumed_bit_for_bit_guarded_and_read_back(tmp_path):
    folder = tmp_path / "run"
    with killed(2):
        found(folder=folder, save_every=0)
    again = found(folder=folder, save_every=0)
    pd.testing.assert_frame_equal(again.table(), runs().table(), check_exact=True)
    noted = json.loads((folder / "settings.json").read_text())["training"]["teacher"]
    assert noted["net"]["config"]["weights"]["sha256"] == teachers().given.sha256
    for other in (one_for_all(0).teacher, dataclasses.replace(training().teacher, alpha=0.4), None):
        with pytest.raises(RunFolderError, match=r"training\.teacher"):
            found(PLAIN.replace(teacher=other), folder=folder)
    with pytest.raises(ValueError, match=r"`training` is needed.*teacher\.net"):
        jt.load(folder, data=DATA)
    loaded = jt.load(folder, data=DATA, training=training())
    pd.testing.assert_frame_equal(loaded.table(), runs().table(), check_exact=True)


def test_trainings_without_a_teacher_are_recorded_as_ever(tmp_path):
    found(PLAIN, folder=tmp_path)
    for name in ("settings", "runs"):
        assert "teacher" not in (tmp_path / f"{name}.json").read_text()


def test_tickets_of_all_kinds_learn_from_it():
    """What is trained by the labels alone differs; its masks do not."""
    options = {"density": 0.5, "per_class": 2, "dense": False, "seeds": (0, 1), "progress": False}
    own, plain = (jt.prune_at(SMALL, DATA, t, **options) for t in (training(), PLAIN))
    chex.assert_trees_all_equal(own.by_level[1].mask, plain.by_level[1].mask)
    assert not own.table().value.equals(plain.table().value)
    again = jt.branch(plain, "retrain", training=training(), name="ticket", progress=False)
    np.testing.assert_array_equal(again.table().value, own.table().value)


@pytest.mark.slow
def test_everything_that_trains_takes_it():
    quiet = {"seeds": (0, 1), "progress": False}
    fed = jt.data.from_batches(
        [(DATA.train.x, DATA.train.y)], test=(DATA.test.x, DATA.test.y), classes=10
    )
    own, plain = (
        [
            jt.sparse_train(SMALL, DATA, given, density=0.5, **quiet).table(),
            jt.find_tickets(SMALL, fed, given, PRUNING, **quiet).table(),
            jt.search(SMALL, DATA, given, density=0.5, method="gem_miner", **quiet).table(),
            jt.transfer(found(PLAIN), to=DATA, training=given, progress=False).table(),
            jt.telemetry(found(given), progress=False),
            jt.instability(SMALL, DATA, given, at=0, **quiet).table(),
        ]
        for given in (training(), PLAIN)
    )
    for a, b in zip(own, plain, strict=True):
        assert np.isfinite(a.value).all() and not a.value.equals(b.value)


def test_a_pass_of_the_teacher_is_counted():
    own, plain = (jt.costs.finding(r).loc[1] for r in (runs(), found(PLAIN)))
    examples = 8 * 16
    assert own.forward_passes - plain.forward_passes == examples
    assert own.backward_passes == plain.backward_passes
    assert own.flops - plain.flops == pytest.approx(examples * flops.forward(LARGE))


@pytest.mark.slow
def test_a_student_imitates_its_teacher_where_labels_are_noise():
    """At a low temperature, without labels: it answers as the teacher, on what neither has seen."""
    dense = jt.find_tickets(
        LARGE, DIGITS, jt.Training(steps=150, batch_size=32, lr=0.005), jt.Pruning(levels=0),
        seeds=(0,), keep="trained", progress=False,
    )  # fmt: skip
    noise = np.random.default_rng(0).permutation(DIGITS.train.y)
    data = jt.data.from_arrays(DIGITS.train.x, noise, DIGITS.test.x, DIGITS.test.y)
    learned = {}
    for name, alpha in (("teacher", 0.0), ("labels", 1.0)):
        teacher = jt.Teacher(dense.trained_network(seed=0), alpha=alpha, temperature=1.0)
        student = jt.find_tickets(
            LARGE, data, jt.Training(steps=300, batch_size=32, lr=0.005, teacher=teacher),
            jt.Pruning(levels=0), seeds=(5,), progress=False,
        )  # fmt: skip
        table = student.table().query("split == 'test' and metric == 'accuracy' and step == 300")
        learned[name] = table.value.item()
    assert learned["teacher"] > 0.85 and learned["labels"] < 0.4


# --- errors


def test_what_does_not_fit_is_refused_before_anything_is_trained():
    for bad in ({"alpha": -0.1}, {"alpha": 1.1}, {"temperature": 0.0}, {"alpha": float("nan")}):
        with pytest.raises(ValueError, match=f"`{next(iter(bad))}`"):
            dataclasses.replace(TEACHER, **bad)
    with pytest.raises(ValueError, match="`net` of a teacher must be a network with weights"):
        jt.Teacher(LARGE)
    with pytest.raises(ValueError, match="`net` must be a network with weights"):
        jt.Teacher(runs())
    with pytest.raises(ValueError, match=r"`teacher` must be a jt\.Teacher"):
        PLAIN.replace(teacher=teachers())
    with pytest.raises(ValueError, match="`teacher` is used by loss='cross_entropy' only"):
        jt.Training(loss=jt.losses.Focal(), teacher=TEACHER)
    with pytest.raises(ValueError, match=r"seeds \(0, 1\) alone.*seed=0"):
        found(seeds=(0, 2))
    wide = jt.networks.lenet(DATA.shape, 12, widths=(6,))
    with pytest.raises(ValueError, match=r"gives logits \[10\].*`net` \[12\]"):
        found(net=wide)
    other = jt.Teacher(settled(jt.networks.lenet((4, 4, 1), 10, widths=(6,))))
    with pytest.raises(ValueError, match=r"takes examples of shape \(4, 4, 1\)"):
        found(PLAIN.replace(teacher=other))
    several, others = (np.eye(10, dtype=np.float32)[y] for y in (DATA.train.y, DATA.test.y))
    data = jt.data.from_arrays(DATA.train.x, several, DATA.test.x, others, labels="multilabel")
    with pytest.raises(ValueError, match="`loss` 'cross_entropy' takes labels of the kind classes"):
        jt.find_tickets(SMALL, data, training(), PRUNING, seeds=(0, 1), progress=False)


def test_networks_that_diverged_are_no_teachers():
    broken = jt.Training(steps=8, batch_size=16, optimizer="sgd", lr=1e30, eval_every=4)
    diverged = jt.find_tickets(
        SMALL, DATA, broken, jt.Pruning(levels=0), seeds=(0, 1), keep="trained", progress=False
    )
    with pytest.raises(ValueError, match="`seed` 0, 1: the network diverged"):
        diverged.trained_network()
    with pytest.raises(ValueError, match="`seed` 1: the network diverged"):
        diverged.trained_network(seed=1)
    with pytest.raises(ValueError, match=r"`seed` must be one of \(0, 1\)"):
        diverged.trained_network(seed=3)
    with pytest.raises(ValueError, match="keep"):
        runs().trained_network()
