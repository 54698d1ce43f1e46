"""Properties of the masked autoencoder that need no other implementation."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

import vit_jax
from tests.applied import apply
from tests.models.test_vit import matmul_flops
from vit_jax import models
from vit_jax.errors import UserError
from vit_jax.models import VisionTransformer, logical_axes, stack_blocks
from vit_jax.models.layers.patch import patchify, unpatchify
from vit_jax.models.layers.position import sincos_table
from vit_jax.models.mae import num_kept, random_masking

TINY = dict(img_size=(16, 8), patch_size=4, embed_dim=16, depth=2, num_heads=2)
DECODER = dict(decoder_embed_dim=8, decoder_depth=3, decoder_num_heads=2)
# What is compiled here runs once: unoptimised, it is ready in a third of the time.


def build(**options):
    return vit_jax.create_model("mae_vit_base_patch16", **{**TINY, **DECODER, **options})


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(2, 16, 8, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def noise():
    return np.random.default_rng(1).random((2, 8)).astype(np.float32)


@pytest.fixture(scope="module")
def params(images):
    """Parameters of `build()` with nothing left at zero or one."""
    rng = np.random.default_rng(2)
    shapes = jax.eval_shape(build().init, jax.random.key(0), images)["params"]
    return jax.tree.map(lambda s: rng.normal(0.1, 0.3, s.shape).astype(s.dtype), shapes)


def forward(module, params, images, noise, **options):
    return apply(module, params, images, noise=noise, **options)


run = jax.jit(forward, static_argnums=0)


# The mask.


def test_the_smallest_noise_is_kept(noise):
    kept, mask, ids_restore = random_masking(noise, 0.6)
    assert kept.shape == (2, num_kept(8, 0.6)) == (2, 3)
    for row in range(2):
        order = np.argsort(noise[row])
        np.testing.assert_array_equal(kept[row], order[:3])
        np.testing.assert_array_equal(np.flatnonzero(mask[row] == 0), np.sort(order[:3]))
        np.testing.assert_array_equal(order[ids_restore[row]], np.arange(8))
    assert set(np.unique(mask)) == {0, 1}


def test_every_patch_is_masked_as_often_as_any_other():
    """Of 4,000 masks of 3 in 4 patches, within five standard deviations of the binomial."""
    draws = 4000
    _, mask, _ = random_masking(jax.random.uniform(jax.random.key(0), (draws, 16)), 0.75)
    np.testing.assert_array_equal(mask.sum(axis=1), 12)
    deviation = (0.75 * 0.25 / draws) ** 0.5
    assert np.abs(mask.mean(axis=0) - 0.75).max() < 5 * deviation


def test_a_mask_is_a_function_of_its_key(images, params):
    module = build()

    @jax.jit
    def masks(key):
        return module.apply({"params": params}, images, rngs={"mask": key}).mask

    one, other = jax.random.split(jax.random.key(0))
    np.testing.assert_array_equal(masks(one), masks(one))
    assert (masks(one) != masks(other)).any()
    with pytest.raises(UserError, match=r'give noise of shape \(2, 8\), or rngs=\{"mask": key\}'):
        module.apply({"params": params}, images)


@pytest.mark.parametrize("shape", [(2, 9), (1, 8), (8,)])
def test_noise_of_another_shape_is_refused(images, params, shape):
    with pytest.raises(UserError, match=r"expected \(images, patches\) = \(2, 8\)"):
        build().apply({"params": params}, images, noise=jnp.zeros(shape))


@pytest.mark.parametrize("ratio", [0, 1, -0.5, 1.5, float("nan"), "most", None, True])
def test_ratios_out_of_range_are_refused(ratio):
    with pytest.raises(UserError, match=r"mask_ratio is .*expected a number, 0 < x < 1"):
        build(mask_ratio=ratio)


@pytest.mark.parametrize("ratio, kept", [(0.95, 0), (1e-17, 8)])
def test_something_has_to_be_seen_and_something_to_be_painted(ratio, kept):
    message = f"keeps {kept} of 8 patches: .*Choose a ratio between 0.125 and 0.875"
    with pytest.raises(UserError, match=message):
        build(mask_ratio=ratio)


# The encoder and the decoder.


def test_what_is_returned(images, params, noise):
    output = run(build(), params, images, noise)
    assert output.prediction.shape == (2, 8, 4 * 4 * 3)
    assert output.mask.shape == output.ids_restore.shape == (2, 8)
    assert output.latent.shape == (2, 1 + 2, 16)
    wide = build(dtype="bfloat16")
    low = jax.eval_shape(functools.partial(forward, wide), params, images, noise)
    assert (low.latent.dtype, low.prediction.dtype) == (jnp.bfloat16, jnp.float32)


def test_masked_patches_are_not_seen(images, params, noise):
    """Nothing changes if their pixels do; and something does if a pixel that is kept does."""
    output = run(build(), params, images, noise)
    hidden = np.asarray(output.mask)[:, :, None] > 0
    patches = patchify(images, (4, 4))
    others = unpatchify(jnp.where(hidden, -7.0, patches), (4, 2), (4, 4))
    again = run(build(), params, others, noise)
    np.testing.assert_array_equal(again.prediction, output.prediction)
    seen = unpatchify(jnp.where(hidden, patches, patches + 1), (4, 2), (4, 4))
    changed = run(build(), params, seen, noise)
    assert np.abs(changed.prediction - output.prediction).min(axis=(1, 2)).max() > 0


def test_the_encoder_is_a_vision_transformer(images, params, noise):
    """Its parameters are those of one, under the same names; and so is what it computes.

    The one masks nothing: it is given pictures of the kept patches alone, and their positions.
    """
    module = build()
    alone = module.encoder_alone()
    assert type(alone) is VisionTransformer
    own = {name: value for name, value in params.items() if name != "decoder"}
    shapes = jax.eval_shape(alone.init, jax.random.key(0), images)["params"]
    assert jax.tree.structure(shapes) == jax.tree.structure(own)
    kept, _, _ = random_masking(noise, 0.75)
    rows = jnp.take_along_axis(patchify(images, (4, 4)), kept[:, :, None], axis=1)
    small = alone.clone(img_size=(8, 4))  # two patches
    output = run(module, params, images, noise)
    for i in range(2):
        table = params["pos_embed"]["table"]
        positions = np.concatenate([table[:, :1], table[:, 1:][:, kept[i]]], axis=1)
        picture = unpatchify(rows[i : i + 1], (2, 1), (4, 4))
        features = small.apply({"params": {**own, "pos_embed": {"table": positions}}}, picture)
        np.testing.assert_allclose(features[0], output.latent[i], rtol=1e-5, atol=1e-5)


def test_the_encoder_computes_on_the_kept_patches_alone(images):
    """Matrix products in the compiled function are those that `flops` counts."""
    for options in ({}, dict(mask_ratio=0.5), dict(reg_tokens=2), dict(class_token=False)):
        module = build(**options)
        shapes = jax.eval_shape(module.init, jax.random.key(0), images[:1])["params"]
        one = jax.ShapeDtypeStruct((1, 8), jnp.float32)
        program = jax.make_jaxpr(functools.partial(forward, module))(shapes, images[:1], one)
        assert matmul_flops(program.jaxpr) == module.flops(), options


def test_blocks_scanned_and_rematerialised_give_the_same(images, params, noise):
    expected = run(build(), params, images, noise)
    scanned = run(build(scan=True, remat="full"), stack_blocks(params), images, noise)
    for a, b in zip(jax.tree.leaves(expected), jax.tree.leaves(scanned)):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_what_is_captured_hangs_together(images, params, noise):
    module, names = build(), ("embedding", "tokens", "attention", "features", "decoder_tokens")
    output, seen = jax.jit(functools.partial(forward, module, capture=names))(params, images, noise)
    assert seen.embedding.shape == (2, 3, 16)
    assert seen.tokens.shape == (2, 2, 3, 16)
    assert seen.attention.shape == (2, 2, 2, 3, 3)
    assert seen.decoder_tokens.shape == (3, 2, 9, 8)
    np.testing.assert_array_equal(seen.features, output.latent)
    with pytest.raises(UserError, match=r"expected a tuple of names .*decoder_tokens"):
        module.apply({"params": params}, images, noise=noise, capture=("maps",))


def test_positions_are_fixed(images, noise):
    """They begin as the sin-cos table, the class token's row is zero, and no gradient comes."""
    module = build()
    params = jax.jit(module.init)(jax.random.key(0), images)["params"]
    for table, dim in ((params["pos_embed"], 16), (params["decoder"]["pos_embed"], 8)):
        expected = sincos_table("sincos_2d", (4, 2), dim).astype(np.float32)
        np.testing.assert_array_equal(table["table"][0, 1:], expected)
        np.testing.assert_array_equal(table["table"][0, 0], 0)

    def loss(params):
        return jnp.square(forward(module, params, images, noise).prediction).sum()

    gradients = traverse_util.flatten_dict(jax.jit(jax.grad(loss))(params), sep="/")
    still = {name for name, gradient in gradients.items() if not np.any(gradient)}
    assert still == {"pos_embed/table", "decoder/pos_embed/table"}


