"""Replicas on devices: the strategies agree, padding and blocks are right."""

import os
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from patterns import DATA, NET, TRAINING, values

import jaxticket as jt
from jaxticket._conditions import where_any
from jaxticket.engine import parallel
from jaxticket.engine.together import replicas_together


def test_vmapped_replicas_equal_replicas_one_by_one(vmap_replicas):
    """What GPUs and TPUs do, on this CPU."""
    # a program of its own: compiled ones are kept by their settings
    training = TRAINING.replace(momentum=0.9 - 3e-8)
    options = {"seeds": (3, 5, 6), "branches": ("reinit", "random"), "progress": False}
    mapped = jt.find_tickets(NET, DATA, TRAINING, jt.Pruning(levels=1), **options).table()
    vmap_replicas()
    # another name, so that no compiled change is reused
    net = jt.networks.lenet(DATA.shape, DATA.classes, widths=(12, 8))
    mesh = parallel.mesh(devices=jax.devices()[1:])
    vmapped = jt.find_tickets(net, DATA, training, jt.Pruning(levels=1), mesh=mesh, **options)
    np.testing.assert_allclose(values(vmapped.table()), values(mapped), atol=2e-5, rtol=2e-5)
    again = jt.branch(vmapped, "retrain", dilation=(0.5, 1.0), levels=[1], progress=False).table()
    np.testing.assert_allclose(
        values(again[again.dilation == 1.0]),
        values(vmapped.table(), branch="ticket", level=1),
        atol=2e-5,
        rtol=2e-5,
    )
    assert again[again.dilation == 0.5].step.max() == TRAINING.steps // 2


@pytest.mark.parametrize("one_by_one", [True, False], ids=["map", "vmap"])
def test_over_replicas_gives_each_its_own_and_all_the_shared(vmap_replicas, one_by_one):
    if not one_by_one:
        vmap_replicas()
    mesh = parallel.mesh()
    run = parallel.over_replicas(lambda limit, x, s: x * s + limit, mesh, shared=1)
    x = np.arange(8.0, dtype=np.float32)
    limits = np.zeros(8, np.float32)
    result = run(limits, parallel.put(x, mesh), np.float32(3))
    np.testing.assert_array_equal(result, 3 * x)


@pytest.mark.parametrize("most", [1, 2, 3, 5, 9])
def test_blocks_of_replicas_take_turns(most):
    """Five on a device, in equal blocks; those of a block share their largest limit."""
    mesh = parallel.mesh(devices=jax.devices()[:1])
    run = parallel.over_replicas(lambda limit, x: (limit, 2 * x), mesh, vmapped=most)
    limits = np.asarray([0, 3, 1, 0, 2], np.int32)
    shared, doubled = run(limits, parallel.put(np.arange(5, dtype=np.int32), mesh))
    np.testing.assert_array_equal(doubled, 2 * np.arange(5))
    blocks = {1: [0, 3, 1, 0, 2], 2: [3, 3, 1, 1, 2], 3: [3, 3, 3, 2, 2], 5: [3] * 5, 9: [3] * 5}
    np.testing.assert_array_equal(shared, blocks[most])


def test_replicas_in_blocks_train_as_one_by_one():
    mesh = parallel.mesh(devices=jax.devices()[:1])
    tables = [
        jt.find_tickets(
            NET, DATA, TRAINING.replace(momentum=0.9 - 6e-8), jt.Pruning(levels=1), seeds=(3, 5, 6),
            runtime=jt.Runtime(mesh=mesh, vmapped=vmapped, progress=False),
        ).table()
        for vmapped in (None, 2)
    ]  # fmt: skip
    np.testing.assert_allclose(*map(values, tables), atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    ("platform", "dense", "convolutions"), [("tpu", 16, 1), ("gpu", None, 16), ("cpu", 1, 1)]
)
def test_how_many_take_a_step_together_depends_on_platform_and_network(
    platform, dense, convolutions
):
    device = types.SimpleNamespace(platform=platform)
    mesh = types.SimpleNamespace(devices=np.asarray([[device]], object))
    assert replicas_together(NET, mesh) == dense
    assert replicas_together(jt.networks.conv2((8, 8, 1), 3, width=0.1), mesh) == convolutions


