"""Draws from Beta(a, a) in a fixed number of operations.

Jöhnk 1964: for U, V uniform on (0, 1), X = U^(1/a) and Y = V^(1/a), X / (X + Y) given X + Y <= 1 is
Beta(a, a). That is so for at least half of the pairs where a <= 1, so of `ROUNDS` pairs none is
fit once in 2^64 times. `jax.random.beta`, which takes any a, loops until one is: on TPUs its nested
loops take longer to compile than a Vision Transformer.
"""

import jax
import jax.numpy as jnp

ROUNDS = 64


def symmetric_beta(key: jax.Array, alpha: jax.Array, largest: float) -> jax.Array:
    """Returns a draw from Beta(a, a) for each a of `alpha`, of its shape and dtype.

    Args:
      key: random key.
      alpha: above 0.
      largest: of `alpha`, as known when this is traced.
    """
    if largest > 1:
        return jax.random.beta(key, alpha, alpha, dtype=alpha.dtype)
    tiny = jnp.finfo(alpha.dtype).tiny
    pairs = jax.random.uniform(key, (2, ROUNDS, *alpha.shape), alpha.dtype, minval=tiny)
    x, y = jnp.log(pairs) / alpha  # logarithms: of a small a both are too small for numbers
    total = jnp.logaddexp(x, y)
    first = jnp.argmax(total <= 0, axis=0, keepdims=True)
    return jnp.exp(jnp.take_along_axis(x - total, first, axis=0)[0])
