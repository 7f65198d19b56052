"""Nothing is lost: runs that are killed, stopped or damaged end as if nothing had happened."""

import errno
import gc
import json
import os
import pickle
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import chex
import jax
import numpy as np
import pytest
from stops import Killed, after_save, killed
from two_classes import DATA, NET, TRAINING

import jaxticket as jt
from jaxticket import _files, results
from jaxticket.engine.folder_errors import RunFolderError
from jaxticket.engine.store import RunFolder

WORKER = Path(__file__).with_name("resume_worker.py")


def start(folder, save_every=0.0):
    """A worker with the cache of compiled programs of the tests, so that it starts soon."""
    environment = os.environ | {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(folder), str(save_every)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )


def finish(folder):
    worker = start(folder)
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
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference") / "run"
    finish(folder)
    return contents(folder)


def wait_for(worker, found):
    """Waits until `found()` holds, or the worker has ended."""
    while not found() and worker.poll() is None:
        time.sleep(0.01)


def kill_soon(worker, folder, seconds):
    """Kills a worker so long after it begins to work; whether it had not ended by itself."""
    wait_for(worker, (folder / "environment.json").exists)
    killed = False
    try:
        worker.wait(timeout=seconds)
    except subprocess.TimeoutExpired:
        worker.send_signal(signal.SIGKILL)
        killed = True
    worker.communicate()
    return killed


def test_stopped_and_killed_a_run_ends_bit_for_bit_the_same(reference, tmp_path):
    """SIGTERM saves and says how to continue; a kill has what that left behind to spoil."""
    folder = tmp_path / "run"
    worker = start(folder, save_every=1e9)
    wait_for(worker, (folder / "environment.json").exists)
    worker.send_signal(signal.SIGTERM)
    output = worker.communicate(timeout=120)[0]
    assert worker.returncode == 128 + signal.SIGTERM, output
    assert "stopped by SIGTERM; saved in" in output and "run the same command to continue" in output
    assert list((folder / "state").iterdir())
    # killed when level 1 has been saved for the first time
    worker = start(folder)
    wait_for(worker, lambda: list(folder.glob("units/stage-000-*")))
    wait_for(worker, lambda: list(folder.glob("state/*")))
    worker.kill()
    worker.communicate()
    assert worker.returncode == -signal.SIGKILL
    finish(folder)
    assert contents(folder) == reference


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_killed_at_more_random_moments(reference, tmp_path, seed):
    draw, folder = random.Random(100 + seed), tmp_path / "run"
    # of two kills the first leaves something behind for the second
    for _ in range(1 + seed % 2):
        kill_soon(start(folder), folder, draw.uniform(0.0, 4.0))
    finish(folder)
    assert contents(folder) == reference


# in one process


def find(folder, training=TRAINING, **options):
    options = {"pruning": jt.Pruning(levels=1), "seeds": (0, 1), **options}
    return jt.find_tickets(NET, DATA, training, folder=folder, progress=False, **options)


def test_a_finished_run_is_read_not_trained(tmp_path):
    with after_save(None, units=True) as saves:
        first = find(tmp_path / "run", save_every=0)
    trained = list(saves)
    assert {call for _, call in trained} == {None, 1, 2, 3}
    with after_save(None, units=True) as saves:
        second = find(tmp_path / "run", save_every=0)
    assert not saves
    assert second.table().equals(first.table())
    chex.assert_trees_all_equal(first.tickets, second.tickets)


def test_a_runtime_does_what_the_arguments_do(tmp_path):
    """A branch saves below its run, also where a runtime says nothing of a folder."""
    expected = find(tmp_path / "arguments", at_once=1)
    runtime = jt.Runtime(folder=tmp_path / "runtime", at_once=1, progress=False)
    pruning = jt.Pruning(levels=1)
    runs = jt.find_tickets(NET, DATA, TRAINING, pruning, seeds=(0, 1), runtime=runtime)
    assert runs.table().equals(expected.table()) and runs.folder == tmp_path / "runtime"
    below = jt.branch(runs, "shuffle", runtime=jt.Runtime(mesh=runs.mesh, progress=False))
    assert below.folder is not None and below.folder.parent == tmp_path / "runtime" / "branches"
    with pytest.raises(RunFolderError, match="`kind` is 'find_tickets' there and 'branch' here"):
        jt.branch(runs, "shuffle", runtime=runtime)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        (dict(training=TRAINING.replace(lr=0.5)), "training.lr` is 0.0012 there and 0.5 here"),
        (dict(seeds=(0, 2)), "`seeds` is \\[0, 1\\] there and \\[0, 2\\] here"),
        (dict(pruning=jt.Pruning(levels=0)), "`pruning.levels` is 1 there and 0 here"),
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
    unit = tmp_path / "run" / "units" / "stage-000-00000-00002.npz"
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
    folder.close()
    folder = _folder(tmp_path / "run")
    with pytest.warns(UserWarning, match="half written"):
        found = folder.load_state("unit", tree)
    assert found is not None and found[0] == 3
    np.testing.assert_array_equal(found[1]["a"], tree["a"])
    assert folder.load_state("another unit", tree) is None
    # and saving goes on alongside it
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
    write = _files.write_arrays

    def failing(path, arrays):
        nonlocal saves
        saves += 1
        if saves == 2:
            raise OSError(code, os.strerror(code))
        return write(path, arrays)

    with monkeypatch.context() as patch, pytest.raises(RunFolderError, match=remedy):
        patch.setattr(_files, "write_arrays", failing)
        find(folder)
    assert [p.name for p in (folder / "units").iterdir()] == ["stage-000-00000-00002.npz"]
    assert find(folder).table().equals(find(tmp_path / "other").table())


