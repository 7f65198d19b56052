"""KD-LTS: its objective, its soft masks, its teachers, and a search with all of them."""

import dataclasses
import functools
import itertools
from types import MappingProxyType

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import noisy_patterns
from stops import killed

import jaxticket as jt
from jaxticket import masks
from jaxticket.connectivity.copies import FIRST_NOISE
from jaxticket.engine import parallel
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.learner import Batch, Plan
from jaxticket.engine.metrics import Normalization
from jaxticket.engine.optim import optimizer, schedule
from jaxticket.engine.program import program
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Supervised
from jaxticket.random import permutation_words, root_keys, stream
from jaxticket.sparsify.learned import (
    KNOWLEDGE,
    Distillation,
    Freezing,
    Method,
    Sigmoid,
    Teaching,
    TopSigmoid,
    distillation,
    learned_masks,
)
from jaxticket.sparsify.learned.learner import (
    ORDER,
    ScoreLearner,
    ScoreOrigin,
    ScorePlan,
    of_size_one,
)
from jaxticket.sparsify.learned.objectives import Outputs, View
from jaxticket.sparsify.learned.schedules import Schedule
from jaxticket.sparsify.learned.views import of_teachers, viewer
from jaxticket.typing import TrainState

X = jnp.asarray(np.random.default_rng(1).normal(size=(7, 6)), jnp.float32)
Y = jnp.arange(7) % 4


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (6, 5), "b": (5,), "c": (5, 4)}
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def pruned(tree):
    """The tree as masks and scores are: None where nothing is pruned."""
    return {**tree, "b": None}


def network(params, x=X):
    return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"]


def view(student, teachers, needs, done=0.0):
    def tapped(params):
        logits = network(params)
        return logits, (jnp.tanh(X @ params["a"] + params["b"][None]), jax.nn.softmax(logits))

    def sensitivity(params):
        picked = lambda x: jnp.sum(network(params, x)[jnp.arange(7), Y])  # noqa: E731
        return jax.grad(picked)(X)

    made = View(
        student, pruned(jax.tree.map(jnp.ones_like, student)), Y, network, tapped, sensitivity,
        jnp.mean, lambda x: x, Outputs(), done=done,
    )  # fmt: skip
    return made._replace(teachers=tuple(made.outputs(t, needs) for t in teachers))


def value(objective, student, teachers, done=0.0):
    # compiled whole: one operation after another, each would be compiled for each of its shapes
    run = jax.jit(lambda *trees: objective(view(*trees, objective.teacher_needs, done)))
    return float(run(student, teachers))


def cross_entropy(params):
    return float(-jnp.mean(jax.nn.log_softmax(network(params))[jnp.arange(7), Y]))


ALL = ("direction", "input_direction", "relations", "similarities", "probabilities", "attention",
       "distances", "flows", "logits", "spectra")  # fmt: skip


def test_nothing_but_the_labels_is_to_be_learned_from_an_equal():
    same = weights()
    found = value(Distillation(alpha=0.3, knowledge=ALL), same, [same, same])
    assert found == pytest.approx(0.3 * cross_entropy(same), abs=1e-4)
    other = value(Distillation(alpha=0.3, knowledge=ALL), same, [same, weights(1)])
    assert other > found + 0.1


def test_terms_are_weighed_as_said():
    student, teachers = weights(), [weights(1), weights(2)]

    def kd(temperature):
        s = jax.nn.log_softmax(network(student) / temperature)
        parts = []
        for teacher in teachers:
            t = jax.nn.log_softmax(network(teacher) / temperature)
            parts.append(jnp.mean(jnp.sum(jnp.exp(t) * (t - s), axis=1)))
        return float(jnp.mean(jnp.stack(parts)))

    plain = Distillation(alpha=0.7, temperature=4.0, knowledge=())
    expected = 0.7 * cross_entropy(student) + 16 * 0.3 * kd(4.0)
    assert value(plain, student, teachers) == pytest.approx(expected, rel=1e-4)
    half = dataclasses.replace(plain, double_average=True)
    expected_half = 0.7 * cross_entropy(student) + 16 * 0.3 * kd(4.0) / 2
    assert value(half, student, teachers) == pytest.approx(expected_half, rel=1e-4)
    more = dataclasses.replace(plain, knowledge=("logits",), gamma=2.0, omega=0.5, epochs=10)
    apart = np.mean([np.mean((network(student) - network(t)) ** 2) for t in teachers])
    for done, epoch in ((0.0, 0), (0.0999, 0), (0.1, 1), (0.35, 3)):
        found = value(more, student, teachers, done)
        assert found == pytest.approx(expected + 2 * 0.5**epoch * apart, rel=1e-4)


def test_direction_is_that_of_the_mean_label_logit_by_what_is_pruned():
    """Against finite differences of the logit, in the networks' own weights."""
    student, teacher = weights(), weights(1)

    def slopes(params):
        found = []
        for name in ("a", "c"):
            flat = np.asarray(params[name], np.float64).ravel()
            for i in range(flat.size):
                ends = []
                for sign in (1, -1):
                    moved = flat.copy()
                    moved[i] += sign * 1e-2
                    changed = params | {name: jnp.float32(moved.reshape(params[name].shape))}
                    ends.append(float(jnp.mean(network(changed)[jnp.arange(7), Y])))
                found.append((ends[0] - ends[1]) / 2e-2)
        return np.array(found)

    s, t = slopes(student), slopes(teacher)
    expected = 2 - 2 * s @ t / np.linalg.norm(s) / np.linalg.norm(t)
    base = Distillation(alpha=1.0, knowledge=())
    found = value(dataclasses.replace(base, knowledge=("direction",)), student, [teacher])
    assert found - value(base, student, [teacher]) == pytest.approx(expected, abs=2e-3)


