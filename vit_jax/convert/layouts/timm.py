"""timm's layout of the plain family, and the original repositories' dialects of it.

| layout | files |
|---|---|
| "timm" | timm's own, DeiT's and DINO's `.pth` |
| "deit3" | DeiT III's `.pth`: LayerScale is `gamma_1`, `gamma_2` |
| "dinov2" | DINOv2's `.pth`: a mask token, registers without positions, gates `w12` and `w3` |
"""

import dataclasses
import math
import re
from typing import Any

import numpy as np

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, square, whole_patches, width_ratio
from vit_jax.convert.layouts.plain import Names, plain_table
from vit_jax.convert.layouts.timm_config import (
    assumed,
    pool_name,
    read_arguments,
    read_timm_preprocessing,
    write_pretrained,
)
from vit_jax.convert.rules import Constant, Ignored, Table, prefixed
from vit_jax.errors import UserError
from vit_jax.models.registry import IMAGENET, Preprocessing
from vit_jax.models.vit import VisionTransformer, pair

# Arguments of timm's models that mean the same here.
SHARED = frozenset(
    [
        "img_size",
        "patch_size",
        "in_chans",
        "num_classes",
        "embed_dim",
        "depth",
        "num_heads",
        "mlp_ratio",
        "qkv_bias",
        "qk_norm",
        "proj_bias",
        "init_values",
        "class_token",
        "no_embed_class",
        "reg_tokens",
        "pre_norm",
        "final_norm",
        "fc_norm",
        "pool_include_prefix",
        "dynamic_img_size",
        "act_layer",
    ]
)
NORMS = {
    "layernorm": dict(norm_layer="layernorm", norm_eps=1e-6),
    "rmsnorm": dict(norm_layer="rmsnorm"),
}
BACKBONE = "backbone."
Pair = tuple[str, str]


def resnet_names(module: VisionTransformer, place: tuple[int, int] | None, part: str) -> Pair:
    """Convolution and norm of a hybrid's ResNet (timm's ResNetV2 without pre-activation)."""
    source = "patch_embed.backbone."
    if place is None:
        source += "stem." if module.resnet_layers else ""
        return f"{source}conv", f"{source}norm"
    source += "stages.{}.blocks.{}.".format(*place)
    if part == "shortcut":
        return f"{source}downsample.conv", f"{source}downsample.norm"
    return f"{source}conv{part}", f"{source}norm{part}"


def names(**different: Any) -> Names:
    """Names of timm's, or those of a dialect."""
    parts: dict[str, Any] = dict(
        cls_token="cls_token",
        dist_token="dist_token",
        reg_token="reg_token",
        pos_embed="pos_embed",
        patch="patch_embed.proj",
        norm_pre="norm_pre",
        q_norm="attn.q_norm",
        k_norm="attn.k_norm",
        ls1="ls1.gamma",
        ls2="ls2.gamma",
        gated_fc1="mlp.fc1",
        gated_fc2="mlp.fc2",
        fc_norm="fc_norm",
        pool={
            "latent": "attn_pool.latent",
            "q": "attn_pool.q",
            "kv": "attn_pool.kv",
            "proj": "attn_pool.proj",
            "norm": "attn_pool.norm",
            "fc1": "attn_pool.mlp.fc1",
            "fc2": "attn_pool.mlp.fc2",
        },
        parallel={
            "norm": "in_norm",
            "in": "in_proj",
            "mlp_bias": "mlp_bias",
            "q_norm": "q_norm",
            "k_norm": "k_norm",
            "attn_out": "attn_out_proj",
            "mlp_out": "mlp_out_proj",
            "ls": "ls.gamma",
        },
        resnet=resnet_names,
        pre_logits="pre_logits.fc",
        head="head",
        head_dist="head_dist",
    )
    return Names(**{**parts, **different})


# What the files measure.


def measure(source: Source) -> dict[str, Any]:
    """Hyper-parameters that the tensors' names and shapes tell.

    The number of heads, epsilons and activations leave no trace in them.
    """
    shapes = source.shapes(_prefix(source))
    embed_dim, in_chans, *patch = shapes.of("patch_embed.proj.weight", 4)
    found: dict[str, Any] = dict(
        embed_dim=embed_dim,
        depth=shapes.count(r"blocks\.(\d+)\."),
        class_token="cls_token" in shapes,
        dist_token="dist_token" in shapes,
        reg_tokens=shapes.of("reg_token", 3)[1] if "reg_token" in shapes else 0,
        pre_norm="norm_pre.weight" in shapes,
        num_classes=shapes.of("head.weight", 2)[0] if "head.weight" in shapes else 0,
        parallel_block="blocks.0.in_proj.weight" in shapes,
    )
    if not any(name.startswith("patch_embed.backbone.") for name in shapes):
        found.update(in_chans=in_chans, patch_size=square(tuple(patch)), resnet_layers=None)
    if "attn_pool.latent" in shapes:
        found["global_pool"] = "map"
    if not found["parallel_block"]:
        found["qkv_bias"] = "blocks.0.attn.qkv.bias" in shapes
        found["qk_norm"] = "blocks.0.attn.q_norm.weight" in shapes
        hidden = shapes.of("blocks.0.mlp.fc2.weight", 2)[1]
        first = shapes.of("blocks.0.mlp.fc1.weight", 2)[0]
        found["mlp_layer"] = "swiglu" if first == 2 * hidden else "mlp"
        found["mlp_ratio"] = width_ratio(hidden, embed_dim)
    return found


