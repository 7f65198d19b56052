"""Permutation alignment: one network's hidden units in the places of another's, by weight matching.

Two networks trained from different seeds may compute much the same with their units in other
places. The barrier between them tells of that before alignment, and of what is left after it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from jaxticket import _tree
from jaxticket._check import instance, whole
from jaxticket.connectivity import permutations as perms
from jaxticket.connectivity.permutations import Permutations, Places, Symmetry
from jaxticket.random import stream
from jaxticket.typing import Key, Network, Params, Stats

# the share of |a| |b| that counts as a gain: above the rounding of float64, below all else
_GAIN = 1e-12


@dataclass(frozen=True)
class Aligned:
    """A network with its units in the places of another's.

    Attributes:
      params, stats: of the moved network, on the host; its function is what it was.
      permutations: by name, which of its units came to each place; `permute` moves masks alike.
      before: <a, b>, the inner product of all weights, with b as it was given.
      objectives: the same at the start and after every round of the search that was chosen: it
        never falls, so that |a - b|^2 = |a|^2 + |b|^2 - 2 <a, b> never grows.
      converged: whether the last round changed nothing.
    """

    params: Params
    stats: Stats
    permutations: Permutations
    before: float
    objectives: tuple[float, ...]
    converged: bool

    @property
    def after(self) -> float:
        """<a, b> with b aligned."""
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
    """Moves the hidden units of b to where they match those of a best, by their weights alone.

    Maximises `sum_leaf <a_leaf, b_leaf moved>` over one permutation per hidden layer (per stream
    in residual networks). One permutation at a time, the others held, is a linear assignment, which
    is solved exactly; rounds over all of them go on until one changes nothing. That is a local
    optimum: finding the best of all is NP-hard.

    Everything is computed on the host in float64. Statistics follow their units but do not count.
    Between aligned networks with BatchNorm, statistics want re-estimating on the line.

    Args:
      net: a built-in network with norm="batch" or "none", or any one with `symmetry`.
      a, b: (params, stats) of one network each, pruned weights being 0. Masks of b move by
        `permute(net, mask, aligned.permutations)`.
      key: draws the order of the layers in every round; None takes them from input to output.
      max_rounds: rounds at most.
      restarts: how often to search, the best result being kept: once from b as it is, then from
        random permutations of it. Above 1 it needs a key.
      symmetry: of networks whose own is not known (see `permutations.symmetry`). It is tried out on
        b with random permutations first.

    Returns:
      b moved, the permutations and the objectives.

    Raises:
      ValueError: for networks without a known symmetry, a `symmetry` under which the logits of b
        change, weights that are not finite, trees that do not fit the network.

    Reference: Ainsworth, Hayase and Srinivasa 2023 ("Git Re-Basin"), section 3.2 and Algorithm 1;
      re-estimated statistics: Jordan et al. 2023 ("REPAIR").
    """
    max_rounds, restarts = whole("max_rounds", max_rounds, 1), whole("restarts", restarts, 1)
    instance("net", net, Network, "a network, such as jt.networks.lenet()")
    if restarts > 1 and key is None:
        raise ValueError(
            f"`restarts` of {restarts} start from random permutations: pass a `key`, such as "
            f"jax.random.key(0)"
        )
    full, units = perms.places(net, symmetry)
    for argument, (params, stats) in (("a", a), ("b", b)):
        perms.require_form(net, argument, params)
        perms.require_form(net, argument, stats)
    if symmetry is not None or json.loads(net.config)["constructor"].startswith("from_"):
        # written by hand
        _try_out(net, b, symmetry)
    ours, theirs = _weights("a", a[0]), _weights("b", b[0])
    best = None
    for restart in range(restarts):
        draw = None if key is None else perms.generator(key=stream(key, "align", restart))
        start = {name: np.arange(n) for name, n in units.items()}
        if draw is not None and restart:
            start = {name: draw.permutation(n) for name, n in units.items()}
        found = _climb(full, ours, theirs, start, draw, max_rounds)
        if best is None or found[1][-1] > best[1][-1]:
            best = found
    assert best is not None
    permutations, objectives, converged = best
    return Aligned(
        perms.permute(net, b[0], permutations, symmetry=symmetry),
        perms.permute(net, b[1], permutations, symmetry=symmetry),
        permutations,
        _inner(ours, theirs),
        tuple(objectives),
        converged,
    )


Weights = dict[str, np.ndarray]


def _weights(argument: str, params: Params) -> Weights:
    found = {
        path: np.asarray(x).astype(np.float64)
        for path, x in zip(_tree.paths(params), jax.tree.leaves(params), strict=True)
    }
    odd = [path for path, x in found.items() if not np.all(np.isfinite(x))]
    if odd:
        raise ValueError(
            f"`{argument}` has weights that are not finite, in {odd[:3]}; a network that diverged "
            f"cannot be aligned: leave out its seed"
        )
    return found


def _inner(a: Weights, b: Weights) -> float:
    return sum(float(np.vdot(a[path], b[path])) for path in a)


def _climb(
    full: dict[str, tuple[Places, ...]],
    a: Weights,
    b: Weights,
    start: Permutations,
    draw: np.random.Generator | None,
    max_rounds: int,
) -> tuple[Permutations, list[float], bool]:
    """Coordinate ascent: the permutations, the objective after every round, whether it ended."""
    # takes half a second, which only alignment needs
    from scipy.optimize import linear_sum_assignment

    b = {path: perms.moved(x, full[path], start) for path, x in b.items()}
    permutations = dict(start)
    carriers = {
        name: [path for path in a if any(name in along for along in full[path])] for name in start
    }
    scale = np.sqrt(_inner(a, a) * _inner(b, b))
    objectives = [_inner(a, b)]
    for _ in range(max_rounds):
        changed = False
        names = list(start)
        for name in names if draw is None else draw.permutation(names).tolist():
            leaves = carriers[name]
            _, order = linear_sum_assignment(_similarity(full, a, b, name, leaves), maximize=True)
            new = {path: perms.moved(b[path], full[path], {name: order}) for path in leaves}
            # the sum itself and not the assignment's value: they differ where both axes of a leaf
            # carry the name, and equally good units (dead ones, say) stay where they are
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
    """[units, units]: the inner product of all weights of each unit of a with those of each of b,
    incoming and outgoing.
    """

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


def _try_out(net: Network, b: tuple[Params, Stats], symmetry: Symmetry | None) -> None:
    """Raises if random permutations change the logits: the symmetry was written by hand."""
    x = net.noise(jax.random.key(0), 4)
    drawn = perms.random_permutations(net, key=jax.random.key(0), symmetry=symmetry)
    other = [perms.permute(net, tree, drawn, symmetry=symmetry) for tree in b]
    forward = jax.jit(lambda params, stats: net.apply(params, stats, x, train=False)[0])
    before, after = (
        np.asarray(forward(*jax.tree.map(jnp.asarray, tuple(pair)))) for pair in (b, other)
    )
    change, size = float(np.abs(after - before).max()), float(np.abs(before).max())
    if not change <= 1e-3 * size:
        raise ValueError(
            f"`symmetry` is none of this network: random permutations change its logits by "
            f"{change:.2g}, where they are up to {size:.2g}; every axis of a layer that carries a "
            f"permutation must name it: kernel, bias, normalisation and statistics, and the inputs "
            f"of what follows"
        )
