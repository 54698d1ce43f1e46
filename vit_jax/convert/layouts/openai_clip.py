"""CLIP's image tower as OpenAI and open_clip store it: `visual.*` beside the text tower.

Radford et al. (2021); OpenAI's files are TorchScript archives in float16. The width of a head is
always 64, and OpenAI's activation is QuickGELU. open_clip keeps the names and says in its
configuration (`open_clip_config.json`, `model_cfg`) which activation it is.
"""

import dataclasses
import math
import re
from typing import Any

from vit_jax.convert.layouts.base import Json, Layout, Source, width_ratio
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.rules import Ignored, Table
from vit_jax.models.registry import CLIP, Preprocessing
from vit_jax.models.vit import VisionTransformer

TEXT = "belongs to the text tower"
IGNORED = (
    Ignored("transformer.*", TEXT),
    Ignored("token_embedding.weight", TEXT),
    Ignored("positional_embedding", TEXT),
    Ignored("ln_final.*", TEXT),
    Ignored("text_projection", TEXT),
    Ignored("attn_mask", TEXT),
    Ignored("context_length", TEXT),
    Ignored("vocab_size", TEXT),
    Ignored("input_resolution", "follows from the position table"),
    Ignored("logit_scale", "compares images with texts"),
)
NAMES = Names(
    cls_token=("visual.class_embedding", "d -> 1 1 d"),
    pos_embed=("visual.positional_embedding", "n d -> 1 n d"),
    patch="visual.conv1",
    norm_pre="visual.ln_pre",
    block="visual.transformer.resblocks.{}".format,
    norm1="ln_1",
    qkv=("attn.in_proj_",),
    proj="attn.out_proj",
    norm2="ln_2",
    fc1="mlp.c_fc",
    fc2="mlp.c_proj",
    norm="visual.ln_post",
    head=("visual.proj", "i o -> i o"),
    ignored=IGNORED,
)


def _claims(source: Source) -> bool:
    return {"visual.class_embedding", "visual.conv1.weight"} <= set(source.tensors)


def _read(source: Source) -> tuple[dict[str, Any], bool]:
    shapes = {name: tensor.shape for name, tensor in source.tensors.items()}
    embed_dim, in_chans, patch, _ = shapes["visual.conv1.weight"]
    block = r"visual\.transformer\.resblocks\.(\d+)\."
    hidden = shapes["visual.transformer.resblocks.0.mlp.c_fc.weight"][0]
    side = math.isqrt(shapes["visual.positional_embedding"][0] - 1)
    found = dict(
        img_size=side * patch,
        patch_size=patch,
        in_chans=in_chans,
        embed_dim=embed_dim,
        depth=1 + max(int(m[1]) for name in shapes if (m := re.match(block, name))),
        num_heads=embed_dim // 64,
        mlp_ratio=width_ratio(hidden, embed_dim),
        norm_eps=1e-5,
        patch_bias=False,
        pre_norm=True,
        num_classes=shapes["visual.proj"][1] if "visual.proj" in shapes else 0,
        head_bias=False,
    )
    # OpenAI's archive carries its resolution; an open_clip file without configuration does not
    # say which of two activations it was trained with.
    config = (source.config or {}).get("model_cfg")
    if config is not None:
        found["act_layer"] = "quick_gelu" if config.get("quick_gelu") else "gelu"
        width = config["vision_cfg"].get("head_width", 64)
        found["num_heads"] = embed_dim // width
    elif "input_resolution" in shapes:
        found["act_layer"] = "quick_gelu"
    return found, "act_layer" in found


def _write_table(module: VisionTransformer) -> Table:
    return plain_table(module, NAMES)


def _preprocessing(source: Source) -> Preprocessing | None:
    """What open_clip's configuration says (`preprocess_cfg`)."""
    cfg = (source.config or {}).get("preprocess_cfg")
    if cfg is None:
        return None
    mode = {"shortest": "center", "squash": "squash"}[cfg.get("resize_mode", "shortest")]
    return dataclasses.replace(
        CLIP,
        mean=tuple(cfg.get("mean", CLIP.mean)),
        std=tuple(cfg.get("std", CLIP.std)),
        interpolation=cfg.get("interpolation", CLIP.interpolation),
        crop_mode=mode,
    )


def _no_files(module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    return {}


LAYOUTS = (
    Layout(
        name="openai_clip",
        family="clip",
        module=VisionTransformer,
        claims=_claims,
        read=_read,
        table=lambda module, source: plain_table(module, NAMES),
        expresses=lambda module: module.pre_norm,
        write_table=_write_table,
        preprocessing=_preprocessing,
        usual=CLIP,
        write_files=_no_files,
    ),
)
