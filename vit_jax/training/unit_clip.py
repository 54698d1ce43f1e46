"""Adaptive gradient clipping, unit by unit.

Brock et al. 2021, "High-Performance Large-Scale Image Recognition Without Normalization", eq. 3:
with W_i the weights that lead to output unit i and G_i their gradient,

    G_i <- factor * max(|W_i|, eps) / |G_i| * G_i   where   |G_i| / max(|W_i|, eps) > factor

A unit of a kernel is what one output is summed from. Everything else (a bias, a scale, a table, a
token) is one unit as a whole, as are vectors in the paper and in timm; in a scanned stack, each
layer's. Heads are not clipped (section 4.1: "we do not clip the final linear layer").
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax

from vit_jax.training.param_rules import Rule, in_head, matrix

GRADIENT_EPS = 1e-6  # below it a norm is not divided by, as in the authors' code and timm


def unit_axes(rule: Rule) -> tuple[int, ...]:
    """Returns the axes over which a parameter's unit-wise norm is taken.

    Raises:
      UserError: see `param_rules.matrix`.
    """
    kernel = matrix(rule)
    if kernel is not None:
        return kernel.inputs
    # Biases of queries and values are two vectors in one array.
    first = int(rule.stacked) + (rule.path[-1] == "qv_bias")
    return tuple(range(first, len(rule.shape)))


def clip_by_unit_norm(factor: float, eps: float, rules: Any) -> optax.GradientTransformation:
    """Clips each unit's gradient to `factor` times the unit's norm; needs the parameters.

    Args:
      factor: lambda of the paper.
      eps: norms of units count as at least this, so that what starts at zero can move.
      rules: the tree of `param_rules.rules`.
    """

    def clip(rule: Rule, gradient: jax.Array, parameter: jax.Array) -> jax.Array:
        if in_head(rule):
            return gradient
        axes = unit_axes(rule)
        largest = factor * jnp.maximum(_norm(parameter, axes), eps)
        norm = _norm(gradient, axes)
        clipped = gradient * (largest / jnp.maximum(norm, GRADIENT_EPS)).astype(gradient.dtype)
        return jnp.where(norm < largest, gradient, clipped)

    return optax.stateless(lambda gradients, params: jax.tree.map(clip, rules, gradients, params))


def _norm(x: jax.Array, axes: tuple[int, ...]) -> jax.Array:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    return jnp.sqrt(jnp.square(wide).sum(axes, keepdims=True))
