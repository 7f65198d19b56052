"""What a student learns from its teachers, as an objective."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import TypeVar

import jax
import jax.numpy as jnp

from jaxticket import _show, masks
from jaxticket._check import flag, number, one_of, settle, share, texts, whole
from jaxticket.sparsify.learned import knowledge
from jaxticket.sparsify.learned.objectives import Outputs, View
from jaxticket.typing import Array, Params

T = TypeVar("T")


def _on_features(loss: Callable[..., Array]) -> Callable[[View, Outputs, Outputs], Array]:
    def of(view: View, student: Outputs, teacher: Outputs) -> Array:
        del view
        return loss(student.features, teacher.features)

    return of


def _logits(view: View, student: Outputs, teacher: Outputs) -> Array:
    del view
    return knowledge.logits(_given(student.logits), _given(teacher.logits))


def _prunable(view: View, tree: Params | None) -> Params:
    return masks.map_with(lambda _, g: g, view.soft, _given(tree), other=jnp.zeros_like)


def _direction(view: View, student: Outputs, teacher: Outputs) -> Array:
    return knowledge.direction(_prunable(view, student.jacobian), _prunable(view, teacher.jacobian))


def _direction_of_examples(view: View, student: Outputs, teacher: Outputs) -> Array:
    """The mean over examples of `direction` between the Jacobians of all logits of one."""
    slopes = view.of_example
    assert slopes is not None, "the view has no single examples"

    # Jacobians of one example at a time are held, and made again for the gradient
    @jax.checkpoint
    def one(at: Array) -> Array:
        own = masks.map_with(
            lambda m, j: j * m[None],
            view.soft,
            slopes(_given(student.params), at),
            other=lambda j: j,
        )
        other = slopes(_given(teacher.params), at)
        return knowledge.direction(_prunable(view, own), _prunable(view, other))

    return jnp.mean(jax.lax.map(one, jnp.arange(len(view.labels))))


def _input_direction(view: View, student: Outputs, teacher: Outputs) -> Array:
    del view
    return knowledge.input_direction(_given(student.sensitivity), _given(teacher.sensitivity))


def _spectra(view: View, student: Outputs, teacher: Outputs) -> Array:
    return knowledge.spectra(_given(student.params), _given(teacher.params), view.soft)


# name -> what it needs of either network, and the loss
KNOWLEDGE: dict[str, tuple[str, Callable[[View, Outputs, Outputs], Array]]] = {
    "direction": ("jacobian", _direction),
    "input_direction": ("sensitivity", _input_direction),
    "relations": ("features", _on_features(knowledge.relations)),
    "similarities": ("features", _on_features(knowledge.similarities)),
    "probabilities": ("features", _on_features(knowledge.probabilities)),
    "attention": ("features", _on_features(knowledge.attention)),
    "distances": ("features", _on_features(knowledge.distances)),
    "flows": ("features", _on_features(knowledge.flows)),
    "contrast": ("features", _on_features(knowledge.contrast)),
    "logits": ("logits", _logits),
    "spectra": ("params", _spectra),
}
"""Further knowledge of the teachers by name, next to the labels and their soft answers.
"""

NEGLIGIBLE = 1e-8
"""Further knowledge that weighs less than this share of all else is not computed any more: float32
resolves 6e-8."""


@dataclasses.dataclass(frozen=True)
class Distillation:
    r"""`alpha * CE + T^2 (1 - alpha) * KD + gamma * omega ** e * (sum of further knowledge)`.

    CE is the training's loss, KD is KL(softmax(t / T) || softmax(s / T)), of labels that are not
    classes that of `answers.divergence`, e = 0, 1, ... the epoch; all terms but the first are
    means over the teachers. From the first epoch on where `gamma * omega ** e` is below
    `NEGLIGIBLE * (alpha + T^2 (1 - alpha))`, searches leave further knowledge out (`fades`).

    Attributes:
      alpha: share of the labels.
      temperature: T.
      gamma: weight of the further knowledge at the start (not printed in the paper).
      omega: by what it falls from epoch to epoch.
      epochs: of the search.
      knowledge: names in `KNOWLEDGE`; the paper's two are "direction" and "relations".
      ensemble: "mean" of the teachers' losses, or "agreement": weights by which the gradients of
        their soft answers make the shortest sum (Du et al. 2020).
      double_average: divide by the number of teachers once more, as the paper's formulas have it,
        whose weights 1/K and factor 1/K are both printed.
      jacobian: what "direction" compares: "mean" the gradient of the batch's mean logit of the
        label, one vector; "examples" each example's Jacobian of all logits, as printed, which takes
        a backward pass for each class and example and is for networks without BatchNorm, whose
        statistics tie examples together. Either is by the student's weights under the mask, so that
        it has the mask's factor.

    Reference: KD-LTS, Eqs. 1 to 8 and Table 7.
    """

    alpha: float = 0.9
    temperature: float = 10.0
    gamma: float = 1.0
    omega: float = 0.2
    epochs: int = 150
    knowledge: tuple[str, ...] = ("direction", "relations")
    ensemble: str = "mean"
    double_average: bool = False
    scale: float = 1.0
    needs: tuple[str, ...] = ()
    jacobian: str = "mean"

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, share, "alpha", zero=True)
        settle(self, number, "temperature", low=1e-12)
        settle(self, number, "gamma", "omega", low=0)
        settle(self, number, "scale", low=0)
        settle(self, whole, "epochs", low=1)
        settle(self, flag, "double_average")
        if isinstance(self.knowledge, str):
            raise ValueError(
                f"`knowledge` must be a sequence of names, got {self.knowledge!r}; for one write "
                f"({self.knowledge!r},)"
            )
        settle(self, texts, "knowledge", like='("direction", "relations")')
        settle(self, texts, "needs", like='("logits",)')
        for name in self.knowledge:
            one_of("knowledge", name, tuple(KNOWLEDGE))
        settle(self, one_of, "ensemble", choices=("mean", "agreement"))
        settle(self, one_of, "jacobian", choices=("mean", "examples"))
        if self.jacobian != "mean" and "direction" not in self.knowledge:
            raise ValueError(
                f"`jacobian` {self.jacobian!r} is of the knowledge 'direction', which is not among "
                f"{self.knowledge}; leave one of them out"
            )

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        """What it needs of each teacher, and of the student."""
        more = [self._knowledge(name)[0] for name in self.knowledge]
        return tuple(dict.fromkeys(["logits", *more]))

    @property
    def by_example(self) -> bool:
        """Whether it looks at examples one by one, which statistics of the batch do not allow."""
        return self.jacobian == "examples"

    def _knowledge(self, name: str) -> tuple[str, Callable[[View, Outputs, Outputs], Array]]:
        if name == "direction" and self.by_example:
            return "params", _direction_of_examples
        return KNOWLEDGE[name]

    @property
    def passes(self) -> tuple[float, float]:
        """Forward and backward passes of the student over each example."""
        return 1.0 + self._slopes, 1.0 + self._slopes

    @property
    def teacher_passes(self) -> tuple[float, float]:
        """Forward and backward passes of a teacher that is asked, over each example."""
        return 1.0, float(self._slopes)

    @property
    def _slopes(self) -> float:
        if self.by_example:
            # as many as there are logits, which nobody has told
            return math.nan
        return ("direction" in self.knowledge) + ("input_direction" in self.knowledge)

    @property
    def fades(self) -> float | None:
        """The share of the search after which `rest` takes its place; None for never."""
        others = self.alpha + self.temperature**2 * (1 - self.alpha)
        for epoch in range(self.epochs if self.knowledge else 0):
            if self.gamma * self.omega**epoch < NEGLIGIBLE * others:
                return epoch / self.epochs
        return None

    @property
    def rest(self) -> Distillation:
        """It without further knowledge."""
        return dataclasses.replace(self, knowledge=(), jacobian="mean")

    def __call__(self, view: View) -> Array:
        """The objective of a masked network; see `View`."""
        own = view.outputs(view.masked, self.teacher_needs)
        student = _together(view, own)
        teachers = [_together(view, teacher) for teacher in view.teachers]
        logits = _given(student.logits)
        weights = self._weights(view, logits, teachers)
        if self.double_average:
            weights = weights / len(teachers)
        # every device that shares the batch has all of it here; the mean brings them together
        labels = view.whole(view.labels)
        answers = [
            view.mean(knowledge.soft_targets(logits, _given(t.logits), self.temperature, labels))
            for t in teachers
        ]
        total = self.alpha * view.of_logits(_given(own.logits))
        total += self.temperature**2 * (1 - self.alpha) * jnp.dot(weights, jnp.stack(answers))
        if self.knowledge and self.gamma:
            # a quotient of whole numbers may lie a bit below its epoch
            epoch = jnp.floor(jnp.float32(view.done) * self.epochs + 1e-4)
            more = [
                view.mean(
                    sum(
                        (
                            self._knowledge(name)[1](view, student, teacher)
                            for name in self.knowledge
                        ),
                        start=jnp.float32(0),
                    )
                )
                for teacher in teachers
            ]
            total += self.gamma * self.omega**epoch * jnp.dot(weights, jnp.stack(more))
        return total

    def _weights(self, view: View, logits: Array, teachers: list[Outputs]) -> Array:
        count = len(teachers)
        if self.ensemble == "mean" or count == 1:
            return jnp.full(count, 1 / count, jnp.float32)
        labels = view.whole(view.labels)
        slopes = [
            jax.grad(knowledge.soft_targets)(logits, _given(t.logits), self.temperature, labels)
            for t in teachers
        ]
        # every device has found the same, which its mean lets JAX know
        return jnp.stack([view.mean(w) for w in knowledge.agreement(jnp.stack(slopes))])


def _given(x: T | None) -> T:
    assert x is not None, "the objective's needs leave this out"
    return x


def _together(view: View, outputs: Outputs) -> Outputs:
    """The outputs for the whole batch, where devices share it."""
    by_example = {
        name: jax.tree.map(view.whole, value)
        for name in ("logits", "features", "sensitivity")
        if (value := getattr(outputs, name)) is not None
    }
    return outputs._replace(**by_example)
