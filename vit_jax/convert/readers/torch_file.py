"""What `torch.save` writes: `.pth`, `.pt`, `.bin`, `.ckpt`, in the zip or the older format.

Such a file is a pickle, which could run any code. It is read by PyTorch's weights-only unpickler,
which knows tensors and plain containers; a file that needs more is refused. Values that are no
tensors are left out, and what stands for the two kinds of them that real checkpoints hold and that
unpickler refuses, argparse.Namespace and NumPy's scalars, is an object of ours without content.

Tensors of the zip format are views of the mapped file. A file in the older format is read whole.

Source: `torch/serialization.py` and `torch/_weights_only_unpickler.py` of PyTorch.
"""

import os
import re
import warnings
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers.select import Keys, choose, unique
from vit_jax.convert.readers.zip_entries import ZIP_MAGIC
from vit_jax.convert.tensors import LazyTensor
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import torch

LEGACY_MAGIC = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # 0x1950a86a20f9469cfc6c, pickled
SAVE_WEIGHTS = (
    "where you trust the file, load it with the program that wrote it and save the weights alone: "
    "torch.save(model.state_dict(), 'weights.pth')"
)
# Dtypes that NumPy has, and those of ml_dtypes with the integers that have their size; the names
# are the same in PyTorch.
PLAIN = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
)
SEEN_AS = {
    "bfloat16": "uint16",
    "float8_e4m3fn": "uint8",
    "float8_e5m2": "uint8",
    "float8_e4m3fnuz": "uint8",
    "float8_e5m2fnuz": "uint8",
    "float8_e8m0fnu": "uint8",
}
# Classes and functions of values that are no tensors, by the names that pickles give them.
LEFT_OUT = (
    "argparse.Namespace",  # the arguments of the training script: MAE, DeiT, DINO, timm
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.dtype",
)


class LeftOut:
    """Stands for a value that is no tensor. Takes what the value is made from, keeps nothing."""

    def __init__(self, *parts: Any):
        del parts

    def __setstate__(self, state: Any) -> None:
        del state


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, LazyTensor]:
    """Returns the tensors of a file that `torch.save` wrote.

    Args:
      path: the file.
      key: which dictionary of tensors to take, such as "teacher", with a dot between the keys of
        nested ones; None takes the only one under a usual name, see `select.MODEL_KEYS`.

    Raises:
      CheckpointFileError: the file is damaged, needs to run code, holds several sets of weights or
        none, lacks `key`, or holds a tensor without an array of values (quantised, sparse ...).
      UserError: PyTorch is not installed.
    """
    torch = import_torch(f"reading {os.fspath(path)}")
    content = _load(torch, path)
    tensors = choose(unique(_tensors_in(torch, content), path), key, ".", path)
    return {name: _lazy(torch, name, tensor, path) for name, tensor in tensors.items()}


def import_torch(purpose: str) -> ModuleType:
    """Returns PyTorch; UserError, with the command that installs it, where it is missing."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{purpose} needs PyTorch ({error}): pip install vit_jax[torch]. Safetensors and npz "
            "files need none"
        ) from error
    return torch


def _load(torch: ModuleType, path: str | os.PathLike) -> Any:
    with open(path, "rb") as file:
        is_zip = file.read(len(ZIP_MAGIC)) == ZIP_MAGIC
    left_out = [(LeftOut, name) for name in LEFT_OUT]
    try:
        with torch.serialization.safe_globals(left_out), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # PyTorch's about its own types of storage
            return torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=is_zip)
    except (OSError, MemoryError):
        raise
    except Exception as error:  # an unpickler raises anything about untrusted bytes
        raise CheckpointFileError(path, _why(error)) from error


def _why(error: Exception) -> str:
    text = str(error)
    if refused := re.search(r"GLOBAL (\S+)", text):
        return (
            f"it asks for {refused[1]!r}, which is neither a tensor nor a plain container: to "
            "import and call what a file names could run any code, so it is refused; "
            f"{SAVE_WEIGHTS}"
        )
    if "Unsupported operand" in text or "Unsupported class" in text:
        return (
            "it is a pickle with instructions that PyTorch's weights-only reader does not know "
            f"({_last_line(text)}); {SAVE_WEIGHTS}"
        )
    return (
        f"PyTorch cannot read it ({type(error).__name__}: {_last_line(text)}); if it was cut short "
        "or damaged, download or copy it again"
    )


def _last_line(text: str) -> str:
    """The cause within one of PyTorch's longer messages."""
    start = text.find("WeightsUnpickler error: ")
    return text[max(start, 0) :].strip().partition("\n")[0][:300]


def _tensors_in(
    torch: ModuleType, value: Any, path: Keys = ()
) -> Iterator[tuple[Keys, "torch.Tensor"]]:
    """Every tensor by the keys, or places in lists, that lead to it."""
    if isinstance(value, torch.Tensor):
        yield path, value
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _tensors_in(torch, item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield from _tensors_in(torch, item, (*path, str(index)))


def _lazy(
    torch: ModuleType, name: str, tensor: "torch.Tensor", path: str | os.PathLike
) -> LazyTensor:
    kind = str(tensor.dtype).removeprefix("torch.")
    if cause := _no_array(torch, tensor, kind):
        raise CheckpointFileError(path, f"{name!r} {cause}")
    tensor = tensor.detach()
    if kind in SEEN_AS:
        dtype = np.dtype(getattr(ml_dtypes, kind))
        tensor = tensor.view(getattr(torch, SEEN_AS[kind]))
    else:
        dtype = np.dtype(kind)

    def values() -> np.ndarray:
        array = tensor.resolve_conj().resolve_neg().numpy().view(dtype)
        array.flags.writeable = False
        return array

    return LazyTensor(tuple(tensor.shape), dtype, values)


def _no_array(torch: ModuleType, tensor: "torch.Tensor", kind: str) -> str:
    """Why a tensor has no plain array of values; empty if it has one."""
    if tensor.is_quantized:
        return f"is quantised ({kind}); expected the floating-point weights it was made from"
    if tensor.layout != torch.strided or tensor.is_nested:
        layout = "nested" if tensor.is_nested else str(tensor.layout).removeprefix("torch.")
        return f"is {layout}; expected a dense tensor: save it as tensor.to_dense()"
    if tensor.device.type == "meta":
        return "is on the device 'meta', without values; save the model after it is materialised"
    if kind not in PLAIN and kind not in SEEN_AS:
        return f"is of dtype {kind}, which has no counterpart; expected float16, float32 ..."
    return ""
