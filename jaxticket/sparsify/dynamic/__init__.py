"""Masks that move during training: mask rules, and `jt.sparse_train`, which runs them."""

from jaxticket.sparsify.dynamic.rule import MaskRule as MaskRule
from jaxticket.sparsify.dynamic.static import Static as Static
from jaxticket.sparsify.dynamic.static import random_mask as random_mask
from jaxticket.sparsify.dynamic.training import RULES as RULES
from jaxticket.sparsify.dynamic.training import SparseTraining as SparseTraining
from jaxticket.sparsify.dynamic.training import sparse_train as sparse_train

__all__ = [
    "RULES",
    "MaskRule",
    "SparseTraining",
    "Static",
    "random_mask",
    "sparse_train",
]


def __dir__() -> list[str]:
    return __all__
