"""Transformers' models, with plain attention, with `scaled_dot_product_attention`, or compiled."""

import pathlib
import re
from typing import Any

from contenders import Steps, Work
from vit_jax.convert.torch_libraries import import_library

# (width, depth, heads)
SHAPES = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (768, 12, 12)}
SHAPES |= {"large": (1024, 24, 16), "huge": (1280, 32, 16)}
# (width of the first stage, depths)
SWINS = {"tiny": (96, (2, 2, 6, 2)), "small": (96, (2, 2, 18, 2)), "base": (128, (2, 2, 18, 2))}


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """The steps of a piece of work."""
    transformers = import_library("transformers", "the benchmark")
    from contenders import torch_steps

    model = _model(transformers, work)
    if not work.model.startswith("swin_"):  # whose attention has a bias and one implementation
        model.set_attn_implementation("eager" if variant == "eager" else "sdpa")
    if work.kind == "mae":

        def loss(output: Any) -> Any:
            return output.loss
    else:
        of_logits = torch_steps.cross_entropy(work)

        def loss(output: Any) -> Any:
            return of_logits(output.logits)

    return torch_steps.steps_of(work, model, loss, compiled=variant == "compiled")


def _model(transformers: Any, work: Work) -> Any:
    if work.model.startswith("swin_"):
        width, depths = SWINS[work.model.split("_")[1]]
        config = transformers.SwinConfig(
            image_size=work.image_size,
            embed_dim=width,
            depths=depths,
            num_heads=[width // 32 * 2**stage for stage in range(4)],
            num_labels=1000,
        )
        return transformers.SwinForImageClassification(config)
    size, patch = re.search(r"vit_(\w+)_patch(\d+)", work.model).groups()
    width, depth, heads = SHAPES[size]
    options = dict(
        image_size=work.image_size,
        patch_size=int(patch),
        hidden_size=width,
        num_hidden_layers=depth,
        num_attention_heads=heads,
        intermediate_size=4 * width,
    )
    if work.kind == "mae":
        return transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**options))
    config = transformers.ViTConfig(**options, num_labels=1000)
    return transformers.ViTForImageClassification(config)
