"""Data sets that TensorFlow Datasets (TFDS) has prepared, read without TensorFlow.

TFDS needs TensorFlow to prepare a data set, once; the `array_record` files it then leaves behind
can be read without. Decoding 60,000 small images takes 10 to 30 seconds, so the arrays are kept in
the user's cache folder (`$XDG_CACHE_HOME/jaxticket`, else `~/.cache/jaxticket`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import logging
import operator
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jaxticket import _check, _extras
from jaxticket._progress import progress
from jaxticket.data.arrays import About, Data
from jaxticket.data.cache import folder_state, read_cache, write_cache
from jaxticket.data.conversion import from_owned
from jaxticket.data.records import Opened, Records, Table, TableRecords
from jaxticket.data.sampling import spread

_NAME = re.compile(r"(?P<set>\w+)(/(?P<config>[^/:]+))?(:(?P<version>\d+\.\d+\.\d+))?")
_VERSION = re.compile(r"\d+\.\d+\.\d+")
_INSTALL = 'pip install "jaxticket[prepare]"'
# all labels of their test splits are -1: the answers are not public
UNLABELLED = {"imagenet2012", "imagenet2012_subset", "places365_small"}
LICENCES = {
    "mnist": "CC BY-SA 3.0, as its mirrors state",
    "fashion_mnist": "MIT",
    "cifar10": "not stated by the source",
    "cifar100": "not stated by the source",
    "svhn_cropped": "non-commercial use only, as its page says",
    "imagenet2012": "non-commercial research and education, by ImageNet's terms of access",
    "places365_small": "non-commercial research and education, by the terms of its page",
}
"""Licenses of sets whose own files state none, by the names of TensorFlow Datasets."""


class MissingDataError(ValueError):
    """A data set is missing, or not in a form that can be read without TensorFlow."""


def load_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    cache: bool = True,
) -> Data:
    """Load an image classification set of TensorFlow Datasets into memory.

    It needs the features "image" (of one size) and "label" (a class label) and a split "train".
    The split "test" becomes the test split and "validation", if there is one, the validation
    split; without "test", "validation" becomes the test split and `about["note"]` says so.

    Args:
      name: TFDS name, optionally with configuration and version: "mnist", "mnist:3.0.1",
        "emnist/balanced" (which becomes the name "emnist-balanced" in tables). Without a version
        the newest that is prepared.
      data_dir: folder of prepared sets, the only one to be searched. By default the environment
        variable JAXTICKET_DATA_DIR, then TFDS's own folder: TFDS_DATA_DIR or
        ~/tensorflow_datasets.
      download: downloads and prepares a set that is missing, into the first of these folders;
        needs TensorFlow.
      cache: keeps the decoded arrays in the user's cache folder and reads them from it, as long as
        the files of the data set have the same sizes and times.

    Raises:
      MissingDataError: if the set is not prepared, or only as tfrecord files.
      ValueError: if it is not an image classification set with images of one size.
    """
    _check.flag("download", download)
    _check.flag("cache", cache)
    label, folder = find_folder(name, data_dir=data_dir, download=download)
    data = read_cache(folder, label) if cache else None
    if data is None:
        # read before decoding: files that change during it make the cache stale, not wrong
        state = folder_state(folder)
        data = _decode(label, folder)
        if cache:
            write_cache(folder, data, state)
    # not from the cache, which may be older than the table of licenses
    return dataclasses.replace(data, about=licensed(data.about))


def read_split(
    name: str,
    split: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    examples: int | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels of one split, of sets without a training split too.

    Nothing is kept in the cache folder.

    Args:
      name, data_dir: as for `load_tfds`.
      split: name of the split, as TFDS has it.
      examples: at most so many, evenly spread; None for all.

    Returns:
      Images [n, height, width, channels] and labels int32 [n].

    Raises:
      MissingDataError, ValueError: as `load_tfds`, and where there is no such split.
    """
    label, folder = find_folder(name, data_dir=data_dir, download=False)
    known = [one["name"] for one in _info(folder).get("splits", [])]
    if split not in known:
        raise ValueError(
            f"`name`={name!r} has no split {split!r}, it has "
            f"{', '.join(map(repr, known)) or 'none'}"
        )
    _features(label, folder)
    x, y = _decode_split(label, folder, split, examples)
    return x, y.astype(np.int32)


# --- where the files are


def folders(data_dir: str | os.PathLike[str] | None) -> list[Path]:
    """List the folders that are searched for prepared sets."""
    return list(_roots(data_dir))


