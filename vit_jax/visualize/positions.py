"""What positions a model tells apart: cosines of the rows of its position table.

Dosovitskiy et al. 2021, figure 7 (middle): one tile for each patch, at the place of that patch; in
the tile, the cosine of its row with the row of every other patch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.vit import VisionTransformer
from vit_jax.visualize.canvas import color_bar, new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def position_table(module: VisionTransformer, params: Mapping[str, Any]) -> np.ndarray:
    """The rows that are added to the patches, `(rows, columns, d)`; learned or computed.

    Rows for tokens in front are left out: they are of no place.

    Raises:
        UserError: the model adds none.
    """
    if module.pos_embed == "none":
        rotary = f", it rotates queries and keys (rope={module.rope!r})" if module.rope else ""
        raise UserError(f"the model has no position embeddings to compare{rotary}")
    grid = module.grid()
    rows = module.apply({"params": params}, method=lambda bound: bound.positions(grid))
    return np.asarray(rows[0, module.pos_prefix_tokens :], np.float64).reshape(*grid, -1)


def similarity(table: np.ndarray) -> np.ndarray:
    """Cosine of each two vectors of a grid `(rows, columns, d)`.

    Returns:
        `(rows, columns, rows, columns)`: `[i, j]` is the tile of the patch in row i, column j.

    Raises:
        UserError: a vector is zero and has no direction.
    """
    rows, columns, _ = table.shape
    length = np.linalg.norm(table, axis=-1, keepdims=True)
    if not length.all():
        row, column, _ = np.argwhere(length == 0)[0]
        raise UserError(
            f"the position embedding of row {row}, column {column} is zero: it has no direction"
        )
    unit = (table / length).reshape(rows * columns, -1)
    return (unit @ unit.T).reshape(rows, columns, rows, columns)


def positions_figure(similarities: np.ndarray, title: str) -> "Figure":
    """One tile a patch, on one scale.

    Args:
        similarities: from `similarity`.
        title: above all.
    """
    sheet = mosaic(similarities)
    height, width = (6.0 * side / max(sheet.shape) for side in sheet.shape)
    figure = new_figure(max(width, 2.0) + 1.6, max(height, 2.0) + 0.7)
    title_above(figure, title)
    axes = figure.subplots()
    shown = axes.imshow(sheet, cmap="viridis", vmin=-1, vmax=1, interpolation="nearest")
    axes.set_xticks(*_ticks(similarities.shape[1]), fontsize=7)
    axes.set_yticks(*_ticks(similarities.shape[0]), fontsize=7)
    axes.set_xlabel("column of the patch", fontsize=8)
    axes.set_ylabel("row of the patch", fontsize=8)
    for side in axes.spines.values():
        side.set_visible(False)
    color_bar(figure, shown, [axes], "cosine similarity")
    return figure


def mosaic(tiles: np.ndarray) -> np.ndarray:
    """Tiles `(rows, columns, h, w)` side by side, a gap of NaN between: one picture."""
    rows, columns, h, w = tiles.shape
    framed = np.pad(tiles, [(0, 0), (0, 0), (0, 1), (0, 1)], constant_values=np.nan)
    return framed.swapaxes(1, 2).reshape(rows * (h + 1), columns * (w + 1))[:-1, :-1]


def _ticks(side: int) -> tuple[np.ndarray, list[str]]:
    """Places of the middles of tiles along one side, and their numbers; not more than 15.

    A tile is as many pixels wide as there are tiles along its side.
    """
    shown = range(0, side, -(-side // 15))
    return np.array([i * (side + 1) + (side - 1) / 2 for i in shown]), [str(i) for i in shown]
