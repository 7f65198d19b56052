"""Presets, and the facts about data sets that they use without loading the data."""

from __future__ import annotations

import dataclasses
import inspect
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, TypeAlias

from jaxticket import _check, _show
from jaxticket import data as data_sets
from jaxticket.nn import NETWORKS
from jaxticket.pruning.scores import configured
from jaxticket.settings import Training
from jaxticket.sparsify.dynamic import RULES, MaskRule
from jaxticket.sparsify.iterative import Pruning
from jaxticket.sparsify.learned import SEARCHES, Method
from jaxticket.typing import Json, Network, Score

Settings: TypeAlias = Json
"""Keyword arguments of a network's constructor, of a finder or of a function."""


class Facts(NamedTuple):
    """Facts about a data set.

    Attributes:
      shape: shape of one example as distributed, None where it varies.
      classes: number of classes.
      train: examples of the training split.
    """

    shape: tuple[int, int, int] | None
    classes: int
    train: int


FACTS: dict[str, Facts] = {
    "digits": Facts((8, 8, 1), 10, 1437),
    "mnist": Facts((28, 28, 1), 10, 60_000),
    "fashion_mnist": Facts((28, 28, 1), 10, 60_000),
    "cifar10": Facts((32, 32, 3), 10, 50_000),
    "cifar100": Facts((32, 32, 3), 100, 50_000),
    "svhn": Facts((32, 32, 3), 10, 73_257),
    "svhn_cropped": Facts((32, 32, 3), 10, 73_257),
    "tiny_imagenet": Facts((64, 64, 3), 200, 100_000),
    "imagenet": Facts(None, 1000, 1_281_167),
    "places365": Facts(None, 365, 1_803_460),
}


FUNCTIONS = {
    "find_tickets": "jt.find_tickets(p.net(data), data, p.training, p.pruning, **p.arguments)",
    "search": "jt.search(p.net(data), data, p.training, p.search, **p.arguments)",
    "prune_at": "jt.prune_at(p.net(data), data, p.training, **p.arguments)",
    "transfer": "jt.transfer(runs, to=..., **p.arguments), with the runs of jt.find_tickets",
    "sparse_train": "jt.sparse_train(p.net(data), data, p.training, **p.arguments)",
}
"""Functions that find the tickets of a preset `p`, with the call."""


