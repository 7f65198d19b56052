"""The engine compiles any learner: one of a user's own, which trains no network."""

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket as jt
from jaxticket.data.sampling import batch_indices
from jaxticket.engine import parallel
from jaxticket.engine.dense import initial_networks
from jaxticket.engine.learner import Learner, guarded_update
from jaxticket.engine.loop import Jobs, job_plan, train_jobs
from jaxticket.engine.program import program
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.random import permutation_words, root_keys, stream

RNG = np.random.default_rng(0)
X = RNG.normal(size=(40, 3, 3, 1)).astype(np.float32)
DATA = jt.data.from_arrays(X, np.arange(40) % 2, X[:4], np.arange(4) % 2, normalize=False)
NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(2,))
TRAINING = jt.Training(steps=9, batch_size=8)


class Sum(NamedTuple):
    step: Any
    key: Any
    diverged: Any
    total: Any


@dataclasses.dataclass(frozen=True)
class Adder(Learner):
    """Adds up the mean pixel of every batch, and begins from 100 after each call."""

    net: Any
    training: Any
    name: str = "adder"

    def start(self, origin, step, *, key):
        return Sum(step, key, step * 0 - 1, origin)

    def step(self, state, batch, plan, active, placement):
        total = state.total + placement.mean(jnp.mean(batch.x)) * plan.schedule.lr
        return guarded_update(state, state._replace(total=total), finite=total < 1e3, active=active)

    def boundary(self, state, plan, here):
        return state._replace(total=jnp.where(here, state.total + 100, state.total))

    def finite(self, state):
        return jnp.isfinite(state.total)


SEEDS, RATES = (3, 5), np.asarray([1.0, 1e6], np.float32)


def added(mesh, calls=((0, 4), (4, 5))):
    """States after each call; the second replica is too fast."""
    built, data = program(Adder(NET, TRAINING), mesh), put_data(DATA, TRAINING, mesh)
    keys, plan = parallel.put(root_keys(SEEDS), mesh), job_plan(TRAINING, 2)
    plan = parallel.put(plan._replace(schedule=plan.schedule._replace(lr=RATES)), mesh)
    zeros = np.zeros(2, np.int32)
    state = built.start(zeros, np.full(2, 7, np.float32), keys, zeros)
    states, before = [], built.traces()
    for begin, end in calls:
        state, metrics = built.chunk(
            zeros + end - begin, state, plan, zeros + end, np.zeros(2, bool), None, data.arrays
        )
        assert np.isnan(np.asarray(metrics)).all() and metrics.shape == (2, 2, 2)
        states.append(parallel.host(state._replace(key=())))
        broken, finite = parallel.host(built.checked(zeros, state))
        assert not broken.any() and finite.all()
    assert built.traces() - before == 1
    return states


def expected(seed, steps, total):
    words = permutation_words(stream(jax.random.key(seed), "order", jnp.int32(0)))
    for step in steps:
        index = batch_indices(words, jnp.int32(step), examples=40, batch_size=8)
        total = total + X[np.asarray(index)].mean()
    return total


@pytest.mark.parametrize("shape", [(2, 1), (1, 2)], ids=["spread", "batch split"])
def test_a_learner_of_ones_own_is_compiled_for_many_replicas(shape):
    first, second = added(parallel.mesh(*shape, devices=jax.devices()[:2]))
    np.testing.assert_allclose(first.total[0], expected(3, range(4), 7) + 100, rtol=1e-5)
    np.testing.assert_allclose(
        second.total[0], expected(3, range(4, 5), first.total[0]) + 100, rtol=1e-5
    )
    assert first.step.tolist() == [4, 4] and second.step.tolist() == [5, 5]
    # the other one stopped before it was too large
    assert (second.diverged[0], second.diverged[1]) == (-1, first.diverged[1]) and (
        0 <= second.diverged[1] < 4
    )
    assert second.total[1] == first.total[1] < 1e3


def test_an_update_that_is_not_finite_is_not_made():
    state = Sum(jnp.int32(3), jax.random.key(0), jnp.int32(-1), jnp.float32(7))
    go, one = jnp.bool_(True), jnp.float32(1)
    grown = state._replace(total=state.total + one)
    after = guarded_update(state, grown, finite=jnp.bool_(False), active=go)
    assert (int(after.step), int(after.diverged), float(after.total)) == (4, 3, 7)
    later = guarded_update(after, after._replace(total=one), finite=go, active=go)
    assert (int(later.step), int(later.diverged), float(later.total)) == (5, 3, 7)
    free = guarded_update(after, after._replace(total=one), finite=go, active=go, free=("total",))
    assert float(free.total) == 1
    waiting = guarded_update(state, grown, finite=jnp.bool_(False), active=jnp.bool_(False))
    assert (int(waiting.step), int(waiting.diverged), float(waiting.total)) == (3, -1, 7)


def test_equal_learners_share_a_program():
    mesh = parallel.mesh(2, devices=jax.devices()[:2])
    assert program(Adder(NET, TRAINING), mesh) is program(Adder(NET, TRAINING), mesh)
    assert program(Adder(NET, TRAINING), mesh) is not program(Adder(NET, TRAINING, "b"), mesh)


class Regrowing(Supervised):
    """Training that lets pruned weights come back."""

    def step(self, state, batch, plan, active, placement):
        state = super().step(state, batch, plan, active, placement)
        return state._replace(params=jax.tree.map(lambda w: w + 1, state.params))


def test_a_broken_invariant_is_an_error():
    mesh = parallel.mesh(1, devices=jax.devices()[:1])
    keys = np.asarray(jax.random.key_data(root_keys((3,))))
    params, stats = initial_networks(NET, mesh, keys)
    origin = Origin(params, stats, jax.tree.map(lambda w: np.abs(w) > 0.1, params))
    zeros = np.zeros(1, np.int32)
    jobs = Jobs(origin, keys, zeros, job_plan(TRAINING, 1), zeros > 0)
    with jt.Runtime(mesh=mesh, progress=False).run(NET, DATA, TRAINING, {}, size=1) as run:
        train_jobs(run, jobs, "x")
        run = dataclasses.replace(run, program=program(Regrowing(NET, TRAINING), mesh))
        with pytest.raises(RuntimeError, match=r"pruned weights came back in training \(x\)"):
            train_jobs(run, jobs, "x")
