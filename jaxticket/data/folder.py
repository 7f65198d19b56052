"""Data sets from folders of image files, a folder per class."""

from __future__ import annotations

import dataclasses
import os
import warnings
from pathlib import Path

import numpy as np
from PIL import Image

from jaxticket import _check
from jaxticket._progress import progress
from jaxticket.data.arrays import About, Data
from jaxticket.data.conversion import from_owned
from jaxticket.data.crops import in_mode
from jaxticket.data.sampling import stratified

_ENDINGS = {".bmp", ".gif", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
_SPLITS = ("train", "validation", "test")
_GRAY = {"1", "L", "LA"}
_CORRUPT = ("refuse", "skip")
# more than 8 bits per value: Pillow would clip them
_DEEP = {"I", "F", "I;16", "I;16B", "I;16L", "I;16N"}


def load_folder(
    path: str | os.PathLike[str],
    *,
    size: tuple[int, int] | None = None,
    test_share: float | None = None,
    seed: int = 0,
    corrupt: str = "refuse",
) -> Data:
    """A data set from image files that lie in one folder per class.

    Either PATH/train/CLASS/* and PATH/test/CLASS/*, with PATH/validation/CLASS/* if there is one,
    or PATH/CLASS/* with `test_share`. Labels number the class names in sorted order, and
    `about["classes"]` holds the names. Gray images give one channel; if any image is in color,
    all become RGB. Transparency is dropped; of an animation the first image is read. Links that
    lead nowhere count as files that cannot be read; a warning says what else is left out, other
    than hidden files. Pixels are standardized as `from_arrays` says.

    Args:
      path: the folder, which also names the data set.
      size: (height, width) that images are resized to (bilinear, with antialiasing); without it
        all images must have one size.
      test_share: share of the images of each class to hold out as test split, in (0, 1); for
        PATH/CLASS/* only, where it is required.
      seed: seed of the choice that `test_share` makes.
      corrupt: what happens to files that cannot be read as images, such as truncated ones:
        "refuse" is an error that counts them and names the first; "skip" leaves them out with a
        warning, and `about["skipped"]` holds their number and names.

    Raises:
      ValueError: naming the folder or file that does not fit.
    """
    path = Path(path)
    if not path.is_dir():
        raise ValueError(f"`path` is not a folder: {str(path)!r}; pass a folder of class folders")
    if size is not None:
        if not (isinstance(size, tuple | list) and len(size) == 2):
            raise ValueError(f"`size` must be (height, width), got {size!r}")
        for length in size:
            _check.whole("size", length, 1)

    _check.one_of("corrupt", corrupt, _CORRUPT)
    seed = _check.seed("seed", seed)
    about: About = {"source": "image folder"}
    if size is not None:
        about["resized_to"] = list(size)
    folders = _subfolders(path)
    if "train" in folders:
        names, files = _divided(path, folders, test_share)
        arrays, skipped = read_images(path, files, names, size=size, corrupt=corrupt)
    else:
        if test_share is None:
            raise ValueError(
                f"`test_share` is needed: {str(path)!r} has no folder 'train'; call "
                "jt.data.load_folder(path, test_share=0.2), or put the class folders into train/ "
                "and test/"
            )
        _check.share("test_share", test_share, one=False)
        names, files = _undivided(path, folders)
        arrays, skipped = read_images(path, files, names, size=size, corrupt=corrupt)
        arrays = _divide(arrays, test_share, seed)
        about |= {"test_share": test_share, "seed": _check.seed("seed", seed)}
    data = from_owned(arrays, classes=len(names), name=path.resolve().name)
    return dataclasses.replace(data, about={**about, **skipped, "classes": names})


def divided(path: Path) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
    """Class names, and (file, label) pairs of each split, of a folder with train/ and test/."""
    return _divided(path, _subfolders(path), None)


def _subfolders(path: Path) -> dict[str, Path]:
    """List the folders in `path` by name, sorted, without hidden ones (.ipynb_checkpoints)."""
    entries = [f for f in sorted(path.iterdir()) if not _hidden(f)]
    for entry in entries:
        if not entry.exists():
            raise ValueError(f"`path`: the link {str(entry)!r} is broken; restore or remove it")
    return {f.name: f for f in entries if f.is_dir()}


def _hidden(path: Path) -> bool:
    return path.name.startswith((".", "__MACOSX"))


def _is_image(path: Path) -> bool:
    """Whether the file's name is one of an image; a broken link counts as an unreadable image."""
    return path.suffix.lower() in _ENDINGS and not path.is_dir()


def _class_files(path: Path) -> dict[str, list[Path]]:
    """The image files of each class folder in `path`."""
    entries = {name: sorted(folder.iterdir()) for name, folder in _subfolders(path).items()}
    classes = {
        name: [f for f in inside if _is_image(f) and not _hidden(f)]
        for name, inside in entries.items()
    }
    others = [f for inside in entries.values() for f in inside if not (_is_image(f) or _hidden(f))]
    others += [f for f in sorted(path.iterdir()) if _is_image(f) and not _hidden(f)]
    if others:
        some = f"{', '.join(repr(str(f)) for f in others[:3])}{', ...' if len(others) > 3 else ''}"
        warnings.warn(
            f"left out of {str(path)!r}: {len(others)} entries that are no image files of a class, "
            f"{some}; endings that are read: {', '.join(sorted(_ENDINGS))}",
            stacklevel=6,
        )
    if not classes:
        raise ValueError(
            f"`path`: there are no class folders in {str(path)!r}; put the images of each class "
            "into a separate folder"
        )
    empty = [name for name, files in classes.items() if not files]
    if empty:
        raise ValueError(
            f"`path`: there are no images in {str(path / empty[0])!r}; add some, or remove the "
            f"folder (endings that are read: {', '.join(sorted(_ENDINGS))})"
        )
    return classes


def _several(path: Path, names: list[str]) -> list[str]:
    """Check that there are two or more class names."""
    if len(names) < 2:
        raise ValueError(
            f"`path`: {str(path)!r} has a single class, {names[0]!r}; add a folder with images "
            f"of another class"
        )
    return names


def _divided(
    path: Path, folders: dict[str, Path], test_share: float | None
) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
    """Class names, and (file, label) pairs of each split, for folders train, test, ..."""
    if test_share is not None:
        raise ValueError(
            f"`test_share`={test_share!r} is not used: {str(path)!r} has a folder 'train'; leave "
            "it out"
        )
    if "test" not in folders:
        raise ValueError(f"`path`: {str(path)!r} has a folder 'train' and no 'test'; add one")
    unknown = sorted(set(folders) - set(_SPLITS))
    if unknown:
        raise ValueError(
            f"`path`: {str(path)!r} has folders other than train, validation and test: "
            f"{', '.join(unknown)}; rename or remove them"
        )
    classes = {split: _class_files(folders[split]) for split in _SPLITS if split in folders}
    names = _several(path, list(classes["train"]))
    for split, files in classes.items():
        extra = [name for name in files if name not in names]
        if extra:
            raise ValueError(
                f"`path`: class {extra[0]!r} is in {split}/ and not in train/; "
                f"{_check.nearest(extra[0], names)}"
            )
    return names, {
        split: [(file, names.index(name)) for name in files for file in files[name]]
        for split, files in classes.items()
    }


def _undivided(
    path: Path, folders: dict[str, Path]
) -> tuple[list[str], dict[str, list[tuple[Path, int]]]]:
    """Class names, and (file, label) pairs under "train", for folders that are classes."""
    if "test" in folders:
        raise ValueError(f"`path`: {str(path)!r} has a folder 'test' and no 'train'; add one")
    classes = _class_files(path)
    pairs = [(file, label) for label, name in enumerate(classes) for file in classes[name]]
    return _several(path, list(classes)), {"train": pairs}


def _divide(arrays: dict[str, np.ndarray], test_share: float, seed: int) -> dict[str, np.ndarray]:
    """Move a class-balanced share of the training images to a test split."""
    x, y = arrays["x_train"], arrays["y_train"]
    count = round(test_share * len(y))
    test = stratified(y, count, seed=seed, stream="test")
    train = np.setdiff1d(np.arange(len(y)), test)
    if count == 0 or len(np.unique(y[train])) < len(np.unique(y)):
        raise ValueError(
            f"`test_share`={test_share!r} of {len(y)} images leaves the test split, or a class of "
            "the training split, empty; choose another share or add images"
        )
    return {"x_train": x[train], "y_train": y[train], "x_test": x[test], "y_test": y[test]}


def read_images(
    path: Path,
    files: dict[str, list[tuple[Path, int]]],
    names: list[str],
    *,
    size: tuple[int, int] | None = None,
    corrupt: str = "refuse",
) -> tuple[dict[str, np.ndarray], About]:
    """Decode the images of all splits.

    Args:
      path: the folder, for messages.
      files: (file, label) pairs of each split.
      names: of the classes.
      size: as `load_folder` takes it.
      corrupt: likewise.

    Returns:
      The arrays by the names of `from_arrays`, and the entry of `about` for skipped files.
    """
    every = [file for pairs in files.values() for file, _ in pairs]
    bad: dict[Path, str] = {}
    shape, mode = _common(every, size, bad)
    channels = 1 if mode == "L" else 3
    arrays = {}
    for split, pairs in files.items():
        x = np.empty((len(pairs), *shape, channels), np.uint8)
        kept = []
        # no bar for what takes a few seconds
        title = f"{path.name} {split}"
        with progress(pairs, title=title, unit=" images", shown=len(pairs) > 5000) as bar:
            for file, label in bar:
                pixels = None if file in bad else _pixels(file, mode, shape, bad)
                if pixels is not None:
                    x[len(kept)] = pixels.reshape(*shape, channels)
                    kept.append(label)
        arrays[f"x_{split}"] = x if len(kept) == len(x) else x[: len(kept)].copy()
        arrays[f"y_{split}"] = np.array(kept, np.int32)
    if not bad:
        return arrays, {}
    some = "; ".join(f"{str(file)!r} ({bad[file]})" for file in sorted(bad)[:3])
    problem = (
        f"{len(bad)} of {len(every)} image files cannot be read: "
        f"{some}{'; ...' if len(bad) > 3 else ''}"
    )
    if corrupt == "refuse":
        raise ValueError(
            f"`path`: {problem}; replace or remove them, or pass corrupt='skip' to leave them out"
        )
    empty = set(range(len(names))) - set(arrays["y_train"].tolist())
    if empty:
        raise ValueError(
            f"`path`: no image of class {names[min(empty)]!r} can be read; {problem}; replace them"
        )
    warnings.warn(f"left out of {str(path)!r}: {problem}", stacklevel=3)
    relative = [file.relative_to(path).as_posix() for file in sorted(bad)]
    return arrays, {"skipped": {"count": len(bad), "files": relative[:20]}}


def _common(
    files: list[Path], size: tuple[int, int] | None, bad: dict[Path, str]
) -> tuple[tuple[int, int], str]:
    """Find the common (height, width) and mode of all images from the files' headers.

    Files without a readable header are added to `bad`.
    """
    mode = "L"
    first = None
    for file in files:
        try:
            with Image.open(file) as image:
                (width, height), own = image.size, image.mode
        except Exception as error:  # Pillow raises many kinds for damaged files
            bad[file] = _reason(file, error)
            continue
        if own in _DEEP:
            raise ValueError(
                f"`path`: {str(file)!r} has more than 8 bits per value (mode {own}); "
                "convert it to 8 bits"
            )
        mode = mode if own in _GRAY else "RGB"
        first = first or (file, (height, width))
        if size is None and (height, width) != first[1]:
            raise ValueError(
                f"`path`: images differ in (height, width): {str(first[0])!r} has {first[1]}, "
                f"{str(file)!r} has {(height, width)}; call "
                "jt.data.load_folder(path, size=(height, width)) to resize them"
            )
    if first is None:  # all are bad, and will be reported
        return (1, 1), mode
    return (size[0], size[1]) if size is not None else first[1], mode


def _pixels(
    file: Path, mode: str, shape: tuple[int, int], bad: dict[Path, str]
) -> np.ndarray | None:
    """Decode an image; None for one that cannot be read, which is added to `bad`."""
    try:
        with Image.open(file) as image:
            pixels = in_mode(image, mode)
    except Exception as error:  # Pillow raises many kinds for damaged files
        bad[file] = _reason(file, error)
        return None
    height, width = shape
    if pixels.size != (width, height):
        pixels = pixels.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(pixels)


def _reason(file: Path, error: Exception) -> str:
    # Pillow's messages name the file, as ours do
    return f"{type(error).__name__}: {error}".replace(f" {str(file)!r}", "")
