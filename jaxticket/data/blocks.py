"""Blocks of decoded examples, prefetched by a Grain pipeline.

A block is a function of its number alone, so a pipeline can begin at any block. Its examples are
divided into pieces that threads read, decode and crop; the image libraries release Python's lock,
so that threads use all cores. An example that occurs several times in a block is read and decoded
once.
"""

from __future__ import annotations

import contextlib
import operator
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple, SupportsIndex, TypeVar

import numpy as np
from PIL import Image

from jaxticket import _extras
from jaxticket.data import crops
from jaxticket.data.records import StreamError
from jaxticket.data.streaming import Stream

T = TypeVar("T")
_PIECE = 32


class Request(NamedTuple):
    """The contents of a block.

    Attributes:
      index: int64, any shape: numbers of the stream's examples, -1 for places that stay empty.
      draws: float32 [*index.shape, DRAWS] for random crops, None for central ones.
    """

    index: np.ndarray
    draws: np.ndarray | None


class _Part(NamedTuple):
    """Examples of one piece: places[i] are those of example numbers[i], flat in the block."""

    numbers: list[int]
    places: list[np.ndarray]
    draws: np.ndarray | None


class _Piece(NamedTuple):
    """Decoded examples: where each goes, its pixels and its label."""

    places: list[np.ndarray]
    images: list[np.ndarray]
    labels: list[int]


class _Pieces:
    """The pieces of all blocks, as a random-access source of Grain."""

    def __init__(self, request: Callable[[int], Request], count: int, per_block: int) -> None:
        self.request, self.count, self.per_block = request, count, per_block
        self.lock = threading.Lock()
        self.recent: dict[int, tuple[np.ndarray, list[np.ndarray], np.ndarray | None]] = {}

    def __len__(self) -> int:
        return self.count * self.per_block

    def __getitem__(self, index: SupportsIndex) -> _Part:
        block, share = divmod(operator.index(index), self.per_block)
        numbers, places, draws = self._grouped(block)
        mine = slice(share, None, self.per_block)
        return _Part(numbers[mine].tolist(), places[mine], draws)

    def _grouped(self, block: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        with self.lock:
            if block not in self.recent:
                # the threads work on two neighboring blocks at most
                while len(self.recent) > 2:
                    self.recent.pop(min(self.recent))
                index, draws = self.request(block)
                flat = index.reshape(-1)
                order = np.argsort(flat, kind="stable")
                order = order[np.searchsorted(flat[order], 0) :]
                numbers, first = np.unique(flat[order], return_index=True)
                places = np.split(order, first[1:]) if len(numbers) else []
                if draws is not None:
                    draws = draws.reshape(-1, draws.shape[-1])
                self.recent[block] = numbers, places, draws
            return self.recent[block]


def _rendered(part: _Part, stream: Stream) -> _Piece:
    piece = _Piece([], [], [])
    for number, places, (encoded, label) in zip(
        part.numbers, part.places, stream.read(part.numbers), strict=True
    ):
        image = crops.decoded(encoded, stream.channels, stream.called(number))
        if not 0 <= label < stream.classes:
            raise StreamError(
                f"`name`: {stream.called(number)} has the label {label}, outside of "
                f"[0, {stream.classes}); prepare the set again"
            )
        for box, same in _boxes(image, places, part.draws, stream).items():
            piece.places.append(np.asarray(same))
            piece.images.append(crops.pixels(image, box, stream.size))
            piece.labels.append(label)
    return piece


def _boxes(
    image: Image.Image, places: np.ndarray, draws: np.ndarray | None, stream: Stream
) -> dict[crops.Box, list[int]]:
    """Group places by their crop, since branches of one seed see the same crops."""
    shape = image.height, image.width
    if draws is None:
        return {crops.center_box(shape, stream.size, stream.resize): places.tolist()}
    boxes: dict[crops.Box, list[int]] = {}
    for place in places.tolist():
        box = crops.random_box(shape, draws[place], scale=stream.scale, ratio=stream.ratio)
        boxes.setdefault(box, []).append(place)
    return boxes


@contextlib.contextmanager
def blocks(
    stream: Stream,
    request: Callable[[int], Request],
    count: int,
    *,
    shape: tuple[int, ...],
    put: Callable[[np.ndarray, np.ndarray], T],
    ahead: int = 1,
) -> Iterator[Iterator[T]]:
    """Prefetch blocks 0 .. count-1 in order, by threads that end with the context.

    In memory are, next to the block in use, about one block's worth of pieces, one block that is
    being assembled, and `ahead + 1` finished blocks.

    Args:
      stream: where the examples come from.
      request: the contents of a block; called from threads, in any order.
      count: number of blocks.
      shape: of every request's index.
      put: `put(x, y)` converts a block, x uint8 [*shape, height, width, channels] and y int32
        [*shape] (-1 at empty places), to what the iterator gives; called from a thread.
      ahead: finished blocks in the queue.

    Raises:
      StreamError: from the iterator, for a record that cannot be read or decoded.
    """
    # imported here because it takes a second, which data in memory do not need
    _extras.require("grain", "stream")
    import grain
    import grain.experimental

    places = int(np.prod(shape))

    def joined(pieces: Sequence[_Piece]) -> T:
        x = np.zeros((places, *stream.shape), np.uint8)
        y = np.full(places, -1, np.int32)
        for piece in pieces:
            for where, image, label in zip(*piece, strict=True):
                x[where], y[where] = image, label
        return put(x.reshape(*shape, *stream.shape), y.reshape(shape))

    per_block = -(-places // _PIECE)
    options = grain.ReadOptions(
        num_threads=stream.threads, prefetch_buffer_size=max(per_block, stream.threads)
    )
    dataset = (
        grain.MapDataset.source(_Pieces(request, count, per_block))
        .map(lambda part: _rendered(part, stream))
        .to_iter_dataset(options)
        .batch(per_block, batch_fn=joined)
    )
    # in a list that is emptied: Grain's iterators complain when they outlive the interpreter
    line = [iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=ahead))]

    def finished() -> Iterator[T]:
        for _ in range(count):
            yield next(line[0])

    try:
        yield finished()
    finally:
        line.pop().close()
