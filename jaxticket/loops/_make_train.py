"""The library's training as one pure function."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree, masks
from jaxticket._check import instance, shown, whole
from jaxticket.data.arrays import Data
from jaxticket.engine import parallel
from jaxticket.engine.held import held_arrays
from jaxticket.engine.learner import Plan
from jaxticket.engine.metrics import METRICS, evaluate, metric_names
from jaxticket.engine.optim import schedule
from jaxticket.engine.parallel import Placement
from jaxticket.engine.program import check_fit
from jaxticket.engine.supervised import Origin, Supervised, network_of
from jaxticket.random import permutation_words, stream
from jaxticket.settings import Training
from jaxticket.typing import Array, Mask, Network, Params, Stats, TrainState

_LOSS = METRICS.index("loss")
Train = Callable[..., tuple[TrainState, dict[str, Array]]]
"""`train(key, mask=None, params=None, stats=None, *, order=0) -> (state, metrics)`."""


def make_train(
    net: Network, data: Data, training: Training, *, start: int = 0, stop: int | None = None
) -> Train:
    """Make the library's training of one network a pure function, to jit, vmap and shard oneself.

    What it gives for `jax.random.key(seed)` is what `jt.find_tickets` trains for this seed, from
    the same initialization with the same batches, augmentation, noise and updates.

    Args:
      net: the network.
      data: a data set in memory; compiled programs take its arrays as constants.
      training: the settings. Monitors are not measured.
      start: the step at which training starts, for tickets that are rewound to it.
      stop: the step at which it ends; the end of `training` if None. The schedule is that of the
        whole training in any case.

    Returns:
      `train(key, mask=None, params=None, stats=None, *, order=0) -> (state, metrics)`:

      - `key`: the root key of the seed, `jax.random.key(seed)`.
      - `mask`: which weights are kept, such as `net.mask()` or that of a ticket; None trains dense.
      - `params`, `stats`: where to start, such as `state.params, state.stats` of another training;
        those of initialization if None.
      - `order`: which order of the examples of its key is seen. `jt.find_tickets` trains level n
        with order n, and with 0 where `jt.Pruning(order="same")`.
      - `state`: a `jt.TrainState` at `stop`. Under `Training.ema` its `average` is the network that
        is evaluated.
      - `metrics`: "step" int32 [evaluation], and by "split/metric", such as "test/accuracy",
        float32 [evaluation], at the start, at every multiple of the interval and at the end; nan
        from the step on at which the loss was not finite.

    Raises:
      ValueError: for data that are not in memory, network, data and training that do not fit
        together, a training with `stop_when`, a teacher with weights of several seeds, and steps
        out of range.

    >>> import jaxticket as jt
    >>> data = jt.data.load("digits")
    >>> net = jt.networks.lenet(data.shape, data.classes, widths=(8,))
    >>> train = jt.make_train(net, data, jt.Training(steps=4, eval_every=2))
    >>> state, metrics = jax.jit(jax.vmap(train))(jax.vmap(jax.random.key)(jnp.arange(3)))
    >>> metrics["test/accuracy"].shape
    (3, 3)
    """
    instance("data", data, Data, "a data set in memory, such as jt.data.load('digits')")
    if data.streamed:
        raise ValueError(
            f"`data` {data.name!r} come in batches from the host, and a pure function needs them "
            f"in memory, such as jt.data.from_arrays makes them; or use jt.find_tickets"
        )
    training = check_fit(net, data, training, parallel.mesh(devices=jax.devices()[:1]))
    if training.stop_when is not None:
        raise ValueError(
            "`training` has a `stop_when`, which is called on the host while networks train; a "
            "pure function ends at a step: pass training.replace(stop_when=None), and `stop`"
        )
    if training.teacher is not None and training.teacher.given.seeds is not None:
        seeds = training.teacher.given.seeds
        raise ValueError(
            f"`training` has a teacher with weights of the seeds {seeds}, and a pure function does "
            f"not know its seed; pass one for all, such as "
            f"jt.Teacher(runs.trained_network(seed={seeds[0]}))"
        )
    stop = training.steps if stop is None else whole("stop", stop, 1, high=training.steps)
    start = whole("start", start, 0, high=stop - 1)
    learner, placement = Supervised(net, training), Placement()
    # on the device: compilers take long over constants of the host
    arrays = jax.tree.map(jnp.asarray, held_arrays(data, training))
    every = training.evaluation_interval
    steps = np.asarray([start, *range(start - start % every + every, stop, every), stop], np.int32)
    names = [f"{split}/{name}" for split in arrays.splits for name in metric_names(training)]
    times = schedule(training)
    given = None if training.teacher is None else training.teacher.given
    teacher = None if given is None else jax.tree.map(jnp.asarray, (given.params, given.stats))

    def train(
        key: Array,
        mask: Mask | None = None,
        params: Params | None = None,
        stats: Stats | None = None,
        *,
        order: Array | int = 0,
    ) -> tuple[TrainState, dict[str, Array]]:
        _check_key(key)
        origin = _origin(net, key, mask, params, stats)
        with jax.default_matmul_precision(training.precision):
            constants = jax.tree.map(jnp.asarray, (jnp.int32(start), order, times, arrays, teacher))
            # a constant is the same on all devices, what is trained under `shard_map` is not
            step, number, at, held, taught_by, origin = _tree.varying_like(
                (*constants, origin), (key, origin)
            )
            plan = Plan(at, number, number, taught_by)
            words = permutation_words(stream(key, "order", number))
            batch = held.batches(training, words, None, placement)

            def update(i: Array, state: TrainState) -> TrainState:
                on = state.step < stop
                return learner.step(state, batch(i, state.step), plan, on, placement)

            def advance(state: TrainState, count: Array) -> tuple[TrainState, Array]:
                state = jax.lax.fori_loop(0, count, update, state)
                found = evaluate(
                    net, *network_of(state), held.batched, held.by, learner.training,
                    splits=len(arrays.splits),
                )  # fmt: skip
                return state, found

            counts = jnp.asarray(np.diff(steps, prepend=steps[:1]))
            state, values = jax.lax.scan(advance, learner.start(origin, step, key=key), counts)
        # no loss follows the last update: weights, or the last evaluation, tell if it diverged
        finite = learner.finite(state) & jnp.all(jnp.isfinite(values[-1, :, _LOSS]))
        diverged = jnp.where(~finite & (state.diverged < 0), jnp.int32(stop), state.diverged)
        lost = (diverged >= 0) & (steps >= diverged)
        columns = jnp.where(lost[:, None], jnp.nan, values.reshape(len(steps), -1)).T
        metrics = {
            "step": _tree.varying_like(jnp.asarray(steps), step),
            **dict(zip(names, columns, strict=True)),
        }
        return state._replace(diverged=diverged), metrics

    return train


def _check_key(key: object) -> None:
    """Raise for what is no key, such as the number of a seed."""
    kind = getattr(key, "dtype", None)
    if kind is None or not (jnp.issubdtype(kind, jax.dtypes.prng_key) or kind == jnp.uint32):
        raise ValueError(
            f"`key` must be the root key of a seed, such as jax.random.key(0), got {shown(key)}; "
            f"for several seeds jax.vmap(train)(jax.vmap(jax.random.key)(jnp.arange(3)))"
        )


def _origin(
    net: Network, key: Array, mask: Mask | None, params: Params | None, stats: Stats | None
) -> Origin:
    """The network to start from: what is not given is that of initialization."""
    mask = net.mask() if mask is None else mask
    masks.require_bools("mask", mask, "train(key, mask)")
    masks.require_like("mask", mask, net.shapes[0])
    if params is None and stats is not None:
        raise ValueError("`stats` are given without `params`; pass those that they belong to")
    if params is not None and stats is None and jax.tree.leaves(net.shapes[1]):
        raise ValueError(
            "`stats` are needed with `params`: the network has statistics, such as those of "
            "BatchNorm; pass state.stats"
        )
    if params is None:
        params, stats = net.init(stream(key, "init"))
    _tree.same_structure("params", params, net.shapes[0], of="network")
    stats = net.shapes[1] if stats is None else stats
    return Origin(params, stats, jax.tree.map(jnp.asarray, mask))
