"""Adversarial examples: projected gradient descent within a ball around each image."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp

from jaxticket._check import flag, number, one_of, settle, whole
from jaxticket.engine.ascent import NORMS, Ball, Goal, climb, search
from jaxticket.engine.metrics import Loss, Normalization, computed, normalized
from jaxticket.random import stream
from jaxticket.typing import Array, Key, Network, Params, Stats


@dataclasses.dataclass(frozen=True)
class PGD:
    r"""Projected gradient ascent on the loss within a ball around each image.

    `x <- clip(x + step * sign(grad_x L))`, clipped to within `radius` of the clean image in every
    pixel and to the range of pixels. With the norm "l2" a step goes along `grad_x L / ||grad_x L||`
    and ends within the Euclidean distance `radius` of the clean image.

    >>> import jaxticket as jt
    >>> jt.PGD(radius=0.5, step=0.1, steps=20, norm="l2").restarts
    1

    Attributes:
      radius: largest change of a pixel, as a share of the range of pixels; KD-LTS prints none,
        8/255 is usual on CIFAR, 0.3 on MNIST. With "l2" the largest distance, where the range of a
        pixel is 1: 0.5 is usual on CIFAR.
      step: of one iteration, in the same unit; 2/255 and 0.01.
      steps: iterations; 10 and 40.
      targeted: go down on the loss of a target's label, instead of up on that of the true one.
      random: start at a random point of the ball instead of the image.
      low, high: the range of pixels, in the raw units of the data: 0 and 16 for digits. Features
        that are no images have a range too, which has to be given.
      norm: "inf" or "l2".
      restarts: random starts. With more than one, of the images of all steps from all starts, and
        the clean one, the worst is taken, instead of the last: one that is answered wrong (with
        `targeted`, as the target) before others, and among such the one with the greatest loss
        (the least).

    Reference: Madry et al. 2018; KD-LTS, appendix A, whose formula is untargeted and whose text
      speaks of a target.
    """

    kind: ClassVar[str] = "pgd"

    radius: float = 8 / 255
    step: float = 2 / 255
    steps: int = 10
    targeted: bool = False
    random: bool = True
    low: float = 0.0
    high: float = 255.0
    norm: str = dataclasses.field(default="inf", metadata={"newer": True})
    restarts: int = dataclasses.field(default=1, metadata={"newer": True})

    def __post_init__(self) -> None:
        settle(self, number, "radius", "step", low=0)
        settle(self, number, "low", "high")
        settle(self, whole, "steps")
        settle(self, whole, "restarts", low=1)
        settle(self, flag, "targeted", "random")
        one_of("norm", self.norm, NORMS)
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {self.low} and {self.high}")
        if self.restarts > 1 and not (self.random and self.steps):
            raise ValueError(
                f"`restarts` {self.restarts} needs random starts and at least one step, got "
                f"random={self.random} and steps={self.steps}; without, all starts are the same"
            )

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes over each image."""
        if self.restarts == 1:
            return self.steps, self.steps
        return 1 + self.restarts * (self.steps + 1), self.restarts * self.steps

    def __call__(
        self,
        net: Network,
        params: Params,
        stats: Stats,
        x: Array,
        labels: Array,
        *,
        by: Normalization,
        key: Key,
        compute_dtype: str = "float32",
        first: Array | int = 0,
        loss: Loss = "cross_entropy",
    ) -> Array:
        """Adversarial images for a network as it is evaluated (its running statistics).

        Args:
          net, params, stats: the network.
          x: raw images [batch, height, width, channels], bytes or floats, or other examples.
          labels: int32 [batch] (of another kind [batch, ...]), the true labels, or the targets'
            where `targeted`.
          by: how images are normalised.
          key: for the random start.
          compute_dtype: of activations.
          first: place of the first of these images in the batch, whose random starts are drawn by
            place: devices that share a batch start where one alone does.
          loss: that of the training, which is climbed, as of `Training`.

        Returns:
          float32 raw images, the shape of `x`.
        """
        clean, span = x.astype(jnp.float32), self.high - self.low
        weights = computed(net, params, compute_dtype)

        def logits(moved: Array) -> Array:
            seen = normalized(moved, by, compute_dtype)
            found, _ = net.apply(weights, stats, seen, train=False)
            return found.astype(jnp.float32)

        goal = Goal(logits, loss, labels, self.targeted)
        ball = Ball(self.norm, self.radius * span, self.low, self.high)
        if self.restarts > 1:
            return search(
                goal, ball, clean, step=self.step * span, steps=self.steps, restarts=self.restarts,
                random=True, key=key, first=first,
            ).x  # fmt: skip
        start = clean
        if self.random and self.steps:
            start = ball.projection(clean)(ball.point(clean, stream(key, "attack"), first))
        return climb(goal, ball, clean, start, self.step * span, self.steps)


def FGSM(
    radius: float = 8 / 255,
    *,
    targeted: bool = False,
    low: float = 0.0,
    high: float = 255.0,
    norm: str = "inf",
) -> PGD:
    """The fast gradient sign method: one step from the image to the end of the ball.

    `x + radius * sign(grad_x L)`, clipped to the range of pixels.

    >>> import jaxticket as jt
    >>> jt.FGSM(0.1, high=16) == jt.PGD(radius=0.1, step=0.1, steps=1, random=False, high=16)
    True

    Args:
      radius, targeted, low, high, norm: see `PGD`.

    Raises:
      ValueError: for values that cannot be, by their names.

    Reference: Goodfellow et al., "Explaining and harnessing adversarial examples" (2015).
    """
    return PGD(
        radius=radius, step=radius, steps=1, targeted=targeted, random=False, low=low, high=high,
        norm=norm,
    )  # fmt: skip
