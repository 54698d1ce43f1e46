"""Where a layer looks: its attention weights, back on the grid of patches.

Whose attention is shown follows from how the model makes one vector of an image:

| the model has | the query is |
|---|---|
| a class token | the class token (with a distillation token beside it, still the class token) |
| none, and a layer is asked for | every patch; the map is the mean over them |
| attention pooling (MAP), and no layer is asked for | the learned query of the pooling |

The keys are all tokens. What goes to the tokens in front of the patches (class, distillation and
register tokens) is not on the grid; it is kept beside it, so that the two sum to one.
"""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vit_jax.errors import UserError
from vit_jax.visualize.canvas import Pair, color_bar, lay_over, picture_grid, show, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 7


@dataclasses.dataclass(frozen=True)
class AttentionMap:
    """Attention of one query, or the mean of several.

    Attributes:
        patches: the share that goes to each patch `(..., rows, columns)`.
        prefix: the share that goes to each token in front `(..., k)`, in the model's order; empty
            where there are none.
    """

    patches: np.ndarray
    prefix: np.ndarray

    def mean(self) -> "AttentionMap":
        """The mean over the last axis in front of the grid, that of the heads."""
        return AttentionMap(self.patches.mean(axis=-3), self.prefix.mean(axis=-2))

    def __getitem__(self, index: int) -> "AttentionMap":
        """One of the first axis."""
        return AttentionMap(self.patches[index], self.prefix[index])


def on_grid(shares: np.ndarray, grid: Pair, prefix: int = 0) -> AttentionMap:
    """Puts a row of shares `(..., prefix + rows * columns)` on the grid of patches.

    Raises:
        UserError: there are not so many tokens.
    """
    rows, columns = grid
    if shares.shape[-1] != prefix + rows * columns:
        raise UserError(
            f"attention over {shares.shape[-1]} tokens; expected {prefix} in front and "
            f"{rows} x {columns} patches"
        )
    patches = shares[..., prefix:].reshape(*shares.shape[:-1], rows, columns)
    return AttentionMap(patches, shares[..., :prefix])


def queries(weights: np.ndarray, prefix: int, class_token: bool) -> np.ndarray:
    """What is asked for the image as a whole: a row of `(..., n, n)`, or the mean of rows.

    Args:
        weights: rows are queries, columns keys.
        prefix: tokens in front of the patches.
        class_token: the first of them is the class token, whose row it is; else the mean over the
            rows of the patches.

    Returns:
        `(..., n)`.
    """
    return weights[..., 0, :] if class_token else weights[..., prefix:, :].mean(axis=-2)


def attention_map(
    weights: np.ndarray, grid: Pair, prefix: int = 1, class_token: bool = True
) -> AttentionMap:
    """A layer's attention over the patches, head by head.

    Args:
        weights: of one layer `(..., h, n, n)`, as `capture=("attention",)` gives them.
        grid: rows and columns of patches.
        prefix: tokens in front of the patches, `module.num_prefix_tokens`.
        class_token: see `queries`.

    Returns:
        `patches (..., h, rows, columns)` and `prefix (..., h, prefix)`; together they sum to one.

    Raises:
        UserError: the weights are of another number of tokens.
    """
    return on_grid(queries(weights, prefix, class_token), grid, prefix)


def attention_figure(
    picture: np.ndarray,
    heads: AttentionMap,
    stride: Pair,
    title: str,
    only: Sequence[int] | None = None,
) -> "Figure":
    """A picture, the mean over the heads and each head, on one scale.

    Args:
        picture: `(height, width, 1 or 3)`, uint8.
        heads: of all heads, `patches (h, rows, columns)`.
        stride: height and width of a patch in pixels.
        title: above all.
        only: the heads that are shown beside the mean; None for all.
    """
    only = range(len(heads.patches)) if only is None else only
    panels = [("mean of heads", heads.mean()), *((f"head {i}", heads[i]) for i in only)]
    top = max(part.patches.max() for _, part in panels)
    figure, axes = picture_grid(len(panels) + 1, COLUMNS, picture.shape[:2], extra=(0.9, 0.4))
    title_above(figure, title)
    show(axes[0], picture, "picture")
    for place, (name, part) in zip(axes[1:], panels):
        shown = lay_over(place, picture, part.patches, stride, top, name + in_front(part.prefix))
    color_bar(figure, shown, axes, "share of the attention")
    return figure


def in_front(prefix: np.ndarray) -> str:
    """Says what share `(k,)` goes to tokens in front, for a title; nothing where there are none."""
    return f"\n{100 * prefix.sum():.1f} % not on patches" if prefix.size else ""
