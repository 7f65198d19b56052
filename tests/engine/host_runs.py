"""What several processes compute together, and a process alone computes the same."""

import numpy as np

import jaxticket as jt

SEEDS = range(2)
# of processes that save and of those that do not
DIGITS = jt.data.load("digits")
NET = jt.networks.lenet(DIGITS.shape, DIGITS.classes, widths=(12, 8))
TRAINING = jt.Training(steps=20, batch_size=16, eval_every=10)


def batches(seed):
    """Batches of the digits in the order of a seed."""
    x, y = DIGITS.train.x, DIGITS.train.y
    order = np.random.default_rng(seed).permutation(len(y))[:160]
    return ((x[rows], y[rows]) for rows in order.reshape(10, 16))


def everything(mesh):
    """Tables of each public function that trains, and the leaves of tickets, by name."""
    given = {"seeds": SEEDS, "mesh": mesh, "progress": False}
    quiet = {"progress": False}
    first = NET, DIGITS, TRAINING
    runs = jt.find_tickets(*first, jt.Pruning(levels=1, rewind=3), keep="trained", **given)
    fed = jt.data.from_batches(batches, test=(DIGITS.test.x, DIGITS.test.y), classes=10)
    found = {
        "find_tickets": runs,
        "branch": jt.branch(runs, "shuffle", **quiet),
        "prune_at": jt.prune_at(*first, score="snip", density=0.3, **given),
        "search": jt.search(*first, "concrete", density=0.3, start=10, steps=10, **given),
        "sparse_train": jt.sparse_train(
            *first, rule=jt.dynamic.RigL(every=5), density=0.3, **given
        ),
        "dynamic_imp": jt.dynamic_imp(*first, density=0.3, changes=1, **given),
        "transfer": jt.transfer(runs, to=DIGITS, training=TRAINING, **quiet),
        "fed": jt.find_tickets(NET, fed, TRAINING, jt.Pruning(levels=1), **given),
    }
    verdict = jt.verdict(runs, level=1, dense_lrs=(TRAINING.lr,), points=3, **quiet)
    return {name: one.table() for name, one in found.items()} | {
        "instability": jt.instability(*first, at=(0, 10), points=5, **given).table(),
        "telemetry": jt.telemetry(runs, every=10, **quiet),
        "measure": jt.measure(runs, "gradient_norm", examples=50, **quiet),
        "verdict": verdict.networks(),
    }


def write(tables, folder):
    """Tables as CSV files of a folder."""
    folder.mkdir(parents=True)
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False)


def rounds(mesh, folder, save_every=60.0, **options):
    """Runs with a rewind inside level 0, and a branch of them, saved in a folder."""
    training = jt.Training(steps=100, batch_size=16, eval_every=10)
    runtime = jt.Runtime(mesh=mesh, folder=folder, save_every=save_every, progress=False, **options)
    pruning = jt.Pruning(levels=1, rewind=13)
    runs = jt.find_tickets(NET, DIGITS, training, pruning, seeds=SEEDS, runtime=runtime)
    watch = {"on_evaluation": runtime.on_evaluation}
    jt.branch(runs, "shuffle", save_every=save_every, progress=False, **watch)