SOFT = {
    "a": jnp.asarray(np.random.default_rng(5).uniform(0, 2, (6, 5)), jnp.float32),
    "b": None,
    "c": jnp.asarray(np.random.default_rng(6).uniform(0, 2, (5, 4)), jnp.float32),
}


def logits64(params):
    """The network in float64."""
    x = np.asarray(X, np.float64)
    return np.tanh(x @ params["a"] + params["b"]) @ params["c"]


def slopes64(params, soft):
    """The derivative of all logits of `soft * params` by the prunable `params`: float64 central
    differences, [example, class, weight].
    """
    found = []
    for name in ("a", "c"):
        for i in np.ndindex(params[name].shape):
            ends = []
            for sign in (1, -1):
                moved = params[name].copy()
                moved[i] += sign * 1e-5
                by = params | {name: moved}
                ends.append(logits64({k: soft[k] * by[k] for k in by}))
            found.append((ends[0] - ends[1]) / 2e-5)
    return np.stack(found, axis=-1)


@pytest.mark.parametrize("jacobian", ["mean", "examples"])
def test_direction_is_by_the_weights_under_the_mask(jacobian):
    """As printed: the student's derivative is by theta of f(m * theta), which has the factor m; of
    the mean label logit, or of all logits of each example. Teachers have no mask.
    """
    student, teacher = weights(), weights(1)
    plain, other = (
        {k: np.asarray(v, np.float64) for k, v in w.items()} for w in (student, teacher)
    )
    soft = {k: np.ones(5) if v is None else np.asarray(v, np.float64) for k, v in SOFT.items()}
    s, t = slopes64(plain, soft), slopes64(other, {k: np.ones_like(v) for k, v in soft.items()})
    if jacobian == "mean":
        s, t = (x[np.arange(7), np.asarray(Y)].mean(axis=0)[None] for x in (s, t))
    s, t = s.reshape(len(s), -1), t.reshape(len(t), -1)
    cos = (s * t).sum(axis=1) / np.linalg.norm(s, axis=1) / np.linalg.norm(t, axis=1)
    expected = np.mean(2 - 2 * cos)

    masked = masks.map_with(jnp.multiply, SOFT, student, other=lambda w: w)
    base = Distillation(alpha=1.0, knowledge=())
    own = dataclasses.replace(base, knowledge=("direction",), jacobian=jacobian)
    seen = view(masked, [teacher], own.teacher_needs)
    alone = lambda params, at: jax.jacrev(lambda p: network(p, X[at][None])[0])(params)  # noqa: E731
    seen = seen._replace(soft=SOFT, of_example=alone)
    found = float(own(seen)) - float(base(seen))
    assert found == pytest.approx(expected, abs=2e-5)
    # the gradient without the mask's factor points elsewhere
    bare = seen._replace(soft=jax.tree.map(jnp.ones_like, SOFT))
    assert abs(float(own(bare)) - float(own(seen))) > 0.01


def test_agreement_weighs_teachers_and_one_teacher_has_all_the_weight():
    student, teachers = weights(), [weights(1), weights(2)]
    mean, shortest = Distillation(knowledge=()), Distillation(knowledge=(), ensemble="agreement")
    assert value(mean, student, teachers) != value(shortest, student, teachers)
    alone = [value(objective, student, teachers[:1]) for objective in (mean, shortest)]
    assert alone[0] == pytest.approx(alone[1], rel=1e-6)


def test_gradients_are_brought_to_size_one():
    gradient = {"a": jnp.array([0.0, -4.0, 2.0]), "b": jnp.zeros(2), "c": jnp.array([1e-30])}
    found = of_size_one(gradient)
    np.testing.assert_allclose(found["a"], [0, -1, 0.5])
    np.testing.assert_allclose(found["c"], [1.0])
    assert not found["b"].any()
    together = of_size_one(gradient, together=True)
    np.testing.assert_allclose(together["a"], [0, -1, 0.5])
    assert float(together["c"][0]) == pytest.approx(2.5e-31)


@pytest.mark.parametrize(
    ("options", "epoch"),
    [
        ({"gamma": 1.0, "omega": 0.2, "alpha": 0.9, "temperature": 10.0, "epochs": 40}, 10),
        ({"gamma": 1.0, "omega": 0.2, "alpha": 1.0, "temperature": 10.0, "epochs": 40}, 12),
        ({"gamma": 0.0, "epochs": 40}, 0),
        ({"omega": 1.0}, None),
        ({"omega": 0.2, "epochs": 10}, None),
        ({"knowledge": ()}, None),
    ],
)
def test_further_knowledge_fades_once_float32_does_not_see_it(options, epoch):
    objective = Distillation(**options)
    assert objective.fades == (None if epoch is None else epoch / objective.epochs)
    assert objective.rest.knowledge == () and objective.rest.fades is None
    if epoch:
        alongside = objective.alpha + objective.temperature**2 * (1 - objective.alpha)
        weights = objective.gamma * objective.omega ** np.array([epoch - 1, epoch])
        assert weights[0] >= 1e-8 * alongside > weights[1]


