"""What compilers make of LeNet's programs for described TPUs and a described H100.

These tests need no accelerator, but the plugins that compile for one: `pip install ".[aot]"` and
`pytest -m aot`; with `pip install "jax[cuda12]"` also `pytest -m aot_cuda`.
"""

import functools

import jax
import numpy as np
import pytest

import jaxticket as jt
from experiments.benchmarks._ahead import NETWORKS
from experiments.benchmarks.accelerators import Case, compiled_apart

tpu, cuda = pytest.mark.aot, pytest.mark.aot_cuda
# two replicas on each of 8 chips, and on each pair of 64 chips, which shares batches
ON_8 = Case("v5e-8", "train", "lenet", 16)
ON_64 = Case("v5e-64", "train", "lenet", 64, data=2)
ON_H100 = Case("H100", "train", "lenet", 8)
SEARCH, PRUNE = (Case("v5e-8", program, "lenet", 16) for program in ("search", "prune"))
TRAININGS = [
    pytest.param(ON_8, marks=tpu, id="8 chips"),
    pytest.param(ON_64, marks=tpu, id="64 chips"),
    pytest.param(ON_H100, marks=cuda, id="H100"),
]

SUBJECT = NETWORKS["lenet"]
PARAMS, _ = jt.networks.lenet(SUBJECT.shape, 10).shapes
WEIGHTS = 4 * sum(x.size for x in jax.tree.leaves(PARAMS))


@functools.cache
def compiled(case):
    """Compiled once for all tests, in a process of its own."""
    row = compiled_apart(case, 240)
    assert row["status"] == "compiled"
    return row


@tpu
@pytest.mark.parametrize("case", [ON_8, SEARCH, PRUNE], ids=lambda case: case.program)
def test_replicas_of_different_devices_never_wait_for_each_other(case):
    assert compiled(case)["collectives"] == []


@tpu
def test_devices_that_share_batches_meet_once_in_a_step_and_once_in_an_evaluation():
    found = compiled(ON_64)["collectives"]
    assert [one["kind"] for one in found] == ["all-reduce", "all-reduce"]
    assert all(one["axes"] == ["data"] for one in found)
    assert sorted(one["in_step"] for one in found) == [False, True]


@pytest.mark.parametrize("case", TRAININGS)
def test_evaluations_are_left_out_where_nobody_wants_them(case):
    assert compiled(case)["evaluations"] == [True]


@pytest.mark.parametrize("case", TRAININGS)
def test_images_are_never_copied_for_replicas(case):
    images = compiled(case)["images"]
    assert 0 < images["largest"] <= images["evaluated"]


@pytest.mark.parametrize("case", TRAININGS)
def test_memory_is_that_of_the_data_and_of_the_replicas(case):
    """A replica holds weights, two moments, a mask and their next values, and its activations."""
    memory = compiled(case)["memory"]
    here = case.replicas * case.data // {"v5e-8": 8, "v5e-64": 64, "H100": 1}[case.topology]
    images = (SUBJECT.train + SUBJECT.test + 10_000) * np.prod(SUBJECT.shape)
    # TPUs lay images out in tiles
    assert memory["arguments"] < 1.5 * images + 4 * here * WEIGHTS
    assert memory["temporary"] < 0.1 * images + 8 * here * WEIGHTS
