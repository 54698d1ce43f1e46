"""Models of each kind that is exported, tiny, and what the library itself says of pictures."""

import functools

import jax
import numpy as np

from tests.inference import tiny

SWIN2 = {**tiny.SWIN, "img_size": 18, "depths": (2, 2), "window_size": 3}
MODELS = {
    "token": functools.partial(tiny.vit, class_names=tiny.NAMES),
    "avg": functools.partial(tiny.vit, global_pool="avg", reg_tokens=2, no_embed_class=True),
    "token_avg": functools.partial(tiny.vit, global_pool="token_avg", act_layer="quick_gelu"),
    "map": functools.partial(tiny.vit, global_pool="map", class_token=False),
    "none": functools.partial(tiny.vit, global_pool="none", num_classes=0),
    "no head": functools.partial(tiny.vit, num_classes=0, rope="axial", pos_embed="none"),
    "two heads": functools.partial(tiny.vit, dist_token=True),
    "scanned": functools.partial(tiny.vit, scan=True, depth=2, remat="full", qk_norm=True),
    "hybrid": functools.partial(tiny.vit, resnet_layers=(1,), img_size=32, patch_size=2),
    "swin": tiny.swin,
    "swin v2": lambda: tiny.drawn("swinv2_tiny_window8_256", **SWIN2, num_classes=5),
    "resnet": lambda: tiny.drawn(
        "resnetv2_50x1_bit", img_size=32, layers=(1, 1), width=32, num_classes=5
    ),
    "mae": tiny.mae,
}
EVERY_BATCH = ("token", "swin")
QUICK = ("token", "two heads", "swin", "mae", "no head", "none")
OTHERS = tuple(name for name in MODELS if name not in QUICK)
EPS = float(np.finfo(np.float32).eps)


def batches(name):
    return (1, 2, 5) if name in EVERY_BATCH else (2,)


def pictures(model, batch):
    size = model.module.img_size
    size = size if isinstance(size, tuple) else (size, size)
    return np.random.default_rng(batch).normal(size=(batch, *size, 3)).astype(np.float32)


def said(model, images):
    """What the library says of normalised images, by the module itself."""
    module, params = model.module, model.params
    if hasattr(module, "encoder_alone"):
        module = module.encoder_alone()
        params = {name: x for name, x in params.items() if name != "decoder"}
    return np.asarray(jax.jit(module.apply)({"params": params}, images))
