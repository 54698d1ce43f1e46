"""How far a head looks: mean attention distance, the transformer's size of a receptive field.

Dosovitskiy et al. 2021, appendix D.7 and figure 11: the distance in pixels between a patch and the
patches it attends to, weighted by the attention, and averaged over patches and images.

Tokens in front of the patches have no place in the picture. They are left out, both as queries and
as keys, so that this is the mean over the attention that goes from patches to patches;
`prefix_share` says how much that leaves out. The paper does not say what it does with them.
"""

from typing import TYPE_CHECKING

import numpy as np

from vit_jax.errors import UserError
from vit_jax.visualize.canvas import Pair, new_figure, title_above

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def patch_distances(grid: Pair, stride: Pair) -> np.ndarray:
    """Pixels between the centres of each two patches `(n, n)`, in raster order, float64.

    Args:
        grid: rows and columns of patches.
        stride: height and width of a patch in pixels.
    """
    places = np.indices(grid).reshape(2, -1).T * np.asarray(stride, np.float64)
    return np.sqrt(np.square(places[:, None] - places).sum(axis=-1))


def attention_distance(
    weights: np.ndarray, grid: Pair, stride: Pair, prefix: int = 0
) -> np.ndarray:
    """Mean distance in pixels of each head's attention.

    Args:
        weights: attention `(..., n, n)`, rows are queries and sum to one.
        grid: rows and columns of patches.
        stride: height and width of a patch in pixels.
        prefix: tokens in front of the patches.

    Returns:
        `(...)`, float64; NaN for a head whose patches attend to no patch at all.

    Raises:
        UserError: the weights are of another number of tokens.
    """
    n = prefix + grid[0] * grid[1]
    if weights.shape[-2:] != (n, n):
        raise UserError(
            f"attention of {weights.shape[-2:]} tokens; expected {prefix} in front and {grid[0]} x "
            f"{grid[1]} patches, ({n}, {n})"
        )
    between = weights[..., prefix:, prefix:]
    far = np.einsum("...qk,qk->...", between, patch_distances(grid, stride))
    mass = between.sum(axis=(-2, -1), dtype=np.float64)
    return np.divide(far, mass, out=np.full(mass.shape, np.nan), where=mass > 0)


def prefix_share(weights: np.ndarray, prefix: int) -> np.ndarray:
    """The share of patches' attention `(..., n, n)` that goes to tokens in front: `(...)`."""
    return weights[..., prefix:, :prefix].sum(axis=-1, dtype=np.float64).mean(axis=-1)


def distance_figure(
    distances: np.ndarray, shares: np.ndarray | None, diagonal: float, title: str
) -> "Figure":
    """Points for each head over the layers (figure 11), and what went to tokens in front.

    Args:
        distances: `(depth, h)` in pixels, averaged over images.
        shares: `(depth, h)` from `prefix_share`, or None where there are no such tokens.
        diagonal: of the image in pixels, a bound on every distance; the scale ends there.
        title: above all.
    """
    figure = new_figure(4.6 if shares is None else 8.4, 3.6)
    title_above(figure, title)
    axes = figure.subplots(1, 1 if shares is None else 2, squeeze=False)[0]
    _points(axes[0], distances, "mean attention distance (pixels)", diagonal)
    if shares is not None:
        _points(axes[1], 100 * shares, "attention to tokens in front (%)", 100)
    return figure


def _points(axes: "Axes", values: np.ndarray, label: str, top: float) -> None:
    depth, heads = values.shape
    layers = np.arange(depth).repeat(heads)
    which = np.tile(np.arange(heads), depth)
    axes.scatter(layers, values.ravel(), c=which, cmap="viridis", s=14)
    axes.set_xlabel("layer (a point a head)", fontsize=8)
    axes.set_ylabel(label, fontsize=8)
    axes.set_ylim(-0.02 * top, top)
    axes.set_xticks(np.arange(0, depth, max(1, depth // 12)))
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.3)
