"""The settings of training: frozen dataclasses that check themselves."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sized
from dataclasses import dataclass
from typing import TYPE_CHECKING, Never, Protocol, TypeVar

import numpy as np
import optax
from jax.typing import ArrayLike

from jaxticket import _show
from jaxticket._check import (
    flag,
    hashable,
    instance,
    interval,
    name_or_own,
    names_or_own,
    number,
    one_of,
    or_none,
    patterns,
    settle,
    several,
    share,
    whole,
)
from jaxticket.labels import Labels
from jaxticket.losses import LOSSES, SMOOTHED
from jaxticket.metrics import METRICS, chosen_metrics
from jaxticket.stopping import StopRule
from jaxticket.teacher import Teacher
from jaxticket.typing import (
    Array,
    DecayRule,
    Json,
    LossFunction,
    Metric,
    Monitor,
    OptimizerMaker,
    RateSchedule,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

T = TypeVar("T")
SettingsT = TypeVar("SettingsT", bound="DataclassInstance")

OPTIMIZERS = ("sgd", "momentum", "adam", "adamw")
SCHEDULES = ("steps", "cosine", "linear")
PRECISIONS = ("default", "high", "highest")
COMPUTE_DTYPES = ("float32", "bfloat16")
DECAYS = ("all", "kernels")
AUGMENTATIONS = ("crop", "shift", "resized_crop", "flip")


class Examples(Protocol):
    """Data or a stream, as far as a training depends on it."""

    @property
    def name(self) -> str:
        """What tables call it."""
        ...

    @property
    def train(self) -> Sized:
        """The training split."""
        ...

    @property
    def classes(self) -> int:
        """Number of classes."""
        ...

    @property
    def labels(self) -> Labels:
        """Shape and type of a label."""
        ...

    def class_counts(self) -> np.ndarray | None:
        """Training examples of each class."""
        ...


def _field(
    default: T,
    *,
    traced: bool = False,
    seen: bool = True,
    used_by: tuple[str, tuple[str, ...]] | None = None,
    newer: bool = False,
) -> T:
    """A field of settings.

    Args:
      default: its default.
      traced: compiled programs take its value as an array, so that replicas may differ in it;
        any other field is static: a program is compiled for each of its values.
      seen: whether compiled training steps know of it at all.
      used_by: another field, and its values with which this one has an effect.
      newer: run folders may be older than the field, which they record where it is not the default.
    """
    return dataclasses.field(
        default=default,
        metadata={"traced": traced, "seen": seen, "used_by": used_by, "newer": newer},
    )


_ADAM = ("optimizer", ("adam", "adamw"))
_MOMENTUM = ("optimizer", ("momentum",))
_MOVES = ("augment", ("crop", "shift"))
_RESIZED = ("augment", ("resized_crop",))


@dataclass(frozen=True)
class Dilated:
    """A user's schedule stretched in time: `schedule(step / factor)`.

    Attributes:
      schedule: `step -> rate`.
      factor: above 1 for a longer schedule.
    """

    schedule: RateSchedule
    factor: float = _field(1.0, traced=True)

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __call__(self, step: Array) -> ArrayLike:
        """The rate at a step of the stretched schedule."""
        return self.schedule(step / self.factor)


class _Default(int):
    """A default, told from an equal number that the user gave."""


@dataclass(frozen=True)
class Training:
    r"""How a network is trained.

    The learning rate of step t, counted from initialization, is `lr * min(1, t / warmup) *
    decay(t)`. decay is `gamma ** #{m in milestones: m <= t}` for the schedule "steps" (constant
    without milestones), `(1 + cos(pi * t / steps)) / 2` for "cosine"; for "linear" `lr * decay(t)`
    is the straight line from `lr` at step 0 to `final_lr` at `steps`. A user's schedule gives the
    rate itself: `min(1, t / warmup) * schedule(t)`.

    `optimizer`, `schedule`, `augment`, `loss` and `metrics` take names or objects of the user's
    own, which must be hashable (functions and frozen dataclasses are): equal ones share compiled
    programs. Run folders record them by name and code. jaxticket tries them on the shapes of the
    network and the data before anything is trained.

    A setting other than its default that has no effect together with the others is an error, such
    as a momentum of Adam or a `gamma` without milestones.

    Attributes:
      steps: number of updates from initialization to the end.
      epochs: passes over the training split, in the place of `steps`, such as 20 or 0.5: it becomes
        `steps` when training starts on some data, so many passes of batches, rounded up ("drop":
        full batches alone). Other times, such as `warmup` and `milestones`, are steps.
      batch_size: examples per update.
      optimizer: "sgd", "momentum", "adam" or "adamw"; or a function `lr ->
        optax.GradientTransformation`, such as `optax.lion` or `functools.partial(optax.sgd,
        momentum=0.9)`, which is called in every step with the rate of that step, a traced scalar;
        or an `optax.GradientTransformation` with a rate of its own, which leaves `lr` and
        `schedule` unused. It sees masked gradients and masked weights, and the weights become
        `where(mask, weights + updates, 0)`. Its state is new wherever a training begins, and
        counters of optax's schedules inside it begin at the step of the weights. Those that ask for
        the loss of the batch get it; SAM trains in its opaque mode; line searches, schedule-free
        optimizers and such as draw random numbers are refused.
      lr: peak learning rate of the named schedules.
      momentum: factor of "momentum": v <- momentum * v + g, w <- w - lr * v.
      nesterov: whether "momentum" takes Nesterov's form.
      b1, b2, eps: constants of "adam" and "adamw".
      weight_decay: added to the gradient before momentum ("sgd", "momentum", "adam"), or decoupled
        from it ("adamw"). Other optimizers have a decay of their own.
      decay: which weights `weight_decay` acts on: "all"; "kernels" for those of two or more
        dimensions, and so neither biases nor normalization; patterns of paths such as
        `("*/kernel",)`; or a function `weights -> tree of bools`, as masks of optax.
      trainable: patterns of paths, such as `("*norm*",)`, of the weights that are trained; None for
        all. The others stay bit for bit as they are when training begins: decay, clipping and
        momentum see the trained ones alone. Masks still apply to them, and BatchNorm's running
        statistics still move.
      accumulate: number of parts in which the gradient of each batch is computed, one after
        another, in the memory of one part. The sum is that of the whole batch to rounding, but
        BatchNorm normalizes each part by itself and updates its running statistics with each, and
        dropout draws for each. Searches take their batches whole.
      ema: decay of an exponential moving average of weights and statistics over the updates of a
        training, such as 0.999, with the bias correction of Adam; None for none. The average
        is the trained network that is evaluated, pruned, kept and compared; training goes on from
        the raw weights, and rewind points hold these.
      warmup: steps of linear warmup; at step 0 the rate is then exactly 0.
      schedule: "steps", "cosine" or "linear"; or a function `step -> rate`, such as any schedule of
        optax: it gives the learning rate (no factor) of the update from `step` to `step + 1`, for
        a float32 scalar that is traced. `dilated` and `jt.branch(dilation=)` call it at
        `step / factor`.
      milestones: steps at which the rate is multiplied by `gamma`; the drop acts at the milestone
        itself.
      gamma: factor of each drop.
      final_lr: rate that "linear" ends at.
      label_smoothing: share of the target spread evenly over the classes, of "cross_entropy" and
        "next_token".
      class_weights: factors of the losses of the classes in training, as many as there are
        classes; "balanced" for `examples / (classes * examples of the class)`, whose mean over the
        training examples is 1; None for none. Like label smoothing, they do not act on evaluations
        and scores.
      clip_norm: largest global norm of the masked gradient, clipped before weight decay and before
        a user's optimizer; None to leave it.
      last_batch: "wrap" runs batches on into the next epoch, so that each is full and each example
        is seen equally often; "drop" leaves out what does not fill a batch at the end of an epoch.
      augment: what each training image goes through: names, or objects of `jt.augment`, which
        carry their options. At most one of "crop" (padded with black, then cut to the old size),
        "shift" (the same, padded with the mean color) and "resized_crop" (a part of random area and
        aspect at full size), and "flip" (left to right with probability 1/2), in any order; then,
        in the order given, the user's augmentations (see `jaxticket.data.augment`).
        Evaluation and scores see images as they are.
      augment_pixels: of the names "crop" and "shift": the largest move in each direction, pixels.
      augment_scale: of the name "resized_crop": bounds of the part's area, as a share of the
        image's.
      augment_ratio: of the name "resized_crop": bounds of the part's width / height.
      eval_every: steps between evaluations; None for a twentieth of `steps`.
      eval_batch_size: examples per evaluation batch.
      eval_train_examples: at most so many training examples are evaluated (evenly spread); None
        for all.
      compute_dtype: "float32" or "bfloat16", the type of weights and activations inside the
        network; weights, optimizer state, losses and statistics are kept in float32.
      precision: "highest", "high" or "default" (the hardware's own, which is bfloat16 or TF32 on
        some). In float32, "highest" makes convolutions 4.6 times as slow on a TPU as bfloat16 is,
        by the compiler's estimate; runs on accelerators say so as they begin.
      attack: adversarial training: a `jt.PGD` puts adversarial examples of the network as it is
        (with its running statistics) in the place of every training batch, after augmentation and
        before normalization, that climb `loss`; None for none. Evaluations see images as they are.
      loss: "cross_entropy" of classes, "mse" of numbers, "binary_cross_entropy" of several labels
        for each example, "next_token" of tokens; an object such as `jt.losses.Focal(gamma=2.0)`; or
        a function `(logits, labels) -> [batch]` of float32 logits [batch, ...] and labels, int32
        [batch] for classes, else float32 or int32 [batch, ...] (see docs/guides/tasks.md): the loss
        of each example, whose mean is minimized. It is also the metric "loss" and the loss that
        scores differentiate.
      metrics: what evaluations measure after "loss" and "accuracy" (the share of right answers;
        none where labels are numbers): names in `jt.metrics.METRICS`
        or objects with `name`, `sums` and `value` (see `jaxticket.metrics.Metric`).
      monitors: what is measured while tickets are trained: objects with `every`, or steps `at`,
        that are called as `(problem, state, batch) -> dict of arrays` (see
        docs/extending/monitor.md), for `Runs.monitored`. They change no result.
      stop_when: ends the training of a network before `steps`, for each by itself: a `jt.Plateau`,
        a `jt.Target`, or a function `(steps, metrics) -> bool` of its evaluations so far (see
        docs/guides/watching.md), called after each; None trains all to the end. The network stays
        as it is from then on, and its last row in tables is that of the step where it stopped.
        Steps whose weights tickets are rewound to are trained in any case.
      teacher: distillation: a `jt.Teacher`, a trained network whose softened answers are learned
        next to the labels, with "cross_entropy"; None for none. Label smoothing and class weights
        act on the part of the labels. Evaluations and scores are without, and so are searches of
        masks, which have objectives and teachers of their own.

    Raises:
      ValueError: for values out of range, settings without an effect, unknown names, and objects
        that are not hashable.

    Reference: Frankle's thesis, section 3.3.1 and Table 4.1, for the default values (LeNet on
      MNIST); Madry et al. 2018 for `attack`; Hinton et al. 2015 for `teacher`.
    """

    steps: int = _field(_Default(24_000), traced=True)
    batch_size: int = 60
    optimizer: str | OptimizerMaker | optax.GradientTransformation = "adam"
    lr: float = _field(1.2e-3, traced=True, used_by=("schedule", SCHEDULES))
    momentum: float = _field(0.9, used_by=_MOMENTUM)
    nesterov: bool = _field(False, used_by=_MOMENTUM)
    b1: float = _field(0.9, used_by=_ADAM)
    b2: float = _field(0.999, used_by=_ADAM)
    eps: float = _field(1e-8, used_by=_ADAM)
    weight_decay: float = _field(0.0, traced=True, used_by=("optimizer", OPTIMIZERS))
    decay: str | tuple[str, ...] | DecayRule = "all"
    trainable: tuple[str, ...] | None = None
    accumulate: int = 1
    ema: float | None = None
    warmup: int = _field(0, traced=True)
    schedule: str | RateSchedule = "steps"
    milestones: tuple[int, ...] = _field((), traced=True, used_by=("schedule", ("steps",)))
    gamma: float = _field(0.1, traced=True)
    final_lr: float = _field(0.0, traced=True, used_by=("schedule", ("linear",)))
    epochs: float | None = _field(None, seen=False)
    class_weights: str | tuple[float, ...] | None = None
    label_smoothing: float = _field(0.0, used_by=("loss", SMOOTHED))
    clip_norm: float | None = None
    last_batch: str = "wrap"
    augment: tuple[object, ...] = ()
    augment_pixels: int = _field(4, used_by=_MOVES)
    augment_scale: tuple[float, float] = _field((0.08, 1.0), used_by=_RESIZED)
    augment_ratio: tuple[float, float] = _field((3 / 4, 4 / 3), used_by=_RESIZED)
    eval_every: int | None = _field(None, traced=True)
    eval_batch_size: int = 1000
    eval_train_examples: int | None = 10_000
    compute_dtype: str = "float32"
    precision: str = "highest"
    attack: Callable[..., Array] | None = None
    loss: str | LossFunction = "cross_entropy"
    metrics: tuple[str | Metric, ...] = ()
    monitors: tuple[Monitor[Never, Never], ...] = _field((), seen=False)
    stop_when: StopRule | None = _field(None, seen=False)  # noqa: RUF009
    teacher: Teacher | None = _field(  # noqa: RUF009
        None, used_by=("loss", ("cross_entropy",)), newer=True
    )

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        # what the user gave, even where it equals the default
        if not isinstance(self.steps, _Default):
            if self.epochs is not None:
                raise ValueError(
                    f"`steps` is used without `epochs` only, got steps={self.steps!r} and epochs="
                    f"{self.epochs!r}; leave one of them out"
                )
            settle(self, whole, "steps", low=1)
        settle(self, whole, "batch_size", "eval_batch_size", "augment_pixels", low=1)
        settle(self, or_none(whole), "eval_every", "eval_train_examples", low=1)
        settle(self, whole, "warmup")
        settle(self, several, "milestones", check=whole, like="(20_000, 25_000)", empty=True)
        settle(self, name_or_own, "optimizer", names=OPTIMIZERS, own=_TRANSFORMATION)
        settle(self, name_or_own, "schedule", names=SCHEDULES, own=_SCHEDULE)
        settle(self, name_or_own, "loss", names=tuple(LOSSES), own=_LOSS)
        settle(self, names_or_own, "augment", names=AUGMENTATIONS, like='("crop", "flip")')
        settle(self, names_or_own, "metrics", names=tuple(METRICS), like='("top5",)')
        settle(self, interval, "augment_scale", high=1.0)
        settle(self, interval, "augment_ratio")
        settle(self, one_of, "last_batch", choices=("wrap", "drop"))
        settle(self, one_of, "compute_dtype", choices=COMPUTE_DTYPES)
        settle(self, one_of, "precision", choices=PRECISIONS)
        settle(self, number, "lr", "eps", "weight_decay", "gamma", "final_lr", low=0)
        settle(self, or_none(number), "clip_norm", low=1e-12)
        settle(self, whole, "accumulate", low=1)
        settle(self, or_none(share), "ema", one=False)
        settle(self, or_none(patterns), "trainable", like='("*norm*",)')
        settle(self, _decay, "decay")
        settle(self, share, "momentum", "b1", "b2", "label_smoothing", zero=True, one=False)
        settle(self, flag, "nesterov")
        settle(self, or_none(number), "epochs", low=0, above=True)
        settle(self, or_none(_class_weights), "class_weights")
        chosen_metrics(self.metrics)
        like = "(monitor,)"
        settle(self, several, "monitors", check=_monitor, like=like, empty=True, distinct=True)
        if self.stop_when is not None:
            if isinstance(self.stop_when, type) or not callable(self.stop_when):
                raise ValueError(
                    f"`stop_when` must be a jt.Plateau, a jt.Target or a function (steps, metrics) "
                    f"-> bool, got {self.stop_when!r}"
                )
            hashable("stop_when", self.stop_when)
        for one in self.augment:
            if not (isinstance(one, str) or callable(one) or hasattr(one, "window")):
                raise ValueError(
                    f"`augment` must be names, and objects that are called `(images, *, key) -> "
                    f"images` or have a method `window`, got {one!r}"
                )
        moves = [one for one in self.augment if one in _MOVING or getattr(one, "moves", False)]
        if len(moves) > 1:
            raise ValueError(
                f"`augment` takes only one of {', '.join(map(str, moves))}; leave out the rest"
            )
        untargeted = callable(self.attack) and not getattr(self.attack, "targeted", False)
        if self.attack is not None and not untargeted:
            raise ValueError(
                f"`attack` must be None or an untargeted attack such as "
                f"jt.PGD(), got {self.attack!r}"
            )
        if self.teacher is not None:
            instance("teacher", self.teacher, Teacher, "a jt.Teacher, or None")
        if self.batch_size % self.accumulate:
            raise ValueError(
                f"`accumulate` {self.accumulate} does not divide `batch_size` {self.batch_size} "
                f"into equal parts; change one of them"
            )
        for name, why in _unused(vars(self)).items():
            if getattr(self, name) != _DEFAULTS[name]:
                remedy = "leave one of them out"
                if name in _OF_OPTIMIZERS and not isinstance(self.optimizer, str):
                    remedy = f"give it to your optimizer itself: {_TO_OPTIMIZERS}"
                raise ValueError(
                    f"`{name}` is used {why}, got {name}={getattr(self, name)!r}; {remedy}"
                )

    @property
    def evaluation_interval(self) -> int:
        """Steps between evaluations."""
        return self.eval_every if self.eval_every is not None else max(1, round(self.steps / 20))

    def for_data(self, data: Examples) -> Training:
        """The training as it is on some data: steps in place of epochs, class weights as numbers.

        Args:
          data: a data set or a stream.

        Raises:
          ValueError: for epochs without a full batch, and for class weights that do not fit.

        >>> import jaxticket as jt
        >>> Training(epochs=2, batch_size=50).for_data(jt.data.load("digits")).steps
        58
        """
        changes: dict[str, object] = {}
        if self.epochs is not None:
            examples, size = len(data.train), self.batch_size
            each = examples // size if self.last_batch == "drop" else examples / size
            # rounding of the product must not add a step
            steps = math.ceil(round(self.epochs * each, 6))
            if steps < 1:
                raise ValueError(
                    f"`epochs` {self.epochs:g} of {examples} examples in batches of {size} make no "
                    f"step; use a smaller `batch_size`"
                )
            changes |= {"epochs": None, "steps": steps}
        if self.class_weights is not None:
            changes["class_weights"] = self._weights(data)
        return dataclasses.replace(self, **changes) if changes else self

    def _weights(self, data: Examples) -> tuple[float, ...]:
        """The class weights as numbers."""
        if data.labels.kind != "classes":
            raise ValueError(
                f"`class_weights` are those of classes, and the labels of `data` {data.name!r} are "
                f"{data.labels.kind}; leave them out"
            )
        weights = self.class_weights
        if isinstance(weights, tuple):
            if len(weights) != data.classes:
                raise ValueError(
                    f"`class_weights` are {len(weights)}, and `data` {data.name!r} has "
                    f"{data.classes} classes; pass one for each"
                )
            return weights
        counts = data.class_counts()
        if counts is None or not counts.all():
            why = (
                "reads its labels while it trains" if counts is None else "has classes without any"
            )
            raise ValueError(
                f"`class_weights`='balanced' counts training examples, and `data` {data.name!r} "
                f"{why}; pass the weights as numbers"
            )
        return tuple(float(w) for w in counts.sum() / (data.classes * counts))

    def replace(self, **changes: object) -> Training:
        """A copy with some fields changed.

        Fields that lose their effect by it and are not among the changes go back to their defaults:
        `replace(optimizer="adam")` forgets the momentum, `replace(schedule="cosine")` milestones.
        """
        if "steps" in changes:
            # the last word counts
            changes = {"epochs": None, **changes}
        idle = set(_unused({**vars(self), **changes})) - set(changes)
        usual = {name: _DEFAULTS[name] for name in idle}
        return dataclasses.replace(self, **usual, **changes)

    def dilated(self, factor: float) -> Training:
        """Multiply all times of the schedule (steps, warmup, milestones) by `factor`, rounded.

        A user's schedule is called at `step / factor`.

        Raises:
          ValueError: for a factor that is not above 0, for `epochs`, whose steps are not known yet,
            and for an optimizer with a learning rate of its own, whose schedule cannot be
            stretched.

        Reference: Frankle's thesis, section 3.3.6.
        """
        factor = number("factor", factor, 0, above=True)
        if self.epochs is not None:
            raise ValueError(
                f"`factor` {factor:g} stretches `steps`, which are not known with epochs="
                f"{self.epochs:g}; take training.for_data(data) first"
            )
        if has_own_rate(self.optimizer):
            raise ValueError(
                f"`factor` {factor:g} stretches `schedule`, but `optimizer` has a learning rate of "
                f"its own; pass a function of the rate, such as optax.adamw, and a `schedule`"
            )
        schedule = self.schedule
        if isinstance(schedule, Dilated):
            schedule = Dilated(schedule.schedule, schedule.factor * factor)
        elif callable(schedule):
            schedule = Dilated(schedule, factor)
        return self.replace(
            steps=max(1, round(factor * self.steps)),
            warmup=round(factor * self.warmup),
            milestones=tuple(round(factor * m) for m in self.milestones),
            schedule=schedule,
            # evaluations stay at the steps where the undilated training has them
            eval_every=self.evaluation_interval,
        )


_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Training)}
_USED_BY = {
    field.name: field.metadata["used_by"]
    for field in dataclasses.fields(Training)
    if field.metadata.get("used_by")
}
_MOVING = AUGMENTATIONS[:-1]
_TRANSFORMATION = "a function of the learning rate such as optax.adamw"
_SCHEDULE = "a function of the step such as optax.cosine_decay_schedule(0.1, 1000)"
_LOSS = "an object such as jt.losses.Focal(), or a function (logits, labels) -> [batch]"
_OF_OPTIMIZERS = ("momentum", "nesterov", "b1", "b2", "eps", "weight_decay")
"""Fields of the named optimizers that other optimizers take as arguments of their own."""
_TO_OPTIMIZERS = "functools.partial(optax.lion, weight_decay=0.1), for example"
_OF_RATE = ("lr", "warmup", "schedule", "milestones", "gamma", "final_lr")
"""Fields that say what the learning rate is."""


def has_own_rate(optimizer: object) -> bool:
    """Whether an optimizer is a gradient transformation, which no learning rate is passed to."""
    return isinstance(optimizer, optax.GradientTransformation)


def static_part(settings: SettingsT) -> SettingsT:
    """The settings with every field that compiled programs take as an array set to one value.

    These are the fields with `traced` in their metadata: they become their defaults, and tuples as
    many zeros as they have entries, since the shape of an array is static. Fields that compiled
    steps do not know of become their defaults too.
    """
    changes = {}
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if not field.metadata.get("seen", True):
            changes[field.name] = field.default
        elif field.name == "weight_decay" and getattr(settings, "decay", "all") != "all":
            # without any, what says where it acts would be refused
            changes[field.name] = 1.0
        elif field.metadata.get("traced"):
            changes[field.name] = (0,) * len(value) if isinstance(value, tuple) else field.default
        elif isinstance(value, Dilated):
            changes[field.name] = static_part(value)
        elif isinstance(value, Teacher):
            changes[field.name] = value.form
    return dataclasses.replace(settings, **changes)


def _unused(values: Json) -> dict[str, str]:
    """Fields of a training that have no effect, and what would give them one."""
    unused = {}
    for name, (user, wanted) in _USED_BY.items():
        given = values[user] if isinstance(values[user], (list, tuple)) else (values[user],)
        if not any(isinstance(one, str) and one in wanted for one in given):
            only = " and ".join(f"{user}={one!r}" for one in wanted)
            unused[name] = f"by {only} only, not by {user}={values[user]!r}"
    if values["epochs"] is not None:
        unused["steps"] = "without `epochs` only"
    if not values["weight_decay"]:
        unused.setdefault("decay", "with a `weight_decay` above 0 only")
    if has_own_rate(values["optimizer"]):
        why = "by optimizers without a learning rate of their own only"
        unused |= dict.fromkeys(_OF_RATE, why)
    elif "milestones" in unused or not np.size(values["milestones"]):
        unused["gamma"] = "at `milestones` only, of which there are none"
    return unused


def _decay(argument: str, value: object) -> object:
    """A name in `DECAYS`, patterns of paths, or a function of the weights."""
    if callable(value):
        return hashable(argument, value)
    if isinstance(value, str) and value in DECAYS:
        return value
    return patterns(argument, value, like='("*/kernel",)')


def _class_weights(argument: str, value: object) -> str | tuple[float, ...]:
    """Weights at or above 0, not all 0, or "balanced"."""
    if isinstance(value, str):
        return one_of(argument, value, ("balanced",))
    like = "(1.0, 3.0)"
    weights = several(argument, np.asarray(value).tolist(), check=number, like=like, low=0)
    if not any(weights):
        raise ValueError(f"`{argument}` {weights} are all 0; leave them out")
    return tuple(float(w) for w in weights)


def _monitor(argument: str, value: object) -> object:
    """A monitor: an object that is called and has a number of steps."""
    at = getattr(value, "at", ())
    if isinstance(value, type) or not callable(value) or not (hasattr(value, "every") or at):
        raise ValueError(
            f"`{argument}` must be objects with a number of steps `every` that are called "
            f"`(problem, state, batch) -> dict of arrays`, got {value!r}"
        )
    if at:
        several(f"{argument}.at", at, whole, like="(0, 100, 1000)", distinct=True)
    else:
        whole(f"{argument}.every", getattr(value, "every", None), 1)
    return hashable(argument, value)
