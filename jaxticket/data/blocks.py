"""Blocks of decoded examples, made ahead of their use by a Grain pipeline.

A block is a function of its number alone, so a pipeline can begin at any block. Its examples are
divided into pieces which threads read, decode and cut; the image libraries release Python's lock
meanwhile, so that threads use all cores. An example that a block holds in several places is read
and decoded once.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jaxticket import _extras
from jaxticket.data import crops
from jaxticket.data.records import StreamError
from jaxticket.data.streaming import Stream

_PIECE = 32


class Request(NamedTuple):
    """What a block holds.

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
    """Piece k of all pieces of all blocks, as Grain wants it: random access and a length."""

    def __init__(self, request: Callable[[int], Request], count: int, per_block: int) -> None:
        self.request, self.count, self.per_block = request, count, per_block
        self.lock = threading.Lock()
        self.recent: dict[int, tuple[np.ndarray, list[np.ndarray], np.ndarray | None]] = {}

    def __len__(self) -> int:
        return self.count * self.per_block

    def __getitem__(self, k: Any) -> _Part:
        block, share = divmod(int(k), self.per_block)
        numbers, places, draws = self._grouped(block)
        mine = slice(share, None, self.per_block)
        return _Part(numbers[mine].tolist(), places[mine], draws)

    def _grouped(self, block: int) -> tuple[np.ndarray, list[np.ndarray], np.ndarray | None]:
        with self.lock:
            if block not in self.recent:
                # the threads work on two neighbouring blocks at most
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
    """The places of each crop: branches of one seed see the same ones."""
    shape = image.height, image.width
    if draws is None:
        return {crops.center_box(shape, stream.size, stream.resize): places.tolist()}
    found: dict[crops.Box, list[int]] = {}
    for place in places.tolist():
        box = crops.random_box(shape, draws[place], scale=stream.scale, ratio=stream.ratio)
        found.setdefault(box, []).append(place)
    return found


@contextlib.contextmanager
def blocks(
    stream: Stream,
    request: Callable[[int], Request],
    count: int,
    *,
    shape: tuple[int, ...],
    put: Callable[[np.ndarray, np.ndarray], Any],
    ahead: int = 1,
) -> Iterator[Iterator[Any]]:
    """Blocks 0 .. count-1 in order, made ahead of their use by threads that end with the context.

    Of images, about one block's worth is in pieces, one block is being put together, and
    `ahead + 1` blocks are finished, beside the one in use.

    Args:
      stream: where the examples come from.
      request: what a block holds; called from threads, in any order.
      count: number of blocks.
      shape: of every request's index.
      put: `put(x, y)` makes of a block, x uint8 [*shape, height, width, channels] and y int32
        [*shape] (-1 at empty places), what the iterator gives; called from a thread.
      ahead: finished blocks that wait in line.

    Raises:
      StreamError: from the iterator, for a record that cannot be read or decoded.
    """
    # imported here because it takes a second, which data in memory need not pay
    _extras.require("grain", "stream")
    import grain
    import grain.experimental

    places = int(np.prod(shape))

    def joined(pieces: Any) -> Any:
        x = np.zeros((places, *stream.shape), np.uint8)
        y = np.full(places, -1, np.int32)
        for piece in pieces:
            for where, image, label in zip(*piece, strict=True):
                x[where], y[where] = image, label
        return put(x.reshape(*shape, *stream.shape), y.reshape(shape))

    per_block = -(-places // _PIECE)
    source: Any = _Pieces(request, count, per_block)
    options = grain.ReadOptions(
        num_threads=stream.threads, prefetch_buffer_size=max(per_block, stream.threads)
    )
    dataset = (
        grain.MapDataset.source(source)
        .map(lambda part: _rendered(part, stream))
        .to_iter_dataset(options)
        .batch(per_block, batch_fn=joined)
    )
    # in a list that is emptied: Grain's iterators complain when they outlive the interpreter
    line = [iter(grain.experimental.ThreadPrefetchIterDataset(dataset, prefetch_buffer_size=ahead))]

    def finished() -> Iterator[Any]:
        for _ in range(count):
            yield next(line[0])

    try:
        yield finished()
    finally:
        line.pop().close()
