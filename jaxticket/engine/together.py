"""The choice of how many replicas of a device take a step together."""

from __future__ import annotations

from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket.engine import parallel
from jaxticket.typing import Network

BLOCK = 16
"""Replicas that run vmapped together, of those networks that are not vmapped as a whole."""


def replicas_together(net: Network, mesh: Mesh) -> int | None:
    """How many replicas of a device run vmapped together; blocks of so many take turns.

    None is all of them. On accelerators by compilers' estimates for described devices, which no
    chip has confirmed (`experiments/benchmarks/accelerators.py`, JAX 0.12). Of a training step of
    each replica, where so many run together:

    | network | 1 | 8 | 16 | 64 |
    |---|---|---|---|---|
    | LeNet-300-100, float32, v5e, microseconds | 25.5 | 10.7 | 8.6 | 12.0 |
    | ResNet-20, bfloat16, v5e, microseconds | 1,261 | does not compile | | |
    | LeNet-300-100, H100, kernels | 38 | 4 | | 0.4 |
    | ResNet-20, bfloat16, H100, kernels | 420 | 101 | 82 | |

    Dense layers of many replicas become one product. On a TPU it is estimated fastest in blocks of
    16; a GPU waits for kernels to start rather than for arithmetic, and takes all replicas at once.
    Convolutions of many replicas are computed group by group: on a TPU the compiler ends for lack
    of on-chip memory, and on a GPU the kernels of a step, its memory and the time to compile it
    grow with the replicas.

    Args:
      net: the network.
      mesh: the devices.
    """
    if parallel.maps(mesh):
        return 1
    convolutional = any(len(x.shape) == 4 for x in _tree.leaves(net.shapes[0]).values())
    platform = mesh.devices.flat[0].platform
    if platform == "tpu":
        return 1 if convolutional else BLOCK
    return BLOCK if convolutional and platform in ("gpu", "cuda", "rocm") else None
