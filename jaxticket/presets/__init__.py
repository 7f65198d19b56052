"""Presets: network, data, training and pruning of every setting of the sources, with its numbers.

    p = jt.preset("resnet20-cifar10")
    data = p.load()
    runs = jt.find_tickets(p.net(data), data, p.training, p.pruning, seeds=range(p.replicates))

Sources that find tickets otherwise name the function, which takes what their presets hold:

    p = jt.preset("resnet20-cifar10-cts")
    runs = jt.search(p.net(data), data, p.training, p.search, **p.arguments)
    p = jt.preset("vgg16-cifar10-snip")
    runs = jt.prune_at(p.net(data), data, p.training, **p.arguments)
    p = jt.preset("wrn22_2-cifar10-rigl")
    runs = jt.sparse_train(p.net(data), data, p.training, **p.arguments)

Names are "NETWORK-DATA" for the settings of Frankle's thesis (with "-low" and "-warmup", and
"-early" for chapter 5), and "NETWORK-DATA-SOURCE" for others: "-one_ticket", "-kd_lts", "-cts",
"-openlth", "-lth2019", "-snip", "-grasp", "-synflow", "-rigl". Times are in steps; what is printed
in epochs counts the last partial batch of an epoch (391 steps for CIFAR-10 at batch 128), but
for ImageNet at batch 1,024, where 1,251 steps are printed.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from jaxticket import _check, results
from jaxticket.presets.files import PAPERS, read
from jaxticket.presets.schema import Preset as Preset
from jaxticket.settings import Training
from jaxticket.typing import Network

PRESETS: dict[str, Preset] = {name: p for paper in PAPERS for name, p in read(paper).items()}
"""Every preset by its name."""
WATCHED = (
    "eval_every", "eval_batch_size", "eval_train_examples", "metrics", "monitors", "compute_dtype",
    "precision",
)  # fmt: skip
"""Fields of `Training` that change how training is evaluated and computed, not what is trained."""
_CALLED = {"svhn_cropped": "svhn", "imagenet2012": "imagenet", "places365_small": "places365"}


def preset_of(
    net: Network | Mapping[str, object], data: str, training: Training | Mapping[str, object]
) -> str | None:
    """Find the presets with this network, data and training.

    Settings of evaluation and precision make no difference.

    Args:
      net: of a run, or as ticket files record it.
      data: the name of its data, as a preset or as the data set calls them.
      training: of a run, or as ticket files record it.

    Returns:
      Their names, joined by ", "; None if there is no such preset.
    """
    config = json.loads(net.config) if isinstance(net, Network) else dict(net)
    trained = _trained(training)
    names = [
        name
        for name, p in PRESETS.items()
        if p.data == _CALLED.get(data, data)
        and _trained(p.training) == trained
        and json.loads(p.net().config) == config
    ]
    return ", ".join(names) or None


def _trained(training: Training | Mapping[str, object]) -> dict[str, object]:
    """Select the settings that training depends on, as JSON values."""
    plain = training
    if isinstance(plain, Training):
        plain = json.loads(json.dumps(results.plain(plain)))
    return {name: value for name, value in plain.items() if name not in WATCHED}


def preset(name: str, **changes: object) -> Preset:
    """Look up a preset by name, with some fields changed.

    Args:
      name: a name in `jt.PRESETS`; `python -m jaxticket presets` lists them.
      **changes: fields of the preset, of its training or pruning, or options of its network, such
        as `steps=1000, levels=3, width=0.5`; see `Preset.replace`.

    Raises:
      ValueError: if a name is unknown.

    >>> preset("vgg16-cifar10-low", rewind=100).pruning
    Pruning(levels=13, rewind=100)
    """
    if not isinstance(name, str) or name not in PRESETS:
        raise ValueError(f"`name` is not a preset: {name!r}; {_check.nearest(name, PRESETS)}")
    return PRESETS[name].replace(**changes)


__all__ = [
    "PRESETS",
    "Preset",
    "preset",
    "preset_of",
]


def __dir__() -> list[str]:
    return __all__
