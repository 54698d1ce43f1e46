"""Resampling equals PyTorch's and timm's, and FlexiViT's property holds."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

import vit_jax
from tests.models import timm_oracle as oracle
from vit_jax.models import resample_patch_embed, resample_pos_embed
from vit_jax.models.layers.resample import METHODS, resample_grid, resize_matrix


def torch_options(method, old, new):
    """The arguments of `torch.nn.functional.interpolate` that a method stands for."""
    return {
        "bicubic_antialias": dict(mode="bicubic", size=new, antialias=True),
        "bicubic": dict(mode="bicubic", size=new),
        "bicubic_offset": dict(
            mode="bicubic", scale_factor=tuple((n + 0.1) / o for o, n in zip(old, new))
        ),
        "bilinear_antialias": dict(mode="bilinear", size=new, antialias=True),
    }[method]


def torch_resize(table, method, new):
    """`(h, w, d)` to `(*new, d)`, in PyTorch."""
    options = torch_options(method, table.shape[:2], new)
    image = torch.nn.functional.interpolate(table.permute(2, 0, 1)[None], **options)
    return image[0].permute(1, 2, 0)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "old, new",
    [
        ((14, 14), (24, 24)),
        ((14, 14), (24, 17)),
        ((37, 37), (16, 16)),
        ((37, 37), (37, 40)),  # one side stays: with an offset it is resampled all the same
        ((37, 37), (16, 60)),  # one side shrinks, the other grows
        ((5, 9), (10, 19)),
        ((2, 3), (1, 1)),
        ((1, 2), (9, 4)),
    ],
)
def test_values_and_gradients_equal_pytorch_in_float64(method, old, new):
    rng = np.random.default_rng(0)
    table, weight = rng.normal(size=(*old, 5)), rng.normal(size=(*new, 5))
    theirs = torch.tensor(table, requires_grad=True)
    expected = torch_resize(theirs, method, new)
    (expected * torch.tensor(weight)).sum().backward()
    with jax.enable_x64(True):
        ours, pull = jax.vjp(lambda t: resample_grid(t, new, method), jnp.asarray(table))
        (gradient,) = pull(jnp.asarray(weight))
    assert oracle.worst_relative(np.asarray(ours), expected.detach().numpy())[0] <= 1e-12
    assert oracle.worst_relative(np.asarray(gradient), theirs.grad.numpy())[0] <= 1e-12


def test_every_method_is_another():
    """On the grids of DINOv2 (518 and 224 pixels): what a mistaken method would cost."""
    matrices = [resize_matrix(37, 16, method) for method in METHODS]
    for i, one in enumerate(matrices):
        for other in matrices[:i]:
            assert np.abs(one - other).max() > 0.01


@pytest.mark.parametrize("method", METHODS)
def test_a_constant_stays_and_a_table_of_that_size_is_the_same_array(method):
    np.testing.assert_allclose(resize_matrix(9, 5, method).sum(1), 1, rtol=1e-14)
    table = jnp.ones((3, 4, 2))
    assert resample_grid(table, (3, 4), method) is table


def test_float32_is_exact_to_its_rounding():
    """PyTorch itself places samples in float32 and is off by ten times as much."""
    table = np.random.default_rng(0).normal(size=(14, 14, 12)).astype(np.float32)
    for new in ((24, 24), (7, 7), (10, 19)):
        expected = torch_resize(torch.tensor(table).double(), "bicubic_antialias", new).numpy()
        ours = np.asarray(resample_grid(jnp.asarray(table), new))
        assert oracle.worst_relative(ours, expected)[0] < 4 * 2**-24


@pytest.mark.parametrize("new", [(7, 7), (24, 24), (10, 19), (14, 14)])
@pytest.mark.parametrize("prefix", [0, 1, 5])
def test_positions_equal_timm(new, prefix):
    from timm.layers import resample_abs_pos_embed

    table = np.random.default_rng(0).normal(size=(1, prefix + 196, 12)).astype(np.float32)
    expected = resample_abs_pos_embed(
        torch.tensor(table), list(new), [14, 14], num_prefix_tokens=prefix
    ).numpy()
    ours = np.asarray(resample_pos_embed(jnp.asarray(table), (14, 14), new, prefix))
    np.testing.assert_array_equal(ours[:, :prefix], table[:, :prefix])
    # timm computes in float32, where PyTorch's samples are off by up to 14 * 2^-24 of a pixel on
    # each axis (1.2e-6 of the largest value, measured against float64).
    assert oracle.worst_relative(ours, expected)[0] < 2e-6


def meta_positions(table, height, width, patch=14):
    """`interpolate_pos_encoding` of DINOv2's code for its models without registers.

    Restated from dinov2/models/vision_transformer.py (Oquab et al. 2023): interpolate_offset=0.1,
    interpolate_antialias=False. `table` is `(1, 1 + side^2, d)`.
    """
    side, h, w = math.isqrt(table.shape[1] - 1), height // patch, width // patch
    if h * w == side * side and height == width:
        return table
    patches = torch.nn.functional.interpolate(
        table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2),
        mode="bicubic",
        scale_factor=(float(h + 0.1) / side, float(w + 0.1) / side),
    )
    assert patches.shape[-2:] == (h, w)
    patches = patches.permute(0, 2, 3, 1).reshape(1, h * w, -1)
    return torch.cat([table[:, :1], patches], dim=1)


@pytest.mark.parametrize("size", [(42, 42), (42, 70), (84, 56), (70, 70)])
def test_dinov2_without_registers_equals_its_authors_code(size):
    """A model for 70 pixels on other sizes: features, and the gradient of the table."""
    name = "vit_small_patch14_dinov2"
    small = dict(embed_dim=32, depth=2, num_heads=4, global_pool="avg", num_classes=0)
    theirs = oracle.randomize(oracle.create_model(name, **small, img_size=size))
    ours = vit_jax.create_model(
        name, **small, img_size=70, pos_resample="bicubic_offset", dynamic_img_size=True
    )
    rng = np.random.default_rng(1)
    table = torch.tensor(rng.normal(size=(1, 26, 32)), requires_grad=True)
    images, weight = rng.normal(size=(2, *size, 3)), rng.normal(size=(2, 32))
    positions = {"pos_embed": meta_positions(table, *size)}
    inputs = torch.tensor(images.transpose(0, 3, 1, 2))
    features = torch.func.functional_call(theirs, positions, (inputs,))
    (features * torch.tensor(weight)).sum().backward()

    params = oracle.to_flax(oracle.weights(theirs), heads=4, depth=2)

    def loss(table):
        moved = {**params, "pos_embed": {"table": table}}
        output = ours.apply({"params": moved}, images)
        return (output * weight).sum(), output

    with jax.enable_x64(True):
        start = jnp.asarray(table.detach().numpy())
        (_, output), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(start)
    assert oracle.worst_relative(np.asarray(output), features.detach().numpy())[0] <= 1e-10
    assert oracle.worst_relative(np.asarray(gradient), table.grad.numpy())[0] <= 1e-8


def test_unknown_methods_and_empty_grids_are_refused():
    with pytest.raises(ValueError, match=r"'bicubik' is unknown; choose one of .*'bicubic_offset'"):
        resample_grid(jnp.zeros((2, 2, 1)), (3, 3), "bicubik")
    with pytest.raises(ValueError, match="cannot resample 2 samples to 0"):
        resample_grid(jnp.zeros((2, 2, 1)), (0, 3))


def test_a_table_of_another_grid_is_refused():
    with pytest.raises(ValueError, match=r"has 197 rows, this one has 196"):
        resample_pos_embed(jnp.zeros((1, 196, 4)), (14, 14), (7, 7), num_prefix_tokens=1)


@pytest.mark.parametrize("new", [(8, 8), (32, 32), (14, 20)])
def test_patch_embedding_equals_timm(new):
    from timm.layers import resample_patch_embed as timm_resample

    kernel = np.random.default_rng(0).normal(size=(16, 16, 3, 10)).astype(np.float32)
    expected = timm_resample(torch.tensor(kernel.transpose(3, 2, 0, 1)), list(new)).numpy()
    ours = np.asarray(resample_patch_embed(jnp.asarray(kernel), new))
    expected = expected.transpose(2, 3, 1, 0)
    # timm inverts in float32; so the difference is its rounding, not ours.
    assert oracle.worst_relative(ours, expected)[0] < 1e-5


def test_tokens_of_enlarged_patches_are_the_original_tokens():
    """FlexiViT, equation 3: exact where the patch grows."""
    rng = np.random.default_rng(0)
    with jax.enable_x64(True):
        kernel, patch = jnp.asarray(rng.normal(size=(8, 8, 1, 5))), rng.normal(size=(8, 8, 1))
        larger = jax.image.resize(jnp.asarray(patch), (16, 12, 1), "bicubic")
        new = resample_patch_embed(kernel, (16, 12))
        before = jnp.einsum("pqc,pqcd->d", patch, kernel)
        after = jnp.einsum("pqc,pqcd->d", larger, new)
        np.testing.assert_allclose(before, after, rtol=1e-10)


def test_dtype_is_kept():
    table = jnp.ones((1, 16, 4), jnp.bfloat16)
    assert resample_pos_embed(table, (4, 4), (8, 8)).dtype == jnp.bfloat16
    assert resample_patch_embed(jnp.ones((4, 4, 3, 2), jnp.bfloat16), (8, 8)).dtype == jnp.bfloat16


@pytest.mark.parametrize("kind, timm_half", [("axial", False), ("dinov3", True)])
def test_rotary_embedding_equals_timm(kind, timm_half):
    from timm.layers.pos_embed_sincos import (
        RotaryEmbeddingCat,
        RotaryEmbeddingDinoV3,
        apply_rot_embed_cat,
    )

    from vit_jax.models.layers.rope import rope_angles, rotate

    grid, head_dim = (3, 5), 32
    if kind == "axial":
        table = RotaryEmbeddingCat(
            head_dim, temperature=10000.0, in_pixels=False, feat_shape=list(grid)
        ).get_embed()
        temperature = 10000.0
    else:
        table = RotaryEmbeddingDinoV3(head_dim, temperature=100.0).get_embed(list(grid))
        temperature = 100.0
    x = np.random.default_rng(0).normal(size=(2, 4, 15, head_dim)).astype(np.float32)
    expected = apply_rot_embed_cat(torch.tensor(x), table, half=timm_half).numpy()
    angles = jnp.asarray(rope_angles(kind, grid, head_dim, temperature))[None]
    ours = rotate(jnp.asarray(x.swapaxes(1, 2)), angles, kind).swapaxes(1, 2)
    # timm holds its frequencies in float32: angles up to 6 radians carry 6e-7 of rounding.
    np.testing.assert_allclose(ours, expected, atol=5e-6)
