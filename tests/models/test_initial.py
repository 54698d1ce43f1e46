"""Where training starts: each published initialisation, part by part."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from vit_jax.errors import UserError
from vit_jax.models.layers.linear import Linear

D, HIDDEN, PIXELS = 64, 128, 48  # widths, and numbers in a patch of 4x4 pixels
TINY = dict(img_size=8, patch_size=4, embed_dim=D, depth=1, num_heads=4, mlp_ratio=HIDDEN / D)


KEY = jax.random.key(0, impl="rbg")  # compiles in a third of the usual generator's time


def build(name, **options):
    return vit_jax.create_model(name, **{**TINY, **options})


def drawn(module):
    """Initial parameters by path."""
    images = jnp.zeros((1, *np.broadcast_to(module.img_size, 2), 3))
    params = jax.tree.map(np.asarray, jax.jit(module.init)(KEY, images)["params"])
    return traverse_util.flatten_dict(params, sep="/")


def is_uniform(values, bound):
    """Reaches the bound and no further, with the variance of a uniform distribution."""
    few = 1 + 5 / np.sqrt(values.size)
    assert 1 - 20 / values.size < np.abs(values).max() / bound <= 1
    assert 1 / few < values.std() / (bound / np.sqrt(3)) < few


def is_normal(values, deviation):
    """Has the standard deviation, and values beyond two of them: nothing is cut off."""
    few = 1 + 5 / np.sqrt(2 * values.size)
    assert 1 / few < values.std() / deviation < few
    if values.size > 1000:
        assert 2.5 < np.abs(values).max() / deviation < 6


def xavier_bound(inputs, outputs):
    return (6 / (inputs + outputs)) ** 0.5


# Kernels and biases of one block, by their place in it: inputs and outputs as its authors see them.
MATRICES = {
    "attn/qkv/kernel": (D, D),
    "attn/proj/kernel": (D, D),
    "mlp/fc1/kernel": (D, HIDDEN),
    "mlp/fc2/kernel": (HIDDEN, D),
}
BIASES = ("attn/qkv/bias", "attn/proj/bias")
MLP_BIASES = ("mlp/fc1/bias", "mlp/fc2/bias")


def test_vit_starts_as_its_authors_do():
    """google-research/vision_transformer, vit_jax/models_vit.py."""
    params = drawn(build("vit_tiny_patch16_224", num_classes=300, representation_size=D))
    for name, sizes in MATRICES.items():
        is_uniform(params[f"encoder/blocks_0/{name}"], xavier_bound(*sizes))
    for name in MLP_BIASES:
        is_normal(params[f"encoder/blocks_0/{name}"], 1e-6)
    zero = [f"encoder/blocks_0/{name}" for name in BIASES]
    zero += ["cls_token", "patch_embed/bias", "pre_logits/bias", "head/kernel", "head/bias"]
    for name in zero:
        assert not params[name].any(), name
    # Flax's own for convolutions and dense layers: normal, cut off at two deviations.
    for name, inputs in (("patch_embed/kernel", PIXELS), ("pre_logits/kernel", D)):
        assert params[name].std() == pytest.approx(inputs**-0.5, rel=0.1)
        assert np.abs(params[name]).max() <= 2 * inputs**-0.5 / 0.8796
    is_normal(params["pos_embed/table"], 0.02)


@pytest.mark.parametrize("name", ["deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"])
def test_deit_starts_as_its_authors_do(name):
    """facebookresearch/deit, models.py and models_v2.py."""
    params = drawn(build(name, num_classes=300))
    for path, values in params.items():
        if path.startswith("patch_embed"):
            is_uniform(values, PIXELS**-0.5)
        elif path.endswith(("kernel", "token", "pos_embed/table")):
            is_normal(values, 0.02)
        elif path.endswith("bias"):
            assert not values.any(), path


def test_mae_starts_as_its_authors_do():
    """facebookresearch/mae, models_mae.py: queries, keys and values are one matrix to PyTorch."""
    sizes = dict(decoder_embed_dim=D, decoder_depth=1, decoder_num_heads=4)
    params = drawn(build("mae_vit_tiny_patch16", **sizes, decoder_mlp_ratio=HIDDEN / D))
    for trunk in ("encoder", "decoder"):
        for name, (inputs, outputs) in MATRICES.items():
            outputs = 3 * outputs if "qkv" in name else outputs
            is_uniform(params[f"{trunk}/blocks_0/{name}"], xavier_bound(inputs, outputs))
        for name in (*BIASES, *MLP_BIASES):
            assert not params[f"{trunk}/blocks_0/{name}"].any()
    is_uniform(params["patch_embed/kernel"], xavier_bound(PIXELS, D))
    is_uniform(params["patch_embed/bias"], PIXELS**-0.5)
    is_uniform(params["decoder/embed/kernel"], xavier_bound(D, D))
    is_uniform(params["decoder/pred/kernel"], xavier_bound(D, PIXELS))
    is_normal(params["cls_token"], 0.02)
    is_normal(params["decoder/mask_token"], 0.02)


@pytest.mark.parametrize(
    "name", ["swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"], ids=["first", "second"]
)
def test_swin_starts_as_its_authors_do(name):
    """microsoft/Swin-Transformer, models/swin_transformer.py and swin_transformer_v2.py."""
    module = vit_jax.create_model(
        name, img_size=16, embed_dim=D, depths=(1, 1), num_heads=(4, 4), window_size=2
    )
    for path, values in drawn(module).items():
        if path.startswith("patch_embed"):
            is_uniform(values, PIXELS**-0.5)
        elif path.endswith(("kernel", "rel_pos/table")):
            is_normal(values, 0.02)
        elif path.endswith("bias"):
            assert not values.any(), path


def test_the_head_starts_with_its_bias():
    """big_vision's init_head_bias: every class is unlikely at first."""
    options = dict(num_classes=7, dist_token=True, head_bias_init=-10.0)
    module = build("vit_tiny_patch16_224", **options)
    logits, variables = jax.jit(module.init_with_output)(KEY, jnp.ones((1, 8, 8, 3)))
    for values in (logits[0], variables["params"]["head_dist"]["bias"]):
        np.testing.assert_array_equal(values, np.full(7, -10.0))


def test_scanned_blocks_are_drawn_like_the_others_for_fine_tuning_of_mae():
    """The axis that counts layers is no input. The head is that of main_finetune.py."""
    options = dict(weight_init="mae", scan=True, depth=3, num_classes=300)
    params = drawn(build("vit_tiny_patch16_224", **options))
    is_uniform(params["encoder/blocks/attn/qkv/kernel"], xavier_bound(D, 3 * D))
    is_uniform(params["encoder/blocks/mlp/fc1/kernel"], xavier_bound(D, HIDDEN))
    is_normal(params["head/kernel"], 2e-5)


def test_what_cannot_be_drawn_is_named():
    with pytest.raises(UserError, match=r"head_bias_init=-10.0 .* head_bias=False"):
        build("vit_tiny_patch16_224", head_bias=False, head_bias_init=-10.0).check()
    with pytest.raises(UserError, match="weight_init is 'jax'; expected one of 'vit', 'deit'"):
        build("vit_tiny_patch16_224", weight_init="jax").check()
    with pytest.raises(UserError, match="weight_init='jax' is unknown; choose one of"):
        Linear((3,), (None, None), weight_init="jax").init(KEY, jnp.ones((1, 2)))
