"""Permutation alignment of two networks by weight matching.

Networks trained from different seeds may compute similar functions with their hidden units in a
different order. Comparing the barrier before and after alignment separates the two.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _show, _tree
from jaxticket._check import instance, whole
from jaxticket.connectivity import permutations as perms
from jaxticket.connectivity.permutations import Permutations, Places, Symmetry
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats

Weights = dict[str, np.ndarray]
# least gain, relative to |a| |b|: above the rounding of float64, below any real gain
_GAIN = 1e-12


@dataclass(frozen=True)
class Aligned:
    """A network whose hidden units are aligned with those of another network.

    Attributes:
      params: weights of the permuted network, on the host; its function is unchanged.
      stats: its statistics, likewise.
      permutations: the old index of the unit at each place, by name; `permute` moves masks alike.
      before: <a, b>, the inner product of all weights, before alignment.
      objectives: <a, b> at the start and after every round of the best search: it never decreases,
        so that |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b> never increases.
      converged: whether the last round changed nothing.
    """

    params: Params
    stats: Stats
    permutations: Permutations
    before: float
    objectives: tuple[float, ...]
    converged: bool

    __repr__ = _show.record

    @property
    def after(self) -> float:
        """<a, b> after alignment of b."""
        return self.objectives[-1]


def align(
    net: Network,
    a: tuple[Params, Stats],
    b: tuple[Params, Stats],
    *,
    key: Key | None = None,
    max_rounds: int = 100,
    restarts: int = 1,
    symmetry: Symmetry | None = None,
) -> Aligned:
    """Permute the hidden units of b to match those of a, by weight matching.

    Maximizes `sum_leaf <a_leaf, permuted b_leaf>` over one permutation per hidden layer (per
    residual stream in residual networks). With the others fixed, each permutation is a linear
    assignment problem, which is solved exactly; rounds over all permutations end when one changes
    nothing. This is a local optimum: finding the global one is NP-hard.

    Everything is computed on the host in float64. Statistics move with their units but are not part
    of the objective. On the line between aligned networks with BatchNorm, re-estimate the
    statistics.

    Args:
      net: a built-in network with norm="batch" or "none", or any network with `symmetry`.
      a: (params, stats) of the fixed network, pruned weights being 0.
      b: (params, stats) of the network to permute. Masks of b move with
        `permute(net, mask, aligned.permutations)`.
      key: draws the order of the layers in every round; None orders them from input to output.
      max_rounds: maximum number of rounds.
      restarts: number of searches, of which the best is returned: the first starts from b, the
        others from random permutations of b. More than 1 needs a key.
      symmetry: for networks whose symmetry is not known (see `permutations.symmetry`). It is first
        checked on b with random permutations.

    Returns:
      The permuted network, the permutations and the objectives.

    Raises:
      ValueError: for networks without a known symmetry, a `symmetry` under which the logits of b
        change, weights that are not finite, and trees that do not fit the network.

    Reference: Ainsworth, Hayase and Srinivasa 2023 ("Git Re-Basin"), section 3.2 and Algorithm 1;
      re-estimated statistics: Jordan et al. 2023 ("REPAIR").
    """
    max_rounds, restarts = whole("max_rounds", max_rounds, 1), whole("restarts", restarts, 1)
    instance("net", net, Network, "a network, such as jt.networks.lenet()")
    if restarts > 1 and key is None:
        raise ValueError(
            f"`restarts` is {restarts}, which needs random permutations; pass a `key`, such as "
            f"jax.random.key(0)"
        )
    full, units = perms.places(net, symmetry)
    for argument, (params, stats) in (("a", a), ("b", b)):
        perms.require_form(net, argument, params)
        perms.require_form(net, argument, stats)
    if symmetry is not None or json.loads(net.config)["constructor"].startswith("from_"):
        # written by the user
        _check_symmetry(net, b, symmetry)
    fixed, free = _weights("a", a[0]), _weights("b", b[0])
    results = []
    for restart in range(restarts):
        draw = None if key is None else perms.generator(key=stream(key, "align", restart))
        start = {name: np.arange(n) for name, n in units.items()}
        if draw is not None and restart:
            start = {name: draw.permutation(n) for name, n in units.items()}
        results.append(_ascent(full, fixed, free, start, draw, max_rounds))
    permutations, objectives, converged = max(results, key=lambda result: result[1][-1])
    return Aligned(
        perms.permute(net, b[0], permutations, symmetry=symmetry),
        perms.permute(net, b[1], permutations, symmetry=symmetry),
        permutations,
        _inner(fixed, free),
        tuple(objectives),
        converged,
    )


def _weights(argument: str, params: Params) -> Weights:
    weights = {path: np.asarray(x).astype(np.float64) for path, x in _tree.leaves(params).items()}
    odd = [path for path, x in weights.items() if not np.all(np.isfinite(x))]
    if odd:
        raise ValueError(
            f"`{argument}` has weights that are not finite, in {odd[:3]}; a diverged network "
            f"cannot be aligned: leave out its seed"
        )
    return weights


def _inner(a: Weights, b: Weights) -> float:
    return sum(float(np.vdot(a[path], b[path])) for path in a)


def _ascent(
    full: dict[str, tuple[Places, ...]],
    a: Weights,
    b: Weights,
    start: Permutations,
    draw: np.random.Generator | None,
    max_rounds: int,
) -> tuple[Permutations, list[float], bool]:
    """Run coordinate ascent; return the permutations, the objective by round, and convergence."""
    # importing it takes half a second, which only alignment needs
    from scipy.optimize import linear_sum_assignment

    b = {path: perms.moved(x, full[path], start) for path, x in b.items()}
    permutations = dict(start)
    leaves_of = {
        name: [path for path in a if any(name in along for along in full[path])] for name in start
    }
    scale = np.sqrt(_inner(a, a) * _inner(b, b))
    objectives = [_inner(a, b)]
    for _ in range(max_rounds):
        changed = False
        names = list(start)
        for name in names if draw is None else draw.permutation(names).tolist():
            leaves = leaves_of[name]
            _, order = linear_sum_assignment(_similarity(full, a, b, name, leaves), maximize=True)
            new = {path: perms.moved(b[path], full[path], {name: order}) for path in leaves}
            # the objective and not the assignment's value: they differ where both axes of a leaf
            # have the name, and interchangeable units (such as dead ones) keep their places
            gain = sum(float(np.vdot(a[path], new[path] - b[path])) for path in leaves)
            if gain > _GAIN * scale:
                b |= new
                permutations[name] = permutations[name][order]
                changed = True
        objectives.append(_inner(a, b))
        if not changed:
            return permutations, objectives, True
    return permutations, objectives, False


def _similarity(
    full: dict[str, tuple[Places, ...]], a: Weights, b: Weights, name: str, leaves: list[str]
) -> np.ndarray:
    """Compute the inner products of all weights, in and out, of the units of a with those of b."""

    def rows(x: np.ndarray, axis: int, at: np.ndarray) -> np.ndarray:
        # [units, copies, all other axes]
        return np.moveaxis(x, axis, 0)[at].reshape(len(at), -1)

    return np.sum(
        [
            rows(a[path], axis, along[name]) @ rows(b[path], axis, along[name]).T
            for path in leaves
            for axis, along in enumerate(full[path])
            if name in along
        ],
        axis=0,
    )


def _check_symmetry(net: Network, b: tuple[Params, Stats], symmetry: Symmetry | None) -> None:
    """Check that random permutations do not change the logits."""
    x = net.noise(jax.random.key(0), 4)
    drawn = perms.random_permutations(net, key=jax.random.key(0), symmetry=symmetry)
    permuted = [perms.permute(net, tree, drawn, symmetry=symmetry) for tree in b]
    forward = jax.jit(lambda params, stats: net.apply(params, stats, x, train=False)[0])
    before, after = (
        np.asarray(forward(*jax.tree.map(jnp.asarray, tuple(pair)))) for pair in (b, permuted)
    )
    change, size = float(np.abs(after - before).max()), float(np.abs(before).max())
    if not change <= 1e-3 * size:
        raise ValueError(
            f"`symmetry` is not one of this network: random permutations change its logits, which "
            f"are up to {size:.2g}, by {change:.2g}; name each permutation on every axis that it "
            f"moves: kernel, bias, normalization, statistics and the inputs of the next layers"
        )
