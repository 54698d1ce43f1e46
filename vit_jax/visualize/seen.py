"""What a model saw of pictures, as NumPy arrays, for the kinds of pictures in this folder."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.errors import UserError
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer


def plain_encoder(module: PlainModule, what: str) -> VisionTransformer:
    """The plain Vision Transformer that a module is; a masked autoencoder's sees every patch.

    Its attention is computed where the weights are seen, whatever kernel the model learned with.

    Args:
        module: any.
        what: that is wanted of it, for the error.

    Raises:
        UserError: it is none; says what can be drawn of it.
    """
    if isinstance(module, MaskedAutoencoder):
        return module.encoder_alone().clone(attn_backend="xla")
    if isinstance(module, VisionTransformer):
        return module.clone(attn_backend="xla")
    if isinstance(module, SwinTransformer):
        raise UserError(
            f"{what} cannot be drawn of a Swin Transformer, which has no class token, no table of "
            "positions and no attention over the whole picture, only within windows: choose pca "
            "(features of its stages) or filters"
        )
    raise UserError(f"{what} cannot be drawn of a {type(module).__name__}: it is no transformer")


def intermediates(
    module: VisionTransformer | SwinTransformer,
    params: Mapping[str, Any],
    images: np.ndarray,
    capture: tuple[str, ...],
) -> Any:
    """The module's intermediates of images `(b, height, width, c)`, normalised.

    Args:
        module: a plain Vision Transformer or a Swin Transformer.
        params: its parameters; more than its own do no harm.
        images: of the module's size.
        capture: which of them, see `Intermediates` and `SwinIntermediates`.
    """
    return jax.tree.map(as_numpy, _intermediates(module, params, jnp.asarray(images), capture))


@functools.partial(jax.jit, static_argnums=(0, 3))
def _intermediates(module: Any, params: Any, images: jax.Array, capture: tuple[str, ...]) -> Any:
    return module.apply({"params": params}, images, capture=capture)[1]


def as_numpy(x: jax.Array | np.ndarray) -> np.ndarray:
    """In at least float32: NumPy computes little in 16 bits."""
    return np.asarray(widened(x))


def widened(x: Any) -> Any:
    """An array in at least float32."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def pooling_weights(
    module: VisionTransformer, params: Mapping[str, Any], features: np.ndarray
) -> np.ndarray:
    """The attention of the pooling's query `(b, h, k)`, of a model with `global_pool="map"`.

    Args:
        module: the model.
        params: its parameters.
        features: tokens after the final norm `(b, n, d)`.

    Returns:
        Over the patches alone, or over all tokens where the model pools those
        (`pool_include_prefix`).
    """
    return as_numpy(pooling_shares(module, params, features))


@functools.partial(jax.jit, static_argnums=0)
def pooling_shares(module: VisionTransformer, params: Any, features: jax.Array) -> jax.Array:
    """What `pooling_weights` gives, as a JAX array: for programs that compute more than this."""
    pooled = features if module.pool_include_prefix else features[:, module.num_prefix_tokens :]
    _, weights = module.apply(
        {"params": params}, pooled, method=lambda bound, x: bound.attn_pool(x, return_weights=True)
    )
    return weights
