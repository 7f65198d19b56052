r"""How parameters become a mask: sigmoid, Bernoulli sample, concrete sample, top-k, rounding.

A relaxation works on one score array per prunable leaf; trees of scores and of masks have None at
the others. `soft` is what multiplies the weights in a
forward pass, and what gradients flow through; `expected` is the share of each entry that counts
towards the density; `rank` is what the final selection ranks.
"""

from __future__ import annotations

import abc
import dataclasses
import itertools
import math
from typing import ClassVar

import jax
import jax.numpy as jnp

from jaxticket import _show, _tree, masks
from jaxticket._check import flag, number, one_of, settle, share, whole
from jaxticket.pruning.keep import keep_top
from jaxticket.random import stream, uniform
from jaxticket.sparsify.learned.schedules import Schedule, as_schedule
from jaxticket.typing import Array, Key, Mask, Params

EDGE = 1e-10
"""Uniform numbers of concrete samples stay so far from 0 and 1."""


@dataclasses.dataclass(frozen=True)
class Relaxation(abc.ABC):
    """What relaxations have in common; `leaf` and `expected_leaf` are what a new one writes."""

    kind: ClassVar[str]
    # whether the sum of the expected mask is an expected number of ones
    counts: ClassVar[bool] = True

    __repr__ = _show.code

    @property
    def height(self) -> float:
        """Give the factor of a kept weight once the mask is hard.

        It is the height of the step that `leaf` becomes.
        """
        return 1.0

    def __init_subclass__(cls) -> None:
        cls.kind = cls.__name__.lower()

    @abc.abstractmethod
    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """Scores at the start, of one leaf."""

    @abc.abstractmethod
    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """The soft mask of one leaf, in [0, 1]."""

    @abc.abstractmethod
    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """The expected mask of one leaf."""

    def log_expected_leaf(self, scores: Array, done: Array) -> Array:
        """The logarithm of the expected mask of one leaf."""
        return jnp.log(self.expected_leaf(scores, done))

    def rank(self, scores: Array) -> Array:
        """What the final selection ranks, of one leaf; higher stays."""
        return scores

    def project(self, scores: Array) -> Array:
        """Brings scores back into their range after an update, of one leaf."""
        return scores

    def lasting(self, scores: Params, live: Mask, keep: Array, done: Array) -> Mask:
        """The entries that take part in this step and may take part in later ones."""
        del scores, keep, done
        return live

    def restarted(self, scores: Array) -> Array:
        """Scores at the start of a new round, of one leaf."""
        return scores

    def soft(self, scores: Params, live: Mask, keep: Array, done: Array, *, key: Key) -> Params:
        """The soft mask of all leaves that can be pruned: 0 where `live` is False.

        Args:
          scores: tree like the mask.
          live: entries that take part.
          keep: entries to keep, for relaxations that count.
          done: share of the search that is done.
          key: for samples; each leaf draws its own.
        """
        del keep
        # numbered over all leaves of the params
        number = itertools.count()

        def one(s: Array | None, a: Array | None) -> Array | None:
            own = stream(key, "leaf", jnp.int32(next(number)))
            if s is None or a is None:
                return None
            return jnp.where(a, self.leaf(s, done, key=own), 0)

        return jax.tree.map(one, scores, live, is_leaf=_tree.is_none)

    def expected(self, scores: Params, live: Mask, done: Array) -> Params:
        """The expected mask of all leaves that can be pruned."""
        return jax.tree.map(lambda s, a: jnp.where(a, self.expected_leaf(s, done), 0), scores, live)


def _straight(hard: Array, through: Array) -> Array:
    """The value of `hard` with the gradient of `through`."""
    return through + jax.lax.stop_gradient(hard - through)


def _logit(density: Array) -> Array:
    # a density of 1 has no logit; 1 - 2**-24 is the float32 below 1
    density = jnp.clip(density, 1e-7, 1 - 2.0**-24)
    return jnp.log(density) - jnp.log1p(-density)


