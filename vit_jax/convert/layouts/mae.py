"""Masked autoencoders as their authors and Transformers store them (He et al. 2022).

| layout | family | files |
|---|---|---|
| "transformers" | "vit_mae" | `ViTMAEForPreTraining`: encoder and decoder |
| "transformers" | "vit_mae_encoder" | `ViTMAEModel`: the encoder, a plain Vision Transformer |
| "mae" | "mae" | the authors' `.pth` with the decoder |
| "mae" | "vit" | the authors' `.pth` without: the encoder as pre-trained, or fine-tuned |

Positions are fixed and stored all the same. Transformers 5 calls the parameters of encoder and
decoder in memory by other names than in its files, and its files name the decoder's blocks
otherwise than those of version 4, which is what the hub holds: all three are read here, and those
of version 4 are written, which both versions load.
"""

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import numpy as np

from vit_jax import ranges
from vit_jax.convert.layouts import timm, transformers_vit
from vit_jax.convert.layouts.base import Json, Layout, Source, square, width_ratio
from vit_jax.convert.layouts.plain import Names, decoder_rules, plain_table
from vit_jax.convert.layouts.transformers_files import (
    read_common,
    read_mlp_ratio,
    read_preprocessing,
    write_preprocessing,
    write_square,
)
from vit_jax.convert.mapping import MismatchError
from vit_jax.convert.rules import Rule, Table, same
from vit_jax.models.layers.position import sincos_table
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.registry import IMAGENET, Preprocessing
from vit_jax.models.vit import VisionTransformer, pair

# Attention heads by width, of the encoders and the decoder that were published.
HEADS = {512: 16, 768: 12, 1024: 16, 1280: 16}
DEFAULTS = dict(
    **transformers_vit.DEFAULTS,
    decoder_hidden_size=512,
    decoder_num_hidden_layers=8,
    decoder_num_attention_heads=16,
    decoder_intermediate_size=2048,
    mask_ratio=0.75,
)
# Ours, theirs.
DECODER = {
    "decoder_embed_dim": "decoder_hidden_size",
    "decoder_depth": "decoder_num_hidden_layers",
    "decoder_num_heads": "decoder_num_attention_heads",
    "mask_ratio": "mask_ratio",
}
FIXED = "sincos_2d_table"


def mae_table(module: MaskedAutoencoder, encoder: Names, decoder: Names, prefix: str) -> Table:
    """The table of a masked autoencoder.

    Args:
        module: the masked autoencoder.
        encoder: names of the encoder's parts.
        decoder: names of the decoder's blocks.
        prefix: in front of the names of its other parts.
    """
    table = plain_table(module, encoder)
    rules = (*table.rules, *_decoder(module, decoder, prefix))
    return dataclasses.replace(table, rules=rules)


def _decoder(module: MaskedAutoencoder, names: Names, prefix: str) -> Iterator[Rule]:
    for theirs, ours in (("embed", "embed"), ("pred", "pred")):
        name = f"{prefix}decoder_{theirs}"
        yield same(f"{name}.weight", f"decoder/{ours}/kernel", "o i -> i o")
        yield same(f"{name}.bias", f"decoder/{ours}/bias")
    yield same(f"{prefix}mask_token", "decoder/mask_token")
    yield same(f"{prefix}decoder_pos_embed", "decoder/pos_embed/table")
    yield from decoder_rules(module, names, module.decoder_depth, "decoder/")
    yield same(f"{prefix}decoder_norm.weight", "decoder/norm/scale")
    if module.norm_layer == "layernorm":
        yield same(f"{prefix}decoder_norm.bias", "decoder/norm/bias")


# Transformers.

# Prefixes of the decoder's blocks: of version 4 and in memory of version 5, of version 5's files.
BLOCKS = ("decoder.decoder_layers.", "decoder.decoder_encoder.layer.")


def _is_transformers(source: Source, with_decoder: bool) -> bool:
    if (source.config or {}).get("model_type") != "vit_mae":
        return False
    return any(name.startswith("decoder.") for name in source.tensors) == with_decoder


