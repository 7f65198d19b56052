"""What channel masks gain: the forward pass of compacted tickets, by the density of their units.

Each layer keeps the share `density` of its units or channels, those with the largest mean absolute
incoming weight of a drawn network (time does not depend on which). `ticket.compact` makes the
smaller dense network, and the two take turns in one process; medians of seconds of a forward pass
in evaluation mode. Next to them the share of the weights that stay and that of the operations.
Residual channels of ResNet-20 are pruned with the blocks that they are added to.

Command:  python -m experiments.benchmarks.structured [--batch 64 --repeats 41 --publish]
Cost:     4 minutes on 1 core
Expected: time follows operations for LeNet, Conv-4 and VGG-11; ResNet-20, whose layers are small,
          gains with half of its channels alone, and is slower with three quarters; the logits are
          those of the ticket (`compact` compares them)
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import tyro

import jaxticket as jt
from experiments.benchmarks._machine import Row, machine, publish


@dataclasses.dataclass(frozen=True)
class Settings:
    """Forward passes of tickets with channel masks, as they are and compacted."""

    batch: int = 64
    """Examples of a forward pass."""
    repeats: int = 41
    """Forward passes of which the median counts."""
    densities: tuple[float, ...] = (0.75, 0.5, 0.25, 0.125)
    """Shares of the units and channels of each layer that stay."""
    shared: bool = True
    """Whether other work ran on the machine, which is recorded."""
    publish: bool = False
    """Whether to write experiments/results/benchmarks/structured.csv and .json."""


def networks() -> dict[str, jt.Network]:
    """The networks that are measured, by name."""
    return {
        "lenet": jt.networks.lenet(),
        "conv4": jt.networks.conv4(),
        "vgg11": jt.networks.vgg11((32, 32, 3), 10, width=0.5),
        "resnet20": jt.networks.resnet20(),
    }


def ticket(net: jt.Network, density: float) -> jt.Ticket:
    """A ticket at initialization that keeps the largest channels of each layer."""
    params, stats = net.init(jax.random.key(0))
    mask = jt.prune(
        params, score="magnitude", density=density, scope="layer", structure="channel", net=net,
        key=jax.random.key(0),
    )  # fmt: skip
    mask, params, stats = jax.tree.map(np.asarray, (mask, params, stats))
    return jt.Ticket(mask, params, stats, np.asarray(1, np.int32), np.asarray(0, np.int32)).masked()


def main(settings: Settings) -> None:
    """Measure each network at each density, and print a table."""
    rows: list[Row] = []
    for name, net in networks().items():
        for density in settings.densities:
            own = ticket(net, density)
            small = own.compact(net)
            here, before = small.seconds(settings.batch, repeats=settings.repeats)
            row: Row = {"network": name, "density": density}
            row |= {"weights": round(float(jnp.asarray(jt.density(own.mask))), 4)}
            row |= {"operations": round(small.flops[0] / small.flops[1], 4)}
            row |= {"seconds": here, "seconds_before": before, "time": round(here / before, 3)}
            rows.append(row)
            print(
                f"{name}, {density:.1%} of units: {row['weights']:.1%} of the weights, "
                f"{row['operations']:.1%} of the operations, {here / before:.0%} of the time "
                f"({1e3 * here:.2f} of {1e3 * before:.2f} ms)"
            )
    if settings.publish:
        summary = dataclasses.asdict(settings)
        publish("structured", rows, {**summary, "machine": dict(machine("jax", "flax"))})


if __name__ == "__main__":
    jt.compilation_cache()
    main(tyro.cli(Settings, description=__doc__))
