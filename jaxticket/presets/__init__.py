"""Presets: network, data, training and pruning of every setting of the sources, with its numbers.

    p = jt.preset("resnet20-cifar10")
    data = p.load()
    runs = jt.find_tickets(p.net(data), data, p.training, p.pruning, seeds=range(p.replicates))

Names are "NETWORK-DATA" for the settings of Frankle's thesis (with "-low" and "-warmup", and
"-early" for chapter 5), and "NETWORK-DATA-SOURCE" for others: "-one_ticket", "-kd_lts", "-cts",
"-openlth", "-lth2019", "-snip", "-grasp", "-synflow", "-rigl". Times are in steps; what is printed
in epochs counts the last partial batch of an epoch (391 steps for CIFAR-10 at batch 128), but
for ImageNet at batch 1,024, where 1,251 steps are printed.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxticket import _check
from jaxticket.presets import at_init, cts, kd_lts, lth, one_ticket, thesis
from jaxticket.presets.schema import Preset as Preset
from jaxticket.settings import Training
from jaxticket.typing import Network

PRESETS: dict[str, Preset] = {
    **thesis.PRESETS,
    **lth.PRESETS,
    **one_ticket.PRESETS,
    **kd_lts.PRESETS,
    **cts.PRESETS,
    **at_init.PRESETS,
}
"""Every preset by its name."""
WATCHED = (
    "eval_every", "eval_batch_size", "eval_train_examples", "compute_dtype", "precision"
)  # fmt: skip
"""Fields of `Training` that say how training is watched and computed, not what is trained."""


def preset_of(net: Network, data: str, training: Training) -> str | None:
    """The names of the presets with this network, data and training, joined by ", "; None where
    there is none. How it is evaluated and at which precision makes no difference.

    Args:
      net, training: of a run.
      data: the name of its data, as a preset or as the data set calls them.
    """
    called = {"svhn_cropped": "svhn", "imagenet2012": "imagenet", "places365_small": "places365"}
    trained = _trained(training)
    names = [
        name
        for name, own in PRESETS.items()
        if own.data == called.get(data, data)
        and _trained(own.training) == trained
        and own.net() == net
    ]
    return ", ".join(names) or None


def _trained(training: Training) -> Training:
    usual = {f.name: f.default for f in dataclasses.fields(Training) if f.name in WATCHED}
    return training.replace(**usual)


def preset(name: str, **changes: Any) -> Preset:
    """A preset by name, with some fields changed.

    Args:
      name: a name in `jt.PRESETS`; `python -m jaxticket presets` lists them.
      **changes: fields of the preset, of its training or pruning, or options of its network, such
        as `steps=1000, levels=3, width=0.5`; see `Preset.replace`.

    Raises:
      ValueError: if a name is unknown.

    >>> preset("vgg16-cifar10-low", rewind=100).pruning
    Pruning(levels=13, fraction=0.2, one_shot=False, score='magnitude', ...rewind=100, ...)
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"`name` is no preset: {name!r}; {_check.nearest(name, PRESETS)}")
    return PRESETS[name].replace(**changes)
