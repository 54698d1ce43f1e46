"""Swin Transformers as Transformers, timm and their authors store them.

| layout | families | files |
|---|---|---|
| "transformers" | "swin", "swinv2" | folders with a `config.json`; two sets of names, see below |
| "timm" | "swin" | timm's own: merging stands at the beginning of a stage, the head is `head.fc` |
| "swin" | "swin" | the authors' `.pth`: merging stands at the end of a stage, the head is `head` |

Transformers 5 calls the parameters of version 1 in memory by other names than in its files
(`attention.q_proj`); both are read here, and those of the files are written.
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Json, Layout, Source, square
from vit_jax.convert.layouts.timm_config import (
    architecture_of,
    assumed,
    hashable,
    pool_name,
    read_arguments,
    read_timm_preprocessing,
    unregistered,
    write_pretrained,
)
from vit_jax.convert.layouts.transformers_files import (
    ACTIVATION,
    ACTIVATIONS,
    labels,
    read_preprocessing,
    write_preprocessing,
)
from vit_jax.convert.rules import Ignored, Rule, Table, same, stacked
from vit_jax.convert.settings import SIZE
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.registry import IMAGENET, Preprocessing
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import pair
from vit_jax.ranges import Range

USUAL = dataclasses.replace(IMAGENET, crop_pct=0.9)
IGNORED = (
    Ignored("*relative_position_index", "follows from the size of a window"),
    Ignored("*relative_coords_table", "follows from the size of a window"),
    Ignored("*attn_mask", "follows from the size of a window"),
    Ignored("*embeddings.mask_token", "stands for masked patches in pre-training"),
)


@dataclasses.dataclass(frozen=True)
class Names:
    """What a layout calls the parts.

    Attributes:
        patch, patch_norm, norm, head: of the whole model.
        stage: name of stage i.
        merge_before: merging stands in the stage that it leads to, not in the one that it ends.
        norm1, norm2, fc1, fc2: inside a block.
        qkv: one name (packed) or three, inside a block.
        qv_bias: version 2: names of both biases, whole.
        proj: inside a block.
        table: of the table of biases, whole.
        log_bias: of the network that gives them.
        logit_scale: of the scale of cosines.
    """

    patch: str
    patch_norm: str
    norm: str
    head: str
    stage: str
    merge_before: bool
    norm1: str
    norm2: str
    fc1: str
    fc2: str
    qkv: tuple[str, ...]
    qv_bias: tuple[str, str]
    proj: str
    table: str
    log_bias: str
    logit_scale: str = "attn.logit_scale"


ORIGINAL = Names(
    patch="patch_embed.proj",
    patch_norm="patch_embed.norm",
    norm="norm",
    head="head",
    stage="layers.{}.",
    merge_before=False,
    norm1="norm1",
    norm2="norm2",
    fc1="mlp.fc1",
    fc2="mlp.fc2",
    qkv=("attn.qkv",),
    qv_bias=("attn.q_bias", "attn.v_bias"),
    proj="attn.proj",
    table="attn.relative_position_bias_table",
    log_bias="attn.cpb_mlp",
)
TIMM = dataclasses.replace(ORIGINAL, head="head.fc", merge_before=True)


def transformers_names(prefix: str, in_memory: bool = False) -> Names:
    """The names, where those of the backbone begin with `prefix`."""
    split = tuple(f"attention.self.{part}" for part in ("query", "key", "value"))
    names = Names(
        patch=f"{prefix}embeddings.patch_embeddings.projection",
        patch_norm=f"{prefix}embeddings.norm",
        norm=f"{prefix}layernorm",
        head="classifier",
        stage=prefix + "encoder.layers.{}.",
        merge_before=False,
        norm1="layernorm_before",
        norm2="layernorm_after",
        fc1="intermediate.dense",
        fc2="output.dense",
        qkv=split,
        qv_bias=(f"{split[0]}.bias", f"{split[2]}.bias"),
        proj="attention.output.dense",
        table="attention.self.relative_position_bias_table",
        log_bias="attention.self.continuous_position_bias_mlp",
        logit_scale="attention.self.logit_scale",
    )
    if not in_memory:
        return names
    return dataclasses.replace(
        names,
        fc1="mlp.fc1",
        fc2="mlp.fc2",
        qkv=tuple(f"attention.{part}_proj" for part in "qkv"),
        proj="attention.o_proj",
        table="attention.relative_position_bias.relative_position_bias_table",
    )


def swin_table(module: SwinTransformer, names: Names) -> Table:
    """The table of a Swin Transformer in the layout `names`."""
    return Table(tuple(_rules(module, names)), ignored=IGNORED)


def _rules(module: SwinTransformer, names: Names) -> Iterator[Rule]:
    yield from _linear(names.patch, "patch_embed", "o i p q -> p q i o")
    yield from _norm(names.patch_norm, "patch_norm")
    for i, depth in enumerate(module.depths):
        if i:
            stage = names.stage.format(i if names.merge_before else i - 1)
            target = f"stages_{i}/downsample/"
            yield from _norm(f"{stage}downsample.norm", f"{target}norm")
            reduction = f"{stage}downsample.reduction"
            yield from _linear(reduction, f"{target}reduction", use_bias=False)
        for j in range(depth):
            source = f"{names.stage.format(i)}blocks.{j}."
            yield from _block(module, names, source, f"stages_{i}/blocks_{j}/")
    yield from _norm(names.norm, "norm")
    if module.num_classes:
        yield from _linear(names.head, "head")


def _block(module: SwinTransformer, names: Names, source: str, target: str) -> Iterator[Rule]:
    attn = f"{target}attn/"
    for part in ("norm1", "norm2"):
        yield from _norm(source + getattr(names, part), target + part)
    for part in ("fc1", "fc2"):
        yield from _linear(source + getattr(names, part), f"{target}mlp/{part}")
    first = module.version == 1
    yield from _qkv(names, source, f"{attn}qkv", use_bias=module.qkv_bias and first)
    yield from _linear(source + names.proj, f"{attn}proj", "d (h c) -> h c d")
    if first:
        yield same(source + names.table, f"{attn}rel_pos/table", "(p q) h -> p q h")
        return
    if module.qkv_bias:
        biases = [source + name for name in names.qv_bias]
        yield stacked(biases, f"{attn}qv_bias", "k (h c) -> k h c")
    yield same(source + names.logit_scale, f"{attn}logit_scale", "h 1 1 -> h")
    yield from _linear(f"{source}{names.log_bias}.0", f"{attn}rel_pos/fc1")
    yield from _linear(f"{source}{names.log_bias}.2", f"{attn}rel_pos/fc2", use_bias=False)


def _qkv(names: Names, source: str, target: str, use_bias: bool) -> Iterator[Rule]:
    """Queries, keys and values: one matrix or three."""
    if len(names.qkv) == 1:
        name = source + names.qkv[0]
        yield same(f"{name}.weight", f"{target}/kernel", "(k h c) d -> d k h c")
        if use_bias:
            yield same(f"{name}.bias", f"{target}/bias", "(k h c) -> k h c")
        return
    weights = [f"{source}{name}.weight" for name in names.qkv]
    yield stacked(weights, f"{target}/kernel", "k (h c) d -> d k h c")
    if use_bias:
        biases = [f"{source}{name}.bias" for name in names.qkv]
        yield stacked(biases, f"{target}/bias", "k (h c) -> k h c")


def _linear(
    source: str, target: str, pattern: str = "o i -> i o", use_bias: bool = True
) -> Iterator[Rule]:
    yield same(f"{source}.weight", f"{target}/kernel", pattern)
    if use_bias:
        yield same(f"{source}.bias", f"{target}/bias")


def _norm(source: str, target: str) -> Iterator[Rule]:
    yield same(f"{source}.weight", f"{target}/scale")
    yield same(f"{source}.bias", f"{target}/bias")


# timm, and the authors' files.

FIRST = "layers.0.blocks.0."
# Arguments of timm's models that mean the same here, and those of one version alone.
SHARED = frozenset(
    [
        "img_size",
        "patch_size",
        "in_chans",
        "num_classes",
        "embed_dim",
        "depths",
        "num_heads",
        "window_size",
        "mlp_ratio",
        "qkv_bias",
    ]
)
OF_VERSION_2 = frozenset(["pretrained_window_sizes", "act_layer"])
# Of images that have not the model's own size; "always_partition" also of grids within one window.
OTHER_SIZES = dict.fromkeys(
    ("strict_img_size", "dynamic_img_size", "always_partition"), ranges.TRUE_OR_FALSE
)
ARCHITECTURES = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}


def _is_original(source: Source) -> bool:
    tensors = source.tensors
    if source.config is not None or f"{FIRST}norm1.weight" not in tensors:
        return False
    return "layers.0.downsample.norm.weight" in tensors or "head.weight" in tensors


def _is_timm(source: Source) -> bool:
    if source.config is None:
        return f"{FIRST}norm1.weight" in source.tensors and not _is_original(source)
    if unregistered(source):
        return f"{FIRST}norm1.weight" in source.tensors
    name = architecture_of(source.config)
    return name in registry.list_models() and registry.model_spec(name).module is SwinTransformer


def measure(source: Source, head: str) -> dict[str, Any]:
    """Hyper-parameters that the tensors' names and shapes tell; windows are not among them."""
    shapes = source.shapes()
    stages = range(shapes.count(r"layers\.(\d+)\.blocks\."))
    second = f"{FIRST}attn.logit_scale" in shapes
    heads, axis, axes = ("logit_scale", 0, 3) if second else ("relative_position_bias_table", 1, 2)
    blocks = [f"layers.{i}.blocks.0." for i in stages]
    embed_dim, in_chans, *patch = shapes.of("patch_embed.proj.weight", 4)
    bias = "attn.q_bias" if second else "attn.qkv.bias"
    return dict(
        version=2 if second else 1,
        embed_dim=embed_dim,
        in_chans=in_chans,
        patch_size=square(tuple(patch)),
        depths=tuple(shapes.count(rf"layers\.{i}\.blocks\.(\d+)\.") for i in stages),
        num_heads=tuple(shapes.of(f"{block}attn.{heads}", axes)[axis] for block in blocks),
        mlp_ratio=shapes.of(f"{FIRST}mlp.fc1.weight", 2)[0] / embed_dim,
        qkv_bias=FIRST + bias in shapes,
        num_classes=shapes.of(f"{head}.weight", 2)[0] if f"{head}.weight" in shapes else 0,
    )


