"""Supermasks by stochastic sparsification."""

from __future__ import annotations

from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import Bernoulli


def stochastic(
    *,
    keep: float | None = 0.5,
    lr: float = 100.0,
    momentum: float = 0.9,
    rescale: bool = False,
    length: float | str = 1.0,
) -> Method:
    """Stochastic masks.

    Every forward pass draws the mask of each weight with probability sigmoid(v) and lets the
    gradient pass as if it were sigmoid(v); v is moved by SGD with momentum, the weights never.

    Nothing holds the density: it moves from `keep` to what the loss likes best (the table of
    `Runs.trace` says where). The tickets keep the entries with the highest v.

    Args:
      keep: probability that all entries start with; None for the wanted density.
      lr, momentum: of SGD on v. A learning rate of 100 is no slip: the gradient of v is that of a
        weight times the weight times v's slope.
      rescale: dynamic weight rescaling: weights of a layer times its size over its number of ones.
      length: of the search, as a share of the training's steps.

    Reference: Zhou et al. 2019, "Deconstructing lottery tickets", sections 4 and 5. Weights of
      signed constants are a network's: `jt.networks.lenet(..., init="signed_constant")`.
    """
    return Method(
        name="stochastic",
        relaxation=Bernoulli(keep),
        optimizer=(("optimizer", "momentum"), ("lr", lr), ("momentum", momentum)),
        length=length,
        augment=False,
        rescale=rescale,
    )
