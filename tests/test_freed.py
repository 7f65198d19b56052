"""What a call has put on the devices is freed when its result is dropped.

Not only when Python's collector next looks for cycles: it counts objects, not bytes, and an
accelerator is full long before.
"""

import dataclasses
import gc

import jax
import pytest
from few_digits import DATA

import jaxticket as jt

NET = jt.networks.lenet(DATA.shape, DATA.classes, widths=(8,))
TRAINING = jt.Training(
    steps=8, batch_size=16, optimizer="momentum", lr=0.1, eval_every=4, eval_batch_size=48
)
USUAL = {"seeds": (0, 1), "progress": False}


def tickets(**options):
    """Two levels of tickets."""
    return jt.find_tickets(NET, DATA, TRAINING, jt.Pruning(levels=2), **USUAL | options)


@pytest.fixture(scope="module")
def runs():
    return tickets(branches=("reinit",), keep="trained")


CALLS = {
    "find_tickets": lambda runs: tickets(keep="trained"),
    "branch": lambda runs: jt.branch(runs, "sign_flip", progress=False),
    "prune_at": lambda runs: jt.prune_at(
        NET, DATA, TRAINING, density=0.3, score="synflow", step=4, rounds=3, **USUAL
    ),
    "search": lambda runs: jt.search(
        NET, DATA, TRAINING, jt.SEARCHES["kd_lts"](), density=0.3, start=4, steps=4, **USUAL
    ),
    "sparse_train": lambda runs: jt.sparse_train(
        NET, DATA, TRAINING, dataclasses.replace(jt.RULES["rigl"], every=2), density=0.3, **USUAL
    ),
    "dynamic_imp": lambda runs: jt.dynamic_imp(
        NET, DATA, TRAINING, density=0.3, changes=(4,), **USUAL
    ),
    "instability": lambda runs: jt.instability(
        NET, DATA, TRAINING, at=(0, 4), copies=2, points=3, throughout=3, **USUAL
    ),
    "instability of tickets": lambda runs: jt.instability(
        NET, DATA, TRAINING, at=0, tickets=runs, copies=2, points=3, **USUAL
    ),
    "verdict": lambda runs: jt.verdict(runs, level=2, points=3, dense_lrs=(0.05,), progress=False),
    "measure": lambda runs: jt.measure(runs, "hessian", examples=32, progress=False),
    "features": lambda runs: jt.features(runs, levels=(0, 2), examples=32),
    "surface": lambda runs: jt.surface(runs, levels=(0,), points=3, examples=32, progress=False),
    "transfer": lambda runs: jt.transfer(runs, to=DATA, progress=False),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_call_leaves_nothing_on_the_devices(name, runs):
    # results that are cached on purpose, such as compiled programs' constants, are there by then
    CALLS[name](runs)
    gc.collect()
    before = jax.live_arrays()
    gc.disable()
    try:
        CALLS[name](runs)
        known = {id(x) for x in before}
        left = [(x.shape, x.dtype) for x in jax.live_arrays() if id(x) not in known]
    finally:
        gc.enable()
    assert left == []
