"""Tickets in a small vision transformer on digits, next to random masks of the same sizes.

Images of 8 x 8 pixels become 16 tokens of 2 x 2 pixels, which two blocks of attention and dense
layers read; the mean of the tokens gives the class. Weights are pruned by magnitude and rewound.

Command:  python -m experiments.own_networks.vision_transformer [--folder FOLDER] [--seeds 3 ...]
Makes:    final test accuracies of the dense network, the tickets and random masks, in the terminal;
          in the folder: table, settings.json, tickets/*.safetensors.
Cost:     75 seconds on one core of a server's CPU
Expected: with 3 seeds at 20% of the weights tickets have 92.2% (90.8 to 93.9), the dense network
          92.0%, masks shuffled within layers 89.1% (87.8 to 91.4), and random masks with the
          layers' densities and new weights 91.0% (89.4 to 91.9)
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import pandas as pd

import jaxticket as jt
from experiments.common.job import launch
from experiments.own_networks._common import Block, compared, positions
from experiments.own_networks._common import Settings as Common


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script."""


class VisionTransformer(nn.Module):
    """Patches, blocks, and the mean of the tokens."""

    width: int
    depth: int
    classes: int = 10
    patch: int = 2

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map images [batch, height, width, channels] to logits [batch, classes]."""
        size = (self.patch, self.patch)
        x = nn.Conv(self.width, size, strides=size, padding="VALID", name="patches")(x)
        x = positions(self, x.reshape(x.shape[0], -1, self.width))
        for i in range(self.depth):
            x = Block(name=f"block_{i}")(x)
        return nn.Dense(self.classes, name="head")(nn.LayerNorm(name="norm")(x).mean(1))


def measured(settings: Settings) -> pd.DataFrame:
    """Find and compare the tickets; see `compared`."""
    data = jt.data.load("digits")
    module = VisionTransformer(settings.width, settings.depth)
    net = jt.from_linen(module, data.shape, name="vision_transformer")
    return compared(net, data, settings, "accuracy")


def main(settings: Settings) -> None:
    """Measure on all cores."""
    jt.cpu_devices()
    measured(settings)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
