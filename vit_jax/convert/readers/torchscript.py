"""TorchScript archives, `torch.jit.save`: OpenAI's CLIP checkpoints are such. Needs no PyTorch.

A zip archive, all under one folder: `data.pkl`, a pickle of the module tree; `data/0`, `data/1` ...
the values of its tensors; `code/`, the source of its classes. Nothing of it runs. The source is
searched for the two lines of each class that say which attributes are parameters and buffers; the
pickle is read by an unpickler that imports nothing: a module becomes a holder of its attributes, a
tensor a view of the mapped file, and anything else is refused.

Source: https://github.com/pytorch/pytorch, `torch/csrc/jit/docs/serialization.md`; the opcodes are
those of `torch/csrc/jit/serialization/pickler.cpp`.
"""

import ast
import io
import os
import pickle
import re
from collections.abc import Callable, Iterator
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from vit_jax.convert.errors import CheckpointFileError
from vit_jax.convert.readers.mapped import MappedFile
from vit_jax.convert.readers.select import choose, unique
from vit_jax.convert.readers.zip_entries import ZipEntries
from vit_jax.convert.tensors import LazyTensor

STORAGES = {
    "torch.BoolStorage": np.dtype(np.bool_),
    "torch.ByteStorage": np.dtype(np.uint8),
    "torch.CharStorage": np.dtype(np.int8),
    "torch.ShortStorage": np.dtype(np.int16),
    "torch.IntStorage": np.dtype(np.int32),
    "torch.LongStorage": np.dtype(np.int64),
    "torch.HalfStorage": np.dtype(np.float16),
    "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "torch.FloatStorage": np.dtype(np.float32),
    "torch.DoubleStorage": np.dtype(np.float64),
    "torch.ComplexFloatStorage": np.dtype(np.complex64),
    "torch.ComplexDoubleStorage": np.dtype(np.complex128),
}
# `class Linear(Module):`, and the two lines that follow it; the second is there since PyTorch 1.7
_CLASS = re.compile(
    r"^class (\w+)\(Module\):\n  __parameters__ = (\[.*\])\n(?:  __buffers__ = (\[.*\])\n)?", re.M
)


def read(path: str | os.PathLike, key: str | None = None) -> dict[str, LazyTensor]:
    """Returns parameters and buffers by their dotted names, as the module's `state_dict` has them.

    Args:
      path: the file.
      key: takes the names of one submodule, relative to it, such as "visual"; None takes all.

    Raises:
      CheckpointFileError: the archive is damaged, asks for more than modules and tensors, or `key`
        is not in it.
    """
    archive = ZipEntries(path)
    root = root_folder(archive)
    if root + "byteorder" in archive.names and archive.read(root + "byteorder") != b"little":
        raise CheckpointFileError(path, "its byte order is not little-endian")
    declared = _declared(archive, root)
    try:
        module = _Unpickler(archive, root).load()
        if not isinstance(module, _Module):
            raise CheckpointFileError(path, "its data.pkl holds no module")
        tensors = unique((((name,), x) for name, x in _state(module, declared)), path)
    except (CheckpointFileError, MemoryError):
        raise
    except Exception as error:  # an unpickler raises anything about untrusted bytes
        cause = f"its data.pkl is damaged ({type(error).__name__}: {error})"
        raise CheckpointFileError(path, cause) from error
    return choose(tensors, key, ".", path)


def root_folder(archive: ZipEntries) -> str:
    """Returns the folder of an archive in which PyTorch put everything, with a slash at its end."""
    roots = [name.removesuffix("data.pkl") for name in archive.names if name.endswith("/data.pkl")]
    roots = [root for root in roots if root.count("/") == 1]
    if len(roots) != 1:
        cause = f"it holds {len(roots)} entries NAME/data.pkl; expected one"
        raise CheckpointFileError(archive.path, cause)
    return roots[0]


class _Sealed:
    """What a pickle can hold but not change."""

    __slots__ = ()

    def __setstate__(self, state: Any) -> NoReturn:
        raise pickle.UnpicklingError("the state of something else than a module is set")


class _Module:
    """A module: nothing but its attributes. Each class of an archive becomes a subclass."""

    def __new__(cls):
        module = super().__new__(cls)
        module.attributes = {}
        return module

    def __setstate__(self, state: Any) -> None:
        self.attributes = state if type(state) is dict else {}


class _Storage(_Sealed):
    """A type of storage, and with `offset` the storage that begins at this byte of the file."""

    __slots__ = ("dtype", "offset", "size")

    def __init__(self, dtype: np.dtype, offset: int = 0, size: int = 0):
        self.dtype, self.offset, self.size = dtype, offset, size


class _Tensor(_Sealed):
    """A tensor."""

    __slots__ = ("lazy",)

    def __init__(self, lazy: LazyTensor):
        self.lazy = lazy


