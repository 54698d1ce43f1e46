"""Two-dimensional rotary position embedding.

Queries and keys are rotated by angles that grow with the row and the column of their patch, so
that their product depends on the difference of positions only (RoFormer, Su et al. 2021, eq. 34,
taken axis by axis). Two conventions are in use:

- "axial" (EVA-02, Fang et al. 2023): integer grid coordinates; neighbouring channels
  `(0, 1), (2, 3), ...` make a pair.
- "dinov3" (Siméoni et al. 2025): patch centres scaled to [-1, 1] on each axis, angles in turns;
  channels `(j, j + hd/2)` make a pair.
"""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError

# Kinds, with the base of their frequencies in the papers.
ROPES = {"axial": 10_000.0, "dinov3": 100.0}


def rope_angles(
    kind: str, grid: tuple[int, int], head_dim: int, temperature: float | None = None
) -> np.ndarray:
    """Angles of the patches of `grid` in raster order, `(h * w, head_dim / 2)` float64, in radians.

    The first half of the columns follows the row of the patch, the second its column.
    `temperature` is the base of the frequencies, None the paper's (`ROPES`).

    Raises:
        UserError: unknown kind, or `head_dim` is no multiple of 4.
    """
    if kind not in ROPES:
        raise UserError(f"rope={kind!r} is unknown; choose one of {tuple(ROPES)} or None")
    if head_dim % 4:
        raise UserError(f"rotary embedding needs a head_dim divisible by 4, got {head_dim}")
    exponents = np.arange(head_dim // 4) / (head_dim // 4)
    frequencies = (ROPES[kind] if temperature is None else temperature) ** -exponents
    axes = [np.arange(size, dtype=np.float64) for size in grid]
    if kind == "dinov3":
        axes = [2 * (axis + 0.5) / size - 1 for axis, size in zip(axes, grid)]
        frequencies = 2 * np.pi * frequencies
    rows, columns = np.meshgrid(*axes, indexing="ij")
    positions = np.stack([rows.ravel(), columns.ravel()], axis=1)
    return (positions[:, :, None] * frequencies).reshape(-1, head_dim // 2)


def rotate(x: jax.Array, angles: jax.Array, kind: str) -> jax.Array:
    """Rotates the last `angles.shape[-2]` tokens of `x`; tokens in front are left alone.

    Args:
        x: queries or keys `(b, n, h, hd)`.
        angles: `(1 or b, patches, hd / 2)`.
        kind: which channels make a pair; see the module's text.
    """
    prefix = x.shape[1] - angles.shape[1]
    wide = jnp.promote_types(x.dtype, jnp.float32)
    cos, sin = (f(angles.astype(wide))[:, :, None, :] for f in (jnp.cos, jnp.sin))
    patches = x[:, prefix:].astype(wide)
    if kind == "axial":
        a, b = patches[..., 0::2], patches[..., 1::2]
        rotated = jnp.stack([a * cos - b * sin, b * cos + a * sin], axis=-1).reshape(patches.shape)
    else:
        a, b = jnp.split(patches, 2, axis=-1)
        rotated = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)
    return jnp.concatenate([x[:, :prefix], rotated.astype(x.dtype)], axis=1)
