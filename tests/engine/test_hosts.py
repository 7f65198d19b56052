"""Several processes, as on several hosts, compute runs together: bit for bit what one computes."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import host_runs
import jax
import pytest

import jaxticket as jt

WORKER = Path(__file__).with_name("host_worker.py")
# of each, in seconds; they wait for one another, and for the processor
LIMIT = 400


@pytest.fixture
def start():
    """`start(what, folder, processes)` gives workers, which end with the test."""
    started = []

    def start(what, folder, processes):
        with socket.socket() as free:
            free.bind(("localhost", 0))
            port = free.getsockname()[1]
        options = [[what, folder, rank, processes, port] for rank in range(processes)]
        workers = [
            subprocess.Popen(
                [sys.executable, str(WORKER), *map(str, own)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for own in options
        ]
        started.extend(workers)
        return workers

    yield start
    for worker in started:
        worker.kill()
        worker.communicate()


def ends(workers):
    """How the workers ended, and what they said."""
    said = [worker.communicate(timeout=LIMIT)[0] for worker in workers]
    return [worker.returncode for worker in workers], said


def finish(workers):
    codes, said = ends(workers)
    assert codes == [0] * len(workers), "\n".join(said)


def signal_one(workers, rank, number, folder):
    """Sends a signal to one process, once a state is saved that was not there before."""
    before = set((folder / "state").glob("[0-9]*"))
    while not set((folder / "state").glob("[0-9]*")) - before:
        assert workers[0].poll() is None, ends(workers)[1]
        time.sleep(0.02)
    os.kill(workers[rank].pid, number)


def contents(folder):
    """The tables, without seconds, and the tickets of a finished run and its branch."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name == "table.csv" or path.parent.name == "tickets"
    }


def rows(folder, rank):
    """The file of the callback of a process."""
    return folder.with_name(f"{folder.name}-rows-{rank}.csv")


def test_every_function_gives_the_same_on_two_processes(start, tmp_path):
    workers = start("everything", tmp_path, 2)
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    expected = host_runs.everything(mesh)
    host_runs.write(expected, tmp_path / "alone")
    finish(workers)
    for name, table in expected.items():
        text = (tmp_path / "alone" / f"{name}.csv").read_text()
        assert len(table) and text.count("\n") == 1 + len(table)
        for rank in "01":
            assert (tmp_path / rank / f"{name}.csv").read_text() == text, name


def test_killed_stopped_and_resumed_by_other_numbers_of_processes(start, tmp_path):
    """The dead process is noticed, and what it left is continued; SIGTERM to one stops all."""
    folder, alone = tmp_path / "together", tmp_path / "alone"
    workers = start("rounds", folder, 2)
    signal_one(workers, 1, signal.SIGKILL, folder)
    codes, said = ends(workers)
    assert codes[1] == -signal.SIGKILL and codes[0] not in (0, None)
    assert "another task died" in said[0] or "Connection closed by peer" in said[0], said[0]
    assert not (folder / "table.csv").exists()
    workers = start("rounds", folder, 2)
    # not the one that decides and writes
    signal_one(workers, 1, signal.SIGTERM, folder)
    codes, said = ends(workers)
    assert codes == [128 + signal.SIGTERM] * 2, said
    for text in said:
        assert f"stopped by SIGTERM; saved in {folder}" in text
    assert list((folder / "state").iterdir()) and not (folder / "table.csv").exists()
    finish(start("rounds", folder, 1))
    watch = jt.callbacks.CSV(rows(alone, 0))
    mesh = jt.parallel.mesh(devices=jax.devices()[:2])
    host_runs.rounds(mesh, alone, on_evaluation=watch)
    expected = contents(alone)
    assert contents(folder) == expected and len(expected) > 6
    # the first process alone tells callbacks; after a kill, rows since the last save come again
    assert not rows(folder, 1).exists()
    lines, others = (set(rows(own, 0).read_text().splitlines()) for own in (alone, folder))
    assert lines == others and len(lines) > 100


def test_four_processes_share_batches_and_a_folder(start, tmp_path):
    """Each batch is split over two of them; two processes continue it after a signal."""
    folder, alone = tmp_path / "together", tmp_path / "alone"
    workers = start("halves", folder, 4)
    signal_one(workers, 3, signal.SIGTERM, folder)
    codes, said = ends(workers)
    assert codes == [128 + signal.SIGTERM] * 4, said
    finish(start("halves", folder, 2))
    host_runs.rounds(jt.parallel.mesh(data=2), alone)
    expected = contents(alone)
    assert contents(folder) == expected and len(expected) > 6


def test_folders_that_hosts_have_for_themselves_are_refused(start, tmp_path):
    codes, said = ends(start("rounds", tmp_path / "host-RANK", 2))
    assert all(codes)
    for text in said:
        assert "RunFolderError: `folder`" in text
        assert "is not that of processes [1]: all hosts must see one folder" in text
