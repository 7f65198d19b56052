"""What scores, mask rules, probes and monitors may ask of a network on examples."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _show, _tree, masks
from jaxticket._check import instance, one_of, or_none, whole
from jaxticket.data.arrays import Data
from jaxticket.engine.learner import Networks
from jaxticket.engine.metrics import Batched, Normalization, cut, losses, normalized
from jaxticket.engine.parallel import Placement
from jaxticket.engine.supervised import Supervised, TrainBatch
from jaxticket.labels import living
from jaxticket.nn.activations import activations
from jaxticket.settings import Training, static_part
from jaxticket.typing import Key, Mask, Network, Params, Stats, Tap, TrainState

T = TypeVar("T")


Batch = tuple[jax.Array, jax.Array] | TrainBatch
"""Examples and labels; images of whole numbers are normalized where they are used."""


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A network, examples and a loss: what can be asked of weights.

    All methods are pure functions of the weights and statistics of one network, for use inside
    `jax.jit` and `jax.vmap`; a problem is a pytree whose arrays are its examples. Networks are in
    evaluation mode (BatchNorm normalizes with the statistics that are passed) unless `train=True`.

    `loss`, `gradient` and `hvp` are those of the mean loss of the training, without label
    smoothing and weight decay, over one batch, or over all examples of the problem, batch after
    batch, where none is passed. With a mask they are those of the kept weights alone: pruned ones
    count as zero and have no derivatives. Without one the weights are taken as they are, and the
    gradient is that with respect to the effective weights, also where they are pruned.

    >>> import jaxticket as jt
    >>> data = jt.data.load("digits")
    >>> net = jt.networks.lenet(data.shape, data.classes, widths=(8,))
    >>> problem = jt.Problem(net, data, jt.Training())
    >>> params, stats = net.init(jax.random.key(0))
    >>> problem.loss(params, stats).shape, problem.examples
    ((), 1437)

    Attributes:
      net: the network.
      data: the examples, as `batched` gives them. A data set stands for the training examples that
        evaluations look at (`Training.eval_train_examples`); None where each call brings a batch.
      training: loss, and how the network is trained.
      by: how images of whole numbers are normalized; that of the data set. Other examples are
        taken as they are.
      start: of monitors, the masked weights and statistics that this training began with.
      precision: of matrix products, as of `Training`; "highest" for curvature.
      placement: how a batch lies on the devices; set by compiled programs.
      more: further examples by name, those that a probe prepared.

    Raises:
      ValueError: for something else than a network, data in memory and a training.
    """

    net: Network = dataclasses.field(metadata={"static": True})
    data: Data | Batched | None
    training: Training = dataclasses.field(metadata={"static": True})
    by: Normalization | None = None
    start: Networks | None = None
    precision: str = dataclasses.field(default="highest", metadata={"static": True})
    placement: Placement = dataclasses.field(default=Placement(), metadata={"static": True})
    more: Mapping[str, Batched] | None = None

    __repr__ = _show.record

    def __post_init__(self) -> None:
        if isinstance(self.data, Data):
            instance("net", self.net, Network, "a network, such as jt.networks.lenet(...)")
            instance("training", self.training, Training, "a jt.Training")
            training = self.training.for_data(self.data)
            found, by = batched(
                self.data, examples=training.eval_train_examples, size=training.eval_batch_size
            )
            object.__setattr__(self, "data", found)
            object.__setattr__(self, "by", by)
            object.__setattr__(self, "training", static_part(training))

    @property
    def batches(self) -> Batched:
        """The examples, cut into batches of one size.

        Raises:
          ValueError: where each call brings its batch.
        """
        if not isinstance(self.data, Batched):
            raise ValueError(
                "`batch` is needed: this problem has no examples of its own; pass the batch that "
                "came with it, such as problem.loss(state.params, state.stats, batch)"
            )
        return self.data

    @property
    def examples(self) -> int | jax.Array:
        """Number of examples."""
        there = living(self.batches.y, 2)
        return int(there.sum()) if isinstance(there, np.ndarray) else jnp.sum(there)

    def logits(
        self,
        params: Params,
        stats: Stats,
        x: jax.Array,
        *,
        train: bool = False,
        key: Key | None = None,
        tap: Tap | None = None,
    ) -> jax.Array:
        """The logits of examples, [batch, classes].

        Args:
          params, stats: the network.
          x: examples [batch, ...]; images of whole numbers are normalized.
          train: training mode: BatchNorm normalizes with the batch, dropout draws.
          key: for dropout, with `train`.
          tap: `tap(name, x) -> x`, called at junctions and layers of networks that have taps.
        """
        x = self._normalized(params, x)
        noise = {"key": key} if train else {}
        with jax.default_matmul_precision(self.precision):
            return self.net.apply(params, stats, x, train=train, tap=tap, **noise)[0]  # type: ignore[arg-type]

    def features(self, params: Params, stats: Stats, x: jax.Array) -> dict[str, jax.Array]:
        """The activations of every layer, name -> [batch, ...], and the logits under "logits".

        At the taps of networks that have them, and of every module of other networks of Linen and
        NNX; "penultimate" is what the output layer is given.

        Raises:
          ValueError: for a network of functions without taps.
        """
        with jax.default_matmul_precision(self.precision):
            return activations(self.net, params, stats, self._normalized(params, x))

    def loss(
        self,
        params: Params,
        stats: Stats,
        batch: Batch | None = None,
        *,
        mask: Mask | None = None,
        train: bool = False,
        key: Key | None = None,
    ) -> jax.Array:
        """The mean loss, a scalar.

        Args:
          params, stats: the network.
          batch: examples and labels; None for all examples of the problem.
          mask: which weights are kept; None takes all as they are.
          train, key: as of `logits`; with a batch.
        """
        return self._over(
            lambda batch: self._total(_masked(mask, params), stats, batch, train, key),
            batch, params, train,
        )  # fmt: skip

    def gradient(
        self,
        params: Params,
        stats: Stats,
        batch: Batch | None = None,
        *,
        mask: Mask | None = None,
        train: bool = False,
        key: Key | None = None,
    ) -> Params:
        """The gradient of `loss` with respect to the weights, whose arguments it takes."""

        def of(batch: Batch) -> Params:
            return jax.grad(self._total)(_masked(mask, params), stats, batch, train, key)

        return _masked(mask, self._over(of, batch, params, train))

    def hvp(
        self,
        params: Params,
        stats: Stats,
        vector: Params,
        batch: Batch | None = None,
        *,
        mask: Mask | None = None,
        train: bool = False,
        key: Key | None = None,
    ) -> Params:
        """The Hessian of `loss` times a vector, zero where weights are pruned.

        Computed forward over reverse, batch after batch. In training mode over all examples, only
        batches that are full count: the last one may be filled up, which statistics of a batch see.

        Args:
          params, stats, batch, mask, train, key: as of `loss`.
          vector: tree like the params; what stands at pruned weights does not count.
        """
        at, along = _masked(mask, params), _masked(mask, vector)

        def of(batch: Batch) -> Params:
            slope = jax.grad(lambda w: self._total(w, stats, batch, train, key))
            return jax.jvp(slope, (at,), (along,))[1]

        return _masked(mask, self._over(of, batch, params, train, full=train))

    def gnvp(
        self,
        params: Params,
        stats: Stats,
        vector: Params,
        batch: Batch | None = None,
        *,
        mask: Mask | None = None,
        train: bool = False,
        key: Key | None = None,
    ) -> Params:
        """The Gauss-Newton matrix of `loss` times a vector, zero where weights are pruned.

        `J' H_z J v`, J the derivative of the logits by the weights and H_z the Hessian of the loss
        by the logits: the Hessian without the curvature of the network itself.

        Args: as of `hvp`.
        """
        at, along = _masked(mask, params), _masked(mask, vector)

        def of(batch: Batch) -> Params:
            x, y = batch[:2]

            def logits(w: Params) -> jax.Array:
                return self.logits(w, stats, x, train=train, key=key)

            def total(z: jax.Array) -> jax.Array:
                each = losses(self.training.loss, z, y)
                return self.placement.mean(jnp.sum(jnp.where(living(y), each, 0)))

            z, moved = jax.jvp(logits, (at,), (along,))
            bent = jax.jvp(jax.grad(total), (z,), (moved,))[1]
            return jax.vjp(logits, at)[1](bent)[0]

        return _masked(mask, self._over(of, batch, params, train, full=train))

    def update(self, state: TrainState, batch: TrainBatch) -> tuple[jax.Array, Params]:
        """Loss and gradient of the update that follows a training state.

        Those of the training itself: with label smoothing, BatchNorm in training mode, dropout and
        its compute type; without weight decay, clipping and momentum. The gradient is that with
        respect to the effective weights, also where they are pruned.

        Args:
          state: where the update begins.
          batch: of its step, as monitors and mask rules are given it.
        """
        learner = Supervised(self.net, self.training)
        loss, gradient, _ = learner.gradient(state, batch, self.placement)
        return loss, gradient

    def _normalized(self, params: Params, x: jax.Array) -> jax.Array:
        """The examples as networks see them."""
        if self.by is not None and jnp.issubdtype(jnp.asarray(x).dtype, jnp.integer):
            return normalized(x, self.by, str(jax.tree.leaves(params)[0].dtype))
        return jnp.asarray(x)

    def _total(
        self, params: Params, stats: Stats, batch: Batch, train: bool, key: Key | None
    ) -> jax.Array:
        """The losses of a batch, added up, over the number of its examples on average."""
        x, y = batch[:2]
        each = losses(self.training.loss, self.logits(params, stats, x, train=train, key=key), y)
        return self.placement.mean(jnp.sum(jnp.where(living(y), each, 0)))

    def _over(
        self,
        function: Callable[[Batch], T],
        batch: Batch | None,
        like: Params,
        train: bool,
        *,
        full: bool = False,
    ) -> T:
        """The mean over examples of what a function adds up over a batch.

        Args:
          function: of a batch.
          batch: the batch; None for all of the problem.
          like: what results vary over devices like.
          train: training mode, which needs a batch unless `full`.
          full: leave out a batch that is filled up.
        """
        if batch is not None:
            return _divided(function(batch), batch[1].shape[0])
        if train and not full:
            raise ValueError(
                "`batch` is needed with train=True: in training mode the examples of a batch "
                "depend on one another, and the last one of a problem is filled up"
            )
        batches = self.batches
        x, y = jnp.asarray(batches.x), jnp.asarray(batches.y)
        shapes = jax.eval_shape(function, (x[0], y[0]))
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def add(total: T, one: tuple[jax.Array, jax.Array]) -> tuple[T, None]:
            found = function(one)
            if full:
                # not a product, which would keep what is not finite
                counts = jnp.all(living(one[1]))
                found = jax.tree.map(lambda x: jnp.where(counts, x, jnp.zeros_like(x)), found)
            return jax.tree.map(jnp.add, total, found), None

        total, _ = jax.lax.scan(add, _tree.varying_like(zero, like), (x, y))
        there = living(y, 2)
        if full:
            there = jnp.where(jnp.all(there, 1, keepdims=True), there, False)
        return _divided(total, jnp.sum(there))