@dataclasses.dataclass(frozen=True)
class Sigmoid(Relaxation):
    """Sigmoid of growing slope, `sigmoid(beta * s)`.

    It becomes a step as beta grows: `|sigmoid(beta s) - [s > 0]| <= exp(-beta |s|)`.

    Attributes:
      beta: how steep.
      start: the score that all entries start at.
      scaled: divide by `sigmoid(start)`, so that the first forward pass is the dense one's (as the
        authors' code does; the paper does not). The mask becomes `[s > 0] / sigmoid(start)` in the
        end, and tickets keep that factor (`Method.scaled_tickets`), as in the code.

    Reference: Savarese et al. 2020, section 3.
    """

    beta: Schedule
    start: float = 0.0
    scaled: bool = False

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, as_schedule, "beta")
        settle(self, number, "start")
        settle(self, flag, "scaled")

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """`start` everywhere."""
        del density, key
        return jnp.full(shape, self.start, jnp.float32)

    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """`sigmoid(beta * s)`, over `sigmoid(start)` if scaled."""
        del key
        return self.expected_leaf(scores, done) * self.height

    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """`sigmoid(beta * s)`."""
        return jax.nn.sigmoid(self.beta(done) * self.seen(scores))

    def log_expected_leaf(self, scores: Array, done: Array) -> Array:
        """`log sigmoid(beta * s)`, about `beta * s` where that is so low that the sigmoid is 0."""
        return jax.nn.log_sigmoid(self.beta(done) * self.seen(scores))

    def seen(self, scores: Array) -> Array:
        """The scores of a leaf as everything else sees them."""
        return scores

    def restarted(self, scores: Array) -> Array:
        """Start the next round at `min(beta * s, s0)`.

        Entries below 0 keep their logit and stay out, all others restart.
        """
        return jnp.minimum(jnp.float32(self.beta.last) * scores, self.start)

    @property
    def height(self) -> float:
        """`1 / sigmoid(start)` if scaled, 2 for a start of 0."""
        return 1 + math.exp(-self.start) if self.scaled else 1.0


