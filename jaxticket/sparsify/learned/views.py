"""What objectives look at: the masked network, the dense one and the teachers on one batch."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxticket.engine.dense import Networks
from jaxticket.engine.metrics import computed, trained_losses
from jaxticket.labels import own_logits
from jaxticket.settings import Training
from jaxticket.sparsify.learned import answers
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.objectives import Outputs, View
from jaxticket.sparsify.learned.teachers import Teaching
from jaxticket.typing import Array, Key, Network, Params, Stats, Tap

SLOPES = ("jacobian", "sensitivity")
"""What `Outputs` has of derivatives of logits."""


def viewer(
    net: Network,
    training: Training,
    stats: Stats,
    x: Array,
    y: Array,
    *,
    key: Key,
    axis: tuple[str, int] | None = None,
    train: bool = True,
) -> Callable[..., View]:
    """Makes views of this batch: (masked weights, soft mask, dense, other fields) -> view.

    Args:
      net, training: the network, and the settings of the search.
      stats: statistics of the network; those of the batch normalise where `train`.
      x, y: normalised images and labels, of this device.
      key: for dropout.
      axis: name and size of the mesh axis that shares the batch.
      train: as of `Network.apply`.
    """

    def apply(params: Params, tap: Tap | None = None, x: Array = x) -> Array:
        return net.apply(
            computed(net, params, training.compute_dtype),
            stats,
            x,
            train=train,
            key=key,
            axis_name=None if axis is None else axis[0],
            tap=tap,
        )[0].astype(jnp.float32)

    def tapped(params: Params) -> tuple[Array, tuple[Array, ...]]:
        seen: list[Array] = []

        def tap(name: str, value: Array) -> Array:
            # the output layer is there as probabilities; what is not behind its ReLU is put there
            if name != net.output:
                seen.append(jax.nn.relu(value))
            return value

        logits = apply(params, tap)
        return logits, (*seen, answers.certainties(logits, y))

    def sensitivity(params: Params) -> Array:
        def of_labels(x: Array) -> Array:
            return jnp.sum(own_logits(apply(params, x=x), y))

        return jax.grad(of_labels)(x)

    def of_example(params: Params, at: Array) -> Params:
        if axis is not None:
            # devices have examples of their own: a gradient by what they share would be summed
            params = jax.lax.pcast(params, axis[0], to="varying")
        one = jax.lax.dynamic_index_in_dim(x, at)
        return jax.jacrev(lambda params: apply(params, x=one).reshape(-1))(params)

    def mean(values: Array) -> Array:
        own = jnp.mean(values)
        return own if axis is None else jax.lax.pmean(own, axis[0])

    def loss_of(logits: Array, labels: Array) -> Array:
        return trained_losses(training, logits, labels)

    def whole(values: Array) -> Array:
        return values if axis is None else jax.lax.all_gather(values, axis[0], tiled=True)

    def make(masked: Params, soft: Params, dense: Outputs, **more: Any) -> View:
        return View(
            masked, soft, y, apply, tapped, sensitivity, mean, whole, dense,
            loss_of=loss_of, of_example=of_example, **more,
        )  # fmt: skip

    return make


def of_dense(method: Method, view_of: Callable[..., View], weights: Params) -> Outputs:
    """What the objective needs of the dense network, computed once."""
    ones = jax.tree.map(jnp.ones_like, weights)
    view = view_of(weights, ones, Outputs())
    return jax.lax.stop_gradient(view.outputs(weights, method.needs))


def of_teachers(
    teaching: Teaching,
    needs: tuple[str, ...],
    ask: Callable[..., Any],
    teachers: Networks,
    *,
    key: Key,
) -> tuple[Outputs, ...]:
    """What an objective needs of each teacher, or of one that is drawn, computed once.

    Teachers answer as trained networks do, with the running statistics of BatchNorm. Slopes are
    those of the function that the student is in training, with the statistics of the batch:
    otherwise a network would have much to learn from itself.

    Args:
      teaching: which of them are asked.
      needs: names of fields of `Outputs`.
      ask: `ask(stats=stats, train=train)` makes views of the batch for a network with these
        statistics.
      teachers: params and statistics, [teacher, ...].
      key: for the draw.
    """
    chosen: list[Any] = list(range(teaching.count))
    if teaching.one:
        chosen = [jax.random.randint(key, (), 0, teaching.count)]
    found = []
    for number in chosen:
        params, stats = jax.tree.map(lambda x, n=number: x[n], teachers)
        # without statistics there is one function, and one forward pass for all
        slopes = tuple(name for name in needs if name in SLOPES and jax.tree.leaves(stats))
        answers = tuple(name for name in needs if name not in slopes)
        said = Outputs()
        for train, asked in ((False, answers), (True, slopes)):
            if asked:
                ones = jax.tree.map(jnp.ones_like, params)
                view = ask(stats=stats, train=train)(params, ones, Outputs())
                own = view.outputs(params, asked)
                said = said._replace(**{name: getattr(own, name) for name in asked})
        found.append(jax.lax.stop_gradient(said))
    return tuple(found)