def _masked(mask: Mask | None, tree: Params) -> Params:
    return tree if mask is None else masks.apply(mask, tree)


def _divided(tree: T, count: int | jax.Array) -> T:
    return jax.tree.map(lambda x: x / jnp.asarray(count, x.dtype), tree)


def batched(
    data: Data, split: str = "train", *, examples: int | None = None, size: int = 250
) -> tuple[Batched, Normalization]:
    """Examples of a split in batches of one size, and how they are normalized.

    Args:
      data: a data set in memory.
      split: "train", "validation" or "test".
      examples: at most so many, evenly spread over the split; None for all.
      size: examples per batch at most.

    Raises:
      ValueError: for a data stream, an unknown split, and a number below 1.
    """
    instance("data", data, Data, "a data set in memory, such as jt.data.load('digits')")
    split = one_of("split", split, tuple(data.splits))
    examples = or_none(whole)("examples", examples, low=1)
    own = data.splits[split]
    by = Normalization(np.asarray(data.mean), np.asarray(data.std))  # type: ignore[arg-type]
    found = cut({split: (own.x, own.y)}, whole("size", size, 1), most={split: examples})
    return standardized(found, by), by


def standardized(batches: Batched, by: Normalization) -> Batched:
    """Batches whose examples are normalized where they are not whole numbers."""
    if not np.issubdtype(batches.x.dtype, np.floating):
        return batches
    return batches._replace(x=((batches.x - by.mean) / by.std).astype(np.float32))
