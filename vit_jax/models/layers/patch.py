"""Cutting an image into patches and embedding each one; merging neighbouring tokens."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from vit_jax.models.layers.initial import initializers
from vit_jax.models.layers.linear import Linear, named, product
from vit_jax.models.layers.norm import make_norm


def patchify(images: jax.Array, patch: tuple[int, int]) -> jax.Array:
    """Cuts images `(b, h * p, w * q, c)` into rows of pixels `(b, h * w, p * q * c)`."""
    b, height, width, c = images.shape
    p, q = patch
    cut = images.reshape(b, height // p, p, width // q, q, c).swapaxes(2, 3)
    return cut.reshape(b, -1, p * q * c)


def unpatchify(patches: jax.Array, grid: tuple[int, int], patch: tuple[int, int]) -> jax.Array:
    """Puts rows of pixels `(b, h * w, p * q * c)` together to images; inverse of `patchify`."""
    (h, w), (p, q) = grid, patch
    cut = patches.reshape(len(patches), h, w, p, q, -1).swapaxes(2, 3)
    return cut.reshape(len(patches), h * p, w * q, -1)


class PatchEmbed(nn.Module):
    """A linear map of each non-overlapping patch (Dosovitskiy et al. 2021, eq. 1).

    It is a convolution whose stride is its kernel, written as the matrix product it is.

    Attributes:
        patch_size: height and width of a patch in pixels.
        dim: width of a token.
        weight_init: see `layers.initial`.
    """

    patch_size: tuple[int, int]
    dim: int
    use_bias: bool = True
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `(b, h * ph, w * pw, c)` to a grid of tokens `(b, h, w, d)`."""
        (ph, pw), channels = self.patch_size, images.shape[-1]
        draw, inputs = initializers(self.weight_init), ph * pw * channels
        init = named(draw.patch_kernel(inputs), None, None, "channels", "embed")
        kernel = self.param("kernel", init, (ph, pw, channels, self.dim), self.param_dtype)
        bias = None
        if self.use_bias:
            init = named(draw.patch_bias(inputs), "embed")
            bias = self.param("bias", init, (self.dim,), self.param_dtype)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        b, height, width, _ = images.shape
        patches = images.reshape(b, height // ph, ph, width // pw, pw, channels)
        tokens = product(patches.swapaxes(2, 3), kernel, inputs=3)
        return tokens if bias is None else tokens + bias


class PatchMerging(nn.Module):
    """Every two by two tokens become one of twice the width (Liu et al. 2021, section 3.1).

    The four are put side by side: (even row, even column), (odd, even), (even, odd), (odd, odd).
    An odd side is padded with a row or column of zeros.

    Attributes:
        post_norm: the norm comes after the linear map (Swin V2) and not before it.
        norm_eps: its epsilon.
        weight_init: see `layers.initial`.
    """

    post_norm: bool = False
    norm_eps: float = 1e-5
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(b, h, w, d)` to `(b, ceil(h / 2), ceil(w / 2), 2 d)`."""
        b, h, w, d = x.shape
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        norm = make_norm("layernorm", epsilon=self.norm_eps, name="norm", **common)
        axes = ("embed", None)
        linear = dict(common, use_bias=False, weight_init=self.weight_init)
        reduction = Linear((2 * d,), axes, name="reduction", **linear)
        x = jnp.pad(x, ((0, 0), (0, h % 2), (0, w % 2), (0, 0)))
        x = x.reshape(b, (h + 1) // 2, 2, (w + 1) // 2, 2, d).transpose(0, 1, 3, 4, 2, 5)
        x = x.reshape(*x.shape[:3], 4 * d)
        return norm(reduction(x)) if self.post_norm else reduction(norm(x))
