"""Calibration against scikit-learn's, by hand, and where it is known by construction."""

import numpy as np
import pytest
from scipy import special
from sklearn import metrics
from sklearn.calibration import calibration_curve

from vit_jax.errors import UserError
from vit_jax.evaluation import calibration as module
from vit_jax.evaluation.calibration import (
    brier_score,
    calibrated,
    fit_temperature,
    negative_log_likelihood,
    reliability,
    scores,
)
from vit_jax.evaluation.predictions import Predictions

N = 4000


def predictions(scale=1.0, n=N, classes=5, seed=0):
    """Labels that are drawn by the softmax of the logits, which are then scaled."""
    rng = np.random.default_rng(seed)
    logits = 2 * rng.normal(size=(n, classes))
    shares = special.softmax(logits, axis=1)
    labels = (shares.cumsum(axis=1) < rng.random((n, 1))).sum(axis=1).clip(max=classes - 1)
    names = tuple(map(str, range(n)))
    return Predictions(logits * scale, labels, tuple("abcdefghij"[:classes]), names)


@pytest.mark.parametrize("equal, theirs", [("width", "uniform"), ("mass", "quantile")])
@pytest.mark.parametrize("bins", [1, 7, 15])
def test_bins_are_those_of_scikit_learn(equal, theirs, bins):
    rng = np.random.default_rng(0)
    confidence = np.round(rng.beta(5, 2, size=700), 2)  # ties, and values on edges
    right = rng.random(700) < confidence**2
    found = reliability(confidence, right, bins, equal)
    accuracy, mean = calibration_curve(right, confidence, n_bins=bins, strategy=theirs)
    full = found.counts > 0
    np.testing.assert_allclose(found.accuracy[full], accuracy, rtol=1e-12)
    np.testing.assert_allclose(found.confidence[full], mean, rtol=1e-12)
    assert found.counts.sum() == 700
    gaps = np.abs(accuracy - mean)
    assert found.ece == pytest.approx(found.counts[full] @ gaps / 700, rel=1e-12)
    assert found.mce == gaps.max()


def test_by_hand():
    """Two bins of equal width: (0.2, 0.4) of which none is right, and (0.6, 0.9, 0.9, 0.6) all."""
    confidence, right = [0.2, 0.4, 0.6, 0.9, 0.9, 0.6], [0, 0, 1, 1, 1, 1]
    found = reliability(confidence, right, 2)
    np.testing.assert_array_equal(found.counts, [2, 4])
    np.testing.assert_allclose(found.confidence, [0.3, 0.75])
    assert found.ece == pytest.approx(2 / 6 * 0.3 + 4 / 6 * 0.25)
    assert found.mce == pytest.approx(0.3)
    # An edge belongs to the bin below it, as in equation (3): 0.5 is not above one half.
    np.testing.assert_array_equal(reliability([0.5, 0.0, 1.0], [1, 1, 1], 2).counts, [2, 1])


def test_ece_of_true_probabilities_is_noise_alone():
    """In a bin of n examples the gap is a mean of n errors of variance p (1 - p) <= 1 / 4.

    So E|gap| <= 1 / (2 sqrt(n)), and the mean of the ECE is at most sum_m sqrt(n_m) / (2 N), which
    is no more than sqrt(M / N) / 2. One example moves the ECE by at most 1 / N: it exceeds its mean
    by t with a probability of at most exp(-2 N t^2) (McDiarmid).
    """
    for seed in range(3):
        found = scores(predictions(seed=seed))
        slack = np.sqrt(np.log(1e6) / (2 * N))
        bound = np.sqrt(module.BINS / N) / 2 + slack
        assert found.by_width.ece <= bound and found.by_mass.ece <= bound
        wrong = scores(predictions(scale=3.0, seed=seed))
        assert (
            min(wrong.by_width.ece, wrong.by_mass.ece) > bound
        )  # so that the bound says something


