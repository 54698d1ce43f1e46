"""CLIP's image tower as OpenAI and open_clip store it: `visual.*` beside the text tower.

Radford et al. (2021); OpenAI's files are TorchScript archives in float16. The width of a head is
always 64, and OpenAI's activation is QuickGELU. open_clip keeps the names and says in its
configuration (`open_clip_config.json`, `model_cfg`) which activation it is.
"""

import dataclasses
import math
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, width_ratio
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.rules import Ignored, Table
from vit_jax.convert.settings import COLOURS, INTERPOLATION, OBJECT, SPREADS
from vit_jax.models.registry import CLIP, Preprocessing
from vit_jax.models.vit import VisionTransformer

CONFIG = "open_clip_config.json"
RESIZE_MODES = {"shortest": "center", "squash": "squash"}
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
    shapes = source.shapes("visual.")
    embed_dim, in_chans, patch, _ = shapes.of("conv1.weight", 4)
    hidden = shapes.of("transformer.resblocks.0.mlp.c_fc.weight", 2)[0]
    side = math.isqrt(max(shapes.of("positional_embedding", 2)[0] - 1, 0))
    found = dict(
        img_size=side * patch,
        patch_size=patch,
        in_chans=in_chans,
        embed_dim=embed_dim,
        depth=shapes.count(r"transformer\.resblocks\.(\d+)\."),
        num_heads=embed_dim // 64,
        mlp_ratio=width_ratio(hidden, embed_dim),
        norm_eps=1e-5,
        patch_bias=False,
        pre_norm=True,
        num_classes=shapes.of("proj", 2)[1] if "proj" in shapes else 0,
        head_bias=False,
    )
    # OpenAI's archive carries its resolution; an open_clip file without configuration does not
    # say which of two activations it was trained with.
    if source.config_name == CONFIG:
        settings = source.settings()
        settings.get("model_cfg", OBJECT)
        config = settings.part("model_cfg")
        quick = config.get("quick_gelu", ranges.TRUE_OR_FALSE, False)
        found["act_layer"] = "quick_gelu" if quick else "gelu"
        config.get("vision_cfg", OBJECT)
        width = config.part("vision_cfg").get("head_width", ranges.whole(1), 64)
        found["num_heads"] = embed_dim // width
    elif "input_resolution" in source.tensors:
        found["act_layer"] = "quick_gelu"
    return found, "act_layer" in found


def _write_table(module: VisionTransformer) -> Table:
    return plain_table(module, NAMES)


def _preprocessing(source: Source) -> Preprocessing | None:
    """What open_clip's configuration says (`preprocess_cfg`)."""
    cfg = source.settings().part("preprocess_cfg")
    if not cfg.values:
        return None
    mode = RESIZE_MODES[cfg.get("resize_mode", ranges.one_of(RESIZE_MODES), "shortest")]
    return dataclasses.replace(
        CLIP,
        mean=tuple(cfg.get("mean", COLOURS, CLIP.mean)),
        std=tuple(cfg.get("std", SPREADS, CLIP.std)),
        interpolation=cfg.get("interpolation", INTERPOLATION, CLIP.interpolation),
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
