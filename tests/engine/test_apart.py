"""Hosts that do not have the same data, and hosts that save in the background."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from apart_worker import data, find

import jaxticket as jt

WORKER = Path(__file__).with_name("apart_worker.py")


def results_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.name == "table.csv" or path.parent.name == "tickets"
    }


@pytest.mark.slow
def test_two_processes_with_other_data_and_with_saves_in_the_background(tmp_path):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    paths = os.pathsep.join([str(WORKER.parent.parent), os.environ.get("PYTHONPATH", "")])
    workers = [
        subprocess.Popen(
            [sys.executable, str(WORKER), str(tmp_path / "run"), str(rank), "2", str(port)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": paths},
        )
        for rank in range(2)
    ]
    try:
        said = [worker.communicate(timeout=240)[0] for worker in workers]
    finally:
        for worker in workers:
            worker.kill()
    assert [worker.returncode for worker in workers] == [0, 0], said
    for text in said:
        assert "`settings` of processes [1] are not those of process 0" in text
    # the one that differs names the field
    assert "`data.fingerprint` is" in said[1] and "`data.fingerprint` is" not in said[0]
    end = [text.splitlines()[-1].split() for text in said]
    assert end[0] == end[1] and end[0][0] == "end" and int(end[0][1]) >= 3
    find(str(tmp_path / "alone"), data(), mesh=jt.parallel.mesh(devices=jax.devices()[:2]))
    expected = results_of(tmp_path / "alone")
    assert results_of(tmp_path / "run") == expected and len(expected) > 4
