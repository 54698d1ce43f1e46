"""Self-attention within windows of a map of tokens (Swin, Liu et al. 2021, section 3.2).

A map `(b, h, w, d)` is cut into windows of n tokens, and each token attends to its own window:
the cost is `h * w * n`, linear in the number of tokens. In every second block the map is first
moved up and left by half a window (figure 4), cyclically, so that the windows lie across the
borders of the block before; a mask keeps apart what was not side by side before the move.

A map that windows do not divide is padded with zeros below and to the right, and then moved, as
the authors' code for detection and Transformers do. The padding is attended to like any token.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.attention import Attention
from vit_jax.models.layers.drop import Key
from vit_jax.models.layers.linear import Linear, named, token_axes

Pair = tuple[int, int]
Shift = tuple[int, int] | jax.Array  # (rows, columns); an array where blocks are scanned
POSITIONS = ("table", "log")
APART = -100.0  # added to the score of two tokens that the mask keeps apart, as in the originals
LOG_BIAS_HIDDEN = 512  # width of the network that gives Swin V2's biases
LOG_BIAS_MAX = 16.0  # which are at most this large


def pad_to(x: jax.Array, multiple: Pair) -> jax.Array:
    """Pads a map `(b, h, w, d)` with zeros below and to the right, to multiples of two sizes."""
    _, h, w, _ = x.shape
    return jnp.pad(x, ((0, 0), (0, -h % multiple[0]), (0, -w % multiple[1]), (0, 0)))


def to_windows(x: jax.Array, window: Pair) -> jax.Array:
    """Cuts a map `(b, h, w, d)` into windows `(b, windows, n, d)`, in raster order."""
    b, h, w, d = x.shape
    p, q = window
    x = x.reshape(b, h // p, p, w // q, q, d).swapaxes(2, 3)
    return x.reshape(b, -1, p * q, d)


def _by_window(x: jax.Array) -> jax.Array:
    """Windows `(b, windows, n, d)`, each whole on a device, and their gradient alike.

    The gradients of the projections' kernels sum over images and windows. Where one factor of them
    is split by windows and the other in a way that a reshape of the map brought along, XLA leaves
    out the sum over another axis of the mesh (seen with jaxlib 0.10.2).
    """
    return nn.with_logical_constraint(x, token_axes(x.ndim, "embed"))


def from_windows(x: jax.Array, window: Pair, grid: Pair) -> jax.Array:
    """Puts windows `(b, windows, n, d)` together to maps `(b, *grid, d)`."""
    (h, w), (p, q), d = grid, window, x.shape[-1]
    x = x.reshape(-1, h // p, w // q, p, q, d).swapaxes(2, 3)
    return x.reshape(-1, h, w, d)


def shift_mask(grid: Pair, window: Pair, shift: Shift) -> jax.Array:
    """What is added to scores after a move by `shift`: 0 or `APART`, `(windows, 1, n, n)`.

    The move brings the first rows and columns behind the last ones: in a window, a token of these
    does not see the others. Their number is the area of the map times n, never its square.
    """
    rows, columns = (jnp.arange(side) >= side - s for side, s in zip(grid, shift))
    regions = 2 * rows[:, None].astype(jnp.int32) + columns
    regions = to_windows(regions.reshape(1, *grid, 1), window)[0]
    apart = regions != regions.swapaxes(1, 2)
    return jnp.where(apart, APART, 0.0)[:, None]


def relative_index(window: Pair) -> np.ndarray:
    """For each two tokens of a window, the place of their offset `(n, n)`.

    Offsets of rows and columns are counted from `(1 - p, 1 - q)` on, in raster order.
    """
    rows, columns = (axis.ravel() for axis in np.indices(window))
    down, across = (axis[:, None] - axis for axis in (rows, columns))
    p, q = window
    return (down + p - 1) * (2 * q - 1) + across + q - 1


class TableBias(nn.Module):
    """A learned bias for each offset of two tokens and each head (Liu et al. 2021, eq. 4).

    Attributes:
        window: rows and columns of a window.
        num_heads: heads, h.
    """

    window: Pair
    num_heads: int
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> jax.Array:
        """Biases `(1, h, n, n)`."""
        init = named(nn.initializers.normal(0.02), None, None, "heads")
        shape = (2 * self.window[0] - 1, 2 * self.window[1] - 1, self.num_heads)
        table = self.param("table", init, shape, self.param_dtype)
        biases = table.reshape(-1, self.num_heads)[relative_index(self.window)]
        return jnp.moveaxis(biases, -1, 0)[None]


def log_offsets(window: Pair, trained: Pair) -> np.ndarray:
    """Offsets of two tokens on a logarithmic scale `(2 p - 1, 2 q - 1, 2)`, float64.

    Liu et al. 2022, eq. 4, as in the authors' code: the largest offset of the windows that the
    model was trained with is 8 before the logarithm, `log2(1 + 8) / log2(8) = 1.06` after it.
    """
    axes = []
    for size, reference in zip(window, trained):
        offsets = 8 * np.arange(1.0 - size, size) / max(reference - 1, 1)
        axes.append(np.sign(offsets) * np.log2(1 + np.abs(offsets)) / np.log2(8))
    return np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)


class LogBias(nn.Module):
    """The bias of an offset from a small network: any window has one (Liu et al. 2022, eq. 3).

    16 sigmoid(fc2(relu(fc1(offset)))), the offset on a logarithmic scale.

    Attributes:
        window: rows and columns of a window.
        num_heads: heads, h.
        trained: rows and columns of the windows in pre-training, which the scale is relative to.
        weight_init: see `layers.initial`.
    """

    window: Pair
    num_heads: int
    trained: Pair
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self) -> jax.Array:
        """Biases `(1, h, n, n)`."""
        common = dict(weight_init=self.weight_init, dtype=self.dtype, param_dtype=self.param_dtype)
        offsets = jnp.asarray(log_offsets(self.window, self.trained))
        hidden = Linear((LOG_BIAS_HIDDEN,), (None, None), name="fc1", **common)(offsets)
        fc2 = Linear((self.num_heads,), (None, "heads"), use_bias=False, name="fc2", **common)
        biases = fc2(nn.relu(hidden)).reshape(-1, self.num_heads)
        biases = biases.astype(jnp.promote_types(biases.dtype, jnp.float32))
        biases = LOG_BIAS_MAX * nn.sigmoid(biases)[relative_index(self.window)]
        return jnp.moveaxis(biases, -1, 0)[None]


class WindowAttention(nn.Module):
    """Attention within windows, with biases by relative position.

    Attributes:
        attention: hyper-parameters of `Attention`.
        window: rows and columns of a window.
        position: where biases come from: "table" (`TableBias`) or "log" (`LogBias`).
        trained: see `LogBias`.
    """

    attention: dict[str, Any]
    window: Pair
    position: str = "table"
    trained: Pair | None = None
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        shift: Shift = (0, 0),
        key: Key = None,
        return_weights: bool = False,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Mixes a map `(b, h, w, d)`, moved by `shift` rows and columns.

        Returns:
            `(b, h, w, d)`, and the attention weights `(b * windows, h, n, n)` or None.
        """
        height, width = x.shape[1:3]
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        attention = Attention(**self.attention, **common)
        nn.share_scope(self, attention)
        x = pad_to(x, self.window)
        grid = x.shape[1:3]
        bias = self._bias(common)
        moved = isinstance(shift, jax.core.Tracer) or any(shift)
        if moved:
            x = jnp.roll(x, [-s for s in shift], axis=(1, 2))
            bias = bias + shift_mask(grid, self.window, shift).astype(bias.dtype)
        windows = _by_window(to_windows(x, self.window))
        mixed, weights = attention(windows, None, key, return_weights, bias)
        x = from_windows(_by_window(mixed), self.window, grid)
        if moved:
            x = jnp.roll(x, list(shift), axis=(1, 2))
        if weights is not None:
            weights = weights.reshape(-1, *weights.shape[2:])
        return x[:, :height, :width], weights

    def _bias(self, common: dict[str, Any]) -> jax.Array:
        """Biases by relative position `(1, h, n, n)`."""
        options = dict(window=self.window, num_heads=self.attention["num_heads"], name="rel_pos")
        if self.position == "table":
            return TableBias(**options, **common)()
        if self.position == "log":
            options["weight_init"] = self.attention.get("weight_init", LogBias.weight_init)
            return LogBias(**options, trained=self.trained or self.window, **common)()
        raise UserError(f"position={self.position!r} is unknown; choose one of {POSITIONS}")
