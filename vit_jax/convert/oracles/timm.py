"""timm's Vision Transformers and Swin Transformers as oracles."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.convert.export import choose_layout
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts import Layout
from vit_jax.convert.oracles.oracle import Oracle, uncovered
from vit_jax.convert.oracles.swin import blocks_of, with_exact_offsets
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.source import Identity
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError

if TYPE_CHECKING:
    import torch

PURPOSE = "checking against timm"
# Layouts that timm reads from a file by itself.
READ = ("timm", "deit3", "dinov2", "augreg", "big_vision", "swin", "mae")


def load(folder: Path, layout: Layout, how: str) -> Oracle:
    """The model that a folder with timm's `config.json` holds.

    Raises:
        UserError: timm is not installed, or cannot load the folder.
    """
    timm = import_library("timm", PURPOSE)
    try:
        with _float64():
            theirs = timm.create_model(f"local-dir:{os.fspath(folder)}", pretrained=True)
    except (OSError, RuntimeError, ValueError, TypeError, AssertionError) as error:
        raise UserError(f"timm cannot load {folder}: {error}") from error
    return wrap(theirs, layout, how)


def load_file(file: Path, model: Model, identity: Identity) -> Oracle | None:
    """The model of timm, with what timm's own reader makes of a file without configuration.

    Args:
        file: the checkpoint.
        model: ours: it says which of timm's models it is.
        identity: what we take the file for.

    Returns:
        The oracle, or None where timm does not know the file's names or has no such model.

    Raises:
        UserError: timm is not installed, or the file's tensors do not fit its model.
    """
    timm = import_library("timm", PURPOSE)
    try:
        layout, _, files = choose_layout(model, "timm")
    except UserError:
        return None
    with _float64():
        theirs = _create(timm, files["config.json"])
    load = _load_npz if file.suffix == ".npz" else _load_torch
    try:
        known = load(timm, theirs, file, identity)
    except (RuntimeError, KeyError, ValueError) as error:
        raise UserError(f"timm cannot load {file}: {error}") from error
    return wrap(theirs, layout, "read by timm from the same file") if known else None


def _load_npz(timm: Any, theirs: Any, file: Path, identity: Identity) -> bool:
    """Whether timm reads such a file; its model has the weights then."""
    if any(tensor.dtype.name == "bfloat16" for tensor in read_tensors(file).values()):
        return False
    theirs.load_pretrained(os.fspath(file))
    return True


def _load_torch(timm: Any, theirs: Any, file: Path, identity: Identity) -> bool:
    """Whether timm makes its own names of the file's; its model has the weights then."""
    if file.suffix == ".json":  # the index of shards
        return False
    stored = timm.models.load_state_dict(os.fspath(file), use_ema=False)
    if not all(hasattr(tensor, "shape") for tensor in stored.values()):
        return False
    stored = {k: x.double() if x.is_floating_point() else x for k, x in stored.items()}
    # The reader of names of the file that the model is in. It may add, hence in float64.
    rename = sys.modules[type(theirs).__module__].checkpoint_filter_fn
    options = {"adapt_layer_scale": True} if identity.layout.name == "deit3" else {}
    found = rename(stored, theirs, **options)
    if set(found) != set(theirs.state_dict()):
        return False
    theirs.load_state_dict(found)
    return True


def _create(timm: Any, config: Any) -> "torch.nn.Module":
    """What `config.json` describes, without weights."""
    arguments = {k: tuple(v) if isinstance(v, list) else v for k, v in config["model_args"].items()}
    return timm.create_model(
        config["architecture"],
        num_classes=config["num_classes"],
        **arguments,
    )


@contextmanager
def _float64() -> Iterator[None]:
    """Parameters are made in float64, so that loading rounds nothing."""
    torch = import_library("torch", PURPOSE)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def wrap(theirs: "torch.nn.Module", layout: Layout, how: str = "given in memory") -> Oracle:
    """The oracle of a Vision Transformer or Swin Transformer in memory.

    Args:
        theirs: with the attributes `blocks` or `layers` (stages with `blocks`), and `norm`.
        layout: of what its `state_dict` holds.
        how: see `Oracle`.

    Raises:
        UserError: it is something else, such as a ResNet.
    """
    version = import_library("timm", PURPOSE).__version__
    if not hasattr(theirs, "patch_embed"):
        raise UserError(
            f"{type(theirs).__name__} cannot be compared block by block: validation is for Vision "
            "Transformers and Swin Transformers"
        )
    stages = getattr(theirs, "layers", None)  # of Swin, which takes images of any size
    embed = theirs.patch_embed
    return Oracle(
        name=f"timm {version} {type(theirs).__name__}",
        how=how,
        module=with_exact_offsets(theirs).eval(),
        blocks=blocks_of(theirs.blocks if stages is None else stages),
        norm=theirs.norm,
        output=theirs,
        layout=layout,
        rest=(0, 0) if stages is not None else uncovered(embed.img_size, embed.patch_size),
    )
