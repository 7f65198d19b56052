"""Teachers of weights: which one each replica has, and what it answers (`Training.teacher`)."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket.data.arrays import Data
from jaxticket.data.streaming import Stream
from jaxticket.engine.accumulation import in_parts
from jaxticket.engine.learner import Networks
from jaxticket.engine.metrics import computed, outputs
from jaxticket.random import root_keys
from jaxticket.settings import Training
from jaxticket.typing import Array, Given, Network


def given_networks(given: Given, keys: np.ndarray) -> Networks | None:
    """The given weights of each root key, [replica, ...]; None where some are for other seeds."""
    own = given.params, given.stats
    if given.seeds is None:
        return jax.tree.map(lambda x: np.broadcast_to(x, (len(keys), *x.shape)).copy(), own)
    known = np.asarray(jax.random.key_data(root_keys(given.seeds)))
    same = (keys[:, None] == known[None]).all(axis=-1)
    return _tree.rows(own, same.argmax(axis=1)) if same.any(axis=1).all() else None


def teachers(training: Training, keys: np.ndarray) -> Networks | None:
    """The teacher of each root key, host arrays [replica, ...]; None without a teacher.

    Raises:
      ValueError: where its weights are for other seeds.
    """
    if training.teacher is None:
        return None
    found = given_networks(training.teacher.given, keys)
    if found is None:
        raise _other_seeds(training.teacher.given)
    return found


def answers(training: Training, teacher: Networks | None, x: Array) -> Array | None:
    """What the teacher of a replica answers, logits float32 [batch, classes]; None without one.

    Args:
      training: the settings, with the form of the teacher.
      teacher: its weights and statistics.
      x: normalized examples of this device, as the student sees them.
    """
    if training.teacher is None:
        return None
    if teacher is None:
        raise ValueError("`plan` has no `teacher`, which the training needs; make it by job_plan")
    net, (params, stats) = training.teacher.net, teacher
    weights = computed(net, params, training.compute_dtype)

    def of(first: Array | int, x: Array) -> Array:
        del first
        return net.apply(weights, stats, x, train=False)[0].astype(jnp.float32)

    if training.accumulate == 1:
        return of(0, x)
    return in_parts(of, training.accumulate, x)


def check(training: Training, net: Network, data: Data | Stream, seeds: Sequence[int]) -> None:
    """Raise where a teacher does not fit the student, its data or its seeds.

    Args:
      training, net, data: what is trained on what, and how.
      seeds: of the students; empty where they are not known yet.
    """
    if training.teacher is None:
        return
    teacher, given = training.teacher.net, training.teacher.given
    if (tuple(teacher.shape), teacher.dtype) != (tuple(net.shape), net.dtype):
        raise ValueError(
            f"`teacher` takes examples of shape {tuple(teacher.shape)} ({teacher.dtype}) but `net` "
            f"those of `data` {data.name!r}, {tuple(net.shape)} ({net.dtype}); train the teacher "
            f"on the same data"
        )
    if outputs(teacher) != outputs(net):
        raise ValueError(
            f"`teacher` gives logits {list(outputs(teacher))} for an example but `net` "
            f"{list(outputs(net))}; use a teacher with the same classes"
        )
    if given.seeds is not None and not set(seeds) <= set(given.seeds):
        raise _other_seeds(given)


def _other_seeds(given: Given) -> ValueError:
    first = min(given.seeds or (0,))
    return ValueError(
        f"`teacher` has weights for the seeds {given.seeds} alone; use some of these seeds, or one "
        f"teacher for all, such as jt.Teacher(runs.trained_network(seed={first}))"
    )
