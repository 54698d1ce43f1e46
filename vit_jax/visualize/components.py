"""Principal components of vectors: features of patches as colours, filters as pictures.

Features: Oquab et al., "DINOv2" (2023), figure 1: the first three components of the features of
all patches of several pictures are red, green and blue, so that the same colour in two pictures is
the same content; patches on one side of the first component may be taken for background and left
out, and the components then are those of the rest.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.errors import UserError
from vit_jax.visualize.canvas import Pair, picture_grid, show, show_patches, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = 3
COLUMNS = 8  # pictures side by side, at most


@dataclasses.dataclass(frozen=True)
class Components:
    """Directions in which vectors vary most, and where their middle is.

    Attributes:
        mean: `(d,)`.
        directions: orthonormal rows `(k, d)`, the largest variance first. The sign of a direction
            has no meaning; the entry that is largest in size is made positive.
        variance: along each direction `(k,)`, over n - 1.
    """

    mean: np.ndarray
    directions: np.ndarray
    variance: np.ndarray

    def scores(self, vectors: np.ndarray) -> np.ndarray:
        """Coordinates `(..., k)` of vectors `(..., d)`."""
        return (vectors - self.mean) @ self.directions.T


def principal_components(vectors: np.ndarray, count: int) -> Components:
    """The first components of vectors `(n, d)`, in float64.

    Raises:
        UserError: there are fewer vectors or entries than components.
    """
    if vectors.ndim != 2 or count > min(vectors.shape):
        raise UserError(
            f"{count} components of vectors {vectors.shape}: expected (n, d), both at least {count}"
        )
    vectors = np.asarray(vectors, np.float64)
    mean = vectors.mean(axis=0)
    _, scale, directions = np.linalg.svd(vectors - mean, full_matrices=False)
    directions = directions[:count]
    largest = np.take_along_axis(directions, np.abs(directions).argmax(axis=1)[:, None], axis=1)
    directions = np.where(largest < 0, -directions, directions)
    return Components(mean, directions, scale[:count] ** 2 / max(len(vectors) - 1, 1))


def feature_colors(
    features: np.ndarray, foreground: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Colours of patches, by the first three components over all pictures.

    Args:
        features: of patches `(b, rows, columns, d)`.
        foreground: None colours every patch. A number leaves out those on one side of it along the
            first component (0 is the mean), and the colours are the components of the others. Which
            side the component does not say: it is the one with more of the pictures' borders.

    Returns:
        Red, green and blue `(b, rows, columns, 3)`, each from 0 to 1 over the patches that are
        shown, black elsewhere; and which are shown `(b, rows, columns)`.

    Raises:
        UserError: fewer than three patches are shown.
    """
    shown = np.ones(features.shape[:3], bool)
    if foreground is not None:
        shown = in_foreground(features, foreground)
    vectors = features[shown]
    if len(vectors) < COLORS:
        raise UserError(
            f"{len(vectors)} patches are shown, of {shown.size}; colours need {COLORS} or more: "
            "choose another threshold of the foreground, a layer with more, or more pictures"
        )
    scores = principal_components(vectors, COLORS).scores(vectors)
    low, high = scores.min(axis=0), scores.max(axis=0)
    colors = np.zeros((*shown.shape, COLORS))
    # What does not vary is in the middle.
    span = np.where(high > low, high - low, 1.0)
    colors[shown] = np.where(high > low, (scores - low) / span, 0.5)
    return colors, shown


def in_foreground(features: np.ndarray, threshold: float) -> np.ndarray:
    """Which patches `(b, rows, columns)` are foreground, see `feature_colors`."""
    b, rows, columns, d = features.shape
    flat = features.reshape(-1, d)
    side = principal_components(flat, 1).scores(flat)[:, 0].reshape(b, rows, columns) > threshold
    border = np.ones((rows, columns), bool)
    border[1:-1, 1:-1] = False
    share, rest = (x[:, border].sum() / max(x.sum(), 1) for x in (side, ~side))
    return side if share <= rest else ~side


@dataclasses.dataclass(frozen=True)
class FeatureColors:
    """The colours of some pictures' patches by the features of one place of the model.

    Attributes:
        name: of the place.
        stride: height and width of a patch in pixels.
        colors: `(b, rows, columns, 3)`, see `feature_colors`.
    """

    name: str
    stride: Pair
    colors: np.ndarray


def features_figure(
    pictures: Sequence[np.ndarray], places: Sequence[FeatureColors], title: str
) -> "Figure":
    """Rows of pictures, and below each row the colours that their features have.

    Args:
        pictures: `(height, width, 1 or 3)`, uint8, of one size.
        places: a row each.
        title: above all.
    """
    size = pictures[0].shape[:2]
    blocks = -(-len(pictures) // COLUMNS)
    columns = -(-len(pictures) // blocks)
    in_block = columns * (1 + len(places))
    figure, axes = picture_grid(blocks * in_block, columns, size, extra=(0.0, 0.4))
    title_above(figure, title)
    for i, picture in enumerate(pictures):
        block, column = divmod(i, columns)
        below = axes[block * in_block + column :: columns]
        show(below[0], picture, "picture")
        for axis, place in zip(below[1:], places):
            show_patches(axis, place.colors[i], place.stride, size, place.name)
    return figure
