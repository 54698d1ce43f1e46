"""timm's models. Their attention is `scaled_dot_product_attention`, eager or compiled."""

import pathlib

from contenders import Steps, Work
from vit_jax.convert.torch_libraries import import_library


def build(work: Work, variant: str, checkout: pathlib.Path | None) -> Steps:
    """The steps of a piece of work."""
    timm = import_library("timm", "the benchmark")
    from contenders import torch_steps

    model = timm.create_model(work.model, num_classes=1000, img_size=work.image_size)
    return torch_steps.steps_of(
        work, model, torch_steps.cross_entropy(work), compiled=variant == "compiled"
    )
