"""Replicas on devices: the mesh, the placement of arrays, and how replicas of one device run.

There is no machine learning in this module.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any, TypeVar, overload

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxticket import _files, _tree
from jaxticket._check import path_or_none, whole
from jaxticket.engine.hosts import meet
from jaxticket.typing import AnyArray

T = TypeVar("T")
InT = TypeVar("InT")

SEED = "seed"
"""The axis of a mesh along which replicas are divided."""
DATA = "data"
"""The axis of a mesh along which batches are divided."""


def mesh(
    seeds: int | None = None,
    data: int = 1,
    devices: Sequence[Any] | None = None,
    *,
    jobs: int | None = None,
    batch_size: int | None = None,
) -> Mesh:
    """A mesh of devices with axes ("seed", "data").

    Replicas are spread over `seed`; the batch of each replica is split over `data`.

    A small batch gains nothing by being split: by the compiler's estimate for a TPU v5e a step of
    LeNet-300-100 at batch 60 takes 1.8 times as long on two chips as on one, one of ResNet-20 at
    batch 128, whose BatchNorm layers meet in each pass, 2.3 times.

    With `jobs` the mesh is chosen for so many replicas, seeds first: of D devices, the seed axis
    has the least divisor s of D with s >= min(jobs, D), so that as many replicas as possible are
    trained at the same time, and the data axis the D / s devices that are left for each. With a
    batch size b, D / s must divide b as well. Where jobs < s, or s does not divide the jobs,
    devices stay idle, and a warning says how many.

    >>> dict(mesh(jobs=1, batch_size=60).shape)  # on four devices
    {'seed': 1, 'data': 4}

    Args:
      seeds: devices along the seed axis; None for all that are left.
      data: devices that share the batches of a replica.
      devices: None for all devices.
      jobs: replicas that are trained side by side, such as seeds times branches; it takes the place
        of `seeds` and `data`.
      batch_size: with `jobs`, that of the training.

    Raises:
      ValueError: where the product is not the number of devices.
    """
    if devices is not None and not isinstance(devices, (Sequence, np.ndarray)):
        raise ValueError(f"`devices` must be several, such as jax.devices()[:2], got {devices!r}")
    data = whole("data", data, 1)
    if jobs is not None:
        if seeds is not None or data != 1:
            raise ValueError(
                f"`jobs` {jobs!r} chooses `seeds` and `data`, which are given as {seeds!r} and "
                f"{data}; give either"
            )
        jobs = whole("jobs", jobs, 1)
    if batch_size is not None:
        if jobs is None:
            raise ValueError(f"`batch_size` {batch_size!r} has an effect with `jobs` alone")
        batch_size = whole("batch_size", batch_size, 1)
    devices = list(devices) if devices is not None else jax.devices()
    if jobs is not None:
        seeds, data = _split(len(devices), jobs, batch_size)
    if len(devices) % data:
        raise ValueError(f"`data` must divide the number of devices, {len(devices)}, got {data}")
    seeds = len(devices) // data if seeds is None else whole("seeds", seeds, 1)
    if seeds * data != len(devices):
        raise ValueError(
            f"`mesh` of {seeds} x {data} does not fit {len(devices)} devices; "
            f"pass `devices=jax.devices()[:{seeds * data}]` to use only some"
        )
    # the default of newer versions is Explicit, under which vmapped convolutions fail
    return jax.make_mesh(
        (seeds, data), (SEED, DATA), axis_types=(AxisType.Auto,) * 2, devices=devices
    )


def _split(devices: int, jobs: int, batch_size: int | None) -> tuple[int, int]:
    """Seed and data axis for so many replicas, see `mesh`; warns of devices that stay idle."""
    data = max(
        part
        for part in range(1, devices + 1)
        if devices % part == 0
        and devices // part >= min(jobs, devices)
        and (batch_size is None or batch_size % part == 0)
    )
    seeds = devices // data
    places = -(-jobs // seeds) * seeds
    if places > jobs:
        when = "" if places == seeds else " in the last round"
        warnings.warn(
            f"{(places - jobs) * data} of {devices} devices stay idle{when}: {jobs} jobs on a mesh "
            f"of {seeds} x {data}; {places} jobs take the same time",
            stacklevel=3,
        )
    return seeds, data


def check_mesh(value: object) -> Mesh:
    """The mesh to use: all devices along "seed" if None."""
    if value is None:
        return mesh()
    if not isinstance(value, Mesh) or tuple(value.axis_names) != (SEED, DATA):
        raise ValueError(
            f"`mesh` must have the axes ('seed', 'data'), got {value!r}; make it with "
            f"jt.parallel.mesh"
        )
    return value


def cpu_devices(count: int | None = None) -> None:
    """Make one virtual CPU device per core; call it before anything else touches JAX.

    On a CPU, replicas on devices of their own train about 1.5 times as fast as on one. Does nothing
    on other platforms, nor where the number was set before.

    Args:
      count: devices; one per core that this process may use if None.

    Raises:
      RuntimeError: where JAX has started already: its devices cannot be changed any more.
    """
    if count is not None:
        count = whole("count", count, 1)
    try:
        if getattr(jax.config, "jax_num_cpu_devices") == -1:  # noqa: B009
            jax.config.update("jax_num_cpu_devices", count or cores())
    except RuntimeError as error:
        if jax.default_backend() != "cpu" or jax.device_count() == (count or cores()):
            # nothing is lost by it
            return
        raise RuntimeError(
            "JAX has started already, with devices that cannot be changed any more: restart the "
            "notebook's kernel (or the program) and call jt.cpu_devices() first, right after the "
            "imports and before anything else uses JAX"
        ) from error


def compilation_cache(folder: str | os.PathLike[str] | None = None) -> Path | None:
    """Keep compiled programs on disk, so that later runs of the same shapes start at once.

    This is JAX's persistent compilation cache. A setting that is there already, of
    `JAX_COMPILATION_CACHE_DIR` or `jax.config`, stays as it is unless a folder is given; an empty
    `JAX_COMPILATION_CACHE_DIR` switches the cache off.

    Args:
      folder: where programs are kept; `$XDG_CACHE_HOME/jaxticket/compiled` or
        `~/.cache/jaxticket/compiled` if None.

    Returns:
      The folder in use, None where the cache is switched off.
    """
    path_or_none("folder", folder)
    if folder is None and "JAX_COMPILATION_CACHE_DIR" in os.environ:
        there = os.environ["JAX_COMPILATION_CACHE_DIR"]
        return _files.to_path(there) if there else None
    there = getattr(jax.config, "jax_compilation_cache_dir")  # noqa: B009
    if folder is None and there:
        return _files.to_path(there)
    home = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    path = Path(home, "jaxticket", "compiled") if folder is None else _files.to_path(folder)
    path = _files.absolute(path)
    path.mkdir(parents=True, exist_ok=True)
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    return path


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def block_size(jobs: int, mesh: Mesh, at_once: int | None) -> int:
    """Replicas per call: a multiple of the seed axis.

    `at_once` limits how many one device holds.
    """
    devices = mesh.shape[SEED]
    per_device = -(-jobs // devices)
    if at_once is not None:
        per_device = min(per_device, at_once)
    return per_device * devices


def sharding(mesh: Mesh, *, replicas: bool) -> NamedSharding:
    """Spread over the seed axis, or the same on every device."""
    return NamedSharding(mesh, P(SEED) if replicas else P())


@overload
def put(tree: AnyArray, mesh: Mesh, *, replicas: bool = True) -> jax.Array: ...


@overload
def put(tree: T, mesh: Mesh, *, replicas: bool = True) -> T: ...


def put(tree: object, mesh: Mesh, *, replicas: bool = True) -> object:
    """Put host arrays on the devices.

    Their leading replica axis is spread over the seed axis; without one they are copied to all.
    """
    where = sharding(mesh, replicas=replicas)
    if jax.process_count() == 1:
        return jax.device_put(tree, where)

    def one(x: AnyArray) -> jax.Array:
        if isinstance(x, jax.Array) and not x.is_fully_addressable:
            return jax.device_put(x, where)
        # `device_put` would compare the hosts' arrays, which fails for nan
        own = np.asarray(x)
        return jax.make_array_from_callback(own.shape, where, lambda at: own[at])

    return jax.tree.map(one, tree)


@overload
def host(tree: AnyArray) -> np.ndarray: ...


@overload
def host(tree: T) -> T: ...


def host(tree: object) -> object:
    """Device arrays as NumPy arrays; on several hosts, every process gets all of them."""
    several = jax.process_count() > 1

    def apart(x: object) -> bool:
        return several and isinstance(x, jax.Array) and not x.is_fully_addressable

    if any(apart(x) and _on_cpu(x) for x in jax.tree.leaves(tree)):
        # what another host computes longer than collectives on a CPU wait
        jax.block_until_ready(tree)
        meet()

    def one(x: jax.Array) -> np.ndarray:
        if apart(x):
            from jax.experimental import multihost_utils

            x = multihost_utils.process_allgather(x, tiled=True)
        # a copy: a view of a CPU buffer would change when the buffer is donated, and is read-only
        return np.array(x)

    return jax.tree.map(one, tree)


def _on_cpu(x: jax.Array) -> bool:
    return next(iter(x.sharding.device_set)).platform == "cpu"


def gathered(numbers: Sequence[int]) -> np.ndarray:
    """A few whole numbers of every process, int32 [process, number], the same on all of them."""
    own = np.asarray(numbers, np.int32)
    if jax.process_count() == 1:
        return own[None]
    from jax.experimental import multihost_utils

    return np.asarray(multihost_utils.process_allgather(own))


def broadcast(message: bytes, part: int = 2**28) -> bytes:
    """The bytes that process 0 has, on every process; sent in parts of a bounded size."""
    if jax.process_count() == 1:
        return message
    from jax.experimental import multihost_utils

    # in two numbers, since one of 32 bits ends at 2 GiB
    whole, rest = gathered(divmod(len(message), part))[0].tolist()
    sent = []
    for begin in range(0, whole * part + rest, part):
        own = np.frombuffer(message[begin : begin + part], np.uint8)
        if jax.process_index() != 0:
            own = np.zeros(min(part, whole * part + rest - begin), np.uint8)
        found = multihost_utils.broadcast_one_to_all(own)
        sent.append(np.asarray(found).astype(np.uint8).tobytes())
    return b"".join(sent)


def pad(tree: T, size: int) -> T:
    """Host arrays with their first entry repeated until the leading axis has `size` entries."""

    def one(x: np.ndarray) -> np.ndarray:
        missing = size - x.shape[0]
        return np.concatenate([x, np.repeat(x[:1], missing, axis=0)]) if missing else x

    return jax.tree.map(one, tree)


def maps(mesh: Mesh) -> bool:
    """Whether the replicas of one device run one after another (CPU) instead of vmapped (GPU, TPU).

    On a CPU `vmap` gains nothing for dense layers and turns convolutions into slow grouped ones.
    """
    return mesh.devices.flat[0].platform == "cpu"


@dataclasses.dataclass(frozen=True)
class Placement:
    """How replicas and batches lie on the devices of a mesh, as compiled programs see it.

    Attributes:
      axis: name and size of the mesh axis that shares each batch; None where one device has it all.
      vmapped: whether the replicas of a device run vmapped, so that those that wait or have
        diverged are computed like the others, instead of one after another.
    """

    axis: tuple[str, int] | None = None
    vmapped: bool = True

    @property
    def axis_name(self) -> str | None:
        """Name of the axis."""
        return None if self.axis is None else self.axis[0]

    @property
    def part(self) -> tuple[jax.Array | int, int]:
        """Which part of each batch this device has, and of how many."""
        return (0, 1) if self.axis is None else (jax.lax.axis_index(self.axis[0]), self.axis[1])

    def mean(self, x: jax.Array) -> jax.Array:
        """The mean over the devices that share a batch."""
        return x if self.axis is None else jax.lax.pmean(x, self.axis[0])

    def unvarying(self, x: jax.Array) -> jax.Array:
        """The mean over the devices that share a batch, of what differs between them."""
        varies = self.axis is not None and self.axis[0] in _tree.varying_axes(x)
        return self.mean(x) if varies else x

    def own_key(self, key: jax.Array) -> jax.Array:
        """A key for each of the devices that share a batch."""
        return key if self.axis is None else jax.random.fold_in(key, self.part[0])


def placement(mesh: Mesh, vmapped: int | None = None) -> Placement:
    """How replicas and batches lie on a mesh, and how many run vmapped, as of `over_replicas`."""
    size = mesh.shape[DATA]
    return Placement((DATA, size) if size > 1 else None, not _one_by_one(mesh, vmapped))


def _one_by_one(mesh: Mesh, vmapped: int | None) -> bool:
    return maps(mesh) if vmapped is None else vmapped == 1


_compiles: ContextVar[Callable[[], None]] = ContextVar("_compiles", default=lambda: None)


@contextlib.contextmanager
def told_of_compiling(tell: Callable[[], None]) -> Iterator[None]:
    """Call a function whenever a program for replicas is about to be compiled."""
    token = _compiles.set(tell)
    try:
        yield
    finally:
        _compiles.reset(token)


def _in_blocks(block: Callable[[InT], T], given: InT, most: int) -> T:
    """Run `block` on blocks of at most so many replicas one after another.

    Args:
      block: a function of arrays [replica, ...] that gives such.
      given: its arguments, of all replicas.
      most: replicas of a block.
    """
    count = jax.tree.leaves(given)[0].shape[0]
    blocks = -(-count // most)
    if blocks == 1:
        return block(given)
    each = -(-count // blocks)
    # the first few once more, so that all blocks are of one size and one program
    missing = blocks * each - count

    def cut(x: jax.Array) -> jax.Array:
        return jnp.concatenate([x, x[:missing]]).reshape(blocks, each, *x.shape[1:])

    found = jax.lax.map(block, jax.tree.map(cut, given))
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:count], found)


def over_replicas(
    fn: Callable[..., T],
    mesh: Mesh,
    *,
    donate: tuple[int, ...] = (),
    shared: int = 0,
    parted: tuple[int, ...] = (),
    checked: bool = True,
    vmapped: int | None = None,
) -> Callable[..., T]:
    """Compile `fn` for many replicas.

    Args:
      fn: `fn(limit, *replica, *shared)` of one replica, pure. `limit` is an int32 scalar that
        replicas which run
        vmapped together share: the largest of theirs. Collectives over the axis "data" are allowed.
      mesh: as `mesh` makes it.
      donate: which arguments, counted without `limit`, give up their memory.
      shared: how many of the last arguments are the same for all replicas.
      parted: which arguments, counted likewise, have their third axis ([replica, step, batch, ...])
        split over the data axis of the mesh.
      checked: let JAX follow which values vary over devices, as collectives need it. Without,
        functions of other libraries may make loops of constants, and derivatives by shared
        arguments are those of each replica, not their sum; then `fn` must not use collectives.
      vmapped: how many replicas of a device run vmapped together at most; as equal blocks as
        possible run one after another. None for all of them, on a CPU for one.

    Returns:
      `run(limits, *replicas, *shared)`: limits int32 [replica], the other arguments but the last
      `shared` with a leading replica axis that the seed axis of the mesh divides. Jitted.
    """
    one_by_one = _one_by_one(mesh, vmapped)
    # an axis of one device counts as varying too, where nothing averages over it
    split = P(SEED, None, DATA) if mesh.shape[DATA] > 1 else P(SEED)

    def local(limits: jax.Array, *args: object) -> T:
        own, common = args[: len(args) - shared], args[len(args) - shared :]
        if one_by_one:
            return jax.lax.map(lambda a: fn(a[0], *a[1], *common), (limits, own))

        def block(given: tuple[jax.Array, tuple[object, ...]]) -> T:
            limits, own = given
            return jax.vmap(lambda *a: fn(jnp.max(limits), *a, *common))(*own)

        return _in_blocks(block, (limits, own), vmapped or len(limits))

    def run(limits: jax.Array, *args: object) -> T:
        # reached when it is traced only
        _compiles.get()()
        own = (split if i in parted else P(SEED) for i in range(len(args) - shared))
        specs = (P(SEED), *own, *(P(),) * shared)
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=specs, out_specs=P(SEED), check_vma=checked
        )
        return mapped(limits, *args)

    return jax.jit(run, donate_argnums=tuple(i + 1 for i in donate))


__all__ = [
    "DATA",
    "SEED",
    "compilation_cache",
    "cpu_devices",
    "host",
    "mesh",
    "over_replicas",
    "put",
]


def __dir__() -> list[str]:
    return __all__
