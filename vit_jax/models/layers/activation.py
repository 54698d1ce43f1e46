"""Activations under the names that configs use.

PyTorch's GELU is the erf form, Flax's the tanh form: a name here always says which.
"""

from collections.abc import Callable

import jax
from flax import linen as nn

from vit_jax.errors import UserError


def quick_gelu(x: jax.Array) -> jax.Array:
    """`x * sigmoid(1.702 x)`: the approximation that OpenAI's CLIP was trained with."""
    return x * jax.nn.sigmoid(1.702 * x)


ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "gelu": lambda x: nn.gelu(x, approximate=False),
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
