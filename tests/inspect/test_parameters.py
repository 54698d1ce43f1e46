"""Parameters by hand are those of the real tree, part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tests.inspect import tiny
from vit_jax import models
from vit_jax.inspect.parameters import parameters, parameters_by_hand
from vit_jax.inspect.parts import part_of

NAMES = (
    *("vit_base_patch16_224", "vit_base_patch16_clip_224", "vit_base_patch16_siglip_224"),
    *("vit_giant_patch14_reg4_dinov2", "deit_base_distilled_patch16_384", "vit_22b_patch14_224"),
    *("mae_vit_base_patch16", "swin_s3_tiny_224", "swinv2_base_window12to16_192to256"),
)
# Hyper-parameters that add or take away parameters, one after the other.
CHOICES = (
    dict(k_bias=False),
    dict(qkv_bias=False, proj_bias=False, mlp_bias=False, patch_bias=False, head_bias=False),
    dict(qk_norm=True, norm_layer="layernorm_nobias"),
    dict(parallel_block=True, init_values=0.1, pre_norm=True, final_norm=False),
    dict(mlp_layer="swiglu", reg_tokens=2, no_embed_reg=True, pos_embed="learn_2d"),
    dict(global_pool="token_avg", representation_size=24, fc_norm=True),
    dict(global_pool="map", class_token=False, pos_embed="sincos_2d", num_classes=0),
    dict(resnet_layers=(1, 2), patch_size=2, img_size=(32, 64), in_chans=1),
)


@pytest.mark.parametrize("name", NAMES)
def test_by_hand_as_in_the_tree_of_a_name(name):
    module = models.create_model(name)
    assert parameters_by_hand(module) == parameters(module)


@pytest.mark.slow
def test_by_hand_as_in_the_tree_of_every_name():
    for name in models.list_models():
        module = models.create_model(name)
        assert parameters_by_hand(module) == parameters(module), name


@pytest.mark.parametrize("choices", CHOICES, ids=lambda choices: next(iter(choices)))
def test_by_hand_for_any_choice(choices):
    module = tiny.module("vit_tiny_patch16_224", **{"depth": 2, "embed_dim": 48, **choices})
    assert parameters_by_hand(module) == parameters(module)


@pytest.mark.parametrize("name", tiny.NAMES)
def test_parts_sum_to_the_parameters_that_init_draws(name):
    """Every block traced by itself, without the scan that `parameters` puts in their place."""
    module = tiny.module(name)
    image = jax.ShapeDtypeStruct((1, *np.broadcast_to(module.img_size, 2), 3), jnp.float32)
    drawn = jax.eval_shape(module.init, jax.random.key(0), image)["params"]
    assert sum(parameters(module).values()) == sum(x.size for x in jax.tree.leaves(drawn))


def test_vit_base_has_as_many_as_everybody_says():
    """Dosovitskiy et al. 2021, table 1: 86 M; timm's vit_base_patch16_224 to the last one."""
    found = parameters_by_hand(models.create_model("vit_base_patch16_224"))
    assert sum(found.values()) == 86_567_656
    d = 768
    block = sum(found[part] for part in ("attention", "MLP", "norms in blocks"))
    assert block == 12 * (12 * d * d + 13 * d)


@pytest.mark.parametrize(
    "path, part",
    [
        ("encoder/blocks_0/attn/qkv/kernel", "attention"),
        ("encoder/blocks/mlp/fc1/bias", "MLP"),
        ("decoder/blocks_3/norm2/scale", "decoder: norms in blocks"),
        ("decoder/mask_token", "decoder: added tokens"),
        ("stages_1/downsample/norm/scale", "merging"),
        ("backbone/stages_0_blocks_0/conv1/kernel", "convolutions"),
        ("jvp(VisionTransformer)/encoder/blocks_1/attn/attn._project", "attention"),
        ("jvp(jit(log_softmax))", "images and loss"),
    ],
)
def test_part_of(path, part):
    assert part_of(path) == part
