"""Data held on the devices, of which compiled programs gather their batches."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jaxticket.data.arrays import Data
from jaxticket.data.sampling import balanced_examples, batch_indices, score_indices
from jaxticket.engine import parallel
from jaxticket.engine.learner import Batch, Block, Piece, Planned
from jaxticket.engine.metrics import Batched, Normalization, cut, normalization, split_names
from jaxticket.engine.parallel import Placement
from jaxticket.settings import Training
from jaxticket.typing import AnyArray, Array, Key


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class HeldArrays:
    """Data on the devices: the training split `x`, `y`, and the rest as of `DataArrays`.

    An example is a row of `x` [example, entry], of the given shape: a TPU would pad images of few
    channels to whole tiles, and bring all of them into another layout in every call.
    """

    x: AnyArray
    y: AnyArray
    batched: Batched
    by: Normalization
    splits: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    shape: tuple[int, ...] = dataclasses.field(metadata={"static": True})

    def _examples(self, index: Array) -> Array:
        return jnp.take(self.x, index, axis=0).reshape(*index.shape, *self.shape)

    def batches(
        self, training: Training, words: Array, block: Block | None, placement: Placement
    ) -> Callable[[Array, Array], Batch]:
        """As of `DataArrays`, gathered inside the program."""
        del block

        def batch(_: Array, step: Array) -> Batch:
            index = batch_indices(
                words,
                step,
                examples=self.y.shape[0],
                batch_size=training.batch_size,
                last_batch=training.last_batch,
                part=placement.part,
            )
            return Batch(self._examples(index), jnp.take(self.y, index, axis=0), self.by)

        return batch

    def score_examples(
        self, own: Array | None, number: Array | int, *, key: Key, batches: int, size: int
    ) -> tuple[Array, Array]:
        """As of `DataArrays`; `own` are examples [round, place], or None to draw them."""
        if own is None:
            examples = self.y.shape[0]
            chosen = score_indices(key=key, examples=examples, batches=batches, size=size)
        else:
            chosen = own[number].reshape(batches, size)
        return self._examples(chosen.reshape(-1)), jnp.take(self.y, chosen, axis=0)


def held_arrays(data: Data, training: Training, multiple: int = 1) -> HeldArrays:
    """What compiled programs are given of a data set, on the host.

    Args:
      data: the data set.
      training: how it is evaluated.
      multiple: of the size of evaluation batches.
    """
    batched, names = evaluation_batches(data, training, multiple), split_names(data)
    x = data.train.x.reshape(len(data.train), -1)
    return HeldArrays(x, data.train.y, batched, normalization(data), names, tuple(data.shape))


def evaluation_batches(data: Data, training: Training, multiple: int = 1) -> Batched:
    """All splits cut into batches of evaluation, on the host; args as of `held_arrays`."""
    splits = {name: (data.splits[name].x, data.splits[name].y) for name in split_names(data)}
    most = {"train": training.eval_train_examples}
    return cut(splits, training.eval_batch_size, most=most, multiple=multiple)


class HeldData:
    """A data set on the devices of a mesh.

    Attributes:
      arrays: where they are.
    """

    def __init__(self, data: Data, training: Training, mesh: Mesh) -> None:
        self.data, self.mesh = data, mesh
        arrays = held_arrays(data, training, mesh.shape[parallel.DATA])
        self.arrays: HeldArrays = parallel.put(arrays, mesh, replicas=False)

    def of_training(self, training: Training, *, cropped: bool = True) -> HeldData:
        """The same: nothing of it depends on how networks are trained."""
        del training, cropped
        return self

    @contextlib.contextmanager
    def pieces(
        self,
        keys: np.ndarray,
        plan: Planned,
        begin: Sequence[np.ndarray],
        end: Sequence[np.ndarray],
    ) -> Iterator[Callable[[int], Iterator[Piece]]]:
        """One piece for each call."""
        del keys, plan
        yield lambda call: iter((Piece(end[call] - begin[call], None),))

    def at_step(self, keys: np.ndarray, plan: Planned, step: np.ndarray) -> None:
        """None: the examples are on the devices."""
        del keys, plan, step

    @contextlib.contextmanager
    def evaluation(self) -> Iterator[Iterator[Batched]]:
        """All batches at once."""
        yield iter((self.arrays.batched,))

    def score_batches(
        self,
        keys: np.ndarray,
        number: int,
        batches: int,
        size: int,
        *,
        per_class: int | None = None,
        rounds: int | None = None,
    ) -> Array | None:
        """Numbers of examples [replica, round, place]; None where the program draws them."""
        del batches, size
        if per_class is None:
            return None
        return parallel.put(self.balanced(keys, number, per_class, rounds), self.mesh)

    def balanced(
        self, keys: np.ndarray, number: int, per_class: int, rounds: int | None = None
    ) -> np.ndarray:
        """As of `Source`."""
        assert number == 0, "later levels draw without looking at labels"
        return balanced_examples(self.data.train.y, keys, per_class=per_class, rounds=rounds)
