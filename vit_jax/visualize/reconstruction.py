"""What a masked autoencoder sees and what it paints (He et al. 2022, figure 2).

One row a picture: the picture, what the mask leaves of it, what the model makes of all patches,
and the picture with the masked patches alone painted in.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.errors import UserError
from vit_jax.visualize.canvas import new_figure, show, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

GREY = 128  # where a patch is masked
GAP = 2  # white pixels between pictures
WHITE = 255
COLUMNS = ("picture", "what is seen", "what is painted", "painted where masked")


def to_pixels(images: np.ndarray, mean: Sequence[float], std: Sequence[float]) -> np.ndarray:
    """Undoes the normalisation of images `(..., c)`: uint8, rounded and cut off at 0 and 255.

    Args:
        images: `(x / 255 - mean) / std`, floating point.
        mean: per channel, on a scale of 0 to 1.
        std: per channel, on a scale of 0 to 1.
    """
    levels = 255 * (np.asarray(images, np.float64) * np.asarray(std) + np.asarray(mean))
    return np.rint(levels).clip(0, 255).astype(np.uint8)


def reconstructions(
    images: np.ndarray,
    painted: np.ndarray,
    mask: np.ndarray,
    mean: Sequence[float],
    std: Sequence[float],
) -> np.ndarray:
    """Rows of original, masked, reconstructed and pasted pictures.

    Args:
        images: `(b, height, width, c)`, normalised.
        painted: what the model makes of every patch, of the same shape and scale.
        mask: `(b, rows, columns)`, 1 for the patches that the model has not seen.
        mean: of the normalisation, per channel.
        std: of the normalisation, per channel.

    Returns:
        One picture `(b * (height + 2) + 2, 4 * (width + 2) + 2, c)`, uint8: white gaps of two
        pixels around each.

    Raises:
        UserError: shapes that do not fit together.
    """
    _check(images, painted, mask)
    b, height, width, channels = images.shape
    _, rows, columns = mask.shape
    hidden = mask.repeat(height // rows, axis=1).repeat(width // columns, axis=2)[..., None] > 0
    original, reconstructed = to_pixels(images, mean, std), to_pixels(painted, mean, std)
    masked = np.where(hidden, np.uint8(GREY), original)
    pasted = np.where(hidden, reconstructed, original)
    row = np.stack([original, masked, reconstructed, pasted], axis=1)  # (b, 4, h, w, c)
    framed = np.pad(row, [(0, 0), (0, 0), (GAP, 0), (GAP, 0), (0, 0)], constant_values=WHITE)
    sheet = framed.swapaxes(1, 2).reshape(b * (height + GAP), 4 * (width + GAP), channels)
    return np.pad(sheet, [(0, GAP), (0, GAP), (0, 0)], constant_values=WHITE)


def reconstruction_figure(sheet: np.ndarray, title: str) -> "Figure":
    """The rows of `reconstructions`, with what the columns are above them.

    Args:
        sheet: from `reconstructions`.
        title: above all.
    """
    height, width = sheet.shape[:2]
    figure = new_figure(8.0, 8.0 * height / width + 0.6)
    title_above(figure, title)
    axes = figure.subplots()
    show(axes, sheet)
    column = (width - GAP) / len(COLUMNS)
    first = GAP + (column - GAP - 1) / 2  # the middle pixel
    axes.set_xticks([first + column * i for i in range(len(COLUMNS))], COLUMNS, fontsize=8)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, left=False)
    axes.tick_params(labelleft=False, length=0)
    for side in axes.spines.values():
        side.set_visible(False)
    return figure


def _check(images: np.ndarray, painted: np.ndarray, mask: np.ndarray) -> None:
    if images.ndim != 4 or images.shape != painted.shape:
        raise UserError(
            f"images are {images.shape} and what is painted {painted.shape}; expected the same "
            "shape (images, height, width, channels) of both"
        )
    fits = mask.ndim == 3 and len(mask) == len(images)
    if not fits or images.shape[1] % mask.shape[1] or images.shape[2] % mask.shape[2]:
        raise UserError(
            f"mask is {mask.shape}; expected (images, rows, columns) of patches that divide "
            f"images of shape {images.shape}"
        )
