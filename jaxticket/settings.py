"""The settings of training and pruning: frozen dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxticket import rescaling
from jaxticket._check import (
    flag,
    interval,
    number,
    one_of,
    one_or_several,
    or_none,
    settle,
    several,
    share,
    texts,
    whole,
)
from jaxticket.typing import Mask, Params

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("steps", "cosine", "linear")
PRECISIONS = ("default", "high", "highest")
COMPUTE_DTYPES = ("float32", "bfloat16")
AUGMENTATIONS = ("crop", "shift", "resized_crop", "flip")
MOST_LEVELS = 1000
"""Of `Pruning`; with the usual fraction every network has lost its last weight long before."""
LATER = {"later": True}
"""Metadata of fields that older run folders do not have: files leave them out at their default."""


@dataclass(frozen=True)
class Training:
    r"""How a network is trained.

    The learning rate is a function of the absolute step t, `lr * min(1, t / warmup) * decay(t)`,
    where decay is `gamma ** #{m in milestones: m <= t}` for the schedule "steps" and
    `(1 + cos(pi * t / steps)) / 2` for "cosine"; for "linear" `lr * decay(t)` is the straight line
    from `lr` at step 0 to `final_lr` at `steps`. With no milestones, "steps" is constant.

    A setting other than its default that has no effect beside the others is an error, such as a
    momentum of Adam or a `gamma` without milestones.

    Attributes:
      steps: number of updates from initialization to the end.
      batch_size: examples per update.
      optimizer: "sgd", "momentum", "adam" or "adamw".
      lr: peak learning rate.
      momentum: of "momentum"; v <- momentum * v + g, w <- w - lr * v.
      nesterov: Nesterov's form of "momentum".
      b1, b2, eps: of "adam" and "adamw".
      weight_decay: added to the gradient of every parameter before momentum ("sgd", "momentum",
        "adam"), or decoupled from it ("adamw").
      warmup: steps of linear warmup; at step 0 the rate is then exactly 0.
      schedule: "steps", "cosine" or "linear".
      milestones: steps at which the rate is multiplied by `gamma`; the drop acts at the milestone
        itself.
      gamma: factor of each drop.
      final_lr: rate that "linear" ends at.
      label_smoothing: share of the target spread evenly over the classes.
      clip_norm: largest global norm of the masked gradient, clipped before weight decay; None to
        leave it.
      last_batch: "wrap" runs batches on into the next epoch, so that each is full and each example
        is seen equally often; "drop" leaves out what does not fill a batch at the end of an epoch.
      augment: what each training image goes through, in any order: at most one of "crop" (padded
        with black, then cut to the old size), "shift" (the same, padded with the mean colour) and
        "resized_crop" (a part of random area and aspect at full size), and "flip" (left to right,
        every other time). Evaluation and scores see images as they are.
      augment_pixels: of "crop" and "shift": the largest move in each direction.
      augment_scale: of "resized_crop": bounds of the part's area, as a share of the image's.
      augment_ratio: of "resized_crop": bounds of the part's width / height.
      eval_every: steps between evaluations; None for a twentieth of `steps`.
      eval_batch_size: examples per evaluation batch.
      eval_train_examples: at most so many training examples are evaluated (evenly spread); None
        for all.
      compute_dtype: "float32" or "bfloat16", the type of weights and activations inside the
        network; weights, optimizer state, losses and statistics are kept in float32.
      precision: "highest", "high" or "default" (the hardware's own, which is bfloat16 or TF32 on
        some).
      attack: adversarial training: a `jaxticket.attacks.PGD` puts adversarial examples of the
        network as it is (with its running statistics) in the place of every training batch, after
        augmentation and before normalisation; None for none. Evaluations see images as they are.

    Reference: Frankle's thesis, section 3.3.1 and Table 4.1, for the default values (LeNet on
      MNIST); Madry et al. 2018 for `attack`.
    """

    steps: int = 24_000
    batch_size: int = 60
    optimizer: str = "adam"
    lr: float = 1.2e-3
    momentum: float = 0.9
    nesterov: bool = False
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    warmup: int = 0
    schedule: str = "steps"
    milestones: tuple[int, ...] = ()
    gamma: float = 0.1
    final_lr: float = 0.0
    label_smoothing: float = 0.0
    clip_norm: float | None = None
    last_batch: str = "wrap"
    augment: tuple[str, ...] = ()
    augment_pixels: int = 4
    augment_scale: tuple[float, float] = (0.08, 1.0)
    augment_ratio: tuple[float, float] = (3 / 4, 4 / 3)
    eval_every: int | None = None
    eval_batch_size: int = 1000
    eval_train_examples: int | None = 10_000
    compute_dtype: str = "float32"
    precision: str = "highest"
    attack: Callable[..., Any] | None = dataclasses.field(default=None, metadata=LATER)

    def __post_init__(self) -> None:
        settle(self, whole, "steps", "batch_size", "eval_batch_size", "augment_pixels", low=1)
        settle(self, or_none(whole), "eval_every", "eval_train_examples", low=1)
        settle(self, whole, "warmup")
        settle(self, several, "milestones", check=whole, like="(20_000, 25_000)", empty=True)
        settle(self, one_of, "optimizer", choices=OPTIMIZERS)
        settle(self, one_of, "schedule", choices=SCHEDULES)
        settle(self, one_of, "last_batch", choices=("wrap", "drop"))
        settle(self, one_of, "compute_dtype", choices=COMPUTE_DTYPES)
        settle(self, one_of, "precision", choices=PRECISIONS)
        settle(self, number, "lr", "eps", "weight_decay", "gamma", "final_lr", low=0)
        settle(self, or_none(number), "clip_norm", low=1e-12)
        settle(self, share, "momentum", "b1", "b2", "label_smoothing", zero=True, one=False)
        settle(self, flag, "nesterov")
        self._check_augment()
        untargeted = callable(self.attack) and not getattr(self.attack, "targeted", False)
        if self.attack is not None and not untargeted:
            raise ValueError(
                f"`attack` must be None or an untargeted attack such as jaxticket.attacks.PGD(), "
                f"got {self.attack!r}"
            )
        for name, why in _unused(vars(self)).items():
            if getattr(self, name) != _DEFAULTS[name]:
                raise ValueError(
                    f"`{name}` is used {why}, got {name}={getattr(self, name)!r}; leave one of "
                    f"them out"
                )

    def _check_augment(self) -> None:
        names = texts("augment", self.augment, like='("crop", "flip")')
        object.__setattr__(self, "augment", names)
        for name in names:
            one_of("augment", name, AUGMENTATIONS)
        moves = [name for name in names if name != "flip"]
        if len(moves) > 1:
            raise ValueError(f"`augment` takes only one of {', '.join(moves)}; leave out the rest")
        settle(self, interval, "augment_scale", high=1.0)
        settle(self, interval, "augment_ratio")

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.eval_every if self.eval_every is not None else max(1, round(self.steps / 20))

    def replace(self, **changes: object) -> Training:
        """A copy with some fields changed.

        Fields that lose their effect by it and are not among the changes go back to their defaults:
        `replace(optimizer="adam")` forgets the momentum, `replace(schedule="cosine")` milestones.
        """
        idle = set(_unused({**vars(self), **changes})) - set(changes)
        usual = {name: _DEFAULTS[name] for name in idle}
        return dataclasses.replace(self, **usual, **changes)  # type: ignore[arg-type]

    def dilated(self, factor: float) -> Training:
        """All times of the schedule (steps, warmup, milestones) multiplied by `factor` and rounded.

        Reference: Frankle's thesis, section 3.3.6.
        """
        factor = number("factor", factor, 0, above=True)
        return self.replace(
            steps=max(1, round(factor * self.steps)),
            warmup=round(factor * self.warmup),
            milestones=tuple(round(factor * m) for m in self.milestones),
            # evaluations stay at the steps where the undilated training has them
            eval_every=self.evaluation_interval,
        )


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Training)}
_USED_BY = (
    ("momentum", "optimizer", ("momentum",)),
    ("nesterov", "optimizer", ("momentum",)),
    ("b1", "optimizer", ("adam", "adamw")),
    ("b2", "optimizer", ("adam", "adamw")),
    ("eps", "optimizer", ("adam", "adamw")),
    ("milestones", "schedule", ("steps",)),
    ("final_lr", "schedule", ("linear",)),
    ("augment_pixels", "augment", ("crop", "shift")),
    ("augment_scale", "augment", ("resized_crop",)),
    ("augment_ratio", "augment", ("resized_crop",)),
)
"""Fields of `Training` that only some values of another field use."""


def _unused(values: Mapping[str, Any]) -> dict[str, str]:
    """Fields of a training that have no effect, and what would give them one."""
    unused = {}
    for name, user, wanted in _USED_BY:
        given = values[user] if isinstance(values[user], (list, tuple)) else (values[user],)
        if not any(one in given for one in wanted):
            only = " and ".join(f"{user}={one!r}" for one in wanted)
            unused[name] = f"by {only} only, not by {user}={values[user]!r}"
    if "milestones" in unused or not np.size(values["milestones"]):
        unused["gamma"] = "at `milestones` only, of which there are none"
    return unused


@dataclass(frozen=True)
class Pruning:
    """How tickets are found: train, prune, rewind, repeat.

    Level n keeps `round((1 - fraction) ** n * P)` of the P prunable weights (round half to even).

    Attributes:
      levels: number of times the network is pruned, at most 1000; the last one has to keep at least
        one weight.
      fraction: share of the remaining weights that each level removes.
      one_shot: prune the trained dense network straight to each level's density, instead of level
        after level.
      score: name in `jt.SCORES` or a score function.
      scope: "global" ranks all weights together, "layer" each layer by itself.
      rates: pairs (pattern, fraction): with scope "layer", the fraction of the layers whose path
        matches (the first that does). The 2019 paper prunes the output layer at half the rate of
        the others.
      exclude: patterns of paths, such as "dense_2/*", that are never pruned and not counted in P.
      rewind: the step to whose weights a ticket goes back, 0 for initialization; or
        "learning_rate", which keeps the trained weights and repeats the whole schedule (LRR).
      schedule: "remaining" trains tickets from the rewind step to the end, as Algorithm 4;
        "full" trains them with the whole schedule from its start, whatever step their weights are
        of (section 5.2). With rewind=0 and "learning_rate" both are the whole schedule.
      order: "fresh" draws new SGD noise (order of examples and augmentation) for every level, so
        that no ticket is trained under the noise that it was found with; its branches share the
        noise of their level. "same" shows every level the batches of level 0.
      score_batches, score_batch_size: training batches that a score may look at; no batch is
        larger than the training split. An error to set for scores that look at none.
      rescale: "global" divides the kept weights of every ticket by its density before it is
        trained, "layer" those of each layer by the layer's; always the weights of the rewind step,
        so that factors of different levels never multiply. None, as in the papers but KD-LTS and in
        the published code of all of them, leaves the weights alone. Controls follow: new weights
        get the ticket's factors too.

    Reference: Frankle's thesis, Algorithms 1, 2 and 4 (line 5 for the noise, which no source
      holds fixed: the published codes shuffle examples differently in every training); section
      3.3.3 for one-shot. KD-LTS, appendix H, Algorithm 2 (rescale), where the printed `1 - |m'|_0 /
      P` is read as the density.
    """

    levels: int = 12
    fraction: float = 0.2
    one_shot: bool = False
    score: str | Callable[..., object] = "magnitude"
    scope: str = "global"
    rates: tuple[tuple[str, float], ...] = ()
    exclude: tuple[str, ...] = ()
    rewind: int | str = 0
    order: str = "fresh"
    score_batches: int = 1
    score_batch_size: int = 100
    schedule: str = dataclasses.field(default="remaining", metadata=LATER)
    rescale: str | None = dataclasses.field(default=None, kw_only=True, metadata=LATER)

    def __post_init__(self) -> None:
        settle(self, whole, "levels", high=MOST_LEVELS)
        settle(self, share, "fraction", one=False)
        settle(self, flag, "one_shot")
        settle(self, _named, "score")
        settle(self, one_of, "scope", choices=("global", "layer"))
        settle(self, several, "rates", check=_rate, like='(("dense_2", 0.1),)', empty=True)
        settle(self, texts, "exclude", like='("dense_2",)')
        if self.rates and self.scope != "layer":
            raise ValueError(f"`rates` need scope='layer', got scope={self.scope!r}")
        if isinstance(self.rewind, str):
            one_of("rewind", self.rewind, ("learning_rate",))
        else:
            settle(self, whole, "rewind")
        settle(self, one_of, "order", choices=("same", "fresh"))
        settle(self, one_of, "schedule", choices=("remaining", "full"))
        settle(self, whole, "score_batches", "score_batch_size", low=1)
        if self.rescale is not None:
            settle(self, one_of, "rescale", choices=rescaling.RESCALE)
        if self.rescale is not None and isinstance(self.rewind, str):
            raise ValueError(
                f"`rescale` {self.rescale!r} needs weights that are rewound to a step: with "
                f"rewind={self.rewind!r} the factors of all levels would multiply; leave one of "
                f"them out"
            )

    def factors(self, mask: Mask, prunable: Any) -> Params | None:
        """What the rewound weights of tickets are multiplied by; None for nothing.

        Args:
          mask: of several tickets, host arrays [replica, ...].
          prunable: tree of python bools.
        """
        return None if self.rescale is None else rescaling.by_density(mask, prunable, self.rescale)

    @property
    def rewind_step(self) -> int:
        """The step whose weights a ticket starts from; 0 under learning-rate rewinding, which
        repeats the schedule.
        """
        return 0 if isinstance(self.rewind, str) else self.rewind

    @property
    def start(self) -> int:
        """Where in the schedule a ticket begins: at the rewind step, or at 0 where it repeats the
        whole schedule.
        """
        return 0 if self.schedule == "full" else self.rewind_step

    def density_of(self, level: int) -> float:
        """The nominal density of a level, `(1 - fraction) ** level`."""
        return (1 - self.fraction) ** level

    def replace(self, **changes: object) -> Pruning:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


@dataclass(frozen=True)
class PruningAtStep:
    """What `jt.prune_at` and `jt.search` have in common: masks are found once, at one step of
    dense training.

    Attributes:
      densities: of levels 1, 2, ...: each is found straight from the dense network.
      step: when; 0 is initialization, and the last step of training is after it.
      schedule: "full" trains pruned networks with the whole schedule from its start, "remaining"
        with what is left of it after `step`.
      exclude: patterns of paths that are never pruned and not counted.
      rescale: as of `Pruning`.

    At step 0, and with what is left of the schedule, pruned networks see the batches that the
    dense one sees: their masks have seen none of them. Where they repeat the schedule after a later
    step, each density has new SGD noise (`order` "fresh", see `Pruning`).
    """

    densities: tuple[float, ...]
    step: int = 0
    schedule: str = "full"
    exclude: tuple[str, ...] = ()
    rescale: str | None = dataclasses.field(default=None, kw_only=True, metadata=LATER)

    def __post_init__(self) -> None:
        settle(self, texts, "exclude", like='("dense_2",)')
        densities = one_or_several(
            "density", self.densities, share, like="(0.3, 0.1)", distinct=True
        )
        object.__setattr__(self, "densities", densities)
        settle(self, whole, "step")
        settle(self, one_of, "schedule", choices=("full", "remaining"))
        if self.rescale is not None:
            settle(self, one_of, "rescale", choices=rescaling.RESCALE)

    @property
    def rewind_step(self) -> int:
        """The step whose weights pruned networks start from."""
        return self.step

    @property
    def rewind(self) -> int | str:
        """As of `Pruning`: only masks found at initialization make winning tickets."""
        return self.step

    def density_of(self, level: int) -> float:
        """The density that was asked for at a level; level 0 is dense."""
        return self.densities[level - 1] if level else 1.0

    def factors(self, mask: Mask, prunable: Any) -> Params | None:
        """What the dense weights of pruned networks are multiplied by; None for nothing.

        Args:
          mask: of several networks, host arrays [replica, ...].
          prunable: tree of python bools.
        """
        return None if self.rescale is None else rescaling.by_density(mask, prunable, self.rescale)

    @property
    def start(self) -> int:
        """Where in the schedule pruned networks begin."""
        return self.step if self.schedule == "remaining" else 0

    @property
    def order(self) -> str:
        """As of `Pruning`: "fresh" where masks were found under the batches that pruned networks
        would see again.
        """
        return "fresh" if self.step > 0 and self.schedule == "full" else "same"


@dataclass(frozen=True)
class Loaded(PruningAtStep):
    """Stands where it would be said how tickets were found, of tickets that were loaded from files:
    only their densities and the step at which they begin are known.
    """

    @property
    def rewind(self) -> str:
        """Whether their weights are those of initialization is not known, so that none wins."""
        return "unknown"

    @property
    def order(self) -> str:
        """Under which noise their masks were found is not known either: they get noise of their
        level.
        """
        return "fresh"


@dataclass(frozen=True)
class EarlyPruning(PruningAtStep):
    """How `jt.prune_at` prunes.

    Attributes:
      score: name in `jt.SCORES` or a score function.
      rounds: rounds of scoring on the way to each density; None for those of the score's recipe.
      scope: "global", "layer", or how the density is spread: a name in `jt.LAYOUTS` or a function.
      floor: weights that every layer keeps at least; with scope "global".
      per_class, batches, batch_size: the training examples that a score looks at.
    """

    score: str | Callable[..., object] = "snip"
    rounds: int | None = None
    scope: str | Callable[..., object] = "global"
    floor: int = 0
    per_class: int | None = 10
    batches: int = 1
    batch_size: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, _named, "score", "scope")
        settle(self, or_none(whole), "rounds", "per_class", "batch_size", low=1)
        settle(self, whole, "floor")
        settle(self, whole, "batches", low=1)
        if self.floor and self.scope != "global":
            raise ValueError(
                f"`floor` needs scope='global', got {self.floor} with scope={self.scope!r}"
            )
        if self.per_class is not None and self.batch_size is not None:
            raise ValueError(
                f"`batch_size` {self.batch_size} is not used with per_class={self.per_class}: "
                f"pass per_class=None to draw batches of that size"
            )
        if self.per_class is None and self.batch_size is None:
            raise ValueError("`batch_size` is needed with per_class=None; 128 is usual")


def order_of(pruning: Pruning | PruningAtStep, level: int) -> int:
    """The number of the SGD noise that networks of a level are trained under; 0 is that of the
    dense network.
    """
    return level if pruning.order == "fresh" else 0


def _named(argument: str, value: Any) -> str | Callable[..., object]:
    """A name or a function."""
    if callable(value):
        return value
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"`{argument}` must be a name or a function, got {value!r}")


def _rate(argument: str, value: Any) -> tuple[str, float]:
    """A pattern of paths and the fraction of such layers."""
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not isinstance(value[0], str):
        raise ValueError(
            f"`{argument}` must be pairs of a pattern and a fraction, such as "
            f'(("dense_2", 0.1),), got {value!r}'
        )
    return value[0], share(f"{argument}[{value[0]!r}]", value[1], zero=True, one=False)
