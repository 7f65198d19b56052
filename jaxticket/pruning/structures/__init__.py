"""Structured masks: weights that are kept or pruned together.

A structure is a name or a tuple, as an argument `structure=` of `jt.Pruning`, `jt.prune_at`,
`jt.search`, `jt.sparse_train`, `jt.prune` and `jt.keep_top`:

- "2:4", or any "N:M": of each M consecutive inputs of every output, exactly N;
- ("block", r, c): whole blocks of r inputs by c outputs;
- "channel": whole hidden units and channels, with all weights into them and out of them;
- ("fan_in", k): exactly k incoming weights of every output;
- a user's object with a method `units(dense, net) -> Units`.

Scores of weights are averaged over each unit, units are ranked, and counts are exact in units.
"""

from __future__ import annotations

from jaxticket.pruning.structures.base import Structure as Structure
from jaxticket.pruning.structures.base import Units as Units
from jaxticket.pruning.structures.blocks import Block as Block
from jaxticket.pruning.structures.channels import Channel as Channel
from jaxticket.pruning.structures.groups import NM as NM
from jaxticket.pruning.structures.groups import FanIn as FanIn
from jaxticket.pruning.structures.settings import structure_of as structure_of
from jaxticket.pruning.structures.settings import units_of as units_of

__all__ = [
    "NM",
    "Block",
    "Channel",
    "FanIn",
    "Structure",
    "Units",
    "structure_of",
    "units_of",
]


def __dir__() -> list[str]:
    return __all__
