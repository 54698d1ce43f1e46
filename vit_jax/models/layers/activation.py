"""Activations under the names that configs use.

PyTorch's GELU is the erf form, Flax's the tanh form: a name here always says which.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError


@jax.custom_jvp
def gelu(x: jax.Array) -> jax.Array:
    """`x Phi(x)` with the normal distribution's Phi (Hendrycks & Gimpel 2016), by `erf`.

    In at least float32. The derivative, `Phi(x) + x phi(x)`, is written down: of what leads to the
    value, `Phi` alone is in it. What is kept for it, `layers.recompute` says.
    """
    return _gelu_and_derivative(x)[0]


@gelu.defjvp
def _gelu_jvp(primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    value, derivative = _gelu_and_derivative(*primals)
    return value, derivative * tangents[0]


def _gelu_and_derivative(x: jax.Array) -> tuple[jax.Array, jax.Array]:
    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    share = 0.5 * (1 + jax.lax.erf(wide * math.sqrt(0.5)))
    density = jnp.exp(-0.5 * wide * wide) / math.sqrt(2 * math.pi)
    return (wide * share).astype(x.dtype), (share + wide * density).astype(x.dtype)


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x * sigmoid(1.702 x)`: the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": gelu,
    "gelu_tanh": lambda x: nn.gelu(x, approximate=True),
    "quick_gelu": quick_gelu,
    "relu": nn.relu,
    "silu": nn.silu,
}


def get_activation(name: str) -> Callable[[jax.Array], jax.Array]:
    """Returns the elementwise function `name`.

    Raises:
        UserError: the name is not in `ACTIVATIONS`.
    """
    if name not in ACTIVATIONS:
        raise UserError(f"act_layer={name!r} is unknown; choose one of {tuple(ACTIVATIONS)}")
    return ACTIVATIONS[name]
