"""Configuration files of Hugging Face Transformers: hyper-parameters and preprocessing.

A `config.json` may leave out what equals the default of its class, so every reader here knows
those defaults (a test compares them with the library's).
"""

import math
from collections.abc import Mapping
from typing import Any

from vit_jax.convert.layouts.base import Json, Source, square, width_ratio
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
SCALE = 1 / 255  # what Transformers multiplies pixels by before mean and std
RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def read_common(config: Json, defaults: Json) -> dict[str, Any]:
    """Hyper-parameters that every vision configuration has.

    Raises:
        UserError: an activation that this library does not have.
    """
    full = {**defaults, **config}
    found = {ours: full[theirs] for ours, theirs in COMMON.items()}
    for name in ("img_size", "patch_size"):
        found[name] = square(found[name])
    if full["hidden_act"] not in ACTIVATIONS:
        raise UserError(
            f"hidden_act={full['hidden_act']!r} in config.json is unknown; this library has "
            f"{sorted(ACTIVATIONS)}"
        )
    found["act_layer"] = ACTIVATIONS[full["hidden_act"]]
    if "intermediate_size" in full:
        found["mlp_ratio"] = width_ratio(full["intermediate_size"], full["hidden_size"])
    return found


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


def labels(count: int) -> dict[str, Any]:
    """How Transformers writes the number of classes."""
    names = {str(i): f"LABEL_{i}" for i in range(count)}
    return {"id2label": names, "label2id": {name: int(i) for i, name in names.items()}}


def read_preprocessing(source: Source) -> Preprocessing | None:
    """What `preprocessor_config.json` says, or None where there is none.

    Raises:
        UserError: a preprocessing that this library cannot do.
    """
    processor = source.processor
    if processor is None:
        return None
    mean, std = processor["image_mean"], processor["image_std"]
    if not processor.get("do_normalize", True):
        mean, std = (0.0,) * len(mean), (1.0,) * len(std)
    factor = processor.get("rescale_factor", SCALE) if processor.get("do_rescale", True) else 1.0
    if factor != SCALE:  # ours are statistics of values from 0 to 1
        mean, std = ([x * SCALE / factor for x in row] for row in (mean, std))
    if not processor.get("do_resize", True):
        raise UserError(
            "do_resize=false in preprocessor_config.json: pictures are resized here; set it to "
            "true, with the size that they are meant to come to"
        )
    kernel = processor.get("resample", 2)
    if kernel not in RESAMPLE:
        raise UserError(f"resample={kernel} in preprocessor_config.json: expected 2 or 3")
    size = processor.get("size", {"height": 224, "width": 224})
    size = {"shortest_edge": size} if isinstance(size, int) else size
    mode = "center_floor" if "shortest_edge" in size else "squash"
    edge = kept = size.get("shortest_edge", size.get("height"))
    if processor.get("do_center_crop", "crop_size" in processor):
        kept = processor.get("crop_size", size)
        kept = kept["height"] if isinstance(kept, Mapping) else kept
    return Preprocessing(tuple(mean), tuple(std), RESAMPLE[kernel], share(kept, edge), mode)


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
