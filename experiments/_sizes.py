"""How large an experiment is, that of the source or a quick one for two CPU cores; small images."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

import jaxticket as jt
from jaxticket.presets import Preset


@dataclasses.dataclass(frozen=True)
class Size:
    """How large an experiment is; `Settings` describes the fields."""

    seeds: int
    levels: int
    fraction: float
    steps: int
    eval_every: int
    share: float = 1.0
    width: float = 1.0
    eval_train_examples: int = 10_000
    batch_size: int | None = None
    test_examples: int | None = None
    pool: int = 1


# 36% is two steps of 20% at once, 48.8% three, 59% four
LENET = Size(3, 10, 0.36, 600, 150, share=0.1, eval_train_examples=2_000)
_CONV = Size(
    2, 4, 0.59, 350, 350, share=0.2, width=0.25, eval_train_examples=1_000, test_examples=2_000
)
# small batches, so that there are steps enough to learn something; 74% is six steps of 20%
_DEEP = dataclasses.replace(
    _CONV, levels=2, fraction=0.74, steps=160, eval_every=160, batch_size=64
)
QUICK: dict[str, Size] = {
    "lenet": LENET,
    "conv2": _CONV,
    "conv4": _CONV,
    "conv6": _CONV,
    "conv8": _CONV,
    # narrower is hardly faster: many small operations
    "resnet20": dataclasses.replace(_DEEP, width=0.5),
    "vgg16": dataclasses.replace(_DEEP, width=0.125),
    **{
        name: dataclasses.replace(_DEEP, width=0.125)
        for name in ("vgg19_one_ticket", "vgg11", "vgg19", "vgg2_16", "resnet18")
    },
    **{
        name: dataclasses.replace(_DEEP, width=0.125) for name in ("wrn14_8", "wrn14_10", "wrn20_8")
    },
    "wrn32_2": dataclasses.replace(_DEEP, width=0.5),
}
"""Quick sizes by network: narrow, on part of the data, with the schedule shrunk in proportion."""


def quick(preset: Preset, changes: Mapping[str, Any], lenet: Mapping[str, Any]) -> Size:
    """The quick size of a setting.

    Args:
      preset: the setting.
      changes: what a script changes about all quick sizes.
      lenet: what it changes beyond that about the one of LeNet, which has time for more.

    Raises:
      ValueError: if there is none for the network.
    """
    if preset.network not in QUICK:
        raise ValueError(
            f"`size`='quick' is not known for {preset.name!r} (network {preset.network!r}), only "
            f"for {', '.join(QUICK)}; use --size paper, with --steps, --share and --width as needed"
        )
    every = {**changes, **(lenet if preset.network == "lenet" else {})}
    return dataclasses.replace(QUICK[str(preset.network)], **every)


def paper(preset: Preset, changes: Mapping[str, Any]) -> Size:
    """The size of the source: all data, the whole schedule; at least 20 levels, to about 1%."""
    size = Size(
        seeds=preset.replicates or 5,
        levels=max(20, preset.pruning.levels),
        fraction=preset.pruning.fraction,
        steps=preset.training.steps,
        eval_every=max(1, preset.training.steps // 10),
    )
    return dataclasses.replace(size, **changes)


def pooled(data: jt.data.Data, pool: int) -> jt.data.Data:
    """Images averaged over squares of pixels.

    Raises:
      ValueError: where squares do not fit the images.
    """
    height, width = data.shape[:2]
    if pool < 1 or height % pool or width % pool:
        raise ValueError(f"`pool` must divide images of {height} x {width}, got {pool}")

    def small(x: Any) -> Any:
        squares = x.reshape(len(x), height // pool, pool, width // pool, pool, -1)
        means = squares.mean(axis=(2, 4))
        whole = np.issubdtype(x.dtype, np.integer)
        return (np.rint(means) if whole else means).astype(x.dtype)

    arrays = (small(data.train.x), data.train.y, small(data.test.x), data.test.y)
    made = jt.data.from_arrays(*arrays, name=f"{data.name} pooled {pool}", classes=data.classes,
                                 normalize=data.normalize)  # fmt: skip
    steps = [*data.about.get("steps", []), {"step": "pooled", "pool": pool}]
    made = dataclasses.replace(made, about={**data.about, "steps": steps})
    if data.validation is None:
        return made
    held = dataclasses.replace(data.validation, x=small(data.validation.x))
    return dataclasses.replace(made, validation=held)
