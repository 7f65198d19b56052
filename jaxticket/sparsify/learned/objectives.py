"""What is minimised: functions of the masked network, the dense network and a batch.

`objective(view) -> scalar`. An objective that compares with the dense network says so with `needs`,
so that the dense network's outputs are computed once for each batch; `scale` is the factor that its
paper uses. A new one is a function and a line of `OBJECTIVES`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import ClassVar, NamedTuple, Protocol, TypeVar, cast

import jax
import jax.numpy as jnp

from jaxticket import _show, _tree, masks
from jaxticket._check import from_table, number, texts
from jaxticket.labels import own_logits
from jaxticket.losses import cross_entropy
from jaxticket.sparsify.learned import answers
from jaxticket.typing import AnyArray, Array, Params

SMALL = 1e-9


class Outputs(NamedTuple):
    """What a network says of the batch; None for what the objective does not need.

    Attributes:
      logits: [batch, classes], or as `jaxticket.labels` has it for labels of another kind.
      features: what its taps gave, in the order of the forward pass, and the softmax (the sigmoids
        of several labels; outputs that are numbers as they are).
      gradient: of its loss, a tree like the params.
      jacobian: of the mean logit of the labels (`labels.own_logits`), the mask's factor included,
        a tree like the params.
      sensitivity: of the sum of the labels' logits by each example, [batch, ...]: of its own logit,
        but for statistics of the batch, which connect examples.
      params: its weights.
    """

    logits: Array | None = None
    features: tuple[Array, ...] | None = None
    gradient: Params | None = None
    jacobian: Params | None = None
    sensitivity: Array | None = None
    params: Params | None = None


class View(NamedTuple):
    """What an objective looks at.

    Attributes:
      masked: the weights times the soft mask.
      soft: what the weights were multiplied by, the soft mask with its factors; None at leaves that
        cannot be pruned, as in masks.
      labels: int32 [batch], or of another kind [batch, ...], as data have them.
      logits: `logits(params) -> [batch, classes]`, or [batch, ...] as of `Outputs`, with the
        statistics of the batch.
      tapped: `tapped(params)`, the logits and the features of `Outputs` of one forward pass.
      sensitivity: `sensitivity(params)`, as in `Outputs`.
      mean: the mean over the batch, over all devices that share it, of a number per example.
      whole: an array [batch, ...] of this device's examples with those of all that share the batch.
      dense: what the dense network says.
      teachers: what each teacher says; empty where a method has none.
      done: share of the round that is done.
      loss_of: `loss_of(logits, labels) -> [batch]`, the loss that the training names, with its
        label smoothing.
      of_example: `of_example(params, i)`, the derivative of all logits of one example of this
        device by the params, a tree of [logit, ...], for networks without statistics of the batch.
    """

    masked: Params
    soft: Params
    labels: Array
    logits: Callable[[Params], Array]
    tapped: Callable[[Params], tuple[Array, tuple[Array, ...]]]
    sensitivity: Callable[[Params], Array]
    mean: Callable[[Array], Array]
    whole: Callable[[Array], Array]
    dense: Outputs
    teachers: tuple[Outputs, ...] = ()
    done: Array | float = 0.0
    loss_of: Callable[[Array, Array], Array] = cross_entropy
    of_example: Callable[[Params, Array], Params] | None = None

    def loss(self, params: Params) -> Array:
        """Mean loss of a network."""
        return self.of_logits(self.logits(params))

    def of_logits(self, logits: Array) -> Array:
        """Mean loss of logits."""
        return self.mean(self.loss_of(logits, self.labels))

    def gradient(self) -> Params:
        """The gradient of the masked network's loss by the weights, the mask's factor included."""
        return self.by_weights(jax.grad(self.loss)(self.masked))

    def by_weights(self, gradient: Params) -> Params:
        """A gradient by the masked weights as one by the weights under the mask."""
        return masks.map_with(jnp.multiply, self.soft, gradient, other=lambda g: g)

    def features(self, params: Params) -> tuple[Array, ...]:
        """The features of a network, as in `Outputs`."""
        return self.tapped(params)[1]

    def outputs(self, params: Params, needs: tuple[str, ...]) -> Outputs:
        """Answers of a network, and its gradients with respect to weights.

        The gradients include the factor of the mask: they are with respect to the weights under the
        mask.

        One forward pass gives logits, features and Jacobian: the compiler does not find out by
        itself that several are the same.
        """

        def of_labels(params: Params) -> tuple[Array, tuple[Array, tuple[Array, ...] | None]]:
            logits, features = (
                self.tapped(params) if "features" in needs else (self.logits(params), None)
            )
            return self.mean(own_logits(logits, self.labels)), (logits, features)

        jacobian = logits = features = None
        if "jacobian" in needs:
            slope, (logits, features) = jax.grad(of_labels, has_aux=True)(params)
            jacobian = self.by_weights(slope)
        elif "logits" in needs or "features" in needs:
            _, (logits, features) = of_labels(params)
        return Outputs(
            logits if "logits" in needs else None,
            features,
            self.gradient() if "gradient" in needs else None,
            jacobian,
            self.sensitivity(params) if "sensitivity" in needs else None,
            params if "params" in needs else None,
        )


Objective = Callable[[View], Array]


class _Marked(Protocol):
    """What an objective carries: the arguments of `objective`."""

    scale: float
    needs: tuple[str, ...]
    passes: tuple[int, int]
    answers: bool


def objective(
    *, scale: float = 1.0, needs: tuple[str, ...] = (), passes: tuple[int, int] = (1, 1),
    answers: bool = False,
) -> Callable[..., Objective]:  # fmt: skip
    """Mark a function as an objective.

    With its factor, what it needs of the dense network, the forward and backward passes over each
    example that its gradient takes, and whether it learns the dense network's answers, which are
    meaningless before that network is trained.
    """
    scale = number("scale", scale)
    needs = texts("needs", needs, like='("logits",)')

    def mark(function: Objective) -> Objective:
        marked = cast(_Marked, function)
        marked.scale, marked.needs = scale, needs
        marked.passes, marked.answers = passes, answers
        return function

    return mark


def needs_of(function: Objective) -> tuple[str, ...]:
    """What an objective needs of the dense network."""
    return tuple(getattr(function, "needs", ()))


def teacher_needs_of(function: Objective) -> tuple[str, ...]:
    """What an objective needs of each teacher."""
    return tuple(getattr(function, "teacher_needs", ()))


def fades_of(function: Objective) -> float | None:
    """Give the share of a round after which an objective is close to that of `rest_of`.

    That one is cheaper; None for never.
    """
    fades = getattr(function, "fades", None)
    return None if fades is None else float(fades)


def rest_of(function: Objective) -> Objective:
    """What is left of an objective that fades."""
    return getattr(function, "rest", function)


def passes_of(function: Objective) -> tuple[float, float]:
    """Forward and backward passes over each example; nan where nobody knows."""
    forward, backward = getattr(function, "passes", (math.nan, math.nan))
    return forward, backward


def teacher_passes_of(function: Objective) -> tuple[float, float]:
    """Forward and backward passes of a teacher over each example; nan where nobody knows."""
    forward, backward = getattr(function, "teacher_passes", (math.nan, math.nan))
    return forward, backward


def learns_answers(function: Objective) -> bool:
    """Whether an objective learns what the dense network answers."""
    return bool(getattr(function, "answers", False))


def parts_of(function: Objective) -> tuple[Objective, ...]:
    """An objective and those that it is made of."""
    found = [function]
    while isinstance(found[-1], (OfTeacher, DenseSized)):
        found.append(found[-1].inner)
    return tuple(found)


def scale_of(function: Objective) -> float:
    """The factor of an objective; 1 for one that was not marked."""
    return float(getattr(function, "scale", 1.0))


@objective(scale=100.0)
def loss(view: View) -> Array:
    """The training's loss of the masked network, such as its cross-entropy."""
    return view.loss(view.masked)


