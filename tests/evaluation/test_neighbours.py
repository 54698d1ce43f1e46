"""Plain votes against scikit-learn's; the weighted ones are in tests/training/test_knn.py."""

import numpy as np
import pytest
from sklearn.neighbors import KNeighborsClassifier

from vit_jax.evaluation.neighbours import accuracies


def unit(rng, *shape):
    found = rng.normal(size=shape).astype(np.float32)
    return found / np.linalg.norm(found, axis=-1, keepdims=True)


@pytest.fixture
def examples():
    rng = np.random.default_rng(0)
    labels, right = rng.integers(5, size=100), rng.integers(5, size=40)
    return unit(rng, 100, 6), labels, unit(rng, 40, 6), right


def test_plain_votes_are_those_of_scikit_learn(examples):
    """Ties included: with 30 votes of five classes there are some, and the lowest class wins."""
    bank, labels, queries, right = examples
    found = accuracies(*examples, 5, (1, 7, 30), None)
    for k in (1, 7, 30):
        theirs = KNeighborsClassifier(k, metric="cosine").fit(bank, labels)
        assert found[f"knn_{k}"] == theirs.score(queries, right)


def test_a_high_temperature_is_plain_and_a_low_one_the_nearest(examples):
    """But for ties, which a temperature breaks: with three votes of two classes there are none."""
    bank, labels, queries, right = examples
    two = (bank, labels % 2, queries, right % 2)
    assert accuracies(*two, 2, (3,), 1e6) == accuracies(*two, 2, (3,), None)
    nearest = accuracies(*examples, 5, (1,), None)["knn_1"]
    assert accuracies(*examples, 5, (50,), 1e-6)["knn_50"] == nearest


@pytest.mark.parametrize("temperature", [0.07, None])
def test_the_order_of_examples_is_of_no_effect(examples, temperature):
    bank, labels, queries, right = examples
    order, other = (
        np.random.default_rng(1).permutation(100),
        np.random.default_rng(2).permutation(40),
    )
    mixed = (bank[order], labels[order], queries[other], right[other])
    assert accuracies(*mixed, 5, (9,), temperature) == accuracies(*examples, 5, (9,), temperature)
