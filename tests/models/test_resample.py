"""Resampling equals timm's functions, and FlexiViT's property holds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.models import timm_oracle  # noqa: F401  (makes timm importable)
from vit_jax.models import resample_patch_embed, resample_pos_embed


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
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-6


def test_positions_in_float64_to_rounding():
    table = np.random.default_rng(0).normal(size=(1, 196, 12))
    image = torch.tensor(table).reshape(1, 14, 14, 12).permute(0, 3, 1, 2)
    expected = torch.nn.functional.interpolate(
        image, (24, 17), mode="bicubic", align_corners=False, antialias=True
    )
    with jax.enable_x64(True):
        ours = np.asarray(resample_pos_embed(jnp.asarray(table), (14, 14), (24, 17)))
    expected = expected.permute(0, 2, 3, 1).reshape(1, -1, 12).numpy()
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-12


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
    assert np.abs(ours - expected).max() / np.abs(expected).max() < 1e-5


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
