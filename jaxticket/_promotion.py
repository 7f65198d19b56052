"""How types and ranks are promoted in code of other libraries."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import jax


@contextlib.contextmanager
def relaxed_types() -> Iterator[None]:
    """Promote types and ranks as NumPy does, whatever was chosen for this process.

    Code of other libraries, such as optax, counts on that.
    """
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield
