"""Absolute position embeddings: learned or fixed tables added to the tokens.

| name | table | source |
|---|---|---|
| "learn" | one row a token | ViT (Dosovitskiy et al. 2021), appendix D.4, "1-D" |
| "learn_2d" | one row for each grid row plus one for each grid column | the same, "2-D" |
| "sincos_1d" | sine and cosine of the raster index | Vaswani et al. (2017), section 3.5 |
| "sincos_2d" | half the channels for the column, half for the row | MAE (He et al. 2022), A.1 |
| "sincos_2d_table" | the same, kept as a table that no gradient reaches | MAE's checkpoints |
| "none" | nothing is added | |
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.linear import named
from vit_jax.models.layers.resample import resample_grid, resample_pos_embed

POS_EMBEDS = ("learn", "learn_2d", "sincos_1d", "sincos_2d", "sincos_2d_table", "none")
# One row a token among the parameters: the same network, trained or not.
TABLES = ("learn", "sincos_2d_table")
STORED = (*TABLES, "learn_2d")  # resampled for other grids; the other kinds have any grid


def sincos(positions: np.ndarray, dim: int, temperature: float = 10_000.0) -> np.ndarray:
    """`[sin(p w), cos(p w)]`, `w_j = temperature^(-2j/dim)`: `(n,)` to `(n, dim)` float64.

    Raises:
        UserError: `dim` is odd.
    """
    if dim % 2:
        raise UserError(f"a sin-cos embedding needs an even width, got {dim}")
    angles = positions[:, None] * temperature ** (-np.arange(dim // 2) / (dim / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def sincos_table(kind: str, grid: tuple[int, int], dim: int) -> np.ndarray:
    """The fixed table of `grid`, `(h * w, dim)` float64: "sincos_1d" or "sincos_2d".

    Raises:
        UserError: `dim` is no multiple of 4 (2-D) or 2 (1-D).
    """
    if kind == "sincos_1d":
        return sincos(np.arange(grid[0] * grid[1], dtype=np.float64), dim)
    if dim % 4:
        raise UserError(f"a 2-D sin-cos embedding needs a width divisible by 4, got {dim}")
    rows, columns = np.meshgrid(*(np.arange(s, dtype=np.float64) for s in grid), indexing="ij")
    halves = [sincos(axis.ravel(), dim // 2) for axis in (columns, rows)]
    return np.concatenate(halves, axis=1)


class PositionEmbed(nn.Module):
    """The rows to add to the tokens of a grid, for one of `POS_EMBEDS` but "none".

    Attributes:
        kind: see the module's text.
        grid: rows and columns of patches that the learned tables are made for.
        dim: width of a token.
        num_prefix_tokens: rows in front for class, distillation and register tokens. Learned for
            "learn"; zeros (nothing is added) for the other kinds.
        resample: how tables among the parameters are resized for other grids, see
            `layers.resample`.
    """

    kind: str
    grid: tuple[int, int]
    dim: int
    num_prefix_tokens: int = 0
    resample: str = "bicubic_antialias"
    param_dtype: Any = jnp.float32

    def setup(self) -> None:  # noqa: D102
        init = named(nn.initializers.normal(0.02), None, None, "embed")
        rows, columns = self.grid
        if self.kind in TABLES:
            init = init if self.kind == "learn" else named(self._fixed, None, None, "embed")
            shape = (1, self.num_prefix_tokens + rows * columns, self.dim)
            self.table = self.param("table", init, shape, self.param_dtype)
        elif self.kind == "learn_2d":
            self.row = self.param("row", init, (rows, 1, self.dim), self.param_dtype)
            self.column = self.param("column", init, (1, columns, self.dim), self.param_dtype)
        elif self.kind not in ("sincos_1d", "sincos_2d"):
            raise UserError(f"pos_embed={self.kind!r} is unknown; choose one of {POS_EMBEDS}")

    def __call__(self, grid: tuple[int, int]) -> jax.Array:
        """Rows for `grid`, `(1, num_prefix_tokens + h * w, dim)`; stored tables are resampled."""
        if self.kind in TABLES:
            prefix = self.num_prefix_tokens
            table = self.table if self.kind == "learn" else jax.lax.stop_gradient(self.table)
            return resample_pos_embed(table, self.grid, grid, prefix, self.resample)
        if self.kind == "learn_2d":
            row = resample_grid(self.row, (grid[0], 1), self.resample)
            column = resample_grid(self.column, (1, grid[1]), self.resample)
            patches = (row + column).reshape(-1, self.dim)
        else:
            patches = jnp.asarray(sincos_table(self.kind, grid, self.dim))
        return jnp.pad(patches, ((self.num_prefix_tokens, 0), (0, 0)))[None]

    def _fixed(self, key: jax.Array, shape: tuple[int, ...], dtype: Any) -> jax.Array:
        """The table of "sincos_2d_table" `(1, n, dim)`; nothing in it is drawn."""
        del key, shape
        patches = sincos_table("sincos_2d", self.grid, self.dim)
        return jnp.asarray(np.pad(patches, ((self.num_prefix_tokens, 0), (0, 0)))[None], dtype)
