"""Parameters of one model for another of a different resolution, patch or window size."""

import functools
from collections.abc import Mapping
from typing import Any

import jax

from vit_jax.errors import UserError
from vit_jax.models.layers.position import TABLES
from vit_jax.models.layers.resample import (
    resample_bias_table,
    resample_grid,
    resample_patch_embed,
    resample_pos_embed,
)
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair

SAME_IN_VIT = ("pos_embed", "num_prefix_tokens", "pos_prefix_tokens", "resnet_layers")
SAME_IN_SWIN = ("version", "depths", "num_heads", "embed_dim")


def resample_params(
    params: Mapping[str, Any], old: PlainModule, new: PlainModule
) -> dict[str, Any]:
    """Resizes what depends on image, patch and window size; everything else is handed on as it is.

    Learned position tables are resized as images, by the method that `new.pos_resample` names, the
    rows of class, distillation and register tokens left untouched; Swin's tables of biases by
    `resample_bias_table` (those of version 2 are computed for any window); patch embeddings by the
    pseudo-inverse resize of FlexiViT.

    Args:
        params: of `old`, without the "params" level.
        old: the module that the parameters are of.
        new: the module that they are wanted for.

    Returns:
        Parameters that fit `new`, where what the two differ in is `img_size`, `patch_size`,
        `window_size` and nothing else that parameters depend on.

    Raises:
        UserError: the modules differ in more than that.
    """
    if isinstance(old, SwinTransformer) != isinstance(new, SwinTransformer):
        raise UserError(
            f"cannot resample parameters of a {type(old).__name__} for a {type(new).__name__}"
        )
    is_swin = isinstance(old, SwinTransformer)
    _check_same(old, new, SAME_IN_SWIN if is_swin else SAME_IN_VIT)
    resized = dict(params)
    patch = dict(params["patch_embed"])
    patch["kernel"] = resample_patch_embed(patch["kernel"], pair(new.patch_size))
    resized["patch_embed"] = patch
    if is_swin:
        return _windows(resized, old, new)
    if "pos_embed" in params:
        resized["pos_embed"] = _positions(params["pos_embed"], old, new)
    if isinstance(old, MaskedAutoencoder):
        decoder = params["decoder"]
        resized["decoder"] = {**decoder, "pos_embed": _table(decoder["pos_embed"], old, new)}
    return resized


def _check_same(old: PlainModule, new: PlainModule, fields: tuple[str, ...]) -> None:
    for field in fields:
        both = [getattr(module, field) for module in (old, new)]
        if both[0] != both[1] and not (field == "pos_embed" and set(both) <= set(TABLES)):
            raise UserError(
                f"cannot resample: {field} is {getattr(old, field)!r} in the old module and "
                f"{getattr(new, field)!r} in the new; they may differ in img_size and patch_size"
            )


def _windows(params: dict[str, Any], old: SwinTransformer, new: SwinTransformer) -> dict[str, Any]:
    """Parameters of a Swin Transformer for the windows of another."""
    if new.version == 2:
        before, after = old.trained_windows(), new.trained_windows()
        if before != after:
            raise UserError(
                f"cannot resample: the old module measures offsets by windows of {before}, the "
                f"new by {after}; build the new with pretrained_window_sizes="
                f"{tuple(rows for rows, _ in before)}"
            )
        return params
    for i, window in enumerate(new.windows()):
        resize = functools.partial(resample_bias_table, window=window)
        stage = dict(params[f"stages_{i}"])
        for name in (name for name in stage if name.startswith("blocks")):
            block = dict(stage[name])
            table = block["attn"]["rel_pos"]["table"]
            table = resize(table) if table.ndim == 3 else jax.vmap(resize)(table)  # scanned blocks
            block["attn"] = {**block["attn"], "rel_pos": {"table": table}}
            stage[name] = block
        params[f"stages_{i}"] = stage
    return params


def _positions(
    tables: Mapping[str, Any], old: VisionTransformer, new: VisionTransformer
) -> dict[str, Any]:
    """The tables of `TABLES` (one for the grid) or "learn_2d" (one for each side)."""
    rows, columns = new.grid()
    method = new.pos_resample
    if old.pos_embed == "learn_2d":
        return {
            "row": resample_grid(tables["row"], (rows, 1), method),
            "column": resample_grid(tables["column"], (1, columns), method),
        }
    return _table(tables, old, new)


def _table(
    tables: Mapping[str, Any], old: VisionTransformer, new: VisionTransformer
) -> dict[str, Any]:
    """A table with one row a token."""
    prefix, method = old.pos_prefix_tokens, new.pos_resample
    return {"table": resample_pos_embed(tables["table"], old.grid(), new.grid(), prefix, method)}