@pytest.mark.parametrize("name", KNOWLEDGE)
def test_devices_that_share_a_batch_learn_what_one_alone_does(name):
    """Every kind of knowledge, and the ensemble that looks at all of the batch too."""
    net = jt.networks.lenet((5, 5, 1), 3, (6, 4))
    params, stats = net.init(jax.random.key(0))
    others = [net.init(jax.random.key(i))[0] for i in (1, 2)]
    x = jax.random.normal(jax.random.key(5), (8, 5, 5, 1))
    y = jnp.arange(8, dtype=jnp.int32) % 3
    objective = Distillation(alpha=0.5, knowledge=(name,), ensemble="agreement", gamma=3.0)

    def found(axis, params, x, y):
        view_of = viewer(net, jt.Training(), stats, x, y, key=jax.random.key(0), axis=axis)

        def value(params):
            view = view_of(params, jax.tree.map(jnp.float32, net.mask()), Outputs())
            teachers = tuple(view.outputs(t, objective.teacher_needs) for t in others)
            return objective(view._replace(teachers=jax.lax.stop_gradient(teachers)))

        return jax.value_and_grad(value)(params)

    whole = jax.jit(lambda *a: found(None, *a))(params, x, y)
    mesh = parallel.mesh(seeds=1, data=2, devices=jax.devices()[:2])
    shared, none = jax.P(parallel.DATA), jax.P()
    parts = jax.jit(
        jax.shard_map(lambda *a: found((parallel.DATA, 2), *a), mesh=mesh,
                      in_specs=(none, shared, shared), out_specs=none)
    )(params, x, y)  # fmt: skip
    chex.assert_trees_all_close(parts, whole, rtol=0.001, atol=1e-05)


RELAXATION = TopSigmoid(Schedule(1.0, 60.0, "exponential"), epochs=10)
ALIVE = jax.tree.map(lambda x: jnp.ones(x.shape, bool), pruned(weights()))


def scores():
    return jax.tree.map(lambda x: 0.1 * x, pruned(weights(7)))


@pytest.mark.parametrize("epoch", range(1, 11))
def test_each_epoch_uses_its_number_of_entries(epoch):
    """P = 50, 10 of them in the end; counts change at the first step of an epoch."""
    for done in ((epoch - 1) / 10, (epoch - 0.01) / 10):
        soft = RELAXATION.soft(scores(), ALIVE, jnp.int32(10), jnp.float32(done),
                               key=jax.random.key(0))  # fmt: skip
        used = sum(int((soft[name] > 0).sum()) for name in "ac")
        assert used == round(0.2 ** (epoch / 10) * 50)
        beta = 60**done
        kept = np.asarray(soft["a"] > 0)
        expected = 1 / (1 + np.exp(-beta * np.asarray(scores()["a"], np.float64)))
        np.testing.assert_allclose(soft["a"][kept], expected[kept], rtol=1e-4)


def test_what_falls_out_has_a_gradient_and_what_is_frozen_has_none():
    alive = ALIVE | {"a": ALIVE["a"].at[0].set(False)}

    def total(s):
        soft = RELAXATION.soft(s, alive, jnp.int32(5), jnp.float32(0.95), key=jax.random.key(0))
        return jnp.sum(soft["a"]) + jnp.sum(soft["c"])

    slope = jax.grad(total)(jax.tree.map(lambda x: 0.01 * x, scores()))
    assert not slope["a"][0].any()
    assert (slope["a"][1:] > 0).all() and (slope["c"] > 0).all()


def test_scores_that_start_alike_are_not_chosen_by_index():
    start = {
        name: RELAXATION.initial(x.shape, jnp.float32(0.2), key=jax.random.key(i))
        for i, (name, x) in enumerate(weights().items())
        if name != "b"
    }
    start["b"] = None  # fmt: skip
    soft = RELAXATION.soft(start, ALIVE, jnp.int32(25), jnp.float32(0.95), key=jax.random.key(0))
    for name in "ac":
        assert 0.2 < float((soft[name] > 0).mean()) < 0.8
    assert max(float(jnp.abs(x).max()) for x in jax.tree.leaves(start)) < 1e-6


def test_normalised_scores_are_used_wherever_scores_count():
    made = TopSigmoid(Schedule(1.0, 60.0, "exponential"), epochs=10, normalized=True)
    given = jax.tree.map(lambda x: 0.03 * x + 2.0, pruned(weights(7)))
    expected = {}
    for name in "ac":
        s = np.asarray(given[name], np.float64)
        expected[name] = (s - s.mean()) / (s.std() + 1e-5)
    for name in "ac":
        np.testing.assert_allclose(made.rank(given[name]), expected[name], rtol=1e-3, atol=1e-5)
    done, keep = jnp.float32(0.35), jnp.int32(10)
    soft = made.soft(given, ALIVE, keep, done, key=jax.random.key(0))
    flat = np.concatenate([expected[name].ravel() for name in "ac"])
    used = round(0.2**0.4 * 50)
    least = np.sort(flat)[-used]
    mask = {name: 1 / (1 + np.exp(-(60**0.35) * s)) for name, s in expected.items()}
    likely = made.expected(given, ALIVE, done)
    for name in "ac":
        top = np.where(expected[name] >= least, mask[name], 0)
        np.testing.assert_allclose(soft[name], top, rtol=1e-3, atol=1e-6)
        np.testing.assert_allclose(likely[name], mask[name], rtol=1e-3, atol=1e-6)

    # gradients go through mean and deviation: moved or stretched together, nothing changes
    def total(s):
        return jnp.sum(made.expected_leaf(s, jnp.float32(0.0)) ** 2)

    slope = jax.grad(total)(given["a"])
    assert abs(float(jnp.sum(slope))) < 1e-2 * float(jnp.abs(slope).sum())
    # what breaks ties at the start stays small
    start = made.initial((30, 20), jnp.float32(0.2), key=jax.random.key(0))
    assert 0 < float(jnp.abs(made.rank(start)).max()) < 0.06
    alike = jax.grad(total)(jnp.ones((1, 1)))
    assert np.isfinite(alike).all()


