"""Tiny models whose every parameter is drawn, and what a figure looks like."""

import functools

import numpy as np

from vit_jax import models
from vit_jax.convert import params
from vit_jax.convert.folder import Model

GRID, STRIDE = (3, 5), (4, 2)  # of the plain models: no two sizes are the same
VIT = dict(img_size=(12, 10), patch_size=STRIDE, embed_dim=16, depth=2, num_heads=2, num_classes=3)
MAE = dict(VIT, num_classes=0, decoder_embed_dim=8, decoder_depth=1, decoder_num_heads=2)
# Maps of 5 x 3 and 3 x 2 tokens, beyond the picture's edges in the second stage.
SWIN = dict(img_size=(20, 12), embed_dim=8, depths=(2, 1), num_heads=(2, 2), window_size=2)


def vit(**options):
    return drawn("vit_tiny_patch16_224", **{**VIT, **options})


def drawn(name, **options):
    module = models.create_model(name, **options)
    tree, rng = params.allocate(module, np.float32), np.random.default_rng(0)
    for leaf in params.by_path(tree).values():
        leaf[...] = 0.5 * rng.normal(size=leaf.shape)
    return Model(module, tree, models.preprocessing(name))


def one_bright_patch(row, column):
    """A dark image `(1, 12, 10, 3)` that is bright in one patch."""
    image = np.full((1, *VIT["img_size"], 3), -1.0, np.float32)
    (p, q) = STRIDE
    image[:, row * p : (row + 1) * p, column * q : (column + 1) * q] = 1.0
    return image


@functools.lru_cache(maxsize=1)
def rendered(figure):
    """What a figure looks like `(height, width, 3)`, 0 to 1."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3] / 255


def cells(figure, axes, grid):
    """The mean colour of each cell of a panel that is cut into `grid`, `(rows, columns, 3)`."""
    pixels, (rows, columns) = rendered(figure), grid
    box = axes.get_window_extent()
    top = len(pixels) - box.y1
    found = np.empty((rows, columns, 3))
    for i, j in np.ndindex(rows, columns):  # the middle half of each, clear of its neighbours
        y0, y1 = (int(top + box.height * (i + s) / rows) for s in (0.25, 0.75))
        x0, x1 = (int(box.x0 + box.width * (j + s) / columns) for s in (0.25, 0.75))
        found[i, j] = pixels[y0:y1, x0:x1].mean(axis=(0, 1))
    return found


def texts_inside(figure):
    """Everything that is drawn, texts above all, lies within the figure; returns the texts."""
    figure.draw_without_rendering()
    box = figure.get_tightbbox()  # inches
    assert box.x0 >= -0.01 and box.y0 >= -0.01, box
    assert box.x1 <= figure.get_figwidth() + 0.01 and box.y1 <= figure.get_figheight() + 0.01, box
    found = figure.findobj(lambda x: hasattr(x, "get_text"))
    return [text.get_text() for text in found if text.get_text().strip()]
