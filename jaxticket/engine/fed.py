"""Batches of an iterable on their way to the devices, in blocks as those of data streams.

Each order of the examples has a reader that goes on from block to block; a reader that has to go
back begins at the pass that is needed and skips to the place.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxticket.data.batches import Batches, Pair
from jaxticket.engine import parallel
from jaxticket.engine.held import evaluation_batches
from jaxticket.engine.learner import Block
from jaxticket.engine.metrics import Batched, normalization, split_names
from jaxticket.engine.streamed import (
    Blocks,
    StreamedArrays,
    Stretch,
    local_box,
    placed,
    too_few,
)
from jaxticket.labels import filler
from jaxticket.settings import Training
from jaxticket.typing import Array


class Order:
    """The training examples in one order, pass after pass, read from any place on.

    Pass e is made with the seed that the first 31 bits of sha256(name, e) are.

    Args:
      data: where they are from.
      name: what tells orders apart.
    """

    def __init__(self, data: Batches, name: bytes) -> None:
        self.data, self.name = data, name
        # nothing is read before it is known from where
        self.at, self.rest = -1, None
        self.batches: Generator[Pair] = data.read(0)

    def close(self) -> None:
        """Give up what is being read."""
        self.batches.close()

    def _open(self, at: int) -> None:
        self.close()
        number, skip = divmod(at, self.data.examples)
        digest = hashlib.sha256(self.name + number.to_bytes(8, "little")).digest()
        seed = int.from_bytes(digest[:4], "little") >> 1
        self.at, self.rest, self.batches = at, None, self.data.read(seed, skip)

    def take(self, at: int, count: int) -> Pair:
        """Read so many examples, from place `at` of all passes one after another."""
        end = (self.at // self.data.examples + 1) * self.data.examples
        while self.at < at < end:
            self._next(at - self.at)
        if self.at != at:
            self._open(at)
        parts: list[Pair] = []
        while count:
            parts.append(self._next(count))
            count -= len(parts[-1][1])
        x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        return x, y

    def _next(self, most: int) -> Pair:
        """Read at most so many examples, and at least one."""
        if self.rest is None:
            if self.at % self.data.examples == 0:
                self._open(self.at)
            self.rest = next(self.batches)
        x, y = self.rest
        self.rest = (x[most:], y[most:]) if len(y) > most else None
        self.at += min(most, len(y))
        return x[:most], y[:most]


class FedData(Blocks):
    """Batches of an iterable, and held splits to evaluate on, for the devices of a mesh.

    Attributes:
      data: the batches.
      arrays: what lies on the devices all the time.
    """

    def __init__(self, data: Batches, training: Training, mesh: Mesh) -> None:
        example = data.train.x.dtype.itemsize * int(np.prod(data.shape))
        super().__init__(training, mesh, example=example, most=data.block_bytes)
        self.data = data
        arrays = StreamedArrays(normalization(data), split_names(data))
        self.arrays: StreamedArrays = parallel.put(arrays, mesh, replicas=False)
        batched = evaluation_batches(data, training, mesh.shape[parallel.DATA])
        self._evaluated: Batched = parallel.put(batched, mesh, replicas=False)
        self._chosen: dict[tuple[bytes, int, int], tuple[np.ndarray, Pair]] = {}

    def of_training(self, training: Training, *, cropped: bool = True) -> FedData:
        """The same data in batches as that training needs them."""
        del cropped
        return FedData(self.data, training, self.mesh)

    @contextlib.contextmanager
    def training_blocks(
        self,
        keys: np.ndarray,
        orders: np.ndarray,
        augments: np.ndarray,
        stretches: list[Stretch],
    ) -> Iterator[Iterator[Block]]:
        """As of `StreamedData`, read by a thread that is one block ahead."""
        del augments
        steps, size = self.steps(len(keys)), self.training.batch_size
        shape = (len(keys), steps, size)
        sharding = NamedSharding(self.mesh, P(parallel.SEED, None, parallel.DATA))
        box = local_box(sharding, shape)
        rows = range(len(keys))[box[0]]
        names = [
            keys[row].tobytes() + b"order" + int(orders[row]).to_bytes(4, "little") for row in rows
        ]

        # not those of another training: what monitors look at is read while networks train
        readers: dict[tuple[bytes, int], Order] = {}

        def made(stretch: Stretch) -> Block:
            x, y = self._empty((len(rows), steps, box[2].stop - box[2].start))
            found: dict[tuple[bytes, int], int] = {}
            for place, (row, name) in enumerate(zip(rows, names, strict=True)):
                first, count = int(stretch.first[row]), int(stretch.count[row])
                same = found.setdefault((name, first), place)
                if same != place and stretch.count[rows[same]] == count:
                    # replicas of one seed that are at the same step
                    x[place], y[place] = x[same], y[same]
                    continue
                # replicas at different steps have readers of their own
                reader = name, sum(other == name for other, _ in found)
                order = readers.setdefault(reader, Order(self.data, name))
                for step in range(count):
                    own = order.take(self._place(first + step), size)
                    x[place, step], y[place, step] = (part[box[2]] for part in own)
            return Block(placed(x, sharding, shape, box), placed(y, sharding, shape, box))

        thread = ThreadPoolExecutor(1, "jaxticket batches")

        def blocks() -> Iterator[Block]:
            ahead = thread.submit(made, stretches[0])
            for stretch in stretches[1:]:
                block, ahead = ahead.result(), thread.submit(made, stretch)
                yield block
            yield ahead.result()

        try:
            yield blocks() if stretches else iter(())
        finally:
            thread.shutdown(cancel_futures=True)
            for order in readers.values():
                order.close()

    def _place(self, step: int) -> int:
        """The place of a step's first example in all passes one after another."""
        size, examples = self.training.batch_size, self.data.examples
        if self.training.last_batch == "wrap":
            return step * size
        number, within = divmod(step, examples // size)
        return number * examples + within * size

    def _empty(self, shape: tuple[int, ...]) -> Pair:
        """Examples and labels of places where nothing is trained."""
        like = self.data.train
        y = np.full((*shape, *like.y.shape[1:]), filler(like.y.dtype), like.y.dtype)
        return np.zeros((*shape, *self.data.shape), like.x.dtype), y

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
        """The batches themselves, the first of an order of their own: x [replica, batch, place]."""
        self._refuse_rounds(rounds)
        pairs = [
            self._first(key, number, batches * size)
            if per_class is None
            else self._balanced(key, number, per_class)[1]
            for key in keys
        ]
        shape = (len(keys), batches, size)
        sharding = NamedSharding(self.mesh, P(parallel.SEED))
        box = local_box(sharding, shape)

        def put(parts: list[np.ndarray]) -> Array:
            whole = np.stack(parts).reshape(*shape, *parts[0].shape[1:])
            return placed(whole[box[0]], sharding, shape, box)

        return Block(put([x for x, _ in pairs]), put([y for _, y in pairs]))

    def balanced(
        self, keys: np.ndarray, number: int, per_class: int, rounds: int | None = None
    ) -> np.ndarray:
        """As of `Source`: places in the score's order, which is read until there are enough."""
        self._refuse_rounds(rounds)
        return np.stack([self._balanced(key, number, per_class)[0] for key in keys])[:, None]

    def _order(self, key: np.ndarray, number: int) -> contextlib.closing[Order]:
        """The order of a score's examples."""
        name = key.tobytes() + b"prune" + number.to_bytes(4, "little")
        return contextlib.closing(Order(self.data, name))

    def _first(self, key: np.ndarray, number: int, count: int) -> Pair:
        """The first examples of it."""
        with self._order(key, number) as order:
            return order.take(0, count)

    def _balanced(self, key: np.ndarray, number: int, per_class: int) -> tuple[np.ndarray, Pair]:
        name = key.tobytes(), number, per_class
        if name not in self._chosen:
            with self._order(key, number) as order:
                self._chosen[name] = self._of_each_class(order, per_class)
        return self._chosen[name]

    def _of_each_class(self, order: Order, per_class: int) -> tuple[np.ndarray, Pair]:
        """The first of each class in an order, classes in turn."""
        found: list[list[tuple[int, np.ndarray]]] = [[] for _ in range(self.data.classes)]
        for begin in range(0, self.data.examples, 256):
            x, y = order.take(begin, min(256, self.data.examples - begin))
            for at, (example, label) in enumerate(zip(x, y.tolist(), strict=True), begin):
                if len(found[label]) < per_class:
                    found[label].append((at, example))
            if min(map(len, found)) == per_class:
                turns = [one for turn in zip(*found, strict=True) for one in turn]
                labels = np.tile(np.arange(len(found), dtype=np.int32), per_class)
                places = np.asarray([at for at, _ in turns], np.int32)
                return places, (np.stack([example for _, example in turns]), labels)
        raise too_few(found, per_class, self.data.name)

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[Iterator[Batched]]:
        """All splits at once, which are held."""
        yield iter((self._evaluated,))
