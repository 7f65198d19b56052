"""Image folders: both layouts, modes, sizes, and what is wrong with a folder."""

import numpy as np
import pytest
from PIL import Image

import jaxticket.data as jd


def write(path, value=0, size=(4, 6), mode="L", **kwargs):
    """An image of (height, width) `size`, filled with `value`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size[::-1], value).save(path, **kwargs)


def divided(root, splits=("train", "test"), classes=("cat", "ant"), images=3, **kwargs):
    for s, split in enumerate(splits):
        for c, name in enumerate(classes):
            for i in range(images):
                write(root / split / name / f"{i}.png", 100 * s + 10 * c + i, **kwargs)
    return root


def undivided(root, counts=None):
    for c, (name, count) in enumerate((counts or {"a": 10, "b": 10, "c": 20}).items()):
        for i in range(count):
            write(root / name / f"{i:03}.png", 50 * c + i)
    return root


def test_train_and_test_folders(tmp_path):
    data = jd.load_folder(divided(tmp_path / "pets"))
    assert (data.name, data.classes, data.shape) == ("pets", 2, (4, 6, 1))
    assert data.about == {"source": "image folder", "classes": ["ant", "cat"]}
    assert data.train.x.dtype == np.uint8
    # "ant" comes first in sorted order, and was written second
    assert data.train.x[:, 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
    assert data.train.y.tolist() == [0, 0, 0, 1, 1, 1]
    assert data.test.x[:, 0, 0, 0].tolist() == [110, 111, 112, 100, 101, 102]
    assert data.validation is None


def test_validation_folder_and_a_class_without_test_images(tmp_path):
    divided(tmp_path, splits=("train", "validation"))
    divided(tmp_path, splits=("test",), classes=("cat",))
    data = jd.load(tmp_path)
    assert list(data.splits) == ["train", "validation", "test"]
    assert data.test.y.tolist() == [1, 1, 1]


def test_other_files_are_left_out_with_a_warning_and_hidden_ones_without(tmp_path):
    divided(tmp_path)
    (tmp_path / ".ipynb_checkpoints").mkdir()
    (tmp_path / "train" / ".hidden").mkdir()
    (tmp_path / "train" / "cat" / ".DS_Store").write_text("no image")
    write(tmp_path / "train" / "cat" / "9.PNG", 9)
    assert len(jd.load_folder(tmp_path).train) == 7
    (tmp_path / "train" / "cat" / "notes.txt").write_text("no image")
    (tmp_path / "train" / "ant" / "more").mkdir()
    write(tmp_path / "test" / "astray.png", 9)
    with pytest.warns(UserWarning) as found:
        assert len(jd.load_folder(tmp_path).train) == 7
    told = [str(w.message) for w in found]
    assert len(told) == 2 and "2 entries that are no image files" in told[0]
    assert "more'" in told[0] and "notes.txt" in told[0] and "astray.png" in told[1]


def test_links_that_lead_nowhere_are_refused_like_damaged_files(tmp_path):
    divided(tmp_path)
    link = tmp_path / "train" / "cat" / "gone.png"
    link.symlink_to(tmp_path / "nowhere.png")
    refused(tmp_path, "1 of 13 image files cannot be read: .*gone.png' .FileNotFoundError")
    with pytest.warns(UserWarning, match="1 of 13 image files"):
        assert len(jd.load_folder(tmp_path, corrupt="skip").train) == 6
    link.unlink()
    (tmp_path / "train" / "dog").symlink_to(tmp_path / "nowhere")
    refused(tmp_path, "`path`: the link .*dog' is broken")


def test_one_class_is_refused(tmp_path):
    refused(divided(tmp_path / "a", classes=("cat",)), "`path`: .* has a single class, 'cat'")
    refused(undivided(tmp_path / "b", {"a": 4}), "has a single class, 'a'", test_share=0.5)


def test_test_share_divides_each_class(tmp_path):
    path = undivided(tmp_path)
    data = jd.load_folder(path, test_share=0.2)
    assert np.bincount(data.train.y).tolist() == [8, 8, 16]
    assert np.bincount(data.test.y).tolist() == [2, 2, 4]
    every = np.concatenate([data.train.x, data.test.x])[:, 0, 0, 0]
    assert len(np.unique(every)) == 40
    assert data.about["test_share"] == 0.2 and data.about["seed"] == 0
    assert data.fingerprint == jd.load_folder(path, test_share=0.2).fingerprint
    assert data.fingerprint != jd.load_folder(path, test_share=0.2, seed=1).fingerprint


def test_colour_anywhere_makes_all_images_rgb(tmp_path):
    divided(tmp_path)
    write(tmp_path / "test" / "cat" / "red.png", (255, 0, 0), mode="RGB")
    data = jd.load_folder(tmp_path)
    assert data.shape == (4, 6, 3)
    assert data.train.x[1, 0, 0].tolist() == [11, 11, 11]
    assert data.test.x[-1, 0, 0].tolist() == [255, 0, 0]


@pytest.mark.parametrize(
    ("mode", "value", "ending", "expected"),
    [
        ("LA", (7, 128), "png", [7]),
        ("1", 1, "png", [255]),
        ("RGBA", (1, 2, 3, 128), "png", [1, 2, 3]),
        ("P", 0, "gif", [0, 0, 0]),
        ("RGB", (10, 20, 30), "bmp", [10, 20, 30]),
        ("L", 9, "tif", [9]),
        ("L", 9, "webp", [9, 9, 9]),  # webp stores gray as colour
    ],
)
def test_modes(tmp_path, mode, value, ending, expected):
    for split in ("train", "test"):
        extra = {"lossless": True} if ending == "webp" else {}
        for name in "ab":
            write(tmp_path / split / name / f"0.{ending}", value, mode=mode, **extra)
    assert jd.load_folder(tmp_path).train.x[0, 0, 0].tolist() == expected


def test_a_palette_with_transparency(tmp_path):
    image = Image.new("P", (4, 4), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    for split in ("train", "test"):
        for name in "ab":
            (tmp_path / split / name).mkdir(parents=True)
            image.save(tmp_path / split / name / "0.png", transparency=bytes([0, 128]))
    assert jd.load_folder(tmp_path).train.x[0, 0, 0].tolist() == [9, 8, 7]


def test_size_resizes_height_and_width(tmp_path):
    divided(tmp_path)
    write(tmp_path / "train" / "cat" / "large.png", 200, size=(20, 8))
    data = jd.load_folder(tmp_path, size=(2, 3))
    assert data.shape == (2, 3, 1) and data.about["resized_to"] == [2, 3]
    assert np.all(data.train.x[-1] == 200)


def refused(path, message, **kwargs):
    with pytest.raises(ValueError, match=message):
        jd.load_folder(path, **kwargs)


def test_folders_that_do_not_fit(tmp_path):
    refused(tmp_path / "none", "`path` is not a folder: .*none")
    refused(tmp_path, "no class folders in", test_share=0.5)
    (tmp_path / "train").mkdir()
    refused(tmp_path, "has a folder 'train' and no 'test'")
    (tmp_path / "test").mkdir()
    refused(tmp_path, "no class folders in .*train")
    divided(tmp_path)
    refused(tmp_path, "`test_share`=0.2 is not used", test_share=0.2)
    (tmp_path / "train" / "dog").mkdir()
    refused(tmp_path, "no images in .*dog")
    (tmp_path / "train" / "dog").rmdir()
    (tmp_path / "val").mkdir()
    refused(tmp_path, "other than train, validation and test: val; rename")
    (tmp_path / "val").rmdir()
    write(tmp_path / "test" / "cats" / "0.png")
    refused(tmp_path, "class 'cats' is in test/ and not in train/; did you mean 'cat'")


def test_undivided_folders_that_do_not_fit(tmp_path):
    path = undivided(tmp_path / "set", {"a": 4, "b": 1})
    refused(path, "`test_share` is needed: .*set.*test_share=0.2")
    refused(path, r"`test_share` must be in \(0, 1\)", test_share=1)
    refused(path, "empty; choose another share", test_share=0.01)
    refused(path, "empty; choose another share", test_share=0.9)
    write(path / "test" / "a" / "0.png")
    refused(path, "has a folder 'test' and no 'train'", test_share=0.5)


@pytest.mark.parametrize(
    ("size", "message"),
    [
        (8, r"`size` must be \(height, width\), got 8"),
        ((8, 8, 3), "`size` must be"),
        ((8, 0), "`size` must be a whole number of at least 1"),
        ((8, 2.5), "`size` must be a whole number"),
    ],
)
def test_sizes_that_do_not_fit(tmp_path, size, message):
    refused(divided(tmp_path), message, size=size)


def test_images_that_do_not_fit(tmp_path):
    divided(tmp_path)
    path = tmp_path / "test" / "cat" / "other.png"
    write(path, size=(6, 4))
    refused(
        tmp_path, r"differ in \(height, width\): .*0.png' has \(4, 6\).*other.png' has \(6, 4\)"
    )
    path.write_bytes(b"no image")
    refused(tmp_path, "1 of 13 image files cannot be read: .*other.png' ")
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 6), np.uint8)).save(path)
    path.write_bytes(path.read_bytes()[:-30])
    refused(tmp_path, "1 of 13 image files cannot be read: .*other.png' ")
    Image.fromarray(np.full((4, 6), 1000, np.uint16)).save(path)
    refused(tmp_path, "other.png' has more than 8 bits per value")


# --- corrupt files


@pytest.fixture
def damaged(tmp_path):
    """Two splits of two classes with 3 images each, four of them damaged in four ways."""
    path = divided(tmp_path / "pets")
    noise = np.random.default_rng(0).integers(0, 256, (40, 60), np.uint8)
    photo = path / "train" / "cat" / "a.jpg"
    Image.fromarray(noise).resize((6, 4)).save(photo)
    whole = path / "train" / "ant" / "photo.jpg"
    Image.fromarray(noise[:4, :6]).save(whole, quality=95)
    photo.write_bytes(whole.read_bytes()[:-40])
    (path / "train" / "ant" / "zero.png").write_bytes(b"")
    (path / "test" / "ant" / "text.png").write_text("a text file with the wrong ending")
    stub = path / "test" / "cat" / "0.png"
    stub.write_bytes(stub.read_bytes()[:40])
    return path


def test_corrupt_files_are_counted_and_refused(damaged):
    # the first three in order
    message = (
        "4 of 16 image files cannot be read: .*test/ant/text.png' .UnidentifiedImageError: "
        "cannot identify image file.; "
        ".*test/cat/0.png' .*; .*train/ant/zero.png' .*; .*; replace or remove them, or pass "
        "corrupt='skip'"
    )
    refused(damaged, message)
    with pytest.raises(ValueError, match=message):
        jd.load(damaged)


def test_corrupt_files_are_skipped_when_asked(damaged):
    with pytest.warns(UserWarning, match="left out of .*pets.*: 4 of 16 image files"):
        data = jd.load(damaged, corrupt="skip")
    assert data.train.y.tolist() == [0, 0, 0, 0, 1, 1, 1]
    assert data.train.x[[0, 1, 2, 4, 5, 6], 0, 0, 0].tolist() == [10, 11, 12, 0, 1, 2]
    assert data.test.x[:, 0, 0, 0].tolist() == [110, 111, 112, 101, 102]
    assert data.test.y.tolist() == [0, 0, 0, 1, 1]
    files = ["test/ant/text.png", "test/cat/0.png", "train/ant/zero.png", "train/cat/a.jpg"]
    assert data.about["skipped"] == {"count": 4, "files": files}


def test_a_class_of_corrupt_files_alone_is_refused(tmp_path):
    path = divided(tmp_path)
    for i in range(3):
        (path / "train" / "cat" / f"{i}.png").write_bytes(b"none")
    refused(path, "no image of class 'cat' can be read; 3 of 12 image files", corrupt="skip")
    for file in path.glob("*/*/*.png"):
        file.write_bytes(b"none")
    refused(path, "no image of class 'ant' can be read; 12 of 12 image files", corrupt="skip")
    refused(path, "12 of 12 image files cannot be read")
    refused(path, "`corrupt` must be one of 'refuse', 'skip', got 'ignore'", corrupt="ignore")
    with pytest.raises(ValueError, match="`corrupt`='skip' is not used for 'digits'"):
        jd.load("digits", corrupt="skip")
