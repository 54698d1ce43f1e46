"""What a checkpoint says about itself: step, metrics, and shape, dtype and checksum of each array.

The record is a JSON file of the checkpoint, and carries a checksum of its own.
"""

import dataclasses
import json
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax

from vit_jax.errors import UserError
from vit_jax.training import checksum


class DamagedCheckpointError(UserError, RuntimeError):
    """What is on the disk is not what was written."""


@dataclasses.dataclass(frozen=True)
class Record:
    """The content of a record.

    Attributes:
      step: number of updates made.
      metrics: of the evaluation at that step, None where there was none.
      notes: small values that the training loop wants back.
      arrays: for each array by name its "shape", "dtype" and "checksum".
    """

    step: int
    metrics: dict[str, float] | None
    notes: dict[str, Any]
    arrays: dict[str, dict[str, Any]]


def flatten(tree: Any) -> dict[str, Any]:
    """Returns the leaves of a tree by flat names such as `params.blocks_0.norm1.scale`."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    flat = {jax.tree_util.keystr(path, simple=True, separator="."): x for path, x in leaves}
    assert len(flat) == len(leaves), "two leaves of the state have the same name"
    return flat


def start_record(
    step: int,
    metrics: dict[str, float] | None,
    notes: dict[str, Any],
    arrays: Mapping[str, jax.Array],
) -> Callable[[], Record]:
    """Starts the checksums of a record and returns a function that waits for the record.

    Any thread may call it. The arrays may be donated to the next program meanwhile.
    """
    metrics, notes = json.loads(json.dumps((metrics, notes)))  # as they are now
    kinds = {name: {"shape": list(x.shape), "dtype": x.dtype.name} for name, x in arrays.items()}
    sums = checksum.start(arrays)

    def finish() -> Record:
        found = sums()
        entries = {name: {**kind, "checksum": found[name]} for name, kind in kinds.items()}
        return Record(step, metrics, notes, entries)

    return finish


def seal(record: Record) -> dict[str, Any]:
    """Returns a record as a JSON object with a checksum."""
    content = dataclasses.asdict(record)
    return {"content": content, "crc32": _crc32(content)}


def read_record(path: Path) -> Record:
    """Reads the file that holds what `seal` returned.

    Raises:
      DamagedCheckpointError: it cannot be read, or was changed.
    """
    try:
        sealed = json.loads(path.read_text(encoding="utf-8"))
        content, expected = sealed["content"], sealed["crc32"]
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DamagedCheckpointError(f"its record cannot be read: {error}") from error
    if _crc32(content) != expected:
        raise DamagedCheckpointError(f"the checksum of its record {path} is wrong")
    return Record(**content)


def _crc32(content: Mapping[str, Any]) -> int:
    return zlib.crc32(json.dumps(content, sort_keys=True).encode())


def check_wanted(record: Record, wanted: Mapping[str, Any], where: str) -> None:
    """Compares a record with the arrays that are to be restored.

    Args:
      record: of the checkpoint.
      wanted: arrays or `jax.ShapeDtypeStruct`s by name, all of a field of the state or none.
      where: the checkpoint, for the message.

    Raises:
      UserError: an array is missing, is not wanted, or has another shape or dtype.
    """
    fields = {name.split(".")[0] for name in wanted}
    there = {name for name in record.arrays if name.split(".")[0] in fields}
    for problem, names in (
        ("does not hold", sorted(set(wanted) - there)),
        ("holds, which this run does not have,", sorted(there - set(wanted))),
    ):
        if names:
            raise UserError(f"checkpoint {where} {problem} {_some(names)}; is the model the same?")
    for name, leaf in wanted.items():
        saved, here = record.arrays[name], {"shape": list(leaf.shape), "dtype": leaf.dtype.name}
        different = [f"{key} {saved[key]}" for key in here if saved[key] != here[key]]
        if different:
            raise UserError(
                f"checkpoint {where} holds {name} with {' and '.join(different)}, this run has "
                f"{leaf.dtype.name}{here['shape']}; start it as the checkpoint's run was started"
            )


def _some(names: list[str]) -> str:
    rest = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + rest
