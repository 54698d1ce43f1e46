"""Everything that is left out at random during training.

Each function takes its random key as an argument, and `None` means evaluation. A layer never asks
Flax for a key: the encoder splits one key into one for each block, so that scanned, unrolled and
rematerialised encoders drop the same elements.
"""

import jax
import jax.numpy as jnp

Key = jax.Array | None


def split(key: Key, num: int) -> tuple[Key, ...]:
    """Splits `key` into `num` keys; `None` splits into `None`s."""
    return (None,) * num if key is None else tuple(jax.random.split(key, num))


def dropout(x: jax.Array, rate: float, key: Key) -> jax.Array:
    """Zeroes each element with probability `rate` and scales the rest by `1 / (1 - rate)`.

    Srivastava et al. (2014), in the inverted form, so that evaluation needs no scaling.
    """
    if key is None or rate == 0.0:
        return x
    kept = jax.random.bernoulli(key, 1.0 - rate, x.shape)
    return jnp.where(kept, x / (1.0 - rate), jnp.zeros_like(x))


def drop_path(x: jax.Array, rate: jax.Array | float, key: Key) -> jax.Array:
    """Drops the whole residual branch of an example with probability `rate`.

    Stochastic depth (Huang et al. 2016), one draw for each example of `x (b, ...)`. `rate` may be
    traced, because a scanned encoder has one block for all depths. What is kept for the gradient is
    a factor for each example; choosing between `x` and 0 would keep a bit for each element of `x`.
    (A branch that is not finite is not hidden by dropping it.)
    """
    if key is None:
        return x
    keep = 1.0 - jnp.asarray(rate)
    kept = jax.random.bernoulli(key, keep, (x.shape[0],) + (1,) * (x.ndim - 1))
    return (x * jnp.where(kept, 1.0 / keep, 0.0)).astype(x.dtype)


def kept_patches(key: Key, batch: int, num_patches: int, rate: float) -> jax.Array | None:
    """Draws which patches each example keeps: indices `(batch, kept)` in raster order, or None.

    FLIP (Li et al. 2023): `max(1, floor(num_patches * (1 - rate)))` patches are kept. Raster order
    changes nothing for attention and keeps memory accesses regular.
    """
    if key is None or rate == 0.0:
        return None
    kept = max(1, int(num_patches * (1.0 - rate)))
    noise = jax.random.uniform(key, (batch, num_patches))
    return jnp.sort(jnp.argsort(noise, axis=1)[:, :kept], axis=1)