# ---- searches


@pytest.fixture(scope="module")
def data():
    return noisy_patterns()


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, 3, (12,))


TRAINING = jt.Training(steps=40, batch_size=16, optimizer="momentum", lr=0.05, eval_every=20)


@pytest.fixture(scope="module")
def find(net, data):
    def run(changes=MappingProxyType({}), **options):
        method = jt.SEARCHES["kd_lts"](**{"epochs": 6, "freeze_every": 2, **options})
        given = {"training": TRAINING, "density": 0.3, "seeds": (3, 5), "steps": 60,
                 "dense": False, "train": False, "progress": False, **changes}  # fmt: skip
        return jt.search(net, data, given.pop("training"), method, **given)

    return run


def kernels(runs):
    return np.concatenate([np.ravel(runs.by_level[1].mask[f"dense_{i}"]["kernel"]) for i in (0, 1)])


@pytest.mark.slow
def test_teachers_are_other_networks_trained_a_part_of_the_way(find, net, data, monkeypatch):
    """Each of them equals the dense network of its own key at that step."""
    seen = []
    train = learned_masks.train_teachers

    def spied(*args):
        seen.append(train(*args))
        return seen[-1]

    monkeypatch.setattr(learned_masks, "train_teachers", spied)
    find(teachers=2, stage=0.5)
    params = jax.tree.map(np.asarray, seen[0][0][0])
    kernel = params["dense_0"]["kernel"]
    assert kernel.shape == (2, 2, 25, 12)
    flat = kernel.reshape(4, -1)
    assert len({row.tobytes() for row in flat}) == 4
    drawn = [
        net.init(stream(stream(key, "teacher", k), "init"))[0]["dense_0"]["kernel"]
        for key in root_keys((3, 5))
        for k in range(2)
    ]
    # 20 steps away from where its own key starts, and nowhere near the others
    near = np.array([[np.linalg.norm(f - np.ravel(d)) for d in drawn] for f in flat])
    assert (near.argmin(axis=1) == np.arange(4)).all() and (near.min(axis=1) > 0).all()
    # with the students' own initialization
    find(teachers=2, stage=0.025, same_init=True)
    kernel = np.asarray(seen[1][0][0]["dense_0"]["kernel"])
    for replica, seed in enumerate((3, 5)):
        own = np.asarray(net.init(stream(jax.random.key(seed), "init"))[0]["dense_0"]["kernel"])
        steps = np.abs(kernel[replica] - own).max(axis=(1, 2))
        assert (steps > 0).all() and (steps < 0.1).all()


def test_costs_count_the_teachers(find):
    runs = find(teachers=3, stage=0.5)
    table = jt.costs.finding(runs).set_index("level").loc[1]
    assert runs.pruning.method.phases[0][0] == 1.0
    examples, dense = 60 * 16, 60 * 16
    assert table["forward_passes"] == dense + examples * (2 + 3)
    assert table["backward_passes"] == dense + examples * (2 + 3)
    assert table["training_steps"] == 3 * 20 + 60


@pytest.mark.slow
def test_costs_of_all_kinds_of_teachers(find, net):
    examples, dense = 60 * 16, 60 * 16
    table = jt.costs.finding(find(teachers=3, stage=0.5)).set_index("level").loc[1]
    # further knowledge is there for two of six epochs: the gradient, and its derivative
    assert Distillation(epochs=6, omega=1e-4).fades == pytest.approx(1 / 3)
    faded = find(teachers=3, stage=0.5, omega=1e-4)
    own = jt.costs.finding(faded).set_index("level").loc[1]
    assert own["forward_passes"] == pytest.approx(dense + examples * (4 / 3 + 3))
    assert own["backward_passes"] == pytest.approx(dense + examples * (4 / 3 + 1))
    assert own["flops"] < table["flops"]
    # one that is asked costs as one does
    drawn = find(teachers=3, stage=0.5, one=True)
    drawn = jt.costs.finding(drawn).set_index("level").loc[1]
    assert drawn["forward_passes"] == dense + examples * (2 + 1)
    # attacks pay for their passes, teachers that learn along for their steps
    hardened = find(teachers=3, stage=0.5, attack=PGD(steps=4))
    hardened = jt.costs.finding(hardened).set_index("level").loc[1]
    assert hardened["forward_passes"] == table["forward_passes"] + 4 * dense
    forward = jt.layers.cost(net)["flops"]
    assert hardened["flops"] == table["flops"] + 8 * dense * forward
    along = jt.costs.finding(find(teachers=3, stage=0.5, online=True)).set_index("level").loc[1]
    assert along["training_steps"] == table["training_steps"] + 3 * 20
    assert along["flops"] == table["flops"] + 3 * 20 * 16 * 3 * forward
    alone = jt.costs.finding(find(teachers=1, stage=0.5)).set_index("level").loc[1]
    assert table["flops"] > alone["flops"]


def test_one_teacher_at_a_time_is_another_search(find):
    many, one = find(), find(one=True)
    masks = [np.asarray(r.by_level[1].mask["dense_0"]["kernel"]) for r in (many, one)]
    assert not np.array_equal(*masks) and masks[0].sum() == pytest.approx(masks[1].sum(), abs=20)