@dataclasses.dataclass(frozen=True)
class TopSigmoid(Sigmoid):
    """Sigmoid of the largest scores: `sigmoid(beta * s)` where s is among the largest, else 0.

    Scores of all layers are ranked together; the gradient is that of `sigmoid(beta * s)`
    everywhere, so that pruned entries can return.

    In epoch e of `epochs`, e = 1, 2, ..., `round(density ** (e / epochs) * P)` entries stay: their
    number falls exponentially to the wanted one.

    Attributes:
      beta, start, scaled: as of `Sigmoid`. Around `start` scores differ by up to 1e-6, so that
        chance decides between them before gradients do.
      epochs: of the search.
      normalized: put `(s - mean) / (std + 1e-5)` of each layer (over all its entries, frozen ones
        too) in the place of s, wherever s counts: in the soft mask, which gradients go through, in
        ranking and freezing. The scale 1 and the shift 0 of this batch normalisation are not
        learned, since scores are arrays of the weights' shapes: layers have scores of one size, and
        differ in the shape of their distribution. The 1e-5 keeps what breaks ties at the start,
        which is 3e-7 wide, below 0.05; a `start` other than 0 would be taken out again.
      cumulative: what has fallen out never comes back (nor does its score move any more).

    Reference: KD-LTS, Eqs. 9 to 12, whose normalised scores have no printed formula. Its Algorithm
      1 prints the selection as `r <- r * [p not in the bottom]`, which reads as cumulative, while
      section 4.3 says that "pruning decisions are made at each iteration, considering the network
      as a whole" and lets gradients pass the selection so that scores recover, as Edge-Popup does:
      hence the default, and `cumulative` for the other reading.
    """

    epochs: int = 150
    normalized: bool = False
    cumulative: bool = False

    __repr__ = _show.code

    def __post_init__(self) -> None:
        super().__post_init__()
        settle(self, whole, "epochs", low=1)
        settle(self, flag, "normalized", "cumulative")
        if self.normalized and self.start:
            raise ValueError(
                f"`start` {self.start!r} is taken out by normalized=True; leave one of them out"
            )

    def seen(self, scores: Array) -> Array:
        """The scores of a leaf, standardised where that is wanted."""
        if not self.normalized:
            return scores
        apart = scores - jnp.mean(scores)
        # 1e-20: the root's own gradient is infinite at 0
        return apart / (jnp.sqrt(jnp.mean(apart**2) + 1e-20) + 1e-5)

    def rank(self, scores: Array) -> Array:
        """Give the scores s as they are."""
        return self.seen(scores)

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """`start`, but for what breaks ties."""
        del density
        aside = uniform(key, math.prod(shape)).reshape(shape) - 0.5
        return self.start + 1e-6 * aside

    def soft(self, scores: Params, live: Mask, keep: Array, done: Array, *, key: Key) -> Params:
        """The soft mask of all leaves that can be pruned."""
        through = super().soft(scores, live, keep, done, key=key)
        top = self._top(scores, live, keep, done)
        return jax.tree.map(lambda t, m: _straight(jnp.where(t, m, 0), m), top, through)

    def lasting(self, scores: Params, live: Mask, keep: Array, done: Array) -> Mask:
        """All that take part so far, or where that is cumulative those that this step uses."""
        if not self.cumulative:
            return live
        return self._top(scores, live, keep, done)

    def _top(self, scores: Params, live: Mask, keep: Array, done: Array) -> Mask:
        ranked = jax.lax.stop_gradient(jax.tree.map(self.rank, scores))
        return keep_top(ranked, live, self.wanted(live, keep, done))

    def wanted(self, live: Mask, keep: Array, done: Array) -> Array:
        """How many entries the forward pass uses, int32."""
        size = masks.prunable_size(live)
        least = jnp.sum(keep)
        # `done` is a quotient of whole numbers, which may lie a bit below its epoch
        epoch = jnp.minimum(jnp.floor(done * self.epochs + 1e-4) + 1, self.epochs)
        share = (least.astype(jnp.float32) / size) ** (epoch / self.epochs)
        wanted = jnp.maximum(jnp.round(share * size).astype(jnp.int32), least)
        return jnp.where(epoch == self.epochs, least, wanted)


@dataclasses.dataclass(frozen=True)
class Bernoulli(Relaxation):
    """A sample of Bernoulli(sigmoid(v)) in every forward pass, with the gradient of sigmoid(v).

    Attributes:
      keep: the probability that all entries start with; None for the density.

    Reference: Zhou et al. 2019, section 5.
    """

    keep: float | None = 0.5

    __repr__ = _show.code

    def __post_init__(self) -> None:
        if self.keep is not None:
            settle(self, share, "keep", one=False)

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """The logit of `keep` everywhere."""
        del key
        start = density if self.keep is None else jnp.float32(self.keep)
        return jnp.broadcast_to(_logit(start), shape).astype(jnp.float32)

    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """A sample, 0 or 1."""
        p = self.expected_leaf(scores, done)
        drawn = uniform(key, p.size).reshape(p.shape)
        return _straight((drawn < p).astype(p.dtype), p)

    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """`sigmoid(v)`."""
        del done
        return jax.nn.sigmoid(scores)