def test_a_model_that_is_always_sure_and_right_half_of_the_time():
    logits = np.tile([100.0, -100.0], (10, 1))
    found = Predictions(logits, np.arange(10) % 2, ("a", "b"), tuple("0123456789"))
    result = scores(found)
    assert result.by_width.ece == result.by_mass.ece == result.by_width.mce == 0.5
    assert result.brier == pytest.approx(1.0) and result.nll == pytest.approx(100.0)


def test_scores_are_those_of_scikit_learn():
    found = predictions()
    shares = found.shares()
    labels = found.labels
    loss = metrics.log_loss(labels, shares)
    assert negative_log_likelihood(found.logits, labels) == pytest.approx(loss, rel=1e-12)
    one_hot = np.eye(5)[labels]
    expected = sum(metrics.brier_score_loss(one_hot[:, k], shares[:, k]) for k in range(5))
    assert brier_score(shares, labels) == pytest.approx(expected, rel=1e-12)
    sigmoid = special.expit(found.logits)
    expected = sum(metrics.log_loss(one_hot[:, k], sigmoid[:, k]) for k in range(5))
    found = negative_log_likelihood(found.logits, labels, "sigmoid")
    assert found == pytest.approx(expected, rel=1e-12)


def test_far_logits_do_not_overflow():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    assert negative_log_likelihood(logits, np.array([0, 0])) == pytest.approx(1e4)
    assert np.isfinite(negative_log_likelihood(logits, np.array([0, 0]), "sigmoid"))


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
def test_the_temperature_is_a_minimum(kind):
    found = predictions(scale=2.5)

    def loss(temperature):
        return negative_log_likelihood(found.logits / temperature, found.labels, kind)

    best = fit_temperature(found.logits, found.labels, kind)
    slope = (loss(best * 1.001) - loss(best / 1.001)) / 0.002
    assert abs(slope) < 1e-6
    assert loss(best) < min(loss(best * 1.05), loss(best / 1.05), loss(1.0))


def test_the_temperature_undoes_a_scale():
    plain, scaled = predictions(), predictions(scale=4.0)
    first = fit_temperature(plain.logits, plain.labels)
    assert first == pytest.approx(1, abs=0.1)  # labels follow the softmax of the logits
    second = fit_temperature(scaled.logits, scaled.labels)
    assert second == pytest.approx(4 * first, rel=1e-5)


def test_a_temperature_makes_a_sure_model_true_and_changes_no_answer():
    result = calibrated(predictions(scale=3.0), fit_share=0.5)
    assert result.fitted_on + result.plain.examples == N
    assert result.scaled.accuracy == result.plain.accuracy
    assert result.scaled.nll < result.plain.nll and result.scaled.brier < result.plain.brier
    assert result.scaled.by_width.ece < 0.2 * result.plain.by_width.ece
    text, found = result.as_text(), result.as_json()
    assert f"temperature {result.temperature:.4f}" in text and "NLL" in text
    assert found["scaled"]["ece"] == result.scaled.by_width.ece
    assert sum(x["examples"] for x in found["bins"]) == result.plain.examples


def test_the_order_is_of_no_effect():
    found = predictions(n=300)
    mixed = found.part(np.random.default_rng(0).permutation(300))
    for name, value in scores(found).numbers().items():
        assert scores(mixed).numbers()[name] == pytest.approx(value, rel=1e-12)


def test_bad_input():
    for options, message in [
        (dict(bins=0), "0 bins"),
        (dict(equal="size"), "bins of equal 'size'"),
        (dict(confidence=[1.5]), "not all from 0 to 1"),
        (dict(confidence=[]), "missing"),
    ]:
        given = dict(confidence=[0.5], right=[1]) | options
        with pytest.raises(UserError, match=message):
            reliability(**given)
    sure = np.array([[1.0, 0.0], [0.0, 2.0]])
    with pytest.raises(
        UserError, match=r"no temperature from 0\.01 to 100\.0 is best for the 2 ex"
    ):
        fit_temperature(sure, np.array([0, 1]))
