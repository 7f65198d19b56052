"""TFDS sets: a real array_record folder, made without TensorFlow, read, cached and refused."""

import functools
import io
import json
import shutil
import sys
import time

import numpy as np
import pytest
from PIL import Image

import jaxticket.data as jd
from jaxticket.data import cache
from jaxticket.data import tfds as reader
from jaxticket.data.streaming import STREAMS
from jaxticket.data.tfds import LICENCES

SPLITS = {"train": 12, "test": 6}


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch, tmp_path):
    """No test writes to the user's cache or looks into the user's data sets."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds_default"))
    monkeypatch.delenv("JAXTICKET_DATA_DIR", raising=False)


def picture(i, size=(5, 4)):
    """Image i of (height, width) `size`: the number i everywhere but at one pixel."""
    x = np.full(size, i, np.uint8)
    x[1, 2] = 255
    return x


@functools.cache
def builder_class():
    """A TFDS builder that yields PNG bytes, which needs no TensorFlow to prepare."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    tfds.disable_progress_bar()

    with registered.skip_registration():

        class Tiny(tfds.core.GeneratorBasedBuilder):
            VERSION = tfds.core.Version("1.2.0")
            name = "tiny"
            examples = SPLITS
            first = 0
            mixed = False
            feature_names = ("image", "label")

            def _info(self):
                shape = (None, None, 1) if self.mixed else (5, 4, 1)
                image, label = self.feature_names
                features = {
                    image: tfds.features.Image(shape=shape),
                    label: tfds.features.ClassLabel(names=["ant", "bee", "cat"]),
                }
                return tfds.core.DatasetInfo(
                    builder=self, features=tfds.features.FeaturesDict(features), license="made up"
                )

            def _split_generators(self, dl_manager):
                return {split: self._generate_examples(n) for split, n in self.examples.items()}

            def _generate_examples(self, n):
                image, label = self.feature_names
                for i in range(self.first, self.first + n):
                    size = (5, 4 + i % 2) if self.mixed else (5, 4)
                    file = io.BytesIO()
                    Image.fromarray(picture(i, size)).save(file, "PNG")
                    file.seek(0)
                    yield i, {image: file, label: i % 3}

    return Tiny