@pytest.mark.slow
def test_leaving_faded_knowledge_out_changes_nothing(find, monkeypatch):
    # masks that start at 1 make more of the rounding by which the two programs differ
    fast = {"omega": 1e-4, "teachers": 1, "stage": 0.1, "scaled": False}
    short = find(**fast)
    split = find({"mesh": parallel.mesh(seeds=1, data=2, devices=jax.devices()[:2])}, **fast)
    assert short.pruning.method.phases[0][0] == pytest.approx(1 / 3)
    monkeypatch.setattr(distillation, "NEGLIGIBLE", 0.0)
    program.cache_clear()
    whole = find(**fast)
    program.cache_clear()
    assert (kernels(short) == kernels(whole)).all()
    np.testing.assert_allclose(short.trace()["expected"], whole.trace()["expected"], rtol=1e-5)
    assert np.mean(kernels(split) == kernels(whole)) > 0.98


@pytest.fixture
def states(monkeypatch):
    """The states that searches end with."""
    seen, train = [], learned_masks.train_jobs

    def spied(*args, **options):
        seen.append(train(*args, **options))
        return seen[-1]

    monkeypatch.setattr(learned_masks, "train_jobs", spied)
    return seen


def test_nothing_but_scores_moves_in_a_search(find, states):
    """Weights leave it bit by bit as they came; teachers are not part of what it carries."""
    runs = find(momentum=0.9, lr=1.0, stage=0.5)
    (ended,) = states
    assert not ended.state.tutors
    before, after = (jax.tree.leaves(w) for w in (runs.origin.params, ended.state.weights))
    assert len(before) == 4
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, np.asarray(b)[: len(a)])


def one_step(net, method, live, step=0, carried=None, keep=50):
    """A step of a search on a fixed batch, for one replica: the state after it."""
    params, stats = net.init(jax.random.key(0))
    own = method.training(TRAINING, 60)
    learner = ScoreLearner(net, method, own)
    x = jax.random.normal(jax.random.key(1), (16, *net.shape))
    y = jnp.arange(16, dtype=jnp.int32) % net.classes
    drawn = jax.tree.map(lambda w: 0.1 * jnp.sin(jnp.arange(w.size)).reshape(w.shape), params)
    origin = ScoreOrigin(drawn, params, stats, live)
    state = learner.start(origin, jnp.int32(step), key=jax.random.key(3))
    if carried is not None:
        state = carried._replace(step=state.step, live=live)
    plan = ScorePlan(
        jax.tree.map(jnp.asarray, schedule(own)),
        jnp.int32(0),
        jnp.int32(0),
        jnp.float32(0.3),
        jnp.int32(keep),
        jnp.int32(60),
        jnp.int32(20),
    )
    if method.teaching is not None:
        plan = plan._replace(teachers=jax.tree.map(lambda x: x[None], (params, stats)))
    by = Normalization(jnp.zeros(net.shape[-1]), jnp.ones(net.shape[-1]))

    @jax.jit
    def step(state, batch, plan):
        return learner.step(state, batch, plan, jnp.bool_(True), parallel.Placement())

    return step(state, Batch(x, y, by), plan)


@pytest.mark.slow
@pytest.mark.parametrize("normalized", [False, True])
def test_frozen_scores_do_not_move_on_by_momentum(net, normalized):
    method = jt.SEARCHES["kd_lts"](
        teachers=1, momentum=0.9, lr=1.0, epochs=6, normalized=normalized
    )
    live = jax.tree.map(lambda w: jnp.ones(w.shape, bool), net.init(jax.random.key(0))[0])
    first = one_step(net, method, live)
    frozen = jax.tree.map(lambda m: m.at[:3].set(False), live)
    second = one_step(net, method, frozen, 1, first)
    for before, after in zip(*(jax.tree.leaves(s.scores) for s in (first, second)),
                             strict=True):  # fmt: skip
        if before.ndim > 1:
            assert (before[:3] == after[:3]).all() and (before[3:] != after[3:]).mean() > 0.5


def test_without_teachers_and_penalty_it_is_continuous_sparsification_of_fixed_weights(net):
    """alpha = 1, no penalty, all entries in use: the gradient of CE by scores under
    `sigmoid(beta s)`, as of a method made of that alone; methods D.6.9."""
    options = {"optimizer": (("optimizer", "sgd"), ("lr", 0.1))}
    own = jt.SEARCHES["kd_lts"](
        teachers=1, alpha=1.0, knowledge=(), penalty=0.0, scaled=False, epochs=6, normalize=None
    )
    beta = Schedule(1.0, 60.0, "exponential")
    plain = Method("plain", Sigmoid(beta), "loss", scale=1.0, **options)
    live = jax.tree.map(lambda w: jnp.ones(w.shape, bool), net.init(jax.random.key(0))[0])
    # of a search for all entries nothing falls out
    found = [one_step(net, m, live, keep=336).scores for m in (own, plain)]
    for a, b in zip(*map(jax.tree.leaves, found), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    start = 0.1 * jnp.sin(jnp.arange(300.0))
    assert (found[0]["dense_0"]["kernel"].ravel() != start).mean() > 0.5


def test_freezing_ranks_soft_masks_that_have_underflowed(net):
    """All scores so low that every `sigmoid(beta s)` is 0 in float32: those that are least so stay,
    in whichever layer they are."""
    method = jt.SEARCHES["kd_lts"](teachers=1, beta=(1.0, 60.0), epochs=6, freeze_every=2)
    params, stats = net.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    drawn = jax.tree.map(lambda w: jnp.float32(rng.uniform(-900, -500, w.shape)), params)
    ones = jax.tree.map(lambda w: jnp.ones(w.shape, bool), params)
    learner = ScoreLearner(net, method, TRAINING)
    origin = ScoreOrigin(drawn, params, stats, ones)
    state = learner.start(origin, jnp.int32(20), key=jax.random.key(3))
    plan = ScorePlan(schedule(TRAINING), *2 * (jnp.int32(0),), jnp.float32(0.3), jnp.int32(101),
                     jnp.int32(60), jnp.int32(20))  # fmt: skip
    after = learner.boundary(state, plan, jnp.bool_(True)).live
    beta, logs, kept = 60 ** (1 / 3), [], []
    for name in ("dense_0", "dense_1"):
        s, w = (np.asarray(t[name]["kernel"], np.float64) for t in (drawn, params))
        logs.append((beta * s + np.log(np.abs(w))).ravel())
        kept.append(np.asarray(after[name]["kernel"]).ravel())
    logs, kept = np.concatenate(logs), np.concatenate(kept)
    least = np.sort(logs)[-round(0.3 ** (1 / 3) * 336)]
    np.testing.assert_array_equal(kept, logs >= least)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["direction", "input_direction", "relations"])
