"""Few-shot regression against scikit-learn's Ridge; and what the choice of examples promises."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge

from vit_jax.errors import UserError
from vit_jax.evaluation import few_shot
from vit_jax.evaluation.few_shot import Regression, draw


def examples(n, d=12, classes=4, seed=0):
    """Features around a centre for each class, on an awkward scale, one of them constant."""
    rng = np.random.default_rng(seed)
    labels = np.arange(n) % classes
    centres = np.random.default_rng(99).normal(size=(classes, d))
    features = 30 * (centres[labels] + 1.5 * rng.normal(size=(n, d))) + 1000
    features[:, 3] = 7.0
    return features.astype(np.float32), labels


def prepared(fitted, features):
    fitted, features = fitted.astype(np.float64), features.astype(np.float64)
    x = (features - fitted.mean(axis=0)) / (fitted.std(axis=0) + 1e-5)
    return np.hstack([x, np.full((len(x), 1), 100.0)])


@pytest.mark.parametrize("n", [8, 13, 60])  # fewer examples than features, as many, more
@pytest.mark.parametrize("l2", [2.0**-6, 1.0, 2.0**10])
def test_scores_are_those_of_ridge(n, l2):
    features, labels = examples(n)
    queries, _ = examples(25, seed=1)
    targets = 2.0 * np.eye(4)[labels] - 1
    ridge = Ridge(alpha=l2, fit_intercept=False, solver="svd", tol=0)
    ridge.fit(prepared(features, features), targets)
    expected = ridge.predict(prepared(features, queries))
    found = Regression(features, labels, 4).scores(queries, l2)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-8 * np.abs(expected).max())


def test_weights_solve_the_normal_equations():
    """(X'X + l2 I) W = X'Y, on both sides of n = d + 1."""
    for n in (6, 12, 13, 14, 40):
        features, labels = examples(n)
        x, y = prepared(features, features), 2.0 * np.eye(4)[labels] - 1
        w = Regression(features, labels, 4).weights(3.0)
        right = x.T @ y
        np.testing.assert_allclose(
            x.T @ (x @ w) + 3 * w, right, rtol=0, atol=1e-9 * abs(right).max()
        )


def test_shots_are_nested_balanced_and_follow_from_the_seed():
    labels = np.random.default_rng(0).permutation(np.arange(90) % 3)
    few, more = draw(labels, 3, 5, seed=1), draw(labels, 3, 10, seed=1)
    assert set(few) < set(more) and len(set(more)) == 30
    np.testing.assert_array_equal(np.bincount(labels[few]), [5, 5, 5])
    np.testing.assert_array_equal(few, draw(labels, 3, 5, seed=1))
    assert set(few) != set(draw(labels, 3, 5, seed=2))


def test_order_of_tests_and_scale_of_features_are_of_no_effect():
    train, (queries, right) = examples(200), examples(80, seed=1)
    found = few_shot.few_shot(train, (queries, right), 4, 5)
    order = np.random.default_rng(3).permutation(80)
    assert few_shot.few_shot(train, (queries[order], right[order]), 4, 5) == found
    # Powers of two, so that nothing is rounded; 1e-5 beside deviations of 50 decides nothing here.
    scaled = (train[0] * 4, train[1])
    assert few_shot.few_shot(scaled, (queries * 4, right), 4, 5).accuracies == found.accuracies
    assert len(found.accuracies) == 3 and found.mean == np.mean(found.accuracies)
    assert found.deviation == np.std(found.accuracies, ddof=1) > 0


def test_l2_is_chosen_on_validation_examples_alone():
    train, test, held = examples(200), examples(80, seed=1), examples(60, seed=2)
    values = [2.0**x for x in range(-4, 16, 4)]
    found = few_shot.few_shot(train, test, 4, 5, l2=values, validation=held)
    assert found.by_l2[found.l2] == max(found.by_l2.values()) and list(found.by_l2) == values
    wrong = (test[0], (test[1] + 1) % 4)
    again = few_shot.few_shot(train, wrong, 4, 5, l2=values, validation=held)
    assert (again.l2, again.by_l2) == (found.l2, found.by_l2) and again.mean < found.mean
    alone = few_shot.few_shot(train, test, 4, 5, l2=[found.l2])
    assert alone.accuracies == found.accuracies


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(shots=51), "51 shots: expected 1 to 50, the examples of the rarest class"),
        (dict(shots=0), "0 shots"),
        (dict(shots=1, seeds=0), "0 seeds"),
        (dict(shots=1, l2=[0.0]), "l2 is"),
        (dict(shots=1, l2=[1.0, 2.0]), "no validation examples to choose by"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message):
        few_shot.few_shot(examples(200), examples(8), 4, **options)
