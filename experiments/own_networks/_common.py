"""What both transformers share: their blocks, and tickets next to random masks."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import pandas as pd

import jaxticket as jt

CONTROLS = ("shuffle", "layerwise_random")


@dataclasses.dataclass(frozen=True)
class Settings:
    """Iterative pruning to a density, with rewinding, and random masks of that density."""

    folder: Path | None = None
    """Where tables, tickets and states go; None to keep nothing."""
    seeds: int = 3
    """Seeds 0, 1, ..., trained side by side."""
    levels: int = 4
    """How often to prune."""
    density: float = 0.2
    """Share of the weights that the last level keeps."""
    steps: int = 300
    """Training steps of each network."""
    rewind: int = 30
    """Step to rewind to."""
    batch_size: int = 64
    """Examples per step."""
    lr: float = 2e-3
    """Learning rate of Adam."""
    width: int = 32
    """Numbers per token."""
    depth: int = 2
    """Blocks."""


class Block(nn.Module):
    """Attention and two dense layers, each behind a LayerNorm and next to a shortcut."""

    heads: int = 4

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """Map [batch, token, width] to the same shape."""
        width = x.shape[-1]
        attention = nn.MultiHeadDotProductAttention(self.heads, name="attention")
        x = x + attention(nn.LayerNorm(name="norm_0")(x), mask=mask)
        y = nn.gelu(nn.Dense(2 * width, name="dense_0")(nn.LayerNorm(name="norm_1")(x)))
        return x + nn.Dense(width, name="dense_1")(y)


def positions(module: nn.Module, x: jax.Array) -> jax.Array:
    """Add a trained vector for every position to tokens [batch, token, width]."""
    start = nn.initializers.normal(0.02)
    # "embedding" is not pruned unless asked for
    table = module.param("position_embedding", start, (1, *x.shape[1:]), jnp.float32)
    return x + table.astype(x.dtype)


def compared(
    net: jt.Network,
    data: jt.data.Data,
    settings: Settings,
    metric: str,
    loss: str = "cross_entropy",
) -> pd.DataFrame:
    """Find tickets and train them next to random masks with the same number of weights per layer.

    Args:
      net: the network.
      data: what it is trained on.
      settings: sizes.
      metric: "accuracy" or "loss", on test examples at the end of training.
      loss: that is trained.

    Returns:
      A row for each branch ("dense", "ticket" and the controls) and seed: branch, seed, density,
      value.
    """
    training = jt.Training(
        steps=settings.steps, batch_size=settings.batch_size, optimizer="adam", lr=settings.lr,
        eval_every=settings.steps, loss=loss,
    )  # fmt: skip
    fraction = 1 - settings.density ** (1 / settings.levels)
    pruning = jt.Pruning(levels=settings.levels, fraction=fraction, rewind=settings.rewind)
    folder, seeds = settings.folder, range(settings.seeds)
    runs = jt.find_tickets(net, data, training, pruning, seeds=seeds, folder=folder)
    tables = [runs.table()]
    for name in CONTROLS:
        tables.append(jt.branch(runs, name, levels=[settings.levels]).table())
    table = pd.concat(tables)
    here = (table["split"] == "test") & (table["metric"] == metric)
    here &= (table["step"] == settings.steps) & table["level"].isin((0, settings.levels))
    final = table.loc[here]
    branch = final["branch"].where(final["level"] > 0, "dense")
    rows = pd.DataFrame(
        {"branch": branch, "seed": final["seed"], "density": final["density"]}
        | {"value": final["value"]}
    ).reset_index(drop=True)
    print(f"\n{metric} on test examples, {settings.seeds} seeds")
    for branch, part in rows.groupby("branch", sort=False):
        low, high = part.value.min(), part.value.max()
        print(
            f"  {branch:17}{100 * part.density.iloc[0]:6.1f}% of the weights"
            f"  {part.value.mean():.4f} ({low:.4f} to {high:.4f})"
        )
    return rows
