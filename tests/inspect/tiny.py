"""Small configurations of each family, for whoever traces or compiles a step."""

from typing import Any

from vit_jax import models
from vit_jax.ahead.compile_ahead import resolve_without_data
from vit_jax.inspect import step
from vit_jax.inspect.source import configuration

VIT = dict(img_size=64, patch_size=16, depth=3, num_classes=10)
MAE = dict(img_size=64, depth=3, decoder_depth=2)
SWIN = dict(img_size=56, embed_dim=24, depths=(2, 2), num_heads=(2, 4), num_classes=10)
NAMES = {
    "vit_tiny_patch16_224": VIT,
    "mae_vit_tiny_patch16": MAE,
    "swin_tiny_patch4_window7_224": SWIN,
    "swinv2_tiny_window8_256": SWIN | {"img_size": 64},
}


def module(name: str, **fields: Any) -> models.PlainModule:
    """A small module of a family, by a name of `NAMES`."""
    return models.create_model(name, **(NAMES[name] | fields))


def traced(name: str, rows: int, **fields: Any) -> step.Step:
    """The training step of a small model."""
    values = NAMES[name] | fields
    config = configuration(name, [f"model.{key}={value!r}" for key, value in values.items()])
    config.total_steps = 1
    return step.Step(step.traced_experiment(resolve_without_data(config), rows))