def _read_timm(source: Source) -> tuple[dict[str, Any], bool]:
    if source.config is None:
        return measure(source, TIMM.head), False
    measured = measure(source, TIMM.head)
    names = _arguments(measured["version"])
    spec, arguments = read_arguments(source, SwinTransformer, names, OTHER_SIZES)
    partition = arguments.pop("always_partition", False)
    for name in set(OTHER_SIZES) & set(arguments):
        del arguments[name]
    if spec is None:
        return {**arguments, **measured}, False
    found = {**spec.hyper_parameters, **arguments, "num_classes": measured["num_classes"]}
    if partition:
        _check_partition(source, SwinTransformer(**found))
    return found, True


def _check_partition(source: Source, module: SwinTransformer) -> None:
    """Raises UserError for windows that timm shifts although they cover the whole grid."""
    wide = [
        grid
        for grid, window in zip(module.grids(), module.wanted_windows())
        if any(side <= width for side, width in zip(grid, pair(window)))
    ]
    if wide:
        raise source.settings().error(
            "model_args",
            f"always_partition is for grids larger than their windows; those of {wide} are not, "
            "and this library takes such a grid as one window without shift",
        )


def _arguments(version: int) -> frozenset[str]:
    return SHARED | (OF_VERSION_2 if version == 2 else frozenset())


