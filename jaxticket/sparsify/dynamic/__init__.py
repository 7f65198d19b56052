"""Masks that move during training: mask rules, and `jt.sparse_train`, which runs them."""

from jaxticket.sparsify.dynamic.ac_dc import ACDC as ACDC
from jaxticket.sparsify.dynamic.drop_and_grow import DropAndGrow as DropAndGrow
from jaxticket.sparsify.dynamic.drop_and_grow import exchanged as exchanged
from jaxticket.sparsify.dynamic.gradual import Gradual as Gradual
from jaxticket.sparsify.dynamic.iterative import Iterative as Iterative
from jaxticket.sparsify.dynamic.latent import Latent as Latent
from jaxticket.sparsify.dynamic.movement import Movement as Movement
from jaxticket.sparsify.dynamic.rigl import RigL as RigL
from jaxticket.sparsify.dynamic.rule import MaskRule as MaskRule
from jaxticket.sparsify.dynamic.set import SET as SET
from jaxticket.sparsify.dynamic.shrinking import Shrinking as Shrinking
from jaxticket.sparsify.dynamic.static import Static as Static
from jaxticket.sparsify.dynamic.static import random_mask as random_mask
from jaxticket.sparsify.dynamic.straight_through import StraightThrough as StraightThrough
from jaxticket.sparsify.dynamic.top_kast import TopKAST as TopKAST
from jaxticket.sparsify.dynamic.training import RULES as RULES
from jaxticket.sparsify.dynamic.training import SparseTraining as SparseTraining
from jaxticket.sparsify.dynamic.training import sparse_train as sparse_train

__all__ = [
    "ACDC",
    "RULES",
    "SET",
    "DropAndGrow",
    "Gradual",
    "Iterative",
    "Latent",
    "MaskRule",
    "Movement",
    "RigL",
    "Shrinking",
    "SparseTraining",
    "Static",
    "StraightThrough",
    "TopKAST",
    "exchanged",
    "random_mask",
    "sparse_train",
]


def __dir__() -> list[str]:
    return __all__