def _in_transformers(module: MaskedAutoencoder, source: Source) -> Table:
    memory = "vit.layers.0.layernorm_before.weight" in source.tensors
    there = (p for p in BLOCKS if f"{p}0.layernorm_before.weight" in source.tensors)
    return _transformers_table(module, next(there, BLOCKS[0]), memory)


def _transformers_table(
    module: MaskedAutoencoder, blocks: str = BLOCKS[0], in_memory: bool = False
) -> Table:
    names = transformers_vit.names("vit.", False, False, in_memory)
    decoder = dataclasses.replace(names, block=(blocks + "{}").format)
    return mae_table(module, names, decoder, "decoder.")


def _encoder_names(source: Source) -> Names:
    prefix = "vit." if "vit.embeddings.cls_token" in source.tensors else ""
    memory = f"{prefix}layers.0.layernorm_before.weight" in source.tensors
    return transformers_vit.names(prefix, False, False, memory)


def _read_encoder(source: Source) -> tuple[dict[str, Any], bool]:
    config = source.settings(DEFAULTS)
    found = read_common(config)
    found["mlp_ratio"] = read_mlp_ratio(config)
    found["qkv_bias"] = config.get("qkv_bias", ranges.TRUE_OR_FALSE)
    return {**found, "num_classes": 0, "pos_embed": FIXED}, True


def _read_transformers(source: Source) -> tuple[dict[str, Any], bool]:
    found, complete = _read_encoder(source)
    config = source.settings(DEFAULTS)
    allowed = MaskedAutoencoder.field_ranges()
    found.update({ours: config.get(theirs, allowed[ours]) for ours, theirs in DECODER.items()})
    hidden = config.get("decoder_intermediate_size", ranges.whole(1))
    found["decoder_mlp_ratio"] = width_ratio(hidden, found["decoder_embed_dim"])
    return found, complete


