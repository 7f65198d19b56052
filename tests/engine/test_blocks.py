"""Blocks of replicas: finished ones are kept as they were cut, whatever devices go on with them."""

import re
from collections import Counter

import jax
import numpy as np
import pandas as pd
import pytest
from stops import after_save, killed

import jaxticket as jt
from jaxticket.engine.blocks import cut
from jaxticket.engine.store import RunFolder

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 60)
X = (RNG.integers(0, 99, (60, 3, 3)) + 100 * Y[:, None, None]).astype(np.uint8)
DATA = jt.data.from_arrays(X[:40], Y[:40], X[40:], Y[40:])
NET = jt.networks.lenet(DATA.shape, 2, widths=(4,))
TRAINING = jt.Training(steps=8, batch_size=8, eval_every=4)
SEEDS = range(5)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run", {"kind": "test"})
    yield folder
    folder.close()


def bounds(folder, count, size):
    return [
        (block.first, block.end, block.arrays is not None)
        for block in cut(folder, "work", count, size)
    ]


def finish(folder, *blocks, work="work"):
    for first, end in blocks:
        folder.save(f"{work}-{first:05d}-{end:05d}", {"x": np.arange(first, end)})


def test_without_finished_blocks_all_have_one_size(folder):
    expected = [(0, 3, False), (3, 6, False), (6, 7, False)]
    assert bounds(None, 7, 3) == expected
    finish(folder, (0, 2), (2, 7), work="other-work")
    finish(folder, (0, 2), (2, 7), work="work-other")
    assert bounds(folder, 7, 3) == expected


@pytest.mark.parametrize(
    ("finished", "count", "size", "expected"),
    [
        ([(0, 3)], 7, 2, [(0, 3, True), (3, 5, False), (5, 7, False)]),
        ([(0, 1), (1, 2)], 7, 4, [(0, 1, True), (1, 2, True), (2, 6, False), (6, 7, False)]),
        # a gap is filled and not trained over
        ([(0, 1), (2, 3)], 5, 4, [(0, 1, True), (1, 2, False), (2, 3, True), (3, 5, False)]),
        # replicas that came since
        ([(0, 4), (4, 6)], 9, 4, [(0, 4, True), (4, 6, True), (6, 9, False)]),
        # a block of a longer run is none of a shorter one
        ([(0, 4), (4, 8)], 6, 2, [(0, 4, True), (4, 6, False)]),
        # several that begin alike
        ([(0, 2), (0, 4), (2, 4)], 4, 4, [(0, 4, True)]),
    ],
)
def test_finished_blocks_are_taken_as_they_are(folder, finished, count, size, expected):
    finish(folder, *finished)
    assert bounds(folder, count, size) == expected


def test_a_damaged_block_is_cut_anew(folder):
    finish(folder, (0, 3), (3, 6), (6, 7))
    damaged = folder.path / "units" / "work-00003-00006.npz"
    damaged.write_bytes(damaged.read_bytes()[:50])
    with pytest.warns(UserWarning, match="work-00003-00006.npz is damaged .* computed again"):
        found = bounds(folder, 7, 2)
    assert found == [(0, 3, True), (3, 5, False), (5, 6, False), (6, 7, True)]
    assert not damaged.exists()


def runtime(folder, devices):
    mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
    return jt.Runtime(folder=folder, mesh=mesh, progress=False)


def tickets(own):
    runs = jt.find_tickets(
        NET, DATA, TRAINING, jt.Pruning(levels=1), seeds=SEEDS, branches=["reinit"], runtime=own
    )
    return runs.table()


def at_step(own):
    runs = jt.prune_at(
        NET, DATA, TRAINING, step=2, score="snip", density=(0.5, 0.3), seeds=SEEDS, runtime=own
    )
    return runs.table()


def dynamic(own):
    runs = jt.sparse_train(
        NET, DATA, TRAINING, "static", density=(0.5, 0.3), seeds=SEEDS, runtime=own
    )
    return runs.table()


def instability(own):
    found = jt.instability(
        NET, DATA, TRAINING, at=(0, 4), copies=2, points=3, seeds=SEEDS, runtime=own
    )
    return found.table()


def gradients(own):
    runs = jt.find_tickets(
        NET, DATA, TRAINING, jt.Pruning(levels=1), seeds=SEEDS, mesh=own.mesh, progress=False
    )
    return jt.measure(runs, "gradient_norm", examples=20, folder=own.folder, progress=False)


def replicas(saves):
    """How often each replica of each work was saved."""
    found = Counter()
    for unit, _ in saves:
        work, first, end = re.fullmatch(r"(.*)-(\d+)-(\d+)", unit).groups()
        found.update((work, replica) for replica in range(int(first), int(end)))
    return found


@pytest.mark.parametrize("work", [tickets, at_step, dynamic, instability, gradients])
@pytest.mark.parametrize(("before", "after"), [(1, 4), (4, 1)])
def test_going_on_with_other_devices_trains_nothing_twice(tmp_path, work, before, after):
    with after_save(None, units=True) as saves:
        whole = work(runtime(tmp_path / "whole", after))
    expected = replicas(saves)
    # in the middle of the last work that is cut into blocks
    with after_save(None, units=True) as saves:
        work(runtime(tmp_path / "other", before))
    with killed(len(saves) - 1, units=True) as done:
        work(runtime(tmp_path / "run", before))
    with after_save(None, units=True) as rest:
        found = work(runtime(tmp_path / "run", after))
    assert replicas([*done, *rest]) == expected and max(expected.values()) == 1
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6)