def grid_side(rows: int, prefixes: tuple[int, ...]) -> tuple[int, int] | None:
    """Side of the square grid in a table of `rows`, and how many rows are in front of it."""
    for prefix in prefixes:
        side = math.isqrt(max(rows - prefix, 0))
        if side and side * side == rows - prefix:
            return side, prefix
    return None


# The dialects.


def _is_timm(source: Source) -> bool:
    if source.config is not None:
        return "architecture" in source.config
    names = (f"{_prefix(source)}blocks.0.{norm}.weight" for norm in ("norm1", "in_norm"))
    known = any(name in source.tensors for name in names)
    return known and not _is_deit3(source) and not _is_dinov2(source)


def _prefix(source: Source) -> str:
    """What stands before the names of the model: DINO's training keeps a projection beside it."""
    return BACKBONE if f"{BACKBONE}blocks.0.norm1.weight" in source.tensors else ""


def _is_deit3(source: Source) -> bool:
    known = "blocks.0.gamma_1" in source.tensors and "cls_token" in source.tensors
    return known and "architecture" not in (source.config or {})


def _is_dinov2(source: Source) -> bool:
    first = _dinov2_block(source, 0)
    known = "mask_token" in source.tensors and f"{first}.ls1.gamma" in source.tensors
    return known and "architecture" not in (source.config or {})


def _read_timm(source: Source) -> tuple[dict[str, Any], bool]:
    if source.config is None:
        return measure(source), False
    more = {"norm_layer": ranges.one_of(NORMS)}
    spec, arguments = read_arguments(source, VisionTransformer, SHARED, more)
    arguments.update(NORMS.get(arguments.pop("norm_layer", None), {}))
    if spec is None:
        return {**arguments, **measure(source)}, False
    found = dict(spec.hyper_parameters)
    if found.get("mlp_layer") == "swiglu" and "mlp_ratio" in arguments:
        arguments["mlp_ratio"] /= 2  # timm counts gate and value together
    found.update(arguments)
    found.update(
        {size: square(found[size]) for size in ("img_size", "patch_size") if size in found}
    )
    if found.get("resnet_layers") is None and "img_size" in found:
        found["img_size"] = whole_patches(found["img_size"], found.get("patch_size", 16))
    # What timm derives from other arguments.
    found["patch_bias"] = not found.get("pre_norm", False)
    if not found.get("parallel_block", False):
        found["mlp_bias"] = found.get("proj_bias", True)
    shapes = source.shapes()
    found["num_classes"] = shapes.of("head.weight", 2)[0] if "head.weight" in shapes else 0
    return found, True


