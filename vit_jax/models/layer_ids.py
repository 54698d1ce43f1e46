"""How deep in a model a parameter lies, counted in blocks.

0 is what embeds the images, 1 to D are the D blocks, D + 1 is what follows them: the numbering of
BEiT (Bao et al. 2022) and MAE (He et al. 2022), by which layer-wise learning-rate decay goes.
"""

from collections.abc import Sequence

from vit_jax import naming
from vit_jax.errors import UserError
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer

FINAL_NORMS = ("after", "last_block")

_EMBEDDING = {
    VisionTransformer: (
        "backbone",
        "patch_embed",
        "cls_token",
        "dist_token",
        "reg_token",
        "pos_embed",
        "norm_pre",
    ),
    SwinTransformer: ("patch_embed", "patch_norm"),
}
_AFTER = {
    VisionTransformer: ("norm", "fc_norm", "attn_pool", "pre_logits", "head", "head_dist"),
    SwinTransformer: ("norm", "head"),
}


def num_blocks(module: PlainModule) -> int:
    """Returns D, the number of blocks of all stages.

    Raises:
        UserError: the layers of such a module have no numbers here.
    """
    if type(module) not in _EMBEDDING:
        known = ", ".join(cls.__name__ for cls in _EMBEDDING)
        raise UserError(
            f"the layers of a {type(module).__name__} have no numbers; those of {known}"
        )
    return module.depth if isinstance(module, VisionTransformer) else sum(module.depths)


def layer_id(module: PlainModule, path: Sequence[str], final_norm: str = "after") -> int:
    """Returns the number of the layer that a parameter belongs to, 0 to D + 1.

    In a Swin Transformer blocks are counted through all stages, and what merges the tokens in
    front of a stage belongs to the stage's first block, as in timm.

    Args:
        module: a `VisionTransformer` or `SwinTransformer`.
        path: names from the root of its parameters to the array, blocks not stacked.
        final_norm: where a norm between the last block and pooling belongs: "after" (BEiT, MAE:
            D + 1, as what follows it) or "last_block" (timm: D). A norm after pooling is D + 1 in
            all of them.

    Raises:
        UserError: the module is another, or has no such parameter.
    """
    last = num_blocks(module)
    first, *rest = path
    if first in _EMBEDDING[type(module)]:
        return 0
    if first == "norm" and final_norm == "last_block":
        return last
    if first in _AFTER[type(module)]:
        return last + 1
    before = 0
    if first.startswith("stages_"):
        before = sum(module.depths[: int(first.removeprefix("stages_"))])
        if rest[0] == "downsample":
            return before + 1
    elif first != "encoder":
        known = (*_EMBEDDING[type(module)], *_AFTER[type(module)])
        raise UserError(naming.unknown(f"part of a {type(module).__name__}", first, known))
    return before + int(rest[0].removeprefix("blocks_")) + 1
