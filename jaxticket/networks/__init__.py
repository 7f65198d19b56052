"""Networks, each a constructor that takes `shape` and `classes` first."""

from __future__ import annotations

from collections.abc import Callable

from jaxticket.networks.flax import from_functions as from_functions
from jaxticket.networks.flax import from_linen as from_linen
from jaxticket.networks.flax import from_nnx as from_nnx
from jaxticket.networks.initializers import INITIALIZERS as INITIALIZERS
from jaxticket.networks.lenet import lenet as lenet
from jaxticket.types import Network

NETWORKS: dict[str, Callable[..., Network]] = {"lenet": lenet}
