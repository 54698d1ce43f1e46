"""DINOv2, with and without registers, as Hugging Face Transformers stores it."""

import dataclasses
import functools
from typing import Any

import numpy as np

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, width_ratio
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.layouts.transformers_files import (
    labels,
    read_common,
    read_preprocessing,
    write_preprocessing,
    write_square,
)
from vit_jax.convert.rules import Constant, Table
from vit_jax.errors import UserError
from vit_jax.models.registry import IMAGENET, Preprocessing
from vit_jax.models.vit import VisionTransformer

PLAIN = dict(
    hidden_size=768,
    num_hidden_layers=12,
    num_attention_heads=12,
    mlp_ratio=4,
    hidden_act="gelu",
    layer_norm_eps=1e-6,
    image_size=224,
    patch_size=14,
    num_channels=3,
    qkv_bias=True,
    use_swiglu_ffn=False,
    layerscale_value=1.0,
)
DEFAULTS = {"dinov2": PLAIN, "dinov2_with_registers": {**PLAIN, "num_register_tokens": 4}}
TITLES = {"dinov2": "Dinov2", "dinov2_with_registers": "Dinov2WithRegisters"}


def names(prefix: str, embed_dim: int, in_memory: bool = False) -> Names:
    """The names, where those of the backbone begin with `prefix`."""
    parts = ("query", "key", "value")
    split = tuple(f"attention.attention.{part}" for part in parts)
    embeddings = prefix + "embeddings."
    mask = Constant(embeddings + "mask_token", lambda: np.zeros((1, embed_dim)), False, free=True)
    return Names(
        cls_token=embeddings + "cls_token",
        reg_token=embeddings + "register_tokens",
        pos_embed=embeddings + "position_embeddings",
        patch=embeddings + "patch_embeddings.projection",
        block=(prefix + "encoder.layer.{}").format,
        qkv=tuple(f"attention.{part}_proj" for part in "qkv") if in_memory else split,
        proj="attention.o_proj" if in_memory else "attention.output.dense",
        ls1="layer_scale1.lambda1",
        ls2="layer_scale2.lambda1",
        gated_fc1=("mlp.gate_proj", "mlp.up_proj") if in_memory else "mlp.weights_in",
        gated_fc2="mlp.down_proj" if in_memory else "mlp.weights_out",
        norm=prefix + "layernorm",
        head="classifier",
        constants=(mask,),
    )


def swiglu_hidden(embed_dim: int, mlp_ratio: float) -> int:
    """Width of the gated MLP: two thirds of the plain one's, rounded up to a multiple of 8."""
    return (int(int(embed_dim * mlp_ratio) * 2 / 3) + 7) // 8 * 8


def _table(kind: str, module: VisionTransformer, source: Source) -> Table:
    prefix = f"{kind}." if any(n.startswith(f"{kind}.") for n in source.tensors) else ""
    in_memory = f"{prefix}encoder.layer.0.attention.q_proj.weight" in source.tensors
    return plain_table(module, names(prefix, module.embed_dim, in_memory))


def _read(kind: str, source: Source) -> tuple[dict[str, Any], bool]:
    config = source.settings(DEFAULTS[kind])
    found = read_common(config)
    width, ratio = found["embed_dim"], config.get("mlp_ratio", ranges.POSITIVE)
    found["qkv_bias"] = config.get("qkv_bias", ranges.TRUE_OR_FALSE)
    found["init_values"] = config.get("layerscale_value", ranges.number())
    if config.get("use_swiglu_ffn", ranges.TRUE_OR_FALSE):
        hidden = swiglu_hidden(width, ratio)
        found.update(mlp_layer="swiglu", act_layer="silu")
    else:
        hidden = int(width * ratio)
    found["mlp_ratio"] = width_ratio(hidden, width)
    if kind == "dinov2_with_registers":
        registers = config.get("num_register_tokens", ranges.whole(1))
        found.update(reg_tokens=registers, no_embed_reg=True)
        found["pos_resample"] = "bicubic_antialias"
    shapes, head = source.shapes(), "classifier.weight"
    found["num_classes"] = shapes.of(head, 2)[0] if head in shapes else 0
    if head in shapes:  # class token and mean of patches, side by side
        found["global_pool"] = "token_avg"
    return found, True


def _write_table(kind: str, module: VisionTransformer) -> Table:
    return plain_table(module, names(f"{kind}." if module.num_classes else "", module.embed_dim))


def _write_files(kind: str, module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    gated = module.mlp_layer == "swiglu"
    common = write_square(module, TITLES[kind])
    hidden = common.pop("intermediate_size")
    ratio = module.mlp_ratio if not gated else round(1.5 * hidden / module.embed_dim)
    if gated and swiglu_hidden(module.embed_dim, ratio) != hidden:
        raise UserError(
            f"Transformers' DINOv2 has no gated MLP of width {hidden} for embed_dim="
            f"{module.embed_dim}: a whole mlp_ratio {ratio} makes it "
            f"{swiglu_hidden(module.embed_dim, ratio)}"
        )
    if int(ratio) != ratio:
        raise UserError(f"Transformers' DINOv2 takes a whole mlp_ratio, not {ratio}")
    head = "ForImageClassification" if module.num_classes else "Model"
    config = {
        "architectures": [TITLES[kind] + head],
        "model_type": kind,
        **common,
        "mlp_ratio": int(ratio),
        "qkv_bias": module.qkv_bias,
        "use_swiglu_ffn": gated,
        "layerscale_value": module.init_values,
    }
    if kind == "dinov2_with_registers":
        config["num_register_tokens"] = module.reg_tokens
    if module.num_classes:
        config.update(labels(module.num_classes))
    processor = write_preprocessing(prep, module.img_size, "BitImageProcessor")
    return {"config.json": config, "preprocessor_config.json": processor}


def _expresses(kind: str, module: VisionTransformer) -> bool:
    registers = kind == "dinov2_with_registers"
    return module.init_values is not None and bool(module.reg_tokens) == registers


def _layout(kind: str) -> Layout:
    return Layout(
        name="transformers",
        family=kind,
        module=VisionTransformer,
        claims=lambda source: (source.config or {}).get("model_type") == kind,
        read=functools.partial(_read, kind),
        table=functools.partial(_table, kind),
        expresses=functools.partial(_expresses, kind),
        write_table=functools.partial(_write_table, kind),
        preprocessing=read_preprocessing,
        usual=dataclasses.replace(IMAGENET, crop_mode="center_floor"),
        write_files=functools.partial(_write_files, kind),
        assumed=lambda source: source.settings(DEFAULTS[kind]).left_out(),
    )


LAYOUTS = tuple(_layout(kind) for kind in TITLES)
