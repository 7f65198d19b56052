"""Learned masks: a method is a choice of relaxation, objective, constraint and schedules.

`search` itself is `jt.search`; here are its parts, for methods of your own.
"""

from jaxticket.sparsify.learned.constraints import Constraint as Constraint
from jaxticket.sparsify.learned.constraints import Freezing as Freezing
from jaxticket.sparsify.learned.constraints import GradBalance as GradBalance
from jaxticket.sparsify.learned.constraints import Lagrangian as Lagrangian
from jaxticket.sparsify.learned.constraints import Penalty as Penalty
from jaxticket.sparsify.learned.distillation import KNOWLEDGE as KNOWLEDGE
from jaxticket.sparsify.learned.distillation import Distillation as Distillation
from jaxticket.sparsify.learned.evaluate import objective_values as objective_values
from jaxticket.sparsify.learned.method import Method as Method
from jaxticket.sparsify.learned.objectives import OBJECTIVES as OBJECTIVES
from jaxticket.sparsify.learned.objectives import DenseSized as DenseSized
from jaxticket.sparsify.learned.objectives import OfTeacher as OfTeacher
from jaxticket.sparsify.learned.objectives import View as View
from jaxticket.sparsify.learned.objectives import objective as objective
from jaxticket.sparsify.learned.relaxations import Bernoulli as Bernoulli
from jaxticket.sparsify.learned.relaxations import Concrete as Concrete
from jaxticket.sparsify.learned.relaxations import Relaxation as Relaxation
from jaxticket.sparsify.learned.relaxations import Rounded as Rounded
from jaxticket.sparsify.learned.relaxations import Sigmoid as Sigmoid
from jaxticket.sparsify.learned.relaxations import TopK as TopK
from jaxticket.sparsify.learned.relaxations import TopSigmoid as TopSigmoid
from jaxticket.sparsify.learned.run import SEARCHES as SEARCHES
from jaxticket.sparsify.learned.run import search as search
from jaxticket.sparsify.learned.schedules import Schedule as Schedule
from jaxticket.sparsify.learned.teachers import Teaching as Teaching
from jaxticket.sparsify.learned.teachers import teachers_of as teachers_of

__all__ = [
    "KNOWLEDGE",
    "OBJECTIVES",
    "SEARCHES",
    "Bernoulli",
    "Concrete",
    "Constraint",
    "DenseSized",
    "Distillation",
    "Freezing",
    "GradBalance",
    "Lagrangian",
    "Method",
    "OfTeacher",
    "Penalty",
    "Relaxation",
    "Rounded",
    "Schedule",
    "Sigmoid",
    "Teaching",
    "TopK",
    "TopSigmoid",
    "View",
    "objective",
    "objective_values",
    "search",
]


def __dir__() -> list[str]:
    return __all__
