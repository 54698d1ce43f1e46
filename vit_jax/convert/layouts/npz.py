"""Google's `.npz` layouts: AugReg (the original vision_transformer) and big_vision.

Both are Flax: kernels lie as ours do, with queries, keys and values apart. Their GELU is the
approximation by tanh, which is what the weights were trained with and what is built here (timm
puts the erf form in its place).

big_vision adds positions before it puts the class token in front, and its scanned models stack
each parameter of all blocks in one array.
"""

import dataclasses
import functools
import re
from collections.abc import Mapping
from typing import Any

from vit_jax.convert.layouts.base import Json, Layout, Shapes, Source, square, width_ratio
from vit_jax.convert.layouts.plain import FLAX, Names, Place, plain_table
from vit_jax.convert.layouts.timm import grid_side
from vit_jax.convert.rules import Ignored, Table
from vit_jax.convert.tensors import LazyTensor
from vit_jax.errors import UserError
from vit_jax.models.registry import Preprocessing
from vit_jax.models.vit import VisionTransformer

PREFIXES = ("opt/target/", "params/img/", "params/", "img/", "")
GROUP_NORM = "1 1 1 c -> c"  # how the scales of a hybrid's norms are stored


@dataclasses.dataclass(frozen=True)
class Dialect:
    """Where AugReg and big_vision differ: Flax numbers layers in the order they are made in."""

    norm2: str
    attention: str
    mlp: str
    pos_embed: str


AUGREG = Dialect(
    norm2="LayerNorm_2",
    attention="MultiHeadDotProductAttention_1",
    mlp="MlpBlock_3",
    pos_embed="Transformer/posembed_input/pos_embedding",
)
BIG_VISION = Dialect(
    norm2="LayerNorm_1",
    attention="MultiHeadDotProductAttention_0",
    mlp="MlpBlock_0",
    pos_embed="pos_embedding",
)


def resnet_names(
    prefix: str, module: VisionTransformer, place: Place | None, part: str
) -> tuple[str, str]:
    """Convolution and norm of a hybrid's ResNet."""
    if place is None:
        return f"{prefix}conv_root", f"{prefix}gn_root"
    unit = f"{prefix}block{place[0] + 1}/unit{place[1] + 1}/"
    part = "_proj" if part == "shortcut" else part
    return f"{unit}conv{part}", f"{unit}gn{part}"


def names(dialect: Dialect, prefix: str, flat_norms: bool = False, text: bool = False) -> Names:
    """The names, each with `prefix` in front.

    Args:
        dialect: AugReg's or big_vision's.
        prefix: in front of every name.
        flat_norms: the scales of a hybrid's norms are vectors.
        text: a text tower lies beside the image tower.
    """
    attention, mlp = dialect.attention, dialect.mlp
    pool = f"{prefix}MAPHead_0/"
    pooling = f"{pool}MultiHeadDotProductAttention_0/"
    beside = ("params/txt/*", "txt/*", "params/t", "params/b", "t", "b") if text else ()
    return Names(
        weight="kernel",
        scale="scale",
        separator="/",
        patterns=FLAX if flat_norms else {**FLAX, "group_norm": GROUP_NORM},
        cls_token=f"{prefix}cls",
        pos_embed=prefix + dialect.pos_embed,
        patch=f"{prefix}embedding",
        block=(f"{prefix}Transformer/encoderblock_" + "{}").format,
        norm1="LayerNorm_0",
        qkv=tuple(f"{attention}/{part}" for part in ("query", "key", "value")),
        proj=f"{attention}/out",
        norm2=dialect.norm2,
        fc1=f"{mlp}/Dense_0",
        fc2=f"{mlp}/Dense_1",
        norm=f"{prefix}Transformer/encoder_norm",
        pool={
            "latent": f"{pool}probe",
            "q": f"{pooling}query",
            "k": f"{pooling}key",
            "v": f"{pooling}value",
            "proj": f"{pooling}out",
            "norm": f"{pool}LayerNorm_0",
            "fc1": f"{pool}MlpBlock_0/Dense_0",
            "fc2": f"{pool}MlpBlock_0/Dense_1",
        },
        resnet=functools.partial(resnet_names, prefix),
        pre_logits=f"{prefix}pre_logits",
        head=f"{prefix}head",
        ignored=tuple(Ignored(pattern, "belongs to the text tower") for pattern in beside),
    )


def prefix_of(tensors: Mapping[str, LazyTensor]) -> str | None:
    """What stands in front of every name, or None if this is no such file."""
    for prefix in PREFIXES:
        if f"{prefix}embedding/kernel" in tensors:
            return prefix
    return None


def unstacked(tensors: Mapping[str, LazyTensor]) -> dict[str, LazyTensor]:
    """The tensors with those of a scanned model's blocks taken apart, one by one."""
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if "/encoderblock/" not in name:
            found[name] = tensor
            continue
        for i in range(tensor.shape[0]):
            layer = name.replace("/encoderblock/", f"/encoderblock_{i}/")
            read = functools.partial(_layer, tensor, i)
            found[layer] = dataclasses.replace(tensor, shape=tensor.shape[1:], read=read)
    return found


