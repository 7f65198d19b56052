"""Programs of jaxticket compiled ahead of time for accelerators that are described, not present.

Only shapes are given to the compilers of XLA, which need no device: libtpu compiles for a TPU's
topology, the CUDA plugin for a card of which it is told the numbers.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

import jaxticket as jt
from jaxticket.connectivity import evaluator
from jaxticket.engine import metrics, parallel, shapes
from jaxticket.engine.held import HeldArrays, held_arrays
from jaxticket.engine.jobs import job_plan
from jaxticket.engine.optim import schedule
from jaxticket.engine.program import check_fit, program
from jaxticket.engine.supervised import Origin, Supervised
from jaxticket.labels import CLASSES
from jaxticket.pruning.compiled import Selection, Weights, pruner
from jaxticket.settings import static_part
from jaxticket.sparsify.learned.learner import ORDER, ScoreLearner, ScoreOrigin, ScorePlan
from jaxticket.typing import Network

ENVIRONMENT = {
    # libtpu asks the machine, and the cloud's metadata server, for what no machine here can tell
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_ACCELERATOR_TYPE": "v5litepod-8",
    # several processes may compile at the same time, since none of them has a chip
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "JAX_PLATFORMS": "cpu",
    # without a card nothing can be measured, so that the compiler must choose kernels by rules
    "XLA_FLAGS": "--xla_gpu_autotune_level=0",
    # programs for devices that are not there cannot be read from the cache
    "JAX_ENABLE_COMPILATION_CACHE": "0",
    # tests compile with few optimizations
    "JAX_DISABLE_MOST_OPTIMIZATIONS": "0",
}
"""What the process needs in its environment before it imports JAX."""

H100 = """
platform_name: "CUDA"
device_description_str: "NVIDIA H100 80GB HBM3"
runtime_version { major: 12 minor: 8 patch: 0 }
dnn_version_info { major: 9 minor: 7 }
gpu_device_info {
  cuda_compute_capability { major: 9 }
  core_count: 132
  fpus_per_core: 128
  clock_rate_ghz: 1.98
  device_memory_size: 84929347584
  memory_bandwidth: 3352320000000
  l2_cache_size: 52428800
  threads_per_warp: 32
  threads_per_block_limit: 1024
  threads_per_core_limit: 2048
  registers_per_block_limit: 65536
  registers_per_core_limit: 65536
  shared_memory_per_block: 49152
  shared_memory_per_block_optin: 232448
  shared_memory_per_core: 233472
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
}
"""
"""An H100 as XLA's GPU compiler is told of it."""


@dataclasses.dataclass(frozen=True)
class Topology:
    """Accelerators that programs are compiled for.

    Attributes:
      platform: "tpu" or "cuda".
      name: of the topology, as the plugin knows it.
      ghz: clock by which cycles become time; None where the compiler estimates no cycles.
    """

    platform: str
    name: str
    ghz: float | None = None


TOPOLOGIES = {
    # 197 and 918 TFLOP/s of bfloat16 by the vendor, over 4 matrix units of 128 x 128 and 256 x 256
    "v5e-1": Topology("tpu", "v5e:1x1", 1.5),
    "v5e-8": Topology("tpu", "v5e:2x4", 1.5),
    "v5e-64": Topology("tpu", "v5e:8x8", 1.5),
    "v6e-8": Topology("tpu", "v6e:2x4", 1.75),
    "H100": Topology("cuda", "1x1x1"),
}
"""Topologies by name."""


@dataclasses.dataclass(frozen=True)
class Subject:
    """A network of a preset, with the sizes of its data.

    Attributes:
      preset: its name; precision and compute type are that of the benchmark.
      shape: of an image.
      train, test: examples of the data set.
      dtype: compute type; float32 is computed at the highest precision, bfloat16 at the default.
    """

    preset: str
    shape: tuple[int, int, int]
    train: int
    test: int
    dtype: str


NETWORKS = {
    "lenet": Subject("lenet-mnist", (28, 28, 1), 60_000, 10_000, "float32"),
    "resnet20": Subject("resnet20-cifar10", (32, 32, 3), 50_000, 10_000, "bfloat16"),
    "vgg16": Subject("vgg16-cifar10", (32, 32, 3), 50_000, 10_000, "bfloat16"),
}
"""Networks by name."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A network about to be trained on a mesh.

    Attributes:
      net, training: what is trained, and how.
      mesh: the devices.
      size: number of replicas.
      arrays: the data, on the host.
      vmapped: replicas of a device that take a step together, of a training; None for the usual.
    """

    net: Network
    training: jt.Training
    mesh: Mesh
    size: int
    arrays: HeldArrays
    vmapped: int | None = None


Lowered = tuple[Callable[..., Any], Sequence[Any]]
"""A jitted function and the shapes of its arguments."""


