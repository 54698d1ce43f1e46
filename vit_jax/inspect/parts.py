"""The parts of a model that costs are told by, from the names of modules.

One function serves paths of parameters ("encoder/blocks_0/attn/qkv/kernel") and the name stacks of
traced operations ("jvp(VisionTransformer)/encoder/blocks_0/attn/attn._project").
"""

import re
from collections.abc import Mapping

CONVOLUTIONS, PATCHES, POSITIONS = "convolutions", "patch embedding", "positions"
TOKENS, ATTENTION, SCORES, MLP = "added tokens", "attention", "attention scores", "MLP"
NORMS, MERGING, FINAL, POOLING = "norms in blocks", "merging", "other norms", "pooling"
EMBEDDING, HEAD, LOSS = "embedding", "head", "images and loss"
PARTS = (
    *(CONVOLUTIONS, PATCHES, POSITIONS, TOKENS, ATTENTION, SCORES, MLP, NORMS),
    *(MERGING, FINAL, POOLING, EMBEDDING, HEAD, LOSS),
)
DECODER = "decoder: "

# The first that is among the names of a path says the part.
_BY_NAME = {
    "backbone": CONVOLUTIONS,
    "conv_stem": CONVOLUTIONS,
    "downsample": MERGING,
    "patch_embed": PATCHES,
    "patch_norm": PATCHES,
    "pos_embed": POSITIONS,
    **dict.fromkeys(("cls_token", "dist_token", "reg_token", "mask_token"), TOKENS),
    "attn_pool": POOLING,
    **dict.fromkeys(("head", "head_dist", "pre_logits", "pred"), HEAD),
    **dict.fromkeys(("norm", "fc_norm", "norm_pre"), FINAL),
    "embed": EMBEDDING,
}
_BLOCK = re.compile(r"blocks(_\d+)?")
_BOTTLENECK = re.compile(r"stages_\d+_blocks_\d+")


def part_of(path: str) -> str:
    """Returns which part of a model a path belongs to: one of `PARTS`, "decoder: " before it.

    Args:
        path: names with "/" between them.
    """
    names = path.split("/")
    prefix = DECODER if "decoder" in names else ""
    if any(map(_BOTTLENECK.fullmatch, names)):
        return CONVOLUTIONS
    if any(map(_BLOCK.fullmatch, names)):
        inside = ATTENTION if "attn" in names else MLP if "mlp" in names else NORMS
        return prefix + inside
    return prefix + next((part for name, part in _BY_NAME.items() if name in names), LOSS)


def in_order(found: Mapping[str, float]) -> dict[str, float]:
    """Returns the values by part that are not zero, in the order of a forward pass."""
    order = {name: i for i, name in enumerate((*PARTS, *(DECODER + part for part in PARTS)))}
    order.setdefault("total", len(order))
    # A decoder comes after everything but the loss.
    order[LOSS] = len(order)
    return {name: found[name] for name in sorted(found, key=order.__getitem__) if found[name]}
