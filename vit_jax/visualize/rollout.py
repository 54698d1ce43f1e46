"""Attention rollout: how much of each token is in each other one after several layers.

Abnar & Zuidema, "Quantifying Attention Flow in Transformers" (2020), section 3. A residual
connection passes a token on as it is, so a layer mixes tokens by

    A_l = 0.5 W_l + 0.5 I,  rows divided by their sum

with W_l the attention weights, the heads averaged (Dosovitskiy et al. 2021, appendix D.8), and all
layers together by the product A_L ... A_1. MLPs, norms and values are not in it: it is a picture,
not an account of what the model computes.
"""

from typing import TYPE_CHECKING

import numpy as np

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.visualize.attention import AttentionMap, in_front
from vit_jax.visualize.canvas import Pair, color_bar, lay_over, picture_grid, show, title_above

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FUSIONS = {"mean": np.mean, "max": np.max, "min": np.min}
RANGES = {
    "fusion": ranges.one_of(FUSIONS),
    "discard": ranges.RATE,
}


def rollout(weights: np.ndarray, fusion: str = "mean", discard: float = 0.0) -> np.ndarray:
    """The product of all layers' mixing matrices.

    The two options are those of Gildenblat's vit-explain (2020), which makes clearer pictures with
    them; the papers have neither.

    Args:
        weights: attention of the layers, the first layer first `(depth, ..., h, n, n)`.
        fusion: of the heads: "mean", "max" or "min".
        discard: share of each layer's fused weights that is set to zero before: the smallest.

    Returns:
        `(..., n, n)` in float64: rows are tokens after the last layer and sum to one, columns are
        tokens that entered the first.

    Raises:
        UserError: an option is out of range, or the weights are of another shape.
    """
    ranges.check({"fusion": fusion, "discard": discard}, RANGES)
    if weights.ndim < 4 or weights.shape[-1] != weights.shape[-2]:
        raise UserError(f"weights are {weights.shape}; expected (depth, ..., heads, n, n)")
    n = weights.shape[-1]
    total = np.eye(n)
    for layer in weights:
        fused = FUSIONS[fusion](layer.astype(np.float64), axis=-3)
        mixing = 0.5 * _without_smallest(fused, discard) + 0.5 * np.eye(n)
        total = mixing / mixing.sum(axis=-1, keepdims=True) @ total
    return total


def _without_smallest(weights: np.ndarray, share: float) -> np.ndarray:
    """`(..., n, n)` with that share of the entries of each matrix at zero."""
    flat = weights.reshape(*weights.shape[:-2], -1).copy()
    dropped = int(flat.shape[-1] * share)
    if dropped:
        smallest = np.argpartition(flat, dropped - 1, axis=-1)[..., :dropped]
        np.put_along_axis(flat, smallest, 0.0, axis=-1)
    return flat.reshape(weights.shape)


def rollout_figure(picture: np.ndarray, found: AttentionMap, stride: Pair, title: str) -> "Figure":
    """A picture and what of each patch has come to the output.

    Args:
        picture: `(height, width, 1 or 3)`, uint8.
        found: `patches (rows, columns)`, from `attention.on_grid`.
        stride: height and width of a patch in pixels.
        title: above all.
    """
    figure, axes = picture_grid(2, 2, picture.shape[:2], extra=(0.9, 0.4))
    title_above(figure, title)
    show(axes[0], picture, "picture")
    top = found.patches.max()
    shown = lay_over(
        axes[1], picture, found.patches, stride, top, "rollout" + in_front(found.prefix)
    )
    color_bar(figure, shown, axes, "share of the output")
    return figure
