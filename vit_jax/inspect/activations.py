"""What the blocks keep for their backward pass, by hand.

For one image, n tokens of width d, h heads, an MLP e wide, s bytes a number (4, or 2 in bfloat16):

    norms      4 s n d                     what each of two is given, and its result
    attention  4 s n d                     queries, keys, values, and what was mixed
    scores     (4 + s) h n^2 + 8 h n       exponentials in float32, weights; maximum and sum
    MLP        s n e                       what GELU is given

A norm of all tokens after the last block is given what that made: s n d more.

For e = 4 d that is 24 n d + 6 h n^2 bytes a block in bfloat16, the small terms left out, and
48 n d + 8 h n^2 in float32. Korthikanti et al. 2022, "Reducing Activation Recomputation in Large
Transformer Models", section 4.1, have 34 n d + 5 h n^2 for 16 bits, dropout's masks included: they
keep GELU's result too, 8 n d, which is computed anew here (`models.layers.recompute`). A fused
kernel of attention keeps no scores.
"""

import numpy as np

from vit_jax.inspect import parts
from vit_jax.models.mae import MaskedAutoencoder, num_kept
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.vit import VisionTransformer


def block_keeps(n: int, d: int, heads: int, hidden: int, itemsize: int) -> dict[str, int]:
    """Returns the bytes that a plain block keeps of an image, by part.

    Args:
        n: tokens.
        d: their width.
        heads: of attention.
        hidden: width of the MLP.
        itemsize: bytes of a number of the computation dtype.
    """
    return {
        parts.NORMS: 4 * itemsize * n * d,
        parts.ATTENTION: 4 * itemsize * n * d,
        parts.SCORES: (4 + itemsize) * heads * n * n + 8 * heads * n,
        parts.MLP: itemsize * n * hidden,
    }


def is_plain(module: PlainModule) -> bool:
    """Whether a module's blocks are those of the formula: ViT's, without options that keep more."""
    if not isinstance(module, VisionTransformer):
        return False
    rates = ("proj_drop_rate", "attn_drop_rate", "drop_path_rate")
    return (
        not any(getattr(module, rate) for rate in rates)
        and (module.mlp_layer, module.act_layer, module.norm_layer) == ("mlp", "gelu", "layernorm")
        and not module.parallel_block
        and not module.qk_norm
        and module.init_values is None
        and module.rope is None
        and module.remat == "none"
    )


def blocks_keep_by_hand(module: VisionTransformer) -> int:
    """Returns the bytes that all blocks of a plain module keep of an image, see `is_plain`.

    What the last one makes is among them where a norm of all tokens keeps it.
    """
    itemsize = 4 if module.dtype is None else np.dtype(module.dtype).itemsize
    rows, columns = module.grid()
    patches, prefix = rows * columns, module.num_prefix_tokens
    is_mae = isinstance(module, MaskedAutoencoder)
    seen = num_kept(patches, module.mask_ratio) if is_mae else patches
    widths = (module.embed_dim, module.num_heads, module.mlp_hidden)
    total = module.depth * sum(block_keeps(seen + prefix, *widths, itemsize).values())
    if module.final_norm and not module.norm_after_pool:
        total += itemsize * (seen + prefix) * module.embed_dim
    if is_mae:
        widths = (module.decoder_embed_dim, module.decoder_num_heads, module.decoder_hidden)
        block = block_keeps(patches + prefix, *widths, itemsize)
        total += module.decoder_depth * sum(block.values())
        total += itemsize * (patches + prefix) * module.decoder_embed_dim
    return total
