"""A folder of images, one sub-folder a class: `folder:PATH`.

Two layouts:

- `PATH/train/<class>/*` beside `PATH/val/<class>/*` (also `validation`, `valid`: three names of
  one split) and/or `PATH/test/<class>/*`. Labels are the classes of `train`.
- One folder of classes: `PATH/<class>/*`, or `PATH/train/<class>/*` alone. It is divided into
  "train" and "test": within a class, images are ordered by the SHA-256 of their path relative to
  the folder of classes, and the first tenth (rounded, at least one where the class has two or more)
  is for testing. The division depends on nothing else: not on the order or the time of the files.

The split "eval" is the one to evaluate on, whatever it is called: "val" or "test", an error where
the folder has both.

Classes are sorted by name as text, as in torchvision's ImageFolder. Images may lie in folders below
the class's. Links to folders are followed; a folder that a class reaches twice is listed once. What
is an image is told by the file name's ending.
"""

import collections
import hashlib
import logging
import os
from collections.abc import Collection, Iterator
from pathlib import Path

from vit_jax import storage
from vit_jax.data.sources import Example, Source
from vit_jax.errors import MissingFileError, UserError

ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VALIDATION = ("val", "validation", "valid")
# What a split may be called in a spec -> the folders that it may be.
SPLITS = {
    "train": ("train",),
    **dict.fromkeys(VALIDATION, VALIDATION),
    "test": ("test",),
    "eval": (*VALIDATION, "test"),
}
TEST_FRACTION = 0.1  # of a class, where the folder has no split of its own

_log = logging.getLogger(__name__)


class FolderSource(Source):
    """Images as files; see the module. `root` is the folder of classes."""

    def __init__(self, root: Path, files: list[str], class_names: tuple[str, ...], split: str):
        self.root = root
        self.files = files  # relative to root, "<class>/...", sorted
        self.class_names = class_names
        self._labels = {name: label for label, name in enumerate(class_names)}
        listing = "\n".join([split, *class_names, "", *files])
        self.fingerprint = f"folder:{len(files)}:{_sha256(listing)}"

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Example:
        """Reads a file; the image stays encoded."""
        file = self.files[index]
        path = self.root / file
        label = self._labels[file.split("/", 1)[0]]
        return {"image": storage.read_bytes(path), "label": label, "name": str(path)}


def open_source(path: str, split: str, data_dir: str | None = None) -> FolderSource:
    """Opens a split of a folder of images.

    Args:
      path: the folder, or its URL; `~` is the home directory.
      split: "train", "val" or "test", as far as the folder has them; "eval" is the one of the last
        two that it has.
      data_dir: not used.

    Raises:
      MissingFileError: there is no such folder, or no images where they are expected.
      UserError: there is no such split, or more than one that is meant; it has classes that
        "train" has not; or one folder is reached, through links, from two classes.
    """
    del data_dir
    storage.check(path)
    root = storage.path(path).expanduser()
    splits = _split_folders(root)
    if len(splits) > 1 or ("train" not in splits and splits):
        return _open_given(root, splits, split)
    return _open_divided(splits.get("train", root), split)


def _split_folders(root: Path) -> dict[str, Path]:
    """Returns the folders that are splits, by the name they have."""
    if not root.is_dir():
        raise MissingFileError(f"no folder {str(root)!r} (working directory {str(Path.cwd())!r})")
    names = ("train", *VALIDATION, "test")
    return {name: root / name for name in names if (root / name).is_dir()}


def _choose(root: Path, splits: Collection[str], split: str) -> str:
    """Returns which of the `splits` that there are is meant by `split`."""
    if split in splits:
        return split
    found = [name for name in splits if name in SPLITS.get(split, ())]
    if len(found) > 1:
        raise UserError(
            f"folder {str(root)!r} has {' and '.join(map(repr, found))}, and the split {split!r} "
            "may be each of them: ask for the one you mean by its name"
        )
    if not found:
        raise UserError(f"folder {str(root)!r} has no split {split!r}: it has {', '.join(splits)}")
    return found[0]


