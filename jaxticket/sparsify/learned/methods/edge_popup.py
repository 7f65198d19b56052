"""Edge-popup: the k best edges of every layer, chosen again in every forward pass."""

from __future__ import annotations

from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import TopK


def edge_popup(
    *,
    scope: str = "layer",
    lr: float = 0.1,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    length: float | str = 1.0,
) -> Method:
    """Edge-popup.

    Each layer uses its `n - floor((1 - density) * n)` entries with the largest |s|, at every step;
    the gradient reaches |s| as if the mask were |s|, so that pruned edges can return. The weights
    never move.

    Args:
      scope: "layer" keeps the same share of every layer, as published; "global" ranks all layers
        together.
      lr, momentum, weight_decay: of SGD on the scores, with a cosine schedule.
      length: of the search, as a share of the training's steps.

    Reference: Ramanujan et al. 2020, section 3 and its published code; weights of signed constants
      do best there (`init="signed_constant"`).
    """
    return Method(
        name="edge_popup" if scope == "layer" else "edge_popup_global",
        relaxation=TopK(scope),
        optimizer=(
            ("optimizer", "momentum"),
            ("lr", lr),
            ("momentum", momentum),
            ("weight_decay", weight_decay),
            ("schedule", "cosine"),
        ),
        length=length,
        decay_scores=True,
    )
