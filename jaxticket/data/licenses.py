"""Licences of data sets whose own files state none."""

from __future__ import annotations

from typing import Any

LICENCES = {
    "mnist": "CC BY-SA 3.0, as its mirrors state",
    "fashion_mnist": "MIT",
    "cifar10": "not stated by the source",
    "cifar100": "not stated by the source",
    "svhn_cropped": "non-commercial use only, as its page says",
    "imagenet2012": "non-commercial research and education, by ImageNet's terms of access",
    "places365_small": "non-commercial research and education, by the terms of its page",
}
"""By the names of TensorFlow Datasets."""


def licensed(about: dict[str, Any]) -> dict[str, Any]:
    """What is known of a set of TensorFlow Datasets, with the licence that it or else `LICENCES`
    states.
    """
    known = LICENCES.get(about["builder"])
    return about if known is None else {"licence": known, **about}