@dataclasses.dataclass(frozen=True)
class Concrete(Relaxation):
    """A binary concrete sample in every forward pass: `sigmoid(logit(u) / T + a)`, u uniform.

    It lies in (0, 1), and no gradient is straightened; it is above 1/2 with probability
    `sigmoid(a * T)`. All entries start at the logit of the density, and `sigmoid(a)` counts towards
    it (which is not the sample's mean; so does the authors' code).

    Attributes:
      temperature: T.

    Reference: Maddison et al. 2017; Arora and Teuscher 2025 and its code.
    """

    temperature: Schedule

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, as_schedule, "temperature")

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """The logit of the density everywhere."""
        del key
        return jnp.broadcast_to(_logit(density), shape).astype(jnp.float32)

    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """A sample in (0, 1)."""
        u = uniform(key, scores.size).reshape(scores.shape)
        # one logarithm: 1 - u and the quotient are exact to their last bit. 1 - 1e-10 is 1 in
        # float32, so the upper edge is kept by the other number
        noise = jnp.log(jnp.maximum(u, EDGE) / jnp.maximum(1 - u, EDGE))
        return jax.nn.sigmoid(noise / self.temperature(done) + scores)

    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """`sigmoid(a)`."""
        del done
        return jax.nn.sigmoid(scores)


@dataclasses.dataclass(frozen=True)
class Rounded(Relaxation):
    """`p > 1/2` with p in [0, 1], with the gradient of p.

    All p start uniform in [0, 1] and are clipped into it after every update.

    Reference: Sreenivasan et al. 2022, Algorithm 1.
    """

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """Uniform in [0, 1]."""
        del density
        return jax.random.uniform(key, (math.prod(shape),)).reshape(shape)

    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """1 where p > 1/2, else 0."""
        del done, key
        return _straight((scores > 0.5).astype(scores.dtype), scores)

    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """Give p itself."""
        del done
        return scores

    def rank(self, scores: Array) -> Array:
        """p, spread out at both ends: where many are exactly 1 (or 0), chance decides between them.

        By index, the layers that come last would lose all they have.
        """
        aside = 1e-6 * (1 + uniform(jax.random.key(0), scores.size).reshape(scores.shape))
        return jnp.where(scores > 0.5, 1 / (1 - scores + aside), -1 / (scores + aside))

    def project(self, scores: Array) -> Array:
        """Clipped to [0, 1]."""
        return jnp.clip(scores, 0, 1)


@dataclasses.dataclass(frozen=True)
class TopK(Relaxation):
    """Exactly k ones: the entries with the largest |s|, with the gradient of |s|.

    Scores start uniform in `+-1 / sqrt(fan_in)`.

    Attributes:
      scope: "layer" keeps the same share of every layer, "global" ranks all together.

    Reference: Ramanujan et al. 2020, section 3.2; that the gradient reaches |s| is the authors'
      code.
    """

    scope: str = "layer"
    counts: ClassVar[bool] = False

    __repr__ = _show.code

    def __post_init__(self) -> None:
        settle(self, one_of, "scope", choices=("layer", "global"))

    def initial(self, shape: tuple[int, ...], density: Array, *, key: Key) -> Array:
        """Uniform in `+-1 / sqrt(fan_in)`."""
        del density
        bound = 1 / math.sqrt(max(1, math.prod(shape[:-1])))
        drawn = jax.random.uniform(key, (math.prod(shape),), minval=-bound, maxval=bound)
        return drawn.reshape(shape)

    def leaf(self, scores: Array, done: Array, *, key: Key) -> Array:
        """|s|, what gradients see."""
        del done, key
        return jnp.abs(scores)

    def expected_leaf(self, scores: Array, done: Array) -> Array:
        """|s|, which counts nothing: the number of ones is fixed."""
        del done
        return jnp.abs(scores)

    def rank(self, scores: Array) -> Array:
        """|s|."""
        return jnp.abs(scores)

    def soft(self, scores: Params, live: Mask, keep: Array, done: Array, *, key: Key) -> Params:
        """Ones at the entries with the largest |s|."""
        del done, key
        size = jax.tree.map(jnp.abs, scores)
        mask = keep_top(jax.lax.stop_gradient(size), live, keep, scope=self.scope)
        return jax.tree.map(lambda m, s: _straight(m.astype(s.dtype), s), mask, size)
