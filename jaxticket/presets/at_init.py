"""Presets of the papers that prune at initialization, and of RigL: SNIP, GraSP, SynFlow.

`pruning` is the thesis's yardstick for them, magnitude pruning after training in one shot at one of
their densities; `search` has their own score and densities.
"""

from __future__ import annotations

from typing import Any

from jaxticket.presets.schema import (
    CIFAR_AUGMENT,
    IMAGENET_AUGMENT,
    OPENLTH,
    Preset,
    by_epochs,
    by_steps,
    named,
    steps_per_epoch,
)
from jaxticket.settings import Pruning, Training


def _preset(
    source: str,
    network: str,
    data: str,
    training: Training,
    densities: tuple[float, ...],
    *,
    method: str,
    variant: str,
    search: dict[str, Any],
    **fields: Any,
) -> Preset:
    return Preset(
        f"{network}-{data}-{variant}",
        network,
        data,
        training,
        Pruning(
            levels=1, fraction=round(1 - densities[0], 4), one_shot=True, rewind="learning_rate"
        ),
        source,
        method=method,
        search={"densities": densities, **search},
        **fields,
    )


def _snip(network: str, accuracy: float, density: float, *notes: str) -> Preset:
    return _preset(
        "Lee et al., SNIP (2019); thesis, section 5.3.4",
        network,
        "cifar10",
        by_steps(
            150_000,
            batch_size=128,
            lr=0.1,
            weight_decay=5e-4,
            milestones=(30_000, 60_000, 90_000, 120_000),
            gamma=0.2,
            augment=CIFAR_AUGMENT,
        ),
        (density,),
        method="SNIP",
        variant="snip",
        search={"score": "snip", "batch_size": 128},
        options={"init": "glorot_normal", "scale": "ones"},
        dense_accuracy=accuracy,
        notes=(
            *notes,
            "rates are those of the published code for VGG; it prunes biases too and draws "
            "weights by variance scaling",
        ),
    )


_SNIP = (
    _snip("vgg16", 0.917, 0.03, "93.6% dense in the thesis; SNIP 92.0% (thesis 92.1%)"),
    _snip("vgg2_16", 0.932, 0.05, "93.5% dense in the thesis; SNIP 92.9% (thesis 92.3%)"),
    *(
        _snip(
            network,
            accuracy,
            0.05,
            f"called {theirs} in SNIP; {thesis}% dense in the thesis; SNIP {pruned}",
            "training of the wide networks is not in the published code: that of VGG, UNVERIFIED",
        )
        for network, accuracy, theirs, thesis, pruned in (
            ("wrn14_8", 0.938, "WRN-16-8", 95.2, "93.4% (thesis 93.4%)"),
            ("wrn14_10", 0.941, "WRN-16-10", 95.4, "93.6% (thesis 93.9%)"),
            ("wrn20_8", 0.939, "WRN-22-8", 95.6, "94.1% (thesis 94.3%)"),
        )
    ),
)