def _jsonable(value: Any) -> Any:
    return list(map(_jsonable, value)) if isinstance(value, tuple) else value


def _write_timm(module: SwinTransformer, prep: Preprocessing) -> dict[str, Json]:
    names = sorted(_arguments(module.version))
    arguments = {name: _jsonable(getattr(module, name)) for name in names}
    if module.version == 2:  # timm wants one for each stage
        arguments["pretrained_window_sizes"] = _jsonable(_for_each_stage(module))
    pool = pool_name(module)
    pretrained = write_pretrained(
        module,
        prep,
        TIMM.patch,
        TIMM.head,
        pool_size=list(module.grids()[-1]),
        fixed_input_size=True,
    )
    config = {
        "architecture": ARCHITECTURES[module.version],
        "num_classes": arguments.pop("num_classes"),
        "num_features": module.widths()[-1],
        "global_pool": pool,
        "model_args": {**arguments, "global_pool": pool},
        "pretrained_cfg": pretrained,
    }
    return {"config.json": config}


def _for_each_stage(module: SwinTransformer) -> tuple[int, ...]:
    """The windows in pre-training, one for each stage; zeros where no such window is meant."""
    sizes = module.pretrained_window_sizes
    return (sizes,) * len(module.depths) if isinstance(sizes, int) else tuple(sizes)


# Transformers.


DEFAULTS: Mapping[str, Any] = dict(
    image_size=224,
    patch_size=4,
    num_channels=3,
    embed_dim=96,
    depths=(2, 2, 6, 2),
    num_heads=(3, 6, 12, 24),
    window_size=7,
    mlp_ratio=4.0,
    qkv_bias=True,
    hidden_act="gelu",
    use_absolute_embeddings=False,
    layer_norm_eps=1e-5,
)
COMMON = {
    "img_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    **{
        name: name
        for name in ("embed_dim", "depths", "num_heads", "window_size", "mlp_ratio", "qkv_bias")
    },
}
RANGES = {
    **dict.fromkeys(("img_size", "patch_size"), SIZE),
    **dict.fromkeys(("in_chans", "embed_dim", "window_size"), ranges.whole(1)),
    **dict.fromkeys(("depths", "num_heads"), ranges.filled(ranges.whole(1))),
    "mlp_ratio": ranges.POSITIVE,
    "qkv_bias": ranges.TRUE_OR_FALSE,
}
PRETRAINED = ranges.filled(ranges.whole(0))
REFUSED = {
    "use_absolute_embeddings": Range("false: this library has none here", lambda x: x is False),
    "layer_norm_eps": Range(
        "1e-5: Transformers takes it in some norms and 1e-5 in others; here is one for all",
        lambda x: x == 1e-5,
    ),
}
TYPES = {1: "swin", 2: "swinv2"}
TITLES = {1: "Swin", 2: "Swinv2"}


