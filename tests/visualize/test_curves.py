"""Lines of metrics, and of differences: what is drawn is what was given."""

import numpy as np
import pytest
from PIL import Image

from tests.visualize.tiny import cells
from vit_jax.convert.report import Difference
from vit_jax.errors import UserError
from vit_jax.visualize import curves_figure, differences_figure, pictures_figure

LINES = [
    {"step": 1, "split": "train", "loss": 3.0},
    {"step": 2, "split": "train", "loss": 2.0},
    {"step": 2, "split": "test", "loss": 2.5, "top1": 0.25},
]


def lines_of(axes):
    return {line.get_label(): line.get_xydata().tolist() for line in axes.get_lines()}


def test_a_panel_a_metric_and_a_line_a_split():
    figure = curves_figure({"a": LINES, "b": LINES[:1]}, ["loss", "top1"], "runs")
    loss, top1 = figure.axes
    assert lines_of(loss) == {
        "a, train": [[1, 3], [2, 2]],
        "a, test": [[2, 2.5]],
        "b, train": [[1, 3]],
    }
    assert lines_of(top1) == {"a, test": [[2, 0.25]]}
    assert (loss.get_ylabel(), top1.get_ylabel()) == ("loss", "top1")


def test_a_metric_that_no_run_has():
    with pytest.raises(UserError, match="unknown metric 'los': did you mean 'loss'"):
        curves_figure({"a": LINES}, ["los"], "runs")


def rows(*values, limit=1e-10):
    return [Difference(f"blocks.{i}", value, value, limit) for i, value in enumerate(values)]


def test_differences_and_each_limit_once():
    reports = {"one": rows(1e-16, 0.0), "two": rows(1e-15, 1e-3), "wide": rows(1e-7, limit=2e-5)}
    figure = differences_figure(reports, "apart")
    (axes,) = figure.axes
    assert axes.get_yscale() == "log"
    assert lines_of(axes) == {
        "one": [[0, 1e-16], [1, 1e-18]],  # no zero on this scale
        "limit of one": [[0, 1e-10], [1, 1e-10]],
        "two": [[0, 1e-15], [1, 1e-3]],
        "wide": [[0, 1e-7]],
        "limit of wide": [[0, 2e-5]],
    }
    assert [text.get_text() for text in axes.get_xticklabels()] == ["blocks.0", "blocks.1"]


def test_pictures_are_shown_upright(tmp_path):
    pixels = np.zeros((4, 6, 3), np.uint8)
    pixels[0, 0] = 255, 0, 0
    pixels[3, 0] = 0, 255, 0
    Image.fromarray(pixels).save(tmp_path / "a.png")
    figure = pictures_figure([tmp_path / "a.png", pixels], ["file", "array"], "two")
    for axes, text in zip(figure.axes, ("file", "array")):
        assert axes.get_title() == text
        found = cells(figure, axes, (4, 6))
        np.testing.assert_allclose(found, pixels / 255, atol=0.01)


@pytest.mark.parametrize(
    "pictures, titles, message",
    [
        ([], [], "0 pictures and 0 titles"),
        ([np.zeros((2, 2, 1))], [], "1 pictures and 0 titles"),
        (["nowhere.png"], ["a"], "no picture at nowhere.png"),
    ],
)
def test_pictures_that_cannot_be_shown(pictures, titles, message):
    with pytest.raises(UserError, match=message):
        pictures_figure(pictures, titles, "none")
