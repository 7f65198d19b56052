"""Scikit-learn's handwritten digits: a small real data set that needs no download."""

from __future__ import annotations

import dataclasses

import numpy as np

from jaxticket._check import seed as seed_of
from jaxticket.data.arrays import Data
from jaxticket.data.conversion import from_arrays
from jaxticket.data.sampling import permutation


def digits(*, seed: int = 0) -> Data:
    """The 1,797 handwritten digits of scikit-learn: 8x8x1 images, uint8 from 0 to 16, 10 classes.

    They come without a division: a seeded permutation makes 1,437 training and 360 test examples
    (80 and 20 percent).

    Args:
      seed: seed of the permutation.

    Reference: scikit-learn's `load_digits`; the test part of Alpaydin and Kaynak, "Optical
    recognition of handwritten digits", UCI repository (1998).

    >>> data = digits()
    >>> data.shape, len(data.train), len(data.test)
    ((8, 8, 1), 1437, 360)
    """
    # imported here because it takes a second, which users of other data sets should not pay
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    x = np.asarray(images).reshape(-1, 8, 8, 1).astype(np.uint8)
    y = np.asarray(labels).astype(np.int32)
    order = permutation(len(y), seed=seed, stream="digits")
    train, test = order[360:], order[:360]
    data = from_arrays(x[train], y[train], x[test], y[test], classes=10, name="digits")
    about = {
        "source": "scikit-learn load_digits",
        "note": "test part of the UCI optical recognition of handwritten digits",
        "licence": "CC BY 4.0 (UCI repository)",
        "seed": seed_of("seed", seed),
    }
    return dataclasses.replace(data, about=about)
