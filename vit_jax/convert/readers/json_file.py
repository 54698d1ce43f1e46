"""JSON objects from files that may come from anywhere (RFC 8259).

A name that occurs twice in an object is an error: which of the two counts is left open by the
standard, and readers differ.
"""

import json
import os
from typing import Any

from vit_jax.convert.errors import CheckpointFileError


def parse_object(data: bytes, path: str | os.PathLike, what: str) -> dict[str, Any]:
    """Returns a JSON object.

    Args:
      data: the text, UTF-8.
      path: the file it is from, for the error.
      what: what it is, for the error: "its header".

    Raises:
      CheckpointFileError: it is not JSON, not an object, or has a name twice.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise CheckpointFileError(path, f"{what} has the name {twice!r} twice")
        return result

    try:
        value = json.loads(data.decode("utf-8"), object_pairs_hook=unique)
    except CheckpointFileError:
        raise
    except (ValueError, RecursionError) as error:
        raise CheckpointFileError(path, f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise CheckpointFileError(path, f"{what} is a JSON {kind}; expected an object, {{...}}")
    return value