# damaged states


@pytest.fixture(scope="module")
def stopped(tmp_path_factory):
    """A run that ended in the middle of its only level, and what it gives in the end."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    with killed(2):
        find(folder, pruning=jt.Pruning(levels=0), save_every=0)
    return folder, find(None, pruning=jt.Pruning(levels=0)).table()


def damages(path):
    """Ways to damage a file, by name."""
    whole = path.read_bytes()

    def flip(at):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :])

    found = {}
    if whole:
        found = {"flipped at a third": lambda: flip(len(whole) // 3),
                 "flipped at three quarters": lambda: flip(len(whole) * 3 // 4)}  # fmt: skip
    found |= {"cut": lambda: path.write_bytes(whole[: len(whole) // 2]),
              "empty": lambda: path.write_bytes(b""), "gone": path.unlink}  # fmt: skip
    return found


# all of them if asked to; a cut file is much as an empty one
SOME = ("flipped at three quarters", "cut", "gone")


# what Orbax leaves behind where it fails: coroutines and threads whose event loop is closed
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
@pytest.mark.parametrize("every", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_damaged_state_gives_no_other_numbers_and_blocks_nothing(stopped, tmp_path, every):
    """Every file of a saved state, in several ways."""
    whole, expected = stopped
    names = [p.relative_to(whole) for p in sorted((whole / "state").rglob("*")) if p.is_file()]
    assert len(names) > 5
    outcomes = {}
    for name in names:
        for how in damages(whole / name):
            if not every and how not in SOME:
                continue
            folder = tmp_path / str(len(outcomes))
            shutil.copytree(whole, folder)
            damages(folder / name)[how]()
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter("always")
                runs = find(folder, pruning=jt.Pruning(levels=0), save_every=0)
            assert runs.table().equals(expected), (name, how)
            outcomes[name, how] = [str(w.message) for w in told if w.category is UserWarning]
            assert all("state" in text for text in outcomes[name, how]), outcomes[name, how]
            assert sorted(p.name for p in folder.iterdir() if not p.name.startswith(".")) == [
                "environment.json", "runs.json", "runs.npz", "settings.json", "table.csv",
                "table.parquet", "tickets", "timings.csv", "timings.parquet", "units",
            ]  # fmt: skip
    # the bytes of the arrays are most of the files: what they hold is never taken as it is
    warned = sum(bool(told) for told in outcomes.values())
    assert warned > len(outcomes) / 3
    # what Orbax left behind is said here, where it is expected, and not in a later test
    gc.collect()


def test_a_whole_state_is_used(stopped, tmp_path):
    whole, expected = stopped
    shutil.copytree(whole, tmp_path / "run")
    with after_save(None) as saves:
        runs = find(tmp_path / "run", pruning=jt.Pruning(levels=0), save_every=0)
    assert runs.table().equals(expected)
    # the first two calls are not made again
    assert [call for _, call in saves] == [3]


@pytest.mark.parametrize("at", [8, 6, 10], ids=["method", "flags", "time"])
def test_units_with_damaged_headers_are_computed_again(tmp_path, at):
    first = find(tmp_path / "run")
    unit = tmp_path / "run" / "units" / "stage-000-00000-00002.npz"
    whole = bytearray(unit.read_bytes())
    for header in (b"PK\x03\x04", b"PK\x01\x02"):
        place = whole.index(header) + at + 2 * (header[2] == 1)
        whole[place : place + 2] = b"\xff\x7f"
    unit.write_bytes(bytes(whole))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        second = find(tmp_path / "run")
    assert second.table().equals(first.table())
    assert at == 10 or "damaged" in str(told[0].message)


@pytest.mark.parametrize("content", ["", "{", "[1"], ids=["empty", "cut", "cut list"])
@pytest.mark.parametrize(
    ("name", "remedy"),
    [("settings.json", "restore it"), ("environment.json", "delete it")],
)
def test_damaged_records_are_named(tmp_path, name, remedy, content):
    find(tmp_path, pruning=jt.Pruning(levels=0))
    (tmp_path / name).write_text(content)
    shutil.rmtree(tmp_path / "units")
    with pytest.raises(RunFolderError, match=f"{name} is damaged.*{remedy}"):
        find(tmp_path, pruning=jt.Pruning(levels=0))


# the environment


def test_another_machine_is_said_and_recorded(tmp_path):
    options: dict[str, Any] = dict(pruning=jt.Pruning(levels=0))
    first = find(tmp_path, **options)
    path = tmp_path / "environment.json"
    (ours,) = json.loads(path.read_text())
    assert {"jaxticket", "jax", "jaxlib", "numpy", "python", "xla_flags", "device", "devices"} < (
        set(ours)
    )
    assert ours["cpu"] and ours["instructions"]
    other = {**ours, "jaxlib": "0.0.1", "instructions": "sse2"}
    path.write_text(json.dumps([other]))
    # what is only read is of the machine that computed it
    find(tmp_path, **options)
    assert json.loads(path.read_text()) == [other]
    shutil.rmtree(tmp_path / "units")
    with pytest.warns(UserWarning, match=r"instructions \(sse2 \| .*jaxlib \(0.0.1 \| "):
        again = find(tmp_path, **options)
    assert json.loads(path.read_text()) == [other, ours]
    assert again.table().equals(first.table())


# two processes


HOLDER = """
import sys, time
from jaxticket.engine.store import RunFolder
folder = RunFolder(sys.argv[1], {"kind": "test"})
print("held", flush=True)
time.sleep(600)
"""


def test_a_folder_that_another_process_uses_is_refused_until_it_ends(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        began = time.monotonic()
        said = rf"in use by process {holder.pid} on .* since 20\d\d-.* UTC; wait .*another folder"
        with pytest.raises(RunFolderError, match=said):
            _folder(folder)
        assert time.monotonic() - began < 5
        with pytest.raises(RunFolderError, match="in use"):
            RunFolder(folder, {"kind": "test"}, wait=0.5)
        # one that waits has it when the other is gone, however that ended
        threading.Timer(0.5, holder.kill).start()
        RunFolder(folder, {"kind": "test"}, wait=300).close()
        assert holder.wait(timeout=10) == -signal.SIGKILL
    finally:
        holder.kill()
        holder.communicate()
    _folder(folder).close()


@pytest.mark.parametrize(
    ("host", "silent", "free"),
    [("elsewhere", 30, False), ("elsewhere", 1000, True), (None, 0, True)],
    ids=["alive on another host", "dead on another host", "dead here"],
)
def test_the_lock_of_a_dead_process_is_taken_over(tmp_path, host, silent, free):
    """As seen where the system's lock says nothing: on another host, or after the end."""
    _folder(tmp_path).close()
    said = {
        "host": host or socket.gethostname(),
        "pid": 2**22 + 1,
        "name": "process 7 on elsewhere",
    }
    (tmp_path / ".lock").write_text(json.dumps(said))
    then = time.time() - silent
    os.utime(tmp_path / ".lock", (then, then))
    if free:
        folder = _folder(tmp_path)
        assert str(os.getpid()) in (tmp_path / ".lock").read_text()
        folder.close()
        # what was given back holds nobody up, on any host
        assert not (tmp_path / ".lock").read_text()
    else:
        with pytest.raises(RunFolderError, match="in use by process 7 on elsewhere"):
            _folder(tmp_path)


