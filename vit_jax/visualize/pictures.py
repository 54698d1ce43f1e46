"""Pictures side by side, each with a line of text above it."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.data.decode import decode
from vit_jax.errors import MissingFileError, UserError
from vit_jax.visualize.canvas import picture_grid, show, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ROOM = (0.0, 0.35)  # inches more in width and height, for the title of the whole


def pictures_figure(
    pictures: Sequence[np.ndarray | str | os.PathLike[str]],
    titles: Sequence[str],
    title: str,
    columns: int = 6,
) -> "Figure":
    """Shows pictures row by row.

    Args:
        pictures: files, or pixels `(height, width, 1 or 3)`, uint8 or 0 to 1. The longer sides are
            drawn equally long.
        titles: one for each.
        title: above all.
        columns: pictures side by side, at most.

    Raises:
        UserError: no picture, or not one title for each; or a file that is missing or damaged.
    """
    if not pictures or len(pictures) != len(titles):
        raise UserError(
            f"{len(pictures)} pictures and {len(titles)} titles: expected one title for each "
            "picture, and at least one"
        )
    arrays = [x if isinstance(x, np.ndarray) else _pixels(Path(x)) for x in pictures]
    height, width = np.max([np.array(x.shape[:2]) / max(x.shape[:2]) for x in arrays], axis=0)
    figure, axes = picture_grid(len(arrays), columns, (height, width), inch=1.3, extra=ROOM)
    title_above(figure, title)
    for place, pixels, text in zip(axes, arrays, titles):
        show(place, pixels, text)
    return figure


def _pixels(file: Path) -> np.ndarray:
    if not file.is_file():
        raise MissingFileError(f"no picture at {file}: expected a file")
    return decode(file.read_bytes(), name=str(file))