def test_with_batch_norm_there_is_nothing_to_learn_from_an_equal(name):
    """Slopes are taken in one mode, whatever the teacher's running statistics are."""
    net = jt.networks.resnet14((8, 8, 3), 3, width=0.25)
    params, stats = net.init(jax.random.key(0))
    x = jax.random.normal(jax.random.key(1), (12, 8, 8, 3))
    y = jnp.arange(12, dtype=jnp.int32) % 3
    options = {"x": x, "y": y, "key": jax.random.key(2)}
    ask = functools.partial(viewer, net, TRAINING, **options)
    objective = Distillation(alpha=1.0, knowledge=(name,))

    @jax.jit
    def apart(teacher):
        stacked = jax.tree.map(lambda a: a[None], (teacher, stats))
        said = of_teachers(Teaching(1), objective.teacher_needs, ask, stacked,
                           key=jax.random.key(0))  # fmt: skip
        view = ask(stats=stats)(params, jax.tree.map(jnp.float32, net.mask()), Outputs(),
                                teachers=said)  # fmt: skip
        return objective(view) - view.loss(params)

    other = net.init(jax.random.key(9))[0]
    if name == "relations":
        # answers are those of a trained network, which has other statistics than the batch
        assert 0 < float(apart(params)) < float(apart(other))
    else:
        assert abs(float(apart(params))) < 1e-3 and float(apart(other)) > 0.5


def test_searches_copies_and_trainings_see_examples_in_orders_of_their_own():
    levels, copies = range(1000), range(FIRST_NOISE, FIRST_NOISE + 1000)
    assert ORDER not in copies and ORDER not in levels
    assert not set(levels) & set(copies)


