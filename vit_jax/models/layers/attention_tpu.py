"""Attention on TPUs by kernels, each device on its own examples, heads and queries.

| tokens | kernel |
|---|---|
| few, such that the scores of a head fit into vector memory | `short_attention.attend_at_once` |
| many | the flash attention that ships with JAX |

XLA cannot split a kernel by itself: on a mesh it runs under `jax.shard_map`.
"""

import math

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.models.layers.platform import device_kind
from vit_jax.models.layers.short_attention import attend_at_once, heads_at_once

WITHOUT_KERNELS = ("TPU v2", "TPU v3")
FLASH_BLOCK = 128  # flash attention works on blocks of this many tokens
FLASH_MIN_TOKENS = 1024  # from here on the (n, n) weights outgrow what flash attention needs


def has_kernels(device_kind: str) -> bool:
    """Whether kernels can multiply numbers of 16 bits on a chip, such as "TPU v5 lite"."""
    return not device_kind.startswith(WITHOUT_KERNELS)


def a_kernel_pays(query: jax.Array, key: jax.Array) -> bool:
    """Whether a kernel moves fewer bytes than XLA's own products and softmax.

    On a mesh it has to be known how the examples are split: a kernel that is told nothing computes
    all of them on every device. Of few tokens whose queries are split XLA's are better, as it can
    split any number.
    """
    known = query.ndim == 4 and query.dtype in (jnp.bfloat16, jnp.float32)
    if not known or not has_kernels(device_kind()) or not _can_be_split(query):
        return False
    if query.shape[1] >= FLASH_MIN_TOKENS:
        return True
    return query.shape == key.shape and _fit(query) and _devices_along("tokens") == 1


def _can_be_split(query: jax.Array) -> bool:
    if jax.sharding.get_abstract_mesh().size <= 1:
        return True
    examples, _, heads, _ = query.shape
    evenly = examples % _devices_along("batch") == 0 and heads % _devices_along("heads") == 0
    return evenly and bool(nn.get_logical_axis_rules())


def attend_by_kernel(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) V.

    Args:
        query: `(b, n, h, hd)`.
        key: `(b, m, h, hd)`.
        value: `(b, m, h, hd)`.

    Returns:
        What is mixed `(b, n, h, hd)`.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _on_one_device(query, key, value)
    own = "tokens" if query.shape[1] % _devices_along("tokens") == 0 else None
    queries = nn.logical_to_mesh_axes(("batch", own, "heads", None))
    every = nn.logical_to_mesh_axes(("batch", None, "heads", None))
    local = jax.shard_map(
        _on_one_device, in_specs=(queries, every, every), out_specs=queries, check_vma=False
    )
    return local(query, key, value)


def _devices_along(axis: str) -> int:
    """Over how many devices a logical axis is split."""
    mesh, (names,) = jax.sharding.get_abstract_mesh(), nn.logical_to_mesh_axes((axis,))
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape.get(name, 1) for name in names)


def _fit(query: jax.Array) -> bool:
    """Whether the scores of `query (b, n, h, hd)` fit into vector memory, some heads at once."""
    return heads_at_once(*query.shape[1:], query.dtype.itemsize) is not None


def _on_one_device(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    if query.shape[1] < FLASH_MIN_TOKENS and query.shape == key.shape and _fit(query):
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
