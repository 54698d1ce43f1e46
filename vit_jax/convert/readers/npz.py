"""`.npz`: a zip archive with one `.npy` file an array, as vision_transformer and big_vision write.

Entries that `np.savez` wrote are views of the mapped file; those of `np.savez_compressed` are
decompressed one at a time, when they are read. bfloat16, which NumPy does not know, is stored as
two bytes without a meaning (`|V2`), as big_vision does, and comes back as bfloat16. Arrays of
Python objects are pickles and are refused.

Source: NEP 1 (https://numpy.org/neps/nep-0001-npy-format.html) and `numpy.lib.format`.
"""

import math
import os
from typing import IO

import ml_dtypes
import numpy as np
from numpy.lib import format as npy

from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers.select import choose
from vit_jax.convert.readers.zip_entries import ZipEntries
from vit_jax.convert.tensors import LazyTensor

SUFFIX = ".npy"
BFLOAT16 = np.dtype(ml_dtypes.bfloat16)
BFLOAT16_STORED = np.dtype("V2")
NUMBERS = "biufc"  # kinds of dtype: bool, int, uint, float, complex


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, LazyTensor]:
    """Returns the arrays of a `.npz` file.

    Args:
      path: the file.
      key: takes the names that begin with it and "/", without that beginning: "params/img" of a
        model with two towers; None takes all.

    Raises:
      CheckpointFileError: the file is damaged, holds anything but numbers, or `key` is not in it.
    """
    archive = ZipEntries(path)
    for entry in archive.names:
        if not entry.endswith(SUFFIX):
            cause = f"its entry {entry!r} is no array; expected names that end in {SUFFIX}"
            raise CheckpointFileError(path, cause)
    tensors = {(name.removesuffix(SUFFIX),): _tensor(archive, name) for name in archive.names}
    return choose(tensors, key, "/", path)


def _tensor(archive: ZipEntries, name: str) -> LazyTensor:
    with archive.open(name) as file:
        shape, fortran_order, stored = _header(archive, name, file)
        begin = file.tell()
    dtype = _dtype(archive, name, stored)
    size = begin + math.prod(shape) * stored.itemsize
    if archive.size(name) != size:
        cause = f"{name!r}, {stored} {list(shape)}, has {archive.size(name)} bytes, not {size}"
        raise CheckpointFileError(archive.path, cause)

    def view() -> np.ndarray:
        mapped, start = archive.view(name)
        if fortran_order:
            return mapped.array(stored, shape[::-1], start + begin).T
        return mapped.array(stored, shape, start + begin)

    def from_map() -> np.ndarray:
        archive.check_sum(name)
        return _meant(view(), dtype)

    def from_stream() -> np.ndarray:
        with archive.open(name) as file:
            array = npy.read_array(file, allow_pickle=False)
            file.read(1)  # the end, where the checksum is compared
        return _meant(array, dtype)

    if not archive.is_stored(name):
        return LazyTensor(shape, dtype, from_stream)
    view()  # checks that there can be such an array
    return LazyTensor(shape, dtype, from_map)


def _header(
    archive: ZipEntries, name: str, file: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype]:
    try:
        version = npy.read_magic(file)
        if version == (1, 0):
            return npy.read_array_header_1_0(file)
        if version == (2, 0):
            return npy.read_array_header_2_0(file)
    except ValueError as error:
        cause = f"its entry {name!r} does not begin as an array: {error}"
        raise CheckpointFileError(archive.path, cause) from error
    cause = f"its entry {name!r} is of version {version} of the format; expected 1.0 or 2.0"
    raise CheckpointFileError(archive.path, cause)


def _dtype(archive: ZipEntries, name: str, stored: np.dtype) -> np.dtype:
    """The dtype that is meant by a stored one."""
    if stored.kind in NUMBERS:
        return stored.newbyteorder("=")
    if stored == BFLOAT16_STORED:
        return BFLOAT16
    if stored.hasobject:
        cause = (
            f"{name!r} holds Python objects, a pickle, which could run code and is not read; "
            "store arrays of numbers, one under each name"
        )
    else:
        cause = f"{name!r} is of dtype {stored}; expected numbers, or |V2 for bfloat16"
    raise CheckpointFileError(archive.path, cause)


def _meant(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Values as they are stored, seen or turned into the dtype that is meant, not to be changed."""
    array = array if array.dtype.isnative else array.byteswap()
    array = array.view(dtype)
    array.flags.writeable = False
    return array
