"""A file as memory: arrays are views of it, and its pages are read when they are looked at.

The system may drop such pages again whenever it needs the room, so a view costs address space but
no memory of its own.
"""

import math
import mmap
import os

import numpy as np

from vit_jax.convert.errors import CheckpointFileError


class MappedFile:
    """A file, mapped read-only.

    Attributes:
      path: the file.
      bytes: all of it.
      size: its length in bytes.
    """

    def __init__(self, path: str | os.PathLike):
        """Maps a file that is not empty."""
        self.path = path
        with open(path, "rb") as file:
            self.bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.size = len(self.bytes)

    def array(self, dtype: np.dtype, shape: tuple[int, ...], offset: int) -> np.ndarray:
        """Returns the values from byte `offset` on as a view that cannot be written to.

        Raises:
          CheckpointFileError: they do not lie within the file, or no array has such a shape.
        """
        try:
            return np.frombuffer(self.bytes, dtype, math.prod(shape), offset).reshape(shape)
        except (ValueError, OverflowError) as error:
            cause = f"it cannot hold a tensor of shape {list(shape)} at byte {offset}: {error}"
            raise CheckpointFileError(self.path, cause) from error
