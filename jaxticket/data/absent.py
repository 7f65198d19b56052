"""The data set of a saved run that is not there: what tables need of it, and no examples."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

import numpy as np

from jaxticket import _show
from jaxticket.data.arrays import About, Data, Split
from jaxticket.labels import CLASSES, Labels


class _AbsentSplit(Split):
    """A split that has a length and no examples."""

    _absent: tuple[str, int]

    def __init__(self, name: str, count: int) -> None:
        object.__setattr__(self, "_absent", (name, count))

    def __len__(self) -> int:
        return self._absent[1]

    def __repr__(self) -> str:
        return f"<{len(self):,} examples that were not found>"

    def _refuse(self) -> NoReturn:
        raise ValueError(
            f"`data` {self._absent[0]!r} of these runs was not found here, only its tables and "
            f"tickets are there; pass it, such as jt.load(folder, data=jt.data.load(...))"
        )

    @property
    def x(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Raise, since there are no examples."""
        self._refuse()

    @property
    def y(self) -> np.ndarray:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Raise, since there are no labels."""
        self._refuse()


@dataclass(frozen=True, eq=False, kw_only=True)
class Absent(Data):
    """A data set of which only the description is there; its examples raise a ValueError.

    Attributes:
      example: shape of one example.
      recorded: the fingerprint.
      label: shape and type of the label of one example.
    """

    example: tuple[int, ...]
    recorded: str
    label: Labels = CLASSES

    __repr__ = _show.text

    def _summary(self) -> _show.Summary:
        return _show.data_summary(self, f"{_show.shape(self.shape)}, not found here")

    def __post_init__(self) -> None:
        """Check nothing: there are no examples."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one example."""
        return self.example

    @property
    def fingerprint(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The fingerprint that was recorded."""
        return self.recorded

    @property
    def labels(self) -> Labels:
        """Shape and type of the label of one example."""
        return self.label

    def class_counts(self) -> None:
        """None, since labels are not known."""


def absent(
    name: str,
    *,
    classes: int,
    shape: Sequence[int],
    splits: Mapping[str, int],
    about: About,
    fingerprint: str,
    labels: Labels | None = None,
) -> Absent:
    """Describe a data set that is not there.

    Args:
      name: its name.
      classes: number of classes.
      shape: of one example.
      splits: examples of each split.
      about: where it came from.
      fingerprint: what identifies it.
      labels: shape and type of its labels; None for classes.

    >>> gone = absent("mine", classes=3, shape=(4,), splits={"train": 9, "test": 2}, about={},
    ...               fingerprint="0")
    >>> len(gone.test), list(gone.splits)
    (2, ['train', 'test'])
    """
    parts = {split: _AbsentSplit(name, count) for split, count in splits.items()}
    return Absent(
        name=name,
        classes=classes,
        train=parts["train"],
        test=parts["test"],
        validation=parts.get("validation"),
        mean=np.zeros(1, np.float32),
        std=np.ones(1, np.float32),
        about=about,
        example=tuple(shape),
        recorded=fingerprint,
        label=CLASSES if labels is None else labels,
        more={name: p for name, p in parts.items() if name not in ("train", "validation", "test")},
    )
