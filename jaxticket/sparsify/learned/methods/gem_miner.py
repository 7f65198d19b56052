"""GEM-MINER: rounded scores, frozen away step by step."""

from __future__ import annotations

from jaxticket._check import number, whole
from jaxticket.sparsify.learned.constraints import Freezing
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import Rounded


def gem_miner(
    *,
    penalty: float = 1e-4,
    freezings: int = 29,
    lr: float = 0.1,
    momentum: float = 0.9,
    length: float | str = 1.0,
) -> Method:
    """GEM-MINER.

    Scores p in [0, 1] start uniform; the forward pass uses the weights with p > 1/2, the gradient
    passes as if it used p, and `penalty * |p|^2` is added to the loss. After each of `freezings`
    equal stretches the lowest p of all layers are pruned for good, so that the density falls
    exponentially to the requested one. The ticket is the set of remaining weights, whatever their
    p.

    Args:
      penalty: 1e-4 for densities of about 1% and below, 3e-5 at 4% (ResNet-20 of the paper).
      freezings: 29 is every fifth of 150 epochs.
      lr, momentum: of SGD on p, with a cosine schedule.
      length: of the search, as a share of the training's steps.

    Reference: Sreenivasan et al. 2022, "Rare Gems", Algorithm 1 and its published code; weights of
      signed constants are a network's: `init="signed_constant"`.
    """
    number("penalty", penalty, 0)
    freezings = whole("freezings", freezings, 1)
    return Method(
        name="gem_miner",
        relaxation=Rounded(),
        constraint=Freezing(weight=penalty, times=freezings),
        optimizer=(
            ("optimizer", "momentum"),
            ("lr", lr),
            ("momentum", momentum),
            ("schedule", "cosine"),
        ),
        length=length,
    )
