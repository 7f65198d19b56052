"""Accuracy under attack: against evaluations, attacks one by one, and masked gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_measure import DATA, NET, find, measure

import jaxticket as jt
from jaxticket.problem import batched
from jaxticket.random import root_keys, stream

RADII = (0.0, 0.1, 0.3)


@functools.cache
def trained():
    return find(keep="trained")


def ticket_of(level, place):
    return jax.tree.map(lambda x: x[place], trained().trained_tickets(level, "ticket"))


def logits_of(ticket, x):
    seen = ((x - DATA.mean) / DATA.std).astype(np.float32)
    return np.asarray(NET.apply(ticket.params, ticket.stats, seen, train=False)[0])


def measured(probe):
    table = measure(trained(), probe, split="test", weights="trained", examples=None)
    return table.set_index(["metric", "index", "level", "seed"])["value"].sort_index()


def called(probe, data, net, ticket):
    """A probe of all test examples of one ticket."""
    more = probe.prepare(data, "test", None)
    found, by = batched(data, "test")
    problem = jt.Problem(net, found, jt.Training(), by, more=more)
    out = jax.jit(lambda: probe(problem, ticket, key=stream(root_keys([1])[0], "probe")))()
    return {name: np.asarray(x) for name, x in out.items()}


def test_clean_accuracy_is_that_of_evaluations_and_radius_0_changes_nothing():
    found = measured(jt.probes.Attack(radius=RADII, steps=3, check=True))
    table = trained().table()
    final = table[(table["split"] == "test") & (table["step"] == 4)]
    for name in ("accuracy", "loss"):
        own = final[final["metric"] == name].set_index(["level", "seed"])["value"].sort_index()
        clean = found[f"clean_{name}", 0]
        np.testing.assert_allclose(clean, own, rtol=1e-6 if name == "accuracy" else 1e-5)
        if name == "accuracy":
            # of all 80 examples the same number is right
            np.testing.assert_array_equal(np.rint(80 * clean), np.rint(80 * own))
        np.testing.assert_array_equal(found[f"adversarial_{name}", 0], clean)
    for weaker in ("single_step_accuracy", "random_accuracy"):
        np.testing.assert_array_equal(found[weaker, 0], found["clean_accuracy", 0])
        for place in (1, 2):
            assert (found[weaker, place] >= found["adversarial_accuracy", place] - 0.026).all()
    falls = found["adversarial_accuracy"].unstack("index")
    assert (falls[0] >= falls[1]).all() and (falls[1] > falls[2]).all()
    # 3 steps do not get everywhere
    assert (found["unbounded_accuracy"] < 0.05).all()
    np.testing.assert_allclose(found["radius"].unstack("index"), [RADII] * 6, rtol=1e-6)


def test_a_ticket_is_attacked_as_by_the_attack_alone():
    probe = jt.probes.Attack(radius=0.2, steps=5, restarts=2, norm="l2")
    ticket = ticket_of(1, 1)
    found = called(probe, DATA, NET, ticket)
    attack = jt.PGD(radius=0.2, step=0.1, steps=5, restarts=2, norm="l2", high=16)
    _, by = batched(DATA, "test")
    key, x, y = stream(root_keys([1])[0], "probe"), DATA.test.x, DATA.test.y
    x = attack(NET, ticket.params, ticket.stats, jnp.asarray(x), jnp.asarray(y), by=by, key=key)
    logits = logits_of(ticket, np.asarray(x))
    right = logits.argmax(1) == y
    logs = np.asarray(jax.nn.log_softmax(logits))[np.arange(len(right)), y]
    assert found["adversarial_accuracy"] == pytest.approx(right.mean(), abs=1e-6)
    assert found["adversarial_loss"] == pytest.approx(-logs.mean(), rel=1e-3)
    assert found["clean_accuracy"] > found["adversarial_accuracy"]


def test_success_counts_examples_of_other_classes_and_the_class_stays():
    ticket = ticket_of(1, 1)
    answers, y = logits_of(ticket, DATA.test.x).argmax(1), DATA.test.y
    target = int(np.bincount(answers).argmax())
    found = called(jt.probes.Attack(radius=(0.0, 0.3), target=target, steps=4), DATA, NET, ticket)
    assert found["success"][0] == pytest.approx((answers == target)[y != target].mean(), abs=1e-6)
    assert found["success"][1] > found["success"][0] + 0.1
    assert found["adversarial_accuracy"][0] == found["clean_accuracy"]
    # where all are of the class, none can be moved to it
    alone = dataclasses.replace(DATA.test, x=DATA.test.x[y == target], y=y[y == target])
    data = dataclasses.replace(DATA, test=alone)
    found = called(jt.probes.Attack(radius=0.3, target=target, steps=4), data, NET, ticket)
    assert np.isnan(found["success"])
    assert found["adversarial_accuracy"] == found["clean_accuracy"]
    # a random other class: right answers are not it
    found = called(jt.probes.Attack(radius=(0.0, 1.0), target="random"), DATA, NET, ticket)
    assert found["success"][0] <= 1 - found["clean_accuracy"] + 1e-6
    assert found["success"][1] > found["success"][0] + 0.1


def test_masked_gradients_show():
    """Pixels are rounded, so that no gradient passes: the attack seems to fail."""
    rng = np.random.default_rng(0)
    x = (0.6 * rng.choice([-1.0, 1.0], (60, 2)) + 0.05 * rng.normal(size=(60, 2))).astype("f4")
    data = jt.data.from_arrays(x, (x[:, 0] > 0).astype(np.int32), x, (x[:, 0] > 0).astype(np.int32),
                               normalize=False)  # fmt: skip
    net = jt.from_functions(
        lambda key: ({"w": {"kernel": jnp.asarray([[-1.0, 1.0], [0.0, 0.0]])}}, {}),
        lambda params, stats, x, *, train: (jnp.round(2 * x) @ params["w"]["kernel"], stats),
        name="rounded", shape=(2,), output="w",
    )  # fmt: skip
    params, stats = net.init(jax.random.key(0))
    ticket = jt.Ticket(net.mask(), params, stats, np.int32(0), np.int32(0))
    probe = jt.probes.Attack(radius=0.55, random=False, check=True, low=-1.0, high=1.0)
    found = called(probe, data, net, ticket)
    assert found["clean_accuracy"] == found["adversarial_accuracy"] == 1
    assert found["random_accuracy"] < 0.5 and found["unbounded_accuracy"] == 1


def test_the_range_is_that_of_the_data_unless_given():
    def range_of(data, **options):
        return jt.probes.Attack(**options).prepare(data, "test", None)["range"].x.tolist()

    assert range_of(DATA) == [0, 16]
    whole = dataclasses.replace(DATA.test, x=255 - DATA.test.x.astype(np.uint8))
    own = dataclasses.replace(DATA.train, x=15 * DATA.train.x.astype(np.uint8))
    assert range_of(dataclasses.replace(DATA, train=own, test=whole)) == [0, 255]
    floats = dataclasses.replace(
        DATA,
        train=dataclasses.replace(DATA.train, x=DATA.train.x.astype(np.float32) - 1),
        test=dataclasses.replace(DATA.test, x=DATA.test.x.astype(np.float32) + 1),
    )
    assert range_of(floats) == [-1, 17]
    assert range_of(floats, high=20) == [-1, 20]
    with pytest.raises(ValueError, match=r"`low` and `high` are -1 and 16, .* from -1 to 17"):
        range_of(floats, high=16)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"radius": ()}, "`radius`"),
        ({"radius": (0.1, -0.1)}, "`radius`"),
        ({"norm": "l1"}, "`norm` must be one of 'inf', 'l2'"),
        ({"target": "three"}, "`target` must be one of 'random'"),
        ({"target": 10}, "`target` must be a class of .* 0 to 9, got 10"),
        ({"target": 3, "check": True}, "`check` compares attacks on the true label"),
        ({"restarts": 2, "random": False}, "`restarts` 2 needs random starts"),
        ({"low": 16, "high": 0}, "`low` must be below `high`"),
    ],
)
def test_wrong_settings_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        jt.probes.Attack(**options).prepare(DATA, "test", None)


def test_data_that_cannot_be_attacked_are_refused():
    probe = jt.probes.Attack()
    x = DATA.test.x
    heights = x[:, 3, 3, 0] / 17.0
    numbers = jt.data.from_arrays(x, heights, x, heights)
    with pytest.raises(ValueError, match="labels of kind 'numbers'"):
        probe.prepare(numbers, "test", None)
    tokens = np.arange(40, dtype=np.int32).reshape(10, 4) % 7
    words = jt.data.from_arrays(tokens, np.arange(10) % 2, tokens, np.arange(10) % 2)
    with pytest.raises(ValueError, match="are tokens"):
        probe.prepare(words, "test", None)
