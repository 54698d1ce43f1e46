"""Scaled dot-product attention: one function with backends, and the multi-head module over it.

Attention(Q, K, V) = softmax(Q K^T / sqrt(hd)) V   (Vaswani et al. 2017, eq. 1)

| backend | what runs | where |
|---|---|---|
| "xla" | two einsums around a softmax in at least float32; shows and drops weights | all |
| "cudnn" | cuDNN's fused flash attention, through `jax.nn.dot_product_attention` | GPU |
| "pallas" | a kernel for the number of tokens, see `layers.attention_tpu` | TPU |
| "auto" | the choice of `pick_backend` | |

Two variations of the scores, both for "xla" alone: a `bias` is added to them (Swin's relative
positions and masks), and a `scale` of its own takes the place of `1 / sqrt(hd)` (cosine attention).
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.drop import Key, dropout, split
from vit_jax.models.layers.linear import Linear, named, split_parts
from vit_jax.models.layers.norm import make_norm
from vit_jax.models.layers.platform import on_one_cpu, platform
from vit_jax.models.layers.rope import rotate

BACKENDS = ("auto", "xla", "cudnn", "pallas")


def pick_backend(platform: str, query: jax.Array, key: jax.Array, needs_weights: bool) -> str:
    """Chooses the backend for `query (b, n, h, hd)` on `platform` ("cpu", "gpu" or "tpu").

    `key` is `(b, m, h, hd)`; of both only shapes and dtypes are looked at.

    The fused kernels never hold the `(n, n)` weights, so whoever needs them (to look at, to drop
    some, or to change the scores) gets "xla". cuDNN takes 16-bit inputs with a head width up to
    128 that 8 divides.
    """
    if needs_weights or platform == "cpu":
        return "xla"
    if platform == "gpu":
        head_dim = query.shape[-1]
        fits = query.dtype.itemsize == 2 and head_dim % 8 == 0 and head_dim <= 128
        return "cudnn" if fits else "xla"
    if platform == "tpu":
        from vit_jax.models.layers.attention_tpu import pays_where_it_is_traced

        return "pallas" if pays_where_it_is_traced(query, key) else "xla"
    return "xla"


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    bias: jax.Array | None = None,
    scale: jax.Array | None = None,
    drop: float = 0.0,
    drop_key: Key = None,
    return_weights: bool = False,
    backend: str = "auto",
) -> tuple[jax.Array, jax.Array | None]:
    """Attention of every query over every key, head by head.

    Args:
        query: `(b, n, h, hd)`; for "xla" there may be more axes in front, such as one of windows.
        key: `(b, m, h, hd)`.
        value: `(b, m, h, hd)`.
        bias: added to the scaled scores, of a shape that broadcasts to theirs, `(b, h, n, m)`.
        scale: what each head's scores are multiplied by `(h,)`; None for `1 / sqrt(hd)`.
        drop: dropout rate of the attention weights; applied where `drop_key` is given.
        drop_key: random key, or None for evaluation.
        return_weights: also returns the weights.
        backend: one of `BACKENDS`.

    Returns:
        The mixed values `(b, n, h, hd)`, and the weights `(b, h, n, m)` (before dropout) or None.

    Raises:
        UserError: the backend is unknown, does not run on this platform or dtype, cannot give or
            drop the weights, or cannot change the scores.
    """
    if backend not in BACKENDS:
        raise UserError(f"attn_backend={backend!r} is unknown; choose one of {BACKENDS}")
    needs_weights = return_weights or (drop > 0.0 and drop_key is not None)
    changes_scores = bias is not None or scale is not None
    if backend == "auto":
        backend = pick_backend(platform(), query, key, needs_weights or changes_scores)
    if backend == "xla":
        plain = _by_head if on_one_cpu() else _by_token
        options = _Options(bias, scale, drop, drop_key, return_weights)
        return plain(query, key, value, options)
    if changes_scores:
        raise UserError(
            f"attn_backend={backend!r} takes no bias and no scale of the scores, which windowed "
            "and cosine attention need: use 'xla' or 'auto'"
        )
    if needs_weights:
        raise UserError(
            f"attn_backend={backend!r} never forms the attention weights, so it can neither return "
            "nor drop them: use 'xla' or 'auto', or attn_drop_rate=0"
        )
    if backend == "cudnn":
        return _cudnn(query, key, value), None
    from vit_jax.models.layers.attention_tpu import attend_by_kernel

    return attend_by_kernel(query, key, value), None


class _Options(NamedTuple):
    """What `attend` takes besides queries, keys and values."""

    bias: jax.Array | None
    scale: jax.Array | None
    drop: float
    drop_key: Key
    return_weights: bool


def _by_token(
    query: jax.Array, key: jax.Array, value: jax.Array, options: _Options
) -> tuple[jax.Array, jax.Array | None]:
    """Queries, keys and values as they lie, token by token."""
    wide = _wide(query)
    scores = jnp.einsum("...nhd,...mhd->...hnm", query, key, preferred_element_type=wide)
    scores *= _scale(query, options)
    weights = jax.nn.softmax(_biased(scores, options), axis=-1)
    dropped = dropout(weights, options.drop, options.drop_key).astype(value.dtype)
    mixed = jnp.einsum("...hnm,...mhd->...nhd", dropped, value)
    return mixed, weights if options.return_weights else None


def _by_head(
    query: jax.Array, key: jax.Array, value: jax.Array, options: _Options
) -> tuple[jax.Array, jax.Array | None]:
    """The same as a CPU has it fastest.

    Heads come before tokens: each has matrices of its own. Queries `(n, hd)` are scaled in the
    place of scores `(n, m)`; and the softmax's division comes after the sum over the values, so no
    second array of `(n, m)` numbers is made, nor kept for the gradient. (Compiled for a TPU, that
    moves a sixth more bytes, not fewer.)
    """
    wide = _wide(query)
    query, key, value = (x.swapaxes(-3, -2) for x in (query, key, value))
    query = query.astype(wide) * _scale(query, options)
    scores = jnp.einsum("...nd,...md->...nm", query, key, preferred_element_type=wide)
    scores = _biased(scores, options)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(axis=-1, keepdims=True)))
    total = weights.sum(axis=-1, keepdims=True)
    dropped = dropout(weights, options.drop, options.drop_key).astype(value.dtype)
    mixed = jnp.einsum("...nm,...md->...nd", dropped, value, preferred_element_type=wide)
    mixed = (mixed / total).astype(value.dtype).swapaxes(-3, -2)
    return mixed, weights / total if options.return_weights else None


def _wide(x: jax.Array) -> jnp.dtype:
    """What scores, their scale and the softmax are computed in: at least float32."""
    return jnp.promote_types(x.dtype, jnp.float32)


def _scale(query: jax.Array, options: _Options) -> float | jax.Array:
    """What scores are multiplied by: one number, or one for each head `(h, 1, 1)`."""
    if options.scale is None:
        return query.shape[-1] ** -0.5
    return options.scale.astype(_wide(query))[:, None, None]


def _biased(scores: jax.Array, options: _Options) -> jax.Array:
    return scores if options.bias is None else scores + options.bias.astype(scores.dtype)


def _cudnn(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    if platform() != "gpu" or query.dtype.itemsize != 2:
        raise UserError(
            "attn_backend='cudnn' needs a GPU and float16 or bfloat16 computation, this is "
            f"{platform()!r} with {query.dtype}: use 'auto' or 'xla'"
        )
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


MAX_LOGIT_SCALE = 100.0  # Swin V2's learned temperature is kept above 0.01


def unit(x: jax.Array) -> jax.Array:
    """`x / |x|` over the last axis, in at least float32; where `|x|` is below 1e-12, `x / 1e-12`.

    The bound keeps the gradient finite at zero, where the tokens of a padding may be.
    """
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.square(wide).sum(axis=-1, keepdims=True)
    return (wide * jax.lax.rsqrt(jnp.maximum(squared, 1e-24))).astype(x.dtype)


class Attention(nn.Module):
    """Multi-head self-attention with its projections.

    Attributes:
        num_heads: heads; they divide the width.
        qkv_bias: biases on queries, keys and values.
        k_bias: with `qkv_bias=True`, False leaves the keys without one (BEiT, EVA): a constant
            added to every key changes no softmax.
        qk_norm: normalises queries and keys over the head's channels (ViT-22B, section 2).
        cosine: scores are cosines of queries and keys times a learned number for each head, at
            most 100 (Swin V2, Liu et al. 2022, eq. 2).
        proj_bias: bias on the output projection.
        norm_layer: kind of the q/k norm.
        norm_eps: its epsilon.
        attn_drop: dropout rate of the weights.
        proj_drop: dropout rate of the output.
        rope: kind of rotary embedding, or None.
        backend: see `attend`.
        weight_init: see `layers.initial`.
    """

    num_heads: int
    qkv_bias: bool = True
    k_bias: bool = True
    qk_norm: bool = False
    cosine: bool = False
    proj_bias: bool = True
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    attn_drop: float = 0.0
    proj_drop: float = 0.0
    rope: str | None = None
    backend: str = "auto"
    weight_init: str = "vit"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: jax.Array,
        angles: jax.Array | None = None,
        key: Key = None,
        return_weights: bool = False,
        bias: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array | None]:
        """Mixes the tokens `(b, n, d)`, or those of each window `(b, windows, n, d)`.

        `angles (1 or b, patches, hd / 2)` rotate q and k; `bias` is added to the scores (see
        `attend`).

        Returns:
            What came in, mixed, and the attention weights `(b, h, n, n)` or None.
        """
        key_attn, key_proj = split(key, 2)
        q, k, v = self._project(x)
        if self.qk_norm:
            q, k = self._norm("q_norm")(q), self._norm("k_norm")(k)
        if self.rope is not None:
            q, k = rotate(q, angles, self.rope), rotate(k, angles, self.rope)
        scale = None
        if self.cosine:
            q, k, scale = unit(q), unit(k), self._logit_scale()
        mixed, weights = attend(
            q,
            k,
            v,
            bias=bias,
            scale=scale,
            drop=self.attn_drop,
            drop_key=key_attn,
            return_weights=return_weights,
            backend=self.backend,
        )
        out = Linear(
            (x.shape[-1],),
            ("heads", "head_dim", "embed"),
            inputs=2,
            use_bias=self.proj_bias,
            weight_init=self.weight_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="proj",
        )(mixed)
        return dropout(out, self.proj_drop, key_proj), weights

    def _project(self, x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Queries, keys and values, each `(b, n, h, hd)`, from one matrix product.

        Where the tokens of an image are split over devices, each has its queries and all keys and
        values; windows, which need nothing of each other, are split whole.
        """
        heads = (self.num_heads, x.shape[-1] // self.num_heads)
        outputs = ("qkv", "heads", "head_dim")
        qkv = Linear(
            (3, *heads),
            ("embed", *outputs),
            use_bias=self.qkv_bias and self.k_bias,
            parts=True,
            weight_init=self.weight_init,
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name="qkv",
        )(x)
        q, k, v = split_parts(qkv, outputs)
        if self.qkv_bias and not self.k_bias:
            init = named(nn.initializers.zeros, *outputs)
            bias = self.param("qv_bias", init, (2, *heads), self.param_dtype).astype(q.dtype)
            q, v = q + bias[0], v + bias[1]
        own = ("batch", "tokens", *(None,) * (x.ndim - 3), "heads", "head_dim")
        every = ("batch", None, "heads", "head_dim") if x.ndim == 3 else own
        return tuple(
            nn.with_logical_constraint(part, axes)
            for part, axes in zip((q, k, v), (own, every, every))
        )

    def _logit_scale(self) -> jax.Array:
        """What cosines are multiplied by `(h,)`: `exp` of a parameter, 10 at first."""
        init = named(nn.initializers.constant(math.log(10)), "heads")
        logarithm = self.param("logit_scale", init, (self.num_heads,), self.param_dtype)
        return jnp.exp(jnp.minimum(logarithm, math.log(MAX_LOGIT_SCALE)))

    def _norm(self, name: str) -> nn.Module:
        return make_norm(
            self.norm_layer,
            epsilon=self.norm_eps,
            axis="head_dim",
            dtype=self.dtype,
            param_dtype=self.param_dtype,
            name=name,
        )
