"""Data as the engine uses them: held on the devices, or streamed to them in blocks.

Both have the methods of `Source`, and compiled programs are given what lies on the devices, which
has the methods of `DataArrays`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
from jax.sharding import Mesh

from jaxticket.data.arrays import Data
from jaxticket.data.batches import Batches
from jaxticket.data.streaming import Stream
from jaxticket.engine.fed import FedData
from jaxticket.engine.held import HeldData
from jaxticket.engine.learner import Batch, Block, Piece, Planned
from jaxticket.engine.metrics import Batched, Normalization
from jaxticket.engine.metrics import split_names as split_names
from jaxticket.engine.parallel import Placement
from jaxticket.engine.streamed import StreamedData
from jaxticket.settings import Training
from jaxticket.typing import Array, Key


class DataArrays(Protocol):
    """What compiled programs are given of data: a tree of device arrays.

    Attributes:
      by: how images are normalized.
      splits: names of the splits, in the order of the metrics' split axis.
      batched: all splits cut for evaluation; None where they come in blocks.
    """

    @property
    def by(self) -> Normalization:
        """How images are normalized."""
        ...

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        ...

    @property
    def batched(self) -> Batched | None:
        """All splits cut for evaluation."""
        ...

    def batches(
        self, training: Training, words: Array, block: Block | None, placement: Placement
    ) -> Callable[[Array, Array], Batch]:
        """Give `batch(i, step)`, this device's part of the batch of a step.

        `step` is the replica's step, the i-th of a piece.

        Args:
          training: batch size, and how epochs end.
          words: of the replica's order, `random.permutation_words`.
          block: of the piece.
          placement: how batches lie on the devices.
        """
        ...

    def score_examples(
        self, own: Any, number: Array | int, *, key: Key, batches: int, size: int
    ) -> tuple[Array, Array]:
        """The examples that a score looks at: raw x [batches * size, ...], y [batches, size].

        Args:
          own: from `Source.score_batches`, of one replica.
          number: of the round, where rounds have examples of their own.
          key: which they are drawn by, where `own` does not say which they are.
          batches, size: how many, and examples of each.
        """
        ...


class Source(Protocol):
    """Data that networks are trained, evaluated and scored on.

    Attributes:
      arrays: what compiled programs are given.
    """

    @property
    def arrays(self) -> DataArrays:
        """What compiled programs are given."""
        ...

    def pieces(
        self,
        keys: np.ndarray,
        plan: Planned,
        begin: Sequence[np.ndarray],
        end: Sequence[np.ndarray],
    ) -> contextlib.AbstractContextManager[Callable[[int], Iterator[Piece]]]:
        """Give `pieces(call)`, the pieces that take replicas from begin[call] to end[call].

        Ask for them in the order of calls. Blocks are made ahead by threads that end with the
        context.

        Args:
          keys: key data of each replica's root key.
          plan: of each replica, host arrays: order and augmentation.
          begin, end: steps of each call, int32 [replica].
        """
        ...

    def at_step(self, keys: np.ndarray, plan: Planned, step: np.ndarray) -> Block | None:
        """The block of a piece that holds the batch of each replica's step, int32 [replica]."""
        ...

    def evaluation(self) -> contextlib.AbstractContextManager[Iterator[Batched]]:
        """All splits in batches, several at a time."""
        ...

    def score_batches(
        self,
        keys: np.ndarray,
        number: int,
        batches: int,
        size: int,
        *,
        per_class: int | None = None,
        rounds: int | None = None,
    ) -> Any:
        """What `DataArrays.score_examples` needs of each replica, [replica, ...].

        Args:
          keys: key data of each replica's root key.
          number: the level that is made.
          batches, size: how many, and examples of each.
          per_class: take so many of each class.
          rounds: number of rounds with examples of their own; None where all share them.
        """
        ...

    def balanced(
        self, keys: np.ndarray, number: int, per_class: int, rounds: int | None = None
    ) -> np.ndarray:
        """The first examples of each replica's order that make `per_class` of each class.

        The result is int32 [replica, round, per_class * classes].

        Raises:
          ValueError: for a class with fewer examples.
        """
        ...

    def of_training(self, training: Training, *, cropped: bool = True) -> Source:
        """The same data for another training on the same mesh.

        Without random crops if not `cropped`.
        """
        ...


def put_data(data: Data | Stream, training: Training, mesh: Mesh) -> Source:
    """Copy a data set to every device, or make a data stream ready to be fed to them."""
    if isinstance(data, Batches):
        return FedData(data, training, mesh)
    if isinstance(data, Stream):
        return StreamedData(data, training, mesh)
    return HeldData(data, training, mesh)
