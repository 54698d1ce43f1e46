"""A hyper-parameter of a wrong type or out of range is refused by name when the model is built."""

import jax
import jax.numpy as jnp
import pytest

import vit_jax
from vit_jax import models
from vit_jax.errors import UserError

NAME = "vit_tiny_patch16_224"
SMALL = dict(img_size=8, patch_size=2, embed_dim=32, depth=2, num_heads=4, num_classes=3)
SWIN = "swinv2_tiny_window8_256"
RESNET = "resnetv2_50x1_bit"
MAE = "mae_vit_tiny_patch16"
DECODER = dict(decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2)
MODELS = {
    MAE: {**SMALL, **DECODER, "num_classes": 0},
    NAME: SMALL,
    SWIN: {**SMALL, "depths": (1,), "num_heads": (4,), "window_size": 2},
    RESNET: dict(img_size=8, num_classes=3, layers=(1,), width=32, stem="small"),
}
del MODELS[SWIN]["depth"]
FIELDS = [(name, field) for name in MODELS for field in models.field_ranges(name)]
VALUES = ["abc", "", -1.5, 0.5, -1, 0, 1, True, None, float("nan"), (), (0,), (1, 2), [[1]], {}]
VALUES += [{"a": 1}, ("a", None)]


@pytest.mark.parametrize("name, field", FIELDS)
def test_any_value_builds_or_is_named(name, field):
    for value in VALUES:
        try:
            module = vit_jax.create_model(name, **{**MODELS[name], field: value})
        except UserError as error:
            # Of an image that its patches do not divide the side is named and not the field.
            assert field in str(error) or "image height" in str(error), (field, value)
            continue
        images = jnp.zeros((1, *models.vit.pair(module.img_size), module.in_chans))
        jax.eval_shape(module.init, jax.random.key(0), images)


def test_defaults_fit():
    for name in vit_jax.list_models():
        vit_jax.create_model(name).check()
