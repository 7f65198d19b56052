"""The types that every other module speaks: trees of arrays, networks, training states."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, ParamSpec, Protocol, TypeAlias, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.typing import ArrayLike

from jaxticket import _show, _tree

Array = jax.Array
"""A JAX array, also a traced one inside compiled programs."""
AnyArray = jax.Array | np.ndarray
"""An array on a device or on the host."""
Key = jax.Array
"""A typed random key, as `jax.random.key` makes it."""

LeafT = TypeVar("LeafT")
Tree: TypeAlias = LeafT | Mapping[str, "Tree[LeafT]"]
"""A leaf, or trees by name: nested dicts whose leaves are of one type, as Flax makes them."""
Params: TypeAlias = Mapping[str, Tree[AnyArray]]
"""A tree of weight arrays."""
Stats: TypeAlias = Mapping[str, Tree[AnyArray]]
"""A tree of everything a network keeps other than weights, BatchNorm statistics above all; may be
empty.
"""
InitialWeights: TypeAlias = Params | tuple[Params, Stats]
"""Weights that training starts from: params, with statistics where the network has them."""
Mask: TypeAlias = Mapping[str, Tree[AnyArray | None]]
"""A tree of bool arrays shaped like the params: True where a weight is kept. None stands at leaves
that cannot be pruned.
"""

Prunable: TypeAlias = Mapping[str, Tree[bool]]
"""A tree of python bools shaped like the params: which leaves may be pruned."""
Json: TypeAlias = dict[str, Any]
"""What a JSON object holds: numbers, texts, lists and further objects."""

LossFunction: TypeAlias = Callable[[Array, Array], Array]
"""`(logits, labels) -> losses`: float32 [batch, ...] and int32 or float32 [batch, ...] to [batch].
"""
RateSchedule: TypeAlias = Callable[[Array], ArrayLike]
"""`step -> learning rate`, for a traced float32 scalar; optax's schedules are such functions."""
OptimizerMaker: TypeAlias = Callable[[Array], optax.GradientTransformation]
"""`learning rate -> optimizer`, such as `optax.lion`; the rate is a traced scalar."""
DecayRule: TypeAlias = Callable[[Params], Prunable]
"""`weights -> tree of python bools`: which of them decay, as masks of optax say it."""

Axis = str | Mapping[str, Sequence[int] | np.ndarray] | None
"""What moves along one axis of a leaf: the units of a permutation, by its name; or where along the
axis each unit lies, int [units] or [units, copies] by name; or None for nothing.
"""
Symmetry = Mapping[str, tuple[Axis, ...]]
"""What moves along each axis, by the path of the leaf; leaves that are not named stay as they are
(see `jaxticket.nn.symmetry`).
"""


class Tap(Protocol):
    """What a network calls as `x = tap(name, x)` at its junctions and layer outputs."""

    def __call__(self, name: str, x: jax.Array, /) -> jax.Array:
        """Look at a layer's output, and return what takes its place."""
        ...


class Apply(Protocol):
    """The forward pass of a network."""

    def __call__(
        self,
        params: Params,
        stats: Stats,
        x: Array,
        /,
        *,
        train: bool,
        key: Key | None = None,
        axis_name: str | None = None,
        tap: Tap | None = None,
    ) -> tuple[Array, Stats]:
        """Compute (logits, stats).

        Args:
          params, stats: the network.
          x: standardized images or tokens [batch, *shape].
          train: whether statistics are those of the batch, and are updated.
          key: for dropout.
          axis_name: the mesh axis that shares the batch, over which statistics are averaged.
          tap: called as `x = tap(name, x)` at junctions and layer outputs.
        """
        ...


P = ParamSpec("P")
T = TypeVar("T")


