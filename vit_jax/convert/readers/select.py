"""Which of the tensors of a file are meant, and by which names.

A training checkpoint holds more than one set of weights, or weights beside the optimizer's state.
`choose` picks one set; `unwrap` takes off what a training program wrote in front of every name.
"""

import os
from collections.abc import Iterable, Mapping
from typing import TypeVar

from vit_jax.convert.errors import CheckpointFileError, listed
from vit_jax.naming import unknown

T = TypeVar("T")
Keys = tuple[str, ...]  # the keys of the dictionaries on the way to a tensor

# Keys under which training programs store the weights of the whole model. What stands beside one
# of them (optimizer, epoch, arguments) is not looked at.
MODEL_KEYS = (
    "model",  # MAE, DeiT, BEiT, Swin, DiT
    "module",  # DeepSpeed: BEiT, EVA
    "state_dict",  # timm, Lightning, MoCo
    "model_state_dict",  # the tutorials of PyTorch
    "model_state",
    "net",
    "network",
    "weights",
    "params",
    "student",  # DINO, iBOT
    "teacher",
    "model_ema",  # DeiT, EVA
    "state_dict_ema",  # timm
    "ema_state_dict",
    "ema",  # DiT
    "params_ema",
)
# In front of every name: DistributedDataParallel, torch.compile, and DINO's wrapper of backbone
# and head where the head is not stored.
WRAPPERS = ("module.", "_orig_mod.", "backbone.")


def choose(
    tensors: Mapping[Keys, T], key: str | None, separator: str, file: str | os.PathLike
) -> dict[str, T]:
    """Returns one set of weights of a file.

    Args:
      tensors: every tensor, by the keys of the dictionaries it lies in. A flat file has paths of
        one name each.
      key: which part to take: the keys that lead to it or a prefix of names, with `separator` in
        between. Names are those within the part. None takes the one dictionary of tensors that has
        one of `MODEL_KEYS`, if there is any dictionary at all.
      separator: what stands between the parts of a name: "." or "/".
      file: for errors.

    Returns:
      The tensors by name, in the order of the file.

    Raises:
      CheckpointFileError: there is no tensor, no such part, or more than one set of weights.
    """
    if key is not None:
        tensors = _part(tensors, key, separator, file)
    while any(len(path) > 1 for path in tensors):
        chosen = _model_key(tensors, file)
        tensors = {path[1:]: x for path, x in tensors.items() if path[0] == chosen and path[1:]}
    if not tensors:
        raise CheckpointFileError(file, "it holds no tensors; expected the weights of a model")
    return {name: x for (name,), x in tensors.items()}


def unwrap(tensors: Mapping[str, T]) -> dict[str, T]:
    """Returns tensors with each of `WRAPPERS` that stands in front of every name taken off."""
    for prefix in WRAPPERS:
        if tensors and all(name.startswith(prefix) and name != prefix for name in tensors):
            return unwrap({name.removeprefix(prefix): x for name, x in tensors.items()})
    return dict(tensors)


def unique(pairs: Iterable[tuple[Keys, T]], file: str | os.PathLike) -> dict[Keys, T]:
    """Returns a dictionary; CheckpointFileError where two tensors have the same path."""
    found: dict[Keys, T] = {}
    for path, x in pairs:
        if path in found:
            raise CheckpointFileError(file, f"two tensors have the name {'.'.join(path)!r}")
        found[path] = x
    return found


def _part(
    tensors: Mapping[Keys, T], key: str, separator: str, file: str | os.PathLike
) -> dict[Keys, T]:
    within = ((_below(path, key, separator), x) for path, x in tensors.items())
    part = unique(((path, x) for path, x in within if path), file)
    if not part:
        starts = {separator.join(path).split(separator)[0] for path in tensors}
        raise CheckpointFileError(file, unknown("key", key, starts))
    return part


def _below(path: Keys, key: str, separator: str) -> Keys:
    """The path from the part `key` on, empty where it does not lie in that part."""
    for length in range(1, len(path)):
        if separator.join(path[:length]) == key:
            return path[length:]
    prefix = key + separator
    name = separator.join(path)
    return (name.removeprefix(prefix),) if name.startswith(prefix) and name != prefix else ()


def _model_key(tensors: Mapping[Keys, T], file: str | os.PathLike) -> str:
    dictionaries = list(dict.fromkeys(path[0] for path in tensors if len(path) > 1))
    known = [name for name in dictionaries if name in MODEL_KEYS]
    if len(known) == 1:
        return known[0]
    cause = "more than one set of weights" if known else "no set of weights under a usual name"
    raise CheckpointFileError(
        file,
        f"it holds {cause}: there are tensors under {listed(known or dictionaries)}; choose one "
        "of them with `key`",
    )
