"""Models of Hugging Face Transformers as oracles."""

import math
import tempfile
import warnings
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.convert.errors import listed
from vit_jax.convert.layouts import Layout, Source
from vit_jax.convert.oracles.oracle import Oracle, Tensors, in_memory, mask_noise, uncovered
from vit_jax.convert.oracles.swin import blocks_of, with_exact_offsets
from vit_jax.convert.readers import read_tensors
from vit_jax.convert.rules import Table
from vit_jax.convert.torch_libraries import import_library
from vit_jax.errors import UserError
from vit_jax.models.partitioning import PlainModule

PURPOSE = "checking against Transformers"
BLOCKS = ("layers", "encoder.layer", "encoder.layers")
NORMS = ("layernorm", "post_layernorm")
WITH_POOLER = ("ViTModel", "DeiTModel")  # they draw a pooler where the file has none
BACKBONE = "Backbone"  # the end of the names of classes for detectors
RESULTS = ("logits", "image_embeds", "pooler_output")


def load(folder: Path, ours: PlainModule, layout: Layout, how: str) -> Oracle:
    """The model that a folder holds, in the class that its `config.json` names.

    For a backbone's class it is the model's, as `Dinov2Model`, which holds the same weights.

    Args:
        folder: as `save_pretrained` writes it.
        ours: the module that it is compared with.
        layout: of the folder.
        how: see `Oracle`.

    Raises:
        UserError: Transformers is not installed, has no such class, cannot load the folder, would
            draw some of the weights anew, or leave out some that ours needs.
    """
    transformers = import_library("transformers", PURPOSE)
    torch = import_library("torch", PURPOSE)
    name = _class_name(transformers, folder)
    options: dict[str, Any] = {"dtype": torch.float64, "output_loading_info": True}
    if name in WITH_POOLER:
        options["add_pooling_layer"] = ours.representation_size is not None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            theirs, info = getattr(transformers, name).from_pretrained(folder, **options)
    except (OSError, RuntimeError, ValueError) as error:
        raise UserError(f"Transformers cannot load {folder} as {name}: {error}") from error
    if info["missing_keys"]:
        raise UserError(
            f"{folder} lacks weights of Transformers' {name}, which would be drawn anew: "
            f"{listed(sorted(info['missing_keys']))}"
        )
    table = layout.table(ours, Source(folder, read_tensors(folder)))
    left_out = _left_out(folder, name, table, info["unexpected_keys"])
    return wrap(theirs, ours, layout, how + left_out)


def _left_out(folder: Path, name: str, table: Table, unexpected: Collection[str]) -> str:
    """What the report says of weights that Transformers has no place for.

    Raises:
        UserError: ours needs them.
    """
    needed = sorted(key for key in unexpected if not table.ignores(key))
    if needed:
        raise UserError(
            f"{folder} holds weights that Transformers' {name} has no place for and leaves out: "
            f"{listed(needed)}"
        )
    if not unexpected:
        return ""
    return f"; it leaves out {len(unexpected)} tensors that no result depends on: " + listed(
        sorted(unexpected), 3
    )


def _class_name(transformers: Any, folder: Path) -> str:
    config = transformers.AutoConfig.from_pretrained(folder)
    name = (config.architectures or ["AutoModel"])[0]
    found = getattr(transformers, name, None)
    if name != "AutoModel" and not (
        isinstance(found, type) and issubclass(found, transformers.PreTrainedModel)
    ):
        raise UserError(
            f"{folder / 'config.json'} names the class {name!r}, which is no model of Transformers "
            f"{transformers.__version__}"
        )
    # A backbone returns feature maps of chosen stages; the model around the same weights, tokens.
    model = name.removesuffix(BACKBONE) + "Model"
    return model if name.endswith(BACKBONE) and hasattr(transformers, model) else name


def wrap(theirs: Any, ours: PlainModule, layout: Layout, how: str = "given in memory") -> Oracle:
    """The oracle of a model in memory.

    Args:
        theirs: a vision model, or a model of an image and a text tower.
        ours: the module that it is compared with.
        layout: of what the model's `save_pretrained` writes.
        how: see `Oracle`.
    """
    version = import_library("transformers", PURPOSE).__version__
    names = ("vision_model", theirs.base_model_prefix)
    backbone = next((getattr(theirs, x) for x in names if hasattr(theirs, x)), theirs)

    def output(images: Any) -> Any:
        towers = hasattr(theirs, "get_image_features")
        run = theirs.get_image_features if towers else theirs
        found = run(pixel_values=images, **_masks(theirs, images))
        results = (getattr(found, name, None) for name in RESULTS)
        result = next((x for x in results if x is not None), None)
        if result is not None:
            return result
        tokens = found.last_hidden_state
        return tokens[:, 0] if ours.global_pool == "token" else tokens

    def named(tensors: Tensors) -> Source:
        """Under the names that Transformers writes: in memory they are others."""
        with tempfile.TemporaryDirectory() as folder:
            theirs.save_pretrained(folder, state_dict=dict(tensors))
            arrays = {name: np.array(x.read()) for name, x in read_tensors(folder).items()}
        tensors = {name: in_memory(array) for name, array in arrays.items()}
        return Source(Path(), tensors, theirs.config.to_dict())

    stages, config = _first(backbone, BLOCKS), backbone.config
    takes_any_size = hasattr(config, "window_size")  # Swin's
    return Oracle(
        name=f"Transformers {version} {type(theirs).__name__}",
        how=how,
        module=with_exact_offsets(theirs).eval(),
        blocks=blocks_of(stages),
        norm=_first(backbone, NORMS),
        output=output,
        layout=layout,
        named=named,
        decoder=tuple(getattr(getattr(theirs, "decoder", None), "decoder_layers", ())),
        rest=(0, 0) if takes_any_size else uncovered(config.image_size, config.patch_size),
    )


def _masks(theirs: Any, images: Any) -> dict[str, Any]:
    """What a masked autoencoder is given beside images: noise, so that its mask is ours.

    An encoder by itself masks patches at random too. Ours is a Vision Transformer that sees all:
    it is told to mask none, and to leave them in their order.
    """
    if theirs.config.model_type != "vit_mae":
        return {}
    torch = import_library("torch", PURPOSE)
    grid = (side // theirs.config.patch_size for side in images.shape[2:])
    patches = math.prod(grid)
    if hasattr(theirs, "decoder"):
        return {"noise": torch.from_numpy(mask_noise(len(images), patches)).to(images.dtype)}
    theirs.config.mask_ratio = 0.0
    return {"noise": torch.arange(patches).expand(len(images), -1)}


def _first(module: Any, names: Sequence[str]) -> Any:
    """The first of the submodules that is there.

    Raises:
        UserError: none is.
    """
    there = dict(module.named_modules())
    for name in names:
        if name in there:
            return there[name]
    raise UserError(f"Transformers' {type(module).__name__} has no {' or '.join(names)}")
