"""Figures of confusion matrices and of reliability: what is written in them, and that it fits."""

import itertools
import sys

import numpy as np
import pytest

from tests.visualize.tiny import texts_inside
from vit_jax.errors import UserError
from vit_jax.evaluation.calibration import reliability
from vit_jax.visualize import confusion_figure, reliability_figure
from vit_jax.visualize.confusion import COUNTED, NAMED, label_places


@pytest.fixture(autouse=True)
def no_pyplot(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.pyplot", None)  # an import of it fails


def do_not_overlap(labels, axis):
    boxes = [label.get_window_extent() for label in labels if label.get_text()]
    ends = sorted((getattr(x, f"{axis}0"), getattr(x, f"{axis}1")) for x in boxes)
    assert all(before[1] <= after[0] + 0.5 for before, after in itertools.pairwise(ends))


@pytest.mark.parametrize("count", [2, 10, COUNTED, NAMED, NAMED + 1, 150, 1000])
def test_labels_are_legible(count):
    rng = np.random.default_rng(0)
    matrix = rng.integers(0, 40, (count, count)) + 900 * np.eye(count, dtype=int)
    matrix[1] = 0
    names = [f"a class of a long name, number {i}" for i in range(count)]
    figure = confusion_figure(matrix, names, "91.23 % of 1,000 pictures are right")
    texts = texts_inside(figure)
    axes = figure.axes[0]
    assert "91.23 % of 1,000 pictures are right" in texts
    for labels, axis in ((axes.get_xticklabels(), "x"), (axes.get_yticklabels(), "y")):
        assert len(labels) == len(label_places(count)) <= NAMED
        do_not_overlap(labels, axis)
    assert all(len(x.get_text()) <= 24 and x.get_text().endswith(f"{i}") for i, x in zip(
        label_places(count), axes.get_yticklabels()))  # fmt: skip
    counts = [text.get_text() for text in axes.texts]
    assert counts == ([str(x) for x in matrix.ravel() if x] if count <= COUNTED else [])
    if count <= COUNTED:
        cell = axes.get_window_extent().width / count
        assert max(text.get_window_extent().width for text in axes.texts) <= cell


def test_colours_are_shares_of_rows_and_empty_rows_have_none():
    figure = confusion_figure(np.array([[3, 1, 0], [0, 0, 0], [2, 2, 4]]), "abc", "title")
    (image,) = figure.axes[0].get_images()
    shares = image.get_array()
    np.testing.assert_allclose(shares[0], [0.75, 0.25, 0])
    np.testing.assert_allclose(shares[2], [0.25, 0.25, 0.5])
    assert shares.mask[1].all() and not shares.mask[[0, 2]].any()
    assert image.get_clim() == (0, 1)


def test_a_matrix_of_other_classes():
    with pytest.raises(UserError, match=r"a matrix \(3, 3\) of 2 names"):
        confusion_figure(np.eye(3), "ab", "title")


def test_reliability_bars_are_accuracies_and_shares():
    rng = np.random.default_rng(0)
    confidence = rng.uniform(0.3, 1, 500)
    right = rng.random(500) < confidence**2
    found = reliability(confidence, right, 10)
    figure = reliability_figure({"as it is": found, "temperature 2": found}, "500 pictures")
    texts = texts_inside(figure)
    assert any(f"ECE {100 * found.ece:.2f} %" in text for text in texts)
    above, _, below, _ = figure.axes
    heights = [bar.get_height() for bar in above.patches[:10]]
    np.testing.assert_allclose(heights, np.nan_to_num(found.accuracy))
    tops = [bar.get_y() + bar.get_height() for bar in above.patches[10:20]]
    np.testing.assert_allclose(tops, np.nan_to_num(found.confidence))
    assert sum(bar.get_height() for bar in below.patches) == pytest.approx(1)
    lines = [line.get_xdata()[0] for line in below.lines]
    assert lines == pytest.approx([right.mean(), confidence.mean()])
