"""Layouts: for each way in which a family's weights are stored, names, hyper-parameters, files."""

from vit_jax.convert.layouts import (
    mae,
    npz,
    openai_clip,
    resnet,
    swin,
    timm,
    transformers_clip,
    transformers_dinov2,
    transformers_vit,
)
from vit_jax.convert.layouts.base import Layout, Source

# In the order in which a source is shown to them; the first that claims it has it.
LAYOUTS: tuple[Layout, ...] = (
    *mae.LAYOUTS,
    *transformers_vit.LAYOUTS,
    *transformers_dinov2.LAYOUTS,
    *transformers_clip.LAYOUTS,
    *openai_clip.LAYOUTS,
    *npz.LAYOUTS,
    *swin.LAYOUTS,
    *resnet.LAYOUTS,
    *timm.LAYOUTS,
)

__all__ = ["LAYOUTS", "Layout", "Source"]
