"""Changing the resolution of position tables and the patch size of an embedding.

A resize is separable: each axis has a matrix `(new, old)` of weights, computed in float64, and a
table `(h, w, d)` becomes `einsum("ih,jw,hwd->ijd", rows, columns, table)`. Sample `i` of the new
axis sits at `(i + 0.5) * old / new - 0.5` of the old one (pixel centres, PyTorch's
`align_corners=False`), and takes what lies around it by the weights of a kernel. The methods:

| name | kernel | equals `torch.nn.functional.interpolate` with |
|---|---|---|
| "bicubic_antialias" | cubic, a = -0.5 | `mode="bicubic", antialias=True, size=` |
| "bicubic" | cubic, a = -0.75 | `mode="bicubic", size=` |
| "bicubic_offset" | cubic, a = -0.75 | `mode="bicubic", scale_factor=(new + 0.1) / old` |
| "bilinear_antialias" | triangle | `mode="bilinear", antialias=True, size=` |

With antialias the kernel is widened by `old / new` where the axis shrinks, and at the border the
weights of what is left are divided by their sum; without, the kernel keeps its width and what is
beyond the border is the border's value.

Which one a model was made with: timm, DINOv2 with registers and DINOv3 take antialias; DINO and
DINOv2 without registers (Caron et al. 2021, Oquab et al. 2023: `interpolate_pos_encoding`) the
offset, whose sampling positions follow the scale factor and not the sizes; the authors of MAE and
Transformers (ViT, DeiT, CLIP, SigLIP, ViTMAE, DINOv2 without registers) plain bicubic; SigLIP 2
NaFlex bilinear with antialias.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError


def cubic(x: np.ndarray, a: float) -> np.ndarray:
    """The cubic convolution kernel (Keys 1981, eq. 15 with its free parameter `a`), 0 from 2 on."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = ((x - 5) * x + 8) * x * a - 4 * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def triangle(x: np.ndarray) -> np.ndarray:
    """The kernel of linear interpolation, 0 from 1 on."""
    return np.maximum(0.0, 1 - np.abs(x))


class Method(NamedTuple):
    """How an axis is resized; see the module's text.

    Attributes:
        kernel: weights at distances in samples of the old axis, 0 from 2 on.
        antialias: the kernel is widened where the axis shrinks.
        offset: added to the new size when the distance of samples is computed.
    """

    kernel: Callable[[np.ndarray], np.ndarray]
    antialias: bool
    offset: float = 0.0


METHODS = {
    "bicubic_antialias": Method(functools.partial(cubic, a=-0.5), antialias=True),
    "bicubic": Method(functools.partial(cubic, a=-0.75), antialias=False),
    "bicubic_offset": Method(functools.partial(cubic, a=-0.75), antialias=False, offset=0.1),
    "bilinear_antialias": Method(triangle, antialias=True),
}


def resize_matrix(old: int, new: int, method: str = "bicubic_antialias") -> np.ndarray:
    """The resize of one axis from `old` to `new` samples, `(new, old)` float64, rows sum to one.

    Raises:
        UserError: unknown method, or a size below 1.
    """
    if method not in METHODS:
        raise UserError(f"resampling {method!r} is unknown; choose one of {tuple(METHODS)}")
    if old < 1 or new < 1:
        raise UserError(f"cannot resample {old} samples to {new}: expected at least 1 of each")
    kernel, antialias, offset = METHODS[method]
    step = old / (new + offset)
    centres = step * (np.arange(new)[:, None] + 0.5) - 0.5
    if antialias:
        weights = kernel((np.arange(old) - centres) / max(step, 1.0))
        return weights / weights.sum(axis=1, keepdims=True)
    around = np.arange(-2, old + 2)  # two samples beyond each border, which show the border
    return kernel(around - centres) @ np.eye(old)[np.clip(around, 0, old - 1)]


def resample_grid(
    table: jax.Array, new_grid: tuple[int, int], method: str = "bicubic_antialias"
) -> jax.Array:
    """Resizes a table `(h, w, d)` to `(new_h, new_w, d)`; one of that size is left as it is.

    Computed in at least float32 and returned in the table's dtype.

    Raises:
        UserError: unknown method, or a side below 1.
    """
    if table.shape[:2] == tuple(new_grid):
        return table
    sides = zip(table.shape[:2], new_grid)
    return _map_axes(table, *(resize_matrix(old, new, method) for old, new in sides))