@objective(scale=10_000.0, needs=("logits",), passes=(2, 1))
def change_of_loss(view: View) -> Array:
    """`|L(masked) / L(dense) - 1|`, what SNIP linearises."""
    dense = view.of_logits(_given(view.dense.logits))
    return jnp.abs(view.loss(view.masked) / dense - 1)


@objective(passes=(2, 2))
def gradient_norm(view: View) -> Array:
    """Minus the Euclidean norm of the gradient of the masked network's loss.

    By all its parameters (biases and normalization too), which GraSP linearizes.
    """
    gradient = view.gradient()
    # the norm's own gradient is nan at 0
    return -jnp.sqrt(_tree.dot(gradient, gradient) + SMALL**2)


@objective(scale=100.0, needs=("features",), passes=(2, 1))
def feature(view: View) -> Array:
    """Squared distance between the activations of the masked and the dense network.

    Mean over layers, each standardized per example; the softmax counts as a layer.
    """
    pairs = zip(view.features(view.masked), _given(view.dense.features), strict=True)
    return sum(
        (view.mean(jnp.mean((_by_example(m) - _by_example(d)) ** 2, axis=1)) for m, d in pairs),
        start=jnp.float32(0),
    ) / len(_given(view.dense.features))


@objective(scale=100.0, needs=("gradient",), passes=(3, 3))
def gradient_matching(view: View) -> Array:
    """Squared distance between the gradients of the masked and the dense network's loss.

    Mean over prunable leaves, each standardized within its leaf.
    """
    parts = [
        jnp.mean((_standard(m) - _standard(d)) ** 2)
        for _, _, m, d in masks.items(view.soft, view.gradient(), view.dense.gradient)
    ]
    return sum(parts, start=jnp.float32(0)) / len(parts)


