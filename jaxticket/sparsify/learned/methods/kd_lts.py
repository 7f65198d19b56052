"""KD-LTS: soft masks that learn from trained networks, frozen away step by step."""

from __future__ import annotations

from jaxticket._check import number, several, share, whole
from jaxticket.engine.adversarial import PGD
from jaxticket.sparsify.learned.constraints import Freezing
from jaxticket.sparsify.learned.distillation import Distillation
from jaxticket.sparsify.learned.method import Method
from jaxticket.sparsify.learned.relaxations import TopSigmoid
from jaxticket.sparsify.learned.schedules import Schedule
from jaxticket.sparsify.learned.teachers import Teaching


def kd_lts(
    *,
    teachers: int = 2,
    stage: float = 0.25,
    same_init: bool = False,
    one: bool = False,
    attack: PGD | None = None,
    online: bool = False,
    alpha: float = 0.9,
    temperature: float = 10.0,
    gamma: float = 1.0,
    omega: float = 0.2,
    knowledge: tuple[str, ...] = ("direction", "relations"),
    ensemble: str = "mean",
    double_average: bool = False,
    jacobian: str = "mean",
    beta: tuple[float, float] = (1.0, 60.0),
    start: float = 0.0,
    scaled: bool = True,
    scaled_tickets: bool = True,
    normalized: bool = False,
    cumulative: bool = False,
    penalty: float = 1e-8,
    epochs: int = 40,
    freeze_every: int = 5,
    normalize: str | None = "layer",
    lr: float = 0.1,
    momentum: float = 0.0,
    drop_at: tuple[float, ...] = (),
    length: float | str = 1.0,
) -> Method:
    """KD-LTS: masks learned by distillation.

    Scores s start equal; the weights are fixed under `sigmoid(beta s)`, of which each epoch uses
    fewer (`TopSigmoid`), and learn from labels and teachers (`Distillation`). The gradient of the
    scores of each layer is scaled to norm 1. Every few epochs the smallest `|sigmoid(beta s) w|`
    are pruned for good, so that the density falls exponentially to the requested one.

    Args:
      teachers, stage, same_init, one, attack, online: see `Teaching`.
      alpha, temperature, gamma, omega, knowledge, ensemble, double_average, jacobian: see
        `Distillation`.
      beta: first and last; it moves with every step, through the values that the paper's has epoch
        by epoch.
      start: see `Sigmoid`.
      scaled: let the soft mask start at 1 instead of 1/2, as the code of continuous sparsification,
        whose mask this is. The paper prints neither; with 1/2 every layer begins with its weights
        halved.
      scaled_tickets: let tickets start from the weights times that factor, 2 for a `start` of 0, as
        the network that was searched; False takes the factor off.
      normalized: batch-normalised scores, the s~ of Algorithm 1 (see `TopSigmoid`). `normalize`,
        below, is something else: it concerns the gradient of the scores.
      cumulative: whether what falls out never returns, see `TopSigmoid`.
      penalty: weight of the soft mask's L1 norm.
      epochs: of the search; what moves by epochs divides it into so many parts.
      freeze_every: epochs from one freezing to the next.
      normalize: how gradients of scores are brought to one size, see `Method`; not to be confused
        with `normalized`.
      lr, momentum: of SGD on the scores; 0.1 and 0 for LeNet, 1 and 0.9 for the other networks.
      drop_at: the rate drops by 0.1 after these shares of the search.
      length: of the search, as a share of the training's steps.

    Raises:
      ValueError: for values that cannot be, by their names.

    Reference: KD-LTS, sections 4.1 and 4.2, Tables 6 and 7, whose numbers for LeNet-300-100 are the
      defaults. `gamma`, `start`, `scaled`, `penalty`, `freeze_every` and `stage` are not
      printed.
    """
    betas = several("beta", beta, number, like="(1.0, 60.0), first and last", low=1e-12)
    if len(betas) != 2:
        raise ValueError(f"`beta` must be two numbers, first and last, got {beta!r}")
    epochs, freeze_every = whole("epochs", epochs, 1), whole("freeze_every", freeze_every, 1)
    momentum = share("momentum", momentum, zero=True, one=False)
    number("penalty", penalty, 0)
    plain = momentum == 0
    return Method(
        name="kd_lts",
        relaxation=TopSigmoid(
            Schedule(*betas, "exponential"), start=start, scaled=scaled, epochs=epochs,
            normalized=normalized, cumulative=cumulative,
        ),
        objective=Distillation(
            alpha=alpha, temperature=temperature, gamma=gamma, omega=omega, epochs=epochs,
            knowledge=knowledge, ensemble=ensemble, double_average=double_average,
            jacobian=jacobian,
        ),
        constraint=Freezing(
            weight=penalty, power=1, times=max(1, round(epochs / freeze_every)), weighed=True
        ),
        optimizer=(
            ("optimizer", "sgd" if plain else "momentum"),
            ("lr", lr),
            *(() if plain else (("momentum", momentum),)),
        ),
        drop_at=drop_at,
        length=length,
        scaled_tickets=scaled_tickets,
        normalize=normalize,
        teaching=Teaching(teachers, stage, same_init, one, attack, online),
    )  # fmt: skip
