"""Normalisation over the last axis, statistics in at least float32."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.linear import named

NORMS = ("layernorm", "layernorm_nobias", "rmsnorm")


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
    common = dict(
        epsilon=epsilon,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses digits where the mean is large
        scale_init=named(scale_init, axis),
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )
    if kind == "rmsnorm":
        return nn.RMSNorm(**common)
    if kind in ("layernorm", "layernorm_nobias"):
        bias_init = named(nn.initializers.zeros, axis)
        return nn.LayerNorm(use_bias=kind == "layernorm", bias_init=bias_init, **common)
    raise UserError(f"norm_layer={kind!r} is unknown; choose one of {NORMS}")