@objective(scale=100.0, needs=("logits",), passes=(2, 1), answers=True)
def reverse_kl(view: View) -> Array:
    """Mean over the batch of KL(masked || dense) = sum p_m (log p_m - log p_d).

    Of labels that are not classes see `answers.divergence`.
    """
    dense = _given(view.dense.logits)
    return view.mean(answers.divergence(view.logits(view.masked), dense, view.labels))


@objective(scale=100.0, needs=("logits",), passes=(2, 1), answers=True)
def forward_kl(view: View) -> Array:
    """Mean over the batch of KL(dense || masked) = sum p_d (log p_d - log p_m).

    Of labels that are not classes see `answers.divergence`.
    """
    dense = _given(view.dense.logits)
    return view.mean(answers.divergence(dense, view.logits(view.masked), view.labels))


OBJECTIVES: dict[str, Objective] = {
    "loss": loss,
    "change_of_loss": change_of_loss,
    "gradient_norm": gradient_norm,
    "feature": feature,
    "gradient_matching": gradient_matching,
    "reverse_kl": reverse_kl,
    "forward_kl": forward_kl,
}
"""The objectives of Arora and Teuscher 2025 (their code for all but forward_kl)."""


@dataclasses.dataclass(frozen=True)
class OfTeacher:
    """An objective that compares with a teacher.

    The teacher is a trained network; without it, the objective compares with the dense network at
    the weights of the search.

    Attributes:
      objective: a name in `OBJECTIVES` or a function of a `View`, one that compares.
    """

    objective: str | Objective

    __repr__ = _show.code

    def __post_init__(self) -> None:
        if not needs_of(self.inner):
            raise ValueError(
                f"`objective` {self.objective!r} compares with no other network, so that it has no "
                f"target; leave that out, or take one that compares, such as 'reverse_kl'"
            )

    @property
    def inner(self) -> Objective:
        """The objective that it changes."""
        return from_table("objective", self.objective, OBJECTIVES)

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        """What it needs of the teacher."""
        return needs_of(self.inner)

    @property
    def scale(self) -> float:
        """The objective's."""
        return scale_of(self.inner)

    @property
    def passes(self) -> tuple[float, float]:
        """The objective's, those of the other network included."""
        return passes_of(self.inner)

    teacher_passes: ClassVar[tuple[float, float]] = (0.0, 0.0)

    def __call__(self, view: View) -> Array:
        """The objective of a masked network; see `View`."""
        found = [self.inner(view._replace(dense=teacher)) for teacher in view.teachers]
        return sum(found, start=jnp.float32(0)) / len(found)


