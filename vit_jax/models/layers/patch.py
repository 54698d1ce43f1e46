"""Cutting an image into patches and embedding each one."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from vit_jax.models.layers.linear import named


class PatchEmbed(nn.Module):
    """A linear map of each non-overlapping patch (Dosovitskiy et al. 2021, eq. 1).

    It is a convolution whose stride is its kernel, written as the matrix product it is.

    Attributes:
        patch_size: height and width of a patch in pixels.
        dim: width of a token.
    """

    patch_size: tuple[int, int]
    dim: int
    use_bias: bool = True
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `(b, h * ph, w * pw, c)` to a grid of tokens `(b, h, w, d)`."""
        (ph, pw), channels = self.patch_size, images.shape[-1]
        fan_in = nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3)
        init = named(fan_in, None, None, "channels", "embed")
        kernel = self.param("kernel", init, (ph, pw, channels, self.dim), self.param_dtype)
        bias = None
        if self.use_bias:
            init = named(nn.initializers.zeros, "embed")
            bias = self.param("bias", init, (self.dim,), self.param_dtype)
        images, kernel, bias = promote_dtype(images, kernel, bias, dtype=self.dtype)
        b, height, width, _ = images.shape
        patches = images.reshape(b, height // ph, ph, width // pw, pw, channels)
        tokens = jnp.einsum("bhpwqc,pqcd->bhwd", patches, kernel)
        return tokens if bias is None else tokens + bias
