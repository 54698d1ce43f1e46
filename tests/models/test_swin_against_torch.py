"""Our Swin and timm's and Transformers' are the same function, in float64.

Logits, the map after every block and the gradient of every parameter, all weights drawn anew.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
from tests.models import swin_oracle as oracle
from tests.models.timm_oracle import worst_relative

NAMES = {1: "swin_tiny_patch4_window7_224", 2: "swinv2_tiny_window8_256"}
THREE = dict(depths=(2, 1, 2), num_heads=(2, 4, 4))

# Sizes at which windows divide the maps, which timm was made for.
TIMM = {
    "plain": (1, dict(img_size=32, window_size=4)),
    "window_of_the_map": (1, dict(img_size=16, window_size=4)),
    "window_shrinks": (1, dict(img_size=32, window_size=4, **THREE)),
    "wide": (1, dict(img_size=(48, 64), patch_size=2, window_size=4, qkv_bias=False)),
    "window_of_a_stage": (1, dict(img_size=(32, 64), window_size=((2, 4), (2, 2)))),
    "merging_of_odd_maps": (1, dict(img_size=36, window_size=3, depths=(2, 1))),
    "plain_v2": (2, dict(img_size=32, window_size=4)),
    "pretrained_windows_v2": (
        2,
        dict(img_size=32, window_size=4, pretrained_window_sizes=(3, 2)),
    ),
    "window_shrinks_v2": (2, dict(img_size=32, window_size=4, qkv_bias=False, **THREE)),
    "wide_v2": (2, dict(img_size=(48, 64), patch_size=2, window_size=(4, 2))),
    "merging_of_odd_maps_v2": (2, dict(img_size=36, window_size=3, depths=(2, 1))),
}

# Any size: the model's, and the images'. Sides that neither patches, windows nor merging divide.
TRANSFORMERS = {
    "plain": (1, dict(img_size=32, window_size=4), (32, 32)),
    "last_stage_not_moved": (1, dict(img_size=64, window_size=4), (29, 61)),
    "any": (1, dict(img_size=32, window_size=3), (37, 50)),
    "odd": (1, dict(img_size=36, window_size=3, qkv_bias=False), (35, 35)),
    "three_stages": (1, dict(img_size=48, window_size=3, **THREE), (45, 59)),
    "larger": (1, dict(img_size=24, window_size=3), (49, 61)),
    "plain_v2": (2, dict(img_size=32, window_size=4), (32, 32)),
    "any_v2": (2, dict(img_size=32, window_size=3), (37, 50)),
    "odd_v2": (2, dict(img_size=36, window_size=3, qkv_bias=False), (35, 35)),
    "three_stages_v2": (2, dict(img_size=48, window_size=3, **THREE), (45, 59)),
    "larger_v2": (2, dict(img_size=24, window_size=4), (49, 61)),
    "smaller_v2": (2, dict(img_size=32, window_size=4), (13, 20)),
    "pretrained_windows_v2": (
        2,
        dict(img_size=32, window_size=4, pretrained_window_sizes=(3, 2)),
        (24, 40),
    ),
}


def build(version, **options):
    options = {**oracle.TINY, **options}
    return vit_jax.create_model(NAMES[version], **options)


def compare(theirs, layers, logits_of, ours, mapping, size):
    images = np.random.default_rng(1).normal(size=(2, *size, 3))
    weight = np.random.default_rng(2).normal(size=(2, ours.num_classes))
    hidden = []
    for layer in layers:
        layer.register_forward_hook(lambda module, inputs, output: hidden.append(output))
    logits = logits_of(theirs(torch.tensor(images.transpose(0, 3, 1, 2))))
    (logits * torch.tensor(weight)).sum().backward()
    params = mapping(oracle.weights(theirs), ours)

    with jax.enable_x64(True):
        shapes = jax.eval_shape(ours.init, jax.random.key(0), jnp.asarray(images))["params"]
        expected = jax.tree.map(lambda leaf: leaf.shape, shapes)
        assert jax.tree.map(lambda leaf: leaf.shape, params) == expected

        @jax.jit
        def run(params):
            def loss(params):
                output, seen = ours.apply({"params": params}, images, capture=("tokens",))
                return (output * weight).sum(), (output, seen.tokens)

            return jax.value_and_grad(loss, has_aux=True)(params)

        (_, (output, tokens)), grads = jax.device_get(run(jax.tree.map(jnp.asarray, params)))
    assert output.dtype == np.float64
    assert len(tokens) == len(hidden) == sum(ours.depths)
    for i, (block, found) in enumerate(zip(hidden, tokens)):
        block = block[0] if isinstance(block, tuple) else block
        block = block.detach().numpy().reshape(found.shape)
        assert worst_relative(found, block)[0] <= 1e-10, f"block {i}"
    assert worst_relative(output, logits.detach().numpy())[0] <= 1e-10
    expected = mapping(oracle.gradients(theirs), ours)
    pairs = remove_zero_gradients(grads), remove_zero_gradients(expected)
    worst, leaf = worst_relative(*pairs)
    assert worst <= 1e-8, leaf


def remove_zero_gradients(grads):
    """Takes out the biases of keys, after seeing that their gradients vanish.

    They add the same number to every score of a query, which the softmax takes away again.
    """
    for stage in (grads[name] for name in grads if name.startswith("stages")):
        for block in (stage[name] for name in stage if name.startswith("blocks")):
            if "bias" in block["attn"]["qkv"]:
                bias = np.array(block["attn"]["qkv"].pop("bias"))
                assert np.abs(bias[1]).max() <= 1e-12 * np.abs(bias).max()
                block["attn"]["qkv"]["bias"] = np.delete(bias, 1, axis=0)
    return grads


@pytest.mark.parametrize("case", TIMM)
def test_logits_blocks_and_gradients_equal_timm(case):
    version, options = TIMM[case]
    ours = build(version, **options)
    theirs = oracle.timm_model(NAMES[version], **options)
    layers = [block for stage in theirs.layers for block in stage.blocks]
    size = vit_jax.models.vit.pair(ours.img_size)
    compare(theirs, layers, lambda output: output, ours, oracle.from_timm, size)


@pytest.mark.parametrize("case", TRANSFORMERS)
def test_logits_blocks_and_gradients_equal_transformers_at_any_size(case):
    version, options, size = TRANSFORMERS[case]
    ours = build(version, **options)
    theirs = oracle.transformers_model(version, **options)
    body = theirs.swin if version == 1 else theirs.swinv2
    layers = [block for stage in body.encoder.layers for block in stage.blocks]
    compare(theirs, layers, lambda output: output.logits, ours, oracle.from_transformers, size)


@pytest.mark.parametrize("version", [1, 2])
def test_float32_agrees_to_two_in_a_hundred_thousand(version):
    options = dict(img_size=32, window_size=4)
    theirs = oracle.timm_model(NAMES[version], **options)
    ours = build(version, **options)
    params = oracle.from_timm(oracle.weights(theirs), ours)
    params = jax.tree.map(lambda leaf: leaf.astype(np.float32), params)
    images = np.random.default_rng(1).normal(size=(2, 32, 32, 3)).astype(np.float32)
    output = jax.device_get(ours.apply({"params": params}, images))
    logits = theirs.float()(torch.tensor(images.transpose(0, 3, 1, 2))).detach().numpy()
    assert output.dtype == np.float32
    assert worst_relative(output, logits)[0] <= 2e-5


ALL = vit_jax.list_models("swin*")


def test_every_name_of_timm_is_there():
    theirs = oracle.timm.list_models(["swin_*", "swinv2_*"], exclude_filters=["swinv2_cr_*"])
    assert sorted(theirs) == ALL


@pytest.mark.parametrize("name", ALL)
def test_hyper_parameters_counts_and_preprocessing_equal_timm(name):
    with torch.device("meta"):
        theirs = oracle.create_model(name)
    ours = vit_jax.create_model(name)
    images = jax.ShapeDtypeStruct((1, ours.img_size, ours.img_size, 3), jnp.float32)
    shapes = jax.eval_shape(ours.init, jax.random.key(0), images)["params"]
    sizes = {k: sum(leaf.size for leaf in jax.tree.leaves(v)) for k, v in shapes.items()}
    assert sum(sizes.values()) == sum(p.numel() for p in theirs.parameters())
    for i, stage in enumerate(theirs.layers):
        assert sizes[f"stages_{i}"] == sum(p.numel() for p in stage.parameters())
        assert {block.window_size for block in stage.blocks} == {ours.windows()[i]}
        moved = [(0, 0), ours.shifts()[i]]
        assert [block.shift_size for block in stage.blocks] == moved * (ours.depths[i] // 2)
        assert {block.attn.num_heads for block in stage.blocks} == {ours.num_heads[i]}
        if ours.version == 2:
            trained = {
                tuple(block.attn.pretrained_window_size)
                if block.attn.pretrained_window_size[0]
                else tuple(block.attn.window_size)
                for block in stage.blocks
            }
            assert trained == {ours.trained_windows()[i]}
    assert {m.eps for m in theirs.modules() if hasattr(m, "eps")} == {ours.norm_eps}
    assert theirs.patch_embed.img_size == vit_jax.models.vit.pair(ours.img_size)
    expected = oracle.timm.get_pretrained_cfg(name)
    assert vit_jax.preprocessing(name) == vit_jax.models.Preprocessing(
        expected.mean,
        expected.std,
        expected.interpolation,
        expected.crop_pct,
        expected.crop_mode,
    )
