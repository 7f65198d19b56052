"""SET: the smallest weights give way to random ones."""

from __future__ import annotations

from dataclasses import dataclass

from jaxticket.sparsify.dynamic.drop_and_grow import DropAndGrow
from jaxticket.sparsify.dynamic.static import random_scores
from jaxticket.typing import Key, Params, TrainState


@dataclass(frozen=True)
class SET(DropAndGrow):
    """Sparse evolutionary training: grow weights at random.

    Attributes:
      layout, every, end, fraction, decay: as of `DropAndGrow`; published with an Erdos-Renyi layout
        and a constant fraction of 0.3, once per epoch to the end of training.

    Reference: Mocanu et al. 2018, "Scalable training of artificial neural networks with adaptive
      sparse connectivity inspired by network science", Algorithm 2; the cosine as in Evci et al.
      2020.
    """

    def growth(self, state: TrainState, dense_gradient: Params, *, key: Key) -> Params:
        """Uniform random numbers."""
        del dense_gradient
        return random_scores(state.params, key=key)