@pytest.mark.parametrize(
    ("due", "times"), [([False, False], 0), ([True, False], 2), ([True, True], 2)]
)
def test_what_no_replica_wants_is_not_computed(due, times):
    """A condition stays one under vmap: it would be a selection if replicas had one each."""
    computed = []

    def one(due, x):
        def function():
            jax.debug.callback(lambda _: computed.append(1), x)
            return 2 * x

        return where_any(due, function, x)

    x = np.arange(2.0, dtype=np.float32)
    found = jax.jit(jax.vmap(one))(np.asarray(due), x)
    jax.effects_barrier()
    assert len(computed) == times
    np.testing.assert_array_equal(found, np.where(due, 2 * x, x))


def test_blocks_are_multiples_of_the_seed_axis():
    mesh = parallel.mesh(seeds=2, data=2)
    assert [parallel.block_size(n, mesh, None) for n in (1, 2, 3, 8)] == [2, 2, 4, 8]
    assert parallel.block_size(9, mesh, 2) == 4


@pytest.mark.parametrize(
    ("jobs", "batch_size", "shape"),
    [(1, None, (1, 4)), (1, 6, (2, 2)), (2, None, (2, 2)), (2, 5, (4, 1)), (4, None, (4, 1)),
     (8, 8, (4, 1))],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:.* devices stay idle")
def test_a_mesh_for_jobs_has_seeds_first_then_data(jobs, batch_size, shape):
    assert parallel.mesh(jobs=jobs, batch_size=batch_size).devices.shape == shape


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (dict(jobs=3), "1 of 4 devices stay idle: 3 jobs on a mesh of 4 x 1; 4 jobs"),
        (dict(jobs=1, batch_size=6), "2 of 4 devices stay idle: 1 jobs on a mesh of 2 x 2"),
        (dict(jobs=5), "3 of 4 devices stay idle in the last round: 5 .*; 8 jobs"),
    ],
)
def test_devices_that_stay_idle_are_said(options, word):
    with pytest.warns(UserWarning, match=word):
        parallel.mesh(**options)


@pytest.mark.parametrize("other", [dict(seeds=4), dict(data=2)])
def test_a_mesh_is_for_jobs_or_of_a_given_shape(other):
    with pytest.raises(ValueError, match="`jobs` 4 chooses `seeds` and `data`"):
        parallel.mesh(jobs=4, **other)


def test_padding_repeats_the_first_entry():
    padded = parallel.pad({"a": np.array([[1, 2], [3, 4]])}, 4)
    np.testing.assert_array_equal(padded["a"], [[1, 2], [3, 4], [1, 2], [1, 2]])


def test_host_copies_survive_donation():
    mesh = parallel.mesh(devices=jax.devices()[:1])
    x = parallel.put(np.ones(1000, np.float32), mesh)
    kept = parallel.host(x)
    jax.jit(lambda a: a * jnp.float32(7), donate_argnums=0)(x).block_until_ready()
    np.testing.assert_array_equal(kept, 1)
    kept[0] = 2  # writable


CACHED = """
import sys, jax, jax.numpy as jnp, jaxticket as jt
from pathlib import Path
print(jt.compilation_cache())
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: jnp.sin(x) @ x)(jnp.ones((8, 8))).block_until_ready()
"""


def test_compiled_programs_are_kept_in_the_folder_of_the_user(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("JAX_")}
    environment |= {"XDG_CACHE_HOME": str(tmp_path), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", CACHED],
        env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    place = tmp_path / "jaxticket" / "compiled"
    assert done.stdout.strip() == str(place) and any(place.iterdir())


@pytest.mark.parametrize(("given", "said"), [("/there", Path("/there")), ("", None)])
def test_the_environment_says_where_compiled_programs_are_kept(given, said, tmp_path, monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", given)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = jax.config.jax_compilation_cache_dir
    assert jt.compilation_cache() == said
    # the setting stays as it is, which JAX takes from the environment when it starts
    assert jax.config.jax_compilation_cache_dir == before
    assert not any(tmp_path.iterdir())


def test_devices_that_cannot_be_changed_any_more():
    code = "import jax, jaxticket as jt; jax.devices(); jt.cpu_devices(1); jt.cpu_devices(3)"
    environment = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    environment |= {"JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False
    )
    assert done.returncode == 1 and "restart the notebook's kernel" in done.stderr
    assert "call jt.cpu_devices() first" in done.stderr
