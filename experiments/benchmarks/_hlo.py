"""What an optimized program of XLA says of itself: kernels, loops, collectives, estimated cycles.

The text of a compiled program (`jax.stages.Compiled.as_text`) is a list of computations, each of
them a list of instructions. Loops, conditionals and calls name the computations that they run;
fusions hold one each, which is one kernel.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np

_HEAD = re.compile(r"^(ENTRY )?%?([\w.-]+) \(.*\{\s*$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.-]+) = (.*?)(?<=[\]\})]) ([a-z][\w-]*)\((.*)$")
_INNER = re.compile(
    r"\b(body|calls|to_apply|true_computation|false_computation|called_computations)=\{?%?([\w.-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.-]+)")
_TRIPS = re.compile(r"known_trip_count\W+n\W+(\d+)")
_CYCLES = re.compile(r"estimated_cycles\W+(\d+)")
_LISTED = re.compile(r"(?:replica_groups|source_target_pairs)=\{(\{[\d,{}]*\})\}")
_NAMED = re.compile(r"replica_groups=mesh\[[^\]]*\] \{([^}]*)\}")
_IOTA = re.compile(r"replica_groups=\[([\d,]+)\]<=\[([\d,]+)\](?:T\(([\d,]+)\))?")

COLLECTIVES = (
    "all-reduce", "all-gather", "all-to-all", "collective-permute", "collective-broadcast",
    "ragged-all-to-all", "reduce-scatter",
)  # fmt: skip
CONTROL = ("while", "conditional", "call", "async-start")
"""Instructions that run other computations instead of computing."""
FREE = (
    "after-all", "bitcast", "constant", "get-tuple-element", "opt-barrier", "parameter",
    "partition-id", "replica-id", "tuple",
)  # fmt: skip
"""Instructions that launch nothing."""


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name, opcode: as the compiler calls them.
      result: the type of the result, such as "f32[8,128]{1,0}".
      rest: operands and attributes.
    """

    name: str
    opcode: str
    result: str
    rest: str

    @property
    def runs(self) -> tuple[str, ...]:
        """Computations that control flow runs: the body of a loop, the branches, what is called."""
        if self.opcode not in CONTROL:
            return ()
        branches = _BRANCHES.search(self.rest)
        if branches is not None:
            return tuple(name.strip(" %") for name in branches[1].split(","))
        return tuple(name for _, name in _INNER.findall(self.rest))

    @property
    def inner(self) -> tuple[str, ...]:
        """All computations that it names, those of fusions too."""
        return self.runs or tuple(name for _, name in _INNER.findall(self.rest))

    @property
    def cycles(self) -> int:
        """The compiler's estimate of its cycles; 0 where it makes none."""
        known = None if self.opcode in CONTROL else _CYCLES.search(self.rest)
        return 0 if known is None else int(known[1])

    @property
    def collective(self) -> str | None:
        """Which collective it is, or begins."""
        name = self.opcode.removesuffix("-start")
        return name if name in COLLECTIVES else None

    def axes(self, sizes: Mapping[str, int]) -> tuple[str, ...]:
        """The axes of the mesh along which a collective brings devices together.

        Args:
          sizes: of the mesh, by axis; devices are numbered in its order.

        Raises:
          ValueError: where its groups are written in a form that is not known.
        """
        named = _NAMED.search(self.rest)
        if named is not None:
            found = set(re.findall(r"'(\w+)'", named[1]))
            return tuple(axis for axis in sizes if axis in found)
        listed, iota = _LISTED.search(self.rest), _IOTA.search(self.rest)
        if listed is not None:
            groups = [
                [int(x) for x in g.split(",")] for g in re.findall(r"\{([\d,]+)\}", listed[1])
            ]
        elif iota is not None:
            shape, by, order = (_numbers(text) if text else None for text in iota.groups())
            assert shape is not None and by is not None
            groups = (
                np.transpose(np.arange(math.prod(by)).reshape(by), order).reshape(shape).tolist()
            )
        else:
            raise ValueError(f"the groups of {self.name!r} are not understood: {self.rest[:400]!r}")
        return along(groups, sizes)

    def sizes(self, dtype: str) -> list[int]:
        """Elements of each array of a type, such as "u8", among its results."""
        shapes = re.findall(rf"\b{dtype}\[([\d,]*)\]", self.result)
        return [math.prod(int(n) for n in shape.split(",") if n) for shape in shapes]


