"""Attention on TPUs by kernels, each device on its own examples, heads and queries.

| tokens | kernel |
|---|---|
| few, such that the scores of a head fit into vector memory | `short_attention.attend_at_once` |
| many | the flash attention that ships with JAX |

XLA cannot split a kernel by itself: on a mesh it runs under `jax.shard_map`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError
from vit_jax.models.layers.platform import device_kind, devices_along
from vit_jax.models.layers.short_attention import attend_at_once, heads_at_once

WITHOUT_KERNELS = ("TPU v2", "TPU v3")
FLASH_BLOCK = 128  # flash attention works on blocks of this many tokens
FLASH_MIN_TOKENS = 1024  # from here on the (n, n) weights outgrow what flash attention needs


def a_kernel_pays(query: Any, key: Any, device_kind: str) -> bool:
    """Whether a kernel moves fewer bytes than XLA's own products and softmax, on one device.

    Args:
        query: `(b, n, h, hd)`, of which only shape and dtype are looked at.
        key: `(b, m, h, hd)`.
        device_kind: of the chip, such as "TPU v5 lite"; the oldest cannot multiply numbers of 16
            bits in a kernel.
    """
    if device_kind.startswith(WITHOUT_KERNELS) or query.dtype not in (jnp.bfloat16, jnp.float32):
        return False
    if len(query.shape) != 4:
        return False
    return query.shape[1] >= FLASH_MIN_TOKENS or _fit_at_once(query, key)


def pays_where_it_is_traced(query: jax.Array, key: jax.Array) -> bool:
    """Whether a kernel pays on the devices that are computed on, each with its part of the batch.

    It has to be known how the examples are split: XLA does not split a kernel, and one that is told
    nothing would compute all of them on every device. Of few tokens whose queries are split XLA's
    products are better, as it can split any number.
    """
    own_query, own_key = _part_of(query), _part_of(key)
    if own_query is None or not a_kernel_pays(own_query, own_key, device_kind()):
        return False
    return query.shape[1] >= FLASH_MIN_TOKENS or devices_along("tokens") == 1


def _part_of(x: jax.Array) -> Any:
    """What one device has of `(b, n, h, hd)`, all tokens; None: that is not known, or not even."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return x if jax.device_count() == 1 else None  # the arrays may lie on several
    if mesh.size == 1:
        return x
    if x.ndim != 4 or not nn.get_logical_axis_rules():
        return None
    examples, tokens, heads, head_dim = x.shape
    own_examples, odd_examples = divmod(examples, devices_along("batch"))
    own_heads, odd_heads = divmod(heads, devices_along("heads"))
    if odd_examples or odd_heads:
        return None
    return jax.ShapeDtypeStruct((own_examples, tokens, own_heads, head_dim), x.dtype)


def attend_by_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) V.

    Args:
        query: `(b, n, h, hd)`.
        key: `(b, m, h, hd)`.
        value: `(b, m, h, hd)`.

    Returns:
        What is mixed `(b, n, h, hd)`.

    Raises:
        UserError: they have other axes, or the devices of a mesh cannot split them evenly.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if query.ndim != 4:
        raise UserError(
            f"attn_backend='pallas' takes queries (b, n, h, hd), these are {query.shape}: use 'xla'"
        )
    batch, heads = devices_along("batch"), devices_along("heads")
    if query.shape[0] % batch or query.shape[2] % heads:
        raise UserError(
            f"attn_backend='pallas' cannot split {query.shape[0]} examples over {batch} "
            f"devices and {query.shape[2]} heads over {heads}: use 'auto' or 'xla'"
        )
    if mesh.empty or mesh.size == 1:
        return _on_one_device(query, key, value)
    own = "tokens" if query.shape[1] % devices_along("tokens") == 0 else None
    queries = nn.logical_to_mesh_axes(("batch", own, "heads", None))
    every = nn.logical_to_mesh_axes(("batch", None, "heads", None))
    local = jax.shard_map(
        _on_one_device, in_specs=(queries, every, every), out_specs=queries, check_vma=False
    )
    return local(query, key, value)


def _fit_at_once(query: Any, key: Any) -> bool:
    """Whether the scores fit into vector memory, some heads at once."""
    few = query.shape[1] < FLASH_MIN_TOKENS and query.shape == key.shape
    return few and heads_at_once(*query.shape[1:], query.dtype.itemsize) is not None


def _on_one_device(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    if _fit_at_once(query, key):
        merged = (x.reshape(*x.shape[:2], -1) for x in (query, key, value))
        return attend_at_once(*merged, query.shape[2]).reshape(query.shape)
    return _flash(query, key, value)


def _flash(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Pads the tokens to whole blocks; the padding is a segment that no real token attends to."""
    from jax.experimental.pallas.ops.tpu import flash_attention as flash

    def prepare(x: jax.Array) -> tuple[jax.Array, jax.Array]:
        missing = -x.shape[1] % FLASH_BLOCK
        real = jnp.ones((x.shape[0], x.shape[1]), jnp.int32)
        padded = jnp.pad(x, ((0, 0), (0, missing), (0, 0), (0, 0)))
        return padded.swapaxes(1, 2), jnp.pad(real, ((0, 0), (0, missing)))

    (q, q_segments), (k, kv_segments), (v, _) = map(prepare, (query, key, value))
    mixed = flash.flash_attention(
        q, k, v, segment_ids=flash.SegmentIds(q_segments, kv_segments), sm_scale=q.shape[-1] ** -0.5
    )
    return mixed.swapaxes(1, 2)[:, : query.shape[1]]