def test_a_run_that_fails_or_ends_gives_its_folder_back(tmp_path):
    def fails(ticket, key, *, net):
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            find(tmp_path / "run", branches=[fails])
    find(tmp_path / "other")
    find(tmp_path / "other")


# places


@pytest.mark.parametrize("written", ["run", "~/run"])
def test_folders_stay_where_they_are(tmp_path, monkeypatch, written):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    runs = find(written, pruning=jt.Pruning(levels=1))
    assert runs.folder == tmp_path / "run"
    monkeypatch.chdir(tmp_path / "elsewhere")
    branch = jt.branch(runs, "retrain", progress=False)
    telemetry = jt.telemetry(runs, progress=False)
    assert len(telemetry) and branch.folder is not None
    assert branch.folder.parent == tmp_path / "run" / "branches"
    ticket = runs.ticket(1, 0)
    for place in ("~/ticket.npz", "ticket.npz"):
        path = ticket.save(place)
        assert path.is_absolute() and jt.Ticket.load(place).level == 1
    runs.save("~/copy")
    assert (tmp_path / "copy" / "table.csv").exists() and (tmp_path / "ticket.npz").exists()
    assert sorted(p.name for p in (tmp_path / "elsewhere").iterdir()) == ["ticket.npz"]


@pytest.mark.parametrize("umask", [0o022, 0o027, 0o077])
def test_files_have_the_permissions_of_the_umask(tmp_path, umask):
    before = os.umask(umask)
    try:
        runs = find(tmp_path / "run", pruning=jt.Pruning(levels=0))
    finally:
        os.umask(before)
    assert runs.folder is not None
    odd = {
        str(path.relative_to(tmp_path)): oct(path.stat().st_mode & 0o777)
        for path in runs.folder.rglob("*")
        if path.is_file() and path.stat().st_mode & 0o777 != 0o666 & ~umask
    }
    assert not odd