@dataclasses.dataclass(frozen=True)
class Program:
    """A compiled program: the instructions of each computation, and where it begins."""

    computations: Mapping[str, tuple[Instruction, ...]]
    entry: str

    def trips(self, loop: Instruction) -> int | None:
        """How often a loop runs; None where that is not known before."""
        if (known := _TRIPS.search(loop.rest)) is not None:
            return int(known[1])
        condition = _CONDITION.search(loop.rest)
        inner = () if condition is None else self.computations[condition[1]]
        # counters begin at 0 and are compared with their end
        ends = {i.name: i.rest.split(")")[0] for i in inner if i.opcode == "constant"}
        for one in inner:
            if one.opcode == "compare" and "direction=LT" in one.rest:
                last = one.rest.split(")")[0].split("%")[-1]
                if ends.get(last, "").isdigit():
                    return int(ends[last])
        return None

    def cost(
        self,
        of: Callable[[Instruction], int],
        begin: str | None = None,
        *,
        without: Collection[str] = (),
    ) -> int:
        """Sum a number over what a computation runs.

        Loops count as often as they run (once where that is not known), of branches the largest.

        Args:
          of: the number of an instruction.
          begin: where; the whole program if None.
          without: bodies of loops that are left out.
        """
        total = 0
        for one in self.computations[self.entry if begin is None else begin]:
            total += of(one)
            runs = [name for name in one.runs if name not in without]
            inner = [self.cost(of, name, without=without) for name in runs]
            times = self.trips(one) if one.opcode == "while" else 1
            total += (1 if times is None else times) * max(inner, default=0)
        return total

    def walk(
        self, begin: str | None = None, above: tuple[Instruction, ...] = ()
    ) -> Iterator[tuple[Instruction, tuple[Instruction, ...]]]:
        """Give each instruction, those inside fusions too, with the control flow around it."""
        for one in self.computations[self.entry if begin is None else begin]:
            yield one, above
            for name in one.inner:
                yield from self.walk(name, (*above, one) if one.opcode in CONTROL else above)

    @property
    def step(self) -> str | None:
        """The body of the loop over steps: the costliest of those that run as often as asked."""
        bodies = {
            one.runs[0]: self.cost(lambda i: i.cycles, one.runs[0])
            + self.cost(launched, one.runs[0])
            for one, above in self._loops()
            if self.trips(one) is None and all(self.trips(outer) is not None for outer in above)
        }
        return max(bodies, key=bodies.__getitem__, default=None)

    def passes(self, body: str) -> int:
        """How often a loop is begun: once, or for each block of replicas."""
        above = next(above for one, above in self._loops() if one.runs[0] == body)
        return math.prod(self.trips(outer) or 1 for outer in above)

    def _loops(self) -> Iterator[tuple[Instruction, list[Instruction]]]:
        """Every loop, with those around it."""
        for one, above in self.walk():
            if one.opcode == "while":
                yield one, [outer for outer in above if outer.opcode == "while"]


def _within(above: tuple[Instruction, ...], opcode: str) -> bool:
    return any(one.opcode == opcode for one in above)


def _numbers(text: str) -> list[int]:
    return [int(x) for x in text.split(",")]


def launched(one: Instruction) -> int:
    """Kernels that an instruction launches, and copies that it makes: 0 or 1."""
    waits = one.opcode.endswith(("-done", "-update"))
    return int(not waits and one.opcode not in FREE and one.opcode not in CONTROL)


def read(text: str) -> Program:
    """Read the text of a compiled program.

    Raises:
      ValueError: where it has no entry.
    """
    computations: dict[str, list[Instruction]] = {}
    entry, current = None, None
    for line in text.splitlines():
        if (head := _HEAD.match(line)) is not None:
            current = computations.setdefault(head[2], [])
            entry = head[2] if head[1] else entry
        elif current is not None and (found := _INSTRUCTION.match(line)) is not None:
            name, result, opcode, rest = found.groups()
            current.append(Instruction(name, opcode, result, rest))
    if entry is None:
        raise ValueError("`text` is no program of XLA: it has no ENTRY")
    return Program({name: tuple(inner) for name, inner in computations.items()}, entry)


def along(groups: Sequence[Sequence[int]], sizes: Mapping[str, int]) -> tuple[str, ...]:
    """The axes of a mesh along which groups of devices lie.

    >>> along([[0, 1], [2, 3]], {"seed": 2, "data": 2})
    ('data',)
    """
    shape, found = tuple(sizes.values()), set()
    for one, other in itertools.chain.from_iterable(map(itertools.pairwise, groups)):
        places = zip(np.unravel_index(one, shape), np.unravel_index(other, shape), strict=True)
        found |= {axis for axis, (a, b) in zip(sizes, places, strict=True) if a != b}
    return tuple(axis for axis in sizes if axis in found)


def collectives(
    program: Program, sizes: Mapping[str, int], step: str | None
) -> list[dict[str, object]]:
    """The collectives of a program: what they are, along which axes, and whether in a step.

    Args:
      program: of devices in the order of their mesh.
      sizes: of the mesh, by axis.
      step: the body of the loop over steps, or None.
    """
    return [
        {
            "kind": one.collective,
            "axes": list(one.axes(sizes)),
            "in_step": any(step in outer.runs for outer in above),
        }
        for one, above in program.walk()
        if one.collective is not None
    ]


class Loop(NamedTuple):
    """A loop that runs a known number of times.

    Attributes:
      trips: how often.
      conditional: whether it stands inside a conditional.
      body: what it runs.
    """

    trips: int
    conditional: bool
    body: str


def loops(program: Program, step: str | None) -> list[Loop]:
    """Loops outside the steps that run a known number of times."""
    return [
        Loop(trips, _within(above, "conditional"), one.runs[0])
        for one, above in program.walk()
        if one.opcode == "while"
        and (trips := program.trips(one)) is not None
        and not any(step in outer.runs for outer in above)
    ]
