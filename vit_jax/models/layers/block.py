"""The transformer block: norms before its branches or after them, in sequence or in parallel."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.layers.attention import Attention
from vit_jax.models.layers.drop import Key, drop_path, split
from vit_jax.models.layers.linear import token_axes
from vit_jax.models.layers.mlp import Mlp
from vit_jax.models.layers.norm import make_norm
from vit_jax.models.layers.platform import on_one_cpu
from vit_jax.models.layers.scale import LayerScale


class Block(nn.Module):
    """One encoder layer on tokens `(b, n, d)`, or on a map of tokens `(b, h, w, d)`.

    In sequence (Dosovitskiy et al. 2021, eq. 2 and 3):

        x = x + attn(norm1(x));  x = x + mlp(norm2(x))

    In parallel (Dehghani et al. 2023, section 2): one norm feeds both, and one residual takes both:

        y = norm1(x);  x = x + attn(y) + mlp(y)

    With the norms after the branches (Swin V2, Liu et al. 2022, fig. 1: "res-post-norm"):

        x = x + norm1(attn(x));  x = x + norm2(mlp(x))

    Each branch passes through LayerScale (where `init_values` is given) and stochastic depth.

    Attributes:
        attention: hyper-parameters of `mixer`.
        mlp: hyper-parameters of `Mlp`.
        mixer: class of the attention: `Attention`, or one that is called like it.
        parallel: attention and MLP side by side.
        post_norm: the norms come after the branches, and their scales start at zero.
        init_values: initial LayerScale gain, or None for no LayerScale.
        stochastic: stochastic depth is on (its rate comes with the call, as it grows with depth).
        capture: what else to return: "tokens" (after the block), "attention" (the weights).
    """

    attention: dict[str, Any]
    mlp: dict[str, Any]
    mixer: type[nn.Module] = Attention
    parallel: bool = False
    post_norm: bool = False
    init_values: float | None = None
    stochastic: bool = False
    capture: tuple[str, ...] = ()
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        position: jax.Array | None,
        key: Key,
        drop_path_rate: jax.Array,
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the tokens, shaped as they came, and what `capture` asks for by name.

        `position` is what the mixer takes after the tokens: rotary angles, or a window's shift.
        """
        keys = split(key, 4)
        x = nn.with_logical_constraint(x, token_axes(x.ndim, "embed"))
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        attn = self.mixer(**self.attention, **common, name="attn")
        mlp = Mlp(**self.mlp, **common, name="mlp")

        def residual(x: jax.Array, branch: jax.Array, scale: str, key: Key) -> jax.Array:
            if self.init_values is not None:
                branch = LayerScale(self.init_values, **common, name=scale)(branch)
            if self.stochastic:
                branch = drop_path(branch, drop_path_rate, key)
            return _by_rows(jnp.add, x, branch)

        norm1, norm2 = self._norm("norm1"), self._norm("norm2")
        y = x if self.post_norm else norm1(x)
        mixed, weights = attn(y, position, keys[0], "attention" in self.capture)
        if self.post_norm:
            x = residual(x, norm1(mixed), "ls1", keys[2])
            x = residual(x, norm2(mlp(x, keys[1])), "ls2", keys[3])
        elif self.parallel:
            x = residual(x, mixed + mlp(y, keys[1]), "ls1", keys[2])
        else:
            x = residual(x, mixed, "ls1", keys[2])
            x = residual(x, mlp(norm2(x), keys[1]), "ls2", keys[3])
        found = {"tokens": x, "attention": weights}
        return x, {name: found[name] for name in self.capture}

    def _norm(self, name: str) -> Callable[[jax.Array], jax.Array]:
        norm = make_norm(
            self.norm_layer,
            epsilon=self.norm_eps,
            scale_init=nn.initializers.zeros if self.post_norm else nn.initializers.ones,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
        return functools.partial(_by_rows, norm)


def _by_rows(function: Callable[..., jax.Array], *tokens: jax.Array) -> jax.Array:
    """`function` of tokens, each a row of a matrix on one CPU.

    Products have them as rows. What an elementwise function has in their shape, XLA computes once
    and keeps; in another shape it computes it again for each that uses it, the gradient of the
    residual stream from the last block on for every block before.
    """
    if not on_one_cpu():
        return function(*tokens)
    shape = tokens[0].shape
    return function(*(x.reshape(-1, shape[-1]) for x in tokens)).reshape(shape)
