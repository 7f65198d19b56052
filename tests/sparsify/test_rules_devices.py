"""Mask rules on one device and several, vmapped and not, alone and together, and after kills."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest
from few_digits import DATA, DIGITS
from mask_rules import NET, RULES, SEEDS, TRAINING, D, densities, train
from stops import in_spite_of_deaths

import jaxticket as jt
from jaxticket import masks
from jaxticket.engine.program import program
from jaxticket.settings import static_part
from jaxticket.sparsify.dynamic.learner import Dynamic

MOVING = ("gradual", "rigl", "ac_dc", "straight_through", "top_kast")

# the others take as long as all else in this file
QUICK = ("gradual", "rigl", "top_kast")
each_rule = pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in MOVING]
)


@functools.cache
def whole(name):
    return train(RULES[name], density=densities(name))


def same(a, b):
    pd.testing.assert_frame_equal(a.table(), b.table())
    pd.testing.assert_frame_equal(a.monitored(), b.monitored())
    chex.assert_trees_all_equal(a.by_level, b.by_level)


@each_rule
def test_one_program_for_densities_and_seeds_and_each_as_alone(name):
    """On one device, one at a time, as on four together."""
    runs, mesh = whole(name), jt.parallel.mesh(devices=jax.devices()[:1])
    learner = Dynamic(NET, static_part(TRAINING), RULES[name].for_training(TRAINING))
    before = program(learner, mesh).traces()
    together = train(RULES[name], density=densities(name), mesh=mesh, at_once=1)
    same(together, runs)
    alone = train(RULES[name], density=densities(name)[1], seeds=SEEDS[1:], mesh=mesh, at_once=1)
    chex.assert_trees_all_equal(alone.ticket(1, 1).mask, runs.ticket(2, 1).mask)
    values = runs.table().query("level == 2 and seed == 1").value
    np.testing.assert_array_equal(alone.table().value, values)
    assert program(learner, mesh).traces() - before == 1


@each_rule
def test_vmapped_replicas_have_the_same_masks(name, vmap_replicas):
    vmap_replicas()
    mesh = jt.parallel.mesh(devices=jax.devices()[1:2])
    vmapped = train(RULES[name], density=densities(name), mesh=mesh)
    pd.testing.assert_frame_equal(vmapped.table(), whole(name).table(), rtol=1e-3)
    for level in (1, 2):
        for seed in SEEDS:
            a, b = (runs.ticket(level, seed).mask for runs in (vmapped, whole(name)))
            # rounding may decide about a weight near the cut
            assert masks.overlap(a, b) > 0.98


@pytest.mark.parametrize("name", ["rigl", "top_kast"])
def test_batches_split_over_devices(name):
    split = train(RULES[name], density=densities(name), mesh=jt.parallel.mesh(2, data=2))
    pd.testing.assert_frame_equal(split.table(), whole(name).table(), rtol=1e-3)


@each_rule
def test_a_run_that_is_killed_after_every_save_gives_the_same(name, tmp_path):
    runs, deaths = in_spite_of_deaths(
        lambda: train(RULES[name], density=densities(name), folder=tmp_path / "run", save_every=0)
    )
    assert deaths > 2
    same(runs, whole(name))


@pytest.mark.parametrize("name", ["rigl", "straight_through"])
def test_a_replica_that_diverges_harms_no_other(name):
    """Its loss is not finite from the first step on."""
    calm = jt.sparse_train(NET, DATA, TRAINING, RULES[name], density=0.5, seeds=SEEDS,
                           progress=False)  # fmt: skip
    params = jax.vmap(lambda key: NET.init(jt.random.stream(key, "init"))[0])(
        jt.random.root_keys(SEEDS)
    )
    wild = jax.tree.map(lambda w: w.at[0].multiply(jnp.float32(1e30)), params)
    runs = train(RULES[name], density=0.5, init=wild)
    diverged = runs.table().groupby("seed").diverged.max()
    assert diverged[0] >= 0 and diverged[1] == -1
    chex.assert_trees_all_equal(runs.ticket(1, 1).mask, calm.ticket(1, 1).mask)
    values = [r.table().query("seed == 1").value.to_numpy() for r in (runs, calm)]
    np.testing.assert_allclose(*values, rtol=1e-5)


@pytest.mark.parametrize("name", ["rigl", "top_kast"])
def test_other_settings_of_training_go_with_rules(name):
    """Counts and zeros are asserted after training, of averages too."""
    training = TRAINING.replace(accumulate=2, weight_decay=0.01, decay="kernels")
    if name == "rigl":
        training = training.replace(ema=0.9)
    else:
        with pytest.raises(ValueError, match=r"`ema` 0\.9 averages weights under one mask"):
            train(RULES[name], training=training.replace(ema=0.9))
    runs = train(RULES[name], training=training.replace(clip_norm=0.5), keep="trained")
    for level, share in enumerate(densities(name), 1):
        ticket = runs.trained_tickets(level)
        assert runs.densities[level - 1] == round(370 * share) / 370
        for path, mask, weights in masks.items(ticket.mask, ticket.params):
            assert not np.asarray(weights)[~np.asarray(mask)].any(), path
    assert np.isfinite(runs.table().value).all()


def sam(lr):
    return optax.contrib.sam(
        optax.sgd(lr, momentum=0.9), optax.chain(optax.contrib.normalize(), optax.sgd(0.05)),
        sync_period=2, opaque_mode=True,
    )  # fmt: skip


@pytest.mark.parametrize("name", ["rigl", "straight_through"])
def test_optimizers_that_visit_other_weights_go_with_rules(name):
    plain, visiting = (
        train(RULES[name], training=TRAINING.replace(optimizer=own), density=0.5, seeds=(0,))
        for own in ("momentum", sam)
    )
    assert visiting.densities == plain.densities
    assert not visiting.table().value.equals(plain.table().value)
    assert np.isfinite(visiting.table().value).all()


def test_rules_train_on_streams():
    def batches(seed):
        order = np.random.default_rng(seed).permutation(96).reshape(6, 16)
        return ((DIGITS.train.x[i], DIGITS.train.y[i]) for i in order)

    test = DIGITS.test.x[:80], DIGITS.test.y[:80]
    data = jt.data.from_batches(batches, test=test, classes=10)
    runs = train(D.RigL(every=3, end=10), data=data)
    told = runs.monitored()
    grown = told[(told.metric == "mask_grown") & (told.step == 12)].value
    assert (grown > 0).all() and runs.densities[0] == 0.5
