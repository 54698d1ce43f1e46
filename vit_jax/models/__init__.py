"""Models: pure Flax modules, found and built by name."""

from vit_jax.models import mae, resnet, swin, vit  # register their names
from vit_jax.models.layers.encoder import stack_blocks, unstack_blocks
from vit_jax.models.layers.resample import resample_patch_embed, resample_pos_embed
from vit_jax.models.mae import MaskedAutoencoder, MaskedAutoencoderOutput
from vit_jax.models.partitioning import PlainModule, logical_axes
from vit_jax.models.registry import (
    Preprocessing,
    create_model,
    field_ranges,
    list_models,
    model_spec,
    preprocessing,
)
from vit_jax.models.resnet import ResNetV2
from vit_jax.models.swin import SwinIntermediates, SwinTransformer
from vit_jax.models.transfer import resample_params
from vit_jax.models.vit import Intermediates, VisionTransformer

__all__ = [
    "Intermediates",
    "MaskedAutoencoder",
    "MaskedAutoencoderOutput",
    "PlainModule",
    "Preprocessing",
    "ResNetV2",
    "SwinIntermediates",
    "SwinTransformer",
    "VisionTransformer",
    "create_model",
    "field_ranges",
    "list_models",
    "logical_axes",
    "mae",
    "model_spec",
    "preprocessing",
    "resample_params",
    "resample_patch_embed",
    "resample_pos_embed",
    "resnet",
    "stack_blocks",
    "swin",
    "unstack_blocks",
    "vit",
]
