"""Streams, keyed permutations and the batches made of them."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jaxticket.data.sampling import batch_indices, steps_per_epoch
from jaxticket.random import mix, permutation_words, permuted, root_keys, stream, uniform

SIZES = (1, 2, 3, 4, 5, 16, 25, 97, 101, 1000, 1021)


def bits(key):
    return int(jax.random.bits(key))


def test_streams_are_the_same_in_every_process():
    """As noted in another process: Python salts `hash(name)` in each."""
    assert bits(stream(jax.random.key(0), "init")) == 432271249
    assert bits(stream(jax.random.key(0), "order", 3)) == 1280421559


def test_names_and_numbers_make_streams_of_their_own():
    key = jax.random.key(5)
    drawn = [
        bits(stream(key, *at))
        for name in ("init", "order", "augment", "prune", "noise", "params", "dropout")
        for at in ((name,), (name, 0), (name, 1), (name, 0, 1), (name, 1, 0), (name, 10**6))
    ]
    assert len(set(drawn)) == len(drawn)
    assert bits(stream(jax.random.key(6), "init")) != bits(stream(key, "init"))


def test_numbers_may_be_traced():
    key = jax.random.key(1)
    traced = jax.jit(lambda n: jax.random.bits(stream(key, "noise", n)))
    assert int(traced(jnp.int32(7))) == bits(stream(key, "noise", 7))


def test_root_keys_are_those_of_the_seeds():
    keys = root_keys([3, 0, 2**32 - 1])
    assert keys.shape == (3,)
    expected = [bits(jax.random.key(seed)) for seed in (3, 0, 2**32 - 1)]
    assert [bits(key) for key in keys] == expected


def test_mix_is_a_bijection_that_spreads_every_bit():
    x = np.arange(2**16, dtype=np.uint32) * np.uint32(65537)
    mixed = np.asarray(mix(jnp.asarray(x)))
    assert len(np.unique(mixed)) == len(x)
    for bit in range(32):
        flipped = np.asarray(mix(jnp.asarray(x ^ np.uint32(1 << bit)))) ^ mixed
        changed = np.unpackbits(flipped.view(np.uint8)).mean()
        assert 0.45 < changed < 0.55


@functools.partial(jax.jit, static_argnums=1)
def _whole(words, n):
    return permuted(jnp.arange(n, dtype=jnp.uint32), words[None], n)


def whole(words, n):
    return np.asarray(_whole(words, n))


@settings(max_examples=40, deadline=None)
@given(st.sampled_from(SIZES), st.integers(0, 2**32 - 1))
@example(1, 0)
@example(2, 0)
@example(3, 0)
def test_permuted_is_a_bijection(n, seed):
    np.testing.assert_array_equal(
        np.sort(whole(permutation_words(jax.random.key(seed)), n)), np.arange(n)
    )


@pytest.mark.parametrize("n", [60_000, 65_536, 99_991], ids=str)
def test_permuted_is_a_bijection_of_whole_data_sets(n):
    moved = whole(permutation_words(jax.random.key(0)), n)
    assert moved.dtype == np.uint32
    np.testing.assert_array_equal(np.sort(moved), np.arange(n))
    # about one fixed point, and neighbours go apart
    assert (moved == np.arange(n)).sum() < 10
    assert abs(np.corrcoef(moved[1:], moved[:-1])[0, 1]) < 5 / np.sqrt(n)


def test_permuted_walks_alike_in_any_company():
    """One index alone, a batch, jit and vmap over words: the same permutation."""
    n = 101
    keys = jax.random.split(jax.random.key(3), 4)
    words = jax.vmap(permutation_words)(keys)
    places = jnp.arange(n, dtype=jnp.uint32)
    plain = np.stack([whole(w, n) for w in words])
    together = jax.jit(jax.vmap(lambda w: permuted(places, w[None], n)))(words)
    np.testing.assert_array_equal(together, plain)
    alone = jax.jit(lambda p: permuted(p, words[0], n))
    assert [int(alone(jnp.uint32(p))) for p in range(n)] == plain[0].tolist()


def chi_square_z(counts, expected):
    """How many standard deviations a chi-square statistic lies from its mean."""
    statistic = ((counts - expected) ** 2 / expected).sum()
    freedom = counts.size - 1
    return (statistic - freedom) / np.sqrt(2 * freedom)


def many(n, places, trials):
    """Where `trials` permutations send the first `places` places, [trials, places]."""
    words = jax.random.bits(jax.random.key(n), (trials, 8), jnp.uint32)
    first = jnp.arange(places, dtype=jnp.uint32)[None]
    return np.asarray(jax.jit(lambda w: permuted(first, w[:, None], n))(words))


@pytest.mark.parametrize("n", [60, 101], ids=str)
def test_every_place_and_pair_of_places_is_as_likely(n):
    trials = 200_000
    moved = many(n, 3, trials)
    for place in range(3):
        counts = np.bincount(moved[:, place], minlength=n)
        assert abs(chi_square_z(counts, trials / n)) < 5
    for place in range(2):
        pairs = np.bincount(moved[:, place] * n + moved[:, place + 1], minlength=n * n)
        pairs = pairs.reshape(n, n)
        assert (np.diag(pairs) == 0).all()
        assert abs(chi_square_z(pairs[~np.eye(n, dtype=bool)], trials / (n * (n - 1)))) < 5


@pytest.mark.parametrize("n", [2, 3, 5, 9, 13], ids=str)
def test_tiny_permutations_are_nearly_uniform(n):
    """Eight rounds over so few values leave a known bias of up to 3 %, at n = 5."""
    trials = 200_000
    moved = many(n, n, trials)
    for place in range(n):
        shares = np.bincount(moved[:, place], minlength=n) / trials
        assert abs(shares * n - 1).max() < 0.03 + 5 * np.sqrt(n / trials)


def run_of(words, steps, **options):
    """The batches of steps 0 .. steps - 1 (or from `first`), [steps, batch]."""
    first = options.pop("first", 0)
    at = jnp.arange(first, first + steps, dtype=jnp.int32)
    return np.asarray(jax.jit(jax.vmap(lambda t: batch_indices(words, t, **options)))(at))


words0 = permutation_words(jax.random.key(0))
words1 = permutation_words(jax.random.key(1))


@pytest.mark.parametrize(
    "n, batch", [(10, 3), (12, 8), (7, 7), (7, 1), (100, 60), (64, 16)], ids=lambda v: str(v)
)
def test_wrapped_batches_show_each_example_once_an_epoch(n, batch):
    steps = 4 * steps_per_epoch(n, batch)
    seen = run_of(words0, steps, examples=n, batch_size=batch)
    assert seen.shape == (steps, batch) and seen.dtype == np.int32
    places = seen.reshape(-1)
    epochs = [places[i * n : (i + 1) * n] for i in range(len(places) // n)]
    assert len(epochs) >= 3
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(n))
    assert not any(np.array_equal(a, b) for a, b in itertools.pairwise(epochs))


@pytest.mark.parametrize("n, batch", [(10, 3), (12, 4), (100, 60)], ids=lambda v: str(v))
def test_dropped_batches_begin_anew_every_epoch(n, batch):
    per_epoch = steps_per_epoch(n, batch, "drop")
    seen = run_of(words0, 3 * per_epoch, examples=n, batch_size=batch, last_batch="drop")
    epochs = seen.reshape(3, per_epoch * batch)
    for epoch in epochs:
        assert len(set(epoch)) == per_epoch * batch
        assert epoch.min() >= 0 and epoch.max() < n
    assert not np.array_equal(epochs[0], epochs[1])


@pytest.mark.parametrize("last_batch", ["wrap", "drop"])
@pytest.mark.parametrize("parts", [4], ids=str)
def test_parts_make_up_the_whole_batch(last_batch, parts):
    options = {"examples": 21, "batch_size": 8, "last_batch": last_batch}
    together = run_of(words0, 9, **options)
    pieces = [run_of(words0, 9, part=(i, parts), **options) for i in range(parts)]
    np.testing.assert_array_equal(np.concatenate(pieces, axis=1), together)
    traced = jax.jit(lambda i: batch_indices(words0, jnp.int32(2), part=(i, parts), **options))
    np.testing.assert_array_equal(traced(jnp.int32(1)), pieces[1][2])


@pytest.mark.parametrize("last_batch", ["wrap", "drop"])
def test_keys_and_steps_give_other_batches(last_batch):
    options = {"examples": 50, "batch_size": 20, "last_batch": last_batch}
    ours, theirs = run_of(words0, 6, **options), run_of(words1, 6, **options)
    assert not any(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert len({tuple(batch) for batch in ours}) == 6
    np.testing.assert_array_equal(run_of(words0, 2, first=4, **options), ours[4:])


def test_distant_epochs_are_independent():
    """The same place in 3000 epochs: every example as often (5 sigma)."""
    seen = run_of(words0, 3000, examples=10, batch_size=10)
    for place in range(10):
        assert chi_square_z(np.bincount(seen[:, place], minlength=10), 300) < 5
    pairs = np.bincount(seen[1:, 0] * 10 + seen[:-1, 0], minlength=100)
    assert chi_square_z(pairs, 2999 / 100) < 5


@pytest.mark.parametrize("step", [10**6, 2**31 - 8], ids=str)
@pytest.mark.parametrize("last_batch", ["wrap", "drop"])
def test_far_steps_do_not_overflow(step, last_batch):
    """At step 10**6 with 50,000 examples, place step * 5000 is past 2**32."""
    n, batch = 50_000, 4_999
    options = {"examples": n, "batch_size": batch, "last_batch": last_batch}
    far = run_of(words0, 4, first=step, **options)
    assert far.min() >= 0 and far.max() < n
    # the same, in python's integers
    for i, t in enumerate(range(step, step + 4)):
        if last_batch == "drop":
            epoch, at = divmod(t, n // batch)
            places = [(epoch, at * batch + j) for j in (0, batch - 1)]
        else:
            places = [divmod(t * batch + j, n) for j in (0, batch - 1)]
        for (epoch, position), j in zip(places, (0, batch - 1), strict=True):
            w = mix(words0 + mix(jnp.uint32(epoch) + jnp.uint32(0x9E3779B9)))
            assert int(permuted(jnp.uint32(position), w, n)) == far[i, j]


def test_batches_past_32_bits_are_refused():
    options = {"examples": 999_983, "batch_size": 8192}
    with pytest.raises(ValueError, match=r"`last_batch`='wrap'.*last_batch='drop'"):
        batch_indices(words0, jnp.int32(0), **options)
    assert batch_indices(words0, jnp.int32(0), last_batch="drop", **options).shape == (8192,)


@pytest.mark.parametrize(
    "n, batch, last_batch, steps",
    [(50_000, 128, "wrap", 391), (50_000, 128, "drop", 390), (60_000, 128, "wrap", 469)],
    ids=["cifar10", "cifar10_drop", "mnist"],
)
def test_steps_of_an_epoch(n, batch, last_batch, steps):
    assert steps_per_epoch(n, batch, last_batch) == steps


@pytest.mark.parametrize("seed", range(3))
def test_fast_uniform_numbers_are_uniform_and_independent(seed):
    n, key = 200_000, jax.random.key(seed)
    rows = np.asarray(
        jax.jit(jax.vmap(lambda i: uniform(jax.random.fold_in(key, i), n)))(jnp.arange(4)),
        np.float64,
    )
    assert rows.min() >= 0
    assert rows.max() < 1
    assert np.unique(rows[0]).size > 0.98 * n
    # each bin of 256 has its share: chi-square with 255 degrees, 6 standard deviations
    for row in rows:
        counts = np.bincount((256 * row).astype(int), minlength=256)
        chi = ((counts - n / 256) ** 2 / (n / 256)).sum()
        assert abs(chi - 255) < 6 * np.sqrt(2 * 255)
    # neither with the next number, nor with a far one, nor with the next key's
    centered = rows - 0.5
    for a, b in (
        *((row[:-lag], row[lag:]) for row in centered for lag in (1, 2, 64, 1024)),
        *itertools.combinations(centered, 2),
    ):
        assert abs(np.mean(a * b)) * 12 < 5 / np.sqrt(len(a))