def find_folder(
    name: str, *, data_dir: str | os.PathLike[str] | None, download: bool
) -> tuple[str, Path]:
    """Find a set's name in tables, and the folder of its newest version in array_record files.

    Raises:
      MissingDataError: as `load_tfds`.
    """
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None:
        raise ValueError(
            f"`name` must be a TFDS name such as 'mnist', 'mnist:3.0.1' or 'emnist/balanced', "
            f"got {name!r}"
        )
    roots = _roots(data_dir)
    base = Path(match["set"], match["config"] or "")
    found = _versions(roots, base, match["version"])
    if not found and download:
        _prepare(name, next(iter(roots)))
        found = _versions(roots, base, match["version"])
    if not found:
        raise _missing(name, base, roots)
    folder = next((f for f in found if "array_record" in _formats(_info(f))), None)
    if folder is None:
        raise _unreadable(name, found[0])

    return "-".join(base.parts), folder


def _roots(data_dir: str | os.PathLike[str] | None) -> dict[Path, str]:
    """List the folders to search, each with the name of the setting that it comes from."""
    if data_dir is not None:
        places = [(data_dir, "`data_dir`")]
    else:
        own = os.environ.get("TFDS_DATA_DIR")
        places = [
            (os.environ.get("JAXTICKET_DATA_DIR"), "JAXTICKET_DATA_DIR"),
            (own or "~/tensorflow_datasets", "TFDS_DATA_DIR" if own else "TFDS's default"),
        ]
    roots: dict[Path, str] = {}
    for path, setting in places:
        if not path:
            continue
        if "://" in str(path):
            raise ValueError(
                f"`data_dir` must be a local folder, got {str(path)!r} (from {setting}); "
                "copy the prepared set to this machine"
            )
        roots.setdefault(Path(os.path.abspath(os.path.expanduser(path))), setting)
    return roots


def _versions(roots: dict[Path, str], base: Path, version: str | None) -> list[Path]:
    """List the folders of prepared versions, by root and then the newest first."""
    return [
        folder
        for root in roots
        for folder in sorted(
            (root / base).glob("*"),
            key=lambda f: [int(part) for part in re.findall(r"\d+", f.name)],
            reverse=True,
        )
        # an interrupted preparation leaves a folder such as incomplete.AB12_3.0.1
        if _VERSION.fullmatch(folder.name)
        and version in (None, folder.name)
        and (folder / "dataset_info.json").is_file()
    ]


def _info(folder: Path) -> About:
    """Read what TFDS has recorded of a prepared set."""
    path = folder / "dataset_info.json"
    try:
        info = json.loads(path.read_text(encoding="utf-8"))
        complete = isinstance(info, dict) and all(
            isinstance(split, dict) and {"name", "shardLengths"} <= set(split)
            for split in info.get("splits", [])
        )
        if not complete:
            raise ValueError("it does not describe a data set and its splits")
    except (TypeError, ValueError) as error:
        raise ValueError(f"`name`: {path} is damaged ({error}); prepare the set again") from error
    return info


def _formats(info: About) -> set[str]:
    # sets prepared before TFDS had formats do not name one
    return {info.get("fileFormat", "tfrecord"), *info.get("alternativeFileFormats", [])}


def _command(name: str, root: Path) -> str:
    return (
        f'python -c "import tensorflow_datasets as tfds; tfds.builder({name!r}, '
        f"data_dir={str(root)!r}, file_format='array_record').download_and_prepare()\""
    )


def _missing(name: str, base: Path, roots: dict[Path, str]) -> MissingDataError:
    """The error for a missing set: where it was looked for, and how to prepare it."""
    looked = [
        f"  {root / base}  ({setting}{'' if root.is_dir() else '; there is no ' + str(root)})"
        for root, setting in roots.items()
    ]
    others = {p.parts[-3] for root in roots for p in root.glob("*/*/dataset_info.json")}
    others |= {
        "/".join(p.parts[-4:-2]) for root in roots for p in root.glob("*/*/*/dataset_info.json")
    }
    others |= {f"{base}:{folder.name}" for folder in _versions(roots, base, None)}
    known = f"Of what is prepared there: {_check.nearest(name, others)}\n" if others else ""
    return MissingDataError(
        f"`name`={name!r} is not prepared. Looked in\n" + "\n".join(looked) + f"\n{known}"
        "Preparing it needs TensorFlow and the network, once; reading it needs neither:\n"
        f"  {_INSTALL}\n  {_command(name, next(iter(roots)))}\n"
        "With TensorFlow installed, download=True does the same. A set from elsewhere can be "
        "loaded with jaxticket.data.from_npz or load_folder."
    )


