"""Filters of the patch embedding."""

import jax
import numpy as np
import pytest
from sklearn.decomposition import PCA

from tests.visualize.tiny import cells, drawn, vit
from vit_jax.errors import UserError
from vit_jax.visualize import filters_figure, patch_filters, principal_filters
from vit_jax.visualize.filters import to_colors


def test_a_filter_is_what_the_embedding_answers_to_single_pixels():
    """Rows, columns and channels in the order of a picture's."""
    model = vit(pos_embed="none", class_token=False, global_pool="avg")
    found = patch_filters(model.module, model.params)
    assert found.shape == (16, 4, 2, 3)

    def embed(image):
        bound = model.module.bind({"params": model.params})
        return bound.embed(image[None])[0][0, 0]  # the first patch

    image = np.zeros((12, 10, 3), np.float32)
    dark = embed(image)
    for place in ((0, 0, 0), (3, 1, 0), (1, 0, 2), (2, 1, 1)):
        image[:] = 0
        image[place] = 1
        np.testing.assert_allclose(embed(image) - dark, found[(slice(None), *place)], atol=1e-5)


def test_principal_filters_are_components_of_the_filters():
    filters = np.random.default_rng(0).normal(size=(40, 4, 2, 3))
    found = principal_filters(filters, 5)
    assert found.shape == (5, 4, 2, 3)
    theirs = PCA(5, svd_solver="full").fit(filters.reshape(40, -1)).components_
    products = found.reshape(5, -1) @ theirs.T
    np.testing.assert_allclose(np.abs(products), np.eye(5), atol=1e-9)
    assert len(principal_filters(filters)) == 4 * 2 * 3  # no more than numbers in a filter
    assert len(principal_filters(filters[:10])) == 10  # or than filters


def test_colours_have_one_scale_and_grey_is_zero():
    filters = np.zeros((2, 1, 2, 3))
    filters[0, 0, 0] = (2, 0, -2)
    filters[1, 0, 1] = (0, 1, 0)
    expected = np.full((2, 1, 2, 3), 0.5)
    expected[0, 0, 0] = (1, 0.5, 0)
    expected[1, 0, 1] = (0.5, 0.75, 0.5)
    np.testing.assert_array_equal(to_colors(filters), expected)
    np.testing.assert_array_equal(to_colors(np.zeros((1, 2, 2, 1))), 0.5)


def test_figure_shows_red_as_red_and_filters_in_order():
    filters = np.zeros((3, 4, 2, 3))
    filters[0, 3, 0, 0] = filters[1, 0, 1, 1] = filters[2, 1, 0, 2] = 1
    figure = filters_figure(filters, "title", columns=2)
    seen = np.stack([cells(figure, axes, (4, 2)) for axes in figure.axes[:3]])
    np.testing.assert_allclose(seen, to_colors(filters), atol=0.01)
    assert figure.axes[2].get_position().y1 < figure.axes[0].get_position().y0


def test_what_has_no_pictures():
    hybrid = drawn("vit_tiny_r_s16_p8_224", img_size=32, patch_size=1, depth=1)
    with pytest.raises(UserError, match="features of a ResNet"):
        patch_filters(hybrid.module, hybrid.params)
    many = vit(in_chans=5)
    with pytest.raises(UserError, match="filters of 5 channels have no colours"):
        patch_filters(many.module, jax.tree.map(np.asarray, many.params))
