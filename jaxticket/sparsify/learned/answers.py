"""What networks answer, by the kind of the labels: probabilities, and how far two answers differ.

| kind         | answer to an example                                     | size of logits         |
| ------------ | -------------------------------------------------------- | ---------------------- |
| "classes"    | softmax over classes                                     | less their mean        |
| "tokens"     | softmax over the vocabulary, at every token that counts  | less their mean        |
| "multilabel" | a probability for each label, the logit's sigmoid        | as they are            |
| "numbers"    | a normal distribution of variance 1 around each output   | none: they are answers |
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxticket.labels import labels_of, over_tokens, rows
from jaxticket.typing import Array


def certainties(logits: Array, labels: Array) -> Array:
    """The logits as probabilities; outputs that are numbers stay as they are.

    Args:
      logits: [batch, ...].
      labels: [batch, ...], whose kind says what logits are.
    """
    kind = labels_of(labels).kind
    if kind == "numbers":
        return logits
    return jax.nn.sigmoid(logits) if kind == "multilabel" else jax.nn.softmax(logits)


def divergence(one: Array, other: Array, labels: Array) -> Array:
    r"""Kullback-Leibler divergence of answers, `KL(one || other)` of each example, [batch].

    Of classes `sum_c p_c (log p_c - log q_c)`; of tokens its mean over those that count; of several
    labels the mean over labels of the divergence of two outcomes; of numbers the mean over outputs
    of `(a - b)^2 / 2`, that of normal distributions of variance 1.

    Args:
      one, other: logits [batch, ...].
      labels: [batch, ...], whose kind says what logits are; tokens of -1 do not count.
    """
    kind = labels_of(labels).kind
    if kind == "numbers":
        return jnp.mean(rows((one - other) ** 2 / 2), axis=1)
    if kind == "multilabel":
        yes, no = jax.nn.log_sigmoid, lambda z: jax.nn.log_sigmoid(-z)
        parts = [jnp.exp(log(one)) * (log(one) - log(other)) for log in (yes, no)]
        return jnp.mean(rows(parts[0] + parts[1]), axis=1)
    p, q = jax.nn.log_softmax(one), jax.nn.log_softmax(other)
    each = jnp.sum(jnp.exp(p) * (p - q), axis=-1)
    return each if kind == "classes" else over_tokens(each, labels)


def centered(logits: Array, labels: Array) -> Array:
    """Logits less what does not change the answer: their mean over classes, where one is chosen."""
    if labels_of(labels).kind == "multilabel":
        return logits
    return logits - jnp.mean(logits, axis=-1, keepdims=True)
