"""Where training starts: what the parameters are drawn from, by who published it.

| | "vit" | "deit" | "mae" |
|---|---|---|---|
| kernels of linear maps | Xavier | normal, 0.02 | Xavier |
| ... side by side (q, k and v) | each by itself | | as one matrix |
| biases of the MLP | normal, 1e-6 | 0 | 0 |
| patch embedding: kernel | normal, variance 1 / inputs | uniform | Xavier |
| patch embedding: bias | 0 | uniform | uniform |
| class token | 0 | normal, 0.02 | normal, 0.02 |
| hidden layer before the head | normal, variance 1 / inputs | normal, 0.02 | Xavier |
| head | 0 | normal, 0.02 | normal, 2e-5 |

"Uniform" is within 1 / sqrt(inputs), as PyTorch leaves a convolution that nobody draws. Not in the
table, since all agree: other biases 0, scales of norms 1, other tokens and learned positions normal
with 0.02. Sources, each repository's own code for training:

- "vit": google-research/vision_transformer, vit_jax/models_vit.py (big_vision's models/vit.py is
  the same but for its positions, of standard deviation 1 / sqrt(d));
- "deit": facebookresearch/deit, models.py, models_v2.py and the timm 0.3.2 under them; also
  microsoft/Swin-Transformer, models/swin_transformer.py and swin_transformer_v2.py;
- "mae": facebookresearch/mae, models_mae.py; its head, for fine-tuning, main_finetune.py.

PyTorch's `trunc_normal_(std=0.02)` cuts at -2 and 2, a hundred deviations: it is a normal one.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax.errors import UserError

Initializer = Callable[[jax.Array, tuple[int, ...], Any], jax.Array]
Axes = tuple[int, ...]

zeros = nn.initializers.zeros
normal = nn.initializers.normal


@dataclasses.dataclass(frozen=True)
class WeightInit:
    """Initializers of the parts of a model, see the module.

    Attributes:
        linear: of a linear map's kernel, from its axes: inputs, matrices side by side, outputs.
        mlp_bias: of both biases of an MLP.
        patch_kernel: of the patch embedding's kernel `(p, q, c, d)`, from its number of inputs.
        patch_bias: of its bias, from the same.
        class_token: of the class token.
        pre_logits: of the hidden layer's kernel before the head.
        head: of the head's kernel.
    """

    linear: Callable[[Axes, Axes, Axes], Initializer]
    mlp_bias: Initializer
    patch_kernel: Callable[[int], Initializer]
    patch_bias: Callable[[int], Initializer]
    class_token: Initializer
    pre_logits: Initializer
    head: Initializer


def xavier(inputs: Axes, outputs: Axes, parts: Axes = ()) -> Initializer:
    """Uniform with the variance 2 / (inputs + outputs) (Glorot & Bengio 2010, eq. 16).

    Args:
        inputs: axes that the map sums over.
        outputs: axes that it produces.
        parts: axes that count matrices, each of which is drawn as if it were alone.
    """
    return nn.initializers.variance_scaling(
        1.0, "fan_avg", "uniform", in_axis=inputs, out_axis=outputs, batch_axis=parts
    )


def of_torch(inputs: int) -> Initializer:
    """Uniform within 1 / sqrt(inputs): PyTorch's own, of kernels as of biases."""
    bound = inputs**-0.5

    def draw(key: jax.Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return draw


WEIGHT_INITS: dict[str, WeightInit] = {
    "vit": WeightInit(
        linear=lambda inputs, parts, outputs: xavier(inputs, outputs, parts),
        mlp_bias=normal(1e-6),
        patch_kernel=lambda _: nn.initializers.lecun_normal(in_axis=(0, 1, 2), out_axis=3),
        patch_bias=lambda _: zeros,
        class_token=zeros,
        pre_logits=nn.initializers.lecun_normal(),
        head=zeros,
    ),
    "deit": WeightInit(
        linear=lambda inputs, parts, outputs: normal(0.02),
        mlp_bias=zeros,
        patch_kernel=of_torch,
        patch_bias=of_torch,
        class_token=normal(0.02),
        pre_logits=normal(0.02),
        head=normal(0.02),
    ),
    "mae": WeightInit(
        linear=lambda inputs, parts, outputs: xavier(inputs, parts + outputs),
        mlp_bias=zeros,
        patch_kernel=lambda _: xavier((0, 1, 2), (3,)),
        patch_bias=of_torch,
        class_token=normal(0.02),
        pre_logits=xavier((0,), (1,)),
        head=normal(2e-5),
    ),
}


def initializers(name: str) -> WeightInit:
    """Returns the row of `WEIGHT_INITS` that has this name.

    Raises:
        UserError: there is none.
    """
    if name not in WEIGHT_INITS:
        raise UserError(f"weight_init={name!r} is unknown; choose one of {tuple(WEIGHT_INITS)}")
    return WEIGHT_INITS[name]
