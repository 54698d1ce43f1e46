"""The linear probe is at the minimum of what it says it minimises, and is scikit-learn's."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from tests.evaluation.test_few_shot import examples
from vit_jax.errors import UserError
from vit_jax.evaluation import logistic
from vit_jax.evaluation.logistic import linear_probe, split


def objective(weights, bias, features, labels, l2):
    logits = features @ weights + bias
    losses = (
        jax.nn.logsumexp(logits, axis=1) - jnp.take_along_axis(logits, labels[:, None], 1)[:, 0]
    )
    return losses.mean() + l2 / 2 * jnp.square(weights).sum()


@pytest.mark.parametrize("classes", [2, 5])
def test_no_gradient_is_left(classes):
    """Of the documented loss on standardised features; for two classes scikit-learn has another."""
    features, labels = examples(120, classes=classes)
    l2 = 0.02
    found = linear_probe((features, labels), (features, labels), classes, l2=[l2])
    assert found.converged and found.l2 == l2 and not found.validation
    mean, scale = features.astype(float).mean(axis=0), features.astype(float).std(axis=0)
    scale[scale < 1e-9] = 1
    with jax.enable_x64(True):
        x = jnp.asarray((features - mean) / scale)
        weights = jnp.asarray(found.weights * scale[:, None])
        bias = jnp.asarray(found.bias + mean @ found.weights)
        gradients = jax.grad(objective, (0, 1))(weights, bias, x, jnp.asarray(labels), l2)
    # scikit-learn stops where no component of the gradient exceeds its tolerance.
    assert max(np.abs(np.asarray(x)).max() for x in gradients) <= 2 * logistic.TOLERANCE


def test_it_is_logistic_regression_of_scikit_learn():
    train, test = examples(300, classes=3), examples(200, classes=3, seed=1)
    l2 = 0.1
    found = linear_probe(train, test, 3, l2=[l2])
    mean, scale = train[0].mean(axis=0, dtype=float), train[0].std(axis=0, dtype=float)
    scale[scale < 1e-9] = 1
    theirs = LogisticRegression(C=1 / (l2 * 300), solver="newton-cg", tol=1e-10)
    theirs.fit((train[0] - mean) / scale, train[1])
    logits = test[0] @ found.weights + found.bias
    expected = theirs.decision_function((test[0] - mean) / scale)
    logits, expected = (x - x.mean(axis=1, keepdims=True) for x in (logits, expected))
    # A gradient within 1e-4 moves weights by at most 1e-4 / l2, and logits by that times |x|.
    np.testing.assert_allclose(logits, expected, atol=1e-4 / l2 * np.sqrt(12) * 3)
    assert found.accuracy == pytest.approx(
        theirs.score((test[0] - mean) / scale, test[1]), abs=0.01
    )


def test_scale_and_shift_of_features_are_of_no_effect():
    (features, labels), (queries, right) = examples(150), examples(100, seed=1)
    plain = linear_probe((features, labels), (queries, right), 4)
    moved = linear_probe((features * 0.01 - 5, labels), (queries * 0.01 - 5, right), 4)
    assert plain.validation.keys() == moved.validation.keys()
    assert abs(plain.accuracy - moved.accuracy) <= 0.02  # float32 features, rounded anew


def test_a_class_without_training_examples_is_never_chosen():
    features, labels = examples(120, classes=3)
    labels = np.where(labels == 2, 4, labels)
    found = linear_probe((features, labels), (features, np.full(120, 3)), 5, l2=[1.0])
    assert found.accuracy == 0 and np.isneginf(found.bias[[2, 3]]).all()


def test_split_is_stratified_and_leaves_one_of_each():
    labels = np.repeat([0, 1, 2], [50, 20, 1])
    rest, held = split(labels, 0.1)
    assert sorted([*rest, *held]) == list(range(71))
    np.testing.assert_array_equal(np.bincount(labels[held], minlength=3), [5, 2, 0])
    assert set(split(labels, 0.1, seed=1)[1]) != set(held)
    assert 70 in split(labels, 0.9)[0]


@pytest.mark.parametrize(
    "options, message",
    [
        (dict(l2=[]), "l2 is"),
        (dict(l2=[-1.0]), "l2 is"),
        (dict(validation=1.0), "a share of 1.0"),
        (dict(validation=0.001), "a share of 0.001 of 120 examples is none"),
    ],
)
def test_bad_input(options, message):
    with pytest.raises(UserError, match=message):
        linear_probe(examples(120), examples(8), 4, **options)
    with pytest.raises(UserError, match="of one class"):
        linear_probe((np.ones((4, 2)), np.zeros(4, int)), examples(8), 4)
