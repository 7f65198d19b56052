"""Data sets: `load` by name, or from arrays, an `.npz` file or a folder of images.

`from_arrays` takes images, rows of features and tokens, with labels that are classes, numbers,
several for each example, or tokens. They become a `Data`: whole splits in memory. `from_batches`
trains on the batches of a function or a loader, and `stream` on files that do not fit in memory.
Nothing is downloaded unless `download=True` asks for it.
"""

from __future__ import annotations

import functools
import inspect
import os
from collections.abc import Callable
from pathlib import Path

from jaxticket import _check
from jaxticket.data._digits import digits as digits
from jaxticket.data._tiny_imagenet import tiny_imagenet as tiny_imagenet
from jaxticket.data.alike import like as like
from jaxticket.data.arrays import Data as Data
from jaxticket.data.arrays import Split as Split
from jaxticket.data.batches import Batches as Batches
from jaxticket.data.batches import from_batches as from_batches
from jaxticket.data.conversion import from_arrays as from_arrays
from jaxticket.data.conversion import from_npz as from_npz
from jaxticket.data.corruptions import CORRUPTIONS as CORRUPTIONS
from jaxticket.data.corruptions import corrupt as corrupt
from jaxticket.data.corruptions import corrupted as corrupted
from jaxticket.data.folder import load_folder as load_folder
from jaxticket.data.records import StreamError as StreamError
from jaxticket.data.streaming import Stream as Stream
from jaxticket.data.streaming import stream as stream
from jaxticket.data.tfds import MissingDataError as MissingDataError
from jaxticket.data.tfds import gigabytes
from jaxticket.data.tfds import load_tfds as load_tfds


def _too_large(name: str, images: int, *, data_dir: object = None, download: bool = False) -> Data:
    del data_dir, download
    raise ValueError(
        f"`name`={name!r} does not fit in memory: its {images:,} images take "
        f"{gigabytes(images * 224 * 224 * 3)} at 224x224; use "
        f"jaxticket.data.stream({name!r}, size=(224, 224)), which decodes them during training"
    )


DATASETS: dict[str, Callable[..., Data]] = {
    "digits": digits,
    "mnist": functools.partial(load_tfds, "mnist"),
    "fashion_mnist": functools.partial(load_tfds, "fashion_mnist"),
    "cifar10": functools.partial(load_tfds, "cifar10"),
    "cifar100": functools.partial(load_tfds, "cifar100"),
    "svhn_cropped": functools.partial(load_tfds, "svhn_cropped"),
    "svhn": functools.partial(load_tfds, "svhn_cropped"),
    "tiny_imagenet": tiny_imagenet,
    # training and validation images: too many to hold, but `stream` takes these names
    "imagenet": functools.partial(_too_large, "imagenet", 1_281_167 + 50_000),
    "places365": functools.partial(_too_large, "places365", 1_803_460 + 36_500),
}
"""What `load` knows by name: functions that take those of `data_dir`, `download`, `seed` and
`corrupt` that they use and return a `Data`."""


def load(
    name: str | os.PathLike[str] | Callable[..., Data],
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    validation: float = 0.0,
    seed: int = 0,
    corrupt: str = "refuse",
) -> Data:
    """Load a data set by name, path or function.

    Networks see standardized images: `(x - mean) / std` of each channel, with mean and standard
    deviation of the training split (without its validation part), as `from_arrays` says;
    `from_arrays(..., normalize=False)` makes data that are not.

    Args:
      name: a name in `DATASETS`; "tfds:NAME" for any other image classification set of
        TensorFlow Datasets; the path of an `.npz` file (`from_npz`) or of an image folder
        (`load_folder`); or a function like those of `DATASETS`.
      data_dir: folder of prepared TFDS sets, and of "tiny_imagenet"; by default what
        JAXTICKET_DATA_DIR names, then TFDS's own folder. An error for a data set that does not
        come from there.
      download: allows to download and prepare a set that is missing; needs TensorFlow.
      validation: share of the training split to hold out, in [0, 1); see `Data.with_validation`.
      seed: seed of the divisions made here: that of "digits", and the validation split.
      corrupt: "skip" leaves out image files that cannot be read, with a warning; for image folders
        and "tiny_imagenet". "refuse" is an error that counts and names them.

    Raises:
      MissingDataError: if a TFDS set is not prepared.
      ValueError: if the name is unknown, or an argument does not fit.

    >>> load("digits", validation=0.1).splits.keys()
    dict_keys(['train', 'validation', 'test'])
    """
    validation = _check.share("validation", validation, zero=True, one=False)
    _check.flag("download", download)
    seed = _check.seed("seed", seed)
    make = _loader(name)
    parameters = inspect.signature(make).parameters
    takes_all = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    settings = {"data_dir": data_dir, "download": download, "seed": seed}
    used = {key: value for key, value in settings.items() if takes_all or key in parameters}
    # download=True is a permission and may go unused; a folder that is not looked at is a mistake
    if data_dir is not None and "data_dir" not in used:
        raise ValueError(
            f"`data_dir`={str(data_dir)!r} is not used for {name!r}, which does not come from "
            "TensorFlow Datasets; leave it out"
        )
    if seed and "seed" not in used and not validation:
        raise ValueError(
            f"`seed`={seed} is not used for {name!r} without a validation split; leave it out"
        )
    # only if named: functions with **settings have been called without it since version 0.1
    if "corrupt" in parameters:
        used["corrupt"] = corrupt
    elif corrupt != "refuse":
        raise ValueError(
            f"`corrupt`={corrupt!r} is not used for {name!r}, which is no image folder; leave it "
            "out"
        )
    data = make(**used)
    if not isinstance(data, Data):
        raise ValueError(
            f"`name`={name!r} must be a function that returns a Data, it returned "
            f"{type(data).__name__}; make one with from_arrays"
        )
    return data.with_validation(validation, seed=seed) if validation > 0 else data


def _loader(name: str | os.PathLike[str] | Callable[..., Data]) -> Callable[..., Data]:
    """Find the function that loads `name`."""
    if callable(name):
        return name
    if isinstance(name, str) and name in DATASETS:
        return DATASETS[name]
    if isinstance(name, str) and name.startswith("tfds:"):
        return functools.partial(load_tfds, name.removeprefix("tfds:"))
    if isinstance(name, str | os.PathLike):
        path = Path(name).expanduser()
        if path.is_dir():
            # not a partial, so that `load` passes no more of its own arguments on
            return lambda corrupt: load_folder(path, corrupt=corrupt)
        if path.is_file() and path.suffix == ".npz":
            return lambda: from_npz(path)
    raise ValueError(
        f"`name` is unknown: {name!r}; {_check.nearest(str(name), DATASETS)}, "
        "or pass 'tfds:NAME', the path of an existing .npz file or image folder, or a function"
    )


__all__ = [
    "CORRUPTIONS",
    "DATASETS",
    "Batches",
    "Data",
    "MissingDataError",
    "Split",
    "Stream",
    "StreamError",
    "corrupt",
    "corrupted",
    "digits",
    "from_arrays",
    "from_batches",
    "from_npz",
    "like",
    "load",
    "load_folder",
    "load_tfds",
    "stream",
    "tiny_imagenet",
]


def __dir__() -> list[str]:
    return __all__
