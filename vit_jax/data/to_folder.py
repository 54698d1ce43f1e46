"""Writes a source of examples as a folder of images, one sub-folder a class.

What `folder:PATH` reads, and `vit-jax predict` and any other program as well.
"""

import io
import os
from collections.abc import Collection, Iterator
from pathlib import Path

import numpy as np
from PIL import Image
from tqdm import tqdm

from vit_jax import naming, storage
from vit_jax.data.decode import FORMATS, DecodeError, to_image
from vit_jax.data.sources import Example, Source
from vit_jax.errors import UserError


def write_folder(
    source: Source,
    folder: str | os.PathLike[str],
    classes: Collection[str] | None = None,
    per_class: int | None = None,
) -> list[Path]:
    """Writes `folder/<class>/<number>.<format>` for each example.

        test = data.open_source("digits", "test")
        files = data.write_folder(test, "pictures/test", classes=["3", "8"], per_class=20)

    Encoded images are written byte for byte, arrays as PNG. The number is that of the example in
    the source. Where all of a class's files are there already, they stay: a notebook's cell can be
    run once more.

    Args:
      source: from `open_source`.
      folder: made where it is missing; of the classes' folders it may hold those that would be
        written as they are.
      classes: names of those to write; None: all.
      per_class: at most so many of each class, the first ones; None: all.

    Returns:
      The files, in the order of the source.

    Raises:
      UserError: an unknown class, or one whose name is no folder's; fewer than one a class; or a
        folder that is there with other files or cannot be written.
      DecodeError: an image that is of no format that is read here; names the example.
    """
    chosen = tuple(dict.fromkeys(source.class_names if classes is None else classes))
    naming.check_known("class", chosen, source.class_names)
    for name in chosen:
        _check_folder_name(name)
    if per_class is not None and per_class < 1:
        raise UserError(f"per_class is {per_class}: expected 1 or more, or None for all")
    folder = Path(folder)
    with storage.writing(folder):
        there = {name: _files(folder / name) for name in chosen if (folder / name).exists()}
        same = list(_the_same(source, folder, there, per_class)) if there else []
        new = [name for name in chosen if name not in there]
        for name in new:
            (folder / name).mkdir(parents=True)
        files = [*same, *_written(source, folder, new, per_class)] if new else same
    return sorted(files, key=lambda path: int(path.stem))


def _files(folder: Path) -> set[Path]:
    """What a class's folder holds, but for what a system or an editor hides in it."""
    return {path for path in folder.iterdir() if not path.name.startswith(".")}


def _the_same(
    source: Source, folder: Path, there: dict[str, set[Path]], per_class: int | None
) -> Iterator[Path]:
    """Yields the files of classes that are there, if they are those that would be written.

    Raises:
      UserError: one is missing, has another content, or is there besides.
    """
    others = {name: set(files) for name, files in there.items()}
    for path, content in _to_be(source, folder, there, per_class):
        if path not in others[path.parent.name] or path.read_bytes() != content:
            raise _others(path)
        others[path.parent.name].remove(path)
        yield path
    for files in others.values():
        if files:
            raise _others(min(files))


def _others(path: Path) -> UserError:
    return UserError(
        f"{path.parent} is already there, and not as it would be written (see {path.name}): "
        "choose another folder"
    )


def _check_folder_name(name: str) -> None:
    """Raises UserError for a class that would be written elsewhere, or deeper, than it is read."""
    if not name or name.startswith(".") or set(name) & {"/", "\\", "\0"}:
        raise UserError(
            f"class {name!r} cannot be a folder of its own: choose classes whose names are not "
            "empty, have no slash and do not begin with a dot"
        )


def _written(
    source: Source, folder: Path, classes: Collection[str], per_class: int | None
) -> Iterator[Path]:
    """Writes the examples, and yields the path of each."""
    for path, content in _to_be(source, folder, classes, per_class):
        path.write_bytes(content)
        yield path


def _to_be(
    source: Source, folder: Path, classes: Collection[str], per_class: int | None
) -> Iterator[tuple[Path, bytes]]:
    """Yields path and content of each file of the classes, in the order of the source."""
    left = dict.fromkeys(classes, len(source) if per_class is None else per_class)
    for index in tqdm(range(len(source)), os.fspath(folder), disable=None, leave=False):
        example = source[index]
        name = source.class_names[example["label"]]
        if left.get(name, 0):
            left[name] -= 1
            content, ending = _encoded(example)
            yield folder / name / f"{index:05d}.{ending}", content
        elif not any(left.values()):
            return


def _encoded(example: Example) -> tuple[bytes, str]:
    """The bytes of a file, and the ending of its name."""
    image = example["image"]
    if not isinstance(image, np.ndarray):
        return image, _ending(image, example["name"])
    file = io.BytesIO()
    to_image(image).save(file, "PNG")
    return file.getvalue(), "png"


def _ending(encoded: bytes, name: str) -> str:
    try:
        with Image.open(io.BytesIO(encoded), formats=FORMATS) as picture:
            return picture.format.lower()
    except OSError as error:
        raise DecodeError(name, str(error)) from error
