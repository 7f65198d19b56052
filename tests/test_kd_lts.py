"""KD-LTS: its objective, its soft masks, its teachers, and a search with all of them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket.rng import root_keys, stream
from jaxticket.search import Distillation, Freezing, Method, Teaching, TopSigmoid
from jaxticket.search.objectives import Outputs, View
from jaxticket.search.schedules import Schedule
from jaxticket.search.step import of_size_one

PRUNABLE = {"a": True, "b": False, "c": True}
X = jnp.asarray(np.random.default_rng(1).normal(size=(7, 6)), jnp.float32)
Y = jnp.arange(7) % 4


def weights(seed=0):
    rng = np.random.default_rng(seed)
    shapes = {"a": (6, 5), "b": (5,), "c": (5, 4)}
    return {k: jnp.asarray(rng.normal(size=s), jnp.float32) for k, s in shapes.items()}


def network(params, x=X):
    return jnp.tanh(x @ params["a"] + params["b"][None]) @ params["c"]


def view(student, teachers, needs, done=0.0):
    def features(params):
        return (jnp.tanh(X @ params["a"] + params["b"][None]), jax.nn.softmax(network(params)))

    def sensitivity(params):
        picked = lambda x: jnp.sum(network(params, x)[jnp.arange(7), Y])  # noqa: E731
        return jax.grad(picked)(X)

    made = View(
        student, jax.tree.map(jnp.ones_like, student), Y, network, features, sensitivity, jnp.mean,
        lambda x: x, PRUNABLE, Outputs(), done=done,
    )  # fmt: skip
    return made._replace(teachers=tuple(made.outputs(t, needs) for t in teachers))


def value(objective, student, teachers, done=0.0):
    return float(objective(view(student, teachers, objective.teacher_needs, done)))


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


def test_agreement_weighs_teachers_and_one_teacher_has_all_the_weight():
    student, teachers = weights(), [weights(1), weights(2)]
    mean, shortest = Distillation(knowledge=()), Distillation(knowledge=(), ensemble="agreement")
    assert value(mean, student, teachers) != value(shortest, student, teachers)
    assert value(mean, student, teachers[:1]) == value(shortest, student, teachers[:1])


def test_gradients_are_brought_to_size_one():
    gradient = {"a": jnp.array([0.0, -4.0, 2.0]), "b": jnp.zeros(2), "c": jnp.array([1e-30])}
    found = of_size_one(gradient)
    np.testing.assert_allclose(found["a"], [0, -1, 0.5])
    np.testing.assert_allclose(found["c"], [1.0])
    assert not found["b"].any()
    together = of_size_one(gradient, together=True)
    np.testing.assert_allclose(together["a"], [0, -1, 0.5])
    assert float(together["c"][0]) == pytest.approx(2.5e-31)


RELAXATION = TopSigmoid(Schedule(1.0, 60.0, "exponential"), epochs=10)
ALIVE = jax.tree.map(lambda x: jnp.ones(x.shape, bool), weights())


def scores():
    return jax.tree.map(lambda x: 0.1 * x, weights(7))


@pytest.mark.parametrize("epoch", range(1, 11))
def test_each_epoch_uses_its_number_of_entries(epoch):
    """P = 50, 10 of them in the end; counts change at the first step of an epoch."""
    for done in ((epoch - 1) / 10, (epoch - 0.01) / 10):
        soft = RELAXATION.soft(scores(), ALIVE, jnp.int32(10), jnp.float32(done),
                               key=jax.random.key(0), prunable=PRUNABLE)  # fmt: skip
        used = sum(int((soft[name] > 0).sum()) for name in "ac")
        assert used == round(0.2 ** (epoch / 10) * 50)
        assert (soft["b"] == 1).all()
        beta = 60**done
        kept = np.asarray(soft["a"] > 0)
        expected = 1 / (1 + np.exp(-beta * np.asarray(scores()["a"], np.float64)))
        np.testing.assert_allclose(soft["a"][kept], expected[kept], rtol=1e-4)


def test_what_falls_out_has_a_gradient_and_what_is_frozen_has_none():
    alive = ALIVE | {"a": ALIVE["a"].at[0].set(False)}

    def total(s):
        soft = RELAXATION.soft(s, alive, jnp.int32(5), jnp.float32(0.95), key=jax.random.key(0),
                               prunable=PRUNABLE)  # fmt: skip
        return jnp.sum(soft["a"]) + jnp.sum(soft["c"])

    slope = jax.grad(total)(jax.tree.map(lambda x: 0.01 * x, scores()))
    assert not slope["a"][0].any()
    assert (slope["a"][1:] > 0).all() and (slope["c"] > 0).all()


def test_scores_that_start_alike_are_not_chosen_by_index():
    start = {name: RELAXATION.initial(x.shape, jnp.float32(0.2), key=jax.random.key(i))
             for i, (name, x) in enumerate(weights().items())}  # fmt: skip
    soft = RELAXATION.soft(start, ALIVE, jnp.int32(25), jnp.float32(0.95), key=jax.random.key(0),
                           prunable=PRUNABLE)  # fmt: skip
    for name in "ac":
        assert 0.2 < float((soft[name] > 0).mean()) < 0.8
    assert max(float(jnp.abs(x).max()) for x in start.values()) < 1e-6


# ---- searches


@pytest.fixture(scope="module")
def data():
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (3, 5, 5))
    y = rng.choice(3, 300)
    x = np.clip(patterns[y] + rng.integers(-60, 60, (300, 5, 5)), 0, 255).astype(np.uint8)
    return jt.data.from_arrays(x[:240], y[:240], x[240:], y[240:], classes=3)


@pytest.fixture(scope="module")
def net(data):
    return jt.networks.lenet(data.shape, 3, (12,))


TRAINING = jt.Training(steps=40, batch_size=16, optimizer="momentum", lr=0.05, eval_every=20)


@pytest.fixture(scope="module")
def find(net, data):
    def run(**options):
        method = jt.SEARCHES["kd_lts"](**{"epochs": 6, "freeze_every": 2, **options})
        return jt.search(net, data, TRAINING, method, density=0.3, seeds=(3, 5), steps=60,
                         dense=False, progress=False)  # fmt: skip

    return run


def test_teachers_are_other_networks_trained_a_part_of_the_way(find, net, data, monkeypatch):
    """Each of them equals the dense network of its own key at that step."""
    from jaxticket.search import learned_masks

    seen = []
    train = learned_masks.train_teachers

    def spied(*args):
        seen.append(train(*args))
        return seen[-1]

    monkeypatch.setattr(learned_masks, "train_teachers", spied)
    find(teachers=2, stage=0.5)
    params = jax.tree.map(np.asarray, seen[0][0])
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
    kernel = np.asarray(seen[1][0]["dense_0"]["kernel"])
    for replica, seed in enumerate((3, 5)):
        own = np.asarray(net.init(stream(jax.random.key(seed), "init"))[0]["dense_0"]["kernel"])
        steps = np.abs(kernel[replica] - own).max(axis=(1, 2))
        assert (steps > 0).all() and (steps < 0.1).all()


def test_costs_count_the_teachers(find):
    runs = find(teachers=3, stage=0.5)
    steps = jt.costs.finding(runs).set_index("level")["training_steps"]
    assert steps[1] == 3 * 20 + 60
    alone = jt.costs.finding(find(teachers=1, stage=0.5)).set_index("level")
    assert jt.costs.finding(runs).set_index("level")["flops"][1] > alone["flops"][1]


def test_one_teacher_at_a_time_is_another_search(find):
    many, one = find(), find(one=True)
    masks = [np.asarray(r.by_level[1].mask["dense_0"]["kernel"]) for r in (many, one)]
    assert not np.array_equal(*masks) and masks[0].sum() == pytest.approx(masks[1].sum(), abs=20)


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
    ):
        with pytest.raises(ValueError, match=f"`{words}`"):
            Distillation(**options)
    with pytest.raises(ValueError, match="`count`"):
        Teaching(count=0)
    with pytest.raises(ValueError, match="`stage`"):
        Teaching(stage=0.0)
    with pytest.raises(ValueError, match="`normalize`"):
        Method("x", RELAXATION, normalize="layers")
    assert Freezing(1.0).weighed is False