class _Function(_Sealed):
    """A function of ours that a pickle may call."""

    __slots__ = ("_function",)

    def __init__(self, function: Callable):
        self._function = function

    def __call__(self, *args: Any) -> Any:
        return self._function(*args)


class _Unpickler(pickle.Unpickler):
    """Reads data.pkl. `find_class` gives objects of this file only."""

    def __init__(self, archive: ZipEntries, root: str):
        super().__init__(io.BytesIO(archive.read(root + "data.pkl")))
        self._archive, self._root = archive, root
        self._classes: dict[str, type] = {}
        self._functions = {
            "torch._utils._rebuild_tensor_v2": _Function(self._tensor),
            "collections.OrderedDict": _Function(dict),
            "torch.jit._pickle.restore_type_tag": _Function(lambda value, tag: value),
            "torch.jit._pickle.build_intlist": _Function(list),
            "torch.jit._pickle.build_doublelist": _Function(list),
            "torch.jit._pickle.build_boollist": _Function(list),
            "torch.jit._pickle.build_tensorlist": _Function(list),
        }

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module.split(".")[0] == "__torch__":
            if full not in self._classes:
                self._classes[full] = type(full, (_Module,), {})
            return self._classes[full]
        if full in STORAGES:
            return _Storage(STORAGES[full])
        if full in self._functions:
            return self._functions[full]
        if re.fullmatch(r"torch\.Q\w+Storage|torch\._utils\._rebuild_qtensor", full):
            cause = "it holds quantised tensors; expected the floating-point model they are of"
        else:
            cause = (
                f"its data.pkl asks for {full!r}, which is neither a module of the archive nor a "
                "tensor: to import and call it could run any code, so it is refused"
            )
        raise CheckpointFileError(self._archive.path, cause)

    def persistent_load(self, pid: Any) -> _Storage:
        """`("storage", type, name of an entry of data/, device, number of elements)`."""
        _, storage, entry, _, count = pid
        name = f"{self._root}data/{entry}"
        if name not in self._archive.names:
            raise CheckpointFileError(self._archive.path, f"its entry {name!r} is missing")
        size, expected = self._archive.size(name), count * storage.dtype.itemsize
        if size != expected:
            cause = f"its entry {name!r} has {size} bytes; expected {expected}"
            raise CheckpointFileError(self._archive.path, cause)
        return _Storage(storage.dtype, self._archive.view(name)[1], size)

    def _tensor(
        self, storage: _Storage, offset: int, shape: tuple, strides: tuple, *rest: Any
    ) -> _Tensor:
        """As `torch._utils._rebuild_tensor_v2`: offset and strides count elements."""
        del rest  # requires_grad and hooks
        mapped = self._archive.view(f"{self._root}data.pkl")[0]
        dtype, size = storage.dtype, storage.dtype.itemsize
        view = (offset * size, shape, [stride * size for stride in strides])
        _strided(mapped, storage, *view)  # checks that it lies within the storage
        return _Tensor(LazyTensor(shape, dtype, lambda: _strided(mapped, storage, *view)))


def _strided(
    mapped: MappedFile, storage: _Storage, offset: int, shape: tuple, strides: list
) -> np.ndarray:
    """Part of a storage; offset and strides in bytes. ValueError if it reaches beyond."""
    values = mapped.array(np.dtype(np.uint8), (storage.size,), storage.offset)
    return np.ndarray(shape, storage.dtype, values, offset, strides)


def _declared(archive: ZipEntries, root: str) -> dict[str, set[str] | None]:
    """Which attributes of each module class are parameters or buffers, by its full name.

    None where an old archive does not say which are buffers: then every tensor is taken.
    """
    declared = {}
    for name in archive.names:
        if name.startswith(root + "code/__torch__") and name.endswith(".py"):
            package = name.removeprefix(root + "code/").removesuffix(".py").replace("/", ".")
            source = archive.read(name).decode("utf-8", "replace")
            for cls, *lists in _CLASS.findall(source):
                names = {x for text in lists if text for x in ast.literal_eval(text)}
                declared[f"{package}.{cls}"] = names if all(lists) else None
    return declared


def _state(
    module: _Module, declared: dict[str, set[str] | None], prefix: str = "", around: tuple = ()
) -> Iterator[tuple[str, LazyTensor]]:
    """The parameters and buffers of a module and, under their names, of those within it."""
    if module in around:
        raise ValueError(f"the module {prefix!r} contains itself")
    stored = declared[type(module).__name__]
    for name, value in module.attributes.items():
        if isinstance(value, _Tensor) and (stored is None or name in stored):
            yield prefix + name, value.lazy
        elif isinstance(value, _Module) and type(value).__name__ in declared:
            yield from _state(value, declared, f"{prefix}{name}.", (*around, module))
