"""What is cheap to compute is computed again in the backward pass, where memory is the dearer.

A TPU or a GPU waits for its memory in everything but matrix products. So a block keeps the inputs
and outputs of products, and not also what a norm or an activation makes between them: it computes
that anew as it reads what it is made of. On one CPU arithmetic is the dearer, and all is kept but
what an activation makes on its way (see `recomputed_inside`).
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
from flax import linen as nn

from vit_jax.models.layers.platform import on_one_cpu

# What runs attention as a kernel: on TPUs, and cuDNN's on GPUs.
_KERNELS = ("pallas_call", "dot_product_attention_fwd", "dot_product_attention_fwd_wrapper")


def products(primitive: Any, *shapes: Any, **options: Any) -> bool:
    """The policy for `jax.checkpoint` that keeps products, and of what kind does not matter.

    `jax.checkpoint_policies.dots_saveable` knows matrix products alone, and would have a kernel for
    attention run once more in the backward pass, for what it gave before.
    """
    keeps = jax.checkpoint_policies.dots_saveable(primitive, *shapes, **options)
    return keeps or _is_kernel(primitive, options)


def _is_kernel(primitive: Any, options: Mapping[str, Any]) -> bool:
    """Whether it runs a kernel, or is a function with a gradient of its own that runs one."""
    if primitive.name == "custom_vjp_call":
        called = options["call_jaxpr"].eqns
        return any(_is_kernel(equation.primitive, equation.params) for equation in called)
    return primitive.name in _KERNELS


def recomputed(function: Callable) -> Callable:
    """Returns `function` of arrays, of which only inputs and products are kept for gradients."""
    # Where XLA finds what it would compute twice at hand, it may take that.
    if on_one_cpu():
        return function
    return jax.checkpoint(function, prevent_cse=False, policy=products)


def recomputed_with(function: Callable) -> Callable:
    """The same of a class of Flax modules, or of a function whose first argument is a module."""
    if on_one_cpu():
        return function
    return nn.remat(function, prevent_cse=False, policy=products)


def recomputed_inside(activation: Callable) -> Callable:
    """Returns an activation that on one CPU keeps nothing but what it is given.

    XLA would see that value and derivative share a term (of GELU, `erf`), and write it to memory in
    the forward pass and read it twice: that took longer than to compute it once more, and kept an
    array of the hidden width for each layer. What runs elsewhere is recomputed with the rest.
    """
    return jax.checkpoint(activation) if on_one_cpu() else activation
