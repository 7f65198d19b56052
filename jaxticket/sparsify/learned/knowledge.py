r"""What a student can learn from a teacher: distances between what two networks say of a batch.

All of them take the student's side first, and all but `contrast` are 0 and least where both say the
same. Gradients reach the teacher's side too: who calls them stops them there. Features are lists of
activations [batch, ...], channels last, in the order of the forward pass.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp

from jaxticket import _tree, masks
from jaxticket.sparsify.learned import answers
from jaxticket.typing import AnyArray, Array, Mask, Params

Features = Sequence[Array]
SMALL = 1e-9


def soft_targets(
    student: Array, teacher: Array, temperature: float = 1.0, labels: Array | None = None
) -> Array:
    """Mean over the batch of KL(softmax(t / T) || softmax(s / T)), both softened.

    Args:
      student, teacher: logits [batch, classes], or [batch, ...] as the labels have it.
      temperature: T. The loss is used times T ** 2, which keeps its gradient's size; of numbers T
        then falls out.
      labels: [batch, ...], whose kind says what the answers are (`answers.divergence`); None for
        classes.

    Reference: Hinton, Vinyals and Dean 2015; KD-LTS, Eq. 2 (which softens the teacher alone).
    """
    if labels is None:
        labels = jnp.zeros(len(student), jnp.int32)
    return jnp.mean(answers.divergence(teacher / temperature, student / temperature, labels))


def logits(student: Array, teacher: Array) -> Array:
    """Mean squared difference of logits [batch, ...].

    Reference: Ba and Caruana 2014.
    """
    return jnp.mean((student - teacher) ** 2)


def direction(student: Params, teacher: Params) -> Array:
    """`|a / |a| - b / |b||^2 = 2 - 2 cos(a, b)` of two gradients, trees of the same structure.

    Reference: KD-LTS, Eq. 3 (Sobolev training: Czarnecki et al. 2017), on the gradient of the mean
      logit of the label by all weights, as one vector.
    """
    lengths = _length(_tree.dot(student, student)) * _length(_tree.dot(teacher, teacher))
    return 2 - 2 * _tree.dot(student, teacher) / lengths


def input_direction(student: Array, teacher: Array) -> Array:
    """`direction` of each example's derivatives by its input, [batch, ...], the mean over them.

    Reference: Czarnecki et al. 2017, whose derivatives are by inputs.
    """
    s, t = _rows(student), _rows(teacher)
    return jnp.mean(2 - 2 * jnp.sum(_unit(s) * _unit(t), axis=1))


def relations(student: Features, teacher: Features) -> Array:
    r"""Jeffreys divergence between how channels of neighbouring layers relate.

    Of layers l - 1 and l, pooled to the smaller map, every pair of channels has the kernel `(1 +
    cos) / 2` of their activations over batch and space; kernels over their sum are probabilities P.
    The sum over pairs of layers of `sum (p - q) (log p - log q)`, over their number.

    Reference: KD-LTS, Eqs. 4 to 6. As printed the sums run over examples while the indices are of
      features; pairs of channels (Yim et al. 2017) fit layers of different sizes.
    """
    pairs = list(itertools.pairwise(student))
    other = list(itertools.pairwise(teacher))
    found = [
        _jeffreys(_shares(_kernel(*_flows(*s))), _shares(_kernel(*_flows(*t))))
        for s, t in zip(pairs, other, strict=True)
    ]
    return sum(found, start=jnp.float32(0)) / max(1, len(found))


def similarities(student: Features, teacher: Features) -> Array:
    """Jeffreys divergence between how examples resemble one another, the mean over layers.

    In each layer pairs i != j have the kernel `(1 + cos) / 2` of their activations, over its sum.

    Reference: KD-LTS, Eqs. 4 to 6, within a layer, which is safe for all sizes.
    """

    def of(x: Array) -> Array:
        x = _unit(_rows(x))
        return _shares((1 + x @ x.T) / 2 * (1 - jnp.eye(len(x))))

    return _over_layers(lambda s, t: _jeffreys(of(s), of(t)), student, teacher)


def probabilities(student: Features, teacher: Features) -> Array:
    """Probabilistic knowledge transfer: KL(teacher || student), mean over layers.

    The distributions are those of each example over the others, `(1 + cos) / 2` over the sum of the
    row; summed over the batch and divided by its size.

    Reference: Passalis and Tefas 2018.
    """

    def of(x: Array) -> Array:
        x = _unit(_rows(x))
        kernel = (1 + x @ x.T) / 2 * (1 - jnp.eye(len(x)))
        return kernel / (jnp.sum(kernel, axis=1, keepdims=True) + SMALL)

    def one(s: Array, t: Array) -> Array:
        p, q = of(t), of(s)
        return jnp.mean(jnp.sum(p * (jnp.log(p + SMALL) - jnp.log(q + SMALL)), axis=1))

    return _over_layers(one, student, teacher)


def attention(student: Features, teacher: Features) -> Array:
    """Attention transfer: squared distance between attention maps.

    Mean over layers and examples; a map is the sum over channels of squared activations at each
    place, over its Euclidean norm.

    A dense layer's units are places with one channel.

    Reference: Zagoruyko and Komodakis 2017.
    """

    def of(x: Array) -> Array:
        x = x.astype(jnp.float32)
        return _unit(_rows(jnp.sum(x**2, axis=-1) if x.ndim > 2 else x**2))

    def one(s: Array, t: Array) -> Array:
        return jnp.mean(jnp.sum((of(s) - of(t)) ** 2, axis=1))

    return _over_layers(one, student, teacher)


def distances(student: Features, teacher: Features) -> Array:
    """Relational knowledge distillation at the last layer before the output.

    Huber losses between the distances of all pairs of examples (over their mean), and twice those
    between the cosines of all triplets.

    Reference: Park et al. 2019, with their ratio of 1 to 2.
    """
    s, t = _rows(_last(student)), _rows(_last(teacher))
    return _huber(_pairs(s), _pairs(t)) + 2 * _huber(_angles(s), _angles(t))


def flows(student: Features, teacher: Features) -> Array:
    """Flow of solution procedure (FSP).

    Mean over pairs of neighboring layers of the mean squared difference between Gram matrices,
    `G[i, j] = mean over space of a_i b_j`, of each example.

    Reference: Yim et al. 2017.
    """

    def gram(a: Array, b: Array) -> Array:
        a, b = _same_size(a, b)
        return jnp.einsum("npi,npj->nij", a, b) / a.shape[1]

    found = [
        jnp.mean((gram(student[i], student[i + 1]) - gram(teacher[i], teacher[i + 1])) ** 2)
        for i in range(len(student) - 1)
    ]
    return sum(found, start=jnp.float32(0)) / max(1, len(found))


def contrast(student: Features, teacher: Features, temperature: float = 0.1) -> Array:
    """Contrastive distillation at the last layer before the output.

    How well the student's activations identify the teacher's of the same example in the batch: the
    cross-entropy of `cos(s_i, t_j) / T` over j.

    Reference: Tian, Krishnan and Isola 2020, with the batch in the place of a memory of negatives,
      and without projections, as both networks have the same layers.
    """
    s, t = _unit(_rows(_last(student))), _unit(_rows(_last(teacher)))
    return -jnp.mean(jnp.diagonal(jax.nn.log_softmax(s @ t.T / temperature)))


def spectra(student: Params, teacher: Params, mask: Mask) -> Array:
    """Squared distance between the singular values of kernels, mean over kernels.

    Kernels are matrices [inputs, outputs]; singular values are divided by their Euclidean norm.

    Args:
      student, teacher: weights.
      mask: None at the leaves that are no kernels.

    Reference: KD-LTS, appendix B, whose "SVD variant" has no printed formula: this one is ours.
    """

    def one(s: AnyArray, t: AnyArray) -> Array:
        a, b = (
            jnp.linalg.svd(x.reshape(-1, x.shape[-1]).astype(jnp.float32), compute_uv=False)
            for x in (s, t)
        )
        return jnp.sum((_unit(a[None]) - _unit(b[None])) ** 2)

    found = [one(s, t) for _, _, s, t in masks.items(mask, student, teacher)]
    return sum(found, start=jnp.float32(0)) / max(1, len(found))


def agreement(gradients: Array, *, most: float = 1.0, steps: int = 200) -> Array:
    """Weights of an ensemble of gradients with the shortest weighted sum.

    For the gradients [member, ...] of its members: `min |sum_k v_k g_k|^2` with `0 <= v_k <= most`,
    `sum v = 1`.

    The direction that they give serves all members (where `most` is 1). Solved by projected
    gradient descent, differentiated as constants.

    Args:
      gradients: of each member's loss by the student's logits.
      most: bound of a weight, at least 1 / members.
      steps: of the descent.

    Reference: Du et al. 2020 ("Agree to disagree"), Eq. 6.
    """
    g = jax.lax.stop_gradient(gradients.reshape(len(gradients), -1).astype(jnp.float32))
    gram = g @ g.T
    gram = gram / (jnp.max(jnp.abs(gram)) + 1e-30)
    rate = 1 / len(g)

    def step(_: object, v: Array) -> Array:
        return _capped_simplex(v - rate * (gram @ v), most)

    start = jnp.full(len(g), 1 / len(g), gram.dtype)
    return jax.lax.fori_loop(0, steps, step, _tree.varying_like(start, gram))


def _capped_simplex(v: Array, most: float) -> Array:
    """The nearest point with entries in [0, most] and sum 1, by bisection on the shift."""
    low, high = jnp.min(v) - 1, jnp.max(v)

    def halve(_: object, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = ends
        middle = (low + high) / 2
        above = jnp.sum(jnp.clip(v - middle, 0, most)) > 1
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    low, high = jax.lax.fori_loop(0, 40, halve, (low, high))
    return jnp.clip(v - (low + high) / 2, 0, most)


def _length(square: Array) -> Array:
    # the square root's own gradient is infinite at 0
    return jnp.sqrt(square + SMALL**2)


def _rows(x: Array) -> Array:
    return x.reshape(len(x), -1).astype(jnp.float32)


def _unit(x: Array) -> Array:
    return x / _length(jnp.sum(x**2, axis=-1, keepdims=True))


def _last(features: Features) -> Array:
    """The last but the softmax, where there is one."""
    return features[-2] if len(features) > 1 else features[-1]


def _over_layers(
    one: Callable[[Array, Array], Array], student: Features, teacher: Features
) -> Array:
    found = [one(s, t) for s, t in zip(student, teacher, strict=True)]
    return sum(found, start=jnp.float32(0)) / max(1, len(found))


def _shares(kernel: Array) -> Array:
    return kernel / (jnp.sum(kernel) + SMALL)


def _jeffreys(p: Array, q: Array) -> Array:
    return jnp.sum((p - q) * (jnp.log(p + SMALL) - jnp.log(q + SMALL)))


def _same_size(a: Array, b: Array) -> tuple[Array, Array]:
    """Two layers as [batch, place, channel], pooled to the smaller map."""
    a, b = ((x if x.ndim == 4 else x.reshape(len(x), 1, 1, -1)).astype(jnp.float32) for x in (a, b))
    height, width = min(a.shape[1], b.shape[1]), min(a.shape[2], b.shape[2])

    def pooled(x: Array) -> Array:
        if x.shape[1] % height or x.shape[2] % width:
            x = jax.image.resize(x, (len(x), height, width, x.shape[3]), "linear")
        x = x.reshape(len(x), height, x.shape[1] // height, width, x.shape[2] // width, -1)
        return x.mean(axis=(2, 4)).reshape(len(x), height * width, -1)

    return pooled(a), pooled(b)


def _flows(a: Array, b: Array) -> tuple[Array, Array]:
    """Two layers as [channel, batch and place], pooled to the smaller map."""
    a, b = _same_size(a, b)
    return a.reshape(-1, a.shape[-1]).T, b.reshape(-1, b.shape[-1]).T


def _kernel(a: Array, b: Array) -> Array:
    return (1 + _unit(a) @ _unit(b).T) / 2


def _pairs(x: Array) -> Array:
    """Distances of all pairs over their mean, [pair]."""
    gram = x @ x.T
    square = jnp.diagonal(gram)
    i, j = jnp.triu_indices(len(x), 1)
    found = _length(jnp.maximum(square[i] + square[j] - 2 * gram[i, j], 0))
    return found / (jnp.mean(found) + SMALL)


def _angles(x: Array) -> Array:
    """Cosines at the middle of all triplets, [middle, one, other]."""
    apart = _unit(x[None] - x[:, None])
    return jnp.einsum("mid,mjd->mij", apart, apart)


def _huber(a: Array, b: Array) -> Array:
    apart = jnp.abs(a - b)
    return jnp.mean(jnp.where(apart <= 1, apart**2 / 2, apart - 0.5))
