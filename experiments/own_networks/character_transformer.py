"""Tickets in a small character transformer, next to random masks of the same sizes.

The descriptions of scikit-learn's data sets are read 16 characters at a time; every position
predicts the character that follows it. The embedding of characters is the output layer too, and is
not pruned. Weights are pruned by magnitude and rewound.

Command:  python -m experiments.own_networks.character_transformer [--folder FOLDER] [--seeds 3 ...]
Makes:    final test losses, nats per character, of the dense network, the tickets and random masks,
          in the terminal; in the folder: table, settings.json, tickets/*.safetensors.
Cost:     75 seconds on one core of a server's CPU
Expected: with 3 seeds at 20% of the weights tickets have a loss of 2.565 (2.553 to 2.574), the
          dense network 2.564, masks shuffled within layers 2.620 (2.617 to 2.624), and random masks
          with the layers' densities and new weights 2.619 (2.602 to 2.629)
"""

from __future__ import annotations

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from sklearn import datasets

import jaxticket as jt
from experiments.common.job import launch
from experiments.own_networks._common import Block, compared, positions
from experiments.own_networks._common import Settings as Common

NAMES = ("iris", "wine", "digits", "breast_cancer", "diabetes", "linnerud")
LETTERS = " abcdefghijklmnopqrstuvwxyz.,:-_0"


@dataclasses.dataclass(frozen=True)
class Settings(Common):
    """Options of this script."""

    context: int = 16
    """Characters that are read."""


class CharacterTransformer(nn.Module):
    """Blocks in which a position sees those before it, between tied embeddings."""

    width: int
    depth: int

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map characters [batch, context] to logits of the next ones, [batch, context, letter]."""
        embed = nn.Embed(len(LETTERS), self.width, name="letters")
        x = positions(self, embed(tokens))
        mask = nn.make_causal_mask(tokens, dtype=jnp.bool_)
        for i in range(self.depth):
            x = Block(name=f"block_{i}")(x, mask)
        return embed.attend(nn.LayerNorm(name="norm")(x))


def text() -> np.ndarray:
    """The descriptions as numbers of letters; digits count as 0, all else as a space."""
    whole = "".join(getattr(datasets, f"load_{name}")().DESCR for name in NAMES).lower()
    whole = " ".join("".join("0" if c.isdigit() else c for c in whole).split())
    return np.asarray([max(LETTERS.find(c), 0) for c in whole], np.int32)


def examples(letters: np.ndarray, context: int) -> tuple[np.ndarray, np.ndarray]:
    """Give all contexts of a text, and the letters that follow each of theirs."""
    windows = np.lib.stride_tricks.sliding_window_view(letters, context + 1)
    return windows[:, :-1], windows[:, 1:]


def measured(settings: Settings) -> pd.DataFrame:
    """Find and compare the tickets; see `compared`."""
    letters = text()
    # test examples come from the end of the text
    cut = int(0.9 * len(letters))
    train, test = (examples(part, settings.context) for part in (letters[:cut], letters[cut:]))
    data = jt.data.from_arrays(*train, *test, name="descriptions")
    module = CharacterTransformer(settings.width, settings.depth)
    net = jt.from_linen(
        module, data.shape, name="character_transformer", dtype="int32", output="letters"
    )
    return compared(net, data, settings, "loss", "next_token")


def main(settings: Settings) -> None:
    """Measure on all cores."""
    jt.cpu_devices()
    measured(settings)


if __name__ == "__main__":
    launch(main, Settings, __doc__)
