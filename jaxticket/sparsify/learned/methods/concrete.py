"""Concrete Ticket Search: a concrete relaxation whose density is held by GradBalance."""

from __future__ import annotations

from jaxticket._check import flag, share
from jaxticket.sparsify.learned.constraints import Constraint, GradBalance
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.objectives import DenseSized, Objective, OfTeacher
from jaxticket.sparsify.learned.relaxations import Concrete
from jaxticket.sparsify.learned.schedules import Schedule, as_schedule
from jaxticket.sparsify.learned.teachers import Teaching


def concrete(
    objective: str | Objective = "reverse_kl",
    *,
    constraint: Constraint | None = None,
    temperature: float | Schedule = 2 / 3,
    lr: float = 0.1,
    length: float | str = "short",
    scale: float | None = None,
    target: float | None = None,
    dense_sized: bool = False,
) -> Method:
    """Concrete Ticket Search.

    Scores a start at the logit of the density; each step draws the mask `sigmoid(logit(u) / T +
    a)`, u uniform, and moves a by Adam on `scale * objective`, with GradBalance holding `sum
    sigmoid(a)` near 1.1 times the requested number. The K entries with the highest a are kept.

    Args:
      objective: a name in `jaxticket.sparsify.learned.OBJECTIVES`: the paper finds "reverse_kl",
        "change_of_loss" and "loss" best.
      constraint: `GradBalance()` if None; `Lagrangian()` is the alternative it is compared with.
      temperature: T, a number or a `Schedule` (annealing).
      lr: of Adam: 0.1 on CIFAR, 0.4 on ImageNet and Tiny-ImageNet. It drops by 0.1 after 88% of
        the search.
      length: "short", "half" or "long": 1/8, 1/2 or all of the training's steps.
      scale: of the objective; None for the one its paper uses.
      target: what the objective compares with. None is the dense network at the weights that are
        searched, as in the paper, whose searches begin some epochs into training; at initialization
        its answers say nothing, and "reverse_kl" and "forward_kl" warn of that. A share of the
        training, such as 1.0, is a dense network that is trained for so long before the search,
        from the same initial weights in another order of examples.
      dense_sized: multiply the masked network's logits to be as large as those of the network that
        it is compared with (`jaxticket.sparsify.learned.DenseSized`), for networks without
        normalization layers; those of the paper have BatchNorm.

    Reference: Arora and Teuscher 2025 (arXiv 2512.07142) and its published code, which is where the
      numbers come from. Images are not augmented, weights stay as they are.
    """
    if target is not None:
        share("target", target)
        OfTeacher(objective)  # raises for one that compares with no other network
    if flag("dense_sized", dense_sized):
        objective = DenseSized(objective)
    return Method(
        name="concrete",
        relaxation=Concrete(as_schedule("temperature", temperature)),
        objective=objective if target is None else OfTeacher(objective),
        constraint=GradBalance() if constraint is None else constraint,
        optimizer=(("optimizer", "adam"), ("lr", lr)),
        drop_at=(0.88,),
        length=length,
        scale=scale,
        augment=False,
        teaching=None if target is None else Teaching(1, target, same_init=True),
    )
