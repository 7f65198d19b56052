"""A trained network whose answers others learn next to the labels: distillation of weights."""

from __future__ import annotations

import dataclasses
import json
from typing import ClassVar

import jax
import optax

from jaxticket import _show
from jaxticket._check import instance, number, settle, share
from jaxticket.typing import Array, Given, Network

_LIKE = "a network with weights, such as runs.trained_network() or net.with_params(params)"


@dataclasses.dataclass(frozen=True)
class Teacher:
    r"""A trained network that others learn from: distillation, as `Training(teacher=...)`.

    The loss of each training example becomes

        alpha * CE(s, y) + T^2 * (1 - alpha) * KL(softmax(t / T) || softmax(s / T)),

    with s and t the logits of student and teacher and y the label. The factor T^2 keeps the sizes
    of the gradients of both terms apart from the temperature. The teacher stays as it is, is in
    evaluation mode, and sees the student's batch as the student sees it: augmented, and attacked
    under `Training.attack`. It may be another network than the student, for the same data and as
    many logits.

    >>> import jaxticket as jt
    >>> data = jt.data.load("digits")
    >>> large = jt.networks.lenet(data.shape, data.classes, widths=(32,))
    >>> params, stats = large.init(jax.random.key(0))
    >>> jt.Training(steps=10, teacher=Teacher(large.with_params(params))).teacher.temperature
    4.0

    Attributes:
      net: the teacher with its weights: `runs.trained_network(level, seed)`, or
        `net.with_params(params, stats)`. Weights of several seeds teach the students of these
        seeds, each its own; weights without seeds teach all.
      alpha: share of the labels, in [0, 1].
      temperature: T, above 0.

    Raises:
      ValueError: for a network without weights, and numbers out of range.

    Reference: Hinton, Vinyals and Dean 2015; KD-LTS, appendix D, which prints no settings: the
      defaults are those of Tian, Krishnan and Isola 2020.
    """

    kind: ClassVar[str] = "distillation"

    net: Network
    alpha: float = 0.1
    temperature: float = 4.0

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        instance("net", self.net, Network, _LIKE)
        if self.net.given is None:
            raise ValueError(
                f"`net` of a teacher must be {_LIKE}: this one has none, and would be drawn at "
                f"random"
            )
        settle(self, share, "alpha", zero=True)
        settle(self, number, "temperature", low=0, above=True)

    @property
    def given(self) -> Given:
        """The weights."""
        assert self.net.given is not None, "checked when it was made"
        return self.net.given

    @property
    def form(self) -> Teacher:
        """The teacher without its weights, which compiled programs take as arrays."""
        config = {k: v for k, v in json.loads(self.net.config).items() if k != "weights"}
        net = dataclasses.replace(
            self.net, config=json.dumps(config, sort_keys=True), given=Given({}, {}, None, "")
        )
        return dataclasses.replace(self, net=net)

    def losses(self, own: Array, logits: Array, answers: Array) -> Array:
        """The loss of each example, [batch].

        Args:
          own: the student's losses by the labels, [batch].
          logits, answers: those of student and teacher, float32 [batch, classes].
        """
        s, t = (jax.nn.log_softmax(z / self.temperature) for z in (logits, answers))
        apart = optax.losses.kl_divergence_with_log_targets(s, t)
        return self.alpha * own + self.temperature**2 * (1 - self.alpha) * apart