def _write_encoder(module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    config = {
        "architectures": ["ViTMAEModel"],
        "model_type": "vit_mae",
        **write_square(module, "ViTMAE"),
        "qkv_bias": module.qkv_bias,
    }
    processor = write_preprocessing(prep, module.img_size, "ViTImageProcessor")
    return {"config.json": config, "preprocessor_config.json": processor}


def _write_transformers(module: MaskedAutoencoder, prep: Preprocessing) -> dict[str, Json]:
    files = _write_encoder(module, prep)
    config = {
        **files["config.json"],
        "architectures": ["ViTMAEForPreTraining"],
        **{theirs: getattr(module, ours) for ours, theirs in DECODER.items()},
        "decoder_intermediate_size": module.decoder_hidden,
    }
    return {**files, "config.json": config}


# The authors' files.

ENCODER = timm.TIMM
BARE = dataclasses.replace(ENCODER, block="decoder_blocks.{}".format)


def _is_whole(source: Source) -> bool:
    return source.config is None and "decoder_blocks.0.norm1.weight" in source.tensors


def _is_encoder(source: Source) -> bool:
    """Whether it is a bare Vision Transformer whose positions are sin-cos, or were before tuning.

    Everything else about such a file is as in any other of timm's names.
    """
    told = ("cls_token", "pos_embed", "blocks.0.attn.qkv.weight", "patch_embed.proj.weight")
    if source.config is not None or not all(name in source.tensors for name in told):
        return False
    return _likeness(source) > 0.9


def _likeness(source: Source) -> float:
    """Cosine of the stored position table and the sin-cos one; 0 where there is none to compare."""
    table = source.tensors.get("pos_embed")
    if table is None or len(table.shape) != 3:
        return 0.0
    side, width = timm.grid_side(table.shape[1], (1,)), table.shape[-1]
    if side is None or width % 4:
        return 0.0
    fixed = sincos_table("sincos_2d", (side[0], side[0]), width)
    found = np.asarray(table.read())[0, 1:].astype(np.float64)
    norms = np.linalg.norm(fixed) * np.linalg.norm(found)
    return float((fixed * found).sum() / norms) if norms else 0.0


def _read_bare(source: Source) -> tuple[dict[str, Any], bool]:
    """Of the encoder; its heads follow from its width, as far as such models were published."""
    found = timm.measure(source)
    found["pos_resample"] = "bicubic"  # util/pos_embed.py
    found["weight_init"] = "mae"  # of a head that is drawn
    found["pos_embed"] = FIXED if _likeness(source) > 1 - 1e-6 else "learn"
    if "fc_norm.weight" in source.tensors:
        found["global_pool"] = "avg"
    side = timm.grid_side(source.shapes().of("pos_embed", 3)[1], (1,))
    if "patch_size" not in found:
        raise MismatchError("its patches are those of a ResNet, as no masked autoencoder has them")
    rows, columns = pair(found["patch_size"])
    if side is not None:
        found["img_size"] = square((side[0] * rows, side[0] * columns))
    heads = HEADS.get(found["embed_dim"])
    return {**found, **({} if heads is None else {"num_heads": heads})}, None not in (heads, side)


def _read_whole(source: Source) -> tuple[dict[str, Any], bool]:
    shapes = source.shapes()
    encoder = {k: x for k, x in source.tensors.items() if "decoder" not in k and k != "mask_token"}
    found, complete = _read_bare(dataclasses.replace(source, tensors=encoder))
    width = shapes.of("decoder_embed.weight", 2)[0]
    hidden = shapes.of("decoder_blocks.0.mlp.fc1.weight", 2)[0]
    found.update(
        pos_embed=FIXED,
        global_pool="none",
        decoder_embed_dim=width,
        decoder_depth=shapes.count(r"decoder_blocks\.(\d+)\."),
        decoder_mlp_ratio=width_ratio(hidden, width),
    )
    if width in HEADS:
        found["decoder_num_heads"] = HEADS[width]
    return found, complete and width in HEADS


def _is_fixed(module: VisionTransformer) -> bool:
    return module.pos_embed == FIXED and not module.num_classes


_layout = functools.partial(Layout, usual=IMAGENET)
LAYOUTS = (
    _layout(
        name="transformers",
        family="vit_mae",
        module=MaskedAutoencoder,
        claims=functools.partial(_is_transformers, with_decoder=True),
        read=_read_transformers,
        table=_in_transformers,
        expresses=lambda module: True,
        write_table=_transformers_table,
        preprocessing=read_preprocessing,
        write_files=_write_transformers,
        assumed=lambda source: source.settings(DEFAULTS).left_out(),
    ),
    _layout(
        name="transformers",
        family="vit_mae_encoder",
        module=VisionTransformer,
        claims=functools.partial(_is_transformers, with_decoder=False),
        read=_read_encoder,
        table=lambda module, source: plain_table(module, _encoder_names(source)),
        expresses=_is_fixed,
        write_table=lambda module: plain_table(
            module, transformers_vit.names("", dist_token=False, register=False)
        ),
        preprocessing=read_preprocessing,
        write_files=_write_encoder,
        assumed=lambda source: source.settings(DEFAULTS).left_out(),
    ),
    _layout(
        name="mae",
        family="mae",
        module=MaskedAutoencoder,
        claims=_is_whole,
        read=_read_whole,
        table=lambda module, source: mae_table(module, ENCODER, BARE, ""),
        expresses=lambda module: True,
        write_table=lambda module: mae_table(module, ENCODER, BARE, ""),
        preprocessing=lambda source: None,
        write_files=lambda module, prep: {},
    ),
    _layout(
        name="mae",
        family="vit",
        module=VisionTransformer,
        claims=_is_encoder,
        read=_read_bare,
        table=lambda module, source: plain_table(module, ENCODER),
        expresses=lambda module: module.class_token,
        write_table=lambda module: plain_table(module, ENCODER),
        preprocessing=lambda source: None,
        write_files=lambda module, prep: {},
    ),
)
