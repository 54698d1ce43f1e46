"""Checkpoint files to named tensors: `read_tensors(path)`.

| format | reader | needs PyTorch | memory |
|---|---|---|---|
| safetensors, one file or shards with an index | `safetensors`, `sharded` | no | mapped |
| `.npz` of Google's vision_transformer and big_vision | `npz` | no | mapped, or one tensor |
| `.pth`, `.pt`, `.bin` of `torch.save` | `torch_file` | yes | mapped; the old format: all |
| TorchScript archives of `torch.jit.save` (OpenAI's CLIP) | `torchscript` | no | mapped |

No reader runs anything that a file brings. Every file may come from anywhere: what is damaged,
contradicts itself or is not what its name says is an error. Flipped bits are noticed in `.npz`
alone, since the other formats have no checksum that their own programs keep.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_jax.convert.errors import CheckpointFileError, listed
from vit_jax.convert.hub_files import INDEX
from vit_jax.convert.readers import formats, npz, safetensors, torch_file, torchscript
from vit_jax.convert.readers.folder import find_checkpoint
from vit_jax.convert.readers.json_file import parse_object
from vit_jax.convert.readers.select import choose, unwrap
from vit_jax.convert.readers.sharded import SHARD, read_shards
from vit_jax.convert.tensors import LazyTensor
from vit_jax.errors import MissingFileError

READERS: dict[str, Callable[[Path, str | None], dict[str, LazyTensor]]] = {
    formats.SAFETENSORS: safetensors.read,
    formats.NPZ: npz.read,
    formats.TORCH: torch_file.read,
    formats.TORCHSCRIPT: torchscript.read,
}


def read_tensors(path: str | os.PathLike, *, key: str | None = None) -> dict[str, LazyTensor]:
    """Returns the named tensors of a file, or of a folder that holds a checkpoint.

    Nothing but headers is read yet, except from files in PyTorch's format before 1.6.

    Args:
      path: a checkpoint file, the index of a sharded one, or a folder with one of these. `~` is
        the home directory.
      key: which part of the file is meant: in PyTorch files the key of a dictionary ("teacher", or
        "a.b" for one within another), elsewhere the beginning of names, with a dot, or "/" in
        `.npz` ("params/img"). The names are those within the part. None takes all of a flat file,
        and of a PyTorch file the one dictionary with the weights of the model.

    Returns:
      The tensors by name, in the order of the file. What data-parallel training and compilation
      write in front of every name ("module.", "_orig_mod.", DINO's "backbone.") is taken off.

    Raises:
      MissingFileError: there is no such file or folder.
      CheckpointFileError: it is damaged, no checkpoint, more than one, quantised, or would have to
        run code to be read; or `key` is not in it.
      UserError: the file needs PyTorch, which is not installed.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise MissingFileError(f"{path} does not exist; {_what_is_there(path)}")
    file = find_checkpoint(path) if path.is_dir() else path
    if file.name.endswith(INDEX):
        shards = read_shards(file, _read_file)
        tensors = choose({(name,): x for name, x in shards.items()}, key, ".", file)
    else:
        _check_whole(file)
        tensors = _read_file(file, key)
    _check_not_quantised(tensors, file)
    return unwrap(tensors)


def read_json(folder: str | os.PathLike, name: str) -> dict[str, Any] | None:
    """Returns a JSON object that lies beside a checkpoint, such as its config.json.

    Args:
      folder: the folder of the checkpoint. `~` is the home directory.
      name: of the file.

    Returns:
      The object, or None where there is no such file.

    Raises:
      MissingFileError: there is no such folder.
      CheckpointFileError: the file is not JSON, or no object.
    """
    folder = Path(folder).expanduser()
    if not folder.is_dir():
        raise MissingFileError(f"{folder} is no folder; {_what_is_there(folder)}")
    path = folder / name
    return parse_object(path.read_bytes(), path, "the file") if path.exists() else None


def _read_file(path: Path, key: str | None = None) -> dict[str, LazyTensor]:
    return READERS[formats.format_of(path)](path, key)


def _what_is_there(path: Path) -> str:
    """What the nearest folder above a missing path holds."""
    folder = next(parent for parent in path.absolute().parents if parent.is_dir())
    return f"{folder} holds {listed(sorted(entry.name for entry in folder.iterdir()))}"


def _check_whole(path: Path) -> None:
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard[2]) > 1:
        cause = f"it is one of {int(shard[2])} parts; give the folder, or the index {INDEX!r}"
        raise CheckpointFileError(path, cause)


def _check_not_quantised(tensors: dict[str, LazyTensor], path: Path) -> None:
    """Refuses weights as bitsandbytes, GPTQ and others store them, whatever the layout.

    What a mapping table takes as a parameter is checked there, by whatever name it has.
    """
    quantised = [
        name
        for name, x in tensors.items()
        if name.endswith(("weight", "kernel")) and not x.is_float
    ]
    if quantised:
        cause = (
            f"the weights {listed(quantised, 3)} are quantised ({tensors[quantised[0]].dtype}): "
            "expected the floating-point model they were made from"
        )
        raise CheckpointFileError(path, cause)
