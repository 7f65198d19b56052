"""Tiny-ImageNet as it is distributed: folders of JPEG files and a table of validation labels."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

from jaxticket import _check
from jaxticket.data.arrays import Data
from jaxticket.data.conversion import from_owned
from jaxticket.data.folder import read_images
from jaxticket.data.tfds import MissingDataError

_FOLDER = "tiny-imagenet-200"
_SOURCE = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"

Pairs = dict[str, list[tuple[Path, int]]]


def tiny_imagenet(
    *, data_dir: str | os.PathLike[str] | None = None, corrupt: str = "refuse"
) -> Data:
    """Tiny-ImageNet: 100,000 training and 10,000 test images, 64x64x3, 200 classes.

    The test images that are distributed have no labels, so the validation split is the test split.
    Classes are numbered in the order of their WordNet names. Decoding takes about a minute.

    Args:
      data_dir: the folder tiny-imagenet-200 or the one that it lies in; by default the one that
        JAXTICKET_DATA_DIR names.
      corrupt: as in `load_folder`.

    Raises:
      MissingDataError: if the folder is not there; nothing is downloaded.
      ValueError: if a part of it is missing or does not fit.

    Reference: Le and Yang, "Tiny ImageNet visual recognition challenge", Stanford CS231n (2015).
    """
    _check.one_of("corrupt", corrupt, ("refuse", "skip"))
    path = _folder(data_dir)
    names, files = labelled_files(path)
    arrays, skipped = read_images(path, files, names, corrupt=corrupt)
    data = from_owned(arrays, classes=len(names), name="tiny_imagenet")
    about = {
        "source": _SOURCE,
        **skipped,
        "note": "the test split has no labels; the validation split is used as test split",
        "classes": names,
        "licence": "not stated by the source; a part of ImageNet (non-commercial research)",
    }
    return dataclasses.replace(data, about=about)


def _folder(data_dir: str | os.PathLike[str] | None) -> Path:
    """Locate the folder tiny-imagenet-200."""
    given = os.environ.get("JAXTICKET_DATA_DIR") if data_dir is None else data_dir
    setting = "JAXTICKET_DATA_DIR" if data_dir is None else "`data_dir`"
    looked = []
    if given:
        root = Path(given).expanduser().absolute()
        for path in (root / _FOLDER, root):
            if (path / "wnids.txt").is_file():
                return path
            looked.append(f"  {path / 'wnids.txt'}  ({setting})")
    where = "Looked for\n" + "\n".join(looked) if looked else "JAXTICKET_DATA_DIR is not set."
    target = str(Path(given).expanduser().absolute()) if given else "FOLDER"
    raise MissingDataError(
        f"`name`='tiny_imagenet' was not found. {where}\nDownload (237 MB) and unpack it, once:\n"
        f"  curl -O {_SOURCE}\n  unzip -q {_FOLDER}.zip -d {target}\n"
        "and pass that folder as `data_dir`, or name it in JAXTICKET_DATA_DIR."
    )


def labelled_files(path: Path) -> tuple[list[str], Pairs]:
    """Class names, and the (file, label) pairs of "train" and "test", of a folder as distributed.

    The layout: wnids.txt with a class name per line, train/NAME/images/*.JPEG, val/images/*.JPEG
    and val/val_annotations.txt with the columns file, name and a box.

    Raises:
      ValueError: naming what is missing or does not fit.
    """
    names = sorted((path / "wnids.txt").read_text(encoding="utf-8").split())
    label = {name: i for i, name in enumerate(names)}
    train = []
    for name in names:
        folder = path / "train" / name / "images"
        images = sorted(folder.glob("*.JPEG"))
        if not images:
            raise ValueError(
                f"`data_dir`: there are no images (*.JPEG) in {str(folder)!r}, and wnids.txt has "
                f"the class; unpack the archive again"
            )
        train += [(file, label[name]) for file in images]
    table = path / "val" / "val_annotations.txt"
    if not table.is_file():
        raise ValueError(f"`data_dir`: {str(table)!r} is missing; unpack the archive again")
    test = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), 1):
        file, _, rest = line.partition("\t")
        name = rest.partition("\t")[0]
        image = path / "val" / "images" / file
        if name not in label or not image.is_file():
            wrong = f"{str(image)!r} is missing" if name in label else f"the class is {name!r}"
            raise ValueError(
                f"`data_dir`: line {number} of {str(table)!r} does not fit: {wrong}; "
                "unpack the archive again"
            )
        test.append((image, label[name]))
    return names, {"train": train, "test": sorted(test)}