def _unreadable(name: str, folder: Path) -> MissingDataError:
    formats = ", ".join(sorted(_formats(_info(folder))))
    return MissingDataError(
        f"`name`={name!r} is prepared in {folder}, but as {formats}, which only TensorFlow reads. "
        "Prepare it as array_record in another folder (or delete this one first), and pass that "
        f"as `data_dir`:\n  {_INSTALL}\n  {_command(name, Path('another_folder'))}"
    )


def _tensorflow_installed() -> bool:
    return importlib.util.find_spec("tensorflow") is not None


def _prepare(name: str, root: Path) -> None:
    # checked first, because TFDS notices only after the download
    if not _tensorflow_installed():
        raise MissingDataError(
            f"`download`=True cannot prepare {name!r} without TensorFlow; install it with\n"
            f"  {_INSTALL}\nand call again, or run\n  {_command(name, root)}\n"
            "on any machine with TensorFlow and copy the folder"
        )
    _extras.require("tensorflow_datasets", "data")
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.registered import DatasetNotFoundError

    try:
        builder = tfds.builder(name, data_dir=str(root), file_format="array_record")
    except DatasetNotFoundError:
        raise ValueError(
            f"`name` is unknown to TensorFlow Datasets: {name!r}; "
            "choose one of https://www.tensorflow.org/datasets/catalog/overview"
        ) from None
    builder.download_and_prepare()


# --- from records to arrays


def used_splits(name: str, info: About) -> dict[str, str]:
    """Map our splits to the set's.

    Without a "test" split that has labels, "validation" is the test split.
    """
    splits = [split["name"] for split in info.get("splits", [])]
    labelled = "test" in splits and info.get("name") not in UNLABELLED
    test = "test" if labelled else "validation"
    if "train" not in splits or test not in splits:
        raise ValueError(
            f"`name`={name!r} needs the splits 'train' and 'test' (or 'validation'), it has "
            f"{', '.join(map(repr, splits)) or 'none'}; divide its arrays and use from_arrays"
        )
    used = {"train": "train", "test": test}
    if test == "test" and "validation" in splits:
        used["validation"] = "validation"
    return used


class _Features(NamedTuple):
    """Number and names of the classes, and channels of the images, None where they vary."""

    classes: int
    names: list[str]
    channels: int | None


def _features(name: str, folder: Path) -> _Features:
    """Read the features of a prepared set of images and labels."""
    # imported here because it takes half a second, which a cached set does not need
    _extras.require("tensorflow_datasets", "data")
    import tensorflow_datasets as tfds

    with _reading(folder, "the features"):
        features = tfds.builder_from_directory(folder).info.features
    features = dict(features.items()) if isinstance(features, tfds.features.FeaturesDict) else {}
    label = features.get("label")
    if not isinstance(label, tfds.features.ClassLabel) or "image" not in features:
        raise ValueError(
            f"`name`={name!r} needs the features 'image' and 'label' (a class label), it has "
            f"{', '.join(sorted(features)) or 'none'}; only image classification sets can be loaded"
        )
    shape = features["image"].shape
    channels = shape[-1] if isinstance(shape, tuple) else None
    return _Features(int(label.num_classes or 0), list(label.names), channels)


def _table(folder: Path, split: str, decoders: Mapping[str, object] | None = None) -> Table:
    """Open a split of a prepared set."""
    _extras.require("tensorflow_datasets", "data")
    import tensorflow_datasets as tfds

    with _reading(folder, f"split {split!r}"):
        # by name, since a decorator hides the method's arguments from type checkers
        opened = operator.methodcaller("as_data_source", split=split, decoders=decoders)
        return opened(tfds.builder_from_directory(folder))


def _decode(name: str, folder: Path) -> Data:
    """Read and decode the splits of a prepared set."""
    info = _info(folder)
    used = used_splits(name, info)
    features = _features(name, folder)
    arrays = {}
    for split, source in used.items():
        arrays[f"x_{split}"], arrays[f"y_{split}"] = _decode_split(name, folder, source)
    data = from_owned(arrays, classes=features.classes, name=name)
    about = _about(name, folder, info, used, features.names)
    return dataclasses.replace(data, about=about)


