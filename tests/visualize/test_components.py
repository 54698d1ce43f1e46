"""Principal components against scikit-learn's, and the colours that are made of them."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from tests.visualize.tiny import GRID, STRIDE, cells, one_bright_patch, vit
from vit_jax.errors import UserError
from vit_jax.visualize import (
    FeatureColors,
    feature_colors,
    features_figure,
    intermediates,
    principal_components,
)

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("n, d", [(60, 8), (5, 40)])
def test_equal_scikit_learns_up_to_sign(n, d):
    vectors = RNG.normal(size=(n, d)) @ RNG.normal(size=(d, d)) + RNG.normal(size=d)
    ours, theirs = principal_components(vectors, 3), PCA(3, svd_solver="full").fit(vectors)
    np.testing.assert_allclose(ours.mean, theirs.mean_, atol=1e-12)
    np.testing.assert_allclose(ours.variance, theirs.explained_variance_, rtol=1e-10)
    signs = np.sign((ours.directions * theirs.components_).sum(axis=1))
    np.testing.assert_allclose(ours.directions, signs[:, None] * theirs.components_, atol=1e-9)
    scores = signs * theirs.transform(vectors)
    np.testing.assert_allclose(ours.scores(vectors), scores, atol=1e-9)
    largest = np.abs(ours.directions).argmax(axis=1)
    assert (ours.directions[range(3), largest] > 0).all()


def test_colours_are_the_scores_from_zero_to_one_over_all_pictures():
    features = RNG.normal(size=(2, *GRID, 8))
    colors, shown = feature_colors(features)
    assert shown.all() and colors.shape == (2, *GRID, 3)
    flat = colors.reshape(-1, 3)
    np.testing.assert_allclose(flat.min(axis=0), 0, atol=1e-15)
    np.testing.assert_allclose(flat.max(axis=0), 1, atol=1e-15)
    scores = PCA(3, svd_solver="full").fit_transform(features.reshape(-1, 8))
    correlation = np.corrcoef(np.concatenate([flat, scores], axis=1).T)[:3, 3:]
    np.testing.assert_allclose(np.abs(correlation), np.eye(3), atol=1e-9)


def test_what_does_not_vary_is_in_the_middle():
    features = np.zeros((1, 1, 4, 5))
    features[0, 0, :, 2] = range(4)
    colors, _ = feature_colors(features)
    np.testing.assert_allclose(colors[0, 0, :, 0], np.arange(4) / 3)
    np.testing.assert_array_equal(colors[0, 0, :, 1:], 0.5)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_foreground_is_what_is_less_on_the_border(sign):
    thing = np.zeros((2, 6, 7), bool)
    thing[0, 1:4, 2:5] = thing[1, 2:6, 3:5] = True
    far = np.array([20.0, 0, 0, 0, 0])
    features = sign * np.where(thing[..., None], far, -far) + RNG.normal(size=(2, 6, 7, 5))
    colors, shown = feature_colors(features, foreground=0.0)
    np.testing.assert_array_equal(shown, thing)
    np.testing.assert_array_equal(colors[~thing], 0)
    scores = PCA(3, svd_solver="full").fit_transform(features[thing])  # of the foreground alone
    correlation = np.corrcoef(np.concatenate([colors[thing], scores], axis=1).T)[:3, 3:]
    np.testing.assert_allclose(np.abs(correlation), np.eye(3), atol=1e-9)


def test_one_bright_patch_has_a_colour_of_its_own_where_it_is():
    model = vit(pos_embed="none")
    image = one_bright_patch(2, 1)
    found = intermediates(model.module, model.params, image, ("features",)).features[:, 1:]
    colors, _ = feature_colors(found.reshape(1, *GRID, -1))
    red = colors[0, ..., 0]
    assert np.argwhere(np.abs(red - np.median(red)) > 0.5).tolist() == [[2, 1]]
    pixels = np.full((12, 10, 3), 9, np.uint8)
    figure = features_figure([pixels], [FeatureColors("a", STRIDE, colors)], "title")
    seen = cells(figure, figure.axes[1], GRID)
    apart = np.abs(seen - np.median(seen, axis=(0, 1))).max(axis=-1)
    assert np.unravel_index(apart.argmax(), GRID) == (2, 1)
    np.testing.assert_allclose(seen, colors[0], atol=0.01)


def test_pictures_are_above_their_own_colours():
    """Nine pictures: a second block of rows; what reaches beyond a picture is cut off."""
    values = np.linspace(0.1, 0.9, 9)
    pictures = [np.full((4, 6, 1), round(255 * x), np.uint8) for x in values]
    colors = values[:, None, None, None] * np.ones((9, 2, 2, 3))  # patches of 4 by 4: 8 by 8
    figure = features_figure(pictures, [FeatureColors("a", (4, 4), colors)], "title")
    used = [axes for axes in figure.axes if axes.images]
    assert len(used) == 18
    for i, x in enumerate(values):
        top = i if i < 5 else 10 + i - 5  # five in the first block and four in the second
        for axes in (figure.axes[top], figure.axes[top + 5]):
            np.testing.assert_allclose(cells(figure, axes, (1, 1)), x, atol=0.01)
            assert (axes.get_xlim(), axes.get_ylim()) == ((-0.5, 5.5), (3.5, -0.5))


def test_too_few():
    with pytest.raises(UserError, match=r"3 components of vectors \(2, 9\)"):
        principal_components(np.zeros((2, 9)), 3)
    features = RNG.normal(size=(1, 3, 3, 4))
    with pytest.raises(UserError, match="choose another threshold"):
        feature_colors(features, foreground=100.0)