def devices(topology: str) -> list[Any]:
    """The devices of a topology.

    Raises:
      ValueError: where the plugin that compiles for them is not installed.
    """
    from jax.experimental import topologies

    asked = TOPOLOGIES[topology]
    if asked.platform == "cuda":
        found = topologies.get_topology_desc(
            platform="cuda", target_config=H100, topology=asked.name
        )
    else:
        found = topologies.get_topology_desc(platform="tpu", topology_name=asked.name)
    return list(found.devices)


def task(network: str, mesh: Mesh, size: int, vmapped: int | None = None) -> Task:
    """A network of a preset with random images, about to be trained.

    Args:
      network: a name in `NETWORKS`.
      mesh: the devices.
      size: number of replicas.
      vmapped: as of `Task`.
    """
    subject = NETWORKS[network]
    preset = jt.preset(subject.preset)
    few = np.random.default_rng(0).integers(0, 256, (100, *subject.shape), np.uint8)
    x, y = (
        np.resize(few, (subject.train, *subject.shape)),
        np.arange(subject.train, dtype=np.int32) % 10,
    )
    test = slice(0, subject.test)
    data = jt.data.from_arrays(x, y, x[test], y[test], classes=10, name="random")
    data = data.with_validation(preset.validation) if preset.validation else data
    net = preset.net(data)
    precision = "highest" if subject.dtype == "float32" else "default"
    training = preset.training.replace(compute_dtype=subject.dtype, precision=precision)
    training = check_fit(net, data, training, mesh)
    arrays = held_arrays(data, training, mesh.shape[parallel.DATA])
    return Task(net, training, mesh, size, arrays, vmapped)


def train(of: Task) -> Lowered:
    """A call of a training: steps, and an evaluation."""
    compiled = program(Supervised(of.net, of.training), of.mesh, of.vmapped)
    origin = Origin(*of.net.shapes, of.net.mask())
    plan = jax.tree.map(lambda x: x[0], job_plan(of.training, 1))
    return compiled.chunk, shapes.of_chunk(compiled, of.mesh, of.size, origin, plan, of.arrays)


def search(of: Task) -> Lowered:
    """A call of a search by concrete relaxation, which evaluates nothing."""
    method = jt.SEARCHES["concrete"]()
    steps = method.steps(of.training)
    learner = ScoreLearner(of.net, method, method.training(of.training, steps))
    dense, density = of.net.mask(), shapes.Shape((), jnp.float32)
    scores = jax.eval_shape(
        lambda share, key: learner.initial_scores(share, key=key), density, shapes.root_key()
    )
    length, order = np.asarray(steps, np.int32), np.asarray(ORDER, np.int32)
    plan = ScorePlan(
        schedule(learner.training), order, order, np.asarray(0.1, np.float32),
        method.counts(dense, 0.1), length, length,
    )  # fmt: skip
    compiled, origin = program(learner, of.mesh), ScoreOrigin(scores, *of.net.shapes, dense)
    return compiled.chunk, shapes.of_chunk(compiled, of.mesh, of.size, origin, plan, of.arrays)


def instability(of: Task) -> Lowered:
    """The evaluation of points between two networks, one point in the place of each replica."""
    kind, splits = static_part(of.training), of.arrays.splits
    programs = evaluator.programs(of.net, kind, of.mesh, len(splits), splits.index("train"))
    width = metrics.width(of.training, of.net, CLASSES)
    point = (
        shapes.Shape((), jnp.int32),
        shapes.Shape((2,), jnp.int32),
        shapes.Shape((2,), jnp.float32),
        None,
        shapes.Shape((len(splits), width), jnp.float32),
    )
    pair = jax.tree.map(lambda x: shapes.Shape((2, *x.shape), x.dtype), of.net.shapes)
    shared = pair, of.arrays.batched, of.arrays.by
    return programs.evaluate, (
        *shapes.replicated(point, of.mesh, of.size),
        *shapes.placed(shared, of.mesh, replicas=False),
    )


def prune(of: Task) -> Lowered:
    """Global magnitude pruning in one round."""
    select = pruner(of.net, of.mesh, Selection(jt.SCORES["magnitude"]))
    number, keeps = shapes.Shape((), jnp.int32), shapes.Shape((1,), jnp.int32)
    weights = jax.eval_shape(
        lambda key: Weights(*of.net.init(key), of.net.mask(), key, jnp.int32(-1)),
        shapes.root_key(),
    )
    own = number, weights, weights.params, keeps, number, None
    return select, (
        *shapes.replicated(own, of.mesh, of.size),
        shapes.placed(of.arrays, of.mesh, replicas=False),
    )


PROGRAMS: dict[str, Callable[[Task], Lowered]] = {
    "train": train,
    "search": search,
    "instability": instability,
    "prune": prune,
}
"""What is compiled, by name."""


def environment() -> dict[str, str]:
    """The environment of a process that compiles ahead of time."""
    return os.environ | ENVIRONMENT
