"""Errors on corrupted images."""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _check
from jaxticket.analysis.corruption_errors import ERRORS
from jaxticket.analysis.probes._predictions import needs_classes
from jaxticket.data import Data
from jaxticket.data.alike import need_images
from jaxticket.data.corruption_files import of_data, prepared
from jaxticket.data.corruptions import (
    CORRUPTIONS,
    SEVERITIES,
    channels_of,
    corrupt,
    corruptions_of,
    levels,
)
from jaxticket.data.sampling import spread
from jaxticket.data.tfds import gigabytes, memory
from jaxticket.engine.metrics import Batched, Normalization
from jaxticket.problem import Problem, standardized
from jaxticket.ticket import Ticket
from jaxticket.typing import Key

SOURCES = ("computed", "prepared")
# examples of a batch
_SIZE = 250


@dataclasses.dataclass(frozen=True)
class Corruptions:
    """How often a network errs on corrupted images, by corruption and severity.

    The images are those of the measured split, or were prepared of the test split. They are made
    once, on the host, and all of them lie in the memory of each device while networks are measured:
    names x severities x examples images, 290 MB for the usual 95 x 1,000 images of CIFAR-10. Where
    that is too much, measure a few `names` at a time and put the tables together.

    `jt.mean_corruption_error` compares the errors with those of dense networks.

    Attributes:
      names: corruptions, of `jt.data.CORRUPTIONS`; None for all that change the images: 19 for
        color, 18 for gray ones, without "saturate".
      severities: of 1 to 5.
      seed: of what is drawn; with "computed".
      source: "computed" for `jt.data.corrupt`; "prepared" for CIFAR-10-C or CIFAR-100-C, where they
        are prepared (see `jaxticket.data.corruption_files`); needs the test split.
      data_dir: with "prepared", the only folder to be searched.

    Returns (when called, see `jaxticket.analysis.probes`):
      "error_NAME" for each corruption, the shares of wrong answers in [0, 1], [severities];
      "mean_error", their mean over all; "clean_error", that on the images as they are (of
      "prepared" too, where examples are others unless all are measured); "corruptions", the number
      of corruptions.

    Reference: Hendrycks and Dietterich (2019); KD-LTS, appendix C.1.

    Examples:
      >>> import jaxticket as jt
      >>> jt.probes.Corruptions(names=("fog", "snow"), severities=(1, 5)).names
      ('fog', 'snow')
    """

    names: tuple[str, ...] | None = None
    severities: tuple[int, ...] = SEVERITIES
    seed: int = 0
    source: str = "computed"
    data_dir: str | None = None

    def __post_init__(self) -> None:
        if self.names is not None:
            _check.settle(
                self, _check.one_or_several, "names", check=_known, like="('fog',)", distinct=True
            )
        _check.settle(
            self, _check.several, "severities", check=_check.whole, like="(1, 5)",
            distinct=True, low=1, high=len(SEVERITIES),
        )  # fmt: skip
        _check.settle(self, _check.seed, "seed")
        _check.one_of("source", self.source, SOURCES)
        if self.data_dir is not None:
            _check.path_or_none("data_dir", self.data_dir)
            object.__setattr__(self, "data_dir", os.fspath(self.data_dir))
        computed = self.source == "computed"
        if computed and self.data_dir is not None:
            raise ValueError(
                f"`data_dir`={self.data_dir!r} is not used with source='computed'; leave it out"
            )
        if not computed and self.seed:
            raise ValueError(f"`seed`={self.seed} is not used with source='prepared'; leave it out")

    def prepare(self, data: Data, split: str, examples: int | None) -> Mapping[str, Batched]:
        """Make or read the corrupted images, all sets one after the other.

        Raises:
          MissingDataError: where they have to be prepared first.
          ValueError: for examples that are no images, labels that are not classes, and names that
            change nothing.
        """
        needs_classes("corruptions", data)
        need_images("data", data)
        channels = data.shape[-1]
        useless = [name for name in self.names or () if channels not in channels_of(name)]
        if useless:
            raise ValueError(
                f"`names` has {useless[0]!r}, which changes nothing of the gray images of "
                f"{data.name!r}; leave it out"
            )
        if self.source == "prepared" and split != "test":
            raise ValueError(
                f"`split` is {split!r}, but prepared corruptions are those of test images; pass "
                "split='test'"
            )
        of = of_data(data) if self.source == "prepared" else ""
        return {"corrupted": _made(self, _Images(data, split, examples, of))}

    def __call__(self, problem: Problem, ticket: Ticket, *, key: Key) -> dict[str, jax.Array]:
        """Count the wrong answers of a ticket in each set."""
        del key
        if problem.more is None:
            raise ValueError("`problem` has no corrupted images; use jt.measure")
        sets = problem.more["corrupted"]
        names = self._names(sets.x.shape[-1])
        count = len(names) * len(self.severities)
        found, good = _errors(problem, ticket, sets, count)
        clean, fine = _errors(problem, ticket, problem.batches, 1)
        errors = found.reshape(len(names), -1)
        numbers = {f"{ERRORS}{name}": errors[i] for i, name in enumerate(names)}
        numbers |= {"mean_error": jnp.mean(errors), "clean_error": clean[0]}
        numbers = {name: jnp.where(good & fine, x, jnp.nan) for name, x in numbers.items()}
        return {**numbers, "corruptions": jnp.asarray(len(names), errors.dtype)}

    def _names(self, channels: int) -> tuple[str, ...]:
        return corruptions_of(channels) if self.names is None else self.names


