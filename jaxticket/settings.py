"""The settings of training and pruning: frozen dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from jaxticket.checks import at_least, one_of, share
from jaxticket.types import Mask, Params

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("steps", "cosine", "linear")
PRECISIONS = ("default", "high", "highest")
COMPUTE_DTYPES = ("float32", "bfloat16")
AUGMENTATIONS = ("crop", "shift", "resized_crop", "flip")
LATER = {"later": True}
"""Metadata of fields that older run folders do not have: files leave them out at their default."""


@dataclass(frozen=True)
class Training:
    r"""How a network is trained.

    The learning rate is a function of the absolute step t, `lr * min(1, t / warmup) * decay(t)`,
    where decay is `gamma ** #{m in milestones: m <= t}` for the schedule "steps" and
    `(1 + cos(pi * t / steps)) / 2` for "cosine"; for "linear" `lr * decay(t)` is the straight line
    from `lr` at step 0 to `final_lr` at `steps`. With no milestones, "steps" is constant.

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
        object.__setattr__(self, "milestones", tuple(self.milestones))
        at_least("steps", self.steps, 1, integer=True)
        at_least("batch_size", self.batch_size, 1, integer=True)
        one_of("optimizer", self.optimizer, OPTIMIZERS)
        at_least("lr", self.lr, 0)
        share("momentum", self.momentum, zero=True, one=False)
        share("b1", self.b1, zero=True, one=False)
        share("b2", self.b2, zero=True, one=False)
        at_least("eps", self.eps, 0)
        at_least("weight_decay", self.weight_decay, 0)
        at_least("warmup", self.warmup, 0, integer=True)
        one_of("schedule", self.schedule, SCHEDULES)
        for milestone in self.milestones:
            at_least("milestones", milestone, 0, integer=True)
        at_least("gamma", self.gamma, 0)
        at_least("final_lr", self.final_lr, 0)
        share("label_smoothing", self.label_smoothing, zero=True, one=False)
        if self.clip_norm is not None:
            at_least("clip_norm", self.clip_norm, 1e-12)
        one_of("last_batch", self.last_batch, ("wrap", "drop"))
        self._check_augment()
        if self.eval_every is not None:
            at_least("eval_every", self.eval_every, 1, integer=True)
        at_least("eval_batch_size", self.eval_batch_size, 1, integer=True)
        if self.eval_train_examples is not None:
            at_least("eval_train_examples", self.eval_train_examples, 1, integer=True)
        one_of("compute_dtype", self.compute_dtype, COMPUTE_DTYPES)
        one_of("precision", self.precision, PRECISIONS)
        untargeted = callable(self.attack) and not getattr(self.attack, "targeted", False)
        if self.attack is not None and not untargeted:
            raise ValueError(
                f"`attack` must be None or an untargeted attack such as jaxticket.attacks.PGD(), "
                f"got {self.attack!r}"
            )
        if self.schedule != "steps" and self.milestones:
            raise ValueError(
                f"`milestones` are not used by schedule={self.schedule!r}, got {self.milestones}; "
                f"leave one of them out"
            )
        if self.schedule != "linear" and self.final_lr:
            raise ValueError(
                f"`final_lr` is used by schedule='linear' only, got {self.final_lr!r} with "
                f"schedule={self.schedule!r}; leave one of them out"
            )
        if self.nesterov and self.optimizer != "momentum":
            raise ValueError(
                f"`nesterov` needs optimizer='momentum', got {self.optimizer!r}; leave one of "
                f"them out"
            )

    def _check_augment(self) -> None:
        names = (self.augment,) if isinstance(self.augment, str) else tuple(self.augment)
        object.__setattr__(self, "augment", names)
        for name in names:
            one_of("augment", name, AUGMENTATIONS)
        if len(set(names)) < len(names):
            raise ValueError(f"`augment` holds a name twice, got {names}; leave out the repeat")
        moves = [name for name in names if name != "flip"]
        if len(moves) > 1:
            raise ValueError(f"`augment` takes only one of {', '.join(moves)}; leave out the rest")
        at_least("augment_pixels", self.augment_pixels, 1, integer=True)
        for argument, highest in (("augment_scale", 1.0), ("augment_ratio", float("inf"))):
            bounds = getattr(self, argument)
            if not isinstance(bounds, tuple | list) or len(bounds) != 2:
                raise ValueError(f"`{argument}` must be (low, high), got {bounds!r}")
            low, high = float(bounds[0]), float(bounds[1])
            if not 0 < low <= high <= highest or high == float("inf"):
                most = " <= 1" if highest == 1 else ""
                raise ValueError(f"`{argument}` must be 0 < low <= high{most}, got {bounds!r}")
            object.__setattr__(self, argument, (low, high))
        # without any augmentation the rest may stay, so that augment=() alone switches it off
        fields = {field.name: field.default for field in dataclasses.fields(self)}
        for argument, users in (
            ("augment_pixels", ("crop", "shift")),
            ("augment_scale", ("resized_crop",)),
            ("augment_ratio", ("resized_crop",)),
        ):
            unused = names and not set(users) & set(names)
            if unused and getattr(self, argument) != fields[argument]:
                raise ValueError(
                    f"`{argument}` is used by {' and '.join(map(repr, users))} only, got "
                    f"{getattr(self, argument)!r} with augment={names}; leave one of them out"
                )

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.eval_every if self.eval_every is not None else max(1, round(self.steps / 20))

    def replace(self, **changes: object) -> Training:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]

    def dilated(self, factor: float) -> Training:
        """All times of the schedule (steps, warmup, milestones) multiplied by `factor` and rounded.

        Reference: Frankle's thesis, section 3.3.6.
        """
        if not factor > 0:
            raise ValueError(f"`factor` must be above 0, got {factor!r}")
        return self.replace(
            steps=max(1, round(factor * self.steps)),
            warmup=round(factor * self.warmup),
            milestones=tuple(round(factor * m) for m in self.milestones),
            # evaluations stay at the steps where the undilated training has them
            eval_every=self.evaluation_interval,
        )


