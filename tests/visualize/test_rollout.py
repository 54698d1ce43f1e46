"""Rollout against sums over paths, written out, and the invariants that it has to have."""

import itertools

import numpy as np
import pytest

from vit_jax.errors import UserError
from vit_jax.visualize import rollout

RNG = np.random.default_rng(0)


def attention(*shape):
    weights = RNG.uniform(size=shape)
    return weights / weights.sum(axis=-1, keepdims=True)


def test_of_identity_attention_is_the_identity():
    weights = np.broadcast_to(np.eye(5), (4, 3, 5, 5))
    np.testing.assert_allclose(rollout(weights), np.eye(5), atol=1e-15)


@pytest.mark.parametrize("options", [{}, dict(fusion="max"), dict(fusion="min", discard=0.5)])
def test_rows_sum_to_one(options):
    found = rollout(attention(3, 2, 4, 6, 6), **options)
    assert found.shape == (2, 6, 6)
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-12)
    assert (found >= 0).all()


def test_is_the_sum_over_all_paths_from_the_last_layer_to_the_first():
    """Each step of a path stays with the residual (one half) or goes where a head looks."""
    weights = attention(3, 2, 4, 4)
    mean = weights.mean(axis=1)
    expected = np.zeros((4, 4))
    for path in itertools.product(range(4), repeat=4):  # tokens after layers 3, 2, 1, and before 1
        share = 1.0
        for layer, (to, start) in zip((2, 1, 0), itertools.pairwise(path)):
            share *= 0.5 * mean[layer, to, start] + 0.5 * (to == start)
        expected[path[0], path[-1]] += share
    np.testing.assert_allclose(rollout(weights), expected, atol=1e-14)


@pytest.mark.parametrize("fusion", ["mean", "max", "min"])
def test_heads_are_fused(fusion):
    weights = attention(1, 3, 4, 4)
    mixing = 0.5 * getattr(weights[0], fusion)(axis=0) + 0.5 * np.eye(4)
    expected = mixing / mixing.sum(axis=1)[:, None]
    np.testing.assert_allclose(rollout(weights, fusion), expected, atol=1e-15)


def test_the_smallest_weights_are_discarded():
    weights = attention(1, 1, 4, 4)
    kept = np.where(weights[0, 0] >= np.sort(weights, axis=None)[12], weights[0, 0], 0)
    mixing = kept + np.eye(4)
    expected = mixing / mixing.sum(axis=1)[:, None]
    np.testing.assert_allclose(rollout(weights, discard=0.75), expected, atol=1e-15)


@pytest.mark.parametrize(
    "shape, options, message",
    [
        ((2, 3, 4, 4), dict(fusion="median"), "fusion is 'median'; expected one of 'mean', 'max'"),
        ((2, 3, 4, 4), dict(discard=1), "discard is 1; expected a number, 0 <= x < 1"),
        ((2, 3, 4, 5), {}, r"weights are \(2, 3, 4, 5\); expected \(depth, ..., heads, n, n\)"),
        ((2, 4, 4), {}, "expected"),
    ],
)
def test_errors(shape, options, message):
    with pytest.raises(UserError, match=message):
        rollout(np.ones(shape), **options)
