"""`load` by name, path and function; `.npz` files, the digits, and the real MNIST."""

import numpy as np
import pytest

import jaxticket.data as jd

X = np.random.default_rng(0).integers(0, 256, (20, 3, 2, 1)).astype(np.uint8)
Y = np.arange(20) % 4


def made(name="arrays"):
    return jd.from_arrays(X, Y, X, Y, name=name)


# --- from_npz


def test_from_npz(tmp_path):
    np.savez(tmp_path / "small.npz", x_train=X, y_train=Y, x_test=X[:5], y_test=Y[:5])
    data = jd.from_npz(tmp_path / "small.npz")
    assert data.name == "small" and data.about == {"source": "npz file", "file": "small.npz"}
    assert data.fingerprint == jd.from_arrays(X, Y, X[:5], Y[:5]).fingerprint
    assert jd.from_npz(str(tmp_path / "small.npz"), name="other").name == "other"
    np.savez_compressed(
        tmp_path / "v.npz",
        x_train=X,
        y_train=Y,
        x_test=X,
        y_test=Y,
        x_validation=X[:2],
        y_validation=Y[:2],
    )
    assert len(jd.from_npz(tmp_path / "v.npz").validation) == 2


def test_from_npz_files_that_do_not_fit(tmp_path):
    path = tmp_path / "a.npz"
    with pytest.raises(ValueError, match=r"`path` is not a file: .*a\.npz.*savez"):
        jd.from_npz(path)
    path.write_bytes(b"no zip file")
    with pytest.raises(ValueError, match="`path` cannot be read"):
        jd.from_npz(path)
    np.savez(path, x_train=X, y_train=Y, x_test=X, y_test=Y)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="`path` cannot be read"):
        jd.from_npz(path)
    with path.open("wb") as file:
        np.save(file, X)
    with pytest.raises(ValueError, match="`path` cannot be read"):
        jd.from_npz(path)
    np.savez(path, x_train=X, y_train=np.array([object()] * 20), x_test=X, y_test=Y)
    with pytest.raises(ValueError, match="`path` cannot be read"):
        jd.from_npz(path)
    np.savez(path, x_train=X, y_train=Y, x_tst=X, y_test=Y)
    with pytest.raises(ValueError, match="missing: x_test, unknown: x_tst"):
        jd.from_npz(path)
    np.savez(path, x_train=X, y_train=Y, x_test=X, y_test=Y[:3])
    with pytest.raises(ValueError, match="`y_test` has 3 labels"):
        jd.from_npz(path)


# --- digits and load


def test_digits():
    data = jd.digits()
    assert (data.name, data.classes, data.shape) == ("digits", 10, (8, 8, 1))
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.train.x.dtype == np.uint8 and data.train.x.max() == 16
    together = np.concatenate([data.train.x, data.test.x]).reshape(1797, 64)
    from sklearn.datasets import load_digits

    original = load_digits().data.astype(np.uint8)
    assert np.array_equal(np.unique(together, axis=0), np.unique(original, axis=0))
    assert np.array_equal(
        np.bincount(data.train.y) + np.bincount(data.test.y), np.bincount(load_digits().target)
    )
    assert jd.digits(seed=1).fingerprint != data.fingerprint


def test_load_by_name_function_and_path(tmp_path):
    data = jd.load("digits")
    assert data.fingerprint == jd.load(jd.digits).fingerprint
    assert data.fingerprint != jd.load("digits", seed=1).fingerprint
    held = jd.load("digits", validation=0.1, seed=2)
    assert held.fingerprint == jd.digits(seed=2).with_validation(0.1, seed=2).fingerprint
    np.savez(tmp_path / "small.npz", x_train=X, y_train=Y, x_test=X, y_test=Y)
    for path in (tmp_path / "small.npz", str(tmp_path / "small.npz")):
        assert jd.load(path).name == "small"


def test_load_passes_a_function_what_it_takes():
    seen = {}

    def own(**settings):
        seen.update(settings)
        return made()

    assert jd.load(own, seed=3, download=True).name == "arrays"
    assert seen == {"data_dir": None, "download": True, "seed": 3}
    assert jd.load(lambda: made(name="mine")).name == "mine"
    assert jd.load(lambda data_dir: made(name=data_dir), data_dir="x").name == "x"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("digit", {}, "`name` is unknown: 'digit'; did you mean 'digits'"),
        ("missing.npz", {}, "`name` is unknown: 'missing.npz'.*tfds:NAME"),
        (3, {}, "`name` is unknown: 3"),
        ("digits", {"data_dir": "x"}, "`data_dir`='x' is not used for 'digits'"),
        ("digits", {"validation": 1.0}, r"`validation` must be in \[0, 1\)"),
        (lambda: 3, {}, "must be a function that returns a Data, it returned int"),
        ("svhn", {}, "`name`='svhn_cropped' is not prepared"),
        ("imagenet", {}, r"1,331,167 images take 200 GB at 224x224; use .*stream\('imagenet'"),
        ("places365", {"data_dir": "x"}, r"1,839,960 images take 277 GB .*stream\('places365'"),
    ],
)
def test_load_refuses(name, settings, message, monkeypatch, tmp_path):
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    with pytest.raises(ValueError, match=message):
        jd.load(name, **settings)


def test_datasets_is_a_plain_dict():
    assert type(jd.DATASETS) is dict
    assert set(jd.DATASETS) == {
        "digits", "mnist", "fashion_mnist", "cifar10", "cifar100", "svhn_cropped", "svhn",
        "tiny_imagenet", "imagenet", "places365",
    }  # fmt: skip


# --- MNIST


@pytest.mark.slow
def test_mnist(tfds_dir, tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    data = jd.load("mnist", data_dir=tfds_dir)
    assert (data.name, data.classes, data.shape) == ("mnist", 10, (28, 28, 1))
    assert (len(data.train), len(data.test)) == (60000, 10000)
    train = [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    test = [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert np.bincount(data.train.y).tolist() == train
    assert np.bincount(data.test.y).tolist() == test
    assert abs(data.mean[0] - 33.318) < 0.01 and abs(data.std[0] - 78.567) < 0.01
    assert data.about["version"] == "3.0.1"
    held = jd.load("mnist", data_dir=tfds_dir, validation=0.1)
    assert (len(held.train), len(held.validation)) == (54000, 6000)
    assert held.test.y.tolist() == data.test.y.tolist()
