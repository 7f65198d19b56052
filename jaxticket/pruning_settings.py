"""What all ways to prune say of their tickets: frozen dataclasses that check themselves."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from jaxticket import _show, rescaling
from jaxticket._check import one_of, one_or_several, settle, share, texts, whole
from jaxticket.typing import Mask, Params


class PruningSettings(abc.ABC):
    """What all ways to prune say of their tickets: which weights count, and how training starts.

    Dataclasses of settings inherit from it.

    Attributes:
      exclude: patterns of paths, such as "dense_2/*", that are never pruned and not counted in P.
      schedule: "remaining" trains tickets from the rewind step to the end, "full" with the whole
        schedule from its start.
      rescale: "global" divides the kept weights of every ticket by its density before it is
        trained, "layer" those of each layer by the layer's, None leaves them alone.
    """

    exclude: tuple[str, ...]
    schedule: str
    rescale: str | None
    __dataclass_fields__: ClassVar[dict[str, dataclasses.Field[object]]]

    remedy = ""
    """What the report of a layer without weights ends with."""

    @property
    def name(self) -> str:
        """What finds the masks, in a word."""
        return type(self).__name__

    @property
    @abc.abstractmethod
    def last_level(self) -> int:
        """The highest level."""

    @property
    @abc.abstractmethod
    def rewind_step(self) -> int:
        """The step whose weights a ticket starts from."""

    @property
    def from_initialization(self) -> bool:
        """Whether tickets start from the weights of initialization, so that one can win."""
        return self.rewind_step == 0

    def moves(self, steps: int) -> bool:
        """Whether masks moved while networks were trained, which are not those of tickets then.

        Args:
          steps: of their training.
        """
        del steps
        return False

    @property
    def keeps_trained(self) -> bool:
        """Whether tickets keep their trained weights, as under learning-rate rewinding."""
        return False

    @property
    def start(self) -> int:
        """Where in the schedule a ticket begins."""
        return 0 if self.schedule == "full" else self.rewind_step

    @property
    @abc.abstractmethod
    def fresh_noise(self) -> bool:
        """Whether every level has its own SGD noise; else all see that of the dense network."""

    def noise(self, level: int) -> int:
        """The number of the SGD noise of a level; 0 is that of the dense network."""
        return level if self.fresh_noise else 0

    @abc.abstractmethod
    def density_of(self, level: int) -> float:
        """The nominal density of a level."""

    def factors(self, mask: Mask) -> Params | None:
        """What the rewound weights of tickets are multiplied by; None for nothing.

        Args:
          mask: of several tickets, host arrays [replica, ...].
        """
        return None if self.rescale is None else rescaling.by_density(mask, self.rescale)


@dataclass(frozen=True)
class PruningAtStep(PruningSettings):
    """Masks are found once, at one step of dense training: `jt.prune_at` and `jt.search`.

    Attributes:
      densities: of levels 1, 2, ...: each is found straight from the dense network.
      step: when; 0 is initialization, and the last step of training is after it.
      schedule: "full" trains pruned networks with the whole schedule from its start, "remaining"
        with the rest of it, after `step`.
      exclude: patterns of paths that are never pruned and not counted.
      rescale: as of `Pruning`.

    At step 0, and with the rest of the schedule, pruned networks see the batches that the
    dense one sees: their masks have seen none of them. Where they repeat the schedule after a later
    step, each density has new SGD noise, as with `order="fresh"` of `Pruning`.
    """

    densities: tuple[float, ...]
    step: int = 0
    schedule: str = "full"
    exclude: tuple[str, ...] = ()
    rescale: str | None = dataclasses.field(default=None, kw_only=True)

    __repr__ = _show.code
    _repr_html_ = _show.code_html

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
    def last_level(self) -> int:
        """The number of densities."""
        return len(self.densities)

    @property
    def rewind_step(self) -> int:
        """The step whose weights pruned networks start from."""
        return self.step

    @property
    def fresh_noise(self) -> bool:
        """Whether masks were found under the batches that pruned networks would see again."""
        return self.step > 0 and self.schedule == "full"

    def density_of(self, level: int) -> float:
        """The density that was asked for at a level; level 0 is dense."""
        return self.densities[level - 1] if level else 1.0


@dataclass(frozen=True)
class Loaded(PruningAtStep):
    """Placeholder pruning settings of tickets that were loaded from files.

    Only their densities and the step at which they begin are known.
    """

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    @property
    def from_initialization(self) -> bool:
        """Whether their weights are those of initialization is not known, so that none wins."""
        return False

    @property
    def fresh_noise(self) -> bool:
        """Under which noise masks were found is not known: tickets get that of their level."""
        return True


def name_or_function(argument: str, value: object) -> str | Callable[..., object]:
    """A name or a function."""
    if callable(value):
        return value
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"`{argument}` must be a name or a function, got {value!r}")
