"""Data streamed to the devices in blocks.

Training takes blocks of several steps for all replicas, evaluation blocks of several batches;
processes decode the rows of their own devices only.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, Sharding
from jax.sharding import PartitionSpec as P

from jaxticket.data.blocks import Request, blocks
from jaxticket.data.crops import DRAWS
from jaxticket.data.sampling import batch_indices, on_host, score_indices
from jaxticket.data.streaming import Stream
from jaxticket.engine import parallel
from jaxticket.engine.learner import Batch, Block, Piece, Planned
from jaxticket.engine.metrics import Batched, Normalization, cut, normalization, split_names
from jaxticket.engine.parallel import Placement
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training
from jaxticket.typing import Array, Key, cached


class Stretch(NamedTuple):
    """What one block trains: its call, each replica's first step and number of steps."""

    call: int
    first: np.ndarray
    count: np.ndarray


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class StreamedArrays:
    """What lies on the devices of a data stream, of which blocks come with each call."""

    by: Normalization
    splits: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def batched(self) -> None:
        """None: the splits come in blocks."""

    def batches(
        self, training: Training, words: Array, block: Block | None, placement: Placement
    ) -> Callable[[Array, Array], Batch]:
        """As of `DataArrays`, from the block."""
        del training, words, placement
        assert block is not None, "a data stream comes in blocks"
        return lambda i, _: Batch(block.x[i], block.y[i], self.by)

    def score_examples(
        self, own: Block, number: Array | int, *, key: Key, batches: int, size: int
    ) -> tuple[Array, Array]:
        """As of `DataArrays`; `own` is a block."""
        del number, key, batches, size
        return own.x.reshape(-1, *own.x.shape[2:]), own.y