def _open_given(root: Path, splits: dict[str, Path], split: str) -> FolderSource:
    chosen = _choose(root, splits, split)
    files = _list_images(splits[chosen])
    class_names = tuple(files)
    if "train" in splits and chosen != "train":
        class_names = _class_folders(splits["train"])
        strange = sorted(set(files) - set(class_names))
        if strange:
            raise UserError(
                f"{str(splits[chosen])!r} has classes that {str(splits['train'])!r} has not: "
                f"{', '.join(strange)}. The {len(class_names)} classes of train: "
                f"{_shortened(class_names)}"
            )
    listed = sorted(file for of_class in files.values() for file in of_class)
    return FolderSource(splits[chosen], listed, class_names, chosen)


def _open_divided(classes: Path, split: str) -> FolderSource:
    split = _choose(classes, ("train", "test"), split)
    files = _list_images(classes)
    chosen: list[str] = []
    for of_class in files.values():
        train, test = divide(of_class)
        chosen += train if split == "train" else test
    if not chosen:
        raise MissingFileError(
            f"{str(classes)!r}: no class has two images, so none is left to test on"
        )
    return FolderSource(classes, sorted(chosen), tuple(files), split)


def divide(files: list[str]) -> tuple[list[str], list[str]]:
    """Divides one class's files into (train, test) by the rule of the module."""
    by_hash = sorted(files, key=_sha256)
    tests = max(round(TEST_FRACTION * len(files)), min(1, len(files) - 1))
    return by_hash[tests:], by_hash[:tests]


def _list_images(classes: Path) -> dict[str, list[str]]:
    """Returns the images of every class as paths relative to `classes`, with "/" between parts."""
    images: dict[str, list[str]] = {}
    others: collections.Counter[str] = collections.Counter()
    owners: dict[str, str] = {}
    for name in _class_folders(classes):
        files = images[name] = []
        for file in _files(classes / name, owners):
            ending = os.path.splitext(file)[1].lower()
            if ending in ENDINGS:
                files.append(f"{name}/{file}")
            else:
                others[ending or file.rsplit("/", 1)[-1]] += 1
    empty = [name for name, files in images.items() if not files]
    if empty:
        found = ", ".join(f"{count} of {ending!r}" for ending, count in others.most_common(5))
        raise MissingFileError(
            f"{str(classes)!r}: no images in {_shortened(empty)}; images end in "
            f"{' '.join(ENDINGS)}; other files found: {found or 'none'}"
        )
    if others:
        _log.warning("%s: left out files that are not images: %s", classes, dict(others))
    return images


def _files(top: Path, owners: dict[str, str]) -> Iterator[str]:
    """Yields the files below a class's folder, relative to it, with "/" between parts."""
    if storage.is_remote(top):  # where there are no links
        yield from storage.files_below(top)
        return
    for folder, names in _walk(top, owners):
        inside = Path(folder).relative_to(top)
        yield from ((inside / name).as_posix() for name in names)


def _walk(top: Path, owners: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each folder of a class once, however many links lead to it, and its files.

    Args:
      top: the class's folder.
      owners: real path -> the class that has it, of all classes so far; is added to.

    Raises:
      UserError: a folder is in another class too.
    """
    for folder, below, files in os.walk(top, followlinks=True):
        below.sort()  # so that the same of several paths is taken on every machine
        real = os.path.realpath(folder)
        if real not in owners:
            owners[real] = top.name
            yield folder, files
        elif owners[real] == top.name:
            below.clear()
        else:
            raise UserError(
                f"folder {real!r} is in two classes, {owners[real]!r} and (as {folder!r}) "
                f"{top.name!r}: remove the link that is wrong"
            )


def _class_folders(classes: Path) -> tuple[str, ...]:
    entries = storage.entries(classes)
    folders = tuple(x for x in sorted(entries) if entries[x] and not x.startswith("."))
    if not folders:
        found = _shortened(sorted(entries)) if entries else "nothing"
        raise MissingFileError(
            f"{str(classes)!r} has no class folders: expected <class>/<image> below it, "
            f"found {found}"
        )
    return folders


def _shortened(names: list[str] | tuple[str, ...], most: int = 10) -> str:
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(repr(name) for name in names[:most]) + rest


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
