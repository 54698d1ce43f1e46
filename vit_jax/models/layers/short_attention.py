"""Attention of few tokens, by a kernel for TPUs that forms all scores of a head at once.

An image of 224 pixels has 197 or 257 tokens, and the scores of a head fit into the vector memory of
a TPU's core. Each program of the kernel takes some heads of one image, from their queries, keys
and values to what they mix: nothing of size (n, n) goes to main memory. Backward, the weights are
formed anew. Flash attention (Dao et al. 2022), made for sequences of which only blocks fit, keeps
statistics of the softmax in main memory and goes over keys and values many times; of few tokens it
moves more bytes than it saves.

Tensors are (b, n, h * hd), as projections make them: no transposition comes before or after.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import tpu as pltpu

LANES, ROWS = 128, 16  # of a tile of vector memory in 16 bits; in 32 bits a tile has 8 rows
BUDGET = 14 * 2**20  # bytes that the arrays named below may take, of the 16 MiB of a core
Ref = Any  # of Pallas: a block in vector memory


def heads_at_once(tokens: int, heads: int, head_dim: int, itemsize: int) -> int | None:
    """Returns how many heads a program takes, as many as fit; None where no allowed number does.

    A block's width is a whole number of lanes' widths, or that of the tensor.

    Args:
        tokens: n.
        heads: h.
        head_dim: hd.
        itemsize: bytes of a number of queries, keys and values.
    """
    rows, columns = _multiple(tokens, ROWS), _multiple(tokens, LANES)
    squares = 4 * 4 * rows * columns  # scores, weights and their gradients, in float32
    step = LANES // math.gcd(head_dim, LANES)
    for count in range(heads, 0, -1):
        if heads % count or (count != heads and count % step):
            continue
        block = rows * _multiple(count * head_dim, LANES) * itemsize
        # Q, K, V, what is mixed, and gradients of three; the next program's come in meanwhile.
        if 2 * 7 * block + squares <= BUDGET:
            return count
    return None


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def attend_at_once(query: jax.Array, key: jax.Array, value: jax.Array, heads: int) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) V of every head, with scores and weights in float32.

    Args:
        query: `(b, n, h * hd)`.
        key: `(b, n, h * hd)`.
        value: `(b, n, h * hd)`.
        heads: h, of which `heads_at_once` has found some to fit.

    Returns:
        What is mixed `(b, n, h * hd)`.
    """
    return _every_program(_forward, heads, 1, query, key, value)[0]


def _attend_and_keep(
    query: jax.Array, key: jax.Array, value: jax.Array, heads: int
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    return attend_at_once(query, key, value, heads), (query, key, value)


def _gradients(
    heads: int, kept: tuple[jax.Array, ...], d_mixed: jax.Array
) -> tuple[jax.Array, ...]:
    return _every_program(_backward, heads, 3, *kept, d_mixed)


attend_at_once.defvjp(_attend_and_keep, _gradients)


def _every_program(
    kernel: Callable, heads: int, results: int, *tensors: jax.Array
) -> tuple[jax.Array, ...]:
    """Runs a kernel for each image and group of heads; its results are shaped as its tensors."""
    (batch, tokens, width), dtype = tensors[0].shape, tensors[0].dtype
    head_dim = width // heads
    count = heads_at_once(tokens, heads, head_dim, dtype.itemsize)
    block = pl.BlockSpec(
        (1, _multiple(tokens, ROWS), count * head_dim), lambda image, group: (image, 0, group)
    )
    scores = batch * heads * tokens**2
    products = {_forward: 2, _backward: 5}[kernel]
    return pl.pallas_call(
        functools.partial(kernel, tokens=tokens, head_dim=head_dim),
        out_shape=[jax.ShapeDtypeStruct(tensors[0].shape, dtype)] * results,
        grid=(batch, heads // count),
        in_specs=[block] * len(tensors),
        out_specs=[block] * results,
        cost_estimate=pl.CostEstimate(
            flops=products * 2 * scores * head_dim,
            transcendentals=scores,
            bytes_accessed=(len(tensors) + results) * tensors[0].nbytes,
        ),
        # Programs need nothing of each other: a chip with two cores may share them out.
        compiler_params=pltpu.CompilerParams(dimension_semantics=("parallel", "parallel")),
        name=f"attend_at_once{kernel.__name__}",
    )(*tensors)


def _forward(query: Ref, key: Ref, value: Ref, mixed: Ref, *, tokens: int, head_dim: int) -> None:
    for head in _heads(query, head_dim):
        q, k, v = (_tokens_of(x, head, tokens) for x in (query, key, value))
        weights = _weights(q, k, tokens).astype(v.dtype)
        mixed[0, :, head] = _product(weights, 1, v, 0).astype(v.dtype)


def _backward(
    query: Ref,
    key: Ref,
    value: Ref,
    d_mixed: Ref,
    d_query: Ref,
    d_key: Ref,
    d_value: Ref,
    *,
    tokens: int,
    head_dim: int,
) -> None:
    for head in _heads(query, head_dim):
        q, k, v, d_m = (_tokens_of(x, head, tokens) for x in (query, key, value, d_mixed))
        weights = _weights(q, k, tokens)
        d_weights = _product(d_m, 1, v, 1)
        mean = (weights * d_weights).sum(axis=-1, keepdims=True)
        d_scores = (weights * (d_weights - mean) * head_dim**-0.5).astype(q.dtype)
        d_query[0, :, head] = _product(d_scores, 1, k, 0).astype(q.dtype)
        d_key[0, :, head] = _product(d_scores, 0, q, 0).astype(q.dtype)
        d_value[0, :, head] = _product(weights.astype(q.dtype), 0, d_m, 0).astype(q.dtype)


def _heads(block: Ref, head_dim: int) -> list[slice]:
    return [slice(at, at + head_dim) for at in range(0, block.shape[-1], head_dim)]


def _tokens_of(block: Ref, head: slice, tokens: int) -> jax.Array:
    """A head's `(rows, hd)`; rows beyond the tokens, of which a block has anything, are 0."""
    x = block[0, :, head]
    row = jax.lax.broadcasted_iota(jnp.int32, x.shape, 0)
    return jnp.where(row < tokens, x, jnp.zeros_like(x))


def _weights(q: jax.Array, k: jax.Array, tokens: int) -> jax.Array:
    """softmax(Q K^T / sqrt(hd)) `(rows, rows)`; columns beyond the tokens are 0."""
    scores = _product(q, 1, k, 1) * q.shape[-1] ** -0.5
    column = jax.lax.broadcasted_iota(jnp.int32, scores.shape, 1)
    scores = jnp.where(column < tokens, scores, -jnp.inf)
    exponentials = jnp.exp(scores - scores.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _product(a: jax.Array, a_axis: int, b: jax.Array, b_axis: int) -> jax.Array:
    """Sums over an axis of either matrix, in float32."""
    contracted = (((a_axis,), (b_axis,)), ((), ()))
    # Kernels know two precisions, of those that JAX can be told to use by default.
    rough = jax.config.jax_default_matmul_precision in (None, "default", "fastest", "bfloat16")
    precision = jax.lax.Precision.DEFAULT if rough else jax.lax.Precision.HIGHEST
    return jax.lax.dot_general(
        a, b, contracted, precision=precision, preferred_element_type=jnp.float32
    )


def _multiple(size: int, of: int) -> int:
    return -(-size // of) * of
