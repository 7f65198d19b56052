"""Ways to find masks: a `Strategy` says how, and `run_strategy` does the rest.

The strategies of `jt.find_tickets`, `jt.prune_at`, `jt.search` and `jt.dynamic_imp` are
`jt.Pruning`, `jt.EarlyPruning`, `learned.learned_masks.LearnedPruning` and `jt.DynamicIMP`; here
are the parts for your own.
"""

from jaxticket.sparsify.at_step import AtStep as AtStep
from jaxticket.sparsify.cost import Cost as Cost
from jaxticket.sparsify.cost import of_dense as of_dense
from jaxticket.sparsify.cost import of_training as of_training
from jaxticket.sparsify.strategy import Found as Found
from jaxticket.sparsify.strategy import Stage as Stage
from jaxticket.sparsify.strategy import Strategy as Strategy
from jaxticket.sparsify.strategy import dense_ticket as dense_ticket
from jaxticket.sparsify.strategy import run_strategy as run_strategy
from jaxticket.sparsify.strategy import trained_weights as trained_weights
from jaxticket.sparsify.strategy import weights_of as weights_of

__all__ = [
    "AtStep",
    "Cost",
    "Found",
    "Stage",
    "Strategy",
    "dense_ticket",
    "of_dense",
    "of_training",
    "run_strategy",
    "trained_weights",
    "weights_of",
]


def __dir__() -> list[str]:
    return __all__
