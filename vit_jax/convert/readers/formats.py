"""Which format a file has: its first bytes decide, not its name.

A name that contradicts the content is an error, since other programs go by it; so is anything that
is not a checkpoint, and then the message says what it looks like.
"""

import os
import re
from pathlib import Path

from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers.torch_file import LEGACY_MAGIC
from vit_jax.convert.readers.zip_entries import ZIP_MAGIC, ZipEntries

SAFETENSORS, NPZ, TORCH, TORCHSCRIPT = "safetensors", "npz", "torch.save", "TorchScript"
# file name extension -> what such a file may be
EXTENSIONS = {
    ".safetensors": (SAFETENSORS,),
    ".npz": (NPZ,),
    ".pth": (TORCH, TORCHSCRIPT),
    ".pt": (TORCH, TORCHSCRIPT),
    ".bin": (TORCH, TORCHSCRIPT),
    ".ckpt": (TORCH, TORCHSCRIPT),
}
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_LEGACY_SINCE = 2  # bytes 0 and 1 are the pickle protocol
# What people find in place of a checkpoint. The first that matches the beginning counts.
_MISTAKEN = (
    (
        rb"version https://git-lfs",
        "it is a Git LFS pointer, a note that stands for the file: fetch the file with "
        "`git lfs pull`, or download it",
    ),
    (
        rb"(?i)(\xef\xbb\xbf)?\s*(<!doctype html|<html|<head)",
        "it is an HTML page, probably of an error or a login: download the file itself",
    ),
    (rb"\s*<\?xml", "it is XML, probably an error of a download: download the file again"),
    (rb"\x1f\x8b", "it is compressed by gzip: unpack it first"),
    (rb"\x89HDF", "it is HDF5, as Keras writes: export it to .npz or safetensors"),
    (rb"GGUF", "it is GGUF, mostly quantised weights: use the model it was made from"),
    (rb"\x93NUMPY", "it is one .npy array: store the arrays by name with np.savez"),
    (rb"\s*[{\[]", "it is text, probably JSON: give the file with the weights"),
)


def format_of(path: str | os.PathLike) -> str:
    """Returns the format of a file: one of the constants of this module.

    Raises:
      CheckpointFileError: it has none of these formats, or another one than its name says.
    """
    path = Path(path)
    found = _sniff(path)
    expected = EXTENSIONS.get(path.suffix.lower(), (found,))
    if found not in expected:
        cause = (
            f"it is called {path.suffix} but its content is {found}: rename it to "
            f"{_extension(found)}, or get the file that the name promises"
        )
        raise CheckpointFileError(path, cause)
    return found


def _extension(kind: str) -> str:
    return next(extension for extension, kinds in EXTENSIONS.items() if kind in kinds)


def _sniff(path: Path) -> str:
    with path.open("rb") as file:
        start = file.read(512)
    if not start:
        raise CheckpointFileError(path, "it is empty (0 bytes): download or copy it again")
    if start.startswith(ZIP_MAGIC):
        return _kind_of_zip(path)
    if start[_LEGACY_SINCE:].startswith(LEGACY_MAGIC[_LEGACY_SINCE:]) and _PICKLE.match(start):
        return TORCH
    if start[8:9] == b"{" and start[7] == 0:  # a header length below 2^56
        return SAFETENSORS
    for pattern, what in _MISTAKEN:
        if re.match(pattern, start):
            raise CheckpointFileError(path, what)
    if _PICKLE.match(start):
        what = "it is a pickle that torch.save did not write, or only its beginning; a pickle could"
        raise CheckpointFileError(path, f"{what} run code: store the tensors with torch.save")
    raise CheckpointFileError(
        path,
        f"it begins with {start[:16]!r}; expected safetensors, .npz, or what torch.save or "
        "torch.jit.save write",
    )


def _kind_of_zip(path: Path) -> str:
    names = ZipEntries(path).names
    if all(name.endswith(".npy") for name in names):
        return NPZ
    if any(name.endswith("/data.pkl") for name in names):
        return TORCHSCRIPT if any(name.endswith("/constants.pkl") for name in names) else TORCH
    raise CheckpointFileError(
        path,
        f"it is a zip archive that begins with {names[0]!r}; expected .npy arrays, or the data.pkl "
        "of torch.save",
    )