@dataclass(frozen=True)
class Pruning:
    """How tickets are found: train, prune, rewind, repeat.

    Level n keeps `round((1 - fraction) ** n * P)` of the P prunable weights (round half to even).

    Attributes:
      levels: number of times the network is pruned.
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
        larger than the training split.

    Reference: Frankle's thesis, Algorithms 1, 2 and 4 (line 5 for the noise, which no source
      holds fixed: the published codes shuffle examples differently in every training); section
      3.3.3 for one-shot.
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

    def __post_init__(self) -> None:
        object.__setattr__(self, "rates", tuple((str(p), float(f)) for p, f in self.rates))
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(exclude))
        at_least("levels", self.levels, 0, integer=True)
        share("fraction", self.fraction, one=False)
        one_of("scope", self.scope, ("global", "layer"))
        for pattern, rate in self.rates:
            share(f"rates[{pattern!r}]", rate, zero=True, one=False)
        if self.rates and self.scope != "layer":
            raise ValueError(f"`rates` need scope='layer', got scope={self.scope!r}")
        if isinstance(self.rewind, str):
            one_of("rewind", self.rewind, ("learning_rate",))
        else:
            at_least("rewind", self.rewind, 0, integer=True)
        one_of("order", self.order, ("same", "fresh"))
        one_of("schedule", self.schedule, ("remaining", "full"))
        at_least("score_batches", self.score_batches, 1, integer=True)
        at_least("score_batch_size", self.score_batch_size, 1, integer=True)

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

    At step 0, and with what is left of the schedule, pruned networks see the batches that the
    dense one sees: their masks have seen none of them. Where they repeat the schedule after a later
    step, each density has new SGD noise (`order` "fresh", see `Pruning`).
    """

    densities: tuple[float, ...]
    step: int = 0
    schedule: str = "full"
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        exclude = (self.exclude,) if isinstance(self.exclude, str) else self.exclude
        object.__setattr__(self, "exclude", tuple(exclude))
        object.__setattr__(self, "densities", tuple(float(d) for d in self.densities))
        for density in self.densities:
            share("density", density)
        if not self.densities or len(set(self.densities)) < len(self.densities):
            raise ValueError(
                f"`density` must be one or several different shares, got {self.densities}"
            )
        at_least("step", self.step, 0, integer=True)
        one_of("schedule", self.schedule, ("full", "remaining"))

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

    def weights(self, mask: Mask, params: Params, prunable: Any) -> Params:
        """What pruned networks start from, at every position.

        Args:
          mask, params: of several networks, host arrays [replica, ...]; dense weights.
          prunable: tree of python bools.
        """
        del mask, prunable
        return params

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
        if self.rounds is not None:
            at_least("rounds", self.rounds, 1, integer=True)
        at_least("floor", self.floor, 0, integer=True)
        if self.floor and self.scope != "global":
            raise ValueError(
                f"`floor` needs scope='global', got {self.floor} with scope={self.scope!r}"
            )
        at_least("batches", self.batches, 1, integer=True)
        if self.per_class is not None:
            at_least("per_class", self.per_class, 1, integer=True)
            if self.batch_size is not None:
                raise ValueError(
                    f"`batch_size` {self.batch_size} is not used with per_class={self.per_class}: "
                    f"pass per_class=None to draw batches of that size"
                )
        elif self.batch_size is None:
            raise ValueError("`batch_size` is needed with per_class=None; 128 is usual")
        else:
            at_least("batch_size", self.batch_size, 1, integer=True)


def order_of(pruning: Pruning | PruningAtStep, level: int) -> int:
    """The number of the SGD noise that networks of a level are trained under; 0 is that of the
    dense network.
    """
    return level if pruning.order == "fresh" else 0