def _known(argument: str, name: str) -> str:
    return _check.one_of(argument, name, tuple(CORRUPTIONS))


def _errors(
    problem: Problem, ticket: Ticket, batches: Batched, sets: int
) -> tuple[jax.Array, jax.Array]:
    """The share of wrong answers in each set, [sets], and whether all logits are finite."""

    def one(batch: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
        x, y = batch
        logits = problem.logits(ticket.params, ticket.stats, x).reshape(y.shape[0], -1)
        there, answer = y >= 0, jnp.argmax(logits, axis=1).astype(y.dtype)
        good = jnp.isfinite(logits).all()
        return jnp.sum(there & (answer != y)), jnp.sum(there), good

    x, y, of = (jnp.asarray(part) for part in batches)
    wrong, count, good = jax.lax.map(one, (x, y))
    real = jnp.result_type(float)
    total, all_ = (
        jax.ops.segment_sum(part.astype(real), of, num_segments=sets) for part in (wrong, count)
    )
    return total / all_, good.all()


@dataclasses.dataclass(frozen=True, eq=False)
class _Images:
    """Which images are corrupted; equal for equal data, whose prepared corruptions go by `of`."""

    data: Data
    split: str
    examples: int | None
    of: str

    def _key(self) -> tuple[str, str, int | None, str]:
        return self.data.fingerprint, self.split, self.examples, self.of

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Images) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())


@functools.lru_cache(maxsize=1)
def _made(probe: Corruptions, images: _Images) -> Batched:
    """All sets, in batches; kept for the next networks that are measured on the same images."""
    data, own = images.data, images.data.splits[images.split]
    chosen = spread(len(own), images.examples)
    places = [
        (name, severity) for name in probe._names(data.shape[-1]) for severity in probe.severities
    ]
    white, bytes_ = levels(data), own.x.dtype == np.uint8
    kind = np.uint8 if bytes_ and white == 255 else np.float32
    each = int(np.prod(data.shape)) * np.dtype(kind).itemsize
    size, available = len(places) * len(chosen) * each, memory()
    if available is not None and size > available:
        raise ValueError(
            f"`names` has {len(places) // len(probe.severities)} corruptions, whose images take "
            f"{gigabytes(size)}, and this machine has {gigabytes(available)}; measure a few at a "
            "time, or fewer `examples`"
        )
    parts: list[tuple[np.ndarray, np.ndarray]] = []
    for name, severity in places:
        if probe.source == "computed":
            x = corrupt(own.x[chosen], name, severity, seed=probe.seed, white=white, numbers=chosen)
            parts.append((x, own.y[chosen]))
        else:
            where, most = probe.data_dir, images.examples
            parts.append(prepared(data, name, severity, data_dir=where, examples=most))
    by = Normalization(np.asarray(data.mean), np.asarray(data.std))  # type: ignore[arg-type]
    return standardized(_in_batches(parts), by)


def _in_batches(parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Batched:
    """Sets of images in batches of one size, each filled up at its end."""
    size = min(_SIZE, max(len(y) for _, y in parts))
    counts = [-(-len(y) // size) for _, y in parts]
    shape = (sum(counts), size)
    x = np.zeros((*shape, *parts[0][0].shape[1:]), parts[0][0].dtype)
    y, of = np.full(shape, -1, np.int32), np.repeat(np.arange(len(parts), dtype=np.int32), counts)
    first = 0
    for (images, labels), count in zip(parts, counts, strict=True):
        rows = slice(first, first + count)
        x[rows].reshape(-1, *x.shape[2:])[: len(labels)] = images
        y[rows].reshape(-1)[: len(labels)] = labels
        first += count
    return Batched(x, y, of)  # type: ignore[arg-type]