def _grasp(
    network: str,
    data: str,
    epochs: int,
    *,
    decay: float,
    accuracy: float | None = None,
    densities: tuple[float, ...] = (0.1, 0.05, 0.02),
    notes: tuple[str, ...] = (),
    **search: Any,
) -> Preset:
    large = data == "imagenet"
    drops = (30, 60) if large else (epochs // 2, 3 * epochs // 4)
    return _preset(
        "Wang et al., GraSP (2020); thesis, section 5.4.4",
        network,
        data,
        by_epochs(
            steps_per_epoch(data, 128),
            epochs,
            batch_size=128,
            lr=0.1,
            drops=drops,
            weight_decay=decay,
            augment=IMAGENET_AUGMENT if large else CIFAR_AUGMENT,
        ),
        densities,
        method="GraSP",
        variant="grasp",
        search={"score": "grasp", "temperature": 200.0, "examples_per_class": 10, **search},
        options={"init": "kaiming_normal_fan_out", "scale": "ones"},
        image_size=224 if large else None,
        dense_accuracy=accuracy,
        notes=(
            *notes,
            "settings of the published code, whose dense layers start at N(0, 0.01) and whose "
            "accuracies are of the best epoch",
        ),
    )


_AT_64 = ("how the networks take images of 64 pixels is not printed: as they are, UNVERIFIED",)
_TINY: dict[str, Any] = {"examples_per_class": 1, "batches": 10}
_GRASP = (
    _grasp("vgg19", "cifar10", 160, decay=5e-4, accuracy=0.942, notes=("93.5% in the thesis",)),
    _grasp("wrn32_2", "cifar10", 160, decay=1e-4, accuracy=0.948, notes=("94.5% in the thesis",)),
    _grasp("vgg19", "cifar100", 160, decay=5e-4),
    _grasp("wrn32_2", "cifar100", 160, decay=1e-4),
    _grasp("vgg19", "tiny_imagenet", 300, decay=5e-4, notes=_AT_64, **_TINY),
    _grasp("wrn32_2", "tiny_imagenet", 300, decay=1e-4, notes=_AT_64, **_TINY),
    _grasp(
        "resnet50",
        "imagenet",
        90,
        decay=1e-4,
        accuracy=0.757,
        densities=(0.4, 0.2, 0.1),
        notes=("76.2% in the thesis, which trains at batch 1,024 and rate 0.4",),
        # random batches, whatever their classes
        examples_per_class=None,
        batches=150,
        batch_size=128,
    ),
)


def _synflow(
    network: str,
    data: str,
    training: Training,
    *,
    accuracy: float,
    notes: tuple[str, ...],
    options: dict[str, Any],
    variant: str = "synflow",
) -> Preset:
    return _preset(
        "Tanaka et al., SynFlow (2020); thesis, Table 5.2",
        network,
        data,
        training,
        (0.1,),
        method="SynFlow",
        variant=variant,
        search={"score": "synflow", "rounds": 100},
        options=options,
        dense_accuracy=accuracy,
        notes=(*notes, "dense accuracy as replicated in the thesis; density 10% chosen by us"),
    )


def _synflow_vgg(network: str, accuracy: float, reported: str) -> Preset:
    return _synflow(
        network,
        "cifar10",
        by_epochs(
            steps_per_epoch("cifar10", 128),
            160,
            batch_size=128,
            lr=0.1,
            drops=(60, 120),
            weight_decay=1e-4,
            augment=CIFAR_AUGMENT,
        ),
        accuracy=accuracy,
        options=OPENLTH,
        notes=(f"about {reported} in SynFlow's figures", "drops as in the published run of VGG-11"),
    )


_SMALL_STEM = {"init": "kaiming_normal_fan_out", "scale": "ones", "stem": "small"}
_UNPRINTED = "the thesis prints rate, batch size and {}; drops and weight decay are UNVERIFIED"
_SYNFLOW = (
    _synflow_vgg("vgg11", 0.92, "92%"),
    _synflow_vgg("vgg16", 0.935, "94%"),
    _synflow(
        "resnet18",
        "cifar10",
        by_epochs(
            steps_per_epoch("cifar10", 128),
            160,
            batch_size=128,
            lr=0.01,
            drops=(60, 120),
            gamma=0.2,
            weight_decay=5e-4,
            augment=CIFAR_AUGMENT,
        ),
        accuracy=0.937,
        options=_SMALL_STEM,
        notes=("about 95% in SynFlow's figures", _UNPRINTED.format("drop factor")),
    ),
    _synflow(
        "resnet18",
        "cifar10",
        by_epochs(
            steps_per_epoch("cifar10", 256),
            160,
            batch_size=256,
            lr=0.2,
            drops=(60, 120),
            weight_decay=5e-4,
            augment=CIFAR_AUGMENT,
        ),
        accuracy=0.946,
        options=_SMALL_STEM,
        variant="synflow_tuned",
        notes=("settings that the thesis found better", _UNPRINTED.format("drop factor")),
    ),
    _synflow(
        "resnet18",
        "tiny_imagenet",
        by_epochs(
            steps_per_epoch("tiny_imagenet", 128),
            100,
            batch_size=128,
            lr=0.01,
            drops=(30, 60, 80),
            weight_decay=1e-4,
            augment=CIFAR_AUGMENT,
        ),
        accuracy=0.588,
        options=_SMALL_STEM,
        notes=(
            "about 64% in SynFlow's figures and with the settings of resnet18-tiny_imagenet",
            _UNPRINTED.format("epochs"),
        ),
    ),
)


_RIGL_SEARCH = {
    "layout": "erk",
    "update_every": 100,
    "update_until": 25_000,
    "drop_fraction": 0.3,
    "drop_schedule": "cosine",
}


def _rigl() -> Preset:
    per_epoch = 1_281_167 / 4096
    return _preset(
        "Evci et al., RigL (2020), published code and its README",
        "resnet50",
        "imagenet",
        by_steps(
            32_000,
            batch_size=4096,
            lr=1.6,
            nesterov=True,
            warmup=round(5 * per_epoch),
            milestones=tuple(round(epoch * per_epoch) for epoch in (30, 70, 90)),
            weight_decay=1e-4,
            label_smoothing=0.1,
            augment=IMAGENET_AUGMENT,
        ),
        (0.2, 0.1, 0.05, 0.035, 0.01),
        method="RigL",
        variant="rigl",
        search=_RIGL_SEARCH,
        image_size=224,
        dense_accuracy=0.768,
        notes=(
            "drops at 30, 70 and 90 epochs of 312.8 steps; the length of the warmup, 5 epochs, is "
            "UNVERIFIED (the published schedule's first segment starts at epoch 0)",
        ),
    )


_RIGL = (
    _rigl(),
    _preset(
        "Evci et al., RigL (2020), published code",
        "wrn16_4",
        "cifar10",
        by_steps(
            97_656,
            batch_size=128,
            lr=0.1,
            nesterov=True,
            milestones=(30_000, 60_000, 90_000),
            gamma=0.2,
            weight_decay=5e-4,
            augment=CIFAR_AUGMENT,
        ),
        (0.1,),
        method="RigL",
        variant="rigl",
        search={**_RIGL_SEARCH, "update_until": 75_000, "dense": ("block_0",)},
        notes=("97,656 steps are 250 epochs of 390.6", "the density is the default of the code"),
    ),
)

PRESETS = named(*_SNIP, *_GRASP, *_SYNFLOW, *_RIGL)
