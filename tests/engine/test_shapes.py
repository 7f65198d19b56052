"""Programs lowered by shapes are those that runs call, and say what memory replicas take."""

import chex
import jax
import numpy as np
from patterns import DATA, NET, TRAINING

from jaxticket.engine import parallel, shapes
from jaxticket.engine.held import held_arrays
from jaxticket.engine.jobs import job_plan
from jaxticket.engine.program import program
from jaxticket.engine.source import put_data
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.random import root_keys

ORIGIN = Origin(*NET.shapes, NET.mask())
PLAN = jax.tree.map(lambda x: x[0], job_plan(TRAINING, 1))


def compiled(mesh, size):
    trained = program(Supervised(NET, TRAINING), mesh)
    arrays = held_arrays(DATA, TRAINING, mesh.shape[parallel.DATA])
    given = shapes.of_chunk(trained, mesh, size, ORIGIN, PLAN, arrays)
    return trained, trained.chunk.lower(*given).compile()


def test_a_program_lowered_by_shapes_takes_the_arrays_of_a_run():
    """A compiled program refuses arguments of other shapes, types and places."""
    mesh, size = parallel.mesh(seeds=2, data=2), 2
    trained, chunk = compiled(mesh, size)

    def given():
        keys = jax.random.key_data(root_keys(range(size)))
        typed = jax.random.wrap_key_data(parallel.put(np.asarray(keys), mesh))
        params, stats = jax.vmap(NET.init)(root_keys(range(size)))
        origin = Origin(params, stats, NET.mask(lead=(size,)))
        origin, start = parallel.put((origin, np.zeros(size, np.int32)), mesh)
        state = trained.start(start, origin, typed, start)
        plan, limits = parallel.put((job_plan(TRAINING, size), np.full(size, 3, np.int32)), mesh)
        wanted = parallel.put(np.ones(size, bool), mesh)
        return limits, state, plan, limits, wanted, None, put_data(DATA, TRAINING, mesh).arrays

    (state, metrics), (same, expected) = chunk(*given()), trained.chunk(*given())
    np.testing.assert_array_equal(state.step, 3)
    assert np.isfinite(metrics).all()
    chex.assert_trees_all_equal((state.params, metrics), (same.params, expected))


def test_memory_counts_the_replicas_of_each_device():
    mesh = parallel.mesh(devices=jax.devices()[:2])
    few, many = (shapes.memory(compiled(mesh, size)[1]) for size in (2, 6))
    trained = program(Supervised(NET, TRAINING), mesh)
    # the data have no replicas
    given = shapes.of_chunk(trained, mesh, 2, ORIGIN, PLAN, ())

    def of_one(tree):
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree)) / 2

    # two more on each device; of plans, the compiler leaves out what this training does not use
    assert 2 * of_one(given[1]) < many.arguments - few.arguments <= 2 * of_one(given)
    # the state is given up to the next one
    assert few.aliased >= of_one(given[1])
    assert few.total < many.total
