"""Attention distances that are known on paper."""

import itertools
import math

import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.visualize import attention_distance, distance_figure, prefix_share

GRID, STRIDE = (3, 5), (4, 2)
N = 15


def with_prefix(weights, share, count=2):
    """The same attention among patches, with a share of it given to tokens in front."""
    full = np.zeros((count + N, count + N))
    full[:count] = 1 / (count + N)
    full[count:, :count] = share / count
    full[count:, count:] = (1 - share) * weights
    return full


def test_uniform_attention_looks_as_far_as_two_patches_are_apart_on_average():
    places = list(itertools.product(range(3), range(5)))
    total = sum(math.hypot(4 * (a - c), 2 * (b - d)) for a, b in places for c, d in places)
    uniform = np.full((6, 2, N, N), 1 / N)
    found = attention_distance(uniform, GRID, STRIDE)
    assert found.shape == (6, 2)
    np.testing.assert_allclose(found, total / N**2, rtol=1e-12)
    # One row of n patches: a third of (n - 1/n) patches (the mean of |i - j|).
    row = attention_distance(np.full((7, 7), 1 / 7), (1, 7), (16, 8))
    np.testing.assert_allclose(row, 8 * (7 - 1 / 7) / 3, rtol=1e-12)
    column = attention_distance(np.full((7, 7), 1 / 7), (7, 1), (16, 8))
    np.testing.assert_allclose(column, 2 * row, rtol=1e-12)


def test_attention_to_oneself_looks_nowhere():
    assert attention_distance(np.eye(N), GRID, STRIDE) == 0


def test_attention_to_the_patch_below_is_one_patch_high():
    weights = np.roll(np.eye(N), 5, axis=1)  # the last row of patches looks at the first
    np.testing.assert_allclose(attention_distance(weights, GRID, STRIDE), (4 + 4 + 8) / 3)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_what_goes_to_tokens_in_front_is_left_out_and_told(share):
    weights = np.random.default_rng(0).uniform(size=(N, N))
    weights /= weights.sum(axis=1, keepdims=True)
    full = with_prefix(weights, share)
    alone = attention_distance(weights, GRID, STRIDE)
    np.testing.assert_allclose(attention_distance(full, GRID, STRIDE, 2), alone, rtol=1e-12)
    np.testing.assert_allclose(prefix_share(full, 2), share, atol=1e-15)


def test_patches_that_look_at_no_patch_have_no_distance():
    full = np.stack([with_prefix(np.eye(N), 1.0), with_prefix(np.eye(N), 0.5)])
    np.testing.assert_array_equal(attention_distance(full, GRID, STRIDE, 2), [np.nan, 0])


def test_another_number_of_tokens():
    with pytest.raises(UserError, match="expected 1 in front and 3 x 5 patches"):
        attention_distance(np.eye(N), GRID, STRIDE, 1)


def test_figure_has_a_point_for_each_head_of_each_layer():
    distances = np.arange(6.0).reshape(3, 2)
    figure = distance_figure(distances, distances / 10, 15.6, "title")
    for axes, scale in zip(figure.axes, (1, 10)):
        points = axes.collections[0].get_offsets()
        assert points.tolist() == [[i // 2, scale * i] for i in range(6)]
    assert figure.axes[0].get_ylim()[1] == 15.6
    assert len(distance_figure(distances, None, 15.6, "title").axes) == 1
