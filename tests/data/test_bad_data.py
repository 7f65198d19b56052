"""Arrays that are no data set: refused, or warned of, and never changed behind the user's back."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

import jaxticket.data as jd

X = np.random.default_rng(0).integers(0, 256, (20, 3, 2, 1)).astype(np.uint8)
Y = np.arange(20) % 4
TOKENS = np.random.default_rng(1).integers(0, 50, (20, 6))


def made(x=X, y=Y, **options):
    return jd.from_arrays(x, y, x, y, **options)


# --- what is standardized


@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_images_are_standardized_unless_told_otherwise(dtype):
    x = X.astype(dtype)
    plain, raw = made(x), made(x, normalize=False)
    assert np.allclose(plain.mean, X.mean()) and np.allclose(plain.std, X.std())
    assert raw.mean == 0 and raw.std == 1 and not raw.normalize
    assert plain.fingerprint != raw.fingerprint
    for part in (*raw.halves(), raw.fraction(0.5), raw.with_validation(0.2)):
        assert part.mean == 0 and part.std == 1 and not part.normalize


def test_data_that_are_standard_already_are_still_told_apart():
    x = np.stack([np.ones((4, 4, 1)), -np.ones((4, 4, 1))] * 10).astype(np.float32)
    plain, raw = made(x), made(x, normalize=False)
    assert (plain.mean, plain.std) == (raw.mean, raw.std)
    assert plain.fingerprint != raw.fingerprint


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.uint16, np.int32, np.int64, np.uint32])
def test_whole_numbers_other_than_pixels_are_tokens(dtype):
    data = made(TOKENS.astype(dtype))
    assert data.tokens and data.shape == (6,) and data.train.x.dtype == np.int32
    assert np.array_equal(data.train.x, TOKENS)
    assert not data.mean.any() and (data.std == 1).all() and not data.normalize
    assert not data.with_validation(0.2).mean.any()


def test_grids_of_tokens_are_asked_for():
    grid = TOKENS.reshape(20, 3, 2)
    with pytest.raises(ValueError, match=r"got int64; convert to uint8 for images, or pass norm"):
        made(grid)
    data = made(grid, normalize=False)
    assert data.shape == (3, 2) and np.array_equal(data.train.x, grid)


def test_features_of_one_pixel_are_standardized_each():
    x = np.random.default_rng(2).normal(5, [1, 10, 100], (20, 1, 1, 3))
    data = made(x)
    assert np.allclose(data.mean, x.mean((0, 1, 2))) and np.allclose(data.std, x.std((0, 1, 2)))


# --- what is refused


def masked(x):
    return np.ma.masked_array(x, mask=np.arange(x.size).reshape(x.shape) == 0)


NAMES = np.array(["ant", "bee", "cat", "dog"])[Y]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"x_train": masked(X)}, "`x_train` is a masked array, whose mask would be lost"),
        ({"y_test": masked(Y)}, "`y_test` is a masked array"),
        ({"x_train": X.reshape(20, 6)}, r"rows of features are x.astype\('float32'\), tokens"),
        ({"x_train": np.arange(20)}, r"`x_train` must be \[n, height, width\]"),
        ({"x_train": TOKENS + 2**40}, "`x_train` holds whole numbers from .*int32"),
        ({"x_test": TOKENS}, "`x_test` has images of int32"),
        ({"x_train": [[1], [1, 2]]}, "`x_train` must be an array, got rows of different lengths"),
        ({"y_test": Y + 0.5}, "these are not classes: pass labels='numbers' for regression"),
        ({"y_train": Y * 1.0}, r"got float64; convert classes with astype\('int32'\), or pass lab"),
        ({"y_train": np.eye(4)[Y]}, r"shape \[n\], got shape \(20, 4\); turn one-hot rows"),
        ({"y_train": Y[:, None]}, r"columns with reshape\(-1\)"),
        ({"y_train": np.where(Y > 2, np.nan, Y)}, "`y_train` holds 5 values that are nan"),
        ({"labels": "words"}, "`labels` must be one of 'classes', 'multilabel', 'tokens', 'numb"),
        ({"labels": "multilabel"}, "`y_train` must be 0 or 1 for each example and label"),
        ({"splits": {"train": (X, Y)}}, "`splits` and `x_train` are given together"),
        ({"y_train": NAMES}, r"got <U3; number the names with .*np.unique\(y, return_inverse"),
        ({"y_train": NAMES.astype(object)}, "got object; number the names"),
        ({"y_train": Y * 0, "y_test": Y * 0}, "`y_train` holds a single class, 0"),
        ({"y_train": Y * 0 + 3, "y_test": Y * 0 + 3}, "`y_train` holds a single class, 3"),
        ({"y_test": np.where(Y == 3, 10**6, Y)}, "1,000,001 classes for 40 examples"),
        ({"classes": 1}, "`classes` must be a whole number of at least 2, got 1"),
        ({"normalize": 1}, "`normalize` must be True, False or 'entries', got 1"),
        ({"normalize": "no"}, "`normalize` must be True, False or 'entries', got 'no'"),
    ],
)
def test_arrays_that_are_no_data_set(changes, message):
    good = {"x_train": X, "y_train": Y, "x_test": X, "y_test": Y}
    with pytest.raises(ValueError, match=message):
        jd.from_arrays(**(good | changes))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (Y + 1, 5, r"no example of 1 of 5 classes \(0\)"),
        (np.array([0, 5, 9])[Y % 3], 10, r"of 7 of 10 classes \(1, 2, 3, 4, 6, 7, 8\)"),
        (np.where(Y == 3, 19, Y), 20, r"of 16 of 20 classes \(3, 4, 5, 6, 7, 8, 9, 10, \.\.\.\)"),
    ],
    ids=["from 1", "gaps", "one far off"],
)
def test_classes_without_examples_are_named(labels, classes, message):
    with pytest.warns(UserWarning, match=message):
        data = made(y=labels)
    assert data.classes == classes
    # asked for, there is nothing to say
    assert made(y=labels, classes=classes).fingerprint == data.fingerprint


@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (4, 8, 6)], ids=str)
def test_channels_that_come_first_are_warned_of(shape):
    x = np.random.default_rng(0).integers(0, 256, (20, *shape)).astype(np.uint8)
    with pytest.warns(UserWarning, match=r"shape \(\d, \d+, \d+\): .*Channels come last"):
        made(x)
    made(np.moveaxis(x, 1, -1))


def test_rows_that_are_taken_as_images_are_warned_of():
    with pytest.warns(UserWarning, match=r"\(20, 1, 6\) is taken as images of 1 x 6 pixels"):
        made(np.random.default_rng(0).normal(size=(20, 1, 6)))


def test_what_the_user_changes_later_changes_nothing():
    x, y = X.astype(np.float32), Y.copy()
    data = made(x, y)
    before = (data.train.x.copy(), data.train.y.copy(), data.test.x.copy())
    x /= 255
    y[:] = 0
    for old, new in zip(before, (data.train.x, data.train.y, data.test.x), strict=True):
        assert np.array_equal(old, new)
    assert np.allclose(data.mean, X.mean())
    assert data.fingerprint == made(X.astype(np.float32), Y).fingerprint


@pytest.mark.parametrize("kind", ["view", "read-only view", "jax"])
def test_views_are_copied_too(kind):
    x = X.copy()
    given = jnp.asarray(x) if kind == "jax" else x[:]
    if kind == "read-only view":
        given.flags.writeable = False
    data = made(given)
    x[:] = 0
    assert np.array_equal(data.train.x, X)
    assert not np.shares_memory(data.train.x, np.asarray(given))


def split(x=X, y=Y):
    return jd.Split(x, np.asarray(y, np.int32))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": split(y=Y + 1)}, r"`train` has labels from 1 to 4, which must lie in \[0, 4\)"),
        ({"test": split(y=Y - 1)}, "`test` has labels from -1 to 2"),
        ({"classes": 3}, "`train` has labels from 0 to 3"),
        ({"classes": 0}, "`classes` must be"),
        ({"train": split(y=Y[:-1])}, "`train` has 20 examples and labels of shape"),
        ({"train": split(x=X[:, :2])}, r"`test` has examples of uint8 \(3, 2, 1\), `train` of"),
        ({"test": split(x=X / 255)}, "`test` has examples of float64"),
        ({"train": jd.Split(X, Y.astype(np.float64))}, "`train` must hold NumPy arrays, its label"),
        ({"train": jd.Split(X.tolist(), Y)}, "`train` must hold NumPy arrays"),
        ({"mean": np.zeros(2)}, r"`mean` must be one finite number per channel \(1\)"),
        ({"mean": np.nan}, "`mean` must be one finite number"),
        ({"std": 0.0}, "`std` must be above 0"),
    ],
)
def test_replacing_a_part_is_checked(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(made(), **changes)


def test_replacing_what_fits():
    assert dataclasses.replace(made(), mean=0, std=1).mean.tolist() == [0.0]
    data = dataclasses.replace(made(), train=split(X[:5], Y[:5]))
    assert len(data.train) == 5 and data.mean == made().mean
    with pytest.raises(ValueError, match=r"whole numbers .*not standardized"):
        dataclasses.replace(made(TOKENS), mean=np.ones(6))
    bad = X.astype(np.float32)
    bad[0] = np.nan
    with pytest.raises(ValueError, match="`test` holds values that are nan or infinite"):
        dataclasses.replace(made(X.astype(np.float32)), test=split(bad))


@pytest.mark.parametrize("method", ["halves", "fraction", "with_validation"])
def test_numpy_seeds_are_taken(method):
    share = [] if method == "halves" else [0.5]
    ours, theirs = (getattr(made(), method)(*share, seed=s) for s in (3, np.int64(3)))
    if method == "halves":
        ours, theirs = ours[0], theirs[0]
    assert ours.fingerprint == theirs.fingerprint and ours.about == theirs.about
    assert type(theirs.about["steps"][0]["seed"]) is int
