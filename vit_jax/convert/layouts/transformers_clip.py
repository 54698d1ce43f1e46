"""The vision towers of CLIP and SigLIP as Hugging Face Transformers stores them.

Alone (`CLIPVisionModel`, `CLIPVisionModelWithProjection`, `SiglipVisionModel`) or beside a text
tower (`CLIPModel`, `SiglipModel`), whose tensors are left where they are.
"""

import dataclasses
import functools
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, whole_patches
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.layouts.transformers_files import (
    read_common,
    read_mlp_ratio,
    read_preprocessing,
    write_preprocessing,
    write_square,
)
from vit_jax.convert.rules import Ignored, Table
from vit_jax.convert.settings import Settings
from vit_jax.errors import UserError
from vit_jax.models.registry import CLIP, HALF, Preprocessing
from vit_jax.models.vit import VisionTransformer

CLIP_DEFAULTS = dict(
    hidden_size=768,
    intermediate_size=3072,
    projection_dim=512,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_channels=3,
    image_size=224,
    patch_size=32,
    hidden_act="quick_gelu",
    layer_norm_eps=1e-5,
)
SIGLIP_DEFAULTS = dict(
    hidden_size=768,
    intermediate_size=3072,
    num_hidden_layers=12,
    num_attention_heads=12,
    num_channels=3,
    image_size=224,
    patch_size=16,
    hidden_act="gelu_pytorch_tanh",
    layer_norm_eps=1e-6,
    vision_use_head=True,
)
DEFAULTS = {"clip": CLIP_DEFAULTS, "siglip": SIGLIP_DEFAULTS}
USUAL = {
    "clip": dataclasses.replace(CLIP, crop_mode="center_floor"),
    "siglip": Preprocessing(HALF, HALF, crop_pct=1.0, crop_mode="squash"),
}
TITLES = {"clip": "CLIP", "siglip": "Siglip"}
TEXT = "belongs to the text tower"
IGNORED = (
    Ignored("text_model.*", TEXT),
    Ignored("text_projection.*", TEXT),
    Ignored("logit_scale", "compares images with texts"),
    Ignored("logit_bias", "compares images with texts"),
    Ignored("*embeddings.position_ids", "counts 0, 1, 2, ..."),
)


def names(prefix: str) -> Names:
    """The names, where those of the vision tower begin with `prefix`."""
    embeddings, head = prefix + "embeddings.", prefix + "head."
    return Names(
        cls_token=(embeddings + "class_embedding", "d -> 1 1 d"),
        pos_embed=(embeddings + "position_embedding.weight", "n d -> 1 n d"),
        patch=embeddings + "patch_embedding",
        norm_pre=prefix + "pre_layrnorm",
        block=(prefix + "encoder.layers.{}").format,
        norm1="layer_norm1",
        qkv=tuple(f"self_attn.{part}_proj" for part in "qkv"),
        proj="self_attn.out_proj",
        norm2="layer_norm2",
        norm=prefix + "post_layernorm",
        pool={
            "latent": head + "probe",
            "qkv": head + "attention.in_proj_",
            "proj": head + "attention.out_proj",
            "norm": head + "layernorm",
            "fc1": head + "mlp.fc1",
            "fc2": head + "mlp.fc2",
        },
        head="visual_projection",
        ignored=IGNORED,
    )


def _model_type(source: Source) -> str:
    return (source.config or {}).get("model_type", "")


def _claims(kind: str, source: Source) -> bool:
    return _model_type(source) in (kind, f"{kind}_vision_model")


def _vision_config(kind: str, source: Source) -> Settings:
    """That of the tower: by itself, or within that of a model with two towers."""
    config = source.settings(DEFAULTS[kind])
    return config.part("vision_config", DEFAULTS[kind]) if _model_type(source) == kind else config


def _read(kind: str, source: Source) -> tuple[dict[str, Any], bool]:
    config = _vision_config(kind, source)
    if any(name.startswith("classifier.") for name in source.tensors):
        raise UserError(
            f"{source.path} holds a classifier on top of {kind.upper()}'s patches, which is not "
            "read; load the tower that it was made from"
        )
    found = read_common(config)
    found["mlp_ratio"] = read_mlp_ratio(config)
    found["img_size"] = whole_patches(found["img_size"], found["patch_size"])
    if kind == "clip":
        shapes, head = source.shapes(), "visual_projection.weight"
        found.update(patch_bias=False, pre_norm=True, head_bias=False)
        found["num_classes"] = shapes.of(head, 2)[0] if head in shapes else 0
    else:
        headed = config.get("vision_use_head", ranges.TRUE_OR_FALSE)
        pool = "map" if headed else "none"
        found.update(class_token=False, global_pool=pool, num_classes=0)
    return found, True


def _table(module: VisionTransformer, source: Source) -> Table:
    prefixed = any(name.startswith("vision_model.") for name in source.tensors)
    return plain_table(module, names("vision_model." if prefixed else ""))


def _write_table(kind: str, module: VisionTransformer) -> Table:
    # Files of the towers alone carried the prefix until Transformers 5.
    return plain_table(module, names("vision_model." if module.num_classes else ""))


def _write_files(kind: str, module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    common = write_square(module, TITLES[kind])
    config: dict[str, Any] = {"model_type": f"{kind}_vision_model", **common}
    if kind == "clip":
        title = "CLIPVisionModel"
        if module.num_classes:
            title += "WithProjection"
            config["projection_dim"] = module.num_classes
    else:
        title = "SiglipVisionModel"
        config["vision_use_head"] = module.global_pool == "map"
    config["architectures"] = [title]
    processor = write_preprocessing(prep, module.img_size, TITLES[kind] + "ImageProcessor")
    return {"config.json": config, "preprocessor_config.json": processor}


def _expresses(kind: str, module: VisionTransformer) -> bool:
    if kind == "clip":
        return module.pre_norm
    return not module.class_token and module.global_pool in ("map", "none")


def _layout(kind: str) -> Layout:
    return Layout(
        name="transformers",
        family=kind,
        module=VisionTransformer,
        claims=functools.partial(_claims, kind),
        read=functools.partial(_read, kind),
        table=_table,
        expresses=functools.partial(_expresses, kind),
        write_table=functools.partial(_write_table, kind),
        preprocessing=read_preprocessing,
        usual=USUAL[kind],
        write_files=functools.partial(_write_files, kind),
        assumed=lambda source: _vision_config(kind, source).left_out(),
    )


LAYOUTS = (_layout("clip"), _layout("siglip"))
