"""The choice of how many replicas of a device take a step together."""

from __future__ import annotations

from jax.sharding import Mesh

from jaxticket import _tree
from jaxticket.engine import parallel
from jaxticket.typing import Network

GPU_BLOCK = 8
"""Replicas of a network with convolutions that a GPU runs vmapped together."""


def replicas_together(net: Network, mesh: Mesh) -> int | None:
    """How many replicas of a device run vmapped together; blocks of so many take turns.

    None is all of them. On accelerators by compilers' estimates for described devices, which no
    chip has confirmed; microseconds of a training step for each replica on a TPU v5e, and kernels
    of a step on an H100:

    | network | alone | vmapped |
    |---|---|---|
    | LeNet-300-100, float32, v5e | 37 | 17 (64) |
    | ResNet-20, bfloat16, v5e | 1,796 | 2,200 (8) |
    | LeNet-300-100, H100 | | 30 (8) |
    | ResNet-20, bfloat16, H100 | | 818 (8), 6,400 (32) |

    Dense layers of many replicas become one product. Convolutions of many replicas are computed
    group by group: on a TPU nothing is gained over whole steps one after another, and a program of
    8 compiles in 518 seconds, where one of a single replica takes 229. A GPU waits for kernels to
    start rather than for arithmetic, so that small images of a few replicas belong together, but
    the kernels of a step, and the time to compile it, grow with them.

    Args:
      net: the network.
      mesh: the devices.
    """
    if parallel.maps(mesh):
        return 1
    if not any(len(x.shape) == 4 for x in _tree.leaves(net.shapes[0]).values()):
        return None
    return {"tpu": 1, "gpu": GPU_BLOCK, "cuda": GPU_BLOCK, "rocm": GPU_BLOCK}.get(
        mesh.devices.flat[0].platform
    )
