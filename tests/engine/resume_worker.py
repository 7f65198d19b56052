"""A run in a process of its own, for the tests that kill it.

Command: python resume_worker.py FOLDER SAVE_EVERY
"""

import sys

import jax
import numpy as np

import jaxticket as jt


def main(folder: str, save_every: float) -> None:
    jax.config.update("jax_platforms", "cpu")
    jt.cpu_devices(2)
    rng = np.random.default_rng(0)
    y = rng.integers(0, 3, 240)
    x = np.clip(rng.integers(0, 200, (3, 5, 5))[y] + rng.integers(-60, 60, (240, 5, 5)), 0, 255)
    x = x.astype(np.uint8)
    data = jt.data.from_arrays(x[:200], y[:200], x[200:], y[200:], classes=3)
    net = jt.networks.lenet(data.shape, 3, widths=(12, 8))
    training = jt.Training(steps=40, batch_size=16, eval_every=5)
    # rewinding to step 13 makes a snapshot inside level 0 that has to survive a kill
    pruning = jt.Pruning(levels=1, rewind=13)
    print("begin", flush=True)
    runs = jt.find_tickets(
        net,
        data,
        training,
        pruning,
        seeds=(1, 2, 3),
        branches=("reinit",),
        folder=folder,
        at_once=2,
        save_every=save_every,
        progress=False,
    )
    jt.branch(runs, "shuffle", save_every=save_every, progress=False)
    print("end", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], float(sys.argv[2]))
    except jt.RunInterrupted as stop:
        print(stop)
        sys.exit(stop.exit_status)
