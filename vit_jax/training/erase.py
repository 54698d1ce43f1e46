"""Fills the rectangles that the transform `random_erasing` has marked, on the devices.

See `vit_jax.data.erasing` for why it happens here. Noise is normal, of mean 0 and variance 1, on
normalised images; its key is in the mark. Threefry is asked for by name: unlike faster generators
it gives a row the same numbers whatever the rows around it and however the batch is sharded.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from vit_jax.objectives.base import Batch


def _pixel(key: jax.Array, image: jax.Array) -> jax.Array:
    return jax.random.normal(key, image.shape, image.dtype)


def _rand(key: jax.Array, image: jax.Array) -> jax.Array:
    return jax.random.normal(key, image.shape[-1:], image.dtype)


def _const(key: jax.Array, image: jax.Array) -> jax.Array:
    del key
    return jnp.zeros(image.shape[-1:], image.dtype)


# The name of the mark in the batch -> (key, image (h, w, c)) -> what an erased pixel shows.
FILLS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
    "erase_pixel": _pixel,
    "erase_rand": _rand,
    "erase_const": _const,
}


def erase(batch: Batch) -> Batch:
    """Erases what is marked and takes the marks out of the batch.

    Args:
      batch: "image" (b, h, w, c), normalised, and perhaps marks, int32 (b, count, 5): top, left,
        height, width in pixels, and the seed of the noise. Of height 0: nothing.

    Returns:
      The batch without marks.
    """
    image = batch["image"]
    for name, fill in FILLS.items():
        if name in batch:
            image = jax.vmap(lambda x, marks, fill=fill: _erase(x, marks, fill))(image, batch[name])
    rest = {name: x for name, x in batch.items() if name not in FILLS}
    return {**rest, "image": image}


def _erase(
    image: jax.Array, marks: jax.Array, fill: Callable[[jax.Array, jax.Array], jax.Array]
) -> jax.Array:
    """One image (h, w, c) and its marks (count, 5); a later one lies over an earlier one."""
    row = jnp.arange(image.shape[0])[:, None, None]
    column = jnp.arange(image.shape[1])[:, None]
    for top, left, height, width, seed in marks:
        inside = (row >= top) & (row < top + height) & (column >= left) & (column < left + width)
        shown = fill(jax.random.key(seed, impl="threefry2x32"), image)
        image = jnp.where(inside, shown, image)
    return image
