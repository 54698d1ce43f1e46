"""What the patch embedding looks for: its filters, and their principal components.

Dosovitskiy et al. 2021, figure 7 (left): the first 28 principal components of the learned filters
look like a basis of the low frequencies of a patch.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer
from vit_jax.visualize.canvas import picture_grid, show, title_above
from vit_jax.visualize.components import principal_components

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPONENTS = 28  # of figure 7
SHOWN = 112  # raw filters


def patch_filters(
    module: VisionTransformer | SwinTransformer, params: Mapping[str, Any]
) -> np.ndarray:
    """The filters `(d, p, q, c)` of the patch embedding: rows, columns, channels of pixels.

    Raises:
        UserError: they are not of pixels, or of pixels that have no colour to show.
    """
    if getattr(module, "resnet_layers", None) is not None:
        raise UserError(
            "the patch embedding of this model works on features of a ResNet, not on pixels: its "
            "filters are no pictures"
        )
    if module.in_chans not in (1, 3):
        raise UserError(
            f"filters of {module.in_chans} channels have no colours; expected 1 or 3 channels"
        )
    return np.moveaxis(np.asarray(params["patch_embed"]["kernel"], np.float64), -1, 0)


def principal_filters(filters: np.ndarray, count: int = COMPONENTS) -> np.ndarray:
    """The first principal components `(k, p, q, c)` of filters `(d, p, q, c)`.

    There are no more than filters, or numbers in a filter: k may be less than `count`.
    """
    vectors = filters.reshape(len(filters), -1)
    found = principal_components(vectors, min(count, *vectors.shape))
    return found.directions.reshape(-1, *filters.shape[1:])


def to_colors(filters: np.ndarray) -> np.ndarray:
    """Filters `(k, p, q, c)` as colours, 0 to 1, on one scale: grey is zero.

    The largest weight of all is black or white in its channel.
    """
    return 0.5 + 0.5 * filters / max(np.abs(filters).max(), np.finfo(np.float64).tiny)


def filters_figure(filters: np.ndarray, title: str, columns: int = 14) -> "Figure":
    """Filters side by side, in their order.

    Args:
        filters: `(k, p, q, 1 or 3)`.
        title: above all.
        columns: filters in a row.
    """
    figure, axes = picture_grid(len(filters), columns, filters.shape[1:3], inch=0.55, title=0.05)
    title_above(figure, title)
    for place, colors in zip(axes, to_colors(filters)):
        show(place, colors)
    return figure
