"""Concrete Ticket Search: a concrete relaxation whose density is held by GradBalance."""

from __future__ import annotations

from jaxticket.search.constraints import Constraint, GradBalance
from jaxticket.search.method import Method
from jaxticket.search.objectives import Objective
from jaxticket.search.relaxations import Concrete
from jaxticket.search.schedules import Schedule, as_schedule


def concrete(
    objective: str | Objective = "reverse_kl",
    *,
    constraint: Constraint | None = None,
    temperature: float | Schedule = 2 / 3,
    lr: float = 0.1,
    length: float | str = "short",
    scale: float | None = None,
) -> Method:
    """Scores a start at the logit of the density; each step draws the mask `sigmoid(logit(u) / T +
    a)`, u uniform, and moves a by Adam on `scale * objective`, with GradBalance holding `sum
    sigmoid(a)` near 1.1 times the wanted number. The K entries with the highest a are kept.

    Args:
      objective: a name in `jaxticket.search.OBJECTIVES`: the paper finds "reverse_kl",
        "change_of_loss" and "loss" best.
      constraint: `GradBalance()` if None; `Lagrangian()` is the alternative it is compared with.
      temperature: T, a number or a `Schedule` (annealing).
      lr: of Adam: 0.1 on CIFAR, 0.4 on ImageNet and Tiny-ImageNet. It drops by 0.1 after 88% of
        the search.
      length: "short", "half" or "long": 1/8, 1/2 or all of the training's steps.
      scale: of the objective; None for the one its paper uses.

    Reference: Arora and Teuscher 2025 (arXiv 2512.07142) and its published code, which is where the
      numbers come from. Images are not augmented, weights stay as they are.
    """
    return Method(
        name="concrete",
        relaxation=Concrete(as_schedule("temperature", temperature)),
        objective=objective,
        constraint=GradBalance() if constraint is None else constraint,
        optimizer=(("optimizer", "adam"), ("lr", lr)),
        drop_at=(0.88,),
        length=length,
        scale=scale,
        augment=False,
    )
