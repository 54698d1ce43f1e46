"""Our ViT and timm's are the same function: logits, every block, every gradient, in float64."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
from tests.models import timm_oracle as oracle
from vit_jax.models import stack_blocks
from vit_jax.models.layers.activation import ACTIVATIONS

SMALL = dict(embed_dim=48, depth=3, num_heads=4, img_size=(32, 48), num_classes=7)
PLAIN = "vit_base_patch16_224"


def rms_norm(dim, **kwargs):
    from timm.layers import RmsNorm

    return RmsNorm(dim, eps=1e-6, **kwargs)


def variants():
    from timm.layers import SwiGLUPacked
    from timm.models.vision_transformer import ParallelScalingBlock

    layer_norm = functools.partial(torch.nn.LayerNorm, eps=1e-5)
    swiglu = dict(mlp_layer=SwiGLUPacked, act_layer=torch.nn.SiLU, mlp_ratio=4.0)
    parallel = dict(block_fn=ParallelScalingBlock, qk_norm=True, qkv_bias=False)
    # name: (timm model, timm options, our model, our options)
    return {
        "plain": (PLAIN, {}, PLAIN, {}),
        "patch8": ("vit_base_patch8_224", {}, "vit_base_patch8_224", {}),
        "registers_gap": (
            "vit_base_patch16_reg4_gap_256",
            {},
            "vit_base_patch16_reg4_gap_256",
            {},
        ),
        "class_and_registers": (
            PLAIN,
            dict(reg_tokens=2, init_values=0.1, no_embed_class=True),
            PLAIN,
            dict(reg_tokens=2, init_values=0.1, no_embed_class=True),
        ),
        "map": (
            "vit_base_patch16_siglip_224",
            {},
            "vit_base_patch16_siglip_224",
            {},
        ),
        "distilled": (
            "deit_tiny_distilled_patch16_224",
            {},
            "deit_tiny_distilled_patch16_224",
            {},
        ),
        "clip_quickgelu": (
            PLAIN,
            dict(pre_norm=True, norm_layer=layer_norm, act_layer="quick_gelu"),
            PLAIN,
            dict(pre_norm=True, norm_eps=1e-5, act_layer="quick_gelu", patch_bias=False),
        ),
        "gelu_tanh_qk_norm": (
            PLAIN,
            dict(qk_norm=True, act_layer="gelu_tanh"),
            PLAIN,
            dict(qk_norm=True, act_layer="gelu_tanh"),
        ),
        "rmsnorm": (PLAIN, dict(norm_layer=rms_norm), PLAIN, dict(norm_layer="rmsnorm")),
        "swiglu": (PLAIN, swiglu, PLAIN, dict(mlp_layer="swiglu", act_layer="silu", mlp_ratio=2)),
        "parallel": (
            PLAIN,
            parallel,
            PLAIN,
            dict(parallel_block=True, qk_norm=True, qkv_bias=False),
        ),
        "no_positions": (PLAIN, dict(pos_embed="none"), PLAIN, dict(pos_embed="none")),
        "norm_after_pooling_all_tokens": (
            PLAIN,
            dict(global_pool="avg", pool_include_prefix=True, proj_bias=False),
            PLAIN,
            # timm's proj_bias is of the attention and of the MLP.
            dict(global_pool="avg", pool_include_prefix=True, proj_bias=False, mlp_bias=False),
        ),
        "class_token_normalised_after_pooling": (
            PLAIN,
            dict(fc_norm=True),
            PLAIN,
            dict(fc_norm=True),
        ),
        "no_final_norm": (PLAIN, dict(final_norm=False), PLAIN, dict(final_norm=False)),
        "dinov3": (
            "vit_small_patch16_dinov3",
            # Sides of 2 and 4 patches: timm's float32 coordinates are exact there.
            dict(img_size=(32, 64)),
            PLAIN,
            dict(
                img_size=(32, 64),
                rope="dinov3",
                pos_embed="none",
                reg_tokens=4,
                init_values=1.0,
                qkv_bias=False,
                norm_eps=1e-5,
                global_pool="avg",
                fc_norm=False,
            ),
        ),
        "dinov2": (
            "vit_small_patch14_reg4_dinov2",
            dict(img_size=(28, 42)),
            "vit_small_patch14_reg4_dinov2",
            dict(img_size=(28, 42)),
        ),
    }


@pytest.fixture(params=sorted(variants()))
def pair(request):
    """The same random network twice: timm's module, ours, and our parameters."""
    theirs_name, their_options, ours_name, our_options = variants()[request.param]
    theirs = oracle.create_model(theirs_name, **{**SMALL, **their_options})
    theirs = oracle.randomize(theirs)
    if request.param == "dinov3":  # its frequencies are drawn in float32
        exponents = torch.arange(3, dtype=torch.float64) / 3
        theirs.rope.periods.copy_(100.0**exponents)
    ours = vit_jax.create_model(ours_name, **{**SMALL, **our_options})
    params = oracle.to_flax(oracle.weights(theirs), SMALL["num_heads"], SMALL["depth"])
    return theirs, ours, params