def builder(root, **settings):
    """A builder of the set "tiny" with these settings, for array_record files in `root`."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core import registered

    version = settings.pop("version", "1.2.0")
    settings["VERSION"] = tfds.core.Version(version)
    with registered.skip_registration():
        cls = type("Tiny", (builder_class(),), settings)
    return cls(data_dir=str(root), file_format="array_record")


def prepared(root, **settings):
    """The folder of the version that this builder prepares."""
    made = builder(root, **settings)
    made.download_and_prepare()
    return root / made.name / str(made.version)


@pytest.fixture(scope="session")
def original(tmp_path_factory):
    return prepared(tmp_path_factory.mktemp("original"))


@pytest.fixture
def root(tmp_path, original):
    """A data folder that holds the set "tiny", prepared once and copied for every test."""
    shutil.copytree(original, tmp_path / "data" / "tiny" / original.name)
    return tmp_path / "data"


def change_info(folder, **changes):
    path = folder / "dataset_info.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def check(data, first=0):
    """The images and labels are those of the builder, in some order."""
    for split, n in (("train", 12), ("test", 6)):
        part = data.splits[split]
        ids = part.x[:, 0, 0, 0]
        assert sorted(ids) == list(range(first, first + n))
        assert np.array_equal(part.x[..., 0], np.stack([picture(i) for i in ids]))
        assert np.array_equal(part.y, ids % 3)


def cached_files(tmp_path):
    return sorted((tmp_path / "cache" / "jaxticket" / "tfds").glob("*"))


@pytest.fixture
def decodes(monkeypatch):
    """A list that grows by one whenever a set is decoded."""
    calls = []
    decode = reader._decode

    def counted(*args):
        calls.append(args)
        return decode(*args)

    monkeypatch.setattr(reader, "_decode", counted)
    return calls


# --- reading


def test_a_prepared_set(root):
    data = jd.load_tfds("tiny", data_dir=root)
    assert (data.name, data.classes, data.shape) == ("tiny", 3, (5, 4, 1))
    assert data.train.x.dtype == np.uint8 and data.train.y.dtype == np.int32
    check(data)
    assert data.about == {
        "source": "tensorflow_datasets",
        "builder": "tiny",
        "version": "1.2.0",
        "licence": "made up",
        "classes": ["ant", "bee", "cat"],
    }
    assert json.loads(json.dumps(data.about)) == data.about


@pytest.mark.parametrize("own", [True, False])
def test_a_licence_that_the_set_does_not_state_is_that_of_the_table(root, monkeypatch, own):
    if not own:
        change_info(root / "tiny" / "1.2.0", redistributionInfo={})
    assert jd.load_tfds("tiny", data_dir=root).about.get("licence") == ("made up" if own else None)
    monkeypatch.setitem(LICENCES, "tiny", "of the table")
    # the decoded arrays are older than the table
    for data in (jd.load_tfds("tiny", data_dir=root), reader.open_records("tiny", data_dir=root)):
        assert data.about["licence"] == ("made up" if own else "of the table")
        assert data.about["version"] == "1.2.0"


def test_every_set_that_comes_from_there_has_a_licence():
    names = {make.args[0] for make in jd.DATASETS.values() if getattr(make, "args", ())}
    called = {STREAMS.get(name, name) for name in names}
    assert called == set(LICENCES) and "imagenet2012" in called


def test_load_reaches_it_by_prefix(root):
    data = jd.load("tfds:tiny", data_dir=str(root), validation=0.25)
    assert list(data.splits) == ["train", "validation", "test"] and len(data.train) == 9


def test_the_folders_are_searched_in_order(root, monkeypatch, tmp_path):
    shutil.copytree(root, tmp_path / "tfds_default")
    assert jd.load_tfds("tiny").about["version"] == "1.2.0"
    change = tmp_path / "named" / "tiny" / "1.0.0"
    shutil.copytree(root / "tiny" / "1.2.0", change)
    change_info(change, version="1.0.0")
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(tmp_path / "named"))
    assert jd.load_tfds("tiny").about["version"] == "1.0.0"
    assert jd.load_tfds("tiny:1.2.0").about["version"] == "1.2.0"
    with pytest.raises(jd.MissingDataError, match="not prepared"):
        jd.load_tfds("tiny:1.2.0", data_dir=tmp_path / "named")


def test_the_newest_version_is_read(root):
    for version in ("1.10.0", "1.9.0", "incomplete.AB12_2.0.0"):
        folder = root / "tiny" / version
        shutil.copytree(root / "tiny" / "1.2.0", folder)
        change_info(folder, version=version)
    assert jd.load_tfds("tiny", data_dir=root).about["version"] == "1.10.0"
    assert jd.load_tfds("tiny:1.9.0", data_dir=root).about["version"] == "1.9.0"


def test_other_splits(tmp_path):
    examples = {"train": 6, "validation": 3, "test": 2, "extra": 1}
    prepared(tmp_path / "all", examples=examples)
    data = jd.load_tfds("tiny", data_dir=tmp_path / "all")
    assert {split: len(part) for split, part in data.splits.items()} == {
        "train": 6,
        "validation": 3,
        "test": 2,
    }
    assert data.about["unused_splits"] == ["extra"] and "note" not in data.about
    again = jd.load_tfds("tiny", data_dir=tmp_path / "all")
    assert again.fingerprint == data.fingerprint and len(again.splits["validation"]) == 3

    prepared(tmp_path / "two", examples={"train": 6, "validation": 3})
    data = jd.load_tfds("tiny", data_dir=tmp_path / "two")
    assert len(data.test) == 3 and data.validation is None
    assert "validation split is used as test" in data.about["note"]

    prepared(tmp_path / "one", examples={"train": 6})
    with pytest.raises(ValueError, match=r"'test' \(or 'validation'\), it has 'train'"):
        jd.load_tfds("tiny", data_dir=tmp_path / "one")


def test_a_test_split_without_labels_is_not_used(tmp_path, monkeypatch):
    """ImageNet and Places365 have test splits whose labels are all -1."""
    assert reader.UNLABELLED >= {"imagenet2012", "places365_small"}
    monkeypatch.setattr(reader, "UNLABELLED", {"tiny"})
    prepared(tmp_path / "data", examples={"train": 6, "test": 4, "validation": 3})
    data = jd.load_tfds("tiny", data_dir=tmp_path / "data")
    assert len(data.test) == 3 and data.validation is None
    assert data.about["note"].startswith("the test split has no labels; the validation split")
    assert data.about["unused_splits"] == ["test"]


def test_images_of_different_sizes(tmp_path):
    prepared(tmp_path / "data", mixed=True)
    message = r"of different sizes.* its 12 images would take 0.00181 GB at 224x224: use .*stream\("
    with pytest.raises(ValueError, match=message):
        jd.load_tfds("tiny", data_dir=tmp_path / "data")


def test_more_images_than_memory(root, monkeypatch):
    assert reader.memory() > 2**28
    free = [12 * 20 - 1, 12 * 20]
    monkeypatch.setattr(reader, "memory", lambda: free[0])
    message = r"`name`='tiny' does not fit in memory: 12 images take 2.4e-07 GB.*stream\('tiny'\)"
    with pytest.raises(ValueError, match=message):
        jd.load_tfds("tiny", data_dir=root)
    del free[0]
    assert len(jd.load_tfds("tiny", data_dir=root).train) == 12


def test_other_features(tmp_path):
    prepared(tmp_path / "data", feature_names=("picture", "label"))
    with pytest.raises(ValueError, match=r"'image' and 'label'.*it has label, picture"):
        jd.load_tfds("tiny", data_dir=tmp_path / "data")


@pytest.mark.parametrize("name", ["", "a b", "tiny:", "tiny:1", "../tiny", "a/b/c", 3])
def test_names_that_are_none(name):
    with pytest.raises(ValueError, match="`name` must be a TFDS name"):
        jd.load_tfds(name)


# --- the cache


def test_the_second_load_does_not_decode(root, tmp_path, decodes):
    first = jd.load_tfds("tiny", data_dir=root)
    (path,) = cached_files(tmp_path)
    second = jd.load_tfds("tiny", data_dir=root)
    assert len(decodes) == 1
    assert second.fingerprint == first.fingerprint
    assert (second.about, second.classes, second.name) == (first.about, 3, "tiny")
    assert cached_files(tmp_path) == [path] and path.suffix == ".npz"


def test_cache_false_neither_writes_nor_reads(root, tmp_path, decodes):
    jd.load_tfds("tiny", data_dir=root, cache=False)
    assert cached_files(tmp_path) == []
    jd.load_tfds("tiny", data_dir=root)
    jd.load_tfds("tiny", data_dir=root, cache=False)
    assert len(decodes) == 3


def cut(path):
    path.write_bytes(path.read_bytes()[:-200])


def flip(path):
    content = bytearray(path.read_bytes())
    at = content.index(picture(3).tobytes())
    content[at] ^= 1
    path.write_bytes(bytes(content))


def without_an_array(path):
    with np.load(path) as file:
        arrays = {key: file[key] for key in file.files if key != "y_test"}
    np.savez(path, **arrays)


def other_shape(path):
    with np.load(path) as file:
        arrays = dict(file)
    np.savez(path, **(arrays | {"x_train": arrays["x_train"][:-1]}))


@pytest.mark.parametrize(
    "damage", [cut, flip, without_an_array, other_shape, lambda path: path.write_bytes(b"")]
)
def test_a_damaged_cache_is_a_warning_and_is_rewritten(root, tmp_path, decodes, damage):
    first = jd.load_tfds("tiny", data_dir=root)
    (path,) = cached_files(tmp_path)
    damage(path)
    with pytest.warns(UserWarning, match=r"the cache file .*\.npz is damaged"):
        second = jd.load_tfds("tiny", data_dir=root)
    assert second.fingerprint == first.fingerprint
    assert len(decodes) == 2
    assert jd.load_tfds("tiny", data_dir=root).fingerprint == first.fingerprint
    assert len(decodes) == 2


def test_changed_files_make_the_cache_stale(root, tmp_path, decodes):
    check(jd.load_tfds("tiny", data_dir=root))
    shutil.rmtree(root / "tiny")
    prepared(root, first=100)
    check(jd.load_tfds("tiny", data_dir=root), first=100)
    assert len(decodes) == 2 and len(cached_files(tmp_path)) == 1


def test_two_folders_do_not_share_a_cache_file(root, tmp_path, decodes):
    prepared(tmp_path / "other", first=100)
    for _ in range(2):
        check(jd.load_tfds("tiny", data_dir=root))
        check(jd.load_tfds("tiny", data_dir=tmp_path / "other"), first=100)
    assert len(decodes) == 2 and len(cached_files(tmp_path)) == 2


def test_a_cache_of_another_layout_is_stale(root, decodes, monkeypatch):
    jd.load_tfds("tiny", data_dir=root)
    monkeypatch.setattr(cache, "_LAYOUT", 2)
    jd.load_tfds("tiny", data_dir=root)
    assert len(decodes) == 2


def test_a_cache_that_cannot_be_written_is_a_warning(root, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.warns(UserWarning, match=r"cannot keep the decoded arrays in .*cache=False"):
        check(jd.load_tfds("tiny", data_dir=root))


def test_a_write_that_fails_leaves_nothing(root, tmp_path, monkeypatch):
    def full(*args):
        raise OSError("no space left")

    monkeypatch.setattr(cache.os, "fsync", full)
    with pytest.warns(UserWarning, match="no space left"):
        check(jd.load_tfds("tiny", data_dir=root))
    assert cached_files(tmp_path) == []


# --- missing, unreadable, damaged


def test_a_missing_set_says_at_once_where_it_looked_and_what_to_run(root, tmp_path):
    start = time.perf_counter()
    with pytest.raises(jd.MissingDataError) as error:
        jd.load("mnist", data_dir=root)
    assert time.perf_counter() - start < 1
    message = str(error.value)
    assert message.startswith("`name`='mnist' is not prepared")
    assert str(root / "mnist") in message and "Known: tiny" in message
    assert 'pip install "jaxticket[prepare]"' in message
    assert (
        "python -c \"import tensorflow_datasets as tfds; tfds.builder('mnist', "
        f"data_dir='{root}', file_format='array_record').download_and_prepare()\""
    ) in message


def test_a_missing_set_names_every_folder(root, tmp_path, monkeypatch):
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(root))
    with pytest.raises(jd.MissingDataError) as error:
        jd.load_tfds("tiny:2.0.0")
    message = str(error.value)
    assert f"{root / 'tiny'}  (JAXTICKET_DATA_DIR)" in message
    default = tmp_path / "tfds_default"
    assert f"{default / 'tiny'}  (TFDS_DATA_DIR; there is no {default})" in message
    assert "did you mean 'tiny:1.2.0'" in message


def test_a_missing_configuration_names_those_that_are_there(root):
    shutil.move(root / "tiny" / "1.2.0", root / "tiny" / "small" / "1.2.0")
    with pytest.raises(jd.MissingDataError, match="did you mean 'tiny/small'"):
        jd.load_tfds("tiny", data_dir=root)


def test_a_configuration_is_part_of_the_name(root):
    folder = root / "tiny" / "small" / "1.2.0"
    shutil.move(root / "tiny" / "1.2.0", folder)
    change_info(folder, configName="small")
    data = jd.load_tfds("tiny/small:1.2.0", data_dir=root)
    assert data.about["config"] == "small" and data.name == "tiny-small"
    check(data)


def test_a_remote_folder_is_refused():
    with pytest.raises(ValueError, match="`data_dir` must be a local folder, got 'gs://bucket'"):
        jd.load_tfds("tiny", data_dir="gs://bucket")


def test_tfrecord_files_need_tensorflow(root):
    folder = root / "tiny" / "1.2.0"
    change_info(folder, fileFormat="tfrecord")
    with pytest.raises(jd.MissingDataError) as error:
        jd.load_tfds("tiny", data_dir=root)
    message = str(error.value)
    assert f"is prepared in {folder}, but as tfrecord" in message
    assert "file_format='array_record'" in message and "another folder" in message
    # both formats in one folder
    change_info(folder, alternativeFileFormats=["array_record"])
    check(jd.load_tfds("tiny", data_dir=root))


def test_download_needs_tensorflow(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow", None)
    with pytest.raises(jd.MissingDataError, match="`download`=True cannot prepare 'mnist' without"):
        jd.load("mnist", data_dir=tmp_path, download=True)


def test_download_prepares_what_is_missing(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds

    asked = []

    def make(name, *, data_dir, file_format):
        asked.append((name, data_dir, file_format))
        return builder(data_dir)

    monkeypatch.setattr(reader, "_tensorflow_installed", lambda: True)
    monkeypatch.setattr(tfds, "builder", make)
    for _ in range(2):
        check(jd.load("tfds:tiny", data_dir=tmp_path / "new", download=True))
    assert asked == [("tiny", str(tmp_path / "new"), "array_record")]


def test_download_of_an_unknown_name(tmp_path, monkeypatch):
    monkeypatch.setattr(reader, "_tensorflow_installed", lambda: True)
    with pytest.raises(ValueError, match="`name` is unknown to TensorFlow Datasets: 'tinyy'"):
        jd.load_tfds("tinyy", data_dir=tmp_path, download=True)


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("tiny-train.array_record-00000-of-00001", "split 'train' of .* cannot be read"),
        ("features.json", "the features of .* cannot be read"),
        ("dataset_info.json", "is damaged"),
    ],
)
def test_damaged_files(root, file, message):
    path = root / "tiny" / "1.2.0" / file
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match=message + ".*prepare the set again"):
        jd.load_tfds("tiny", data_dir=root)


@pytest.mark.parametrize(
    "text", ["[]", "3", '{"splits": 3}', '{"splits": [3]}', '{"splits": [{}]}']
)
def test_a_description_of_something_else(root, text):
    (root / "tiny" / "1.2.0" / "dataset_info.json").write_text(text)
    with pytest.raises(ValueError, match=r"dataset_info\.json is damaged .*prepare the set again"):
        jd.load_tfds("tiny", data_dir=root)


def test_no_advice_about_opencv_is_logged(root, caplog):
    with caplog.at_level("WARNING"):
        jd.load_tfds("tiny", data_dir=root)
    assert caplog.records == []
