"""A tensor of a file that is not read yet: what readers return and writers take."""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

# Dtypes in which parameters are stored. Others would have to be scaled, or were never parameters.
FLOATS = ("float16", "bfloat16", "float32", "float64")


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """One tensor of a file, not read yet.

    Attributes:
      shape: its shape.
      dtype: of NumPy, or of ml_dtypes (bfloat16, float8_e4m3fn ...); in native byte order.
      read: returns the values, an array that cannot be written to: a view of the memory-mapped
        file where the format allows, so that what is looked at can be dropped again.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    read: Callable[[], np.ndarray]

    @property
    def is_float(self) -> bool:
        """Whether parameters may be stored so; see `FLOATS`."""
        return self.dtype.name in FLOATS

    @property
    def nbytes(self) -> int:
        """Size of the values in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize
