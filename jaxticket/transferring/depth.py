"""Elastic tickets: transfer between residual networks of different depths.

Each block of the deeper or shallower network takes mask, weights and BatchNorm statistics of one
block of the same stage. The first block of a stage, which has the stride and the shortcut, remains
the first.

Reference: Chen et al. 2021, "The elastic lottery ticket hypothesis".
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np

from jaxticket import _tree
from jaxticket._check import instance, several, text
from jaxticket.ticket import Ticket, check_ticket
from jaxticket.typing import Mask, Network, Params

Blocks = str | Sequence[str] | None
"""Which block goes where, for all stages or for each; None for `spread`."""


def depths(net: Network) -> dict[int, int]:
    """Count the blocks of each stage (from 1) of a residual network; empty for other networks.

    >>> from jaxticket.nn import lenet, resnet14
    >>> depths(resnet14()), depths(lenet())
    ({1: 2, 2: 2, 3: 2}, {})
    """
    return {stage: len(blocks) for stage, blocks in enumerate(net.stages, start=1)}


def spread(here: int, there: int) -> tuple[int, ...]:
    """Assign one of `here` source blocks to each of `there` target blocks of a stage.

    A deeper stage repeats each source block but the first equally often, in order. A shallower
    stage takes the first of the blocks that are copies of one when it is stretched back.

    >>> spread(2, 3), spread(3, 2), spread(3, 5), spread(5, 3)
    ((0, 1, 1), (0, 1), (0, 1, 1, 2, 2), (0, 1, 3))
    """
    if there == 1:
        return (0,)
    if here == 1:
        raise ValueError(
            f"`ticket` has one block in a stage, which remains the first: there is none to make "
            f"{there - 1} more of; use a ticket of a deeper network"
        )
    if there >= here:
        return (0, *(1 + (j * (here - 1)) // (there - 1) for j in range(there - 1)))
    back = spread(there, here)
    return tuple(back.index(block) for block in range(there))


def sources(net: Network, to: Network, blocks: Blocks = None) -> dict[int, tuple[int, ...]]:
    """Find, for each stage, the block of `net` from which each block of `to` is taken.

    Args:
      net: the network of the ticket.
      to: a network of the same family.
      blocks: "FROM:TO,TO;FROM:TO" for all stages or for each, such as "0:0;1:1,2"; None for
        `spread`.

    Raises:
      ValueError: for networks with different stages, for blocks that do not exist, are filled twice
        or stay empty, and for a first block that is moved.
    """
    ours, theirs = depths(net), depths(to)
    if not ours or sorted(ours) != sorted(theirs):
        raise ValueError(
            f"`to` must be a residual network with the stages of the ticket's network, "
            f"{sorted(ours) or 'none'}, got {sorted(theirs) or 'none'}; pass `stages` when you "
            f"construct your own networks"
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
    wrong = f"`blocks` {text!r} must look like '0:0;1:1,2' and map {here} blocks to {there}"
    taken: dict[int, int] = {}
    for part in text.split(";"):
        if not re.fullmatch(r"\s*\d+\s*:\s*\d+(\s*,\s*\d+)*\s*", part):
            raise ValueError(f"{wrong}; {part!r} is not of this form")
        source, targets = part.split(":")
        for target in map(int, targets.split(",")):
            if target in taken:
                raise ValueError(f"{wrong}; block {target} is filled twice")
            if int(source) >= here or target >= there:
                raise ValueError(f"{wrong}; {int(source)}:{target} is beyond them")
            if (int(source) == 0) != (target == 0):
                raise ValueError(f"{wrong}; block 0 must map to block 0 alone")
            taken[target] = int(source)
    if missing := sorted(set(range(there)) - set(taken)):
        raise ValueError(f"{wrong}; nothing fills {missing}")
    return tuple(taken[target] for target in range(there))


def elastic(ticket: Ticket, *, net: Network, to: Network, blocks: Blocks = None) -> Ticket:
    """Stretch or squeeze a ticket of a residual network to another depth.

    Args:
      ticket: a ticket of `net`; may be stacked.
      net: the network of the ticket.
      to: a network of the same family, shape and classes.
      blocks: "FROM:TO,TO;FROM:TO" for all stages or for each; None to repeat blocks evenly.

    Returns:
      The ticket with the layers of `to`. Squeezing a stretched ticket gives the original.

    Raises:
      ValueError: for networks of different families and for `blocks` that do not fit them.

    Reference: Chen et al. 2021, section 4. ResNet-14 to ResNet-20 is "0:0;1:1,2".
    """
    instance("ticket", ticket, Ticket, "a ticket, from jt.Ticket.load or Runs.ticket")
    check_ticket("ticket", ticket)
    for argument, value in (("net", net), ("to", to)):
        instance(argument, value, Network, "a network, such as jt.networks.resnet14()")
    taken, lead = sources(net, to, blocks), np.ndim(ticket.level)
    params, stats = to.shapes

    def moved(tree: Mask, like: Params) -> Params:
        # leaves of masks are None where nothing is pruned
        old, new = _tree.leaves(tree, is_leaf=_tree.is_none), {}
        for path, leaf in _tree.leaves(like).items():
            source = path_in(path, taken, net, to)
            shape = np.shape(old[source])[lead:] if source in old else "none"
            if shape != leaf.shape and (source not in old or old[source] is not None):
                raise ValueError(
                    f"`ticket` has {shape} at {source!r} where `to` needs {leaf.shape} for "
                    f"{path!r}; stretch it within a family, then transfer it to other data"
                )
            new[path] = old[source]
        return _tree.unflatten(new, like)

    return ticket.replace(
        mask=moved(ticket.mask, params),
        params=moved(ticket.params, params),
        stats=moved(ticket.stats, stats),
    )


def path_in(path: str, taken: Mapping[int, Sequence[int]], net: Network, to: Network) -> str:
    """Find the path in `net` from which a path of `to` is taken.

    >>> from jaxticket.nn import resnet14, resnet20
    >>> path_in("block_1_2/conv_0/kernel", {1: (0, 1, 1)}, resnet14(), resnet20())
    'block_1_1/conv_0/kernel'
    """
    for stage, blocks in taken.items():
        for name, block in zip(to.stages[stage - 1], blocks, strict=True):
            # paths of statistics start with the name of their collection
            before, found, after = f"/{path}/".partition(f"/{name}/")
            if found:
                return f"{before}/{net.stages[stage - 1][block]}/{after}"[1:-1]
    return path


def copies(taken: Mapping[int, Sequence[int]], to: Network) -> tuple[str, ...]:
    """Name the blocks of `to` that are repetitions of an earlier block, such as "block_1_2"."""
    return tuple(
        to.stages[stage - 1][place]
        for stage, blocks in taken.items()
        for place, block in enumerate(blocks)
        if block in blocks[:place]
    )
