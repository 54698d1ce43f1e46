"""The oracle of a case: the model in memory, whose weights none of our code has touched."""

from vit_jax.convert.layouts import LAYOUTS, openai_clip
from vit_jax.convert.oracles import timm, transformers
from vit_jax.convert.oracles.oracle import Oracle, as_source
from vit_jax.models import SwinTransformer

[TIMM] = [x for x in LAYOUTS if (x.name, x.family) == ("timm", "vit")]


def oracle_of(case, model):
    """The independent module of a `cases.Built`, to be compared with a model that was loaded."""
    if case.library == "openai":
        return _openai(case.theirs)
    if case.library == "pre_logits":
        return _pre_logits(case.theirs)
    family = "swin" if isinstance(model.module, SwinTransformer) else "vit"
    if case.library == "transformers":
        family = case.theirs.config.model_type.removesuffix("_vision_model")
    [layout] = [x for x in LAYOUTS if (x.name, x.family) == (case.library, family)]
    if case.library == "timm":
        return timm.wrap(case.theirs, layout)
    return transformers.wrap(case.theirs, model.module, layout)


def _openai(theirs):
    visual = theirs.visual
    return Oracle(
        name="CLIP",
        how="given in memory",
        module=theirs,
        blocks=list(visual.transformer.resblocks),
        norm=visual.ln_post,
        output=theirs,
        layout=openai_clip.LAYOUTS[0],
    )


def _pre_logits(theirs):
    backbone = theirs.backbone

    def named(tensors):
        return as_source({name.removeprefix("backbone."): x for name, x in tensors.items()})

    return Oracle(
        name="timm's and two layers",
        how="given in memory",
        module=theirs,
        blocks=backbone.blocks,
        norm=backbone.norm,
        output=theirs,
        layout=TIMM,
        named=named,
    )
