"""One of several processes that compute a run together, for the test that stops one of them.

Command: python host_worker.py FOLDER RANK PROCESSES PORT
"""

import sys

import jax

import jaxticket as jt


def main(folder: str, rank: int, processes: int, port: str) -> None:
    jax.config.update("jax_platforms", "cpu")
    # as many devices in all, however many processes there are
    jax.config.update("jax_num_cpu_devices", 2 // processes)
    if processes > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", processes, rank)
    data = jt.data.load("digits")
    net = jt.networks.lenet(data.shape, data.classes, widths=(12, 8))
    training = jt.Training(steps=400, batch_size=16, eval_every=10)
    watch = jt.callbacks.CSV(f"{folder}-rows-{rank}.csv")
    runtime = jt.Runtime(folder=folder, save_every=0.2, progress=False, on_evaluation=watch)
    runs = jt.find_tickets(
        net, data, training, jt.Pruning(levels=1, rewind=13), seeds=range(2), runtime=runtime
    )
    table = jt.branch(runs, "shuffle", progress=False, on_evaluation=watch).table()
    print(f"end {len(table)}", flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4])
    except jt.RunInterrupted as stop:
        print(stop, flush=True)
        sys.exit(stop.exit_status)
