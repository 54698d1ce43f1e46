"""Which classes a model takes for which.

The matrix counts pictures: a row for each right class, a column for each that was predicted, as
scikit-learn's. A row over its sum says where a class goes; its entry on the diagonal is the class's
recall, and that of a column over its sum the precision.
"""

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.evaluation.predictions import Predictions, classify
from vit_jax.visualize.canvas import check_figure, save_figure
from vit_jax.visualize.confusion import confusion_figure

PAIRS = 10  # that are said


def confusion_matrix(labels: np.ndarray, predicted: np.ndarray, num_classes: int) -> np.ndarray:
    """Counts `(num_classes, num_classes)`, int64: rows are right classes, columns predicted ones.

    Args:
        labels: (n,) right classes.
        predicted: (n,).
        num_classes: how many there are.

    Raises:
        UserError: a class is not below `num_classes`, or there are not as many of both.
    """
    labels, predicted = np.asarray(labels), np.asarray(predicted)
    if labels.shape != predicted.shape or labels.ndim != 1:
        raise UserError(f"labels {labels.shape}, predicted {predicted.shape}: expected (n,) each")
    both = np.concatenate([labels, predicted])
    if len(both) and not (both.min() >= 0 and both.max() < num_classes):
        raise UserError(f"classes {both.min()} to {both.max()}: expected 0 to {num_classes - 1}")
    places = labels.astype(np.int64) * num_classes + predicted
    return np.bincount(places, minlength=num_classes**2).reshape(num_classes, num_classes)


def share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """`part / whole` in float64, NaN where the whole is 0."""
    filled = np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan)
    return np.divide(part, whole, out=filled, where=whole > 0)


@dataclasses.dataclass(frozen=True)
class Confusion:
    """A confusion matrix and what it says.

    Attributes:
        matrix: counts, see `confusion_matrix`.
        class_names: of rows and columns.
    """

    matrix: np.ndarray
    class_names: tuple[str, ...]

    @property
    def accuracy(self) -> float:
        """The share of pictures on the diagonal."""
        return float(np.trace(self.matrix) / self.matrix.sum())

    @property
    def recall(self) -> np.ndarray:
        """Of each class, the share of its pictures that are seen as such; NaN without pictures."""
        return share(np.diag(self.matrix), self.matrix.sum(axis=1))

    @property
    def precision(self) -> np.ndarray:
        """Of each class, the share of what is taken for it that is; NaN where nothing is."""
        return share(np.diag(self.matrix), self.matrix.sum(axis=0))

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have pictures."""
        return float(np.nanmean(self.recall))

    def worst(self, count: int = PAIRS) -> list[tuple[int, int, int]]:
        """The most frequent mistakes: right class, predicted class, pictures."""
        wrong = self.matrix - np.diag(np.diag(self.matrix))
        order = np.argsort(-wrong, axis=None, kind="stable")[:count]
        pairs = zip(*np.unravel_index(order, wrong.shape))
        return [(int(i), int(j), int(wrong[i, j])) for i, j in pairs if wrong[i, j]]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON has it; None where there is no number."""
        return {
            "pictures": int(self.matrix.sum()),
            "accuracy": self.accuracy,
            "balanced_accuracy": self.balanced_accuracy,
            "class_names": list(self.class_names),
            "recall": _numbers(self.recall),
            "precision": _numbers(self.precision),
            "matrix": self.matrix.tolist(),
        }

    def as_text(self) -> str:
        """The accuracy, and the most frequent mistakes."""
        total, names = int(self.matrix.sum()), self.class_names
        lines = [
            f"{total:,} pictures: accuracy {100 * self.accuracy:.2f} %, mean over the classes "
            f"{100 * self.balanced_accuracy:.2f} %"
        ]
        sums = self.matrix.sum(axis=1)
        for i, j, count in self.worst():
            part = f"{count:6,} of {sums[i]:,} ({100 * count / sums[i]:.1f} %)"
            lines.append(f"{part:>24}  {names[i]} taken for {names[j]}")
        return "\n".join(lines)


def _numbers(x: np.ndarray) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in x]


def confusion_of(found: Predictions) -> Confusion:
    """The confusion matrix of predictions."""
    count = len(found.class_names)
    return Confusion(confusion_matrix(found.labels, found.predicted, count), found.class_names)


def confusion(
    source: Model | str | os.PathLike[str],
    data: str | os.PathLike[str] | None = None,
    *,
    picture: str | os.PathLike[str] | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Confusion:
    """Lets a model classify labelled pictures and says which classes it takes for which.

        found = vit_jax.confusion("runs/digits", picture="confusion.png")
        found.matrix, found.recall

    Args:
        source: a model, or predictions, see `predictions.classify`.
        data: see `predictions.classify`.
        picture: a PNG, SVG or PDF file, replaced if it is there; None draws nothing.
        report: is given the sentences a user should read.
        **options: of `predictions.classify`.

    Raises:
        UserError: see `predictions.classify`; the picture cannot be written.
    """
    if picture is not None:
        check_figure(picture)
    found = confusion_of(classify(source, data, report=report, **options))
    if picture is not None:
        title = f"{100 * found.accuracy:.2f} % of {int(found.matrix.sum()):,} pictures are right"
        save_figure(confusion_figure(found.matrix, found.class_names, title), Path(picture))
        report(f"confusion matrix: {picture}")
    return found
