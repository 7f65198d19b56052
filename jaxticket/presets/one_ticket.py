"""Presets of Morcos et al., "One ticket to win them all" (2019): tickets that are to transfer."""

from __future__ import annotations

from jaxticket.presets.schema import (
    CIFAR_AUGMENT,
    IMAGENET_AUGMENT,
    Preset,
    by_epochs,
    named,
    steps_per_epoch,
)
from jaxticket.settings import Pruning

# of each data set: epochs of late resetting, what is done to the images, image size
_DATA = {
    "fashion_mnist": (1, (), None),
    "svhn": (1, (), None),
    "cifar10": (1, CIFAR_AUGMENT, None),
    "cifar100": (1, CIFAR_AUGMENT, None),
    "imagenet": (3, IMAGENET_AUGMENT, 224),
    "places365": (3, IMAGENET_AUGMENT, 224),
}
_LENGTH = {"vgg19": (160, (80, 120)), "resnet50": (90, (50, 65, 80))}
# the output layer is never pruned: each data set starts with one of its own
_OUTPUT = {"vgg19": "dense_0", "resnet50": "dense"}
_SGD = {"lr": 0.1, "optimizer": "momentum"}
_ADAM = {"lr": 3e-4, "optimizer": "adam"}


def _preset(network: str, data: str, *, adam: bool = False) -> Preset:
    late, augment, image_size = _DATA[data]
    epochs, drops = _LENGTH[network]
    per_epoch = steps_per_epoch(data, 512)
    options = {"init": "xavier_normal", "scale": "ones"}
    notes = [
        "augmentation, image size and validation split are not printed: ours",
        "accuracies are in figures only",
    ]
    if network == "vgg19":
        notes.append(
            "appendix A.1 prints 17 convolutions (five of 512 channels before the last pooling) "
            "where VGG19 has 16; ours has 16, depth=20 is the printed list"
        )
    else:
        notes.append(
            "initialization is printed for VGG19 only; the stem is ImageNet's on color images of "
            "all sizes, as tickets pass between them"
        )
    if data == "fashion_mnist":
        notes.append("images have one channel here; tickets that pass to or from color need three")
        if network == "resnet50":
            notes.append("28 pixels are too few for the ImageNet stem: that for small images")
            options["stem"] = "small"
    if data == "cifar10":
        notes.append("CIFAR-10a and CIFAR-10b of section 4.1 are data.halves()")
    if adam:
        notes.append("the data set of the optimizer study (Figure 5) is not printed")
    return Preset(
        f"{network}-{data}-one_ticket{'_adam' if adam else ''}",
        "vgg19_one_ticket" if network == "vgg19" else network,
        data,
        by_epochs(
            per_epoch,
            epochs,
            batch_size=512,
            drops=drops,
            weight_decay=1e-4,
            augment=augment,
            **(_ADAM if adam else _SGD),
        ),
        Pruning(levels=30, rewind=late * per_epoch, exclude=(_OUTPUT[network],)),
        "Morcos et al., One ticket (2019), appendix A.1",
        options=options,
        image_size=image_size,
        replicates=6,
        notes=tuple(notes),
    )


PRESETS = named(
    *(_preset(network, data) for network in _LENGTH for data in _DATA),
    _preset("vgg19", "cifar10", adam=True),
)
