"""Two classes that a few steps tell apart, for tests of what happens around a training."""

import numpy as np

import jaxticket as jt

RNG = np.random.default_rng(0)
Y = RNG.integers(0, 2, 60)
X = (RNG.integers(0, 99, (60, 3, 3)) + 100 * Y[:, None, None]).astype(np.uint8)
DATA = jt.data.from_arrays(X[:40], Y[:40], X[40:], Y[40:])
NET = jt.networks.lenet(DATA.shape, 2, widths=(4,))
TRAINING = jt.Training(steps=8, batch_size=8, eval_every=4)
