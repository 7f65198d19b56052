"""Learned masks: a method is a choice of relaxation, objective, constraint and schedules.

`search` itself is `jt.search`; here are its parts, for methods of your own.
"""

from jaxticket.search.constraints import Constraint as Constraint
from jaxticket.search.constraints import Freezing as Freezing
from jaxticket.search.constraints import GradBalance as GradBalance
from jaxticket.search.constraints import Lagrangian as Lagrangian
from jaxticket.search.constraints import Penalty as Penalty
from jaxticket.search.distillation import KNOWLEDGE as KNOWLEDGE
from jaxticket.search.distillation import Distillation as Distillation
from jaxticket.search.measure import objective_values as objective_values
from jaxticket.search.method import Method as Method
from jaxticket.search.objectives import OBJECTIVES as OBJECTIVES
from jaxticket.search.objectives import DenseSized as DenseSized
from jaxticket.search.objectives import OfTeacher as OfTeacher
from jaxticket.search.objectives import View as View
from jaxticket.search.objectives import objective as objective
from jaxticket.search.relaxations import Bernoulli as Bernoulli
from jaxticket.search.relaxations import Concrete as Concrete
from jaxticket.search.relaxations import Relaxation as Relaxation
from jaxticket.search.relaxations import Rounded as Rounded
from jaxticket.search.relaxations import Sigmoid as Sigmoid
from jaxticket.search.relaxations import TopK as TopK
from jaxticket.search.relaxations import TopSigmoid as TopSigmoid
from jaxticket.search.run import SEARCHES as SEARCHES
from jaxticket.search.run import search as search
from jaxticket.search.schedules import Schedule as Schedule
from jaxticket.search.teachers import Teaching as Teaching
