"""Searches, scores and attacks with labels that are not classes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from labeled import TASKS, task
from scipy.special import expit, log_softmax

import jaxticket as jt
from jaxticket import labels, masks
from jaxticket.engine.adversarial import PGD
from jaxticket.engine.metrics import Normalization
from jaxticket.pruning.compiled import context_maker
from jaxticket.sparsify.learned import DenseSized, answers, knowledge

RNG = np.random.default_rng(4)
CONCRETE, KD_LTS = jt.SEARCHES["concrete"], jt.SEARCHES["kd_lts"]


def drawn(kind):
    """Two stacks of logits, and labels: [7, 3] numbers, [7, 5] labels, [7, 4] tokens of 5."""
    if kind == "numbers":
        y = RNG.normal(size=(7, 3)).astype(np.float32)
        return *RNG.normal(size=(2, 7, 3)).astype(np.float32), y
    if kind == "multilabel":
        return *RNG.normal(size=(2, 7, 5)).astype(np.float32), (RNG.random((7, 5)) > 0.5).astype(
            np.int8
        )
    y = RNG.integers(0, 5, size=(7, 4)).astype(np.int32)
    y[0, 2:], y[3] = -1, -1
    return *RNG.normal(size=(2, 7, 4, 5)).astype(np.float32), y


@pytest.mark.parametrize("kind", TASKS)
def test_the_divergence_of_answers(kind):
    a, b, y = drawn(kind)
    found = answers.divergence(jnp.asarray(a), jnp.asarray(b), jnp.asarray(y))
    if kind == "numbers":
        wanted = ((a - b) ** 2 / 2).mean(axis=1)
    elif kind == "multilabel":
        p, q = expit(a.astype(float)), expit(b.astype(float))
        wanted = (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q))).mean(axis=1)
    else:
        p, q = log_softmax(a.astype(float), axis=-1), log_softmax(b.astype(float), axis=-1)
        each = (np.exp(p) * (p - q)).sum(axis=-1)
        wanted = [
            row[there].mean() if there.any() else 0 for row, there in zip(each, y >= 0, strict=True)
        ]
    np.testing.assert_allclose(found, wanted, rtol=2e-4, atol=1e-6)
    same = answers.divergence(jnp.asarray(a), jnp.asarray(a), jnp.asarray(y))
    np.testing.assert_allclose(same, 0, atol=1e-6)


def test_soft_targets_of_numbers_do_not_depend_on_the_temperature():
    a, b, y = map(jnp.asarray, drawn("numbers"))
    found = [t**2 * knowledge.soft_targets(a, b, t, y) for t in (1.0, 10.0)]
    np.testing.assert_allclose(found, np.mean((a - b) ** 2) / 2, rtol=1e-5)


@pytest.mark.parametrize("kind", TASKS)
def test_the_logit_of_a_label(kind):
    z, _, y = drawn(kind)
    found = labels.own_logits(jnp.asarray(z), jnp.asarray(y))
    if kind == "tokens":
        wanted = [
            np.mean([z[i, t, y[i, t]] for t in range(4) if y[i, t] >= 0] or [0]) for i in range(7)
        ]
    else:
        wanted = (z if kind == "numbers" else np.where(y == 1, z, -z)).mean(axis=1)
    np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


# --- attacks


def test_an_attack_climbs_the_loss_of_the_training():
    """One number that a linear network predicts: features go where the error grows."""
    net = jt.networks.lenet((6,), 1, ())
    params, stats = net.init(jax.random.key(0))
    x, y = RNG.normal(size=(9, 6)).astype(np.float32), RNG.normal(size=(9, 1)).astype(np.float32)
    by = Normalization(jnp.zeros(6), jnp.ones(6))
    attack = PGD(radius=0.1, step=0.05, steps=5, random=False, low=-4, high=4)
    moved = attack(
        net, params, stats, jnp.asarray(x), jnp.asarray(y), by=by, key=jax.random.key(1), loss="mse"
    )
    kernel = np.asarray(params["dense_0"]["kernel"])
    uphill = np.sign(x @ kernel - y) * np.sign(kernel[:, 0])
    np.testing.assert_allclose(moved, np.clip(x + 0.8 * uphill, -4, 4), atol=1e-5)


@pytest.mark.slow
def test_networks_are_trained_on_attacked_examples():
    net, data, own = task("multilabel")
    x = data.train.x
    attack = PGD(radius=0.03, step=0.02, steps=2, low=float(x.min()), high=float(x.max()))
    tables = []
    for given in (None, attack):
        training = jt.Training(steps=10, batch_size=40, lr=0.01, attack=given, **own)
        runs = jt.find_tickets(
            net, data, training, jt.Pruning(levels=0), seeds=(0, 1), progress=False
        )
        tables.append(runs.table().query("metric == 'loss'").value.to_numpy())
    assert np.isfinite(tables).all() and not np.allclose(*tables, rtol=1e-4)


# --- scores


@pytest.mark.parametrize("name", ["multilabel", "tokens"])
def test_scores_may_take_minus_the_logit_of_the_label(name):
    net, data, own = task(name)
    params, stats = net.init(jax.random.key(0))
    x, y = data.test.x[None, :20], data.test.y[None, :20]
    x = x if name == "tokens" else x.astype(np.float32) / 16
    recipe = jt.scores.Recipe(loss="negative_logit")
    look = context_maker(net, stats, recipe, key=jax.random.key(1), loss=own["loss"])
    context = look(params, net.mask(), (jnp.asarray(x), jnp.asarray(y)))
    z = np.asarray(net.apply(params, stats, jnp.asarray(x[0]), train=False)[0])
    if name == "tokens":
        each = np.take_along_axis(z, np.maximum(y[0], 0)[..., None], axis=-1)[..., 0]
        wanted = -np.mean(np.sum(each * (y[0] >= 0), axis=1) / np.sum(y[0] >= 0, axis=1))
    else:
        wanted = -np.mean(np.where(y[0] > 0, z, -z))
    found = context.loss(params, jax.tree.map(lambda b: b[0], context.batches))
    assert float(found) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["multilabel", "tokens"])
def test_a_score_of_logits_prunes(name):
    net, data, own = task(name)
    training = jt.Training(steps=10, batch_size=50, lr=0.01, **own)
    score = jt.scores.configured("snip", loss="negative_logit")
    runs = jt.prune_at(net, data, training, score=score, density=0.3, seeds=(0,), progress=False)
    assert runs.densities[-1] == pytest.approx(0.3, abs=0.01)


# --- searches


SEARCHES = {
    "numbers": (CONCRETE("loss", length=1.0), {}),
    "multilabel": (CONCRETE("reverse_kl", length=1.0, dense_sized=True), {"start": 20}),
    "tokens": (CONCRETE("change_of_loss", length=1.0), {"start": 20}),
}


@pytest.mark.parametrize(
    "name", [*(pytest.param(name, marks=pytest.mark.slow) for name in TASKS[:2]), "tokens"]
)
def test_masks_are_learned_for_labels_of_every_kind(name):
    net, data, own = task(name)
    training = jt.Training(steps=60, batch_size=50, lr=0.01, eval_every=60, **own)
    method, more = SEARCHES[name]
    runs = jt.search(
        net, data, training, method, density=0.4, seeds=(0, 1), branches=("random",),
        progress=False, **more,
    )  # fmt: skip
    assert masks.density(runs.by_level[1].mask) == pytest.approx(0.4, abs=0.01)
    table = runs.table().query("split == 'test' and metric == 'loss'")
    assert np.isfinite(table.value).all() and runs.trace().expected.between(0, 1).all()
    last = table[table.step == 60].groupby(["branch", "level"]).value.mean()
    assert last["ticket", 1] < last["random", 1]
    assert np.isfinite(jt.costs.finding(runs).flops).all()
    if name == "tokens":
        split = data.train
        found = jt.learned.objective_values(runs, "loss", examples=len(split))
        params, stats = jax.tree.map(
            lambda x: jnp.asarray(x[1]), (runs.origin.params, runs.origin.stats)
        )
        z = net.apply(params, stats, jnp.asarray(split.x), train=False)[0]
        wanted = jt.losses.next_token(z, jnp.asarray(split.y)).mean()
        dense = found.query("level == 0 and seed == 1").value.item()
        assert dense == pytest.approx(float(wanted), rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", TASKS)
def test_teachers_are_learned_from_whatever_the_labels(name):
    """Every part of the distillation, and devices that share a batch give what one gives."""
    net, data, own = task(name)
    training = jt.Training(steps=20, batch_size=40, lr=0.01, eval_every=20, **own)
    more = () if name == "tokens" else ("input_direction",)
    method = KD_LTS(
        teachers=2, stage=0.5, knowledge=("direction", "logits", "spectra", *more), epochs=2,
        freeze_every=1, ensemble="agreement", length=1.0,
    )  # fmt: skip
    tables = [
        jt.search(
            net, data, training, method, density=0.4, seeds=(0,), mesh=mesh, progress=False
        ).table()
        for mesh in (jt.parallel.mesh(devices=jax.devices()[:1]), jt.parallel.mesh(data=2))
    ]
    assert np.isfinite(tables[0].value).all()
    np.testing.assert_allclose(tables[0].value, tables[1].value, rtol=1e-3)


def search(name, method, **changes):
    net, data, own = task(name)
    training = jt.Training(**{"steps": 4, "batch_size": 20, **own, **changes})
    return jt.search(net, data, training, method, density=0.5, seeds=(0,), progress=False)


def two_outputs(logits, y):
    """The negative log-likelihood of a normal distribution whose variance is predicted too."""
    mean, log_variance = logits[:, 0], logits[:, 1]
    return (mean - y[:, 0]) ** 2 * jnp.exp(-log_variance) + log_variance


REFUSED = [
    (
        lambda: search("numbers", CONCRETE("loss", dense_sized=True)),
        "numbers are predicted by that size; use the objective inside it",
    ),
    (
        lambda: search("tokens", KD_LTS(knowledge=("input_direction",))),
        "looks at derivatives by the input, and tokens have none",
    ),
    (
        lambda: jt.prune_at(
            *task("numbers")[:2], jt.Training(loss="mse", steps=4, batch_size=20),
            score=jt.scores.configured("snip", loss="negative_logit"), density=0.5, progress=False,
        ),
        r"`score` .*snip\(.*\)\" takes minus the logit .* outputs are predictions",
    ),
]  # fmt: skip


@pytest.mark.parametrize(("call", "message"), REFUSED)
def test_what_has_no_meaning_is_refused_by_name(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_objectives_of_predictions_need_an_output_for_each_number():
    _, data, _ = task("numbers")
    y = {name: split.y[:, :1] for name, split in data.splits.items()}
    data = jt.data.from_arrays(splits={n: (s.x, y[n]) for n, s in data.splits.items()})
    net = jt.networks.lenet(data.shape, 2, (4,))
    training = jt.Training(steps=4, batch_size=20, loss=two_outputs)
    with pytest.raises(ValueError, match=r"this one gives \[2\] outputs for labels \[1\]"):
        jt.search(net, data, training, "kd_lts", density=0.5, seeds=(0,), progress=False)


def test_logits_of_several_labels_are_sized_as_they_are():
    z, _, y = drawn("multilabel")
    assert np.array_equal(answers.centered(jnp.asarray(z), jnp.asarray(y)), z)
    assert DenseSized("loss").inner is jt.sparsify.learned.OBJECTIVES["loss"]
