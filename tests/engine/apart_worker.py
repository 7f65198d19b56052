"""One of several processes that were given other data, and then save in the background.

Command: python apart_worker.py FOLDER RANK PROCESSES PORT
"""

import sys

import jax
import numpy as np
from stops import in_spite_of_deaths

import jaxticket as jt


def data(seed: int = 0) -> jt.data.Data:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, 2, 60)
    x = (rng.integers(0, 99, (60, 3, 3)) + 100 * y[:, None, None]).astype(np.uint8)
    return jt.data.from_arrays(x[:40], y[:40], x[40:], y[40:])


def find(folder: str | None, own: jt.data.Data, mesh=None) -> jt.Runs:
    net = jt.networks.lenet(own.shape, 2, widths=(4,))
    training = jt.Training(steps=8, batch_size=8, eval_every=4)
    runtime = jt.Runtime(
        mesh=mesh, folder=folder, save_every=0, progress=False, async_saves=folder is not None
    )
    return jt.find_tickets(
        net, own, training, jt.Pruning(levels=1, rewind=3), seeds=(0, 1), runtime=runtime
    )


def main(folder: str, rank: int, processes: int, port: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    jax.config.update("jax_num_cpu_devices", 1)
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"localhost:{port}", processes, rank)
    try:
        find(None, data(seed=rank))
    except ValueError as error:
        print(error, flush=True)
    # as many saves on every process, so that all die at the same ones
    runs, deaths = in_spite_of_deaths(lambda: find(folder, data()))
    print(f"end {deaths} {len(runs.table())}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