@pytest.mark.parametrize("stage", [0.0, 0.75])
def test_teachers_that_learn_along_take_ordinary_steps(find, net, data, states, stage):
    """Against a loop of steps on the student's batches; their training ends with its schedule."""
    runs = find(teachers=2, stage=stage, online=True)
    # the rest of the places is padding
    tutors = jax.tree.map(lambda x: x[:2], states[-1].state.tutors)
    begun = round(stage * 40)
    assert (np.asarray(tutors.step) == 40).all() and (np.asarray(tutors.diverged) < 0).all()
    for replica, seed in enumerate((3, 5)):
        ticket, drawn = runs.ticket(1, seed), net.init(stream(jax.random.key(seed), "init"))[0]
        masked = masks.apply(ticket.mask, drawn)
        # kernels have the factor of the soft masks, which started at 1
        masked = jax.tree.map(lambda w: 2 * w if w.ndim > 1 else w, masked)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), ticket.params, masked
        )
        # the weights that the search carries are those of initialization
        weights = states[-1].state.weights["dense_0"]["kernel"][replica]
        np.testing.assert_allclose(weights, drawn["dense_0"]["kernel"], rtol=1e-6)
    if stage:
        return
    arrays = put_data(data, TRAINING, parallel.mesh(devices=jax.devices()[:1])).arrays
    key, learner = jax.random.key(5), Supervised(net, TRAINING)
    plan = Plan(jax.tree.map(jnp.asarray, schedule(TRAINING)), jnp.int32(0), jnp.int32(0))
    own = stream(key, "teacher", 1)

    @jax.jit
    def trained():
        params, stats = net.init(stream(own, "init"))
        words = permutation_words(stream(key, "order", jnp.int32(ORDER)))
        state = TrainState(jnp.int32(0), params, stats, optimizer(TRAINING).init(params),
                           jax.tree.map(lambda x: jnp.ones(x.shape, bool), params), own,
                           jnp.int32(-1))  # fmt: skip

        def step(i, s):
            batch = arrays.batches(TRAINING, words, None, parallel.Placement())(i, s.step)
            return learner.step(s, batch, plan, jnp.bool_(True), parallel.Placement())

        return jax.lax.fori_loop(0, 40 - begun, step, state)

    expected = trained()
    found = jax.tree.map(lambda x: np.asarray(x)[1, 1], (tutors.params, tutors.opt_state))
    wanted = (expected.params, expected.opt_state)
    chex.assert_trees_all_close(found, wanted, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_all_of_it_together_is_the_same_vmapped_and_on_a_data_axis(find, states, vmap_replicas):
    options = {"stage": 0.1, "online": True, "normalized": True, "omega": 1e-4,
               "attack": PGD(radius=0.05, step=0.03, steps=2)}  # fmt: skip
    found = [find({"watch_masks": 2}, **options)]
    two = jax.devices()[:2]
    found.append(find({"watch_masks": 2, "mesh": parallel.mesh(1, 2, two)}, **options))
    vmap_replicas()
    found.append(find({"watch_masks": 2, "mesh": parallel.mesh(1, 1, two[1:])}, **options))
    tutors = [seen.state.tutors.params for seen in states]
    for runs, own in zip(found[1:], tutors[1:], strict=True):
        assert np.mean(kernels(runs) == kernels(found[0])) > 0.97
        apart = [trace.trace()["hamming"].dropna() for trace in (runs, found[0])]
        np.testing.assert_allclose(*apart, atol=0.03)
        for a, b in zip(*map(jax.tree.leaves, (own, tutors[0])), strict=True):
            np.testing.assert_allclose(np.asarray(a)[:2], np.asarray(b)[:2], rtol=0.02, atol=0.01)


def test_teachers_and_masks_of_a_search_that_died_go_on(find, states, tmp_path):
    options = {"teachers": 1, "stage": 0.0, "online": True}
    whole = find({"watch_masks": 4}, **options)
    changes = {"watch_masks": 4, "folder": tmp_path / "run", "save_every": 0}
    with killed(3):
        find(changes, **options)
    again = find(changes, **options)
    assert (kernels(again) == kernels(whole)).all() and again.trace().equals(whole.trace())
    tutors = [seen.state.tutors for seen in (states[0], states[-1])]
    for a, b in zip(*map(jax.tree.leaves, tutors), strict=True):
        np.testing.assert_array_equal(a, b)


def test_teachers_that_diverge_are_named(find, capsys):
    find({"seeds": (3,), "training": TRAINING.replace(lr=1e30)},
         teachers=1, stage=0.0, online=True)  # fmt: skip
    said = capsys.readouterr().out
    assert (
        "teacher 0, seed 3: the loss was not finite at step" in said and "stays as it was" in said
    )


def test_masks_are_compared_along_the_way(find, states):
    """Four parts of 60 steps; the numbers are those of the masks, which have K ones each."""
    runs = find({"watch_masks": 4})
    trace = runs.trace()
    rows = trace[trace["seed"] == 5].set_index("step")["hamming"]
    assert rows.dropna().index.tolist() == [15, 30, 45, 60]
    assert np.isfinite(trace["expected"]).all() and (trace["step"] == 15).any()
    masks = [
        np.concatenate([np.ravel(mask[f"dense_{i}"]["kernel"][1]) for i in (0, 1)])
        for mask, _ in states[-1].snapshots
    ]
    assert all(mask.sum() == round(0.3 * 336) for mask in masks)
    expected = [np.mean(a != b) for a, b in itertools.pairwise(masks)]
    np.testing.assert_allclose(rows.dropna(), expected, rtol=1e-6)
    assert max(expected) > 0
    last = runs.ticket(1, 5).mask
    final = np.concatenate([np.ravel(last[f"dense_{i}"]["kernel"]) for i in (0, 1)])
    np.testing.assert_array_equal(masks[-1], final)
    # all but the ticket are frozen where the density is that of all: nothing moves any more
    done = find({"watch_masks": 2, "density": 1.0}).trace()["hamming"].dropna()
    assert len(done) == 4 and (done == 0).all()
    assert "hamming" not in find().trace()


def test_normalised_scores_can_be_searched_with(find):
    runs = find(normalized=True, teachers=1)
    assert kernels(runs).sum() == 2 * round(0.3 * 336)
    assert np.isfinite(runs.trace()["expected"]).all()
    # no layer gets more than its share by the size of its scores
    shares = [np.mean(runs.by_level[1].mask[f"dense_{i}"]["kernel"]) for i in (0, 1)]
    assert 0.1 < min(shares) and max(shares) < 0.6


@pytest.mark.parametrize("knowledge", [("input_direction", "similarities"), ("spectra",), ()])
def test_every_knowledge_can_be_searched_with(find, knowledge):
    runs = find(knowledge=knowledge)
    assert int(runs.ticket(1, 3).mask["dense_0"]["kernel"].sum()) > 0
    assert np.isfinite(runs.trace()["expected"]).all()


def test_the_masked_networks_loss_falls(data):
    """Labels alone, dense, no penalty: soft masks of weights that stay as they are."""
    net = jt.networks.lenet(data.shape, 3, (12,))
    found = {}
    for steps in (6, 240):
        method = jt.SEARCHES["kd_lts"](alpha=1.0, penalty=0.0, epochs=6, knowledge=(), gamma=0.0)
        runs = jt.search(net, data, TRAINING, method, density=0.5, seeds=range(3), steps=steps,
                         train=False, dense=False, progress=False)  # fmt: skip
        loss = runs.table().query("split == 'train' and metric == 'loss'")["value"].mean()
        found[steps] = float(loss)
    assert found[240] < 0.8 * found[6]


def test_a_method_with_teachers_says_which_and_no_other_has_any():
    with pytest.raises(ValueError, match="`teaching` must be a Teaching"):
        Method("x", RELAXATION, Distillation())
    with pytest.raises(ValueError, match="`teaching` must be a Teaching"):
        Method("x", RELAXATION, "loss", teaching=Teaching())
    for options, words in (
        ({"knowledge": ("relation",)}, "knowledge"),
        ({"ensemble": "sum"}, "ensemble"),
        ({"alpha": 1.5}, "alpha"),
        ({"temperature": 0.0}, "temperature"),
        ({"knowledge": "direction"}, "knowledge"),
    ):
        with pytest.raises(ValueError, match=f"`{words}`"):
            Distillation(**options)
    for options, words in (
        ({"freeze_every": 0}, "freeze_every"),
        ({"freeze_every": -5}, "freeze_every"),
        ({"beta": 60.0}, "beta"),
        ({"beta": (0, 60)}, "beta"),
        ({"beta": ("a", "b")}, "beta"),
        ({"beta": (1, 2, 3)}, "beta"),
        ({"drop_at": (1.5,)}, "drop_at"),
        ({"drop_at": 0.5}, "drop_at"),
        ({"drop_at": ("x",)}, "drop_at"),
        ({"knowledge": "direction"}, "knowledge"),
        ({"stage": "x"}, "stage"),
        ({"one": "yes"}, "one"),
        ({"attack": "pgd"}, "attack"),
        ({"attack": PGD(targeted=True)}, "attack"),
    ):
        with pytest.raises(ValueError, match=f"`{words}`"):
            jt.SEARCHES["kd_lts"](**options)
    with pytest.raises(ValueError, match="`count`"):
        Teaching(count=0)
    with pytest.raises(ValueError, match="`stage`"):
        Teaching(stage=0.0)
    assert Teaching(stage=0.0, online=True).steps(TRAINING) == 0
    with pytest.raises(ValueError, match=r"`start` 0\.1 is taken out"):
        jt.SEARCHES["kd_lts"](start=0.1, normalized=True)
    with pytest.raises(ValueError, match="`normalize`"):
        Method("x", RELAXATION, normalize="layers")
    assert Freezing(1.0).weighed is False


# ---- options of the paper's ambiguities


def test_what_has_fallen_out_never_returns_where_that_is_cumulative(net):
    """The selection of one step is what later steps choose from; by default, all of it."""
    live = jax.tree.map(lambda w: jnp.ones(w.shape, bool), net.init(jax.random.key(0))[0])
    options = {"teachers": 1, "epochs": 6, "freeze_every": 6, "knowledge": ()}
    for cumulative in (False, True):
        method = jt.SEARCHES["kd_lts"](**options, cumulative=cumulative)
        state = one_step(net, method, live, keep=34)
        kept = [int(m.sum()) for m in jax.tree.leaves(state.live) if m.ndim > 1]
        # the first of six epochs from all 336 entries to 34
        expected = round(336 * (34 / 336) ** (1 / 6)) if cumulative else 336
        assert sum(kept) == expected
        if cumulative:
            scores = state.scores
            raised = jax.tree.map(lambda s, m: jnp.where(m, s, 9.0), scores, state.live)
            lost = state._replace(scores=raised)
            again = one_step(net, method, state.live, 1, lost)
            both = zip(*map(jax.tree.leaves, (again.live, state.live)), strict=True)
            assert not any(bool((new & ~old).any()) for new, old in both)
            jax.tree.map(lambda a, r, m: np.testing.assert_array_equal(a[~m], r[~m]),
                         again.scores, raised, state.live)  # fmt: skip


def test_cumulative_searches_end_with_the_wanted_number(find):
    runs = find(teachers=1, stage=0.1, cumulative=True)
    kept = [int(m.sum()) for m in jax.tree.leaves(runs.by_level[1].mask) if m.ndim > 2]
    assert sum(kept) == 2 * round(0.3 * 336)


@pytest.mark.slow
def test_jacobians_of_examples_are_searched_with(find, data, states):
    """On one device and on two that share the batch alike; not with BatchNorm."""
    one = jt.parallel.mesh(devices=jax.devices()[:1])
    two = jt.parallel.mesh(seeds=1, data=2, devices=jax.devices()[:2])
    options = {"teachers": 1, "stage": 0.1, "knowledge": ("direction",), "gamma": 100.0,
               "normalize": None, "scaled": False, "beta": (1.0, 1.0)}  # fmt: skip
    moved = []
    for mesh, jacobian in ((one, "examples"), (two, "examples"), (one, "mean")):
        find({"mesh": mesh, "seeds": (3,), "steps": 3}, jacobian=jacobian, **options)
        scores = states[-1].state.scores
        moved.append(np.concatenate([np.ravel(scores[f"dense_{i}"]["kernel"]) for i in (0, 1)]))
    size = np.abs(moved[0]).max()
    assert size > 1e-3
    assert (np.abs(moved[0] - moved[1]) < 1e-2 * size).mean() > 0.98
    assert (np.abs(moved[0] - moved[2]) < 1e-2 * size).mean() < 0.8
    with pytest.raises(ValueError, match=r"`jacobian` 'examples' is of the knowledge 'direction'"):
        jt.SEARCHES["kd_lts"](jacobian="examples", knowledge=("relations",))
    normalizing = jt.networks.resnet14((8, 8, 3), 3, width=0.25)
    x, y = np.zeros((8, 8, 8, 3), np.uint8), np.arange(8) % 3
    x[:, 0, 0] = np.arange(8)[:, None]
    other = jt.data.from_arrays(x, y, x, y, classes=3)
    method = jt.SEARCHES["kd_lts"](jacobian="examples")
    with pytest.raises(
        ValueError, match="looks at examples one by one, and this network normalizes"
    ):
        jt.search(normalizing, other, TRAINING.replace(batch_size=8), method, density=0.5,
                  seeds=(0,), progress=False)  # fmt: skip
