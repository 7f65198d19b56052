"""Prepared corruptions, of TensorFlow Datasets and as published: the errors of computed ones."""

import dataclasses
import io

import jax
import numpy as np
import pytest
from PIL import Image
from test_tfds import builder_class

import jaxticket as jt
import jaxticket.data as jd
from jaxticket.data.corruption_files import prepared

X = np.random.default_rng(0).integers(0, 256, (30, 6, 6, 3), dtype=np.uint8)
Y = np.arange(30) % 3
DATA = dataclasses.replace(
    jd.from_arrays(X[:10], Y[:10], X[10:], Y[10:], name="cifar10-a"), about={"builder": "cifar10"}
)
NAMES, SEVERITIES = ("glass_blur", "elastic_transform", "fog"), (2, 4)
COMPUTED = jt.probes.Corruptions(names=NAMES, severities=SEVERITIES)


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds_default"))
    monkeypatch.delenv("JAXTICKET_DATA_DIR", raising=False)


def prepare_one(root, name, severity, label):
    """A set of TensorFlow Datasets in array_record files, with a test split alone."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    x = jd.corrupt(DATA.test.x, name, severity)

    def info(self):
        features = {
            "image": tfds.features.Image(shape=(6, 6, 3)),
            "label": tfds.features.ClassLabel(num_classes=3),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def examples(self, n):
        for i in range(n):
            file = io.BytesIO()
            Image.fromarray(x[i]).save(file, "PNG")
            file.seek(0)
            yield i, {"image": file, "label": int(DATA.test.y[i])}

    with registered.skip_registration():
        cls = type("Corrupted", (builder_class(),), {
            "name": "cifar10_corrupted", "BUILDER_CONFIGS": [tfds.core.BuilderConfig(name=label)],
            "examples": {"test": len(x)}, "_info": info, "_generate_examples": examples,
        })  # fmt: skip
    made = cls(config=label, data_dir=str(root), file_format="array_record")
    made.download_and_prepare()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The same images twice: sets of TensorFlow Datasets, and the published files."""
    sets, files = (tmp_path_factory.mktemp(name) for name in ("sets", "files"))
    renamed = {"glass_blur": "frosted_glass_blur", "elastic_transform": "elastic", "fog": "fog"}
    (files / "CIFAR-10-C").mkdir()
    for name in NAMES:
        for severity in SEVERITIES:
            prepare_one(sets, name, severity, f"{renamed[name]}_{severity}")
        every = [jd.corrupt(DATA.test.x, name, severity) for severity in jd.corruptions.SEVERITIES]
        np.save(files / "CIFAR-10-C" / f"{name}.npy", np.concatenate(every))
    np.save(files / "CIFAR-10-C" / "labels.npy", np.tile(DATA.test.y, 5).astype(np.uint8))
    return {"sets": sets, "files": files}


@pytest.mark.parametrize("form", ["sets", "files"])
def test_errors_are_those_of_the_same_images(folders, form):
    net = jt.networks.lenet((6, 6, 3), 3, widths=(6,))
    params, stats = net.init(jax.random.key(0))
    mask = jax.tree.map(lambda w: np.ones(w.shape, bool), params)
    ticket = jt.Ticket(mask, params, stats, np.int32(0), np.int32(0))
    problem = jt.Problem(net, DATA, jt.Training())
    probe = jt.probes.Corruptions(
        names=NAMES, severities=SEVERITIES, source="prepared", data_dir=folders[form]
    )
    assert probe.data_dir == str(folders[form])
    found = []
    for one in (COMPUTED, probe):
        more = one.prepare(DATA, "test", None)
        found.append(one(dataclasses.replace(problem, more=more), ticket, key=jax.random.key(0)))
    assert found[0].keys() == found[1].keys() and len(found[0]["error_fog"]) == 2
    for name, value in found[0].items():
        np.testing.assert_array_equal(value, found[1][name])
    # a part of them, evenly spread
    few = dict(prepared_rows(folders[form], 7))
    every = dict(prepared_rows(folders[form], None))
    assert len(few) == 7 and few.items() <= every.items() and len(every) == 20


def prepared_rows(folder, count):
    x, y = prepared(DATA, "fog", 4, data_dir=folder, examples=count)
    return [(image.tobytes(), int(label)) for image, label in zip(x, y, strict=True)]


def test_what_is_missing_or_does_not_fit_is_refused(folders, tmp_path, monkeypatch):
    with pytest.raises(
        jd.MissingDataError, match=r"`source`='prepared' needs .*CIFAR-10-C"
    ) as said:
        prepared(DATA, "snow", 1, data_dir=folders["sets"])
    assert "cifar10_corrupted/snow_1" in str(said.value) and "Looked in" in str(said.value)
    probe = jt.probes.Corruptions(names=("fog",), source="prepared")
    with pytest.raises(jd.MissingDataError, match="TFDS_DATA_DIR"):
        probe.prepare(DATA, "test", None)
    mnist = dataclasses.replace(DATA, name="mnist", about={})
    with pytest.raises(jd.MissingDataError, match=r"has no corruptions of 'mnist'"):
        prepared(mnist, "fog", 4, data_dir=folders["sets"])
    small = jd.from_arrays(X[:, :5], Y, X[:, :5], Y, name="cifar10")
    with pytest.raises(ValueError, match=r"`data` 'cifar10' has examples of uint8 \(5, 6, 3\)"):
        prepared(small, "fog", 4, data_dir=folders["sets"])
    two = jd.from_arrays(X, Y % 2, X, Y % 2, name="cifar10")
    with pytest.raises(ValueError, match="`data` 'cifar10' has 2 classes"):
        prepared(two, "fog", 4, data_dir=folders["files"])
    # the environment names the folder too
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(folders["files"]))
    assert len(prepared(DATA, "fog", 4)[0]) == 20
    home = tmp_path / "CIFAR-10-C"
    home.mkdir()
    np.save(home / "fog.npy", X[:7])
    np.save(home / "labels.npy", Y[:7])
    with pytest.raises(ValueError, match=r"`data_dir`: .* five times all test images"):
        prepared(DATA, "fog", 1, data_dir=tmp_path)
    (home / "fog.npy").write_bytes(b"no array")
    with pytest.raises(ValueError, match=r"`data_dir`: .*fog.npy cannot be read"):
        prepared(DATA, "fog", 1, data_dir=tmp_path)
    (home / "fog.npy").unlink()
    (home / "labels.npy").unlink()
    with pytest.raises(ValueError, match="has no split 'train'"):
        jd.tfds.read_split("cifar10_corrupted/fog_4", "train", data_dir=folders["sets"])
