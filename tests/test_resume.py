"""Nothing is lost: runs that are killed, stopped or damaged end as if nothing had happened."""

import errno
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxticket as jt
from jaxticket import checkpoint, results
from jaxticket.checkpoint import RunFolder, RunFolderError

WORKER = Path(__file__).with_name("resume_worker.py")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    """A compilation cache for the worker processes, so that each starts within seconds."""
    return tmp_path_factory.mktemp("cache")


def start(folder, cache, save_every=0.0):
    environment = dict(
        os.environ,
        JAX_COMPILATION_CACHE_DIR=str(cache),
        JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES="-1",
    )
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), str(save_every)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def finish(folder, cache):
    worker = start(folder, cache)
    output = worker.communicate(timeout=300)[0]
    assert worker.returncode == 0 and output.splitlines()[-1] == "end", output


def contents(folder):
    """The tables (without timings) and ticket files of a finished run and its branch."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        name = str(path.relative_to(folder))
        if path.name == "table.csv" or path.parent.name == "tickets":
            found[name] = path.read_bytes()
    assert any(name.startswith("branches") for name in found) and len(found) > 10
    return found


@pytest.fixture(scope="module")
def reference(tmp_path_factory, cache):
    folder = tmp_path_factory.mktemp("reference") / "run"
    began = time.monotonic()
    finish(folder, cache)
    # with a warm cache runs take about half as long: so long is there to kill
    return contents(folder), 0.5 * (time.monotonic() - began)


def killed_and_resumed(reference, cache, folder, seed, kills):
    expected, seconds = reference
    draw = random.Random(seed)
    done = 0
    for _ in range(kills):
        worker = start(folder, cache)
        assert worker.stdout is not None
        worker.stdout.readline()
        try:
            worker.wait(timeout=draw.uniform(0.05, 0.8 * seconds))
        except subprocess.TimeoutExpired:
            worker.send_signal(signal.SIGKILL)
            done += 1
        worker.communicate()
    finish(folder, cache)
    assert contents(folder) == expected
    return done


def test_killed_at_random_moments_the_run_ends_bit_for_bit_the_same(reference, cache, tmp_path):
    # two kills of one run, of which the first leaves something behind for the second
    assert killed_and_resumed(reference, cache, tmp_path / "run", seed=1, kills=2) >= 1


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_more_random_moments(reference, cache, tmp_path, seed):
    killed_and_resumed(reference, cache, tmp_path / "run", seed=100 + seed, kills=1)


def test_sigterm_saves_and_says_how_to_continue(reference, cache, tmp_path):
    folder = tmp_path / "run"
    worker = start(folder, cache, save_every=1e9)
    assert worker.stdout is not None
    worker.stdout.readline()
    while not (folder / "environment.json").exists() and worker.poll() is None:
        time.sleep(0.02)
    worker.send_signal(signal.SIGTERM)
    output = worker.communicate(timeout=120)[0]
    assert worker.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM; saved in" in output and "run the same command to continue" in output
    assert list((folder / "state").iterdir())
    finish(folder, cache)
    assert contents(folder) == reference[0]


# in one process


RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 60)
X = (RNG.integers(0, 99, (60, 3, 3)) + 100 * Y[:, None, None]).astype(np.uint8)
DATA = jt.data.from_arrays(X[:40], Y[:40], X[40:], Y[40:])
NET = jt.networks.lenet(DATA.shape, 2, widths=(4,))
TRAINING = jt.Training(steps=8, batch_size=8, eval_every=4)


def find(folder, training=TRAINING, **options):
    options = {"pruning": jt.Pruning(levels=1), "seeds": (0, 1), **options}
    return jt.find_tickets(NET, DATA, training, folder=folder, progress=False, **options)


def test_a_finished_run_is_read_not_trained(tmp_path, monkeypatch):
    first = find(tmp_path / "run")

    def fail(*_, **__):
        raise AssertionError("trained again")

    monkeypatch.setattr("jaxticket.levels.train_jobs", fail)
    second = find(tmp_path / "run")
    assert second.table().equals(first.table())
    for a, b in zip(jax.tree.leaves(first.tickets), jax.tree.leaves(second.tickets), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (dict(training=TRAINING.replace(lr=0.5)), "training.lr` is 0.0012 there and 0.5 here"),
        (dict(seeds=(0, 2)), "`seeds` is \\[0, 1\\] there and \\[0, 2\\] here"),
        (dict(pruning=jt.Pruning(levels=2)), "`pruning.levels` is 1 there and 2 here"),
        (dict(branches=("reinit",)), "`branches`"),
    ],
    ids=["lr", "seeds", "levels", "branches"],
)
def test_a_folder_with_other_settings_is_refused(tmp_path, options, field):
    find(tmp_path / "run")
    with pytest.raises(RunFolderError, match=field):
        find(tmp_path / "run", **options)


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("precious")
    with pytest.raises(RunFolderError, match="holds other files"):
        find(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_damaged_unit_is_computed_again(tmp_path):
    first = find(tmp_path / "run")
    unit = tmp_path / "run" / "units" / "level-000-jobs-000-002.npz"
    unit.write_bytes(unit.read_bytes()[:500])
    with pytest.warns(UserWarning, match="damaged"):
        second = find(tmp_path / "run")
    assert second.table().equals(first.table())


def _folder(path):
    return RunFolder(path, {"kind": "test"}, every=0)


def test_a_half_written_state_is_skipped(tmp_path):
    mesh = jt.parallel.mesh(devices=jax.devices()[:1])
    tree = {"a": jt.parallel.put(np.arange(6.0, dtype=np.float32), mesh, replicas=False)}
    folder = _folder(tmp_path / "run")
    folder.save_state("unit", 3, tree)
    # what a kill in the middle of the next save leaves: a step without its commit mark
    (tmp_path / "run" / "state" / "1").mkdir()
    (tmp_path / "run" / "state" / "1" / "_METADATA").write_text("{")
    with pytest.warns(UserWarning, match="half written"):
        found = _folder(tmp_path / "run").load_state("unit", tree)
    assert found is not None and found[0] == 3
    np.testing.assert_array_equal(found[1]["a"], tree["a"])
    assert _folder(tmp_path / "run").load_state("another unit", tree) is None
    # and saving goes on beside it
    folder.save_state("unit", 4, tree)
    found = folder.load_state("unit", tree)
    assert found is not None and found[0] == 4


@pytest.mark.parametrize(
    ("code", "remedy"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "cannot be written")],
    ids=["full", "read-only"],
)
def test_disk_errors_are_explained_and_what_was_saved_stays(tmp_path, monkeypatch, code, remedy):
    folder = tmp_path / "run"
    saves = 0
    write = checkpoint.write_arrays

    def failing(path, arrays):
        nonlocal saves
        saves += 1
        if saves == 2:
            raise OSError(code, os.strerror(code))
        return write(path, arrays)

    monkeypatch.setattr(checkpoint, "write_arrays", failing)
    with pytest.raises(RunFolderError, match=remedy):
        find(folder)
    assert [p.name for p in (folder / "units").iterdir()] == ["level-000-jobs-000-002.npz"]
    monkeypatch.setattr(checkpoint, "write_arrays", write)
    assert find(folder).table().equals(find(tmp_path / "other").table())


def test_tables_are_replaced_at_once(tmp_path, monkeypatch):
    table = find(None).table()
    results.write(table, tmp_path, "table")
    before = (tmp_path / "table.parquet").read_bytes()

    def failing(*_, **__):
        raise OSError(errno.ENOSPC, "no room")

    monkeypatch.setattr(os, "replace", failing)
    with pytest.raises(OSError, match="no room"):
        results.write(table, tmp_path, "table")
    assert (tmp_path / "table.parquet").read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["table.csv", "table.parquet"]
