import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from tests.models import timm_oracle  # noqa: F401 - makes timm importable without CUDA
from vit_jax.objectives import losses

timm_loss = importlib.import_module("timm.loss")
CLASSES = 7


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    logits = 4 * rng.normal(size=(5, CLASSES))
    labels = rng.integers(CLASSES, size=5)
    soft = rng.dirichlet(np.ones(CLASSES), size=5)
    return logits, labels, soft


def value_and_grad(function, logits, *args, **kwargs):
    """The mean of our loss and its gradient, in float64."""
    with jax.enable_x64(True):

        def mean(x):
            return function(x, *map(jnp.asarray, args), **kwargs).mean()

        value, grad = jax.value_and_grad(mean)(jnp.asarray(logits))
        assert value.dtype == jnp.float64
        return np.asarray(value), np.asarray(grad)


def torch_value_and_grad(function, logits, target):
    x = torch.tensor(logits, requires_grad=True)
    loss = function(x, torch.tensor(target))
    loss.backward()
    return loss.item(), x.grad.numpy()


def assert_same(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_softmax_with_integer_labels_is_that_of_torch_and_timm(batch, smoothing):
    logits, labels, _ = batch
    ours = value_and_grad(losses.softmax_cross_entropy, logits, labels, label_smoothing=smoothing)
    oracle = torch.nn.CrossEntropyLoss(label_smoothing=smoothing)
    assert_same(ours, torch_value_and_grad(oracle, logits, labels))
    assert_same(
        ours, torch_value_and_grad(timm_loss.LabelSmoothingCrossEntropy(smoothing), logits, labels)
    )


def test_softmax_with_soft_labels_is_that_of_timm(batch):
    logits, _, soft = batch
    ours = value_and_grad(losses.softmax_cross_entropy, logits, soft)
    assert_same(ours, torch_value_and_grad(timm_loss.SoftTargetCrossEntropy(), logits, soft))


def test_softmax_smooths_soft_labels_as_torch_does(batch):
    logits, _, soft = batch
    ours = value_and_grad(losses.softmax_cross_entropy, logits, soft, label_smoothing=0.2)
    oracle = torch.nn.CrossEntropyLoss(label_smoothing=0.2)
    assert_same(ours, torch_value_and_grad(oracle, logits, soft))


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_sigmoid_is_that_of_timm(batch, smoothing, reduction):
    logits, labels, _ = batch
    ours = value_and_grad(
        losses.sigmoid_cross_entropy,
        logits,
        labels,
        label_smoothing=smoothing,
        class_reduction=reduction,
    )
    oracle = timm_loss.BinaryCrossEntropy(smoothing, sum_classes=reduction == "sum")
    assert_same(ours, torch_value_and_grad(oracle, logits, labels))


def test_sigmoid_with_soft_labels_is_that_of_torch(batch):
    logits, _, soft = batch
    ours = value_and_grad(losses.sigmoid_cross_entropy, logits, soft)
    assert_same(ours, torch_value_and_grad(torch.nn.BCEWithLogitsLoss(), logits, soft))


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_smoothing_a_mixture_equals_mixing_smoothed_labels(batch, loss):
    logits, labels, _ = batch
    one_hot = np.eye(CLASSES)[labels]
    other = np.roll(one_hot, 1, axis=0)
    with jax.enable_x64(True):
        mixture = loss(logits, jnp.asarray(0.3 * one_hot + 0.7 * other), label_smoothing=0.1)
        apart = [
            loss(jnp.asarray(logits), jnp.asarray(x), label_smoothing=0.1) for x in (one_hot, other)
        ]
        np.testing.assert_allclose(mixture, 0.3 * apart[0] + 0.7 * apart[1], rtol=1e-12)


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_sums_are_in_float32_for_bfloat16_logits(loss):
    # 1 + 2^-9 * many small terms: a bfloat16 sum over classes would lose them.
    logits = jnp.asarray(np.random.default_rng(0).normal(size=(3, 4096)), jnp.bfloat16)
    labels = jnp.arange(3)
    value = loss(logits, labels)
    assert value.dtype == jnp.float32
    with jax.enable_x64(True):
        exact = loss(jnp.asarray(np.asarray(logits), jnp.float64), labels)
    np.testing.assert_allclose(value, exact, rtol=1e-5)


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_huge_and_excluded_logits_stay_finite(loss):
    logits = jnp.array([[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0], [0.0, 1.0, -jnp.inf]])
    labels = jnp.array([0, 0, 1])
    value, grad = jax.value_and_grad(lambda x: loss(x, labels).sum())(logits)
    assert jnp.isfinite(value) and jnp.isfinite(grad).all()


@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
def test_a_nan_is_not_hidden(loss):
    logits = jnp.array([[jnp.nan, 1.0, 2.0], [0.0, 1.0, 2.0]])
    value = loss(logits, jnp.array([2, 2]))
    assert jnp.isnan(value[0]) and jnp.isfinite(value[1])


@pytest.mark.parametrize("label", [-CLASSES, -1, CLASSES, 200])
@pytest.mark.parametrize("loss", [losses.softmax_cross_entropy, losses.sigmoid_cross_entropy])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_a_label_that_is_no_class_makes_the_loss_nan(batch, loss, label, smoothing):
    logits, labels, _ = map(jnp.asarray, batch)
    value = jax.jit(loss, static_argnums=2)(logits, labels.at[2].set(label), smoothing)
    expected = loss(logits, labels, smoothing).at[2].set(jnp.nan)
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("label", [-CLASSES, -1, CLASSES, 200])
@pytest.mark.parametrize("k", [1, CLASSES, CLASSES + 1])
def test_a_label_that_is_no_class_is_never_correct(label, k):
    rows = jnp.eye(CLASSES)  # every class is once the best answer
    labels = jnp.full(CLASSES, label)
    np.testing.assert_array_equal(losses.top_k_correct(rows, labels, k), np.zeros(CLASSES))


def test_labels_of_one_byte_name_classes_beyond_it_never():
    logits = jnp.zeros((1, 1000))
    labels = jnp.array([3], jnp.uint8)  # 259 and 515 are the same byte
    np.testing.assert_allclose(losses.softmax_cross_entropy(logits, labels), np.log(1000), 1e-6)
    np.testing.assert_array_equal(losses.top_k_correct(logits, labels, 4), [1.0])


@pytest.mark.parametrize(
    "labels",
    [
        np.zeros((5, 1), np.int32),
        np.zeros(4, np.int32),
        np.zeros(5, np.float32),
        np.zeros((5, CLASSES), np.int32),
        np.zeros((5, CLASSES + 1), np.float32),
    ],
)
def test_labels_of_another_form_are_refused(labels):
    with pytest.raises(ValueError, match="do not fit logits"):
        losses.softmax_cross_entropy(jnp.zeros((5, CLASSES)), jnp.asarray(labels))


def test_options_out_of_range_are_refused(batch):
    logits, labels, _ = map(jnp.asarray, batch)
    for smoothing in (-0.1, 1.0):
        with pytest.raises(ValueError, match="label_smoothing"):
            losses.softmax_cross_entropy(logits, labels, smoothing)
    with pytest.raises(ValueError, match="class_reduction"):
        losses.sigmoid_cross_entropy(logits, labels, class_reduction="max")
    with pytest.raises(ValueError, match="k is 0"):
        losses.top_k_correct(logits, labels, 0)


@pytest.mark.parametrize("k", [1, 2, 5, CLASSES, CLASSES + 1])
def test_top_k_is_that_of_a_stable_sort(k):
    rng = np.random.default_rng(1)
    # Few distinct values, so that ties are everywhere.
    logits = rng.integers(4, size=(200, CLASSES)).astype(np.float32)
    labels = rng.integers(CLASSES, size=200)
    best = np.argsort(-logits, axis=1, kind="stable")[:, :k]
    expected = (best == labels[:, None]).any(1)
    got = losses.top_k_correct(jnp.asarray(logits), jnp.asarray(labels), k)
    np.testing.assert_array_equal(got, expected.astype(np.float32))
    if k == 1:
        np.testing.assert_array_equal(got, logits.argmax(1) == labels)


def test_constant_logits_score_like_chance():
    logits = jnp.zeros((CLASSES, CLASSES))
    correct = losses.top_k_correct(logits, jnp.arange(CLASSES), 2)
    assert float(correct.mean()) == pytest.approx(2 / CLASSES)


def test_top_k_takes_the_greatest_share_of_a_soft_label(batch):
    logits, _, soft = batch
    hard = losses.top_k_correct(jnp.asarray(logits), jnp.asarray(soft.argmax(1)), 2)
    np.testing.assert_array_equal(
        losses.top_k_correct(jnp.asarray(logits), jnp.asarray(soft), 2), hard
    )


def test_a_row_with_a_nan_is_wrong():
    logits = jnp.array([[jnp.nan, 0.0], [0.0, jnp.nan], [1.0, 0.0]])
    np.testing.assert_array_equal(
        losses.top_k_correct(logits, jnp.array([0, 0, 0]), 2), [0.0, 0.0, 1.0]
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [0.0, 0.2])
def test_thresholded_targets_are_timms(smoothing, threshold):
    """Of mixed labels: every class with more than the threshold is right."""
    logits = np.array([[1.0, -1.0, -2.0, -2.0], [0.3, 0.2, -0.1, 4.0]])
    labels = np.array([[0.7, 0.3, 0.0, 0.0], [0.1, 0.0, 0.0, 0.9]])
    smoothed = labels * (1 - smoothing) + smoothing / 4
    theirs = timm_loss.BinaryCrossEntropy(0.0, target_threshold=threshold)
    expected = theirs(torch.tensor(logits), torch.tensor(smoothed))
    with jax.enable_x64(True):
        ours = losses.sigmoid_cross_entropy(
            jnp.asarray(logits), jnp.asarray(labels), smoothing, target_threshold=threshold
        )
        np.testing.assert_allclose(ours.mean(), expected, rtol=1e-12)
