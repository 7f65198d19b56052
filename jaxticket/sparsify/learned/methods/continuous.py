"""Continuous sparsification: weights and soft masks trained together, the masks made hard."""

from __future__ import annotations

from jaxticket._check import number, whole
from jaxticket.sparsify.learned.constraints import Penalty
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import Sigmoid
from jaxticket.sparsify.learned.schedules import Schedule


def continuous(
    *,
    rounds: int = 1,
    start: float = 0.0,
    penalty: float = 1e-8,
    final_beta: float = 200.0,
    epochs: int | None = None,
    scaled: bool = False,
    scaled_tickets: bool = True,
    lr: float | None = None,
    clip_norm: float | None = None,
    momentum: float = 0.9,
    weight_decay: float = 1e-4,
    length: float | str = 1.0,
) -> Method:
    """Continuous sparsification.

    Minimizes `loss(sigmoid(beta s) * w) + penalty * |sigmoid(beta s)|_1` over weights w and scores
    s, while beta grows exponentially from 1 to `final_beta`. Between rounds `s <- min(beta s, s0)`
    and beta restarts. Tickets are rewound: the weights that were trained with the scores are
    discarded.

    How many scores end above 0 follows from `start` and `penalty` alone (`Runs.trace` says how
    many); the tickets keep exactly the wanted number of highest scores.

    Args:
      rounds: 1, or more; the search is divided between them.
      start: s0 of all scores: above 0 for dense, below for very sparse results; the paper sweeps
        about -0.3 to 0.3.
      penalty: weight of the L1 norm of the soft mask.
      final_beta: 200 in the paper, 300 in KD-LTS.
      epochs: beta grows once in each of so many parts of a round; at every step if None.
      scaled: divide the soft mask by sigmoid(s0), as the authors' code does.
      scaled_tickets: tickets keep that factor, as in the authors' code; False takes it off.
      lr: weights and scores move as weights do in training, with its optimizer, learning rate and
        weight decay (of the weights alone). A number, in the paper 0.1, is the rate of Nesterov's
        SGD: right for its networks, which have BatchNorm, while LeNet's weights diverge within ten
        steps of it. Either rate drops by 0.1 after 2/3 and 5/6 of a round.
      clip_norm: largest global norm of the gradient by weights and scores together; None, as in the
        paper, for no bound. The scores' gradient grows with beta: LeNet, without BatchNorm, leaves
        the finite numbers under plain SGD once beta is 9, and converges with a norm of 1.
      momentum, weight_decay: of that SGD.
      length: of all rounds together, as a share of the training's steps.

    Reference: Savarese, Silva and Maire 2020, Algorithm 2, and its published code.
    """
    number("penalty", penalty, 0)
    number("final_beta", final_beta, 1e-12)
    if epochs is not None:
        epochs = whole("epochs", epochs, 2)
    sgd = {
        "optimizer": "momentum",
        "lr": lr,
        "momentum": momentum,
        "nesterov": True,
        "weight_decay": weight_decay,
    }
    changes = {**({} if lr is None else sgd), "clip_norm": clip_norm}
    return Method(
        name="continuous",
        relaxation=Sigmoid(
            Schedule(1.0, final_beta, "exponential", stairs=epochs), start=start, scaled=scaled
        ),
        constraint=Penalty(weight=penalty),
        optimizer=tuple((name, value) for name, value in changes.items() if value is not None),
        drop_at=(56 / 85, 71 / 85),
        length=length,
        rounds=rounds,
        scaled_tickets=scaled_tickets,
        learn_weights=True,
    )