def test_logits_blocks_and_gradients(pair):
    theirs, ours, params = pair
    height, width = ours.img_size
    images = np.random.default_rng(1).normal(size=(2, height, width, 3))
    weight = np.random.default_rng(2).normal(size=(2, SMALL["num_classes"]))

    hidden = []
    for block in theirs.blocks:
        block.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    logits = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
    (logits * torch.tensor(weight)).sum().backward()

    with jax.enable_x64(True):
        drawn = jax.eval_shape(ours.init, jax.random.key(0), jnp.asarray(images))
        shapes = jax.tree.map(lambda leaf: leaf.shape, drawn["params"])
        assert jax.tree.map(lambda leaf: leaf.shape, params) == shapes

        def loss(params):
            output, seen = ours.apply({"params": params}, images, capture=("tokens",))
            return (output * weight).sum(), (output, seen.tokens)

        params = jax.tree.map(jnp.asarray, params)
        (_, (output, tokens)), grads = jax.value_and_grad(loss, has_aux=True)(params)
        output, tokens, grads = jax.device_get((output, tokens, grads))
    assert output.dtype == np.float64
    worst, _ = oracle.worst_relative(output, logits.detach().numpy())
    assert worst <= 1e-10
    for i, block in enumerate(hidden):
        worst, _ = oracle.worst_relative(tokens[i], block.detach().numpy())
        assert worst <= 1e-10, f"block {i}"
    expected = oracle.to_flax(oracle.gradients(theirs), SMALL["num_heads"], SMALL["depth"])
    remove_zero_gradients(grads), remove_zero_gradients(expected)
    worst, leaf = oracle.worst_relative(grads, expected)
    assert worst <= 1e-8, leaf


def remove_zero_gradients(grads):
    """Takes out `k_norm`'s biases, after seeing that their gradients vanish.

    A bias shared by all keys adds the same number to every score of a query, which the softmax
    takes away again: the exact gradient is 0, and what is computed is rounding on either side.
    """
    for block in grads["encoder"].values():
        if "bias" in block["attn"].get("k_norm", {}):
            bias = block["attn"]["k_norm"].pop("bias")
            assert np.abs(bias).max() <= 1e-12 * np.abs(block["attn"]["k_norm"]["scale"]).max()


@pytest.mark.parametrize(
    "name",
    [
        "vit_tiny_r_s16_p8_224",
        "vit_small_r26_s32_224",
        "vit_base_r50_s16_224",
    ],
)
def test_hybrid_logits_and_gradients(name):
    small = dict(embed_dim=48, depth=1, num_heads=4, img_size=64, num_classes=5)
    # ReLU is not smooth: at random weights a float64 input is never at its kink.
    theirs = oracle.randomize(oracle.create_model(name, **small))
    ours = vit_jax.create_model(name, **small)
    params = oracle.to_flax(oracle.weights(theirs), 4, 1)
    images = np.random.default_rng(1).normal(size=(2, 64, 64, 3))
    logits = theirs(torch.tensor(images.transpose(0, 3, 1, 2)))
    logits.square().sum().backward()
    with jax.enable_x64(True):

        @jax.jit
        def loss(params):
            output = ours.apply({"params": params}, images)
            return jnp.square(output).sum(), output

        params = jax.tree.map(jnp.asarray, params)
        (_, output), grads = jax.value_and_grad(loss, has_aux=True)(params)
        output, grads = jax.device_get((output, grads))
    worst, _ = oracle.worst_relative(output, logits.detach().numpy())
    assert worst <= 1e-10
    expected = oracle.to_flax(oracle.gradients(theirs), 4, 1)
    worst, leaf = oracle.worst_relative(grads, expected)
    assert worst <= 1e-8, leaf


