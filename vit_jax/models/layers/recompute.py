"""What is cheap to compute is computed again in the backward pass, where memory is the dearer.

A TPU or a GPU waits for its memory in everything but matrix products. So a block keeps the inputs
and outputs of products, and not also what a norm or an activation makes between them: it computes
that anew as it reads what it is made of. On one CPU arithmetic is the dearer, and all is kept.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from vit_jax.models.layers.platform import on_one_cpu

_KEPT = jax.checkpoint_policies.dots_saveable


def recomputed(function: Callable) -> Callable:
    """Returns `function` of arrays, of which only inputs and products are kept for gradients."""
    # Where XLA finds what it would compute twice at hand, it may take that.
    return function if on_one_cpu() else jax.checkpoint(function, prevent_cse=False, policy=_KEPT)


def recomputed_with(function: Callable) -> Callable:
    """The same of a class of Flax modules, or of a function whose first argument is a module."""
    return function if on_one_cpu() else nn.remat(function, prevent_cse=False, policy=_KEPT)
