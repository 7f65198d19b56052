"""Presets of Arora and Teuscher, Concrete Ticket Search (2025)."""

from __future__ import annotations

from typing import Any

from jaxticket.presets.schema import (
    CIFAR_AUGMENT,
    IMAGENET_AUGMENT,
    IMAGENET_EPOCH,
    OPENLTH,
    Preset,
    by_epochs,
    named,
    steps_per_epoch,
)
from jaxticket.settings import Pruning, Training

_CODE = "settings are those of the published code; the paper's text was not at hand: UNVERIFIED"


def _preset(
    network: str,
    data: str,
    training: Training,
    per_epoch: int,
    *,
    rewind: int,
    levels: int,
    notes: tuple[str, ...],
    **fields: Any,
) -> Preset:
    epochs = training.steps // per_epoch
    return Preset(
        f"{network}-{data}-cts",
        network,
        data,
        training,
        Pruning(levels=levels, rewind=rewind * per_epoch),
        "Arora and Teuscher, CTS (2025), published code",
        options=OPENLTH,
        replicates=3,
        method="CTS",
        search={
            "objective": "reverse_kl",
            "scale": 100.0,
            "epochs": (round(epochs / 8), round(epochs / 2), epochs),
            "optimizer": "adam",
            "lr": training.lr,
            "drop_at": 0.88,
            "gamma": 0.1,
            "temperature": 2 / 3,
            "slack": 1.1,
            "balance_decay": 0.99,
            "augment": (),
        },
        notes=(f"rewound to epoch {rewind}; 0 for tickets at initialization", *notes, _CODE),
        **fields,
    )


def _cifar(network: str, accuracy: float, spread: float, **settings: Any) -> Preset:
    per_epoch = steps_per_epoch("cifar10", 512)
    training = by_epochs(
        per_epoch,
        160,
        batch_size=512,
        lr=0.1,
        drops=(80, 120),
        weight_decay=1e-3,
        clip_norm=2.0,
        augment=CIFAR_AUGMENT,
    )
    return _preset(
        network,
        "cifar10",
        training,
        per_epoch,
        dense_accuracy=accuracy,
        dense_spread=spread,
        **settings,
    )


PRESETS = named(
    _cifar(
        "resnet20",
        0.9212,
        0.0008,
        rewind=9,
        levels=32,
        notes=("at 0.7% density the abstract reports 74.0% for CTS and 68.3% for IMP",),
    ),
    _cifar("vgg16", 0.9384, 0.0012, rewind=15, levels=42, notes=()),
    _preset(
        "resnet50",
        "imagenet",
        by_epochs(
            IMAGENET_EPOCH,
            90,
            batch_size=1024,
            lr=0.4,
            drops=(30, 60, 80),
            warmup=5,
            weight_decay=1e-4,
            clip_norm=2.0,
            augment=IMAGENET_AUGMENT,
        ),
        IMAGENET_EPOCH,
        rewind=18,
        levels=12,
        image_size=224,
        notes=("12 levels, to 7%, chosen by us",),
    ),
)