def test_another_size_of_image(images, params):
    """Positions are resampled, in the decoder too."""
    module = build(dynamic_img_size=True)
    larger = np.random.default_rng(3).normal(size=(1, 16, 24, 3)).astype(np.float32)
    noise = np.random.default_rng(4).random((1, 24)).astype(np.float32)
    output = jax.eval_shape(functools.partial(forward, module), params, larger, noise)
    assert output.prediction.shape == (1, 24, 48)
    with pytest.raises(UserError, match="built for images"):
        build().apply({"params": params}, larger, noise=noise)


def test_every_axis_has_the_names_of_the_plain_family(images):
    axes = logical_axes(build(), images)["params"]
    blocks, decoder = axes["encoder"]["blocks_0"], axes["decoder"]["blocks_0"]
    assert blocks == decoder
    assert axes["decoder"]["pred"]["kernel"] == ("embed", None)


# The names.


@pytest.mark.parametrize(
    "name, total",
    # Of the authors' code and of Transformers' ViTMAEForPreTraining, fixed positions included.
    [
        ("mae_vit_base_patch16", 111_907_840),
        ("mae_vit_large_patch16", 329_541_888),
        ("mae_vit_huge_patch14", 657_074_508),
    ],
)
def test_parameters_of_the_sizes(name, total):
    module = vit_jax.create_model(name, scan=True)
    shapes = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(shapes)) == total