def open_records(
    name: str, *, data_dir: str | os.PathLike[str] | None = None, download: bool = False
) -> Opened:
    """Open a set as encoded images that are read one by one; arguments as for `load_tfds`."""
    label, folder = find_folder(name, data_dir=data_dir, download=download)
    info = _info(folder)
    used = used_splits(label, info)
    features = _features(label, folder)
    channels = features.channels
    if channels not in (1, 3):
        raise ValueError(
            f"`name`={name!r} has images of {channels} channels; only 1 and 3 can be streamed"
        )
    _extras.require("tensorflow_datasets", "data")
    import tensorflow_datasets as tfds

    sizes = {split["name"]: list(map(int, split["shardLengths"])) for split in info["splits"]}
    splits: dict[str, Records] = {}
    for split, source in used.items():
        table = _table(folder, source, {"image": tfds.decode.SkipDecoding()})
        splits[split] = TableRecords(table, sum(sizes[source]), f"split {source!r} of {folder}")
    about = licensed(_about(label, folder, info, used, features.names))
    identity = {
        "set": {key: info.get(key) for key in ("name", "configName", "version")},
        "splits": sorted([s["name"], s["shardLengths"], s.get("numBytes")] for s in info["splits"]),
    }
    return Opened(label, splits, features.classes, channels, about, identity)


def licensed(about: About) -> About:
    """Add the license of `LICENCES` to the facts about a set, unless the set states one."""
    known = LICENCES.get(about["builder"])
    return about if known is None else {"licence": known, **about}


def _about(name: str, folder: Path, info: About, used: dict[str, str], classes: list[str]) -> About:
    about: About = {
        "source": "tensorflow_datasets",
        "builder": info.get("name", name),
        "version": folder.name,
    }
    if info.get("configName"):
        about["config"] = info["configName"]
    if licence := info.get("redistributionInfo", {}).get("license"):
        about["licence"] = licence
    if classes:
        about["classes"] = classes
    if used["test"] == "validation":
        about["note"] = "the set has no test split; its validation split is used as test split"
    splits = {split["name"] for split in info.get("splits", [])}
    if "test" in splits - set(used.values()):
        about["note"] = "the test split has no labels; the validation split is used as test split"
    if unused := sorted(splits - set(used.values())):
        about["unused_splits"] = unused
    return about


def gigabytes(size: int) -> str:
    """Format a number of bytes.

    >>> gigabytes(200_384_217_088)
    '200 GB'
    """
    return f"{size / 1e9:.3g} GB"


def memory() -> int | None:
    """Bytes of this machine's memory, None where the system does not tell."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def check_memory(name: str, images: int, each: int) -> None:
    """Raise if `images` images of `each` bytes exceed the machine's memory.

    It is checked before reading, since the system overcommits memory and kills the process that
    uses it.
    """
    available = memory()
    if available is not None and images * each > available:
        raise ValueError(
            f"`name`={name!r} does not fit in memory: {images:,} images take "
            f"{gigabytes(images * each)}, this machine has {gigabytes(available)}; use "
            f"jaxticket.data.stream({name!r})"
        )


def _decode_split(
    name: str, folder: Path, split: str, examples: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    source = _table(folder, split)
    chosen = spread(len(source), examples)
    n = len(chosen)
    x, y = np.empty((0, 0, 0, 0), np.uint8), np.empty(n, np.int64)
    # no progress bar for a second or two
    with progress(total=n, title=f"{name} {split}", unit=" images", shown=n > 5000) as bar:
        for start in range(0, n, 1000):
            with _reading(folder, f"split {split!r}"):
                rows = source.__getitems__(chosen[start : start + 1000].tolist())
            for i, row in enumerate(rows, start):
                image = row["image"]
                if i == 0:
                    check_memory(name, n, image.nbytes)
                    x = np.empty((n, *image.shape), image.dtype)
                if image.shape != x.shape[1:]:
                    raise ValueError(
                        f"`name`={name!r} has images of different sizes: {x.shape[1:]} and "
                        f"{image.shape} in split {split!r}; in memory, its {n} images would take "
                        f"{gigabytes(n * 224 * 224 * 3)} at 224x224: use "
                        f"jaxticket.data.stream({name!r}, size=(224, 224)), or save them as image "
                        "folders and use load_folder(path, size=(height, width))"
                    )
                x[i], y[i] = image, row["label"]
            bar.update(len(rows))
    return x, y


@contextlib.contextmanager
def _reading(folder: Path, what: str) -> Iterator[None]:
    """Name the folder in errors, and silence TFDS's advice to install OpenCV."""

    def keep(record: logging.LogRecord) -> bool:
        return "OpenCV is not installed" not in record.getMessage()

    logger = logging.getLogger("absl")
    logger.addFilter(keep)
    try:
        yield
    except ImportError as error:
        raise ValueError(
            f"`name`: reading {folder} needs a package that is missing ({error}); array_record "
            "exists for Linux only: elsewhere, write an .npz file there and use from_npz"
        ) from error
    except Exception as error:  # array_record raises many kinds for damaged files
        raise ValueError(
            f"`name`: {what} of {folder} cannot be read ({type(error).__name__}: {error}); "
            "prepare the set again"
        ) from error
    finally:
        logger.removeFilter(keep)