def _map_axes(table: jax.Array, rows: np.ndarray, columns: np.ndarray) -> jax.Array:
    """`(h, w, ...)` to `(i, j, ...)` by matrices `(i, h)` and `(j, w)`, dtype unchanged."""
    wide = jnp.promote_types(table.dtype, jnp.float32)
    rows, columns = (jnp.asarray(matrix, wide) for matrix in (rows, columns))
    mapped = jnp.einsum(
        "ih,jw,hw...->ij...", rows, columns, table.astype(wide), precision=jax.lax.Precision.HIGHEST
    )
    return mapped.astype(table.dtype)


def resample_pos_embed(
    pos_embed: jax.Array,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int = 0,
    method: str = "bicubic_antialias",
) -> jax.Array:
    """Resizes learned position embeddings to another grid of patches.

    Args:
        pos_embed: `(1, num_prefix_tokens + old_h * old_w, d)`.
        old_grid: rows and columns of patches that the table was made for.
        new_grid: rows and columns wanted; the same as `old_grid`: nothing changes.
        num_prefix_tokens: rows in front (class, distillation, registers), returned untouched.
        method: one of `METHODS`, see the module's text.

    Returns:
        `(1, num_prefix_tokens + new_h * new_w, d)`, dtype unchanged.

    Raises:
        UserError: the table's length is not that of `old_grid` and its prefix; unknown method.
    """
    expected = num_prefix_tokens + old_grid[0] * old_grid[1]
    if pos_embed.shape[1] != expected:
        raise UserError(
            f"a position table for a {old_grid} grid and {num_prefix_tokens} tokens in front has "
            f"{expected} rows, this one has {pos_embed.shape[1]}: check old_grid and "
            "num_prefix_tokens"
        )
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    patches = resample_grid(patches.reshape(*old_grid, -1), new_grid, method)
    return jnp.concatenate([prefix, patches.reshape(1, -1, pos_embed.shape[-1])], axis=1)


def resample_patch_embed(kernel: jax.Array, new_size: tuple[int, int]) -> jax.Array:
    """Pseudo-inverse resize of a patch embedding (FlexiViT, Beyer et al. 2023, section 3.4).

    Finds the kernel that gives, on patches enlarged by the bicubic resize `B` with antialias, the
    tokens the old kernel gave on the originals: `new = pinv(B^T) old`. Exact where the patch grows,
    least squares where it shrinks. `B` is the Kronecker product of its axes, and so is its
    pseudo-inverse.

    Args:
        kernel: `(p_h, p_w, channels, d)`.
        new_size: patch height and width wanted.

    Returns:
        `(new_h, new_w, channels, d)`, dtype unchanged.

    Raises:
        UserError: a side below 1.
    """
    if kernel.shape[:2] == tuple(new_size):
        return kernel
    sides = zip(kernel.shape[:2], new_size)
    return _map_axes(kernel, *(np.linalg.pinv(resize_matrix(old, new).T) for old, new in sides))


def _geometric_offsets(old: int, new: int) -> np.ndarray:
    """Where the offsets of `old` samples lie among those of `new`: steps grow from the middle.

    The steps are 1, q, q^2, ..., with the q in (1.01, 1.5) for which they just reach the last of
    the new offsets. It is found by bisection, to 1e-6, as BEiT's code does.
    """
    half, reach = old // 2, new // 2
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        q = (low + high) / 2
        low, high = (low, q) if (1 - q**half) / (1 - q) > reach else (q, high)
    away = np.cumsum(q ** np.arange(half))
    return np.concatenate([-away[::-1], [0.0], away])


def resample_bias_table(table: jax.Array, window: tuple[int, int]) -> jax.Array:
    """Resizes a table of biases by relative position to another window.

    Neighbouring tokens stay one apart while the window grows, so offsets near the middle keep
    their biases, and those far from it are stretched: linear interpolation between offsets whose
    steps grow geometrically (BEiT, Bao et al. 2022, fine-tuning code; timm's without SciPy).

    Args:
        table: `(2 p - 1, 2 q - 1, h)` for windows of p rows and q columns.
        window: rows and columns wanted; those of the table: nothing changes.

    Returns:
        `(2 window[0] - 1, 2 window[1] - 1, h)`, dtype unchanged.

    Raises:
        UserError: a side of the window is below 1.
    """
    if min(window) < 1:
        raise UserError(f"cannot resample biases to a window of {window}: expected 1 or more")
    sizes = tuple(2 * side - 1 for side in window)
    if table.shape[:2] == sizes:
        return table
    matrices = []
    for old, new in zip(table.shape[:2], sizes):
        wanted = np.arange(new) - new // 2
        places = _geometric_offsets(old, new)
        matrices.append(np.stack([np.interp(wanted, places, row) for row in np.eye(old)], axis=1))
    return _map_axes(table, *matrices)
