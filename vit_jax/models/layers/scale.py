"""LayerScale."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.layers.linear import named


class LayerScale(nn.Module):
    """One learned gain a channel on a residual branch (CaiT, Touvron et al. 2021, eq. 4).

    Attributes:
        init_value: where each gain starts; small, so that a deep network starts near the identity.
    """

    init_value: float
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Scales `(..., d)` by `gamma (d,)`."""
        init = named(nn.initializers.constant(self.init_value), "embed")
        gamma = self.param("gamma", init, (x.shape[-1],), self.param_dtype)
        return x * gamma.astype(self.dtype or jnp.result_type(x, gamma))
