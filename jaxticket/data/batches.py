"""Batches that a Python iterable or a loader gives: training data that are never all in memory.

What networks are evaluated on is held in memory; training examples are read while networks train.
An order of the examples is a function of a seed, and a pass over them is made again for every seed,
so a run that is resumed reads what it would have read: it begins at the pass where it stopped and
skips what it had seen.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NoReturn, Protocol, TypeAlias, runtime_checkable

import numpy as np
from numpy.typing import ArrayLike

from jaxticket import _check, _show
from jaxticket.data.arrays import Data, Split
from jaxticket.data.conversion import from_arrays, split_like
from jaxticket.data.records import StreamError

Given: TypeAlias = tuple[ArrayLike, ArrayLike] | Mapping[str, ArrayLike]
"""A batch as loaders give it: (examples, labels), or a mapping with both."""
Source: TypeAlias = (
    Iterable[Given] | Callable[[int], Iterable[Given]] | Callable[[], Iterable[Given]]
)
"""Batches, or what makes a pass of them, of a seed or always in one order."""
Pair: TypeAlias = tuple[np.ndarray, np.ndarray]


@runtime_checkable
class _ByNumber(Protocol):
    """What gives its batches by number, as lists and `grain.MapDataset` do."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int, /) -> Given: ...

    def __iter__(self) -> Iterator[Given]: ...


class _Pass(Split):
    """The training examples of a pass, of which only the first are held, for evaluation."""

    _examples: int

    def __init__(self, x: np.ndarray, y: np.ndarray, examples: int) -> None:
        super().__init__(x, y)
        object.__setattr__(self, "_examples", examples)

    def __len__(self) -> int:
        return self._examples


