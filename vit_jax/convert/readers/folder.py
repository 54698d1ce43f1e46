"""Which file of a folder holds the checkpoint.

The standard names of Transformers, timm and open_clip come first, in the order in which these look
for them; a folder without any must hold one checkpoint, in one file or in shards under one index.
Where both safetensors and PyTorch's format have it under one name, safetensors are taken.
"""

import os
import re
from pathlib import Path

from vit_jax.convert.errors import CheckpointFileError, NoCheckpointError, listed
from vit_jax.convert.hub_files import INDEX, STANDARD
from vit_jax.convert.readers import formats
from vit_jax.convert.readers.sharded import SHARD, read_index

# What the Trainer of Transformers keeps beside the weights
NOT_A_MODEL = re.compile(r"(training_args|optimizer|scheduler|scaler|rng_state.*)\.(bin|pt|pth)")


def find_checkpoint(folder: str | os.PathLike) -> Path:
    """Returns the checkpoint file of a folder, or the index of its shards.

    Raises:
      NoCheckpointError: there is none.
      CheckpointFileError: there are several, or one is in parts without an index.
    """
    folder = Path(folder)
    for name in STANDARD:
        if (folder / name).is_file():
            return folder / name
    names = _candidates(folder)
    if not names:
        there = sorted(path.name for path in folder.iterdir())
        cause = f"the folder holds no checkpoint (there is {listed(there)}); expected "
        raise NoCheckpointError(folder, f"{cause}one of {', '.join(formats.EXTENSIONS)}")
    if orphan := next(filter(SHARD.fullmatch, names), None):
        index = SHARD.sub(r"\1\3", orphan) + INDEX
        cause = f"{orphan!r} is a part of a checkpoint, but the index {index!r} is missing"
        raise CheckpointFileError(folder, cause)
    best, *others = sorted(names, key=lambda name: (".safetensors" not in name, INDEX in name))
    if any(not _is_same(best, other) for other in others):
        cause = f"the folder holds several checkpoints: {listed(names)}; give the path of one"
        raise CheckpointFileError(folder, cause)
    return folder / best


def _candidates(folder: Path) -> list[str]:
    """Files that may be a checkpoint, and indexes; without the shards that an index names."""
    names = [path.name for path in sorted(folder.iterdir()) if path.is_file()]
    names = [name for name in names if not NOT_A_MODEL.fullmatch(name)]
    indexes = [name for name in names if name.endswith(INDEX)]
    shards = {shard for name in indexes for shard in read_index(folder / name).values()}
    files = [name for name in names if Path(name).suffix.lower() in formats.EXTENSIONS]
    return indexes + [name for name in files if name not in shards]


def _is_same(best: str, other: str) -> bool:
    """Whether `other` is, by its name, PyTorch's format or the index of the same checkpoint."""
    stem, suffix = os.path.splitext(best.removesuffix(INDEX))
    other_stem, other_suffix = os.path.splitext(other.removesuffix(INDEX))
    if stem != other_stem:
        return False
    return suffix == other_suffix or (suffix == ".safetensors" and other_suffix != ".npz")
