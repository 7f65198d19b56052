"""What holds the density: a penalty, a multiplier, GradBalance, or freezing step by step.

A constraint sees the expected mask (sum over prunable entries: the expected number of ones) and the
number K that shall be kept. It adds to what is minimised (`cost`), or changes the gradient of the
scores and its own multiplier (`balanced`), or freezes entries at the end of each of `stretches`
equal parts of the search (`frozen`). Whatever it does, the final mask has exactly K ones.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar, NamedTuple

import jax
import jax.numpy as jnp

from jaxticket import _show, _tree
from jaxticket._check import flag, number, one_of, settle, share, whole
from jaxticket.pruning.keep import keep_top
from jaxticket.typing import Array, Mask, Params


class Pull(NamedTuple):
    """What a constraint looks at in one step.

    Attributes:
      expected: float32, the expected number of ones.
      slope: its derivative by every score, a tree.
      keep: float32, K.
      rate: the learning rate of the step.
    """

    expected: Array
    slope: Params
    keep: Array
    rate: Array


@dataclasses.dataclass(frozen=True)
class Constraint:
    """None of its own: for relaxations that hold the density themselves."""

    kind: ClassVar[str] = "none"
    weighed = False
    """Whether `frozen` is given scores of the masked weights' sizes, instead of the scores."""

    __repr__ = _show.code

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__.lower()

    @property
    def stretches(self) -> int:
        """Parts of the search after each of which `frozen` is called; 0 for none."""
        return 0

    def cost(self, expected: Params) -> Array:
        """Added to the objective; `expected` is the expected mask."""
        del expected
        return jnp.float32(0)

    def balanced(
        self, gradient: Params, multiplier: Array, first: Array, pull: Pull
    ) -> tuple[Params, Array]:
        """The gradient for the optimizer and the new multiplier, which starts at 0."""
        del first, pull
        return gradient, multiplier

    def frozen(self, ranked: Params, live: Mask, keep: Array) -> Mask:
        """Entries that take part from here on.

        Args:
          ranked: scores as they are ranked.
          live: entries that took part so far.
          keep: int32, how many shall be left after this stretch.
        """
        del ranked, keep
        return live


@dataclasses.dataclass(frozen=True)
class Penalty(Constraint):
    """`weight * sum |m|` or `weight * sum m ** 2` of the expected mask.

    It drives the density down without a target: which weight leads to which density has to be
    tried out.

    Attributes:
      weight: factor.
      power: 1 or 2.

    Reference: Savarese et al. 2020, Eq. 4 (power 1); Sreenivasan et al. 2022 (power 2).
    """

    weight: float
    power: int = 1

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, number, "weight", low=0)
        settle(self, one_of, "power", choices=(1, 2))

    def cost(self, expected: Params) -> Array:
        """The penalty."""
        total = sum(jnp.sum(jnp.abs(m) ** self.power) for m in jax.tree.leaves(expected))
        return jnp.float32(self.weight) * total


@dataclasses.dataclass(frozen=True)
class Freezing(Penalty):
    """A penalty, and iterative freezing.

    After stretch i of n the entries with the highest scores are kept, `round(density ** (i / n) *
    P)` of those that remained; the others never return.

    Attributes:
      weight, power: of the penalty.
      times: n. The last freezing leaves exactly the wanted number.
      weighed: rank by the size of the masked weight, `|m * w|` with m the expected mask, instead of
        by the score.

    Reference: Sreenivasan et al. 2022, Algorithm 1; exact counts by index where scores tie. KD-LTS,
      Eq. 13 (weighed).
    """

    power: int = 2
    times: int = 29
    weighed: bool = False

    __repr__ = _show.code

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "times", low=1)
        settle(self, flag, "weighed")

    @property
    def stretches(self) -> int:
        """One for each freezing."""
        return self.times

    def frozen(self, ranked: Params, live: Mask, keep: Array) -> Mask:
        """The entries with the highest scores."""
        return keep_top(ranked, live, keep)


def excess(pull: Pull, slack: float) -> tuple[Array, Array]:
    """`100 * (expected / (slack * K) - 1)`, and the factor from the slope to its gradient."""
    working = slack * pull.keep
    return 100 * (pull.expected / working - 1), 100 / working


@dataclasses.dataclass(frozen=True)
class GradBalance(Constraint):
    r"""Pulls with as much force as the objective does, as long as there are too many ones.

    With e = 100 (expected / (slack K) - 1), R the objective: lambda* = |grad R| / (|grad e| +
    1e-12) where e >= 0, and 0 where e < 0; `lambda <- decay * lambda + (1 - decay) * lambda*`,
    which starts as lambda* of the first step; the optimizer gets grad R + lambda grad e. The
    density then hovers around the slack: below it lambda decays, above it the two forces balance.

    Attributes:
      slack: the working target, in units of K; the final selection trims the rest.
      decay: of the average of lambda.

    Reference: Arora and Teuscher 2025, GradBalance, and its code. (There lambda* is only set where
      e >= 0; that it is 0 elsewhere is our resolution.)
    """

    slack: float = 1.1
    decay: float = 0.99

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, number, "slack", low=1e-12)
        settle(self, share, "decay", zero=True, one=False)

    def balanced(
        self, gradient: Params, multiplier: Array, first: Array, pull: Pull
    ) -> tuple[Params, Array]:
        """Compute grad R + lambda grad e, and the averaged lambda."""
        above, factor = excess(pull, self.slack)
        force = _norm(gradient) / (factor * _norm(pull.slope) + 1e-12)
        wanted = jnp.where(above < 0, 0, force)
        averaged = self.decay * multiplier + (1 - self.decay) * wanted
        multiplier = jnp.where(first, wanted, averaged)
        pulled = multiplier * factor
        return jax.tree.map(lambda g, s: g + pulled * s, gradient, pull.slope), multiplier


@dataclasses.dataclass(frozen=True)
class Lagrangian(Constraint):
    """A Lagrange multiplier for an exact count.

    The scores descend on R + lambda e while lambda ascends on it, `lambda <- lambda + ascent * rate
    * e`. It may become negative: too few ones are pushed up.

    Attributes:
      ascent: step size of lambda, in units of the scores' learning rate.

    Reference: Arora and Teuscher 2025, the alternative to GradBalance in its code.
    """

    ascent: float = 0.01

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, number, "ascent", low=0)

    def balanced(
        self, gradient: Params, multiplier: Array, first: Array, pull: Pull
    ) -> tuple[Params, Array]:
        """Compute grad R + lambda grad e, and lambda after its ascent."""
        del first
        above, factor = excess(pull, 1.0)
        pulled = multiplier * factor
        gradient = jax.tree.map(lambda g, s: g + pulled * s, gradient, pull.slope)
        return gradient, multiplier + self.ascent * pull.rate * above


def _norm(tree: Params) -> Array:
    """Euclidean norm, with the largest entry taken out so that no square underflows."""
    most = jnp.max(jnp.stack([jnp.max(jnp.abs(x)) for x in jax.tree.leaves(tree)]))
    most = jnp.maximum(most, 1e-12)
    return most * _tree.norm(jax.tree.map(lambda x: x / most, tree))
