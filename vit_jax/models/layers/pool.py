"""From tokens to one vector an image."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.layers.attention import attend
from vit_jax.models.layers.linear import Linear, named, split_parts
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.layers.norm import make_norm

POOLS = ("token", "avg", "token_avg", "map", "none")


class AttentionPool(nn.Module):
    """Multi-head attention pooling (MAP): a learned query attends to the tokens, then an MLP.

    Lee et al. (2019), section 3.2; the head of "Scaling Vision Transformers" (Zhai et al. 2022,
    section 3.2) and of SigLIP:  y = proj(attn(latent, x));  y = y + mlp(norm(y)).

    Attributes:
        num_heads: heads of the pooling attention.
        mlp: hyper-parameters of `Mlp`.
        backend: see `attention.attend`.
        weight_init: see `layers.initial`.
    """

    num_heads: int
    mlp: dict[str, Any]
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    backend: str = "auto"
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: jax.Array, return_weights: bool = False
    ) -> jax.Array | tuple[jax.Array, jax.Array]:
        """Pools `(b, n, d)` to `(b, d)`; with `return_weights` also gives `(b, h, n)`.

        Those are the shares of the tokens, head by head.
        """
        b, _, d = x.shape
        heads = (self.num_heads, d // self.num_heads)
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        init = named(nn.initializers.normal(d**-0.5), None, None, "embed")
        latent = self.param("latent", init, (1, 1, d), self.param_dtype)
        drawn = dict(common, weight_init=self.weight_init)
        to_heads, from_heads = ("heads", "head_dim"), ("heads", "head_dim", "embed")
        q = Linear(heads, ("embed", *to_heads), name="q", **drawn)
        kv = Linear((2, *heads), ("embed", "qkv", *to_heads), parts=True, name="kv", **drawn)
        proj = Linear((d,), from_heads, inputs=2, name="proj", **drawn)
        query = jnp.broadcast_to(q(latent), (b, 1, *heads))
        key, value = split_parts(kv(x), ("qkv", *to_heads))
        # One query has no (n, n) weights to avoid, so a fused kernel would gain nothing.
        mixed, weights = attend(
            query.astype(key.dtype), key, value, return_weights=return_weights, backend="xla"
        )
        y = proj(mixed)
        norm = make_norm(self.norm_layer, epsilon=self.norm_eps, name="norm", **common)
        pooled = (y + Mlp(**self.mlp, **common, name="mlp")(norm(y)))[:, 0]
        return (pooled, weights[:, :, 0]) if return_weights else pooled
