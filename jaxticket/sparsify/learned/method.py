"""A method of learning masks: a choice of each of the four parts."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from jaxticket import _show, masks
from jaxticket._check import (
    flag,
    from_table,
    instance,
    is_integer,
    nearest,
    number,
    one_of,
    or_none,
    settle,
    several,
    share,
    shown,
    text,
    whole,
)
from jaxticket.pruning.keep import count
from jaxticket.settings import Training, has_own_rate
from jaxticket.sparsify.learned.constraints import Constraint
from jaxticket.sparsify.learned.objectives import (
    OBJECTIVES,
    Objective,
    fades_of,
    needs_of,
    passes_of,
    rest_of,
    scale_of,
    teacher_needs_of,
    teacher_passes_of,
)
from jaxticket.sparsify.learned.relaxations import Relaxation, TopK
from jaxticket.sparsify.learned.teachers import Teaching
from jaxticket.typing import Mask

UNCONSTRAINED = Constraint()
LENGTHS = {"short": 0.125, "half": 0.5, "long": 1.0}
"""Lengths of a search, as shares of the training's steps (Arora and Teuscher 2025)."""
LONGEST = 10.0
"""The largest share; beyond, a number of steps is meant, which is a whole number."""
_CHANGEABLE = (
    "optimizer", "lr", "momentum", "nesterov", "b1", "b2", "eps", "weight_decay", "warmup",
    "schedule", "gamma", "final_lr", "label_smoothing", "clip_norm", "batch_size", "attack",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Method:
    """How masks are learned.

    Attributes:
      name: what tables and run folders call it.
      relaxation: how scores become a mask.
      objective: what is minimised: a name in `OBJECTIVES` or a function of a `View`.
      constraint: what holds the density.
      optimizer: fields of `Training` that the search changes: optimizer, lr, momentum, ... What is
        not there is that of the training, but for warmup, milestones, label smoothing, clipping and
        attacks, which are off, weight decay, which is off unless weights are learned too, and
        augmentation (see `augment`). Its batches are taken whole, and nothing is averaged.
        `trainable` and `decay` of the training hold for weights that are learned too: scores are
        learned of frozen weights as well.
      drop_at: the learning rate is multiplied by the optimizer's `gamma` when this share of a round
        is done; None for no drop. Several drops as a tuple.
      length: of the search, as a share of the training's steps: a number, "short" (1/8), "half" or
        "long" (1). `jt.search(steps=...)` says it otherwise.
      rounds: parts of the search that each go through all schedules again.
      scale: factor of the objective; None for the objective's own.
      augment: whether images are augmented as in training.
      learn_weights: also train the weights, with the scores' optimizer and `weight_decay`; the
        tickets are rewound all the same.
      decay_scores: whether the optimizer's weight decay acts on scores (on weights it always does).
      rescale: multiply the weights of each layer by its size over its number of ones, in the search
        and in the tickets.
      scaled_tickets: multiply the prunable weights of tickets by the relaxation's `height`, so that
        the network that was searched is the one that is kept; False leaves the bare weights.
      normalize: divide the gradient of the scores by its largest size, in each "layer" or over all
        ("global"), so that layers move alike; None to leave it.
      inverted: keep the entries with the lowest scores in the end, a control.
      teaching: the teachers that the objective compares with, or None.
    """

    name: str
    relaxation: Relaxation
    objective: str | Objective = "loss"
    constraint: Constraint = UNCONSTRAINED
    optimizer: tuple[tuple[str, Any], ...] = ()
    drop_at: tuple[float, ...] = ()
    length: float | str = 1.0
    rounds: int = 1
    scale: float | None = None
    augment: bool = True
    learn_weights: bool = False
    decay_scores: bool = False
    rescale: bool = False
    scaled_tickets: bool = True
    normalize: str | None = None
    inverted: bool = False
    teaching: Teaching | None = None

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        text("name", self.name)
        instance("relaxation", self.relaxation, Relaxation, "a relaxation, such as Concrete()")
        from_table("objective", self.objective, OBJECTIVES)
        instance("constraint", self.constraint, Constraint, "a constraint, such as GradBalance()")
        settle(self, several, "drop_at", check=share, like="(0.5, 0.75)", empty=True)
        settle(self, several, "optimizer", check=_pair, like='(("lr", 0.1),)', empty=True)
        settle(self, whole, "rounds", low=1)
        settle(self, or_none(number), "scale")
        settle(self, flag, "augment", "learn_weights", "decay_scores", "rescale", "inverted")
        if self.normalize is not None:
            settle(self, one_of, "normalize", choices=("layer", "global"))
        if isinstance(self.length, str):
            one_of("length", self.length, tuple(LENGTHS))
        else:
            settle(self, number, "length", low=1e-12, high=LONGEST)
        if self.teaching is not None:
            instance("teaching", self.teaching, Teaching, "a Teaching, or None")
        self._check_optimizer()
        settle(self, flag, "scaled_tickets")
        if not self.scaled_tickets and self.relaxation.height == 1:
            raise ValueError(
                f"`scaled_tickets` False has no factor to leave out: the masks of "
                f"{self.relaxation!r} become 1; leave it True, or take scaled=True"
            )
        if bool(self.teacher_needs) != (self.teaching is not None):
            raise ValueError(
                f"`teaching` must be a Teaching for an objective that compares with teachers, and "
                f"None for others; got {self.teaching!r} with objective {self.objective!r}"
            )
        if self.learn_weights and self.needs:
            raise ValueError(
                f"`learn_weights` needs an objective of the masked network alone, got "
                f"{self.objective!r}, which compares with the dense one"
            )
        if self.constraint.stretches and self.rounds > 1:
            raise ValueError(
                f"`rounds` must be 1 with a constraint that freezes, got {self.rounds}"
            )
        if self.constraint.stretches and self.inverted:
            raise ValueError(
                "`inverted` has nothing to turn round where a constraint freezes all but the ticket"
            )

    def _check_optimizer(self) -> None:
        """Raises for what no training takes, and for decay that nothing feels."""
        changes = dict(self.optimizer)
        for name in changes:
            if name not in _CHANGEABLE:
                raise ValueError(
                    f"`optimizer` may not change {name!r}; {nearest(name, _CHANGEABLE)}"
                )
        tried: dict[str, Any] = {"milestones": (1,)} if self.drop_at else {}
        if {"momentum", "nesterov"} & set(changes):
            tried["optimizer"] = "momentum"
        try:
            Training().replace(**{**tried, **changes})
        except ValueError as error:
            raise ValueError(f"`optimizer` of method {self.name!r}: {error}") from None
        felt = self.decay_scores or self.learn_weights
        if changes.get("weight_decay") and not felt:
            raise ValueError(
                f"`optimizer` has weight_decay={changes['weight_decay']!r}, which acts with "
                f"decay_scores=True or learn_weights=True only; leave one of them out"
            )
        if self.decay_scores and not self.learn_weights and not changes.get("weight_decay"):
            raise ValueError(
                "`decay_scores` has no effect without a weight_decay in `optimizer`; leave it out"
            )

    @property
    def function(self) -> Objective:
        """The objective."""
        return from_table("objective", self.objective, OBJECTIVES)

    @property
    def needs(self) -> tuple[str, ...]:
        """What the objective needs of the dense network."""
        return needs_of(self.function)

    @property
    def teacher_needs(self) -> tuple[str, ...]:
        """What the objective needs of each teacher."""
        return teacher_needs_of(self.function)

    @property
    def passes(self) -> tuple[float, float]:
        """Count the forward and backward passes of a step over each example.

        Those of teachers included; nan where they are not known.
        """
        own = np.asarray(passes_of(self.function))
        if self.teaching is not None:
            own = own + self.teaching.asked * np.asarray(teacher_passes_of(self.function))
        return float(own[0]), float(own[1])

    @property
    def phases(self) -> tuple[tuple[float, Method], ...]:
        """Give the shares of a round and the method in each.

        Where an objective fades, the remaining one takes its place.
        """
        fades = fades_of(self.function)
        if fades is None:
            return ((1.0, self),)
        rest = dataclasses.replace(self, objective=rest_of(self.function))
        return ((fades, self), (1 - fades, rest))

    @property
    def factor(self) -> float:
        """Factor of the objective."""
        return scale_of(self.function) if self.scale is None else self.scale

    @property
    def scope(self) -> str:
        """Whether the final selection ranks all layers together or each by itself."""
        return self.relaxation.scope if isinstance(self.relaxation, TopK) else "global"

    def ranked(self, scores: Any) -> Any:
        """What the final selection ranks, a tree; higher stays."""
        sign = -1.0 if self.inverted else 1.0
        return jax.tree.map(lambda s: sign * self.relaxation.rank(s), scores)

    @property
    def parts(self) -> int:
        """Equal parts of the search at whose ends something happens: a round, a freezing."""
        return max(self.rounds, self.constraint.stretches, 1)

    def steps(self, training: Training, asked: int | float | str | None = None) -> int:
        """Steps of the search, rounded up to whole parts.

        Raises:
          ValueError: for a length that is no share above 0, no number of steps and no name.
        """
        length = self.length if asked is None else asked
        if isinstance(length, str):
            one_of("steps", length, tuple(LENGTHS))
            length = LENGTHS[length]
        if asked is not None and is_integer(asked):
            steps = whole("steps", asked, 1)
        else:
            length = number("steps", length, 1e-12, high=LONGEST)
            steps = max(1, round(length * training.steps))
        return -(-steps // self.parts) * self.parts

    def training(self, training: Training, steps: int) -> Training:
        """The settings of the search as a training of the scores; `steps` of all rounds together.

        Its schedule is that of one round.
        """
        each = steps // self.rounds
        changes = {
            "weight_decay": training.weight_decay if self.learn_weights else 0.0,
            "warmup": 0,
            "schedule": "steps",
            "final_lr": 0.0,
            "gamma": 0.1,
            "label_smoothing": 0.0,
            "clip_norm": None,
            "attack": None,
            "teacher": None,
            "metrics": (),
            "accumulate": 1,
            "ema": None,
            **({} if self.learn_weights else {"decay": "all", "trainable": None}),
            **({} if self.augment else {"augment": ()}),
            **dict(self.optimizer),
        }
        own_rate = has_own_rate(changes.get("optimizer", training.optimizer))
        if own_rate or (callable(training.schedule) and "lr" not in dict(self.optimizer)):
            raise ValueError(
                f"`optimizer` of method {self.name!r} has no learning rate, and that of `training` "
                f"is its own schedule's or optimizer's; give the method one, such as "
                f'optimizer=(("optimizer", "adam"), ("lr", 0.01))'
            )
        milestones = tuple(round(share * each) for share in self.drop_at)
        part = steps // self.parts
        # calls of the compiled program end where parts do
        pieces = max(1, math.ceil(part / max(1, training.evaluation_interval)))
        while part % pieces:
            pieces += 1
        return training.replace(
            steps=each, milestones=milestones, eval_every=part // pieces, **changes
        )

    def counts(self, mask: Mask, density: float) -> np.ndarray:
        """Count the entries that a mask keeps, int32.

        `round(density * P)`, or with scope "layer" `n - floor((1 - density) * n)` for each layer of
        n.

        Args:
          mask: of the network, such as `net.mask()`.
          density: share of the prunable weights to keep.
        """
        if self.scope == "global":
            return np.asarray(count(density, masks.prunable_size(mask)), np.int32)
        sizes = masks.prunable_sizes(mask)
        # 1e-9: 0.3 * 10 must not be cut to 2
        return np.asarray([n - math.floor((1 - density) * n + 1e-9) for n in sizes], np.int32)


def _pair(argument: str, value: Any) -> tuple[str, Any]:
    if isinstance(value, (tuple, list)) and len(value) == 2 and isinstance(value[0], str):
        return value[0], value[1]
    raise ValueError(f"`{argument}` must be pairs of a field and its value, got {shown(value)}")


MethodMaker = Callable[..., Method]