class Blocks(abc.ABC):
    """Training examples that come to the devices of a mesh in blocks of several steps.

    Args:
      training: batch size, and steps between evaluations.
      mesh: the devices.
      example: bytes of an example.
      most: bytes of examples that one device is fed at a time, at least one step's.
    """

    def __init__(self, training: Training, mesh: Mesh, *, example: int, most: int) -> None:
        self.training, self.mesh, self.example, self.most = training, mesh, example, most

    @abc.abstractmethod
    def training_blocks(
        self,
        keys: np.ndarray,
        orders: np.ndarray,
        augments: np.ndarray,
        stretches: list[Stretch],
    ) -> contextlib.AbstractContextManager[Iterator[Block]]:
        """The blocks of these stretches, one after another.

        Args:
          keys: key data of each replica's root key.
          orders: int32, which of the orders of its key each replica sees.
          augments: int32, which of the augmentations of its key it sees: where the crops are.
          stretches: from `stretches`.
        """

    def _refuse_rounds(self, rounds: int | None) -> None:
        if rounds is not None:
            raise ValueError("`rounds` have no examples of their own in a data stream")

    def steps(self, replicas: int) -> int:
        """Steps of one block.

        They are as many as `block_bytes` per device allow, and no more than lie between
        evaluations.
        """
        parts = self.mesh.shape[parallel.DATA]
        rows = replicas // self.mesh.shape[parallel.SEED] * self.training.batch_size // parts
        most = max(1, self.most // (rows * self.example))
        interval = self.training.evaluation_interval
        # equal blocks between two evaluations
        return -(-interval // -(-interval // most))

    def stretches(self, begin: Sequence[np.ndarray], end: Sequence[np.ndarray]) -> list[Stretch]:
        """The blocks that take each replica from begin[call] to end[call], int32 [replica]."""
        found = []
        for call, (low, high) in enumerate(zip(begin, end, strict=True)):
            size = self.steps(len(low))
            for done in range(0, int((high - low).max()), size):
                first = np.minimum(low + done, high)
                found.append(Stretch(call, first, np.minimum(high - first, size)))
        return found

    @contextlib.contextmanager
    def pieces(
        self,
        keys: np.ndarray,
        plan: Planned,
        begin: Sequence[np.ndarray],
        end: Sequence[np.ndarray],
    ) -> Iterator[Callable[[int], Iterator[Piece]]]:
        """One piece for each of the `stretches` of a call."""
        stretches = self.stretches(begin, end)
        orders, augments = np.asarray(plan.order), np.asarray(plan.augment)
        with self.training_blocks(keys, orders, augments, stretches) as blocks:
            yield lambda call: (
                Piece(stretch.count, next(blocks)) for stretch in stretches if stretch.call == call
            )

    def at_step(self, keys: np.ndarray, plan: Planned, step: np.ndarray) -> Block:
        """A block of which only the first step is there."""
        stretch = Stretch(0, step, np.ones_like(step))
        orders, augments = np.asarray(plan.order), np.asarray(plan.augment)
        with self.training_blocks(keys, orders, augments, [stretch]) as blocks:
            return next(blocks)


class StreamedData(Blocks):
    """A data stream on its way to the devices of a mesh.

    Attributes:
      stream: the data stream.
      arrays: what lies on the devices all the time.
    """

    def __init__(self, stream: Stream, training: Training, mesh: Mesh) -> None:
        example = int(np.prod(stream.shape))
        super().__init__(training, mesh, example=example, most=stream.block_bytes)
        self.stream = stream
        arrays = StreamedArrays(normalization(stream), split_names(stream))
        self.arrays: StreamedArrays = parallel.put(arrays, mesh, replicas=False)
        self._evaluation = _evaluation(stream, training, mesh)
        self._held: list[Batched] | None = None
        self._chosen: dict[tuple[bytes, int, int], np.ndarray] = {}

    def of_training(self, training: Training, *, cropped: bool = True) -> StreamedData:
        """The same data in blocks as long as that training needs them."""
        source = self.stream
        if not cropped:
            source = dataclasses.replace(source, train_crop="center")
        return StreamedData(source, training, self.mesh)

    @contextlib.contextmanager
    def training_blocks(
        self,
        keys: np.ndarray,
        orders: np.ndarray,
        augments: np.ndarray,
        stretches: list[Stretch],
    ) -> Iterator[Iterator[Block]]:
        """As of `Blocks`, decoded by threads."""
        source, training = self.stream, self.training
        steps = self.steps(len(keys))
        draw = _host_order(
            len(source.train),
            training.batch_size,
            training.last_batch,
            steps,
            source.train_crop == "random",
        )

        def wanted(number: int, rows: slice) -> tuple[np.ndarray, np.ndarray | None]:
            stretch = stretches[number]
            index, draws = draw(keys[rows], orders[rows], augments[rows], stretch.first[rows])
            there = np.arange(steps) < stretch.count[rows, None]
            return np.where(there[..., None], index, -1), draws

        shape = (len(keys), steps, training.batch_size)
        with self._blocks(wanted, len(stretches), shape) as found:
            yield found

    def score_batches(
        self,
        keys: np.ndarray,
        number: int,
        batches: int,
        size: int,
        *,
        per_class: int | None = None,
        rounds: int | None = None,
    ) -> Block:
        """The batches themselves, cut in the middle: x [replica, batch, place, ...]."""
        self._refuse_rounds(rounds)
        draw = _host_score_order(len(self.stream.train), batches, size)

        def wanted(_: int, rows: slice) -> tuple[np.ndarray, np.ndarray | None]:
            if per_class is None:
                return draw(keys[rows], number), None
            chosen = self.balanced(keys[rows], number, per_class)
            return chosen.reshape(-1, batches, size), None

        with self._blocks(wanted, 1, (len(keys), batches, size), data=False) as found:
            return next(found)

    def balanced(
        self, keys: np.ndarray, number: int, per_class: int, rounds: int | None = None
    ) -> np.ndarray:
        """As of `Source`. Labels are read until there are enough, once for each key."""
        self._refuse_rounds(rounds)
        examples = len(self.stream.train)
        names = [(key.tobytes(), number, per_class) for key in keys]
        for name, key in zip(names, keys, strict=True):
            if name not in self._chosen:
                order = _host_score_order(examples, 1, examples)(key[None], number)[0, 0]
                self._chosen[name] = self._of_each_class(order, per_class)
        return np.stack([self._chosen[name] for name in names])[:, None]

    def _of_each_class(self, order: np.ndarray, per_class: int, at_once: int = 1024) -> np.ndarray:
        found: list[list[int]] = [[] for _ in range(self.stream.classes)]
        for begin in range(0, len(order), at_once):
            numbers = order[begin : begin + at_once].tolist()
            for number, (_, label) in zip(numbers, self.stream.read(numbers), strict=True):
                if len(found[label]) < per_class:
                    found[label].append(number)
            if min(map(len, found)) == per_class:
                return np.asarray(found, np.int32).T.reshape(-1)
        raise too_few(found, per_class, self.stream.name)

    @contextlib.contextmanager
    def _blocks(
        self,
        wanted: Callable[[int, slice], tuple[np.ndarray, np.ndarray | None]],
        count: int,
        shape: tuple[int, ...],
        *,
        data: bool = True,
    ) -> Iterator[Iterator[Block]]:
        spec = P(parallel.SEED, None, parallel.DATA) if data else P(parallel.SEED)
        sharding = NamedSharding(self.mesh, spec)
        box = local_box(sharding, shape)

        def request(number: int) -> Request:
            index, draws = wanted(number, box[0])
            part = (slice(None), *box[1:])
            return Request(index[part], None if draws is None else draws[part])

        def put(x: np.ndarray, y: np.ndarray) -> Block:
            return Block(placed(x, sharding, shape, box), placed(y, sharding, shape, box))

        local = tuple(s.stop - s.start for s in box)
        with blocks(self.stream, request, count, shape=local, put=put) as found:
            yield found

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[Iterator[Batched]]:
        """All splits in batches, several at a time; decoded once where they stay on the devices."""
        index, split, at_once, held = self._evaluation
        if self._held is not None:
            yield iter(self._held)
            return

        def request(number: int) -> Request:
            return Request(index[number * at_once : (number + 1) * at_once], None)

        count, shape = len(index) // at_once, (at_once, index.shape[1])
        # blocks are put in order
        splits = iter(split.reshape(count, at_once))
        sharding = parallel.sharding(self.mesh, replicas=False)

        def put(x: np.ndarray, y: np.ndarray) -> Batched:
            # the same on every process, which `parallel.put` would ask the others, from a thread
            parts = (placed(a, sharding, a.shape, _whole(a.shape)) for a in (x, y, next(splits)))
            return Batched(*parts)

        with blocks(self.stream, request, count, shape=shape, put=put) as found:
            if held:
                self._held = list(found)
                found = iter(self._held)
            yield found


def _evaluation(
    source: Stream, training: Training, mesh: Mesh
) -> tuple[np.ndarray, np.ndarray, int, bool]:
    """Plan the evaluation of a data stream, cut as data in memory are.

    The result is the examples [batch, place] (-1 for fillers) and the split of each evaluation
    batch, how many batches are fed at a time, and whether they stay on the devices.
    """
    names = sorted(source.splits)
    places = {
        name: (source.starts[name] + np.arange(len(source.splits[name])), np.zeros(n, np.int32))
        for name in names
        for n in [len(source.splits[name])]
    }
    most = {"train": training.eval_train_examples}
    batched = cut(places, training.eval_batch_size, most=most, multiple=mesh.shape[parallel.DATA])
    index = np.where(np.asarray(batched.y) < 0, -1, np.asarray(batched.x))
    size = index.shape[1] * int(np.prod(source.shape))
    at_once = min(len(index), max(1, source.block_bytes // size))
    missing = -len(index) % at_once
    held = len(index) * size <= source.hold_bytes
    index = np.concatenate([index, np.full((missing, index.shape[1]), -1)])
    split = np.concatenate([np.asarray(batched.split), np.zeros(missing, np.int32)])
    return index, split, at_once, held


def too_few(found: Sequence[Sequence[object]], per_class: int, name: str) -> ValueError:
    """The error for a class with fewer examples than a score asks for."""
    few = min(range(len(found)), key=lambda c: len(found[c]))
    return ValueError(
        f"`per_class` asks for {per_class} examples of each class, but class {few} of {name!r} has "
        f"{len(found[few])}; use fewer, or per_class=None with a batch_size"
    )


def local_box(sharding: Sharding, shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The smallest box that holds what the devices of this process hold of an array."""
    pieces = sharding.addressable_devices_indices_map(shape).values()
    bounds = [[s.indices(n)[:2] for s, n in zip(p or (), shape, strict=True)] for p in pieces]
    return tuple(
        slice(min(b[axis][0] for b in bounds), max(b[axis][1] for b in bounds))
        for axis in range(len(shape))
    )


def _whole(shape: tuple[int, ...]) -> tuple[slice, ...]:
    return tuple(slice(0, n) for n in shape)


def placed(
    local: np.ndarray, sharding: Sharding, shape: tuple[int, ...], box: tuple[slice, ...]
) -> Array:
    """An array spread over the devices of all processes, of which `local` is this process's box."""
    whole = (*shape, *local.shape[len(shape) :])

    def part(index: tuple[slice, ...] | None) -> np.ndarray:
        assert index is not None
        moved = []
        for own, bounds, size in zip(index, box, shape, strict=False):
            begin, end, _ = own.indices(size)
            moved.append(slice(begin - bounds.start, end - bounds.start))
        return local[tuple(moved)]

    return jax.make_array_from_callback(whole, sharding, part)


@cached(16)
def _host_order(
    examples: int, batch_size: int, last_batch: str, steps: int, random: bool
) -> Callable[..., tuple[np.ndarray, np.ndarray | None]]:
    """(keys, orders, augments, first) -> examples int [replica, step, place], draws of crops."""

    def one(data: Array, order: Array, augment: Array, first: Array) -> tuple[Array, Array | None]:
        key = jax.random.wrap_key_data(data)
        words = permutation_words(stream(key, "order", order))

        def of(step: Array) -> tuple[Array, Array | None]:
            index = batch_indices(
                words, step, examples=examples, batch_size=batch_size, last_batch=last_batch
            )
            if not random:
                return index, None
            crop = stream(stream(key, "augment", augment, step), "host crop")
            return index, jax.random.uniform(crop, (batch_size, DRAWS))

        return jax.vmap(of)(first + jnp.arange(steps, dtype=jnp.int32))

    return on_host(jax.vmap(one))


@cached(16)
def _host_score_order(examples: int, batches: int, size: int) -> Callable[..., np.ndarray]:
    """(keys, number) -> examples int [replica, batch, place]."""

    def one(data: Array, number: Array) -> Array:
        key = stream(jax.random.wrap_key_data(data), "prune", number)
        return score_indices(key=key, examples=examples, batches=batches, size=size)

    run = on_host(jax.vmap(one, in_axes=(0, None)))
    return lambda keys, number: run(keys, np.int32(number))
