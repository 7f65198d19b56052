"""Numbers that Frankle's thesis prints, for the tables that scripts print beside their own."""

from __future__ import annotations

from jaxticket.presets import Preset

# Table 4.2, in percent: tickets rewound to step 0, the same masks permuted within each layer
# (chapter 4 prunes randomly "in the same layerwise proportions as IMP", Figure 4-23, and so does
# OpenLTH by default), and the same masks with new weights, at the density of Table 4.1
# (`Preset.matching_density`)
TABLE_4_2: dict[str, dict[str, float]] = {
    "lenet-mnist": {"ticket": 98.2, "shuffle": 96.7, "reinit": 97.5},
    "resnet20-cifar10": {"ticket": 88.5, "shuffle": 88.6, "reinit": 88.8},
    "resnet20-cifar10-low": {"ticket": 89.0, "shuffle": 85.7, "reinit": 84.7},
    "resnet20-cifar10-warmup": {"ticket": 89.6, "shuffle": 85.7, "reinit": 85.6},
    "vgg16-cifar10": {"ticket": 90.9, "shuffle": 89.4, "reinit": 91.0},
    "vgg16-cifar10-low": {"ticket": 91.6, "shuffle": 90.1, "reinit": 90.2},
    "vgg16-cifar10-warmup": {"ticket": 93.2, "shuffle": 90.1, "reinit": 90.7},
}

# footnote 8 of chapter 5: the least density at which one-shot magnitude pruning after training
# matches the dense network ("highest matching sparsity"), by network; of LeNet that of Table 4.1
MATCHING = {
    "resnet20": 0.262,
    "vgg16": 0.069,
    "resnet18": 0.035,
    "resnet50": 0.328,
    "lenet": 0.035,
}
# section 5.7.1: percentage of convolutional channels with nothing left at that density
NEURONS: dict[str, dict[str, float]] = {
    "resnet20": {"magnitude": 0, "snip": 5, "grasp": 1, "synflow": 31, "synflow_shuffle": 1},
    "vgg16": {"magnitude": 0, "snip": 11, "grasp": 6, "synflow": 52, "synflow_shuffle": 0},
    "resnet18": {"snip": 32, "grasp": 14, "synflow": 69, "synflow_shuffle": 3.5},
    "resnet50": {"magnitude": 0, "snip": 7, "grasp": 1, "synflow": 29, "synflow_shuffle": 13},
}


def reported(preset: Preset) -> dict[str, float]:
    """What the source prints for a setting, in percent by branch: "dense" first."""
    dense = preset.dense_accuracy
    return ({} if dense is None else {"dense": 100 * dense}) | TABLE_4_2.get(preset.name, {})
