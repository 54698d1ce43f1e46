"""Changing the resolution of a position table and the patch size of an embedding."""

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError


def resample_grid(table: jax.Array, new_grid: tuple[int, int]) -> jax.Array:
    """Bicubic resize with antialias of a table `(h, w, d)` to `(new_h, new_w, d)`.

    The same numbers as PyTorch's `interpolate(mode="bicubic", antialias=True)`; computed in at
    least float32 and returned in the table's dtype.
    """
    if table.shape[:2] == tuple(new_grid):
        return table
    wide = table.astype(jnp.promote_types(table.dtype, jnp.float32))
    resized = jax.image.resize(wide, (*new_grid, table.shape[-1]), "bicubic", antialias=True)
    return resized.astype(table.dtype)


def resample_pos_embed(
    pos_embed: jax.Array,
    old_grid: tuple[int, int],
    new_grid: tuple[int, int],
    num_prefix_tokens: int = 0,
) -> jax.Array:
    """Resizes learned position embeddings to another grid of patches.

    Args:
        pos_embed: `(1, num_prefix_tokens + old_h * old_w, d)`.
        old_grid: rows and columns of patches that the table was made for.
        new_grid: rows and columns wanted.
        num_prefix_tokens: rows in front (class, distillation, registers), returned untouched.

    Returns:
        `(1, num_prefix_tokens + new_h * new_w, d)`, dtype unchanged.

    Raises:
        UserError: the table's length is not that of `old_grid` and its prefix.
    """
    expected = num_prefix_tokens + old_grid[0] * old_grid[1]
    if pos_embed.shape[1] != expected:
        raise UserError(
            f"a position table for a {old_grid} grid and {num_prefix_tokens} tokens in front has "
            f"{expected} rows, this one has {pos_embed.shape[1]}: check old_grid and "
            "num_prefix_tokens"
        )
    prefix, patches = pos_embed[:, :num_prefix_tokens], pos_embed[:, num_prefix_tokens:]
    patches = resample_grid(patches.reshape(*old_grid, -1), new_grid)
    return jnp.concatenate([prefix, patches.reshape(1, -1, pos_embed.shape[-1])], axis=1)


def resize_matrix(old: tuple[int, int], new: tuple[int, int]) -> np.ndarray:
    """The bicubic-with-antialias resize as a float64 matrix `(new_h * new_w, old_h * old_w)`."""
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        basis = jnp.eye(old[0] * old[1], dtype=jnp.float64).reshape(*old, -1)
        return np.asarray(resample_grid(basis, new)).reshape(new[0] * new[1], -1)


def resample_patch_embed(kernel: jax.Array, new_size: tuple[int, int]) -> jax.Array:
    """Pseudo-inverse resize of a patch embedding (FlexiViT, Beyer et al. 2023, section 3.4).

    Finds the kernel that gives, on patches enlarged by the resize `B`, the tokens the old kernel
    gave on the originals: `new = pinv(B^T) old`. Exact where the patch grows, least squares where
    it shrinks.

    Args:
        kernel: `(p_h, p_w, channels, d)`.
        new_size: patch height and width wanted.

    Returns:
        `(new_h, new_w, channels, d)`, dtype unchanged.
    """
    old_size = kernel.shape[:2]
    if old_size == tuple(new_size):
        return kernel
    solve = np.linalg.pinv(resize_matrix(old_size, new_size).T)
    flat = kernel.reshape(old_size[0] * old_size[1], -1)
    wide = jnp.promote_types(kernel.dtype, jnp.float32)
    resized = jnp.asarray(solve, wide) @ flat.astype(wide)
    return resized.reshape(*new_size, *kernel.shape[2:]).astype(kernel.dtype)
