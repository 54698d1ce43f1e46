"""Which files of a repository are needed: one set of weights, and the configuration beside it.

Repositories hold the same weights in several formats. One is taken, the first of `STANDARD`, as
Transformers, timm and open_clip name their files; a repository that has none of these must hold
exactly one other weights file. Flax, TensorFlow and ONNX files are never taken.
"""

import dataclasses
import json
import posixpath
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from vit_jax.convert.hub_ids import HubId
from vit_jax.errors import UserError
from vit_jax.naming import unknown

CONFIGURATION = ("config.json", "preprocessor_config.json", "open_clip_config.json")
INDEX = ".index.json"  # names the shards of weights that are in several files
STANDARD = (
    "model.safetensors",
    "model.safetensors" + INDEX,
    "pytorch_model.bin",
    "pytorch_model.bin" + INDEX,
    "open_clip_model.safetensors",
    "open_clip_pytorch_model.bin",
)
OTHER = (".safetensors", ".npz", ".pth", ".pt")
NAMEABLE = (*OTHER, ".bin", INDEX)  # a .bin may be anything: it is taken only when it is named
SHOWN = 20  # so many names an error lists


@dataclasses.dataclass(frozen=True)
class Listing:
    """The files of a commit.

    Attributes:
      commit: 40 hexadecimal digits.
      sizes: of each file by its path, in bytes; None where it is not known.
      hashes: of each file of which it is known: SHA-256 (64 digits) or git's SHA-1 (40 digits).
      all_known: whether `sizes` has all files that the commit has.
    """

    commit: str
    sizes: dict[str, int | None]
    hashes: dict[str, str]
    all_known: bool = True


def gather(hub_id: HubId, listing: Listing, obtain: Callable[[Sequence[str]], Path]) -> Path:
    """Obtains the files that are needed.

    Args:
      hub_id: the repository, and the file of it that is named, if one is.
      listing: of the commit.
      obtain: puts the files with these names into the snapshot, and returns the snapshot's folder.

    Returns:
      As `hub.download`.

    Raises:
      UserError: as `choose_weights`, `check_named`, `shards_of` and `obtain`.
    """
    names = listing.sizes
    if hub_id.file is not None:
        check_named(hub_id.file, names, hub_id.repository)
        weights = hub_id.file
    else:
        weights = choose_weights(names, hub_id.repository, listing.all_known)
    folder = obtain([*configuration_of(weights, names), weights])
    if weights.endswith(INDEX):
        obtain(shards_of(weights, folder, names))
    return folder / weights if hub_id.file is not None else (folder / weights).parent


def choose_weights(names: Collection[str], repository: str, all_known: bool = True) -> str:
    """Chooses the weights of a repository.

    Args:
      names: its files, each a path inside it with "/".
      repository: owner/name, for the errors.
      all_known: whether `names` are all files that it has. If not, only a standard name can be
        taken: whether another file is the only one of its kind is not known.

    Returns:
      The weights file, or the index of its shards.

    Raises:
      UserError: there is no weights file, or there are several and none has a standard name.
    """
    for name in STANDARD:
        if name in names:
            return name
    others = sorted(name for name in names if name.endswith(OTHER))
    if len(others) == 1 and all_known:
        return others[0]
    if not others:
        raise UserError(
            f"{repository} holds no weights that can be read: expected {STANDARD[0]}, "
            f"{STANDARD[2]} or one {', '.join(OTHER)} file, found {_some(names)}"
        )
    raise UserError(
        f"{repository} may hold several weights files, and none has a standard name: "
        f"{_some(others)}. Choose one, as in 'hf-hub:{repository}/{others[0]}'"
    )


def check_named(file: str, names: Collection[str], repository: str) -> None:
    """Raises UserError unless `file` is among `names` and its ending is one of weights."""
    if not file.endswith(NAMEABLE):
        raise UserError(
            f"{repository}/{file} cannot be read: expected a file ending in {', '.join(NAMEABLE)}"
        )
    if file not in names:
        weights = [name for name in names if name.endswith(NAMEABLE)]
        raise UserError(f"{repository}: {unknown('weights file', file, weights)}")


def configuration_of(weights: str, names: Collection[str]) -> list[str]:
    """Returns the configuration files that lie in the folder of the weights file."""
    folder = posixpath.dirname(weights)
    beside = (posixpath.join(folder, name) for name in CONFIGURATION)
    return [name for name in beside if name in names]


def shards_of(index: str, folder: Path, names: Collection[str]) -> list[str]:
    """Returns the shards that an index names.

    Args:
      index: its path inside the repository.
      folder: of the local snapshot that holds it.
      names: the files of the repository.

    Raises:
      UserError: the file is no index, or names a shard that the repository does not hold.
    """
    try:
        weight_map = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"]
        shards = sorted(set(weight_map.values()))
        paths = [posixpath.join(posixpath.dirname(index), shard) for shard in shards]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{folder / index} is no index of shards: expected JSON with a 'weight_map' from "
            f"tensor names to file names ({type(error).__name__}: {error})"
        ) from error
    if missing := [path for path in paths if path not in names]:
        raise UserError(
            f"{folder / index} names shards that the repository does not hold: {_some(missing)}"
        )
    return paths


def _some(names: Collection[str]) -> str:
    names = sorted(names)
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return (", ".join(names[:SHOWN]) or "nothing") + more
