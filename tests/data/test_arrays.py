"""Arrays as data sets: checks, statistics, fingerprints, divisions of the training split."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import jaxticket.data as jd
from jaxticket.data.sampling import permutation, stratified


def arrays(n=20, classes=4, shape=(3, 2, 1), dtype=np.uint8, seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 256, (n, *shape)).astype(dtype)
    return x, np.arange(n) % classes


def made(n=20, classes=4, labels=None, **kwargs):
    """A data set whose images can be told apart: image i holds the number i."""
    y = np.arange(n) % classes if labels is None else np.asarray(labels)
    x = np.broadcast_to(np.arange(len(y), dtype=np.float32)[:, None, None], (len(y), 2, 2))
    return jd.from_arrays(x, y, x[:3], y[:3], classes=classes, **kwargs)


def ids(split):
    return split.x[:, 0, 0, 0].astype(int).tolist()


# --- from_arrays


def test_from_arrays_keeps_uint8_and_adds_a_channel():
    x, y = arrays(shape=(3, 2))
    data = jd.from_arrays(x, y, x[:5], y[:5], name="made")
    assert (data.name, data.classes, data.shape) == ("made", 4, (3, 2, 1))
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int32
    assert np.array_equal(data.train.x[..., 0], x) and np.array_equal(data.train.y, y)
    assert list(data.splits) == ["train", "test"] and data.validation is None
    assert (len(data.train), len(data.test)) == (20, 5)
    assert data.about == {"source": "arrays"}


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_from_arrays_makes_floats_float32(dtype):
    x, y = arrays(dtype=dtype)
    data = jd.from_arrays(x, y, x, y)
    assert data.train.x.dtype == np.float32
    assert data.mean.dtype == data.std.dtype == np.float32


def test_from_arrays_takes_jax_arrays_lists_and_a_validation_split():
    import jax.numpy as jnp

    x, y = arrays()
    data = jd.from_arrays(
        jnp.asarray(x), jnp.asarray(y), x, y.tolist(), x_validation=x[:2], y_validation=y[:2]
    )
    assert list(data.splits) == ["train", "validation", "test"]
    assert len(data.splits["validation"]) == 2
    assert data.classes == 4


def test_classes_are_counted_over_all_splits():
    x, y = arrays(4, classes=2)
    with pytest.warns(UserWarning, match=r"no example of 5 of 7 classes \(2, 3, 4, 5, 6\)"):
        assert jd.from_arrays(x, y, x, y + 5).classes == 7
    assert jd.from_arrays(x, y, x, y, classes=np.int64(9)).classes == 9


def test_arrays_are_read_only_and_those_passed_stay_writable():
    x, y = arrays()
    data = jd.from_arrays(x, y, x, y)
    for array in (data.train.x, data.train.y, data.mean, data.halves()[0].train.x):
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 0
    x[0] = 1


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_mean_and_std_are_those_of_the_training_split(dtype):
    x, y = arrays(300, shape=(5, 4, 3), dtype=dtype)
    data = jd.from_arrays(x, y, x[:1], y[:1])
    wide = x.astype(np.float64)
    assert np.allclose(data.mean, wide.mean(axis=(0, 1, 2)), rtol=1e-6)
    assert np.allclose(data.std, wide.std(axis=(0, 1, 2)), rtol=1e-6)


def test_mean_and_std_of_many_images_do_not_overflow():
    x = np.full((3000, 32, 32, 1), 255, np.uint8)
    x[::2] = 0
    y = np.arange(3000) % 2
    data = jd.from_arrays(x, y, x[:1], y[:1])
    assert data.mean == np.float32(127.5) and data.std == np.float32(127.5)


@pytest.mark.parametrize(("dtype", "value"), [(np.uint8, 7), (np.float32, 0.1)])
def test_a_constant_channel_has_std_1(dtype, value):
    x, y = arrays(shape=(3, 2, 2), dtype=dtype)
    x[..., 1] = value
    data = jd.from_arrays(x, y, x, y)
    assert data.std[1] == 1 and data.std[0] > 1
    assert data.mean[1] == np.float32(value)


X, Y = arrays()
NAN = X.astype(np.float32)
NAN[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": X.reshape(20, 6)}, r"`x_train` must be \[n, height.*got shape \(20, 6\)"),
        ({"x_test": X[None]}, r"`x_test` must be"),
        (
            {"x_train": X.astype(np.int64)},
            "`x_train` must be uint8 or floating, got int64; .*uint8",
        ),
        ({"x_train": X.astype(np.int64) * 2}, "got int64; convert to float32"),
        ({"x_train": X > 3}, "got bool; convert to uint8"),
        ({"x_train": X.astype(complex)}, "got complex128; convert to float32"),
        ({"x_train": X[:0], "y_train": Y[:0]}, r"`x_train` is empty: shape \(0, 3, 2, 1\)"),
        ({"x_test": X[:, :0]}, "`x_test` is empty"),
        ({"x_train": NAN}, "`x_train` holds 1 values that are nan or infinite"),
        ({"x_train": X.astype(np.float64) * 1e300}, "nan or infinite in float32"),
        ({"x_test": X[:, :2]}, r"`x_test` has images of uint8 \(2, 2, 1\), `x_train` of uint8 \(3"),
        ({"x_test": X.astype(np.float32)}, "`x_test` has images of float32"),
        ({"y_train": Y[:-1]}, "`y_train` has 19 labels and `x_train` 20 images"),
        ({"y_train": np.eye(4)[Y]}, r"`y_train` must be one label per image.*argmax"),
        ({"y_train": Y.astype(np.float32)}, "`y_train` must be whole numbers, got float32"),
        ({"y_test": Y > 0}, "`y_test` must be whole numbers, got bool"),
        ({"y_train": Y - 1}, r"`y_train` must lie in \[0, 4\), got labels from -1 to 2"),
        ({"y_train": Y.astype(np.int64) + 2**40}, "`y_train` holds labels from"),
        ({"classes": 3}, r"`y_train` must lie in \[0, 3\), got labels from 0 to 3"),
        ({"classes": 0}, "`classes` must be a whole number of at least 2, got 0"),
        ({"classes": 4.0}, "`classes` must be a whole number"),
        ({"x_validation": X}, "`x_validation` needs `y_validation`"),
        ({"y_validation": Y}, "`y_validation` needs `x_validation`"),
        ({"x_validation": X, "y_validation": Y + 9, "classes": 4}, "`y_validation` must lie"),
    ],
)
def test_arrays_that_do_not_fit(changes, message):
    good = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y, "classes": 4}
    with pytest.raises(ValueError, match=message):
        jd.from_arrays(**(good | changes))


# --- fingerprint


def test_fingerprint_depends_on_the_arrays_and_not_on_the_name():
    x, y = arrays()
    data = jd.from_arrays(x, y, x, y)
    assert data.fingerprint == jd.from_arrays(x.copy(), y, x, y, name="other").fingerprint
    other = x.copy()
    other[-1, -1, -1, -1] ^= 1
    flipped = (y + 1) % 4
    different = {
        data.fingerprint,
        jd.from_arrays(other, y, x, y).fingerprint,
        jd.from_arrays(x, y, other, y).fingerprint,
        jd.from_arrays(x, flipped, x, y).fingerprint,
        jd.from_arrays(x, y, x, y, x_validation=x, y_validation=y).fingerprint,
        jd.from_arrays(x.astype(np.float32), y, x.astype(np.float32), y).fingerprint,
        data.with_validation().fingerprint,
    }
    assert len(different) == 7


def test_fingerprint_is_the_same_everywhere():
    # a constant: another numpy, another machine or another process must not change it
    assert jd.digits().fingerprint == (
        "430f8e34940d062231ba38757bfdf7a0b5593fff46550798307d69fa59e8d985"
    )
    assert jd.load("digits", validation=0.1).fingerprint == (
        "b8822620f0ea6bbbf34be5b1e90359ecebfbaddc925054b76fdf2776bcdd08f9"
    )


# --- permutation and stratified


def test_permutation_is_pinned_and_named():
    assert permutation(8, seed=0, stream="halves").tolist() == [4, 1, 6, 3, 0, 7, 2, 5]
    assert sorted(permutation(100, seed=3, stream="a")) == list(range(100))
    a, b, c = (permutation(50, seed=s, stream=n) for s, n in ((0, "a"), (1, "a"), (0, "b")))
    assert not np.array_equal(a, b) and not np.array_equal(a, c)


def test_permutation_leaves_the_global_state_alone():
    before = np.random.get_state()[1].copy()
    permutation(50, seed=0, stream="a")
    assert np.array_equal(before, np.random.get_state()[1])


@pytest.mark.parametrize("seed", [-1, 0.5, 2**32, True])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="`seed`"):
        made().with_validation(seed=seed)


LABELS = st.lists(st.integers(0, 4), min_size=2, max_size=60)


@given(LABELS, st.data())
def test_stratified_is_exact_in_total_and_within_one_per_class(labels, draw):
    y = np.array(labels)
    count = draw.draw(st.integers(0, len(y)))
    chosen = stratified(y, count, seed=draw.draw(st.integers(0, 9)), stream="a")
    assert len(set(chosen.tolist())) == len(chosen) == count
    assert np.array_equal(chosen, np.sort(chosen))
    exact = count * np.bincount(y) / len(y)
    got = np.bincount(y[chosen], minlength=len(exact))
    assert np.all(np.floor(exact) <= got) and np.all(got <= np.ceil(exact))


# --- halves, fraction, with_validation


@given(LABELS, st.integers(0, 9))
@settings(max_examples=50)
def test_halves_are_disjoint_balanced_and_cover(labels, seed):
    data = made(labels=labels, classes=5)
    a, b = data.halves(seed=seed)
    assert sorted(ids(a.train) + ids(b.train)) == list(range(len(labels)))
    counts = [np.bincount(half.train.y, minlength=5) for half in (a, b)]
    assert np.abs(counts[0] - counts[1]).max() <= 1
    assert abs(len(a.train) - len(b.train)) <= 1
    for half in (a, b):
        assert np.array_equal(half.train.y, np.array(labels)[ids(half.train)])


def test_halves_are_named_and_share_the_test_split():
    data = made(10)
    a, b = data.halves(seed=1)
    assert (a.name, b.name) == ("arrays-a", "arrays-b")
    assert a.test is data.test and b.test is data.test
    assert a.mean == a.train.x.mean() and b.mean == b.train.x.mean()
    assert np.isclose(a.std[0], a.train.x.std())
    assert a.about["steps"][0]["half"] == "a" and a.about["steps"][0]["seed"] == 1
    assert ids(a.train) == ids(data.halves(seed=1)[0].train)
    assert ids(a.train) != ids(data.halves(seed=2)[0].train)


def test_halves_of_one_example():
    with pytest.raises(ValueError, match="at least 2 training examples"):
        jd.from_arrays(X[:1], Y[:1], X, Y, classes=4).halves()


@given(LABELS, st.floats(0.01, 1), st.integers(0, 9))
@settings(max_examples=50)
def test_fraction_has_the_exact_count(labels, share, seed):
    data = made(labels=labels, classes=5)
    count = round(share * len(labels))
    if count == 0:
        with pytest.raises(ValueError, match="keeps none"):
            data.fraction(share, seed=seed)
        return
    part = data.fraction(share, seed=seed)
    assert len(part.train) == len(set(ids(part.train))) == count
    exact = count * np.bincount(labels, minlength=5) / len(labels)
    assert np.all(np.abs(np.bincount(part.train.y, minlength=5) - exact) < 1)


def test_fraction_is_named_and_a_whole_one_is_everything():
    data = made(10)
    assert data.fraction(0.5).name == "arrays-0.5"
    assert data.fraction(1).fingerprint == data.fingerprint
    assert data.fraction(0.5).mean == data.fraction(0.5).train.x.mean()


@pytest.mark.parametrize("share", [0, -0.1, 1.1, float("nan")])
def test_fraction_share_outside_the_interval(share):
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\]"):
        made().fraction(share)


@given(st.integers(2, 60), st.floats(0.01, 0.99), st.integers(0, 9))
@settings(max_examples=50)
def test_with_validation_divides_the_training_split(n, share, seed):
    data = made(n)
    count = round(share * n)
    if count in (0, n):
        with pytest.raises(ValueError, match="leaves an empty part"):
            data.with_validation(share, seed=seed)
        return
    held = data.with_validation(share, seed=seed)
    assert len(held.validation) == count
    assert sorted(ids(held.train) + ids(held.validation)) == list(range(n))
    assert ids(held.train) == sorted(ids(held.train))
    assert np.isclose(held.mean[0], held.train.x.mean())
    assert np.array_equal(held.validation.y, data.train.y[ids(held.validation)])


def test_with_validation_keeps_the_name_and_says_what_was_done():
    held = made(30).with_validation(0.1, seed=5)
    assert held.name == "arrays" and held.test.x.shape[0] == 3
    (step,) = held.about["steps"]
    assert step["step"] == "with_validation" and step["seed"] == 5 and step["examples"] == 27
    both = held.fraction(0.5)
    assert both.validation is held.validation
    assert [step["step"] for step in both.about["steps"]] == ["with_validation", "fraction"]
    assert json.loads(json.dumps(both.about)) == both.about


def test_a_second_validation_split_is_refused():
    with pytest.raises(ValueError, match=r"`share`=0.1 asks for a second validation split"):
        made().with_validation(0.2).with_validation()


@pytest.mark.parametrize("share", [0, 1, -1])
def test_with_validation_share_outside_the_interval(share):
    with pytest.raises(ValueError, match=r"`share` must be in \(0, 1\)"):
        made().with_validation(share)