@dataclass(frozen=True)
class Preset:
    """One setting of the sources: network, data, training, pruning and reported results.

    Attributes:
      name: "NETWORK-DATA", and "-VARIANT" where a source has several or differs from the thesis.
      network: name in `jt.NETWORKS`.
      data: name in `jt.data.DATASETS`.
      training: how a network is trained.
      pruning: how tickets are found. For sources with another `method`, the magnitude pruning that
        they compare with.
      source: paper, section and table.
      options: keyword arguments of the network's constructor.
      image_size: height and width of the random crops of data that are streamed
        (`jt.data.stream`), evaluated on the central 7/8; None for data held in memory as they are.
      validation: share of the training split that is held out.
      replicates: seeds per experiment in the source; None where not printed.
      dense_accuracy: test accuracy of the dense network as reported, in [0, 1]; None where not
        printed.
      dense_spread: standard deviation of that accuracy; None where not printed.
      matching_density: the least density for which a matching ticket is reported; None where not
        printed.
      matching_rewind: the step that those tickets were rewound to, or "learning_rate".
      method: the method that found those tickets, in words.
      function: the function of `jaxticket` that implements it, a name in `FUNCTIONS`.
      finder: the method of the function: of `search` a name in `jt.SEARCHES`, of `prune_at` one in
        `jt.SCORES`, of `sparse_train` one in `jt.RULES`; None for magnitude pruning by levels.
      settings: options of the finder.
      keywords: further keyword arguments of the function; see `arguments`.
      notes: unverified settings, choices of ours, and contradictions between sources.
    """

    name: str
    network: str | Callable[..., Network]
    data: str
    training: Training
    pruning: Pruning
    source: str
    options: Settings = field(default_factory=dict, hash=False)
    image_size: int | None = None
    validation: float = 0.0
    replicates: int | None = None
    dense_accuracy: float | None = None
    dense_spread: float | None = None
    matching_density: float | None = None
    matching_rewind: int | str | None = None
    method: str = "IMP"
    function: str = "find_tickets"
    finder: str | None = None
    settings: Settings = field(default_factory=dict, hash=False)
    keywords: Settings = field(default_factory=dict, hash=False)
    notes: tuple[str, ...] = field(default=(), repr=False)

    __repr__ = _show.code
    _repr_html_ = _show.code_html

    def __post_init__(self) -> None:
        # copies, so that changing one preset's dicts does not change another's
        for name in ("options", "settings", "keywords"):
            value = _check.instance(name, getattr(self, name), Mapping, "a dict")
            object.__setattr__(self, name, dict(value))
        notes = (self.notes,) if isinstance(self.notes, str) else self.notes
        object.__setattr__(self, "notes", tuple(notes))
        _check.instance("training", self.training, Training, "a jt.Training")
        _check.instance("pruning", self.pruning, Pruning, "a jt.Pruning")
        _check.settle(self, _check.text, "name", "data", "source", "method")
        _check.settle(self, _check.or_none(_check.text), "finder")
        _check.one_of("function", self.function, tuple(FUNCTIONS))
        _check.settle(self, _check.share, "validation", zero=True, one=False)
        shares = ("dense_accuracy", "dense_spread", "matching_density")
        _check.settle(self, _check.or_none(_check.share), *shares)
        _check.settle(self, _check.or_none(_check.whole), "image_size", "replicates", low=1)

    @property
    def search(self) -> Method:
        """The method of learning masks, for `jt.search`.

        Raises:
          ValueError: for presets with another function, and settings that the method does not take.

        >>> from jaxticket.presets import PRESETS
        >>> PRESETS["resnet20-cifar10-cts"].search.objective
        'reverse_kl'
        """
        make = _check.from_table("finder", self._finder("search"), SEARCHES)
        _check_options("settings", self.settings, make, f"search {self.finder!r}")
        return make(**self.settings)

    @property
    def score(self) -> str | Score:
        """The score with its options, for `jt.prune_at`.

        Raises:
          ValueError: for presets with another function.
        """
        name = self._finder("prune_at")
        return configured(name, **self.settings) if self.settings else name

    @property
    def rule(self) -> MaskRule:
        """The mask rule with its options, for `jt.sparse_train`.

        Raises:
          ValueError: for presets with another function, and settings that the rule does not take.

        >>> from jaxticket.presets import PRESETS
        >>> PRESETS["wrn16_4-cifar10-rigl"].rule.fraction
        0.3
        """
        rule = RULES[_check.one_of("finder", self._finder("sparse_train"), tuple(RULES))]
        _check_options("settings", self.settings, type(rule), f"rule {self.finder!r}")
        return dataclasses.replace(rule, **self.settings)  # type: ignore[type-var]

    @property
    def arguments(self) -> Settings:
        """Further keyword arguments of the preset's function; `FUNCTIONS` has the calls.

        Searches start at the rewind step of `pruning` and reach the densities of its levels.
        """
        derived: dict[str, object] = {}
        if self.function == "prune_at":
            derived = {"score": self.score}
        if self.function == "sparse_train":
            derived = {"rule": self.rule}
        if self.function == "search":
            # the levels and the rewind point of the magnitude pruning that it is compared with
            levels = range(1, self.pruning.levels + 1)
            density = tuple(self.pruning.density_of(level) for level in levels)
            derived = {"density": density, "start": self.pruning.rewind_step}
        return {**derived, **self.keywords}

    def _finder(self, function: str) -> str:
        if self.function != function or self.finder is None:
            called = {"prune_at": "score", "sparse_train": "rule"}.get(function, function)
            raise ValueError(
                f"`{called}` is not defined for preset {self.name!r}, which finds tickets by "
                f"{self.method}: {FUNCTIONS[self.function]}"
            )
        return self.finder

    @property
    def shape(self) -> tuple[int, int, int]:
        """Shape of one example."""
        shape = self._facts.shape
        if self.image_size is not None:
            return (self.image_size, self.image_size, 3 if shape is None else shape[2])
        if shape is None:
            raise ValueError(
                f"`image_size` is needed: the images of {self.data!r} vary in size; use "
                f"replace(image_size=224)"
            )
        return shape

    @property
    def classes(self) -> int:
        """Number of classes of the data."""
        return self._facts.classes

    @property
    def _facts(self) -> Facts:
        if self.data not in FACTS:
            raise ValueError(
                f"`data`={self.data!r} has a shape that presets do not know (they know "
                f"{', '.join(FACTS)}); load the data and pass them: net(data)"
            )
        return FACTS[self.data]

    def net(self, data: data_sets.Data | data_sets.Stream | None = None) -> Network:
        """Make the network for the shape and classes of `data`.

        Args:
          data: what `load` returns, or other data; None for the shape and classes of the named data
            set, without loading it.

        Raises:
          ValueError: if the network is unknown or does not take the options.
        """
        make = _check.from_table("network", self.network, NETWORKS)
        _check_options("options", self.options, make, f"network {self.network!r}")
        like = self if data is None else data
        return make(like.shape, like.classes, **self.options)

    def load(
        self, data_dir: str | os.PathLike[str] | None = None, *, download: bool = False
    ) -> data_sets.Data | data_sets.Stream:
        """Load the data with the source's validation split; a stream if `image_size` is given.

        Args:
          data_dir: as for `jt.data.load`.
          download: as for `jt.data.load`.

        Raises:
          MissingDataError: if the data are missing, with the places that were searched and the
            command that prepares them.
        """
        validation = self.validation
        if self.image_size is None:
            return data_sets.load(
                self.data, data_dir=data_dir, download=download, validation=validation
            )
        size, resize = (self.image_size, self.image_size), round(self.image_size / 0.875)
        return data_sets.stream(
            self.data, size=size, resize=resize, data_dir=data_dir, download=download,
            validation=validation,
        )  # fmt: skip

    def replace(self, **changes: object) -> Preset:
        """Copy the preset with some fields of it, its training, pruning or network changed.

        A change names a field of `Preset`, of `Training` or of `Pruning`, or an option of the
        network's constructor. Nothing else changes with it: `steps=1000` leaves milestones where
        they are, `training=p.training.dilated(0.1)` moves all of them; but settings that no longer
        have an effect return to their defaults, as in `Training.replace`.

        Raises:
          ValueError: if a name is unknown, or belongs to more than one of these.

        >>> from jaxticket.presets import PRESETS
        >>> p = PRESETS["lenet-mnist"].replace(steps=1000, levels=3)
        >>> p.training.steps, p.training.lr, p.pruning.levels
        (1000, 0.0012, 3)
        """
        fields = {name: changes[name] for name in changes if name in _FIELDS}
        base = dataclasses.replace(self, **fields)
        make = _check.from_table("network", base.network, NETWORKS)
        names = {
            "preset": _FIELDS,
            "training": _names(Training),
            "pruning": _names(Pruning),
            "options": options_of(make),
        }
        parts: dict[str, dict[str, object]] = {part: {} for part in names}
        for name, value in changes.items():
            homes = [part for part in names if name in names[part]]
            if not homes:
                known = {n for part in names.values() for n in part}
                raise ValueError(
                    f"`{name}` is not a field of Preset, Training or Pruning or an option of "
                    f"network {base.network!r}; {_check.nearest(name, known)}"
                )
            if len(homes) > 1:
                raise ValueError(
                    f"`{name}`={value!r} could change any of {', '.join(homes)}; say which, as in "
                    f"replace({homes[-1]}=...)"
                )
            parts[homes[0]][name] = value
        return dataclasses.replace(
            base,
            training=base.training.replace(**parts["training"]),
            pruning=base.pruning.replace(**parts["pruning"]),
            options=base.options | parts["options"],
        )


def _names(settings: type) -> tuple[str, ...]:
    return tuple(f.name for f in dataclasses.fields(settings))


_FIELDS = _names(Preset)


def _check_options(
    argument: str, options: Settings, make: Callable[..., object], what: str
) -> None:
    """Raise for options that a constructor does not take."""
    known = options_of(make)
    if unknown := sorted(set(options) - set(known)):
        raise ValueError(
            f"`{argument}` {', '.join(map(repr, unknown))} are not taken by {what}, which takes "
            f"{', '.join(sorted(known)) or 'none'}; use replace({argument}={{...}})"
        )


def options_of(make: Callable[..., object]) -> tuple[str, ...]:
    """The arguments of a constructor other than `shape` and `classes`."""
    return tuple(n for n in inspect.signature(make).parameters if n not in ("shape", "classes"))


def steps_per_epoch(data: str, batch_size: int, *, validation: float = 0.0) -> int:
    """Count the batches of an epoch with a partial last one, as PyTorch's loaders do.

    391 for CIFAR-10 in batches of 128. Batches here are always full and continue into the next
    epoch (`last_batch="wrap"`), so that the same steps see up to one batch per epoch more.
    """
    train = FACTS[data].train
    return math.ceil((train - round(validation * train)) / batch_size)
