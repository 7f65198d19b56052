"""`jt.distributed` connects processes, or leaves one alone, and says what is wrong."""

import os
import subprocess
import sys


def run(code):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )


def test_a_process_without_a_cluster_stays_alone():
    done = run("import jaxticket as jt; print(jt.distributed(), jt.distributed())")
    assert done.stdout.split() == ["False", "False"], done.stderr


def test_connecting_again_changes_nothing_and_too_late_is_an_error():
    code = (
        "import socket, jax, jaxticket as jt\n"
        "free = socket.socket(); free.bind(('localhost', 0)); port = free.getsockname()[1]\n"
        "free.close()\n"
        "print(jt.distributed(f'localhost:{port}', 1, 0), jt.distributed(), jax.process_count())\n"
        "jax.distributed.shutdown()\n"
        "jt.distributed()\n"
    )
    done = run(code)
    assert done.stdout.split() == ["True", "True", "1"], done.stderr
    assert "RuntimeError: JAX has started already" in done.stderr
    assert "call jt.distributed() first" in done.stderr


def test_a_part_of_the_address_is_not_enough():
    done = run("import jaxticket as jt; jt.distributed(num_processes=2)")
    assert "ValueError: `coordinator_address`, `num_processes` and `process_id`" in done.stderr
