"""Networks, each a constructor that takes `shape` and `classes` first."""

from __future__ import annotations

from collections.abc import Callable

from jaxticket.nn._conv import conv as conv
from jaxticket.nn._conv import conv2 as conv2
from jaxticket.nn._conv import conv4 as conv4
from jaxticket.nn._conv import conv6 as conv6
from jaxticket.nn._conv import conv8 as conv8
from jaxticket.nn._inception import inception_v3 as inception_v3
from jaxticket.nn._lenet import lenet as lenet
from jaxticket.nn._vgg import vgg as vgg
from jaxticket.nn._vgg import vgg2_16 as vgg2_16
from jaxticket.nn._vgg import vgg11 as vgg11
from jaxticket.nn._vgg import vgg13 as vgg13
from jaxticket.nn._vgg import vgg16 as vgg16
from jaxticket.nn._vgg import vgg19 as vgg19
from jaxticket.nn._vgg import vgg19_one_ticket as vgg19_one_ticket
from jaxticket.nn.functions import from_functions as from_functions
from jaxticket.nn.initializers import INITIALIZERS as INITIALIZERS
from jaxticket.nn.layers import NORMS as NORMS
from jaxticket.nn.layers import SCALES as SCALES
from jaxticket.nn.layers import SHORTCUTS as SHORTCUTS
from jaxticket.nn.layers import is_junction as is_junction
from jaxticket.nn.linen import from_linen as from_linen
from jaxticket.nn.nnx import from_nnx as from_nnx
from jaxticket.nn.residual_networks import resnet as resnet
from jaxticket.nn.residual_networks import resnet14 as resnet14
from jaxticket.nn.residual_networks import resnet18 as resnet18
from jaxticket.nn.residual_networks import resnet20 as resnet20
from jaxticket.nn.residual_networks import resnet32 as resnet32
from jaxticket.nn.residual_networks import resnet44 as resnet44
from jaxticket.nn.residual_networks import resnet50 as resnet50
from jaxticket.nn.residual_networks import resnet56 as resnet56
from jaxticket.nn.residual_networks import resnet110 as resnet110
from jaxticket.nn.residual_networks import resnet_cifar as resnet_cifar
from jaxticket.nn.residual_networks import wide_resnet as wide_resnet
from jaxticket.nn.residual_networks import wrn14_8 as wrn14_8
from jaxticket.nn.residual_networks import wrn14_10 as wrn14_10
from jaxticket.nn.residual_networks import wrn16_4 as wrn16_4
from jaxticket.nn.residual_networks import wrn20_8 as wrn20_8
from jaxticket.nn.residual_networks import wrn22_2 as wrn22_2
from jaxticket.nn.residual_networks import wrn32_2 as wrn32_2
from jaxticket.nn.resize import narrowed as narrowed
from jaxticket.nn.resize import parameters as parameters
from jaxticket.typing import Network

# those of a fixed depth are partial functions of conv, resnet_cifar, wide_resnet, vgg and resnet
NETWORKS: dict[str, Callable[..., Network]] = {
    "lenet": lenet,
    "conv2": conv2,
    "conv4": conv4,
    "conv6": conv6,
    "conv8": conv8,
    "resnet14": resnet14,
    "resnet20": resnet20,
    "resnet32": resnet32,
    "resnet44": resnet44,
    "resnet56": resnet56,
    "resnet110": resnet110,
    "wrn14_8": wrn14_8,
    "wrn14_10": wrn14_10,
    "wrn20_8": wrn20_8,
    "wrn32_2": wrn32_2,
    "wrn16_4": wrn16_4,
    "wrn22_2": wrn22_2,
    "vgg11": vgg11,
    "vgg13": vgg13,
    "vgg16": vgg16,
    "vgg19": vgg19,
    "vgg2_16": vgg2_16,
    "vgg19_one_ticket": vgg19_one_ticket,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "inception_v3": inception_v3,
}
"""Constructors of networks by name, called as `network(shape, classes, **options)`."""


__all__ = [
    "INITIALIZERS",
    "NETWORKS",
    "NORMS",
    "SCALES",
    "SHORTCUTS",
    "conv",
    "conv2",
    "conv4",
    "conv6",
    "conv8",
    "from_functions",
    "from_linen",
    "from_nnx",
    "inception_v3",
    "is_junction",
    "lenet",
    "narrowed",
    "parameters",
    "resnet",
    "resnet14",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "resnet_cifar",
    "vgg",
    "vgg2_16",
    "vgg11",
    "vgg13",
    "vgg16",
    "vgg19",
    "vgg19_one_ticket",
    "wide_resnet",
    "wrn14_8",
    "wrn14_10",
    "wrn16_4",
    "wrn20_8",
    "wrn22_2",
    "wrn32_2",
]


def __dir__() -> list[str]:
    return __all__
