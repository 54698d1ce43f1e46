"""Attention of few tokens in one kernel for TPUs, which keeps no scores.

An image of 224 pixels has 197 or 257 tokens: the scores of a head, softmax(Q K^T / sqrt(hd)), fit
into the vector memory of a TPU's core whole. So each program of the kernel takes some heads of one
image, forms their scores there and is done: nothing of size (n, n) goes to main memory, neither
forward nor backward, where the weights are formed anew. Flash attention (Dao et al. 2022), made
for sequences of which only a block fits, keeps statistics of the softmax in main memory and reads
keys and values many times; of few tokens it moves more bytes than it saves.

Tensors lie as the projections make them, (b, n, h * hd): no transposition comes before or after.
"""

import functools
import math

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl

LANES = 128  # of a vector register: blocks are whole ones wide, or as wide as the tensor
VMEM = 12 * 2**20  # bytes of vector memory that a program may take, of 16 MiB at the least


def heads_at_once(tokens: int, heads: int, head_dim: int, itemsize: int) -> int | None:
    """How many heads a program takes, as many as its vector memory allows; None: not even the least.

    Args:
        tokens: n.
        heads: h.
        head_dim: hd.
        itemsize: bytes of a number of queries, keys and values.
    """
    rows = _rows(tokens)
    whole_lanes = LANES // math.gcd(head_dim, LANES)
    for count in range(heads, 0, -1):
        if heads % count or (count != heads and count % whole_lanes):
            continue
        width = -(-count * head_dim // LANES) * LANES
        blocks = 2 * 7 * rows * width * itemsize  # q, k, v, dout, dq, dk, dv, each twice, in turns
        if blocks + 4 * rows * -(-rows // LANES) * LANES * 4 <= VMEM:  # and scores, weights and their gradients
            return count
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend_at_once(
    query: jax.Array, key: jax.Array, value: jax.Array, heads: int
) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) V of every head.

    Args:
        query: `(b, n, h * hd)`.
        key: `(b, n, h * hd)`.
        value: `(b, n, h * hd)`.
        heads: h.

    Returns:
        The mixed values `(b, n, h * hd)`.
    """
    return _call(_forward, 1, heads, query, key, value)


def _saved(query: jax.Array, key: jax.Array, value: jax.Array, heads: int):  # noqa: ANN202
    return attend_at_once(query, key, value, heads), (query, key, value)


def _gradients(heads: int, saved: tuple[jax.Array, ...], d_mixed: jax.Array) -> list[jax.Array]:
    return tuple(_call(_backward, 3, heads, *saved, d_mixed))


attend_at_once.defvjp(_saved, _gradients)


def _call(kernel, outputs: int, heads: int, *inputs: jax.Array):  # noqa: ANN001, ANN202
    """Runs a kernel on every image and group of heads."""
    batch, tokens, width = inputs[0].shape
    head_dim = width // heads
    count = heads_at_once(tokens, heads, head_dim, inputs[0].dtype.itemsize)
    block = pl.BlockSpec((1, _rows(tokens), count * head_dim), lambda i, j: (i, 0, j))
    out = jax.ShapeDtypeStruct(inputs[0].shape, inputs[0].dtype)
    product = 2 * batch * heads * tokens**2 * head_dim
    cost = pl.CostEstimate(
        flops=(2 if outputs == 1 else 5) * product,
        transcendentals=batch * heads * tokens**2,
        bytes_accessed=(len(inputs) + outputs) * inputs[0].size * inputs[0].dtype.itemsize,
    )
    return pl.pallas_call(
        functools.partial(kernel, tokens=tokens, head_dim=head_dim),
        out_shape=out if outputs == 1 else [out] * outputs,
        grid=(batch, heads // count),
        in_specs=[block] * len(inputs),
        out_specs=block if outputs == 1 else [block] * outputs,
        cost_estimate=cost,
        name=f"attend_at_once{kernel.__name__}",
    )(*inputs)


def _forward(q_ref, k_ref, v_ref, mixed_ref, *, tokens: int, head_dim: int) -> None:  # noqa: ANN001
    for span in _heads(q_ref, head_dim):
        q, k, v = (_read(ref, span, tokens) for ref in (q_ref, k_ref, v_ref))
        mixed_ref[0, :, span] = _dot(_weights(q, k, tokens).astype(v.dtype), v, 1, 0).astype(v.dtype)


def _backward(  # noqa: ANN001
    q_ref, k_ref, v_ref, d_ref, dq_ref, dk_ref, dv_ref, *, tokens: int, head_dim: int
) -> None:
    for span in _heads(q_ref, head_dim):
        q, k, v, d_mixed = (_read(ref, span, tokens) for ref in (q_ref, k_ref, v_ref, d_ref))
        weights = _weights(q, k, tokens)
        dv_ref[0, :, span] = _dot(weights.astype(v.dtype), d_mixed, 0, 0).astype(v.dtype)
        d_weights = _dot(d_mixed, v, 1, 1)
        mean = (weights * d_weights).sum(axis=-1, keepdims=True)
        d_scores = (weights * (d_weights - mean) * head_dim**-0.5).astype(q.dtype)
        dq_ref[0, :, span] = _dot(d_scores, k, 1, 0).astype(q.dtype)
        dk_ref[0, :, span] = _dot(d_scores, q, 0, 0).astype(k.dtype)


def _weights(q: jax.Array, k: jax.Array, tokens: int) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) in float32; columns beyond the tokens are 0."""
    scores = _dot(q, k, 1, 1) * q.shape[-1] ** -0.5
    column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    scores = jnp.where(column < tokens, scores, -jnp.inf)
    exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _read(ref, span: slice, tokens: int) -> jax.Array:  # noqa: ANN001
    """A head's part of a block; what lies beyond the tokens is undefined in it, and 0 here."""
    x = ref[0, :, span]
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < tokens, x, jnp.zeros_like(x))


def _dot(a: jax.Array, b: jax.Array, a_axis: int, b_axis: int) -> jax.Array:
    contracted = (((a_axis,), (b_axis,)), ((), ()))
    return jax.lax.dot_general(a, b, contracted, preferred_element_type=jnp.float32)


def _heads(ref, head_dim: int) -> list[slice]:  # noqa: ANN001
    return [slice(at, at + head_dim) for at in range(0, ref.shape[-1], head_dim)]


def _rows(tokens: int) -> int:
    """Tokens of a block: whole tiles of 16, of which those beyond the last token are undefined."""
    return -(-tokens // 16) * 16
