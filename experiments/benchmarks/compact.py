"""What `ticket.compact` gains: the forward pass without units and channels that do nothing.

Networks with random weights, of which a share of the hidden units and channels feeds nothing, as
after pruning whole units; operations and seconds of a forward pass in evaluation mode, next to
those of the network before. The two networks take turns in one process; medians.

Command:  python -m experiments.benchmarks.compact [--batch 64 --repeats 10 --publish]
Cost:     1 minute on 1 core
Expected: on a CPU that other work shares, with half of the units dead a quarter of the operations
          of convolutional networks and 27 to 82% of their time; with a quarter dead ResNet-20 and
          VGG-11 gain nothing, since numbers of channels that are no multiples of 16 are slower
"""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish
from jaxticket import masks
from jaxticket.nn.symmetry import places


@dataclasses.dataclass(frozen=True)
class Settings:
    """Forward passes of compact networks."""

    batch: int = 64
    """Examples of a forward pass."""
    repeats: int = 10
    """Forward passes of which the median counts."""
    shares: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the units and channels of each layer that feed nothing."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/compact.csv and .json."""


def networks() -> dict[str, jt.Network]:
    """The networks that are measured, by name."""
    return {
        "lenet": jt.networks.lenet(),
        "conv4": jt.networks.conv4(),
        "vgg11": jt.networks.vgg11((32, 32, 3), 10, width=0.5),
        "resnet20": jt.networks.resnet20(),
    }


def ticket(net: jt.Network, share: float) -> jt.Ticket:
    """A ticket whose weights are drawn, where a share of the units of each layer feeds nothing."""
    draw = np.random.default_rng(0)
    params, stats = jax.tree.map(np.asarray, net.init(jax.random.key(0)))
    mask, (along, units) = net.mask(), places(net)
    dead = {name: draw.permutation(n)[: round(share * n)] for name, n in units.items()}
    for path, m in masks.items(mask):
        for name, at in along[path][-2].items():
            m[..., at[dead[name]].reshape(-1), :] = False
    return jt.Ticket(mask, params, stats, np.asarray(1, np.int32), np.asarray(0, np.int32)).masked()


def main(settings: Settings) -> None:
    """Measure each network at each share, and print a table."""
    rows: list[Row] = []
    for name, net in networks().items():
        for share in settings.shares:
            small = ticket(net, share).compact(net)
            here, before = small.seconds(settings.batch, repeats=settings.repeats)
            operations = small.flops[0] / small.flops[1]
            row: Row = {"network": name, "dead": share, "operations": round(operations, 3)}
            row |= {"seconds": here, "seconds_before": before, "time": round(here / before, 3)}
            rows.append(row)
            print(
                f"{name}, {share:.0%} of units dead: {operations:.0%} of the operations, "
                f"{here / before:.0%} of the time ({1e3 * here:.1f} of {1e3 * before:.1f} ms)"
            )
    if settings.publish:
        summary = dataclasses.asdict(settings)
        publish("compact", rows, {**summary, "machine": dict(machine("jax", "flax"))})


if __name__ == "__main__":
    jt.compilation_cache()
    main(tyro.cli(Settings, description=__doc__))
