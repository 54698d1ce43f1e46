"""Configuration files of Hugging Face Transformers: hyper-parameters and preprocessing.

A `config.json` may leave out what equals the default of its class, so every reader here knows
those defaults (a test compares them with the library's).
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from vit_jax import ranges
from vit_jax.convert.layouts.base import Source, square, width_ratio
from vit_jax.convert.settings import COLOURS, SIZE, SPREADS, Settings
from vit_jax.errors import UserError
from vit_jax.models.registry import Preprocessing

ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
# Ours, theirs.
COMMON = {
    "embed_dim": "hidden_size",
    "depth": "num_hidden_layers",
    "num_heads": "num_attention_heads",
    "img_size": "image_size",
    "patch_size": "patch_size",
    "in_chans": "num_channels",
    "norm_eps": "layer_norm_eps",
}
ACTIVATION = ranges.one_of(ACTIVATIONS)
SIDES = ranges.either(
    ranges.whole(1),
    ranges.Range(
        '{"shortest_edge": ...} or {"height": ..., "width": ...}',
        lambda x: (
            isinstance(x, Mapping) and ("shortest_edge" in x or {"height", "width"} <= set(x))
        ),
    ),
)
RANGES = {
    **dict.fromkeys(("hidden_size", "num_hidden_layers", "num_attention_heads"), ranges.whole(1)),
    **dict.fromkeys(("intermediate_size", "num_channels"), ranges.whole(1)),
    **dict.fromkeys(("image_size", "patch_size"), SIZE),
    "layer_norm_eps": ranges.POSITIVE,
}
SCALE = 1 / 255  # what Transformers multiplies pixels by before mean and std
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers
# Whether a single number in "size" is the picture's shorter side, by what the class is called in
# front of "ImageProcessor"; else it is both sides. Others are left out, among them SigLIP's, which
# cuts nothing off afterwards, so that its pictures would keep their shapes, and ConvNeXt's, which
# enlarges it by a share of its own.
SHORTER_SIDE = {"Bit": True, "CLIP": True, "DeiT": False, "ViT": False}
# The classes where a file names none, by `model_type`, as `AutoImageProcessor` chooses them; towers
# and models with registers, which it does not know, have those of the models beside them.
PROCESSORS = {
    "clip": "CLIP",
    "clip_vision_model": "CLIP",
    "deit": "DeiT",
    "dinov2": "Bit",
    "dinov2_with_registers": "Bit",
    "swin": "ViT",
    "swinv2": "ViT",
    "vit": "ViT",
    "vit_mae": "ViT",
}
NAMED = re.compile(r"(\w+)(?:FeatureExtractor|ImageProcessor)(?:Fast|Pil)?")
TEXT = ranges.Range("a name", lambda x: isinstance(x, str))


def read_common(config: Settings) -> dict[str, Any]:
    """Hyper-parameters that every vision configuration has; not the width of the MLP.

    Raises:
        UserError: a value that is none, as an activation that this library does not have.
    """
    found = {ours: config.get(theirs, RANGES[theirs]) for ours, theirs in COMMON.items()}
    for name in ("img_size", "patch_size"):
        found[name] = square(found[name])
    found["act_layer"] = ACTIVATIONS[config.get("hidden_act", ACTIVATION)]
    found["pos_resample"] = "bicubic"  # what interpolate_pos_encoding=True does in most classes
    return found


def read_mlp_ratio(config: Settings) -> float:
    """The ratio that `intermediate_size` is of `hidden_size`."""
    hidden, width = (config.get(key, RANGES[key]) for key in ("intermediate_size", "hidden_size"))
    return width_ratio(hidden, width)


def write_common(module: Any) -> dict[str, Any]:
    """The inverse of `read_common`."""
    written = {theirs: getattr(module, ours) for ours, theirs in COMMON.items()}
    for name in ("image_size", "patch_size"):
        written[name] = square(written[name])
    theirs = {ours: name for name, ours in reversed(ACTIVATIONS.items())}
    written["hidden_act"] = theirs[module.act_layer]
    written["intermediate_size"] = module.mlp_hidden
    return {k: list(v) if isinstance(v, tuple) else v for k, v in written.items()}


def write_square(module: Any, title: str) -> dict[str, Any]:
    """`write_common`, for a class of Transformers that takes squares alone.

    Raises:
        UserError: images or patches are no squares.
    """
    written = write_common(module)
    for name in ("image_size", "patch_size"):
        if not isinstance(written[name], int):
            raise UserError(
                f"Transformers' {title} takes squares alone, not {name}={written[name]}"
            )
    return written


def labels(names: int | Sequence[str]) -> dict[str, Any]:
    """How Transformers writes the names of classes, or their number where nobody knows names."""
    if isinstance(names, int):
        names = [f"LABEL_{i}" for i in range(names)]
    by_index = {str(i): name for i, name in enumerate(names)}
    return {"id2label": by_index, "label2id": {name: int(i) for i, name in by_index.items()}}


def read_preprocessing(source: Source) -> Preprocessing | None:
    """What `preprocessor_config.json` says, or None where there is none.

    Raises:
        UserError: a preprocessing that this library cannot do.
    """
    processor = source.processing()
    if processor is None:
        return None
    if _flag(processor, "do_normalize", True):
        mean, std = processor.get("image_mean", COLOURS), processor.get("image_std", SPREADS)
    else:
        mean, std = (0.0,) * 3, (1.0,) * 3
    rescaled = _flag(processor, "do_rescale", True)
    factor = processor.get("rescale_factor", ranges.POSITIVE, SCALE) if rescaled else 1.0
    if factor != SCALE:  # ours are statistics of values from 0 to 1
        mean, std = ([x * SCALE / factor for x in row] for row in (mean, std))
    if not _flag(processor, "do_resize", True):
        raise processor.error(
            "do_resize",
            "pictures are resized here; set it to true, with the size that they are meant to come "
            "to",
        )
    kernel = processor.get("resample", ranges.one_of(RESAMPLE))
    edge, shortest = _side(processor, "size")
    kept = edge
    if _flag(processor, "do_center_crop", "crop_size" in processor):
        kept, _ = _side(processor, "crop_size")  # one number is both sides here, whatever the class
    if shortest is None:
        shortest = _is_shorter_side(processor, source.settings())
    mode = "center_floor" if shortest else "squash"
    return Preprocessing(tuple(mean), tuple(std), RESAMPLE[kernel], share(kept, edge), mode)


def _flag(processor: Settings, key: str, default: bool) -> bool:
    return processor.get(key, ranges.TRUE_OR_FALSE, default)


def _side(processor: Settings, key: str) -> tuple[int, bool | None]:
    """Height of a size in pixels, and whether it is that of a picture's shorter side.

    It is {"shortest_edge": ...}, {"height": ..., "width": ...} or one number, which does not say it
    (None).
    """
    found = processor.get(key, SIDES)
    if not isinstance(found, Mapping):
        return found, None
    sides = processor.part(key)
    if "shortest_edge" in sides:
        return sides.get("shortest_edge", ranges.whole(1)), True
    sides.get("width", ranges.whole(1))
    return sides.get("height", ranges.whole(1)), False


def _is_shorter_side(processor: Settings, config: Settings) -> bool:
    """Whether one number in "size" is a picture's shorter side, which the class decides.

    Older files have such numbers. The class is in the file, or is that of `model_type` in the
    model's configuration.

    Raises:
        UserError: neither names a class for which it is known.
    """
    keys = [k for k in ("image_processor_type", "feature_extractor_type") if k in processor]
    if keys:
        name = processor.get(keys[0], TEXT)
        match = NAMED.fullmatch(name)
        kind, said = match and match[1], f"of {name}"
    else:
        model = config.get("model_type", TEXT, "")
        kind, said = PROCESSORS.get(model), f"of an unnamed processor for model_type={model!r}"
    if kind not in SHORTER_SIDE:
        raise processor.error(
            "size",
            f'it is not known what one number is to the pictures {said}: write {{"height": ..., '
            '"width": ...} for pictures that are resized to just that, or {"shortest_edge": ...} '
            "for the shorter side of those that keep their proportions",
        )
    return SHORTER_SIDE[kind]


def share(kept: int, edge: int) -> float:
    """The `crop_pct` for which `floor(kept / crop_pct)` is `edge`."""
    crop_pct = kept / edge
    return crop_pct if math.floor(kept / crop_pct) == edge else math.nextafter(crop_pct, 0)


def write_preprocessing(prep: Preprocessing, img_size: Any, kind: str) -> dict[str, Any]:
    """The inverse of `read_preprocessing`, for the image processor class `kind`."""
    height, width = (img_size, img_size) if isinstance(img_size, int) else img_size
    whole = {"height": height, "width": width}
    written: dict[str, Any] = {
        "image_processor_type": kind,
        "do_resize": True,
        "do_rescale": True,
        "rescale_factor": SCALE,
        "do_normalize": True,
        "image_mean": list(prep.mean),
        "image_std": list(prep.std),
        "resample": {name: k for k, name in RESAMPLE.items()}[prep.interpolation],
    }
    cropped = {"do_center_crop": prep.crop_pct != 1 or prep.crop_mode != "squash"}
    if cropped["do_center_crop"]:
        cropped["crop_size"] = whole
    if prep.crop_mode == "squash":
        resized = {side: math.floor(pixels / prep.crop_pct) for side, pixels in whole.items()}
    else:
        resized = {"shortest_edge": math.floor(min(height, width) / prep.crop_pct)}
    return {**written, "size": resized, **cropped}
