"""A small data set that several test files search and train on."""

import numpy as np

import jaxticket as jt


def noisy_patterns():
    """Three noisy 5x5 patterns: 240 examples to train on, 60 to test."""
    rng = np.random.default_rng(0)
    patterns = rng.integers(0, 200, (3, 5, 5))
    y = rng.choice(3, 300)
    x = np.clip(patterns[y] + rng.integers(-60, 60, (300, 5, 5)), 0, 255).astype(np.uint8)
    return jt.data.from_arrays(x[:240], y[:240], x[240:], y[240:], classes=3)
