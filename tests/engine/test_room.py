"""Replicas are halved until their program fits into a device's memory."""

import jax
import numpy as np
from patterns import DATA, NET, TRAINING

import jaxticket as jt
from jaxticket.engine import parallel
from jaxticket.engine.program import program
from jaxticket.engine.room import available, fitting
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Supervised

MESH = parallel.mesh(devices=jax.devices()[:2])


def fit(size, room, training=TRAINING):
    compiled = program(Supervised(NET, training), MESH)
    arrays = put_data(DATA, training, MESH).arrays
    return fitting(compiled, training, MESH, size, arrays, room)


def test_halved_until_they_fit():
    # of a replica on each device: weights, momentum and masks, and what a step needs
    least = sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(NET.shapes[0]))
    assert fit(12, None) == fit(12, 10**9) == 12, "all of them"
    assert fit(12, 0) == 2, "one for each device remains"
    sizes = [fit(12, room) for room in range(2 * least, 200 * least, 40 * least)]
    assert sizes == sorted(sizes) and set(sizes) <= {2, 4, 6, 12}
    assert len(set(sizes)) > 1


def test_the_platform_says_how_much_there_is():
    assert available(MESH) is None, "a CPU does not"


def test_all_hosts_take_the_least_of_what_they_have(monkeypatch):
    class Device:
        def memory_stats(self):
            return {"bytes_limit": 10 * 2**30}

    class Described:
        local_devices = (Device(),)

    told = []

    def agreed(numbers):
        told.append(numbers)
        return np.array([numbers, [others]])

    monkeypatch.setattr("jaxticket.engine.room.agreed", agreed)
    others = 8191
    assert available(Described()) == 8191 * 2**20
    others = 8193
    assert available(Described()) == 8192 * 2**20, "four fifths of 10 GiB"
    assert told == [[8192]] * 2


def test_runs_train_fewer_replicas_a_call_where_memory_ends(monkeypatch):
    """A smaller call changes no number."""
    run = dict(seeds=(3, 5, 6), runtime=jt.Runtime(mesh=MESH, progress=False))
    whole = jt.find_tickets(NET, DATA, TRAINING, jt.Pruning(levels=1), **run)
    monkeypatch.setattr("jaxticket.engine.runtime.available", lambda mesh: 1)
    fewer = jt.find_tickets(NET, DATA, TRAINING, jt.Pruning(levels=1), **run)
    assert (whole.size, fewer.size) == (4, 2)
    np.testing.assert_array_equal(*(runs.table()["value"] for runs in (whole, fewer)))


def test_a_teacher_counts():
    teacher = jt.networks.lenet(DATA.shape, DATA.classes, widths=(64, 64))
    runs = jt.find_tickets(
        teacher, DATA, TRAINING, jt.Pruning(levels=1), seeds=(0,), keep="trained", progress=False
    )
    taught = TRAINING.replace(teacher=jt.Teacher(runs.trained_network(1, 0)))
    assert fit(12, 10**9, taught) == 12
