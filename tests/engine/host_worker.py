"""One of several processes that compute runs together, for the tests that stop some of them.

Command: python host_worker.py WHAT FOLDER RANK PROCESSES PORT
"""

import sys
from pathlib import Path

import jax

import jaxticket as jt

# devices in all and those that share a batch, however many processes there are
MESHES = {"everything": (2, 1), "rounds": (2, 1), "halves": (4, 2)}


def main(what: str, folder: str, rank: str, processes: int, port: str) -> None:
    devices, data = MESHES[what]
    jax.config.update("jax_platforms", "cpu")
    jt.cpu_devices(devices // processes)
    if processes > 1:
        assert jt.distributed(f"localhost:{port}", processes, int(rank), heartbeat_timeout=10)
    # networks and data start JAX
    import host_runs

    assert jax.device_count() == devices
    mesh = jt.parallel.mesh(data=data)
    if what == "everything":
        host_runs.write(host_runs.everything(mesh), Path(folder, rank))
    else:
        watch = jt.callbacks.CSV(f"{folder}-rows-{rank}.csv")
        host_runs.rounds(mesh, folder.replace("RANK", rank), 0.2, on_evaluation=watch)
    print("end", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), sys.argv[5])
    except jt.RunInterrupted as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_status)
