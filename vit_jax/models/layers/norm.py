"""Normalisation over the last axis, statistics in at least float32."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import canonicalize_dtype

from vit_jax.errors import UserError
from vit_jax.models.layers.linear import named
from vit_jax.models.layers.recompute import recomputed, recomputed_with

NORMS = ("layernorm", "layernorm_nobias", "rmsnorm")


@functools.partial(jax.custom_jvp, nondiff_argnums=(1,))
def standardized(x: jax.Array, epsilon: float) -> jax.Array:
    """`(x - mean) / sqrt(variance + epsilon)` over the last axis (Ba et al. 2016, eq. 4).

    Its derivative is written down below: two means, and `y`, which is there, in the place
    of what leads to it.
    """
    return _standardized(x, epsilon)[0]


@standardized.defjvp
def _standardized_jvp(
    epsilon: float, primals: tuple[jax.Array], tangents: tuple[jax.Array]
) -> tuple[jax.Array, jax.Array]:
    y, deviation = _standardized(primals[0], epsilon)
    dx = tangents[0]
    return y, (dx - _mean(dx) - y * _mean(y * dx)) / deviation


def _standardized(x: jax.Array, epsilon: float) -> tuple[jax.Array, jax.Array]:
    centred = x - _mean(x)  # E[x^2] - E[x]^2 would lose digits where the mean is large
    deviation = jnp.sqrt(_mean(jnp.square(centred)) + epsilon)
    return centred / deviation, deviation


def _mean(x: jax.Array) -> jax.Array:
    return jnp.mean(x, axis=-1, keepdims=True)


class LayerNorm(nn.Module):
    """Normalisation over the last axis by mean and variance, then a scale and a bias.

    Attributes:
        epsilon: added to the variance.
        axis: logical name of the last axis.
        use_bias: adds the bias.
        scale_init: draws the scale.
    """

    epsilon: float
    axis: str = "embed"
    use_bias: bool = True
    scale_init: Callable = nn.initializers.ones
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises `(..., d)`."""
        shape = x.shape[-1:]
        scale = self.param("scale", named(self.scale_init, self.axis), shape, self.param_dtype)
        bias = None
        if self.use_bias:
            init = named(nn.initializers.zeros, self.axis)
            bias = self.param("bias", init, shape, self.param_dtype)
        dtype = canonicalize_dtype(x, scale, bias, dtype=self.dtype)

        def normalized(x: jax.Array, scale: jax.Array, bias: jax.Array | None) -> jax.Array:
            wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
            y = standardized(wide, self.epsilon) * scale
            return (y if bias is None else y + bias).astype(dtype)

        return recomputed(normalized)(x, scale, bias)


def make_norm(
    kind: str,
    *,
    epsilon: float,
    axis: str = "embed",
    scale_init: Callable = nn.initializers.ones,
    dtype: Any = None,
    param_dtype: Any = jnp.float32,
    name: str | None = None,
) -> nn.Module:
    """Returns the normalisation layer `kind`.

    Args:
        kind: "layernorm" (Ba et al. 2016), "layernorm_nobias" (scale only), "rmsnorm" (Zhang &
            Sennrich 2019: no centring, scale only).
        epsilon: added to the variance. ViT families differ here (1e-12 to 1e-5), and it shows.
        axis: logical name of the normalised axis.
        scale_init: draws the scale.
        dtype: computation dtype of the result.
        param_dtype: dtype the parameters are drawn in.
        name: name of the submodule.

    Raises:
        UserError: `kind` is not one of `NORMS`.
    """
    common = dict(epsilon=epsilon, dtype=dtype, param_dtype=param_dtype, name=name)
    if kind == "rmsnorm":
        rms_norm = recomputed_with(nn.RMSNorm)
        return rms_norm(scale_init=named(scale_init, axis), use_fast_variance=False, **common)
    if kind in ("layernorm", "layernorm_nobias"):
        use_bias = kind == "layernorm"
        return LayerNorm(axis=axis, use_bias=use_bias, scale_init=scale_init, **common)
    raise UserError(f"norm_layer={kind!r} is unknown; choose one of {NORMS}")