# what is said


def test_a_resumed_run_says_so(stopped, tmp_path, capsys):
    shutil.copytree(stopped[0], tmp_path / "run")
    options: dict[str, Any] = dict(pruning=jt.Pruning(levels=0), seeds=(0, 1))
    options["folder"] = tmp_path / "run"
    for progress in (True, False):
        jt.find_tickets(NET, DATA, TRAINING, **options, progress=progress)
        out = capsys.readouterr().out
        if progress:
            step = re.fullmatch(
                rf"resumes {tmp_path / 'run'} \(0 units done\): imp, level 0 \(density 1\), "
                rf"ticket, at step (\d+) of {TRAINING.steps}\n",
                out,
            )
            assert step and 0 < int(step[1]) < TRAINING.steps
        else:
            assert not out
    jt.find_tickets(NET, DATA, TRAINING, **options)
    assert capsys.readouterr().out == f"{tmp_path / 'run'} was complete: nothing was trained\n"


def test_a_resumed_run_says_which_level_is_next(tmp_path, capsys):
    run = tmp_path / "run"
    with (
        after_save(1, lambda: signal.raise_signal(signal.SIGTERM), units=True),
        pytest.raises(jt.RunInterrupted),
    ):
        find(run, pruning=jt.Pruning(levels=1))
    assert not capsys.readouterr().out
    jt.find_tickets(NET, DATA, TRAINING, jt.Pruning(levels=1), seeds=(0, 1), folder=run)
    said = f"resumes {run} (1 units done): imp, level 1 (density 0.8), ticket, at step 0 of "
    assert capsys.readouterr().out == f"{said}{TRAINING.steps}\n"


# signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_the_last_unit_is_saved_is_followed(tmp_path, capsys, number):
    before = signal.getsignal(number)
    with (
        after_save(1, lambda: signal.raise_signal(number), units=True) as saves,
        pytest.raises(jt.RunInterrupted) as stop,
    ):
        find(tmp_path / "run", pruning=jt.Pruning(levels=0))
    assert saves == [("stage-000-00000-00002", None)]
    assert (stop.value.signal, stop.value.exit_status) == (number, 128 + number)
    assert stop.value.folder == tmp_path / "run" and not capsys.readouterr().out
    said = f"stopped by {number.name}; saved in {tmp_path / 'run'}: run the same command to"
    assert said in str(stop.value) and said in str(pickle.loads(pickle.dumps(stop.value)))
    assert signal.getsignal(number) is before
    expected = find(None, pruning=jt.Pruning(levels=0))
    assert find(tmp_path / "run", pruning=jt.Pruning(levels=0)).table().equals(expected.table())


def test_a_signal_while_tables_are_written_is_followed(tmp_path, monkeypatch):
    write = results.write

    def and_signal(*args):
        signal.raise_signal(signal.SIGTERM)
        write(*args)

    monkeypatch.setattr(results, "write", and_signal)
    with pytest.raises(jt.RunInterrupted, match="stopped by SIGTERM"):
        find(tmp_path / "run", pruning=jt.Pruning(levels=0))
    assert (tmp_path / "run" / "timings.csv").exists()


# no room


FULL = """
import resource, sys
import jax, numpy as np
import jaxticket as jt
from jaxticket.engine.store import RunFolder
mesh = jt.parallel.mesh(devices=jax.devices()[:1])
small, large = (
    {"a": jt.parallel.put(np.random.default_rng(0).normal(size=n), mesh, replicas=False)}
    for n in (10, 100_000)
)
folder = RunFolder(sys.argv[1], {"kind": "test"}, every=0)
folder.save_state("unit", 1, small)
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
try:
    folder.save_state("unit", 2, large)
except ValueError as error:
    print(type(error).__name__, error)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("halves", len(list(folder.path.glob("state/*tmp*"))))
found = folder.load_state("unit", small)
print("after", found and found[0])
folder.save_state("unit", 3, large)
print("later", folder.load_state("unit", large)[0])
"""


def test_no_room_for_a_state_is_explained_and_the_one_before_stays(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path / "run")],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert "RunFolderError `folder`" in done.stdout and "may not grow so large" in done.stdout
    assert "What was saved before is intact" in done.stdout
    assert "halves 0" in done.stdout
    assert "after 1" in done.stdout and "later 3" in done.stdout


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
