"""Figures of matplotlib without its global state, and what several kinds of pictures share.

Figures are objects: `figure.savefig("name.png")` writes one, a notebook shows one that is the last
line of a cell, and none is left behind in a list of open windows.
"""

import os
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax import storage
from vit_jax.errors import UserError

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INCH = 1.9  # of one picture's longer side
TITLE = 0.3  # inches above each picture
TITLE_SIZE = 9  # points, of the title above all
LETTER = (
    0.7  # width of a letter over its size: of digits 0.64, of capitals 0.68, of most words less
)
DPI = 150
ENDINGS = (".png", ".svg", ".pdf")
Pair = tuple[int, int]


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure of so many inches, laid out so that no text is cut off.

    Raises:
        UserError: matplotlib is not installed.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(
            f"figures need matplotlib ({error}): pip install vit_jax[visualize]"
        ) from error
    return Figure(figsize=(width, height), dpi=DPI, layout="constrained")


def title_above(figure: "Figure", text: str) -> None:
    """Writes a title above all, in as many lines as the figure's width asks for."""
    letters = int(72 * figure.get_figwidth() / (LETTER * TITLE_SIZE))
    figure.suptitle("\n".join(textwrap.wrap(text, letters)), fontsize=TITLE_SIZE)


def check_figure(path: str | os.PathLike[str]) -> None:
    """Looks whether a figure can be saved under a name, before there is one; makes its folder.

    Raises:
        UserError: the name ends otherwise than in one of `ENDINGS`, is in an object store, or
            cannot be written; or matplotlib is not installed.
    """
    new_figure(1, 1)
    if storage.is_remote(path):
        raise UserError(f"{path}: pictures are written to a file system; copy them from there")
    ending = Path(path).suffix
    if ending not in ENDINGS:
        raise UserError(f"{path} ends in {ending!r}: expected one of {', '.join(ENDINGS)}")
    with storage.writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
    storage.check_writable(path)


def save_figure(figure: "Figure", path: Path) -> Path:
    """Writes a figure, in a folder that is made if need be; returns the path.

    Raises:
        UserError: the system refuses to write.
    """
    with storage.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(path)
    return path


def picture_grid(
    count: int,
    columns: int,
    size: Pair,
    *,
    inch: float = INCH,
    title: float = TITLE,
    extra: tuple[float, float] = (0.0, 0.0),
) -> tuple["Figure", list["Axes"]]:
    """A figure with room for `count` pictures of `size` (height, width), row by row.

    Args:
        count: of pictures.
        columns: pictures side by side, at most.
        size: of each, in any unit.
        inch: length of a picture's longer side.
        title: inches above each picture.
        extra: inches more in width and height, for a scale and a title of the whole.
    """
    columns = min(columns, count)
    rows = -(-count // columns)
    height, width = (inch * side / max(size) for side in size)
    figure = new_figure(
        max(columns * (width + 0.1), 3.0) + extra[0], rows * (height + title) + 0.1 + extra[1]
    )
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for place in axes:
        place.set_axis_off()
    return figure, list(axes[:count])


def show(axes: "Axes", pixels: np.ndarray, title: str | None = None) -> Any:
    """Shows a picture `(height, width, 1 or 3)`, uint8 or 0 to 1, pixel by pixel."""
    levels = 255 if pixels.dtype == np.uint8 else 1.0
    if pixels.shape[-1] == 1:
        options = dict(cmap="gray", vmin=0, vmax=levels)
        shown = axes.imshow(pixels[..., 0], interpolation="nearest", **options)
    else:
        shown = axes.imshow(pixels, interpolation="nearest")
    if title is not None:
        axes.set_title(title, fontsize=8)
    return shown


def show_patches(
    axes: "Axes", values: np.ndarray, stride: Pair, size: Pair, title: str, **options: Any
) -> Any:
    """Shows a value or a colour for each patch, where the patch is in the picture.

    Args:
        axes: where; its coordinates are pixels of the picture.
        values: `(rows, columns)`, or `(rows, columns, 3)` from 0 to 1.
        stride: height and width of a patch in pixels. Patches may reach beyond the picture, where
            the model pads; that part is not shown.
        size: height and width of the picture.
        title: above.
        **options: of `imshow`.
    """
    bottom, right = (side * step - 0.5 for side, step in zip(values.shape, stride))
    extent = (-0.5, right, bottom, -0.5)
    shown = axes.imshow(values, interpolation="nearest", extent=extent, **options)
    axes.set_xlim(-0.5, size[1] - 0.5)
    axes.set_ylim(size[0] - 0.5, -0.5)
    axes.set_title(title, fontsize=8)
    return shown


def lay_over(
    axes: "Axes", pixels: np.ndarray, values: np.ndarray, stride: Pair, top: float, title: str
) -> Any:
    """Lays a share for each patch over a picture, which is shown in grey.

    Args:
        axes: where.
        pixels: the picture `(height, width, 1 or 3)`, uint8.
        values: `(rows, columns)`, 0 to `top`.
        stride: height and width of a patch in pixels.
        top: value of the brightest colour.
        title: above the picture.

    Returns:
        What `color_bar` takes.
    """
    grey = 0.7 * pixels.mean(axis=-1, keepdims=True)  # so that the colours stay what they mean
    show(axes, grey.astype(np.uint8))
    colors = dict(cmap="inferno", alpha=0.65, vmin=0, vmax=top)
    return show_patches(axes, values, stride, pixels.shape[:2], title, **colors)


def color_bar(figure: "Figure", shown: Any, axes: list["Axes"], label: str) -> None:
    """Adds the one scale that the pictures of `axes` share."""
    bar = figure.colorbar(shown, ax=axes, shrink=0.8, aspect=30, pad=0.02)
    bar.set_label(label, fontsize=8)
    bar.ax.tick_params(labelsize=7)
    bar.solids.set_alpha(1)  # the pictures are see-through, the scale is not