def test_a_quarter_of_the_tokens_costs_less():
    """Of B/16: encoder on 50 of 197 tokens and decoder, over the encoder and the decoder on all."""
    module = vit_jax.create_model("mae_vit_base_patch16")
    most = module.clone(mask_ratio=1 / 196)
    assert module.flops() < 0.5 * most.flops()


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(num_classes=10), "num_classes is 10; expected one of 0"),
        (dict(global_pool="token"), "global_pool is 'token'; expected one of 'none'"),
        (dict(resnet_layers=(2,)), "resnet_layers"),
        (dict(patch_drop_rate=0.5), "patch_drop_rate"),
        (dict(decoder_embed_dim=10), "decoder_embed_dim=10 must be divisible by"),
        (dict(decoder_depth=0), "decoder_depth is 0; expected a whole number, 1 or more"),
    ],
)
def test_choices_without_a_meaning_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        build(**options)


def test_patches_are_cut_and_put_together(images):
    patches = patchify(images, (4, 2))
    assert patches.shape == (2, 16, 24)
    # The second patch of the second row: rows 4 to 7, columns 2 and 3.
    np.testing.assert_array_equal(patches[0, 5], images[0, 4:8, 2:4].ravel())
    np.testing.assert_array_equal(unpatchify(patches, (4, 4), (4, 2)), images)


def test_names_are_listed():
    assert models.list_models("mae_*") == [
        "mae_vit_base_patch16",
        "mae_vit_huge_patch14",
        "mae_vit_large_patch16",
        "mae_vit_tiny_patch16",
    ]