def cached(maxsize: int) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Cache a function as `functools.lru_cache` does, and keep its signature for checkers."""
    # a checker knows `lru_cache` to take anything that is hashable
    return cast("Callable[[Callable[P, T]], Callable[P, T]]", functools.lru_cache(maxsize))


@dataclass(frozen=True, eq=False)
class Given:
    """Weights that training starts from, in the place of drawn ones.

    Attributes:
      params, stats: host arrays; with `seeds` they have a leading axis [seed].
      seeds: the seeds that these are of, in order; None for the same weights in every replica.
      sha256: digest of all of it.
    """

    params: Params
    stats: Stats
    seeds: tuple[int, ...] | None
    sha256: str


@dataclass(frozen=True, eq=False)
class Network:
    """A network as pure functions over plain trees.

    Two networks are equal when their `config` and `source` are: equal networks share compiled
      programs.

    Attributes:
      config: constructor name and arguments as a JSON text; what run folders and tickets record.
      init: `init(key) -> (params, stats)`.
      apply: `apply(params, stats, x, *, train, key=None, axis_name=None, tap=None) -> (logits,
        stats)`, x of shape [batch, *shape], standardized images or tokens.
      prunable: `prunable(params) -> tree of python bools`: which leaves may be pruned.
      output: path of the output layer, such as `"dense_2"`.
      shape: shape of one example, such as (height, width, channels).
      classes: number of logits.
      resized: `resized(width) -> Network`, the same network `width` times as wide; raises a
        ValueError where the network has no width.
      adapted: `adapted(shape=..., classes=..., **options) -> Network`, the same network for other
        data, or with other arguments of its constructor, such as `depth`; raises a ValueError where
        the constructor is not one of this library's.
      syncs_stats: whether `apply` averages batch statistics over `axis_name` (true without
        statistics).
      dtype: type of the examples: "float32", or "int32" for tokens.
      source: what `init` and `apply` were made from; tells apart two networks of the same name.
      symmetry: the permutations of hidden units that leave the function as it is, or a function of
        the network that returns them; None where they are not known.
      stages: names of the residual blocks of each stage, which can be stretched to other depths.
      given: the weights that training starts from, as `with_params` sets them; None for those that
        `init` draws.
      float32: patterns of paths of the params that `apply` is given in float32 also where it
        computes in bfloat16, such as scales and biases of norms, and rounds by itself.
    """

    config: str
    init: Callable[[Key], tuple[Params, Stats]]
    apply: Apply
    prunable: Callable[[Params], Prunable]
    output: str
    shape: tuple[int, ...]
    classes: int
    resized: Callable[[float], Network]
    adapted: Callable[..., Network]
    syncs_stats: bool = True
    dtype: str = "float32"
    source: Hashable = field(default=None, repr=False)
    symmetry: SymmetryOf | None = field(default=None, repr=False)
    stages: tuple[tuple[str, ...], ...] = field(default=(), repr=False)
    given: Given | None = field(default=None, repr=False)
    float32: tuple[str, ...] = field(default=(), repr=False)

    __repr__ = _show.text
    _repr_html_ = _show.text_html

    def _summary(self) -> _show.Summary:
        config = json.loads(self.config)
        name = config.get("name") or config["constructor"]
        params, _ = self.shapes
        leaves, chosen = _tree.leaves(params), jax.tree.leaves(self.prunable(params))
        sizes = {path: math.prod(leaf.shape) for path, leaf in leaves.items()}
        pruned = sum(size for size, p in zip(sizes.values(), chosen, strict=True) if p)
        rows = [
            (path, _show.shape(leaf.shape), f"{sizes[path]:,}", "yes" if p else "")
            for (path, leaf), p in zip(leaves.items(), chosen, strict=True)
        ]
        # of what was recorded of a network they may not be known
        logits = f" to {self.classes} logits" if self.classes else ""
        title = (
            f"<Network {name}: {_show.shape(self.shape)}{logits}, "
            f"{sum(sizes.values()):,} parameters, {pruned:,} of them prunable>"
        )
        given = {k: v for k, v in config.items() if k not in ("constructor", "name", "params")}
        facts = [(key, _show.written(value)) for key, value in given.items()]
        columns = ("parameters", "shape", "number", "pruned")
        return _show.Summary(title, facts, columns, rows, brief=True)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Network):
            return NotImplemented
        try:
            return (self.config, self.source) == (other.config, other.source)
        except ValueError:
            # modules that hold arrays: their fields compare to arrays, which have no truth value
            return self is other

    def __hash__(self) -> int:
        return hash(self.config)

    @property
    def shapes(self) -> tuple[Params, Stats]:
        """Shapes and types of the params and of the statistics, as `jax.ShapeDtypeStruct`s.

        Equal networks are traced once.
        """
        # new containers, so that no caller changes what the next one gets
        return jax.tree.map(lambda leaf: leaf, _shapes(self, jnp.result_type(float).name))

    def with_params(
        self, params: Params, stats: Stats | None = None, *, seeds: Sequence[int] | None = None
    ) -> Network:
        """Give the same network whose training starts from these weights.

        Every function that trains the network takes them in the place of drawn ones: they are then
        what "initialization" and step 0 mean, and what tickets of `rewind=0` start from. `init`
        still draws new weights, for controls such as "reinit" and for layers that `jt.transfer`
        replaces. Run folders and tickets record a digest of the weights.

        Args:
          params: a tree like `shapes[0]`, of floating numbers.
          stats: a tree like `shapes[1]`, such as BatchNorm statistics; None for networks without.
          seeds: where every leaf has a leading axis, the seeds whose weights these are, in order;
            None for the same weights in every replica.

        Raises:
          ValueError: for trees of other paths or shapes, statistics that are missing, numbers that
            are not finite, and seeds that are not as many as there are weights.

        >>> from jaxticket.nn import lenet
        >>> net = lenet((2, 2, 1), 3, widths=(4,))
        >>> pretrained, stats = net.init(jax.random.key(0))
        >>> net.with_params(pretrained).given.seeds is None
        True
        """
        wanted = self.shapes
        if stats is None and jax.tree.leaves(wanted[1]):
            raise ValueError(
                f"`stats` are missing: this network keeps {', '.join(_tree.paths(wanted[1])[:3])}; "
                f"pass the statistics that belong to the weights, such as with_params(params, "
                f"stats)"
            )
        if seeds is not None:
            seeds = tuple(int(seed) for seed in seeds)
            if not seeds or len(set(seeds)) != len(seeds):
                raise ValueError(f"`seeds` must be distinct, one for each row, got {seeds}")
        lead = () if seeds is None else (len(seeds),)
        found = []
        for name, given, like in (
            ("params", params, wanted[0]),
            ("stats", wanted[1] if stats is None else stats, wanted[1]),
        ):
            stacked = jax.tree.map(lambda x: jax.ShapeDtypeStruct((*lead, *x.shape), x.dtype), like)
            _tree.same_structure(name, given, stacked, of=f"{name} of the network")
            arrays = jax.tree.map(lambda x, s: np.asarray(x).astype(s.dtype), given, stacked)
            for path, x in _tree.leaves(arrays).items():
                if not np.isfinite(x).all():
                    raise ValueError(
                        f"`{name}` holds numbers that are not finite at {path!r}; pass weights of "
                        f"a training that did not diverge"
                    )
            found.append(arrays)
        sha256 = _tree.digest(*found)
        config = json.loads(self.config)
        config["weights"] = {"sha256": sha256} | ({} if seeds is None else {"seeds": list(seeds)})
        return dataclasses.replace(
            self,
            config=json.dumps(config, sort_keys=True),
            given=Given(found[0], found[1], seeds, sha256),
        )

    @property
    def tapped(self) -> bool:
        """Whether `apply` can be called with a tap."""
        return _tapped(self)

    def prunable_leaves(self, exclude: Sequence[str] = ()) -> Prunable:
        """Mark the leaves that are pruned: the prunable ones that no pattern of `exclude` matches.

        Args:
          exclude: patterns of paths, such as "dense_2" or "*/kernel".

        Returns:
          A tree of python bools like the params.

        Raises:
          ValueError: for a pattern that matches no leaf, and where no leaf remains.
        """
        params, _ = self.shapes
        names = _tree.paths(params)
        for pattern in exclude:
            if not any(_tree.matches(name, [pattern]) for name in names):
                raise ValueError(
                    f"`exclude` pattern {pattern!r} matches no weight; the paths are "
                    f"{', '.join(names)}"
                )
        leaves, tree = jax.tree.flatten(self.prunable(params))
        kept = [
            bool(p) and not _tree.matches(name, exclude)
            for name, p in zip(names, leaves, strict=True)
        ]
        if not any(kept):
            raise ValueError(f"`exclude` leaves nothing to prune; the paths are {', '.join(names)}")
        return jax.tree.unflatten(tree, kept)

    def mask(self, exclude: Sequence[str] = (), *, lead: Sequence[int] = ()) -> Mask:
        """Give the dense mask: all True, and None at leaves that are not pruned.

        Args:
          exclude: patterns of paths, as of `prunable_leaves`.
          lead: leading axes, such as (replicas,).

        Returns:
          Host arrays.

        Raises:
          ValueError: as `prunable_leaves`, and where every leaf is pruned and some are vectors.

        >>> from jaxticket.nn import lenet
        >>> net = lenet((2, 2, 1), 3, widths=(4,))
        >>> [m.shape for m in jax.tree.leaves(net.mask())], net.mask()["dense_0"]["bias"]
        ([(4, 4), (4, 3)], None)
        """
        params, _ = self.shapes
        prunable = self.prunable_leaves(exclude)
        if all(jax.tree.leaves(prunable)):
            sizes = {len(x.shape) >= 2 for x in jax.tree.leaves(params)}
            if len(sizes) == 2:
                raise ValueError(
                    "`prunable` marks every leaf, with vectors among them; a mask without any leaf "
                    "that cannot be pruned counts leaves of two or more dimensions: leave one "
                    "vector out, such as the bias of the output layer"
                )
        return jax.tree.map(
            lambda p, x: np.ones((*lead, *x.shape), bool) if p else None, prunable, params
        )

    def example(self, *lead: int) -> jax.ShapeDtypeStruct:
        """Shape and type of examples with these leading axes."""
        return jax.ShapeDtypeStruct((*lead, *self.shape), jnp.dtype(self.dtype))

    def noise(self, key: Key, count: int) -> jax.Array:
        """So many random examples: standard normal numbers, or the tokens 0 and 1."""
        shape = (count, *self.shape)
        if self.dtype == "int32":
            return jax.random.bernoulli(key, 0.5, shape).astype(jnp.int32)
        return jax.random.normal(key, shape)


SymmetryOf = Symmetry | Callable[[Network], Symmetry]
"""A symmetry, or a function of the network that returns it."""


@cached(256)
def _shapes(net: Network, real: str) -> tuple[Params, Stats]:
    del real  # the widest type of numbers: part of the key, since x64 can be switched on and off
    return jax.eval_shape(net.init, jax.random.key(0))


@cached(256)
def _tapped(net: Network) -> bool:
    try:
        jax.eval_shape(
            lambda p, s, x: net.apply(p, s, x, train=False, tap=lambda name, x: x),
            *net.shapes,
            net.example(1),
        )
    except ValueError as error:
        if "`tap`" not in str(error):
            raise
        return False
    return True


class Average(NamedTuple):
    """An exponential moving average of networks.

    Attributes:
      params: averages of the weights, zero wherever these are pruned; those of weights of half
        precision are float32.
      stats: averages of the statistics.
      count: int32, updates since the training began.
    """

    params: Params
    stats: Stats
    count: Array


class RuleState(NamedTuple):
    """What a mask that moves during training adds to a training state.

    Attributes:
      memory: what the rule remembers, a tree of arrays.
      count: int32, how many weights the mask must keep until its next update.
      wrong: bool, whether an update kept another number.
      explored: where the mask was True at some step so far.
      grown: float32, how many weights updates have brought back so far.
      latent: weights, zero where the mask is True, that rules with `latent` train although they are
        pruned, None at leaves that cannot be; () under other rules.
    """

    memory: object
    count: Array
    wrong: Array
    explored: Mask
    grown: Array
    latent: Params | tuple[()] = ()

    __repr__ = _show.record


class TrainState(NamedTuple):
    """One replica's training state.

    Outside the compiled program every leaf has a leading replica axis.

    Attributes:
      step: int32, absolute step: the number of updates done since initialization.
      params: weights, zero wherever `mask` is False.
      stats: BatchNorm statistics and the like.
      opt_state: state of the optax optimizer.
      mask: which weights are kept.
      key: the replica's root key.
      diverged: int32, the step whose loss was not finite, -1 while there is none. A diverged
        replica is frozen.
      average: what is evaluated in the place of `params` and `stats` under `Training.ema`; () where
        nothing is averaged.
      rule: what a mask rule adds; () where the mask does not move.
    """

    step: Array
    params: Params
    stats: Stats
    opt_state: optax.OptState
    mask: Mask
    key: Key
    diverged: Array
    average: Average | tuple[()] = ()
    rule: RuleState | tuple[()] = ()

    __repr__ = _show.record


ProblemT = TypeVar("ProblemT", contravariant=True)
BatchT = TypeVar("BatchT", contravariant=True)


class Monitor(Protocol[ProblemT, BatchT]):
    """A measurement during training, of a `jt.Problem` and the batch of a step.

    Attributes:
      every: steps between measurements, which are at the start of a training, at every multiple of
        it and at the end. A monitor may have steps `at` in its place, a tuple: it measures at these
        alone, as far as a training comes to them.
    """

    @property
    def every(self) -> int:
        """Steps between measurements."""
        ...

    def __call__(
        self, problem: ProblemT, state: TrainState, batch: BatchT
    ) -> Mapping[str, jax.Array]:
        """The numbers of one replica, by name."""
        ...


class ScoreContext(NamedTuple):
    """What a pruning score may look at.

    Attributes:
      loss: `loss(params, (x, y)) -> scalar`, the mean loss of the network with these weights as
        they are.
      logits: `logits(params, x) -> [batch, classes]`.
      params_at_init: the weights before training, the same tree as the params.
      mask: the mask so far, with None at leaves that cannot be pruned; where it has None nowhere,
        those of fewer than two dimensions cannot.
      batches: (x, y) with a leading axis of batches; x as `loss` and `logits` take it.
      tapped: `tapped(params, x, tap) -> [batch, classes]`, the logits with `tap(name, x)` called at
        the network's junctions and layers; None where there are no taps.
    """

    loss: Callable[[Params, tuple[Array, Array]], Array]
    logits: Callable[[Params, Array], Array]
    params_at_init: Params
    mask: Mask
    batches: tuple[Array, Array]
    tapped: Callable[[Params, Array, Tap], Array] | None = None

    __repr__ = _show.record

    def prunable_leaves(self, params: Params) -> Prunable:
        """Mark the leaves that are pruned, in a tree of python bools like the params."""
        return jax.tree.unflatten(jax.tree.structure(params), _tree.counted(self.mask))


class Score(Protocol):
    """How much each weight matters: the weights with the highest scores are kept."""

    def __call__(self, params: Params, context: ScoreContext, /, *, key: Key) -> Params:
        """Score every weight.

        Args:
          params: the weights.
          context: losses, logits and batches that the score may look at.
          key: for scores that draw.

        Returns:
          A tree like the params.
        """
        ...


@dataclass(frozen=True)
class Layer:
    """A layer as layouts see it.

    Attributes:
      path: of its kernel.
      shape: of its kernel, [..., in, out].
      place: position from the input to the output; any numbers that are in that order.
      output: whether it is the output layer.
    """

    path: str
    shape: tuple[int, ...]
    place: int
    output: bool = False

    @property
    def size(self) -> int:
        """Number of its weights."""
        return math.prod(self.shape)


Layout: TypeAlias = Callable[[Sequence[Layer], float], np.ndarray]
"""`(layers, density) -> weights that each layer keeps`, int32 [layer]."""


class Metric(Protocol):
    """A number made of sums over the examples of a split, so that it does not depend on batches.

    Objects must be hashable: frozen dataclasses are.

    >>> import dataclasses
    >>> import jax.numpy as jnp
    >>> @dataclasses.dataclass(frozen=True)
    ... class Errors:
    ...     name: str = "errors"
    ...     def sums(self, logits, labels):
    ...         return jnp.stack([jnp.sum(jnp.argmax(logits, -1) != labels), len(labels)])
    ...     def value(self, sums):
    ...         return sums[0] / sums[1]
    >>> import jaxticket as jt
    >>> jt.Training(metrics=("ece", Errors())).metrics
    ('ece', Errors(name='errors'))
    """

    @property
    def name(self) -> str:
        """What tables call it in the column `metric`."""
        ...

    def sums(self, logits: Array, labels: Array) -> Array:
        """Sum what the metric is made of over the examples of a batch: a vector, float [k].

        Args:
          logits: float32 [batch, ...], such as [batch, classes].
          labels: int32 [batch] for classes, else int32 or float32 [batch, ...].
        """
        ...

    def value(self, sums: Array) -> Array:
        """The metric, a scalar, from the sums over all examples, float32 [k]."""
        ...
