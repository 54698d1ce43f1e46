"""Which pictures are meant: files, folders and patterns to a sorted list without duplicates.

A folder stands for all pictures below it, whose names end as in `vit_jax.data.folder.ENDINGS`; a
file that is given by itself, or that a pattern matches, is taken whatever its name. Links to
folders are followed; a folder that is reached twice is looked at once.
"""

import collections
import glob
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from vit_jax import storage
from vit_jax.data.folder import ENDINGS, SPLITS
from vit_jax.errors import MissingFileError, UserError

Place = str | os.PathLike[str]


class Picture(NamedTuple):
    """A file, and the folder of its class: the first one below the folder that was given."""

    path: Path
    folder: str | None = None


def find_pictures(places: Place | Sequence[Place]) -> list[Picture]:
    """Finds the pictures that are meant.

    Args:
        places: files, folders, and patterns such as "photos/*.jpg" ("**" stands for any folders);
            one, or a sequence of them. A file or folder of just that name wins over a pattern.

    Returns:
        The pictures, sorted by path, each once.

    Raises:
        MissingFileError: a place that is not there, a folder without pictures, or a pattern that
            nothing matches.
        UserError: no place at all, or one in an object store.
    """
    if isinstance(places, str | os.PathLike):
        places = [places]
    if not places:
        raise UserError("no pictures are given: expected files, folders or patterns")
    found: dict[str, Picture] = {}
    for place in places:
        for picture in _at(os.fspath(place)):
            found.setdefault(os.path.abspath(picture.path), picture)
    return [found[path] for path in sorted(found)]


def class_labels(pictures: Sequence[Picture]) -> tuple[tuple[str, ...], list[int]] | None:
    """The classes that pictures lie in, sorted by name, and the number of each picture's class.

    None where they do not lie in folders of classes: some lie directly in the folder that was
    given, or the folders are those of splits ("train", "val").
    """
    folders = [picture.folder for picture in pictures]
    names = sorted({name for name in folders if name is not None})
    splits = {folder for of_split in SPLITS.values() for folder in of_split}
    if None in folders or set(names) <= splits:
        return None
    numbers = {name: number for number, name in enumerate(names)}
    return tuple(names), [numbers[name] for name in folders]


def _at(place: str) -> list[Picture]:
    """The pictures at one place."""
    if storage.is_remote(place):
        raise UserError(f"{place}: pictures are read from a file system; copy them from there")
    place = os.path.expanduser(place)
    if os.path.isdir(place):
        return _below(place)
    if os.path.exists(place):
        return [Picture(Path(place))]
    if not glob.has_magic(place):
        raise MissingFileError(
            f"no picture or folder at {place!r} (working directory {os.getcwd()!r})"
        )
    matches = glob.glob(place, recursive=True)
    files = [Picture(Path(x)) for x in matches if not os.path.isdir(x)]
    if "**" not in place:  # which matches what is in folders as well
        files += [y for x in matches if os.path.isdir(x) for y in _below(x)]
    if not files:
        raise MissingFileError(f"nothing matches {place!r} (working directory {os.getcwd()!r})")
    return files


def _below(top: str) -> list[Picture]:
    """The pictures in a folder and in those below it."""
    found: list[Picture] = []
    others: collections.Counter[str] = collections.Counter()
    for inside, name in _files(top):
        ending = os.path.splitext(name)[1].lower()
        if ending in ENDINGS:
            folder = inside.parts[0] if inside.parts else None
            found.append(Picture(top / inside / name, folder))
        else:
            others[ending or name] += 1
    if not found:
        there = ", ".join(f"{count} of {ending!r}" for ending, count in others.most_common(5))
        raise MissingFileError(
            f"no pictures in {top!r} or below: their names end in {' '.join(ENDINGS)}; other files "
            f"there: {there or 'none'}"
        )
    return found


def _files(top: str) -> Iterator[tuple[Path, str]]:
    """Folder, relative to `top`, and name of each file below it."""
    seen: set[str] = set()
    for folder, below, names in os.walk(top, followlinks=True):
        below.sort()  # so that the same of several paths is taken on every machine
        real = os.path.realpath(folder)
        if real in seen:
            below.clear()
            continue
        seen.add(real)
        yield from ((Path(folder).relative_to(top), name) for name in names)
