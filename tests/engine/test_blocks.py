"""Blocks of replicas: finished ones are kept as they were cut, whatever devices go on with them."""

import errno
import os
import re
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest
from stops import after_save, killed
from two_classes import DATA, NET, TRAINING

import jaxticket as jt
from jaxticket import _files
from jaxticket.engine.blocks import apart, cut, of_work
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.store import RunFolder

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
    assert not damaged.exists() and damaged.with_name(f"{damaged.name}.damaged").exists()


def test_a_block_that_cannot_be_read_for_the_moment_stays(folder, monkeypatch):
    finish(folder, (0, 3))

    def unreadable(self):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", unreadable)
        patch.setattr(_files, "read_arrays", unreadable)
        with pytest.raises(RunFolderError, match="What was saved before is intact"):
            bounds(folder, 3, 3)
    # what passes meanwhile
    read = _files.read_arrays
    with monkeypatch.context() as patch:
        reads = iter([unreadable, read])
        patch.setattr(_files, "read_arrays", lambda file: next(reads)(file))
        assert bounds(folder, 3, 3) == [(0, 3, True)]
    assert bounds(folder, 3, 3) == [(0, 3, True)]


def test_blocks_that_overlap_are_counted_once():
    units = ["work-00000-00002", "work-0000-0004", "work-00003-00006", "work-00004-00006"]
    blocks = of_work(
        "work", [*units, "work-00006-00006", "work-00009-00007", "work-1", "other-0-9"]
    )
    assert blocks == dict(zip([(0, 2), (0, 4), (3, 6), (4, 6)], units, strict=True))
    assert apart(blocks) == [(0, 4), (4, 6)]


def runtime(folder, devices):
    mesh = jt.parallel.mesh(devices=jax.devices()[:devices])
    # 2 on one device and 8 on four, of 5 or 10
    return jt.Runtime(folder=folder, mesh=mesh, at_once=2, progress=False)


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
    return jt.measure(
        runs, "gradient_norm", examples=20, folder=own.folder, at_once=2, progress=False
    )


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
    expected, whole_units = replicas(saves), {unit for unit, _ in saves}
    with after_save(None, units=True) as saves:
        work(runtime(tmp_path / "other", before))
    # in the middle of the last work
    with killed(len(saves) - 1, units=True) as done:
        work(runtime(tmp_path / "run", before))
    with after_save(None, units=True) as rest:
        found = work(runtime(tmp_path / "run", after))
    assert not {unit for unit, _ in done} <= whole_units
    assert replicas([*done, *rest]) == expected and max(expected.values()) == 1
    pd.testing.assert_frame_equal(found, whole, rtol=1e-6)


def units(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "units").iterdir()}


def test_a_block_that_was_not_full_is_kept_by_an_extension(tmp_path):
    """Four devices, three seeds: no block is full."""

    def masks(folder, density):
        mesh = jt.parallel.mesh(devices=jax.devices()[:4])
        return jt.prune_at(
            NET, DATA, TRAINING, score="magnitude", density=density, seeds=range(3), mesh=mesh,
            folder=folder, progress=False,
        ).table()  # fmt: skip

    masks(tmp_path / "run", (0.5,))
    before = units(tmp_path / "run")
    found = masks(tmp_path / "run", (0.5, 0.2))
    assert len(before) == 3 and before.items() <= units(tmp_path / "run").items()
    pd.testing.assert_frame_equal(found, masks(tmp_path / "whole", (0.5, 0.2)), rtol=1e-6)
