"""How large experiments are: quick and reduced sizes by network, and those of the sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from jaxticket.presets import Preset
from jaxticket.settings import Training


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
    "resnet14": dataclasses.replace(_DEEP, width=0.5),
    "resnet20": dataclasses.replace(_DEEP, width=0.5),
    "vgg16": dataclasses.replace(_DEEP, width=0.125),
    **{
        name: dataclasses.replace(_DEEP, width=0.125)
        for name in ("vgg19_one_ticket", "vgg11", "vgg19", "vgg2_16", "resnet18")
    },
    **{
        name: dataclasses.replace(_DEEP, width=0.125) for name in ("wrn14_8", "wrn14_10", "wrn20_8")
    },
    **{name: dataclasses.replace(_DEEP, width=0.5) for name in ("wrn32_2", "wrn22_2")},
    "wrn16_4": dataclasses.replace(_DEEP, width=0.25),
}
"""Quick sizes by network: narrow, on part of the data, with the schedule shrunk in proportion."""
_WHOLE = Size(3, 4, 0.36, 2_344, 782, eval_train_examples=2_000, pool=2, batch_size=128)
REDUCED: dict[str, Size] = {
    "lenet": Size(3, 10, 0.36, 6_000, 600, eval_train_examples=2_000),
    "resnet20": dataclasses.replace(_WHOLE, width=0.5),
    "vgg16": dataclasses.replace(_WHOLE, width=0.25),
    "vgg19_one_ticket": dataclasses.replace(_WHOLE, width=0.25),
}
"""Reduced sizes: all of the data, of CIFAR-10 as images of 16 x 16 pixels, in six epochs."""
FASTER = {"resnet20": 6.0, "vgg16": 3.0, "vgg19_one_ticket": 3.0}
"""Factors of the learning rates of presets with momentum, which are too low for so few epochs."""


def quick_size(preset: Preset, changes: Mapping[str, object], lenet: Mapping[str, object]) -> Size:
    """Give the quick size of a setting.

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


def reduced_size(preset: Preset, changes: Mapping[str, object]) -> Size:
    """Give the reduced size of a setting: minutes for one training, whose result says something.

    Args:
      preset: the setting.
      changes: what a script changes about all reduced sizes.

    Raises:
      ValueError: if there is none for the network or the setting.
    """
    if preset.network not in REDUCED:
        raise ValueError(
            f"`size`='reduced' is not known for {preset.name!r} (network {preset.network!r}), only "
            f"for {', '.join(REDUCED)}; use --size paper, with --steps, --share and --width as "
            f"needed"
        )
    if preset.name.endswith(("-low", "-warmup")):
        raise ValueError(
            f"`size`='reduced' has a schedule of its own, which {preset.name!r} is told from other "
            f"presets by; use --size quick or paper"
        )
    return dataclasses.replace(REDUCED[str(preset.network)], **changes)


def few_epochs(preset: Preset) -> Training:
    """Give how networks that convolve are trained at the reduced size, so that it takes few epochs.

    The rate rises over the first fifth and falls linearly instead of by steps, weights decay more,
    and images that the preset augments are flipped and shifted by a pixel at most.
    """
    usual = preset.training
    more: dict[str, object] = {}
    if usual.optimizer == "momentum":
        rate = round(FASTER[str(preset.network)] * usual.lr, 10)
        more = {"lr": rate, "nesterov": True, "weight_decay": 5e-4}
    if usual.augment:
        more |= {"augment": ("shift", "flip"), "augment_pixels": 2}
    return usual.replace(schedule="linear", milestones=(), warmup=usual.steps // 5, **more)


def paper_size(preset: Preset, changes: Mapping[str, object]) -> Size:
    """Give the source's size: all data, all of the schedule; at least 20 levels, to about 1%."""
    size = Size(
        seeds=preset.replicates or 5,
        levels=max(20, preset.pruning.levels),
        fraction=preset.pruning.fraction,
        steps=preset.training.steps,
        eval_every=max(1, preset.training.steps // 10),
    )
    return dataclasses.replace(size, **changes)


def size_in_words(size: Size) -> str:
    """Write a size as headers of scripts have it after "Sizes:"."""
    parts = [f"{size.seeds} seed{'s' if size.seeds > 1 else ''}"]
    if size.levels:
        parts.append(f"{size.levels} level{'s' if size.levels > 1 else ''}")
        parts[-1] += f" pruning {100 * size.fraction:.3g}%"
    parts.append(f"{size.steps:,} steps")
    if size.batch_size:
        parts[-1] += f" of batch {size.batch_size}"
    if size.share != 1:
        parts.append(f"{100 * size.share:g}% of the examples")
    if size.width != 1:
        parts.append(f"width {size.width:g}")
    if size.pool != 1:
        parts.append(f"images pooled by {size.pool}")
    return ", ".join(parts)
