"""Optimizer steps that look at a whole array, made to look at one layer at a time."""

from typing import Any

import jax
import optax


def per_layer(transform: optax.GradientTransformation, rules: Any) -> optax.GradientTransformation:
    """Applies `transform` to each layer of a stacked parameter as to an array of its own.

    LAMB takes the norm of an array and Adafactor averages over its two longest axes: for scanned
    blocks, which keep all layers in one array, both would mix the layers. The result here is that
    of unrolled blocks. The state of stacked parameters gets a leading layers axis throughout.

    Args:
      transform: acts on every array by itself.
      rules: the tree of `param_rules.rules`.
    """
    labels = jax.tree.map(lambda r: f"layers_{r.shape[0]}" if r.stacked else "single", rules)
    stacked = optax.GradientTransformation(jax.vmap(transform.init), jax.vmap(transform.update))
    transforms = {label: stacked for label in set(jax.tree.leaves(labels)) if label != "single"}
    return optax.partition({"single": transform, **transforms}, labels)
