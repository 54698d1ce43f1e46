"""The block's feed-forward part: two linear maps, or a gated pair (SwiGLU)."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.layers.activation import get_activation
from vit_jax.models.layers.drop import Key, dropout, split
from vit_jax.models.layers.initial import initializers
from vit_jax.models.layers.linear import Linear, split_parts, token_axes
from vit_jax.models.layers.recompute import recomputed_inside, recomputed_with

MLPS = ("mlp", "swiglu")


class Mlp(nn.Module):
    """`fc2(act(fc1(x)))`, or with `gated`, `fc2(act(gate) * value)` where `fc1` yields both.

    The gated form with SiLU is SwiGLU (Shazeer 2020, eq. 6); its `fc1` kernel is
    `(d, 2, hidden)`, gate first.

    Attributes:
        hidden: width of what enters `fc2`.
        activation: a name of `activation.ACTIVATIONS`.
        gated: two projections in, multiplied.
        drop: dropout rate after the activation and after `fc2`.
        weight_init: see `layers.initial`.
    """

    hidden: int
    activation: str = "gelu"
    gated: bool = False
    use_bias: bool = True
    drop: float = 0.0
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, key: Key = None) -> jax.Array:
        """Maps `(..., d)` to `(..., d)`."""
        key_hidden, key_out = split(key, 2)
        common = dict(
            use_bias=self.use_bias,
            weight_init=self.weight_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
        )
        bias = initializers(self.weight_init).mlp_bias
        act = recomputed_inside(get_activation(self.activation))
        if self.gated:
            axes = ("embed", None, "mlp")
            fc1 = Linear((2, self.hidden), axes, parts=True, name="fc1", **common)
        else:
            fc1 = Linear((self.hidden,), ("embed", "mlp"), bias_init=bias, name="fc1", **common)
        fc2 = Linear((x.shape[-1],), ("mlp", "embed"), bias_init=bias, name="fc2", **common)

        def activate_and_project(fc2: Linear, h: jax.Array, key: Key) -> jax.Array:
            if self.gated:
                gate, value = split_parts(h, (None, "mlp"))
                h = act(gate) * value
            else:
                h = act(h)
            h = nn.with_logical_constraint(h, token_axes(h.ndim, "mlp"))
            return fc2(dropout(h, self.drop, key))

        if self.drop == 0.0 or key is None:  # random numbers are not cheap to draw again
            activate_and_project = recomputed_with(activate_and_project)
        return dropout(activate_and_project(fc2, fc1(x), key_hidden), self.drop, key_out)