def _read_deit3(source: Source) -> tuple[dict[str, Any], bool]:
    found = measure(source)
    found.update(no_embed_class=True, init_values=1e-6, num_heads=found["embed_dim"] // 64)
    side = grid_side(source.shapes().of("pos_embed", 3)[1], (0,))
    if side is not None:
        found["img_size"] = side[0] * pair(found["patch_size"])[0]
    return found, side is not None


def _dinov2_block(source: Source, i: int) -> str:
    """Name of block i, which training in chunks keeps as "blocks.CHUNK.i"."""
    pattern = re.compile(rf"(blocks\.(\d+\.)?{i})\.norm1\.weight")
    found = [m[1] for name in source.tensors if (m := pattern.fullmatch(name))]
    chunked = [name for name in found if name.count(".") == 2]
    return (chunked or found or [f"blocks.{i}"])[0]


def _dinov2_names(block: Any, embed_dim: int) -> Names:
    mask = Constant("mask_token", lambda: np.zeros((1, embed_dim)), required=False, free=True)
    return names(
        block=block,
        reg_token="register_tokens",
        gated_fc1="mlp.w12",
        gated_fc2="mlp.w3",
        constants=(mask,),
    )


def _read_dinov2(source: Source) -> tuple[dict[str, Any], bool]:
    shapes = source.shapes()
    first = _dinov2_block(source, 0)
    chunked = first.count(".") == 2
    embed_dim, in_chans, patch, _ = shapes.of("patch_embed.proj.weight", 4)
    gated = f"{first}.mlp.w12.weight" in shapes
    hidden = shapes.of(f"{first}.mlp.{'w3' if gated else 'fc2'}.weight", 2)[1]
    registers = shapes.of("register_tokens", 3)[1] if "register_tokens" in shapes else 0
    side = grid_side(shapes.of("pos_embed", 3)[1], (1,))
    found: dict[str, Any] = dict(
        embed_dim=embed_dim,
        in_chans=in_chans,
        patch_size=patch,
        depth=shapes.count(r"blocks\.\d+\.(\d+)\." if chunked else r"blocks\.(\d+)\."),
        num_heads=embed_dim // 64,
        mlp_ratio=width_ratio(hidden, embed_dim),
        mlp_layer="swiglu" if gated else "mlp",
        act_layer="silu" if gated else "gelu",
        init_values=1e-5,
        reg_tokens=registers,
        no_embed_reg=registers > 0,
        pos_resample="bicubic_antialias" if registers else "bicubic_offset",
        num_classes=0,
    )
    if side is not None:
        found["img_size"] = side[0] * patch
    return found, side is not None


# Files.

# One of timm's models for each thing that its arguments cannot say.
HYBRIDS = {
    (): "vit_tiny_r_s16_p8_224",
    (2, 2, 2, 2): "vit_small_r26_s32_224",
    (3, 4, 9): "vit_base_r50_s16_224",
    (3, 4, 6, 3): "vit_large_r50_s32_224",
}


def architecture(module: VisionTransformer) -> str:
    """A model of timm's that becomes `module` by arguments that a JSON file can hold."""
    if module.resnet_layers is not None:
        return HYBRIDS.get(tuple(module.resnet_layers), "vit_base_r50_s16_224")
    if module.dist_token:
        return "deit_base_distilled_patch16_224"
    if module.parallel_block:
        return "vit_base_patch16_xp_224"
    if module.mlp_layer == "swiglu":
        return "vit_giant_patch14_dinov2"
    if module.norm_eps == 1e-5:
        return "vit_base_patch16_clip_224"
    return "vit_base_patch16_224"


def _write_files(module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    arguments = {name: getattr(module, name) for name in sorted(SHARED)}
    arguments = {k: list(v) if isinstance(v, tuple) else v for k, v in arguments.items()}
    parts = 2 if module.mlp_layer == "swiglu" else 1  # timm counts gate and value together
    arguments["mlp_ratio"] = width_ratio(parts * module.mlp_hidden, module.embed_dim)
    pool = pool_name(module)
    if pool == "token_avg":
        raise UserError("timm has no global_pool='token_avg' (class token and mean side by side)")
    arguments["global_pool"] = pool  # timm heeds it here, and not beside "architecture"
    pretrained = write_pretrained(module, prep, "patch_embed.proj", "head", fixed_input_size=True)
    config = {
        "architecture": architecture(module),
        "num_classes": arguments.pop("num_classes"),
        "num_features": module.embed_dim,
        "global_pool": pool,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
    return {"config.json": config}


IGNORED = (
    Ignored("head.mlp.*", "DINO's projection, thrown away after pre-training"),
    Ignored("head.last_layer.*", "DINO's projection, thrown away after pre-training"),
)
TIMM = names(ignored=IGNORED)
DEIT3 = names(ls1="gamma_1", ls2="gamma_2")


def _timm_table(module: VisionTransformer, source: Source) -> Table:
    table = plain_table(module, TIMM)
    return dataclasses.replace(table, rules=tuple(prefixed(table.rules, _prefix(source))))


def _dinov2_table(module: VisionTransformer, source: Source) -> Table:
    return plain_table(module, _dinov2_names(lambda i: _dinov2_block(source, i), module.embed_dim))


def _layout(name: str, **parts: Any) -> Layout:
    return Layout(
        name=name,
        family="vit",
        module=VisionTransformer,
        preprocessing=read_timm_preprocessing,
        write_files=_write_files if name == "timm" else lambda module, prep: {},
        **parts,
    )


LAYOUTS = (
    _layout(
        "dinov2",
        usual=IMAGENET,
        claims=_is_dinov2,
        read=_read_dinov2,
        table=_dinov2_table,
        expresses=lambda module: module.init_values is not None and not module.num_classes,
        write_table=lambda m: plain_table(m, _dinov2_names("blocks.{}".format, m.embed_dim)),
    ),
    _layout(
        "deit3",
        usual=dataclasses.replace(IMAGENET, crop_pct=1.0),
        claims=_is_deit3,
        read=_read_deit3,
        table=lambda module, source: plain_table(module, DEIT3),
        expresses=lambda module: module.init_values is not None and module.no_embed_class,
        write_table=lambda module: plain_table(module, DEIT3),
    ),
    _layout(
        "timm",
        usual=Preprocessing(),
        assumed=lambda source: assumed(source, SHARED),
        claims=_is_timm,
        read=_read_timm,
        table=_timm_table,
        expresses=lambda module: True,
        write_table=lambda module: plain_table(module, TIMM),
    ),
)
