"""Tiny-ImageNet: a small folder in the distributed layout, and what may be wrong with it."""

import numpy as np
import pytest
from PIL import Image

import jaxticket.data as jd

NAMES = ("n01443537", "n01629819", "n01641577")


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch):
    monkeypatch.delenv("JAXTICKET_DATA_DIR", raising=False)


def write(path, value, mode="RGB"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (8, 8), value if mode == "L" else (value,) * 3).save(path, "JPEG", quality=100)


@pytest.fixture
def root(tmp_path):
    """wnids.txt in another order than the sorted one, as distributed."""
    path = tmp_path / "tiny-imagenet-200"
    for c, name in enumerate(NAMES):
        for i in range(4):
            # some of the real ones are gray
            mode = "L" if i == 3 else "RGB"
            write(path / "train" / name / "images" / f"{name}_{i}.JPEG", 50 * c + i, mode)
        (path / "train" / name / f"{name}_boxes.txt").write_text(f"{name}_0.JPEG\t0\t0\t7\t7\n")
    (path / "wnids.txt").write_text("\n".join(reversed(NAMES)) + "\n")
    (path / "words.txt").write_text("n01443537\tgoldfish, Carassius auratus\n")
    rows = []
    for i, c in enumerate((2, 0, 1, 0)):
        write(path / "val" / "images" / f"val_{i}.JPEG", 200 + 10 * i)
        rows.append(f"val_{i}.JPEG\t{NAMES[c]}\t0\t0\t7\t7\n")
    (path / "val" / "val_annotations.txt").write_text("".join(rows))
    write(path / "test" / "images" / "test_0.JPEG", 0)
    return tmp_path


def test_the_distributed_layout(root, monkeypatch):
    data = jd.load("tiny_imagenet", data_dir=root)
    assert (data.name, data.classes, data.shape) == ("tiny_imagenet", 3, (8, 8, 3))
    assert data.train.y.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.train.x[:, 0, 0, 1].tolist() == [50 * c + i for c in range(3) for i in range(4)]
    assert data.test.y.tolist() == [2, 0, 1, 0]
    assert data.test.x[:, 7, 7, 0].tolist() == [200, 210, 220, 230]
    assert data.validation is None and data.about["classes"] == list(NAMES)
    assert "validation split is used as test" in data.about["note"]
    assert data.about["licence"].startswith("not stated by the source")
    inside = jd.load("tiny_imagenet", data_dir=root / "tiny-imagenet-200", validation=0.25)
    assert len(inside.validation) == 3
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(root))
    assert jd.load("tiny_imagenet", download=True).fingerprint == data.fingerprint


def test_a_folder_that_is_not_there(tmp_path, monkeypatch):
    message = r"(?s)JAXTICKET_DATA_DIR is not set.*curl -O http.*unzip .* -d FOLDER"
    with pytest.raises(jd.MissingDataError, match=message):
        jd.load("tiny_imagenet")
    message = (
        rf"(?s)Looked for.*{tmp_path}/tiny-imagenet-200/wnids.txt.*\(%s\).*unzip .* -d {tmp_path}"
    )
    with pytest.raises(jd.MissingDataError, match=message % "`data_dir`"):
        jd.load("tiny_imagenet", data_dir=tmp_path)
    monkeypatch.setenv("JAXTICKET_DATA_DIR", str(tmp_path))
    with pytest.raises(jd.MissingDataError, match=message % "JAXTICKET_DATA_DIR"):
        jd.load("tiny_imagenet", download=True)


def test_parts_that_are_missing_or_do_not_fit(root):
    path = root / "tiny-imagenet-200"
    table = path / "val" / "val_annotations.txt"

    def refused(message):
        with pytest.raises(ValueError, match=message):
            jd.tiny_imagenet(data_dir=root)

    rows = table.read_text()
    table.write_text(rows + "val_3.JPEG\tn99\t0\t0\t7\t7\n")
    refused("line 5 of .*val_annotations.txt' does not fit: the class is 'n99'")
    table.write_text(rows + f"val_9.JPEG\t{NAMES[0]}\t0\t0\t7\t7\n")
    refused("line 5 .*does not fit: .*val_9.JPEG' is missing; unpack the archive again")
    table.unlink()
    refused("val_annotations.txt' is missing; unpack")
    (path / "wnids.txt").write_text("\n".join((*NAMES, "n7")))
    refused("there are no images .*n7.images', and wnids.txt has the class")


def test_corrupt_files(root):
    path = root / "tiny-imagenet-200" / "train" / NAMES[1] / "images" / f"{NAMES[1]}_2.JPEG"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=f"1 of 16 image files cannot be read: .*{path.name}' .*"):
        jd.load("tiny_imagenet", data_dir=root)
    with pytest.warns(UserWarning, match="left out of"):
        data = jd.load("tiny_imagenet", data_dir=root, corrupt="skip")
    assert data.about["skipped"]["count"] == 1 and np.bincount(data.train.y).tolist() == [4, 3, 4]
    with pytest.raises(ValueError, match="`corrupt` must be one of"):
        jd.tiny_imagenet(data_dir=root, corrupt="none")