def _read_transformers(version: int, source: Source) -> tuple[dict[str, Any], bool]:
    config = source.settings(DEFAULTS)
    for theirs, allowed in REFUSED.items():
        config.get(theirs, allowed)
    found = {ours: hashable(config.get(theirs, RANGES[ours])) for ours, theirs in COMMON.items()}
    for name in ("img_size", "patch_size"):
        found[name] = square(found[name])
    found.update(version=version, act_layer=ACTIVATIONS[config.get("hidden_act", ACTIVATION)])
    if version == 2:
        sizes = config.get("pretrained_window_sizes", PRETRAINED, (0,) * len(found["depths"]))
        if any(sizes):
            found["pretrained_window_sizes"] = hashable(sizes)
    shapes, head = source.shapes(), "classifier.weight"
    found["num_classes"] = shapes.of(head, 2)[0] if head in shapes else 0
    return found, True


def _transformers_table(version: int, module: SwinTransformer, source: Source) -> Table:
    prefix = f"{TYPES[version]}."
    prefix = prefix if any(name.startswith(prefix) for name in source.tensors) else ""
    in_memory = f"{prefix}encoder.layers.0.blocks.0.attention.q_proj.weight" in source.tensors
    return swin_table(module, transformers_names(prefix, in_memory))


def _write_transformers_table(version: int, module: SwinTransformer) -> Table:
    return swin_table(
        module, transformers_names(f"{TYPES[version]}." if module.num_classes else "")
    )


def _write_transformers(
    version: int, module: SwinTransformer, prep: Preprocessing
) -> dict[str, Json]:
    if not isinstance(module.window_size, int):
        raise UserError(
            f"window_size={module.window_size}: Transformers has one number for all stages; choose "
            "another format"
        )
    activations = {ours: theirs for theirs, ours in reversed(ACTIVATIONS.items())}
    head = "ForImageClassification" if module.num_classes else "Model"
    config = {
        "architectures": [TITLES[version] + head],
        "model_type": TYPES[version],
        **{theirs: _jsonable(getattr(module, ours)) for ours, theirs in COMMON.items()},
        "hidden_act": activations[module.act_layer],
        "layer_norm_eps": module.norm_eps,
    }
    if version == 2:
        config["pretrained_window_sizes"] = _jsonable(_for_each_stage(module))
    if module.num_classes:
        config.update(labels(module.num_classes))
    processor = write_preprocessing(prep, module.img_size, "ViTImageProcessor")
    return {"config.json": config, "preprocessor_config.json": processor}


def _transformers(version: int) -> Layout:
    return Layout(
        name="transformers",
        family=TYPES[version],
        module=SwinTransformer,
        claims=lambda source: (source.config or {}).get("model_type") == TYPES[version],
        read=functools.partial(_read_transformers, version),
        table=functools.partial(_transformers_table, version),
        expresses=lambda module: module.version == version,
        write_table=functools.partial(_write_transformers_table, version),
        preprocessing=read_preprocessing,
        usual=dataclasses.replace(USUAL, crop_pct=1.0, crop_mode="squash"),
        write_files=functools.partial(_write_transformers, version),
        assumed=lambda source: source.settings(DEFAULTS).left_out(),
    )


LAYOUTS = (
    _transformers(1),
    _transformers(2),
    Layout(
        name="swin",
        family="swin",
        module=SwinTransformer,
        claims=_is_original,
        read=lambda source: (measure(source, ORIGINAL.head), False),
        table=lambda module, source: swin_table(module, ORIGINAL),
        expresses=lambda module: True,
        write_table=lambda module: swin_table(module, ORIGINAL),
        preprocessing=read_timm_preprocessing,
        usual=USUAL,
        write_files=lambda module, prep: {},
    ),
    Layout(
        name="timm",
        family="swin",
        module=SwinTransformer,
        claims=_is_timm,
        read=_read_timm,
        table=lambda module, source: swin_table(module, TIMM),
        expresses=lambda module: True,
        write_table=lambda module: swin_table(module, TIMM),
        preprocessing=read_timm_preprocessing,
        usual=USUAL,
        write_files=_write_timm,
        assumed=lambda source: assumed(source, SHARED),
    ),
)
