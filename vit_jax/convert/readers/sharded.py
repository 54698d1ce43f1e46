"""Checkpoints in several files, with an index: `model.safetensors.index.json`.

The index is JSON, `{"metadata": {...}, "weight_map": {name of a tensor: name of a file}}`. It is
taken at its word: every file has to be there, within the index's folder, and to hold exactly the
tensors that the index says.

Source: Transformers, `docs/source/en/models.md`, "Sharded checkpoints".
"""

import os
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath, PureWindowsPath

from vit_jax.convert.errors import CheckpointFileError, listed
from vit_jax.convert.hub_files import INDEX
from vit_jax.convert.readers.json_file import parse_object
from vit_jax.convert.tensors import LazyTensor

SHARD = re.compile(r"(.+)-\d{5}-of-(\d{5})(\.\w+)")  # how shards are named


def read_index(path: str | os.PathLike) -> dict[str, str]:
    """Returns which file holds each tensor, as the index says.

    Raises:
      CheckpointFileError: it is no index, or names a file outside its folder.
    """
    weight_map = parse_object(Path(path).read_bytes(), path, "the index").get("weight_map")
    if not isinstance(weight_map, dict) or not all(type(x) is str for x in weight_map.values()):
        cause = 'expected {"weight_map": {name of a tensor: name of a file}}'
        raise CheckpointFileError(path, f"it is no index of shards; {cause}")
    for name in dict.fromkeys(weight_map.values()):
        _check_inside(Path(path), name)
    return weight_map


def read_shards(
    index: str | os.PathLike, read_file: Callable[[Path], dict[str, LazyTensor]]
) -> dict[str, LazyTensor]:
    """Returns the tensors of all shards, in the order of the index.

    Args:
      index: its path.
      read_file: reads one shard.

    Raises:
      CheckpointFileError: the index is not in order, a shard is missing or cannot be read, or holds
        other tensors than the index says.
    """
    weight_map = read_index(index)
    folder = Path(index).parent
    shards = list(dict.fromkeys(weight_map.values()))
    if missing := [name for name in shards if not (folder / name).is_file()]:
        cause = f"{len(missing)} of {len(shards)} shards are missing: {listed(missing)}"
        raise CheckpointFileError(index, f"{cause}; download or copy them into {folder}")
    if strays := _strays(Path(index), shards):
        cause = f"it does not name {listed(strays)}, which lies beside it; remove what is not meant"
        raise CheckpointFileError(index, cause)
    tensors: dict[str, LazyTensor] = {}
    for shard in shards:
        expected = {name for name, place in weight_map.items() if place == shard}
        found = read_file(folder / shard)
        if absent := sorted(expected - set(found)):
            raise CheckpointFileError(index, f"{shard!r} should hold {listed(absent)} but does not")
        if extra := sorted(set(found) - expected):
            cause = f"{shard!r} holds {listed(extra)}, for which the index does not name that file"
            raise CheckpointFileError(index, cause)
        tensors.update(found)
    return {name: tensors[name] for name in weight_map}


def _strays(index: Path, shards: list[str]) -> list[str]:
    """Files beside an index that are numbered as its shards are, and are none of them."""
    whole = index.name.removesuffix(INDEX)
    numbered = [x.name for x in index.parent.iterdir() if SHARD.fullmatch(x.name)]
    mine = [name for name in numbered if SHARD.sub(r"\1\3", name) == whole]
    return sorted(set(mine) - set(shards))


def _check_inside(index: Path, name: str) -> None:
    """Checks that a shard lies in the index's folder, links followed."""
    parts = (*PurePosixPath(name).parts, *PureWindowsPath(name).parts)
    absolute = PurePosixPath(name).is_absolute() or PureWindowsPath(name).anchor
    folder = index.parent.resolve()
    target = (folder / name).resolve()
    inside = target.is_relative_to(folder) or target.is_relative_to(_hub_blobs(folder))
    if absolute or ".." in parts or not inside:
        cause = f"it names the shard {name!r}, which lies outside its folder; expected a file there"
        raise CheckpointFileError(index, cause)


def _hub_blobs(folder: Path) -> Path:
    """Where the links of a snapshot in the hub's cache lead; the folder itself if it is none.

    The cache is REPOSITORY/snapshots/COMMIT/name -> REPOSITORY/blobs/HASH.
    """
    for parent in (folder, *folder.parents):
        if parent.parent.name == "snapshots":
            return parent.parent.parent / "blobs"
    return folder
