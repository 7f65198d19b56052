"""Elastic tickets: residual networks of one family, of another depth.

Each block of the deeper or shallower network takes mask, weights and BatchNorm statistics of one
block of the same stage. The first block of a stage, which has the stride and the shortcut, stays
where it is.

Reference: Chen et al. 2021, "The elastic lottery ticket hypothesis".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jaxticket import _tree
from jaxticket._check import instance, several, text
from jaxticket.ticket import Ticket, check_ticket
from jaxticket.typing import Network

Blocks = str | Sequence[str] | None


def depths(net: Network) -> dict[int, int]:
    """Number of blocks of each stage of a residual network, from 1; empty for other networks.

    >>> from jaxticket.nn import lenet, resnet14
    >>> depths(resnet14()), depths(lenet())
    ({1: 2, 2: 2, 3: 2}, {})
    """
    return {stage: len(blocks) for stage, blocks in enumerate(net.stages, start=1)}


def spread(here: int, there: int) -> tuple[int, ...]:
    """Which block each of `there` blocks of a stage is taken from, of `here`: in order, each used
    as often as any other, or the first of those that stretching would make of one.

    >>> spread(2, 3), spread(3, 2), spread(3, 5), spread(5, 3)
    ((0, 1, 1), (0, 1), (0, 1, 1, 2, 2), (0, 1, 3))
    """
    if there == 1:
        return (0,)
    if here == 1:
        raise ValueError(
            f"`ticket` has one block in a stage, which stays the first: there is none to make "
            f"{there - 1} more of; take a deeper network"
        )
    if there >= here:
        return (0, *(1 + (j * (here - 1)) // (there - 1) for j in range(there - 1)))
    back = spread(there, here)
    return tuple(back.index(block) for block in range(there))


def sources(net: Network, to: Network, blocks: Blocks = None) -> dict[int, tuple[int, ...]]:
    """For each stage, which block of `net` each block of `to` is taken from.

    Args:
      net, to: networks of one family.
      blocks: for all stages or for each of them "FROM:TO,TO;FROM:TO", such as "0:0;1:1,2"; None for
        `spread`.

    Raises:
      ValueError: for networks that have not the same stages, and blocks that are not there, filled
        twice or left empty, or a first block that is moved.
    """
    ours, theirs = depths(net), depths(to)
    if not ours or sorted(ours) != sorted(theirs):
        raise ValueError(
            f"`to` must be a residual network with the stages of the ticket's, "
            f"{sorted(ours) or 'none'}, got {sorted(theirs) or 'none'}; networks of your own state "
            f"`stages` when they are made"
        )
    if blocks is None:
        return {stage: spread(ours[stage], theirs[stage]) for stage in ours}
    given = [blocks] * len(ours) if isinstance(blocks, str) else blocks
    texts = several("blocks", given, text, like="['0:0;1:1,2']")
    if len(texts) != len(ours):
        raise ValueError(f"`blocks` must be one text, or one for each stage of {sorted(ours)}")
    return {
        stage: _parsed(blocks_of, ours[stage], theirs[stage])
        for stage, blocks_of in zip(sorted(ours), texts, strict=True)
    }


def _parsed(text: str, here: int, there: int) -> tuple[int, ...]:
    wrong = f"`blocks` {text!r} must be such as '0:0;1:1,2', from {here} blocks to {there}"
    taken: dict[int, int] = {}
    for part in text.split(";"):
        if not re.fullmatch(r"\s*\d+\s*:\s*\d+(\s*,\s*\d+)*\s*", part):
            raise ValueError(f"{wrong}; {part!r} is not")
        source, targets = part.split(":")
        for target in map(int, targets.split(",")):
            if target in taken:
                raise ValueError(f"{wrong}; block {target} is filled twice")
            if int(source) >= here or target >= there:
                raise ValueError(f"{wrong}; {int(source)}:{target} is beyond them")
            if (int(source) == 0) != (target == 0):
                raise ValueError(f"{wrong}; the first block stays the first, alone")
            taken[target] = int(source)
    if missing := sorted(set(range(there)) - set(taken)):
        raise ValueError(f"{wrong}; nothing fills {missing}")
    return tuple(taken[target] for target in range(there))


def elastic(ticket: Ticket, *, net: Network, to: Network, blocks: Blocks = None) -> Ticket:
    """A ticket of a residual network stretched or squeezed to another depth.

    Args:
      ticket: of `net`; may be stacked.
      net, to: its network, and one of the same family, shape and classes.
      blocks: as of `sources`.

    Returns:
      The ticket with the layers of `to`. Squeezing what was stretched gives the ticket back.

    Raises:
      ValueError: as of `sources`, and for layers that differ in more than their number.

    Reference: Chen et al. 2021, section 4. ResNet-14 to ResNet-20 is "0:0;1:1,2".
    """
    instance("ticket", ticket, Ticket, "a ticket, as of jt.Ticket.load or Runs.ticket")
    check_ticket("ticket", ticket)
    for argument, value in (("net", net), ("to", to)):
        instance(argument, value, Network, "a network, such as jt.networks.resnet14()")
    taken, lead = sources(net, to, blocks), np.ndim(ticket.level)
    params, stats = to.shapes

    def moved(tree: Any, like: Any) -> Any:
        ours = _tree.leaves(tree)
        found = []
        for path, leaf in _tree.leaves(like).items():
            source = path_in(path, taken, net, to)
            own = ours.get(source)
            if own is None or np.shape(own)[lead:] != leaf.shape:
                shape = "none" if own is None else np.shape(own)[lead:]
                raise ValueError(
                    f"`ticket` has {shape} at {source!r} where `to` needs {leaf.shape} for "
                    f"{path!r}; stretch it within a family, then bring it to other data"
                )
            found.append(own)
        return jax.tree.unflatten(jax.tree.structure(like), found)

    return ticket.replace(
        mask=moved(ticket.mask, params),
        params=moved(ticket.params, params),
        stats=moved(ticket.stats, stats),
    )


def path_in(path: str, taken: Mapping[int, Sequence[int]], net: Network, to: Network) -> str:
    """The path in `net` that a path of `to` is taken from.

    >>> from jaxticket.nn import resnet14, resnet20
    >>> path_in("block_1_2/conv_0/kernel", {1: (0, 1, 1)}, resnet14(), resnet20())
    'block_1_1/conv_0/kernel'
    """
    for stage, blocks in taken.items():
        for name, block in zip(to.stages[stage - 1], blocks, strict=True):
            # statistics have the name of their collection before that of the block
            before, found, after = f"/{path}/".partition(f"/{name}/")
            if found:
                return f"{before}/{net.stages[stage - 1][block]}/{after}"[1:-1]
    return path


def copies(taken: Mapping[int, Sequence[int]], to: Network) -> tuple[str, ...]:
    """The blocks of `to` that are further copies of one, such as "block_1_2"."""
    return tuple(
        to.stages[stage - 1][place]
        for stage, own in taken.items()
        for place, block in enumerate(own)
        if block in own[:place]
    )
