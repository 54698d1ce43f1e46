"""The error of a checkpoint file, and how it lists names."""

import os
from collections.abc import Iterable

from vit_jax.errors import UserError


class CheckpointFileError(UserError):
    """A file that cannot be read as a checkpoint. `path` says which, `cause` what is wrong."""

    def __init__(self, path: str | os.PathLike, cause: str):
        super().__init__(os.fspath(path), cause)  # both in `args`, so that it survives pickling
        self.path = os.fspath(path)
        self.cause = cause

    def __str__(self) -> str:
        return f"cannot read {self.path}: {self.cause}"


class NoCheckpointError(CheckpointFileError):
    """A folder without anything that may be a checkpoint."""


def listed(names: Iterable[str], limit: int = 8) -> str:
    """Returns names for an error message: the first `limit`, quoted, and how many more."""
    names = list(names)
    shown = ", ".join(map(repr, names[:limit])) or "nothing"
    return shown if len(names) <= limit else f"{shown} and {len(names) - limit} more"
