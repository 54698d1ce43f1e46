"""A confusion matrix as a picture: each row's shares as colours."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.errors import UserError
from vit_jax.visualize.canvas import new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COUNTED = 20  # classes, at most, whose counts are written
NAMED = 40  # labels, at most, along a side; of more classes some have one
LONGEST = 24  # characters of a label


def confusion_figure(matrix: np.ndarray, class_names: Sequence[str], title: str) -> "Figure":
    """Draws a confusion matrix, each row divided by its sum.

    With up to `COUNTED` classes the counts are written too; with more than `NAMED` every n-th class
    has a label, n as small as it can be. A class without pictures is a grey row.

    Args:
        matrix: counts `(classes, classes)`, rows are the right classes.
        class_names: of rows and columns.
        title: above.

    Raises:
        UserError: the matrix is not square, or there is not one name for each class.
    """
    count = len(class_names)
    if matrix.shape != (count, count):
        raise UserError(f"a matrix {matrix.shape} of {count} names: expected ({count}, {count})")
    sums = matrix.sum(axis=1, keepdims=True)
    shares = np.ma.masked_invalid(np.where(sums > 0, matrix / np.maximum(sums, 1), np.nan))
    labels = [_shortened(name) for name in class_names]
    side = float(np.clip(0.42 * count, 3.0, 7.0))
    room = 0.065 * max(map(len, labels))
    figure = new_figure(side + room + 1.6, side + room + 0.8)
    title_above(figure, title)
    axes = figure.subplots()
    axes.set_facecolor("0.8")
    shown = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, interpolation="nearest")
    _label(axes, labels)
    if count <= COUNTED:
        _write_counts(axes, matrix, shares, 72 * side / count)
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label("share of the class's pictures", fontsize=8)
    bar.ax.tick_params(labelsize=7)
    return figure


def label_places(count: int) -> range:
    """Which of so many classes have a label: all, or every n-th, at most `NAMED`."""
    return range(0, count, -(-count // NAMED))


def _label(axes: "Axes", labels: Sequence[str]) -> None:
    places = label_places(len(labels))
    names = [labels[i] for i in places]
    axes.set_xticks(places, names, rotation=90, fontsize=6.5)
    axes.set_yticks(places, names, fontsize=6.5)
    every = f" (one in {places.step} is named)" if places.step > 1 else ""
    axes.set_xlabel("predicted" + every, fontsize=8)
    axes.set_ylabel("right class" + every, fontsize=8)


def _write_counts(axes: "Axes", matrix: np.ndarray, shares: np.ndarray, cell: float) -> None:
    """Writes each count that is not 0 into its cell, `cell` points wide."""
    size = min(8.0, cell / (0.75 * len(str(matrix.max()))))  # a digit is 0.64 of it wide
    for (i, j), count in np.ndenumerate(matrix):
        if count:
            color = "white" if shares[i, j] > 0.5 else "black"
            axes.text(j, i, f"{count}", ha="center", va="center", color=color, fontsize=size)


def _shortened(name: str) -> str:
    """At most `LONGEST` characters: the beginning and the end, as either may be what differs."""
    if len(name) <= LONGEST:
        return name
    end = LONGEST // 3
    return f"{name[: LONGEST - end - 1]}…{name[-end:]}"
