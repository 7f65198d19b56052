"""Presets of the 2019 lottery-ticket paper and of OpenLTH, its later code, with its defaults."""

from __future__ import annotations

from jaxticket.presets.schema import OPENLTH, Preset, by_epochs, named, steps_per_epoch
from jaxticket.presets.thesis import OPENLTH_CIFAR
from jaxticket.settings import Pruning, Training

_2019 = "Frankle and Carbin (2019), published code"


def _layerwise(
    name: str,
    data: str,
    lr: float,
    steps: int,
    *,
    validation: float,
    rates: tuple[tuple[str, float], ...],
) -> Preset:
    return Preset(
        f"{name}-{data}-lth2019",
        name,
        data,
        Training(steps=steps, batch_size=60, optimizer="adam", lr=lr),
        Pruning(levels=20, scope="layer", rates=rates),
        _2019,
        options={"init": "glorot_normal"},
        validation=validation,
        replicates=5,
        notes=(
            "settings as in its reimplementation at Uber, with 5,000 training images held out; 20 "
            "levels, chosen by us",
            "the published code prunes one weight more per layer and level; counts are exact here",
        ),
    )


_LAYERWISE = (
    _layerwise(
        "lenet", "mnist", 1.2e-3, 50_000, validation=1 / 12, rates=(("dense_2", 0.1),)
    ),
    *(
        _layerwise(
            f"conv{depth}", "cifar10", lr, steps, validation=0.1,
            rates=(("conv_*", rate), ("dense_2", 0.1)),
        )
        for depth, lr, steps, rate in (
            (2, 2e-4, 20_000, 0.1),
            (4, 3e-4, 25_000, 0.1),
            (6, 3e-4, 30_000, 0.15),
        )
    ),
)  # fmt: skip

_COUNT = "OpenLTH prunes one weight more per level; counts are exact here"
_SOURCE = "OpenLTH, default hyperparameters"
_OPENLTH = (
    Preset(
        "lenet-mnist-openlth",
        "lenet",
        "mnist",
        by_epochs(steps_per_epoch("mnist", 128), 40, batch_size=128, optimizer="sgd", lr=0.1),
        Pruning(levels=20, exclude=("dense_2",)),
        _SOURCE,
        options={"init": "kaiming_normal"},
        notes=("20 levels, chosen by us", _COUNT),
    ),
    Preset(
        "resnet20-cifar10-openlth",
        "resnet20",
        "cifar10",
        OPENLTH_CIFAR,
        Pruning(levels=20),
        _SOURCE,
        options=OPENLTH,
        notes=("20 levels, chosen by us", _COUNT),
    ),
    Preset(
        "vgg16-cifar10-openlth",
        "vgg16",
        "cifar10",
        OPENLTH_CIFAR,
        Pruning(levels=20, exclude=("dense_0",)),
        _SOURCE,
        options=OPENLTH,
        notes=("20 levels, chosen by us", _COUNT),
    ),
)

PRESETS = named(*_LAYERWISE, *_OPENLTH)