def _layer(tensor: LazyTensor, i: int) -> Any:
    return tensor.read()[i]


def _claims(dialect: Dialect, source: Source) -> bool:
    prefix = prefix_of(source.tensors)
    return prefix is not None and prefix + dialect.pos_embed in source.tensors


def _read(dialect: Dialect, source: Source) -> tuple[dict[str, Any], bool]:
    prefix = prefix_of(source.tensors)
    assert prefix is not None
    source = dataclasses.replace(source, tensors=unstacked(source.tensors))
    shapes = source.shapes(prefix)
    block = "Transformer/encoderblock_"
    embed_dim, heads, _ = shapes.of(f"{block}0/{dialect.attention}/query/kernel", 3)
    *patch, in_chans, _ = shapes.of("embedding/kernel", 4)
    hidden = shapes.of(f"{block}0/{dialect.mlp}/Dense_0/kernel", 2)[1]
    found: dict[str, Any] = dict(
        embed_dim=embed_dim,
        depth=shapes.count(rf"{block}(\d+)/"),
        num_heads=heads,
        mlp_ratio=width_ratio(hidden, embed_dim),
        patch_size=square(tuple(patch)),
        in_chans=in_chans,
        act_layer="gelu_tanh",
        norm_eps=1e-6,
        num_classes=shapes.of("head/kernel", 2)[1] if "head/kernel" in shapes else 0,
    )
    if "pre_logits/kernel" in shapes:
        found["representation_size"] = shapes.of("pre_logits/kernel", 2)[1]
    if "conv_root/kernel" in shapes:
        in_chans = shapes.of("conv_root/kernel", 4)[2]
        found.update(resnet_layers=_resnet_layers(shapes), in_chans=in_chans)
    found.update(_pooling(dialect, shapes))
    return found, _find_size(found, shapes.of(dialect.pos_embed, 3)[1]) and "global_pool" in found


def _resnet_layers(shapes: Shapes) -> tuple[int, ...]:
    """Units of each stage; the file counts both from 1."""
    stages = {int(m[1]) for name in shapes if (m := re.match(r"block(\d+)/unit1/", name))}
    units = (
        {int(m[1]) for name in shapes if (m := re.match(rf"block{stage}/unit(\d+)/", name))}
        for stage in range(1, len(stages) + 1)
    )
    return tuple(map(len, units))


def _pooling(dialect: Dialect, shapes: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens in front and the way of pooling, as far as the file tells."""
    found: dict[str, Any] = dict(class_token="cls" in shapes)
    if dialect is BIG_VISION:
        found["no_embed_class"] = True
    if "MAPHead_0/probe" in shapes:
        found["global_pool"] = "map"
    elif found["class_token"]:
        found["global_pool"] = "token"
    else:  # big_vision's "gap": the norm comes before the mean
        found.update(global_pool="avg", fc_norm=False)
    return found


def _find_size(found: dict[str, Any], rows: int) -> bool:
    """Writes the image size into `found`, if the grid is a square."""
    prefix = 0 if found.get("no_embed_class") else int(found["class_token"])
    side = grid_side(rows, (prefix,))
    if side is None:
        return False
    stride = VisionTransformer(**found).stride
    found["img_size"] = side[0] * stride[0]
    return stride[0] == stride[1]


def _table(dialect: Dialect, module: VisionTransformer, source: Source) -> Table:
    prefix = prefix_of(source.tensors)
    assert prefix is not None
    scale = source.tensors.get(f"{prefix}gn_root/scale")
    flat = scale is not None and len(scale.shape) == 1
    return plain_table(module, names(dialect, prefix, flat, text=prefix.endswith("img/")))


def _write_table(dialect: Dialect, module: VisionTransformer) -> Table:
    if module.act_layer != "gelu_tanh" or module.norm_eps != 1e-6:
        raise UserError(
            "Google's .npz files are read with act_layer='gelu_tanh' and norm_eps=1e-6; the model "
            f"has {module.act_layer!r} and {module.norm_eps}"
        )
    prefix = "params/" if dialect is BIG_VISION else ""
    return plain_table(module, names(dialect, prefix))


def _expresses(dialect: Dialect, module: VisionTransformer) -> bool:
    embedded = module.class_token and not module.no_embed_class
    return embedded == (dialect is AUGREG)


def _no_files(module: VisionTransformer, prep: Preprocessing) -> dict[str, Json]:
    return {}


def _layout(name: str, dialect: Dialect) -> Layout:
    return Layout(
        name=name,
        family="vit",
        module=VisionTransformer,
        claims=functools.partial(_claims, dialect),
        read=functools.partial(_read, dialect),
        table=functools.partial(_table, dialect),
        expresses=functools.partial(_expresses, dialect),
        write_table=functools.partial(_write_table, dialect),
        preprocessing=lambda source: None,
        usual=Preprocessing(),
        write_files=_no_files,
    )


LAYOUTS = (_layout("augreg", AUGREG), _layout("big_vision", BIG_VISION))
