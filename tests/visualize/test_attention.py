"""Attention on the grid: nothing of it is lost, and it is where the patch is."""

import numpy as np
import pytest

from tests.visualize.tiny import GRID, STRIDE, cells, one_bright_patch, vit
from vit_jax.errors import UserError
from vit_jax.visualize import (
    attention_figure,
    attention_map,
    intermediates,
    on_grid,
    plain_encoder,
    pooling_weights,
    queries,
    rollout,
    rollout_figure,
)

WHERE = (2, 1)


def captured(model, image, *names):
    return intermediates(model.module, model.params, image, names)


def image():
    return np.random.default_rng(1).normal(size=(1, 12, 10, 3)).astype(np.float32)


@pytest.mark.parametrize(
    "options",
    [
        dict(),
        dict(dist_token=True, reg_tokens=2),
        dict(class_token=False, global_pool="avg"),
        dict(class_token=False, global_pool="avg", reg_tokens=1),
    ],
)
def test_patches_and_tokens_in_front_share_all_attention(options):
    model = vit(**options)
    module = model.module
    weights = captured(model, image(), "attention").attention
    prefix, class_token = module.num_prefix_tokens, module.class_token
    found = attention_map(weights, GRID, prefix, class_token)
    assert found.patches.shape == (2, 1, 2, *GRID)  # layers, images, heads
    assert found.prefix.shape == (2, 1, 2, prefix)
    total = found.patches.sum(axis=(-2, -1)) + found.prefix.sum(axis=-1)
    np.testing.assert_allclose(total, 1, atol=1e-5)
    # The last patch is in the last row and column; a class token asks for itself first.
    asked = weights[..., 0, :] if class_token else weights[..., prefix:, :].mean(axis=-2)
    np.testing.assert_array_equal(found.patches[..., -1, -1], asked[..., -1])
    np.testing.assert_array_equal(found.patches[..., 1, 0], asked[..., prefix + GRID[1]])
    mean = found.mean()
    assert mean.patches.shape == (2, 1, *GRID)
    np.testing.assert_allclose(mean.patches, found.patches.mean(axis=2))


@pytest.mark.parametrize("include", [False, True])
def test_pooling_attends_as_the_pooling_does(include):
    """Its values, mixed by these weights, are what the model's pooling makes of the features."""
    model = vit(
        class_token=False,
        reg_tokens=2,
        global_pool="map",
        pool_include_prefix=include,
        num_classes=0,
    )
    features = captured(model, image(), "features").features
    weights = pooling_weights(model.module, model.params, features)
    pooled = features if include else features[:, 2:]
    assert weights.shape == (1, 2, pooled.shape[1])
    np.testing.assert_allclose(weights.sum(axis=-1), 1, atol=1e-6)
    part = model.params["attn_pool"]
    q = np.einsum("d,dhe->he", part["latent"][0, 0], part["q"]["kernel"]) + part["q"]["bias"]
    keys = np.einsum("bnd,dhe->bnhe", pooled, part["kv"]["kernel"][:, 0]) + part["kv"]["bias"][0]
    scores = np.einsum("he,bnhe->bhn", q, keys) / np.sqrt(8)
    expected = np.exp(scores - scores.max(axis=-1, keepdims=True))
    np.testing.assert_allclose(weights, expected / expected.sum(-1, keepdims=True), rtol=1e-4)


@pytest.mark.parametrize("options", [{}, dict(class_token=False, global_pool="avg", reg_tokens=1)])
def test_one_bright_patch_is_seen_where_it_is(options):
    """Without positions, all dark patches are one and the same token: only one place differs."""
    model = vit(pos_embed="none", **options)
    module = model.module
    weights = captured(model, one_bright_patch(*WHERE), "attention").attention[:, 0]
    prefix, class_token = module.num_prefix_tokens, module.class_token
    maps = attention_map(weights[-1], GRID, prefix, class_token).patches
    mixed = on_grid(queries(rollout(weights), prefix, class_token), GRID, prefix).patches
    for found in (*maps, mixed):
        apart = np.abs(found - np.median(found)) > 1e-5
        assert np.argwhere(apart).tolist() == [list(WHERE)]


def test_figures_show_it_there():
    """Rendered, the brightest cell of the map is the bright patch of the picture beside it."""
    pixels = (127.5 * (one_bright_patch(*WHERE)[0] + 1)).astype(np.uint8)
    heads = np.full((2, *GRID), 0.01)
    heads[1, 0, 4] = 0.5
    heads[(0, *WHERE)] = 0.8
    found = on_grid(np.concatenate([np.full((2, 1), 0.05), heads.reshape(2, -1)], axis=1), GRID, 1)
    figure = attention_figure(pixels, found, STRIDE, "title")
    seen = [cells(figure, axes, GRID) for axes in figure.axes[:4]]  # picture, mean, both heads
    # What is much is yellow or red; the picture below is grey.
    high = [seen[0].sum(axis=-1), *(x[..., 0] - x[..., 2] for x in seen[1:])]
    bright = [np.unravel_index(x.argmax(), GRID) for x in high]
    assert bright == [WHERE, WHERE, WHERE, (0, 4)]
    titles = [axes.get_title() for axes in figure.axes[:4]]
    assert titles[:2] == ["picture", "mean of heads\n5.0 % not on patches"]
    (only,) = (f.axes[2].get_title() for f in [attention_figure(pixels, found, STRIDE, "", [1])])
    assert only.startswith("head 1")

    figure = rollout_figure(pixels, found[0], STRIDE, "title")
    seen = cells(figure, figure.axes[1], GRID)
    assert np.unravel_index((seen[..., 0] - seen[..., 2]).argmax(), GRID) == WHERE


def test_panels_of_a_figure_share_one_scale():
    heads = np.zeros((2, *GRID))
    heads[0, 0, 0], heads[1, 1, 1] = 0.2, 0.6
    black = np.zeros((12, 10, 3), np.uint8)
    figure = attention_figure(black, on_grid(heads.reshape(2, -1), GRID), STRIDE, "")
    limits = {axes.images[-1].get_clim() for axes in figure.axes[1:4]}
    assert limits == {(0, 0.6)}


def test_errors():
    with pytest.raises(UserError, match="over 16 tokens; expected 0 in front and 3 x 5 patches"):
        on_grid(np.zeros(16), GRID)
    with pytest.raises(UserError, match="it is no transformer"):
        from vit_jax import create_model

        plain_encoder(create_model("resnetv2_50x1_bit"), "attention")
