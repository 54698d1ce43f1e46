"""Parameters of one Vision Transformer for another of a different resolution or patch size."""

from collections.abc import Mapping
from typing import Any

from vit_jax.errors import UserError
from vit_jax.models.layers.resample import resample_grid, resample_patch_embed, resample_pos_embed
from vit_jax.models.vit import VisionTransformer, pair


def resample_params(
    params: Mapping[str, Any], old: VisionTransformer, new: VisionTransformer
) -> dict[str, Any]:
    """Resizes what depends on image and patch size; everything else is handed on as it is.

    Learned position tables are resized as images, by the method that `new.pos_resample` names, the
    rows of class, distillation and register tokens left untouched; patch embeddings by the
    pseudo-inverse resize of FlexiViT.

    Args:
        params: of `old`, without the "params" level.
        old: the module that the parameters are of.
        new: the module that they are wanted for.

    Returns:
        Parameters that fit `new`, where what the two differ in is `img_size`, `patch_size` and
        nothing else that parameters depend on.

    Raises:
        UserError: the tokens in front or the kind of position embedding differ.
    """
    for field in ("pos_embed", "num_prefix_tokens", "pos_prefix_tokens", "resnet_layers"):
        if getattr(old, field) != getattr(new, field):
            raise UserError(
                f"cannot resample: {field} is {getattr(old, field)!r} in the old module and "
                f"{getattr(new, field)!r} in the new; they may differ in img_size and patch_size"
            )
    resized = dict(params)
    patch = dict(params["patch_embed"])
    patch["kernel"] = resample_patch_embed(patch["kernel"], pair(new.patch_size))
    resized["patch_embed"] = patch
    if "pos_embed" in params:
        resized["pos_embed"] = _positions(params["pos_embed"], old, new)
    return resized


def _positions(
    tables: Mapping[str, Any], old: VisionTransformer, new: VisionTransformer
) -> dict[str, Any]:
    """The tables of "learn" (one for the grid) or "learn_2d" (one for each side)."""
    rows, columns = new.grid()
    method = new.pos_resample
    if old.pos_embed == "learn_2d":
        return {
            "row": resample_grid(tables["row"], (rows, 1), method),
            "column": resample_grid(tables["column"], (1, columns), method),
        }
    prefix = old.pos_prefix_tokens
    table = resample_pos_embed(tables["table"], old.grid(), (rows, columns), prefix, method)
    return {"table": table}
