"""Named tensors to checkpoint files: safetensors, in one file or in shards, `.npz` and `.pth`.

Tensors are written one after the other, in the order given, each read only then, so that writing
needs room for one tensor beside what the caller holds; `write_torch` alone, since `torch.save`
wants all at once, holds all that are read. Values are written bit for bit.

A file appears under its name only when all of it is on the disk; until then it has another name
beside it, and nothing is left of it if writing fails.

Source: the formats are those of the modules in `vit_jax/convert/readers`.
"""

import contextlib
import json
import math
import os
import re
import secrets
import warnings
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np
from numpy.lib import format as npy

from vit_jax.convert.errors import listed
from vit_jax.convert.readers import npz, safetensors, torch_file
from vit_jax.convert.tensors import LazyTensor
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import torch

Tensor = np.ndarray | LazyTensor
_CODES = {dtype: code for code, dtype in safetensors.DTYPES.items()}
PYTORCH = {"format": "pt"}  # metadata without which Transformers refuses a safetensors file


def write_safetensors(
    path: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Writes a safetensors file, replacing one that is there.

    Args:
      path: of the file; its folder is made if need be.
      tensors: by name.
      metadata: texts by name; {"format": "pt"} says that names and layouts are PyTorch's, which
        Transformers wants to read.

    Raises:
      UserError: a dtype or name that the format cannot hold.
      OSError: it cannot be written, as on a full disk. A file that was there stays.
    """
    with beside(Path(path)) as file:
        _safetensors(file, tensors, metadata)


def write_sharded_safetensors(
    folder: str | os.PathLike,
    tensors: Mapping[str, Tensor],
    max_shard_bytes: int,
    name: str = "model.safetensors",
    metadata: Mapping[str, str] = PYTORCH,
) -> None:
    """Writes safetensors into several files with an index, named as Transformers names them.

    `model-00001-of-00003.safetensors` ... and `model.safetensors.index.json`; where all fits into
    one shard, `model.safetensors` alone.

    Args:
      folder: made if need be.
      tensors: by name. A shard is filled in this order until the next would exceed its size.
      max_shard_bytes: size of the values in a shard; a tensor that is larger has its own shard.
      name: what the checkpoint is called.
      metadata: of each shard, see `write_safetensors`.

    Raises:
      UserError: a dtype or name that the format cannot hold, or the folder holds a checkpoint of
        that name, whose parts would be mixed up with these.
      OSError: it cannot be written, as on a full disk. Nothing appears in the folder.
    """
    folder = Path(folder)
    stem, suffix = os.path.splitext(name)
    _check_free(folder, stem, suffix)
    shards = _shards(tensors, max_shard_bytes)
    if len(shards) == 1:
        return write_safetensors(folder / name, tensors, metadata)
    names = [f"{stem}-{i:05d}-of-{len(shards):05d}{suffix}" for i in range(1, len(shards) + 1)]
    index = {
        "metadata": {"total_size": sum(map(_size, tensors.values()))},
        "weight_map": {x: file for file, shard in zip(names, shards) for x in shard},
    }
    with _placed([folder / x for x in (*names, f"{name}.index.json")]) as (*places, index_place):
        for place, shard in zip(places, shards):
            with _synced(place) as file:
                _safetensors(file, {x: tensors[x] for x in shard}, metadata)
        with _synced(index_place) as file:
            file.write((json.dumps(index, indent=2, sort_keys=True) + "\n").encode())
    return None


def write_npz(path: str | os.PathLike, tensors: Mapping[str, Tensor]) -> None:
    """Writes a `.npz` file as `np.savez` does, replacing one that is there.

    Args:
      path: of the file; its folder is made if need be.
      tensors: by name, such as "params/img/cls". bfloat16 is stored as two bytes without a meaning
        (`|V2`), as big_vision does.

    Raises:
      UserError: a dtype that the format cannot hold, such as float8.
      OSError: it cannot be written, as on a full disk. A file that was there stays.
    """
    for name, tensor in tensors.items():
        if not _is_number_of_numpy(tensor.dtype) and tensor.dtype != npz.BFLOAT16:
            raise UserError(f"{name!r} is {tensor.dtype}, which .npz cannot hold: use safetensors")
    with beside(Path(path)) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, tensor in tensors.items():
            with archive.open(name + npz.SUFFIX, "w", force_zip64=True) as entry:
                npy.write_array(entry, _values_of_npz(tensor), allow_pickle=False)


def write_torch(
    path: str | os.PathLike, tensors: Mapping[str, Tensor], under: str | None = None
) -> None:
    """Writes a `.pth` file, a dictionary of tensors, with `torch.save`; replaces one that is there.

    Args:
      path: of the file; its folder is made if need be.
      tensors: by name. Arrays are not copied.
      under: the name of the dictionary within another one, as "model"; None: it is the file.

    Raises:
      UserError: PyTorch is not installed, or lacks a dtype.
      OSError: it cannot be written, as on a full disk. A file that was there stays.
    """
    torch = torch_file.import_torch(f"writing {os.fspath(path)}")
    for name, tensor in tensors.items():
        if tensor.dtype.name not in (*torch_file.PLAIN, *torch_file.SEEN_AS):
            raise UserError(f"{name!r} is {tensor.dtype}, which PyTorch does not have")

    def converted(tensor: Tensor) -> "torch.Tensor":
        array, kind = _values(tensor), tensor.dtype.name
        seen_as = torch_file.SEEN_AS.get(kind, kind)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that the array must not be written to: it is not
            return torch.from_numpy(array.view(seen_as)).view(getattr(torch, kind))

    with beside(Path(path)) as file:
        try:
            found = {name: converted(tensor) for name, tensor in tensors.items()}
            torch.save(found if under is None else {under: found}, file)
        except RuntimeError as error:  # PyTorch's, of its position in the file, hides the system's
            raise (error.__context__ if isinstance(error.__context__, OSError) else error) from None


def _safetensors(
    file: BinaryIO, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None
) -> None:
    header = {} if metadata is None else {safetensors.METADATA: dict(metadata)}
    # Wide values first, as the package does it, which keeps each on a multiple of its width.
    order = sorted(tensors, key=lambda name: (-tensors[name].dtype.itemsize, name))
    position = 0
    for name in order:
        tensor = tensors[name]
        code = _CODES.get(tensor.dtype.newbyteorder("="))
        if code is None or name == safetensors.METADATA:
            raise UserError(f"{name!r}, {tensor.dtype}, cannot be stored in safetensors")
        end = position + _size(tensor)
        shape = list(tensor.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    file.write(len(text).to_bytes(8, "little") + text)
    for name in order:
        file.write(_values(tensors[name]).reshape(-1).view(np.uint8).data)


def _is_number_of_numpy(dtype: np.dtype) -> bool:
    """Unlike those of ml_dtypes, of which some have a kind of NumPy's."""
    return dtype.kind in npz.NUMBERS and issubclass(dtype.type, np.number | np.bool_)


def _values_of_npz(tensor: Tensor) -> np.ndarray:
    array = _values(tensor)
    return array.view(npz.BFLOAT16_STORED) if array.dtype == npz.BFLOAT16 else array


def _values(tensor: Tensor) -> np.ndarray:
    """The values in one piece, little-endian."""
    array = tensor.read() if isinstance(tensor, LazyTensor) else np.asarray(tensor)
    if array.dtype.byteorder == ">":
        array = array.astype(array.dtype.newbyteorder("<"))
    return array if array.flags.c_contiguous else array.copy(order="C")


def _size(tensor: Tensor) -> int:
    return math.prod(tensor.shape) * tensor.dtype.itemsize


def _shards(tensors: Mapping[str, Tensor], max_shard_bytes: int) -> Sequence[Sequence[str]]:
    """The names of the tensors of each shard."""
    shards: list[list[str]] = [[]]
    filled = 0
    for name, tensor in tensors.items():
        if filled + _size(tensor) > max_shard_bytes and shards[-1]:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += _size(tensor)
    return shards


def _check_free(folder: Path, stem: str, suffix: str) -> None:
    """Refuses a folder with parts of a checkpoint of this name, which would count as of this."""
    part = re.compile(rf"{re.escape(stem)}(-\d+-of-\d+)?{re.escape(suffix)}(\.index\.json)?")
    there = sorted(path.name for path in folder.glob("*") if part.fullmatch(path.name))
    if there:
        raise UserError(f"{folder} already holds {listed(there)}: give another folder")


@contextlib.contextmanager
def beside(path: Path) -> Iterator[BinaryIO]:
    """A file to write, which gets its name when all of it is on the disk."""
    with _placed([path]) as [place], _synced(place) as file:
        yield file


@contextlib.contextmanager
def _placed(paths: Sequence[Path]) -> Iterator[list[Path]]:
    """Places to write files at; at the end, in this order, they get their names, or go."""
    for path in paths:
        if path.is_dir():
            raise UserError(f"{path} is a folder; expected the name of a file to write")
        path.parent.mkdir(parents=True, exist_ok=True)
    unique = secrets.token_hex(4)
    places = [path.with_name(f".{path.name}.{unique}.tmp") for path in paths]
    try:
        yield places
        for place, path in zip(places, paths):
            os.replace(place, path)
    finally:
        for place in places:
            place.unlink(missing_ok=True)


@contextlib.contextmanager
def _synced(path: Path) -> Iterator[BinaryIO]:
    """A new file to write, which is on the disk at the end."""
    with path.open("xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
