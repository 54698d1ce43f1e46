"""Parameters as a flat list of names: what mapping tables speak about.

Paths are those of unrolled blocks, as "encoder/blocks_0/norm1/scale". Where a module scans its
blocks, the path stands for one layer of the stacked leaf, and reading or writing it touches that
layer alone: no second copy of the model is made.
"""

import math
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from flax import traverse_util

from vit_jax.models.vit import pair

ALIGNMENT = 64  # bytes
STACKED = "blocks"  # the name of a leaf's ancestor that says: axis 0 counts blocks


def shapes_of(module: nn.Module) -> dict[str, Any]:
    """The tree of `jax.ShapeDtypeStruct` of the module's parameters; nothing is allocated."""
    images = jax.ShapeDtypeStruct((1, *pair(module.img_size), module.in_chans), np.float32)
    # Where blocks can be scanned, one is traced and not all.
    scanned = module.clone(scan=True) if can_scan(module) else module
    with jax.enable_x64(True):  # else those of a float64 module would be float32
        shapes = jax.eval_shape(scanned.init, jax.random.key(0), images)["params"]
    return shapes if module.scan else traverse_util.unflatten_dict(by_path(shapes), sep="/")


def can_scan(module: nn.Module) -> bool:
    """Whether a module has blocks that one traced block can stand for."""
    return "scan" in module.field_ranges()


def allocate(module: nn.Module, dtype: Any) -> dict[str, Any]:
    """The module's parameters as arrays that are not filled yet."""
    return jax.tree.map(lambda leaf: empty(leaf.shape, dtype), shapes_of(module))


def empty(shape: tuple[int, ...], dtype: Any) -> np.ndarray:
    """An array that is not filled yet, which `jax.device_put` on a CPU takes without a copy.

    That is so for memory that begins at a multiple of 64 bytes; NumPy's own does by chance.
    """
    size = math.prod(shape) * np.dtype(dtype).itemsize
    buffer = np.empty(size + ALIGNMENT, np.uint8)
    begin = -buffer.ctypes.data % ALIGNMENT
    return buffer[begin : begin + size].view(dtype).reshape(shape)


def by_path(params: Mapping[str, Any]) -> dict[str, Any]:
    """Leaves by path, stacked ones layer by layer; NumPy arrays are views into `params`.

    Args:
        params: arrays, or `jax.ShapeDtypeStruct`s.
    """
    leaves: dict[str, Any] = {}
    for parts, leaf in traverse_util.flatten_dict(params).items():
        if STACKED not in parts:
            leaves["/".join(parts)] = leaf
            continue
        place = parts.index(STACKED)
        for i in range(leaf.shape[0]):
            layer = (*parts[:place], f"{STACKED}_{i}", *parts[place + 1 :])
            leaves["/".join(layer)] = _layer(leaf, i)
    return leaves


def _layer(leaf: Any, i: int) -> Any:
    if isinstance(leaf, jax.ShapeDtypeStruct):
        return jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
    return leaf[i]


def leaf_path(path: str, module: nn.Module) -> str:
    """Path of the leaf that holds `path`: another one where the module scans its blocks."""
    return re.sub(rf"(^|/){STACKED}_\d+/", rf"\1{STACKED}/", path) if module.scan else path
