"""Confusion matrices against scikit-learn's."""

import numpy as np
import pytest
from sklearn import metrics

from vit_jax.errors import UserError
from vit_jax.evaluation.confusion import Confusion, confusion_matrix


@pytest.fixture
def answers():
    rng = np.random.default_rng(0)
    labels = rng.integers(6, size=500)
    predicted = np.where(rng.random(500) < 0.6, labels, rng.integers(6, size=500))
    labels[labels == 4] = 3  # a class without pictures, which is still predicted
    predicted[predicted == 1] = 0  # one that is never predicted
    return labels, predicted


def test_it_is_that_of_scikit_learn(answers):
    found = confusion_matrix(*answers, 6)
    np.testing.assert_array_equal(found, metrics.confusion_matrix(*answers, labels=range(6)))
    result = Confusion(found, tuple("abcdef"))
    precision, recall, _, _ = metrics.precision_recall_fscore_support(
        *answers, labels=range(6), zero_division=np.nan
    )
    np.testing.assert_array_equal(result.recall, recall)
    np.testing.assert_array_equal(result.precision, precision)
    assert np.isnan(result.recall[4]) and np.isnan(result.precision[1])
    assert result.accuracy == metrics.accuracy_score(*answers)
    present = recall[[0, 1, 2, 3, 5]]
    assert result.balanced_accuracy == pytest.approx(present.mean())


def test_the_worst_mistakes_come_first(answers):
    result = Confusion(confusion_matrix(*answers, 6), tuple("abcdef"))
    worst = result.worst(30)
    counts = [count for *_, count in worst]
    assert counts == sorted(counts, reverse=True) and min(counts) > 0
    assert sum(counts) == np.sum(answers[0] != answers[1])
    assert all(i != j for i, j, _ in worst)
    i, j, count = worst[0]
    assert (
        f"{count}" in result.as_text()
        and f"{'abcdef'[i]} taken for {'abcdef'[j]}" in (result.as_text().splitlines()[1])
    )
    assert result.as_json()["recall"][4] is None


def test_everything_right_is_a_diagonal():
    labels = np.arange(7)
    found = confusion_matrix(labels, labels, 7)
    np.testing.assert_array_equal(found, np.eye(7))
    assert Confusion(found, tuple("abcdefg")).worst() == []


@pytest.mark.parametrize(
    "labels, predicted, message",
    [([0, 7], [0, 1], "classes 0 to 7: expected 0 to 4"), ([0], [0, 1], r"expected \(n,\) each")],
)
def test_bad_input(labels, predicted, message):
    with pytest.raises(UserError, match=message):
        confusion_matrix(np.array(labels), np.array(predicted), 5)
