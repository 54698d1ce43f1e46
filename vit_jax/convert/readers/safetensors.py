"""Safetensors: eight bytes N (little-endian), N bytes of a JSON header, and the values.

The header gives each tensor's dtype, shape and first and last byte, counted from the header's end,
and may hold texts under "__metadata__". The values fill the rest of the file without holes.

Source: https://github.com/huggingface/safetensors, section "Format". Read here without that
package, which for NumPy copies each tensor, and knows no bfloat16 there.
"""

import json
import math
import os
from typing import Any

import ml_dtypes
import numpy as np

from vit_jax.convert.errors import CheckpointFileError, listed
from vit_jax.convert.readers.json_file import parse_object
from vit_jax.convert.readers.mapped import MappedFile
from vit_jax.convert.readers.select import choose
from vit_jax.convert.tensors import LazyTensor

DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "F8_E4M3FNUZ": np.dtype(ml_dtypes.float8_e4m3fnuz),
    "F8_E5M2FNUZ": np.dtype(ml_dtypes.float8_e5m2fnuz),
    "F8_E8M0": np.dtype(ml_dtypes.float8_e8m0fnu),
    "U16": np.dtype(np.uint16),
    "I16": np.dtype(np.int16),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "U32": np.dtype(np.uint32),
    "I32": np.dtype(np.int32),
    "F32": np.dtype(np.float32),
    "U64": np.dtype(np.uint64),
    "I64": np.dtype(np.int64),
    "F64": np.dtype(np.float64),
    "C64": np.dtype(np.complex64),
}
METADATA = "__metadata__"
MAX_HEADER = 100_000_000  # bytes, the limit of the format's own implementation


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, LazyTensor]:
    """Returns the tensors of a safetensors file, as views of the mapped file.

    Args:
      path: the file.
      key: takes the names that begin with it and a dot, without that beginning; None takes all.

    Raises:
      CheckpointFileError: the file is cut short or contradicts itself, or `key` is not in it.
    """
    file = MappedFile(path)
    header, start = _header(file, path)
    header.pop(METADATA, None)
    entries = {name: _entry(name, entry, path) for name, entry in header.items()}
    _check_layout(entries, file.size - start, path)

    def tensor(dtype: np.dtype, shape: tuple[int, ...], begin: int) -> LazyTensor:
        file.array(dtype, shape, start + begin)  # checks that there can be such an array
        return LazyTensor(shape, dtype, lambda: file.array(dtype, shape, start + begin))

    tensors = {(name,): tensor(d, shape, begin) for name, (d, shape, begin, _) in entries.items()}
    return choose(tensors, key, ".", path)


def _header(file: MappedFile, path: str | os.PathLike) -> tuple[dict[str, Any], int]:
    """The header and the byte where the values begin."""
    length = int.from_bytes(file.bytes[:8], "little")
    if length > MAX_HEADER:
        cause = f"its header would have {length} bytes; expected at most {MAX_HEADER}"
        raise CheckpointFileError(path, cause)
    start = 8 + length
    if start > file.size:
        raise CheckpointFileError(path, _cut_short(file.size, start))
    return parse_object(file.bytes[8:start], path, "its header"), start


def _entry(
    name: str, entry: Any, path: str | os.PathLike
) -> tuple[np.dtype, tuple[int, ...], int, int]:
    """One entry of the header, checked: dtype, shape, first byte, byte after the last."""
    match entry:
        case {"dtype": str(code), "shape": [*shape], "data_offsets": [begin, end]} if len(
            entry
        ) == 3 and all(type(x) is int and x >= 0 for x in (*shape, begin, end)):
            pass
        case _:
            expected = '{"dtype": text, "shape": [sizes], "data_offsets": [first, last]}'
            cause = f"its header says of {name!r} {json.dumps(entry)[:200]}; expected {expected}"
            raise CheckpointFileError(path, cause)
    if code not in DTYPES:
        cause = f"{name!r} is of dtype {code!r}; known are {', '.join(DTYPES)}"
        raise CheckpointFileError(path, cause)
    size = math.prod(shape) * DTYPES[code].itemsize
    if end - begin != size:
        cause = f"{name!r}, {code} {shape}, needs {size} bytes but has bytes {begin} to {end}"
        raise CheckpointFileError(path, cause)
    return DTYPES[code], tuple(shape), begin, end


def _check_layout(entries: dict[str, tuple], size: int, path: str | os.PathLike) -> None:
    """Checks that the tensors fill the values without overlap, hole or rest."""
    position = 0
    for name, (_, _, begin, end) in sorted(entries.items(), key=lambda item: item[1][2:]):
        if begin != position:
            what = "overlaps the tensor before it" if begin < position else "follows a hole"
            cause = f"{name!r} {what}: it begins at byte {begin} of the values, not at {position}"
            raise CheckpointFileError(path, cause)
        position = end
    if position > size:
        beyond = (name for name, (_, _, _, end) in entries.items() if end > size)
        cause = f"{_cut_short(size, position, 'bytes of values')} (missing: {listed(beyond, 3)})"
        raise CheckpointFileError(path, cause)
    if position < size:
        cause = f"{size - position} bytes follow the last tensor; expected the file to end there"
        raise CheckpointFileError(path, cause)


def _cut_short(size: int, expected: int, unit: str = "bytes") -> str:
    return f"it is cut short, {size} of {expected} {unit}: download or copy it again"