@dataclass(frozen=True, eq=False, kw_only=True)
class Batches(Data):
    """Training batches that an iterable gives, and splits to evaluate on, as `from_batches` makes.

    `train` has the length of a pass; its arrays hold the first examples of one, which are evaluated
    as "train".

    Attributes:
      source: the iterable, or a function that makes one of a seed.
      keys: what mappings call examples and labels.
      images: as of `from_arrays`.
      block_bytes: bytes of examples that one device is fed at a time, at least one step's.
    """

    streamed: ClassVar[bool] = True

    source: Source
    keys: tuple[str, str]
    images: bool
    block_bytes: int

    __repr__ = _show.text

    def _summary(self) -> _show.Summary:
        return _show.data_summary(self, f"{_show.shape(self.shape)} {self.train.x.dtype}, batches")

    def class_counts(self) -> None:
        """None, since labels are read when they are needed."""

    @property
    def examples(self) -> int:
        """Training examples of a pass."""
        return len(self.train)

    @property
    def one_order(self) -> bool:
        """Whether all networks are given one order, since the source takes no seed."""
        return isinstance(self.source, Iterable) or not _takes_seed(self.source)

    @cached_property
    def fingerprint(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Sha256 (hex) of all that is held, the examples of a pass, and the function's source.

        Training examples that are not held do not enter.
        """
        held = super().fingerprint
        parts = {"held": held, "examples": self.examples, "source": _written(self.source)}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _refuse(self, argument: str) -> NoReturn:
        raise ValueError(
            f"`{argument}` divides training examples in memory, and those of {self.name!r} come in "
            f"batches; divide them in the source, and pass what is held out as `validation`"
        )

    def with_validation(self, share: float = 0.1, *, seed: int = 0) -> NoReturn:
        """Raise: what is held out is an argument of `from_batches`."""
        self._refuse("with_validation")

    def halves(self, *, seed: int = 0) -> NoReturn:
        """Raise: examples are not in memory."""
        self._refuse("halves")

    def fraction(self, share: float, *, seed: int = 0) -> NoReturn:
        """Raise: examples are not in memory."""
        self._refuse("fraction")

    def read(self, seed: int, skip: int = 0) -> Generator[Pair]:
        """Read a pass, (examples, labels) of one batch after another, as the engine takes them.

        Args:
          seed: of the order of this pass.
          skip: examples at its beginning to leave out.

        Raises:
          StreamError: for a pass that ends before its examples do.
          ValueError: for examples and labels that do not fit those that are held.
        """
        end = 0
        with closing(_numbered(made(self.source, seed), skip, self.keys)) as batches:
            for number, begin, (x, y) in batches:
                end = min(begin + len(y), self.examples)
                if end > skip:
                    split = split_like(x, y, self, f"source[{number}]", images=self.images)
                    own = slice(max(skip - begin, 0), end - begin)
                    yield split.x[own], split.y[own]
                if end == self.examples:
                    return
        raise StreamError(
            f"`source` of {self.name!r} ended after {end} examples of a pass, which has "
            f"{self.examples}; pass `examples` as many as every pass has at least"
        )


def from_batches(
    source: Source,
    *,
    test: Given | Iterable[Given],
    validation: Given | Iterable[Given] | None = None,
    examples: int | None = None,
    held: int = 1000,
    keys: tuple[str, str] = ("image", "label"),
    classes: int | None = None,
    labels: str | None = None,
    name: str = "batches",
    normalize: bool | str = True,
    images: bool = True,
    block_bytes: int = 2**26,
) -> Batches:
    """Train on the batches of an iterable, such as a `grain` or PyTorch loader.

    A function `seed -> iterable` makes one pass over the training examples, in the order of that
    seed. It is called for each pass of each network with a seed that depends on the network's seed
    and the pass alone, so networks see orders of their own, and must give the same batches when it
    is called with the same seed again. An iterable that is no function gives all networks the same
    order in every pass.

    Batches may be of any size: they are put together to those of `Training.batch_size`. A run that
    is resumed skips what it had read. Where a pass has a length and gives any of its batches by
    number, as lists and `grain.MapDataset` do, skipped batches are not read (all of its batches but
    the last are of one size); of other iterables they are read again and thrown away, at most one
    pass. State that a loader keeps by itself is not used.

    Args:
      source: the function, or an iterable that can be iterated again and again. Batches are
        (examples, labels), or mappings with `keys`, of what `from_arrays` takes.
      test: (examples, labels) of the test split in memory, as a tuple; or an iterable of batches,
        such as a list, which is read once.
      validation: likewise, of a validation split, or None.
      examples: training examples of a pass; where batches go on, the pass ends there, so it gives
        endless iterables an end. None reads one pass to count them.
      held: training examples at the beginning of a pass that are kept in memory: mean and standard
        deviation are measured on them, and the split "train" of tables is evaluated on them.
      keys: names of examples and labels in batches that are mappings.
      classes: as for `from_arrays`; what is not given is found in the splits that are held.
      labels: as for `from_arrays`.
      name: what tables and run folders call the data set.
      normalize: as for `from_arrays`.
      images: as for `from_arrays`.
      block_bytes: bytes of examples that one device is fed at a time; two such blocks are under way
        at once. At least one step's examples are fed.

    Raises:
      StreamError: for a pass that is shorter than `examples`; also during training.
      ValueError: naming the argument that does not fit: iterators that can be read only once, and
        sources that give other batches when they are read again.

    >>> x = np.random.default_rng(0).normal(size=(90, 4)).astype("float32")
    >>> y = (x[:, 0] > 0).astype(int)
    >>> def batches(seed):
    ...     order = np.random.default_rng(seed).permutation(90)
    ...     return ((x[i], y[i]) for i in order.reshape(9, 10))
    >>> data = from_batches(batches, test=(x, y))
    >>> data.shape, data.classes, data.examples
    ((4,), 2, 90)
    """
    if examples is not None:
        examples = _check.whole("examples", examples, 1)
    held = _check.whole("held", held, 1)
    block_bytes = _check.whole("block_bytes", block_bytes, 1, high=2**62)
    if not (isinstance(keys, tuple) and len(keys) == 2):
        raise ValueError(f"`keys` must be the names of examples and labels, got {keys!r}")
    most = held if examples is None else min(held, examples)
    first, again = (_joined("source", made(source, 0), keys, n) for n in (most, 1))
    if not all(np.array_equal(a, b[: len(a)]) for a, b in zip(again, first, strict=True)):
        raise ValueError(
            "`source` gave other batches when it was read again, so a run could not be resumed or "
            "repeated; pass a function `seed -> iterable` that shuffles by the seed alone"
        )
    splits = {"train": first, "test": _held("test", test, keys)}
    if validation is not None:
        splits["validation"] = _held("validation", validation, keys)
    data = from_arrays(
        splits=splits, classes=classes, labels=labels, name=name, normalize=normalize, images=images
    )
    if examples is None:
        examples = sum(len(y) for _, _, (_, y) in _numbered(made(source, 0), 0, keys))
    return Batches(
        name=name,
        classes=data.classes,
        train=_Pass(data.train.x, data.train.y, examples),
        test=data.test,
        validation=data.validation,
        mean=data.mean,
        std=data.std,
        about={"source": "batches"},
        normalize=data.normalize,
        source=source,
        keys=keys,
        images=images,
        block_bytes=block_bytes,
    )


def made(source: Source, seed: int) -> Iterable[Given]:
    """Make a pass of a source: in the order of a seed, where it is a function of one.

    Raises:
      ValueError: for what is no iterable, and for an iterator that can be read only once.
    """
    found: object = source
    if callable(source) and not isinstance(source, Iterable):
        found = source(seed) if _takes_seed(source) else source()  # type: ignore[call-arg]
    elif isinstance(source, Iterator):
        raise ValueError(
            f"`source` {_check.shown(source)} is an iterator, which can be read only once; pass a "
            f"function that makes it, `seed -> iterator`"
        )
    if not isinstance(found, Iterable):
        raise ValueError(
            f"`source` must be an iterable of batches, or a function `seed -> iterable` of them, "
            f"got {_check.shown(found)}"
        )
    return found


def _takes_seed(source: Callable[..., object]) -> bool:
    """Whether a function takes a seed; one of no arguments gives all networks the same order."""
    try:
        return bool(inspect.signature(source).parameters)
    except ValueError as error:  # of some builtins
        raise ValueError(
            f"`source` {_check.shown(source)} does not say whether it takes a seed ({error}); wrap "
            f"it: lambda seed: ..."
        ) from None


def _numbered(
    found: Iterable[Given], skip: int, keys: tuple[str, str]
) -> Generator[tuple[int, int, Pair]]:
    """The batches of a pass, each with its number and that of its first example.

    Those before example `skip` are left out where the pass gives its batches by number.
    """
    first, begin, size, last = 0, 0, 0, 0
    batches: Iterable[Given] = found
    if skip and isinstance(found, _ByNumber):
        size, last = len(_pair(found[0], keys, 0)[1]), len(found) - 1
        first = min(skip // size, len(found))
        begin = first * size
        # not a slice, which would read all of it
        batches = (found[i] for i in range(first, last + 1))
    iterator = iter(batches)
    try:
        for number, batch in enumerate(iterator, first):
            x, y = _pair(batch, keys, number)
            if len(y) != size and number < last:
                raise StreamError(
                    f"`source` has {size} examples in batch 0 and {len(y)} in batch {number}; only "
                    f"the last batch of what gives batches by number may be smaller"
                )
            yield number, begin, (x, y)
            begin += len(y)
    finally:
        # files of generators, and threads of loaders, which complain when Python ends before them
        if callable(close := getattr(iterator, "close", None)):
            close()


def _pair(batch: object, keys: tuple[str, str], number: int) -> Pair:
    """Examples and labels of a batch, as arrays."""
    if isinstance(batch, Mapping):
        if missing := [key for key in keys if key not in batch]:
            raise ValueError(
                f"`keys` has {missing[0]!r}, and source[{number}] has "
                f"{', '.join(map(repr, batch))}; pass keys=(examples, labels)"
            )
        batch = batch[keys[0]], batch[keys[1]]
    if not isinstance(batch, tuple | list) or len(batch) != 2:
        raise ValueError(
            f"`source` must give batches (examples, labels), got {_check.shown(batch)} as batch "
            f"{number}"
        )
    x, y = np.asarray(batch[0]), np.asarray(batch[1])
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y) or len(y) == 0:
        raise ValueError(
            f"`source` gave examples {x.shape} and labels {y.shape} as batch {number}; both need a "
            f"first axis, the examples, of one length"
        )
    return x, y


def _joined(
    argument: str, found: Iterable[Given], keys: tuple[str, str], most: int | None = None
) -> Pair:
    """The first examples of batches, all of them by default, and their labels."""
    parts = []
    with closing(_numbered(found, 0, keys)) as batches:
        for _, begin, pair in batches:
            parts.append(tuple(np.array(part) for part in pair))
            if most is not None and begin + len(pair[1]) >= most:
                break
    if not parts:
        raise ValueError(f"`{argument}` gave no batch; pass an iterable that can be read again")
    x, y = (np.concatenate(part)[:most] for part in zip(*parts, strict=True))
    return x, y


def _held(argument: str, given: Given | Iterable[Given], keys: tuple[str, str]) -> Pair:
    """A split in memory: as it is, or of batches."""
    if isinstance(given, tuple | Mapping):
        return _pair(given, keys, 0)
    if not isinstance(given, Iterable):
        raise ValueError(
            f"`{argument}` must be a tuple (examples, labels) or an iterable of batches, got "
            f"{_check.shown(given)}"
        )
    return _joined(argument, given, keys)


def _written(source: Source) -> str:
    """What identifies the code of a source: the text of a function, or the name of a type."""
    if callable(source) and not isinstance(source, Iterable):
        try:
            return inspect.getsource(source)
        except (OSError, TypeError):  # typed into a shell, or no plain function
            pass
    return getattr(source, "__qualname__", type(source).__qualname__)