def test_float32_agrees_to_two_in_a_hundred_thousand():
    theirs = oracle.randomize(oracle.create_model(PLAIN, **SMALL))
    ours = vit_jax.create_model(PLAIN, **SMALL, scan=True)
    params = oracle.to_flax(oracle.weights(theirs), SMALL["num_heads"], SMALL["depth"])
    params = stack_blocks(jax.tree.map(lambda leaf: leaf.astype(np.float32), params))
    images = np.random.default_rng(1).normal(size=(2, *SMALL["img_size"], 3)).astype(np.float32)
    output = jax.device_get(ours.apply({"params": params}, images))
    logits = theirs.float()(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    assert output.dtype == np.float32
    worst, _ = oracle.worst_relative(output, logits)
    assert worst <= 2e-5


SHARED_NAMES = [
    name
    for name in vit_jax.list_models()
    if name in oracle.timm.list_models(pretrained=False)
    and vit_jax.models.model_spec(name).module is vit_jax.models.VisionTransformer
    and not name.startswith("vit_22b")
]


@pytest.mark.parametrize("name", SHARED_NAMES)
def test_preprocessing_equals_timm(name):
    expected = oracle.timm.get_pretrained_cfg(name)
    assert vit_jax.preprocessing(name) == vit_jax.models.Preprocessing(
        expected.mean,
        expected.std,
        expected.interpolation,
        expected.crop_pct,
        expected.crop_mode,
    )


# The first of timm's weights of these names has no classifier, and so has a new model; ours has.
HEADLESS = {
    "vit_base_r50_s16_224",
    "vit_giant_patch16_gap_224",
    "vit_huge_patch14_224",
    "vit_huge_patch14_gap_224",
    "vit_large_patch32_224",
    "vit_small_patch8_224",
}


@pytest.mark.parametrize("name", SHARED_NAMES)
def test_hyper_parameters_equal_timm(name):
    options = dict(num_classes=1000) if name in HEADLESS else {}
    with torch.device("meta"):
        theirs = oracle.create_model(name, **options)
    ours = vit_jax.create_model(name, scan=True)
    assert hyper_parameters(theirs) == {
        "img_size": vit_jax.models.vit.pair(ours.img_size),
        "grid": ours.grid(),
        "num_classes": ours.num_classes,
        "global_pool": ours.global_pool,
        "pool_include_prefix": ours.pool_include_prefix,
        "tokens": (ours.class_token, ours.dist_token, ours.reg_tokens),
        "no_embed_class": ours.no_embed_class,
        "embed_dim": ours.embed_dim,
        "depth": ours.depth,
        "num_heads": ours.num_heads,
        "parallel_block": ours.parallel_block,
        "layer_scale": ours.init_values is not None,
        "norms": (ours.pre_norm, ours.final_norm, ours.norm_after_pool),
        "norm_eps": {ours.norm_eps},
    }
    for activation in activations(theirs):
        x = torch.linspace(-4, 4, 101, dtype=torch.float64)
        with jax.enable_x64(True):
            expected = np.asarray(ACTIVATIONS[ours.act_layer](jnp.asarray(x.numpy())))
        np.testing.assert_allclose(activation(x).numpy(), expected, rtol=0, atol=1e-12)
    images = jax.ShapeDtypeStruct((1, *vit_jax.models.vit.pair(ours.img_size), 3), jnp.float32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images)
    count = sum(leaf.size for leaf in jax.tree.leaves(shapes))
    assert count == sum(p.numel() for p in theirs.parameters())


def hyper_parameters(theirs):
    """Of a module of timm, what we call them: what a count of parameters does not show."""
    from timm.models.vision_transformer import ParallelScalingBlock

    def there(part):
        return not isinstance(part, torch.nn.Identity)

    first = theirs.blocks[0]
    parallel = isinstance(first, ParallelScalingBlock)
    tokens = [getattr(theirs, name, None) for name in ("cls_token", "dist_token", "reg_token")]
    cls, dist, reg = tokens
    return {
        "img_size": theirs.patch_embed.img_size,
        "grid": theirs.patch_embed.grid_size,
        "num_classes": theirs.num_classes,
        "global_pool": theirs.global_pool,
        "pool_include_prefix": theirs.pool_include_prefix,
        "tokens": (cls is not None, dist is not None, 0 if reg is None else reg.shape[1]),
        "no_embed_class": theirs.no_embed_class,
        "embed_dim": theirs.embed_dim,
        "depth": len(theirs.blocks),
        "num_heads": first.num_heads if parallel else first.attn.num_heads,
        "parallel_block": parallel,
        "layer_scale": there(first.ls if parallel else first.ls1),
        "norms": (
            there(theirs.norm_pre),
            there(theirs.norm) or there(theirs.fc_norm),
            there(theirs.fc_norm),
        ),
        # The norms of a hybrid's ResNet have one of their own.
        "norm_eps": {
            module.eps
            for name, module in theirs.named_modules()
            if hasattr(module, "eps") and "backbone" not in name
        },
    }


def activations(theirs):
    """Each activation of a module of timm's, those of a hybrid's ResNet apart."""
    found = [
        module
        for name, module in theirs.named_modules()
        if name.endswith("act") and not name.startswith("patch_embed.")
    ]
    assert len(found) >= len(theirs.blocks)
    return found


def test_every_published_size_has_a_name_in_common_with_timm():
    """The test above loops over names; this one sees that it does not loop over nothing."""
    expected = {
        "vit_tiny_patch16_224",
        "vit_small_patch32_384",
        "vit_base_patch8_224",
        "vit_large_patch14_224",
        "vit_huge_patch14_224",
        "vit_giant_patch14_224",
        "vit_gigantic_patch14_224",
        "vit_so400m_patch14_siglip_224",
        "vit_base_r50_s16_384",
        "deit_base_distilled_patch16_224",
        "deit3_medium_patch16_224",
        "vit_base_patch32_siglip_256",
        "vit_large_patch16_siglip_gap_512",
        "vit_large_patch14_clip_quickgelu_336",
        "vit_huge_patch14_xp_224",
    }
    assert expected <= set(SHARED_NAMES)
