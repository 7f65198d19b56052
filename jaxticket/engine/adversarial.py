"""Adversarial examples: projected gradient descent within a box around each image."""

from __future__ import annotations

import dataclasses
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxticket._check import flag, number, settle, whole
from jaxticket.engine.metrics import Loss, Normalization, cast, losses, normalized
from jaxticket.random import stream, uniform
from jaxticket.typing import Array, Key, Network, Params, Stats


@dataclasses.dataclass(frozen=True)
class PGD:
    r"""Projected gradient ascent on the loss within a box around each image.

    `x <- clip(x + step * sign(grad_x L))`, clipped to within `radius` of the clean image in every
    pixel and to the range of pixels.

    Attributes:
      radius: largest change of a pixel, as a share of the range of pixels; KD-LTS prints none,
        8/255 is usual on CIFAR, 0.3 on MNIST.
      step: of one iteration, as a share of the range; 2/255 and 0.01.
      steps: iterations; 10 and 40.
      targeted: go down on the loss of a target's label, instead of up on that of the true one.
      random: start at a random point of the box instead of the image.
      low, high: the range of pixels, in the raw units of the data: 0 and 16 for digits. Features
        that are no images have a range too, which has to be given.

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

    def __post_init__(self) -> None:
        settle(self, number, "radius", "step", low=0)
        settle(self, number, "low", "high")
        settle(self, whole, "steps")
        settle(self, flag, "targeted", "random")
        if not self.low < self.high:
            raise ValueError(f"`low` must be below `high`, got {self.low} and {self.high}")

    @property
    def passes(self) -> tuple[int, int]:
        """Forward and backward passes over each image."""
        return self.steps, self.steps

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
        least = jnp.maximum(clean - self.radius * span, self.low)
        most = jnp.minimum(clean + self.radius * span, self.high)
        towards = -1.0 if self.targeted else 1.0
        weights = cast(params, compute_dtype)

        def total(moved: Array) -> Array:
            seen = normalized(moved, by, compute_dtype)
            logits, _ = net.apply(weights, stats, seen, train=False)
            # the sum, so that no image's gradient depends on how many there are
            return jnp.sum(losses(loss, logits.astype(jnp.float32), labels))

        def climb(_: Array, moved: Array) -> Array:
            moved = moved + towards * self.step * span * jnp.sign(jax.grad(total)(moved))
            return jnp.clip(moved, least, most)

        start = clean
        if self.random and self.steps:
            drawn, size = stream(key, "attack"), math.prod(clean.shape[1:])
            places = first + jnp.arange(clean.shape[0], dtype=jnp.int32)
            noise = jax.vmap(lambda i: uniform(jax.random.fold_in(drawn, i), size))(places)
            noise = 2 * noise.reshape(clean.shape) - 1
            start = jnp.clip(clean + self.radius * span * noise, least, most)
        return jax.lax.fori_loop(0, self.steps, climb, start)
