"""Several processes, as on several hosts, compute one run together."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

WORKER = Path(__file__).with_name("host_worker.py")


def start(folder, processes):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    return [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(folder), str(rank), str(processes), str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(processes)
    ]


def ends(workers):
    """How the workers ended, and what they said."""
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    return [worker.returncode for worker in workers], said


def contents(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name == "table.csv" or path.parent.name == "tickets"
    }


def rows(folder, rank):
    """The file of the callback of a process."""
    return folder.with_name(f"{folder.name}-rows-{rank}.csv")


@pytest.mark.slow
def test_two_processes_compute_stop_and_resume_together(tmp_path):
    codes, said = ends(start(tmp_path / "alone", 1))
    assert codes == [0], said
    folder = tmp_path / "together"
    workers = start(folder, 2)
    while not (folder / "state").exists() and workers[0].poll() is None:
        time.sleep(0.05)
    # not the one that decides and writes
    os.kill(workers[1].pid, signal.SIGTERM)
    codes, said = ends(workers)
    assert codes == [128 + signal.SIGTERM] * 2, said
    for text in said:
        assert f"stopped by SIGTERM; saved in {folder}" in text
    assert list((folder / "state").iterdir()) and not (folder / "table.csv").exists()
    codes, said = ends(start(folder, 2))
    assert codes == [0, 0], said
    expected = contents(tmp_path / "alone")
    assert contents(folder) == expected and len(expected) > 6
    # the first process alone tells callbacks, before the signal and after it
    assert not rows(folder, 1).exists()
    lines, others = (rows(own, 0).read_text().splitlines() for own in (tmp_path / "alone", folder))
    assert sorted(others) == sorted(lines) and len(lines) > 100
    # what is finished is read, by any number of processes
    codes, said = ends(start(folder, 1))
    assert codes == [0], said