@dataclasses.dataclass(frozen=True)
class DenseSized:
    """An objective of the masked network with rescaled logits.

    They are multiplied to be as large as those of the dense network.

    With z' the logits less their mean over classes (those of several labels as they are), z of the
    masked network is multiplied by rms(z'_dense) / rms(z'_masked), the root mean squares over the
    batch and classes. The gradient
    goes through the masked network's size; the dense one's is a constant. The value does not change
    with the size of the masked network's logits, which shrinks with the density where no layer
    normalizes: there a search for a lower loss otherwise raises it first. In LeNet-300-100 with
    1.15% of its weights tickets of CTS train to 96.5% with this and 94.0% without
    (experiments/kd_lts/against_rewinding.py).

    Attributes:
      objective: of the logits: "loss", "change_of_loss", "reverse_kl", "forward_kl" or a function
        of a `View` that needs no more of the dense network than its logits, and no teachers.
    """

    objective: str | Objective

    __repr__ = _show.code

    def __post_init__(self) -> None:
        function = self.inner
        others = {*needs_of(function)} - {"logits"}
        if others or teacher_needs_of(function) or function is gradient_norm:
            raise ValueError(
                f"`objective` {self.objective!r} looks at more than logits, whose size alone is "
                f"matched; take 'loss', 'change_of_loss', 'reverse_kl' or 'forward_kl', and "
                f"OfTeacher(DenseSized(...)) for a teacher"
            )

    @property
    def inner(self) -> Objective:
        """The objective that it changes."""
        return from_table("objective", self.objective, OBJECTIVES)

    needs: ClassVar[tuple[str, ...]] = ("logits",)

    @property
    def scale(self) -> float:
        """The objective's."""
        return scale_of(self.inner)

    @property
    def passes(self) -> tuple[float, float]:
        """The objective's, and a forward pass of the dense network where it has none."""
        forward, backward = passes_of(self.inner)
        return forward + (not needs_of(self.inner)), backward

    @property
    def answers(self) -> bool:
        """Whether the objective learns the dense network's answers."""
        return learns_answers(self.inner)

    def __call__(self, view: View) -> Array:
        """The objective of a masked network; see `View`."""

        def size(logits: Array) -> Array:
            squares = answers.centered(logits, view.labels) ** 2
            squares = squares.reshape(squares.shape[0], -1)
            return jnp.sqrt(view.mean(jnp.mean(squares, axis=1)) + SMALL**2)

        wanted = size(_given(view.dense.logits))

        def logits(params: Params) -> Array:
            own = view.logits(params)
            return own * (wanted / size(own))

        return self.inner(view._replace(logits=logits))


_Given = TypeVar("_Given")


def _given(value: _Given | None) -> _Given:
    assert value is not None, "the objective's `needs` leave this out"
    return value


def _by_example(x: Array) -> Array:
    """[batch, everything else], with mean 0 and (unbiased) standard deviation 1 per example."""
    x = x.reshape(x.shape[0], -1).astype(jnp.float32)
    centered = x - jnp.mean(x, axis=1, keepdims=True)
    variance = jnp.sum(centered**2, axis=1, keepdims=True) / max(1, x.shape[1] - 1)
    # the square root's own gradient is infinite at 0, where all units are silent
    return centered / (jnp.sqrt(variance + SMALL**2) + SMALL)


def _standard(x: AnyArray) -> Array:
    """Mean 0 and (unbiased) standard deviation 1."""
    return _by_example(jnp.reshape(x, (1, -1)))[0]
