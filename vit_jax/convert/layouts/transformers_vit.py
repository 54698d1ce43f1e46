"""ViT and DeiT as Hugging Face Transformers stores them.

The names are those of the files. Since its version 5 the library calls the parameters in memory by
other names (`vit.layers.0.attention.q_proj`), and writes the old ones; both are read here.

DeiT with one classifier keeps its distillation token and never looks at it: for the encoder it is
one more token with a row in the position table, which is what we call a register.
"""

import dataclasses
import functools
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.layouts.transformers_files import (
    labels,
    read_common,
    read_mlp_ratio,
    read_preprocessing,
    write_common,
    write_preprocessing,
)
from vit_jax.convert.rules import Ignored, Table
from vit_jax.errors import UserError
from vit_jax.models.registry import HALF, IMAGENET, Preprocessing
from vit_jax.models.vit import VisionTransformer

USUAL = {
    "vit": Preprocessing(HALF, HALF, "bilinear", 1.0, "squash"),
    "deit": dataclasses.replace(IMAGENET, crop_mode="squash"),
}
DEFAULTS = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    intermediate_size=3072,
    hidden_act="gelu",
    layer_norm_eps=1e-12,
    image_size=224,
    patch_size=16,
    num_channels=3,
    qkv_bias=True,
)
POOLER = ranges.Range("'tanh', as this library's pre-logits layer has it", lambda x: x == "tanh")
IGNORED = (Ignored("*embeddings.mask_token", "stands for masked patches in pre-training"),)


def names(prefix: str, dist_token: bool, register: bool, in_memory: bool = False) -> Names:
    """The names, where those of the backbone begin with `prefix`."""
    if in_memory:
        block = dict(
            block=(prefix + "layers.{}").format,
            qkv=tuple(f"attention.{part}_proj" for part in "qkv"),
            proj="attention.o_proj",
            fc1="mlp.fc1",
            fc2="mlp.fc2",
        )
    else:
        block = dict(
            block=(prefix + "encoder.layer.{}").format,
            qkv=tuple(f"attention.attention.{part}" for part in ("query", "key", "value")),
            proj="attention.output.dense",
            fc1="intermediate.dense",
            fc2="output.dense",
        )
    embeddings = prefix + "embeddings."
    distillation = embeddings + "distillation_token"
    return Names(
        cls_token=embeddings + "cls_token",
        dist_token=distillation if dist_token else "",
        reg_token=distillation if register else "",
        pos_embed=embeddings + "position_embeddings",
        patch=embeddings + "patch_embeddings.projection",
        norm1="layernorm_before",
        norm2="layernorm_after",
        norm=prefix + "layernorm",
        pre_logits="pooler.dense",
        head="cls_classifier" if dist_token else "classifier",
        head_dist="distillation_classifier",
        ignored=IGNORED,
        **block,
    )


def _names_in(kind: str, source: Source) -> Names:
    tensors = source.tensors
    prefix = f"{kind}." if any(name.startswith(f"{kind}.") for name in tensors) else ""
    heads = "distillation_classifier.weight" in tensors
    in_memory = f"{prefix}layers.0.layernorm_before.weight" in tensors
    return names(prefix, heads, kind == "deit" and not heads, in_memory)


def _read(kind: str, source: Source) -> tuple[dict[str, Any], bool]:
    config, shapes = source.settings(DEFAULTS), source.shapes()
    found = read_common(config)
    found["mlp_ratio"] = read_mlp_ratio(config)
    found["qkv_bias"] = config.get("qkv_bias", ranges.TRUE_OR_FALSE)
    two_heads = "distillation_classifier.weight" in shapes
    if kind == "deit":
        found.update(dict(dist_token=True) if two_heads else dict(reg_tokens=1))
    head = "cls_classifier.weight" if two_heads else "classifier.weight"
    found["num_classes"] = shapes.of(head, 2)[0] if head in shapes else 0
    if "pooler.dense.weight" in shapes:
        config.get("pooler_act", POOLER, "tanh")
        found["representation_size"] = shapes.of("pooler.dense.weight", 2)[0]
    return found, True


def _kind(module: VisionTransformer) -> str:
    return "deit" if module.dist_token or module.reg_tokens else "vit"


def _write_table(kind: str, module: VisionTransformer) -> Table:
    prefix = f"{kind}." if module.num_classes else ""
    return plain_table(module, names(prefix, module.dist_token, module.reg_tokens == 1))


def _write_files(kind: str, module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    title = {"vit": "ViT", "deit": "DeiT"}[kind]
    head = "ForImageClassification" if module.num_classes else "Model"
    head += "WithTeacher" if module.dist_token else ""
    config = {
        "architectures": [title + head],
        "model_type": kind,
        **write_common(module),
        "qkv_bias": module.qkv_bias,
    }
    if module.representation_size is not None:
        if module.num_classes:
            raise UserError("Transformers' classifiers have no layer like representation_size")
        config.update(pooler_act="tanh", pooler_output_size=module.representation_size)
    if module.num_classes:
        config.update(labels(module.num_classes))
    processor = write_preprocessing(prep, module.img_size, f"{title}ImageProcessor")
    return {"config.json": config, "preprocessor_config.json": processor}


def _layout(kind: str) -> Layout:
    return Layout(
        name="transformers",
        family=kind,
        module=VisionTransformer,
        claims=lambda source: (source.config or {}).get("model_type") == kind,
        read=functools.partial(_read, kind),
        table=lambda module, source: plain_table(module, _names_in(kind, source)),
        expresses=lambda module: _kind(module) == kind,
        write_table=functools.partial(_write_table, kind),
        preprocessing=read_preprocessing,
        usual=USUAL[kind],
        write_files=functools.partial(_write_files, kind),
        assumed=lambda source: source.settings(DEFAULTS).left_out(),
    )


LAYOUTS = (_layout("vit"), _layout("deit"))
