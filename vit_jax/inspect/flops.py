"""Floating-point operations of a forward pass by hand, part by part, 2 for a multiply-add.

Matrix products and convolutions count, as in `module.flops()`, which the parts sum to. For a block
on n tokens of width d whose MLP has m matrices of d times its hidden width e:

    projections (q, k, v and the output)   2 * 4 n d^2
    scores q k^T, and weights times values 2 * n^2 d each
    MLP                                    2 * m n d e
"""

import math
from typing import Any

from vit_jax.inspect import parts
from vit_jax.models.layers.resnet import resnet_channels
from vit_jax.models.layers.window import LOG_BIAS_HIDDEN
from vit_jax.models.mae import MaskedAutoencoder, num_kept
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.resnet import ResNetV2
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair

PROJECTIONS, SCORES, VALUES = "attention: projections", "attention: scores", "attention: values"
BIASES = "attention: position network"
ATTENTION = (PROJECTIONS, SCORES, VALUES, BIASES)
QUADRATIC = (SCORES, VALUES)


def flops_by_hand(module: PlainModule, img_size: Any = None) -> dict[str, int]:
    """Returns the operations of one image's forward pass by part.

    Args:
        module: of any family that has names.
        img_size: height and width, by default the model's own.

    Raises:
        UserError: the image does not fit the patches.
    """
    size = pair(module.img_size if img_size is None else img_size)
    if isinstance(module, MaskedAutoencoder):
        found = _mae(module, size)
    elif isinstance(module, VisionTransformer):
        found = _vit(module, size)
    elif isinstance(module, SwinTransformer):
        found = _swin(module, size)
    else:
        found = _resnet(module, size)
    return {name: count for name, count in found.items() if count}


def attention_shares(found: dict[str, int]) -> tuple[float, float]:
    """Returns the shares of all attention, and of its part that is quadratic in the tokens."""
    total = sum(found.values())

    def share(names: tuple[str, ...]) -> float:
        ours = sum(x for name, x in found.items() if name.removeprefix(parts.DECODER) in names)
        return ours / total

    return share(ATTENTION), share(QUADRATIC)


def _block(n: int, d: int, matrices: int, hidden: int, times: int) -> dict[str, int]:
    return {
        PROJECTIONS: times * 2 * 4 * n * d * d,
        SCORES: times * 2 * n * n * d,
        VALUES: times * 2 * n * n * d,
        parts.MLP: times * 2 * matrices * n * d * hidden,
    }


def _vit(module: VisionTransformer, size: tuple[int, int]) -> dict[str, int]:
    rows, columns = module.grid(size)
    patches, d = rows * columns, module.embed_dim
    n = patches + module.num_prefix_tokens
    found = _patches(module, size)
    found |= _block(n, d, module.mlp_matrices, module.mlp_hidden, module.depth)
    if module.global_pool == "map":
        m = n if module.pool_include_prefix else patches
        # Keys and values of m tokens; scores and values, query and output, the MLP of one.
        mlp = module.mlp_matrices * d * module.mlp_hidden
        found[parts.POOLING] = 2 * (2 * m * d * d + 2 * m * d + 2 * d * d + mlp)
    outputs = n if module.global_pool == "none" else 1
    width = 2 * d if module.global_pool == "token_avg" else d
    head = 0
    if module.representation_size is not None:
        head, width = width * module.representation_size, module.representation_size
    heads = 2 if module.dist_token else 1
    found[parts.HEAD] = 2 * outputs * (head + heads * width * module.num_classes)
    return found


def _patches(module: VisionTransformer, size: tuple[int, int]) -> dict[str, int]:
    """Of a ResNet in front, and of the patch embedding."""
    whole = module.patch_flops(*size)
    if module.resnet_layers is None:
        return {parts.PATCHES: whole}
    (rows, columns), (ph, pw) = module.grid(size), pair(module.patch_size)
    channels = resnet_channels(module.resnet_layers)
    patches = 2 * rows * columns * ph * pw * channels * module.embed_dim
    return {parts.CONVOLUTIONS: whole - patches, parts.PATCHES: patches}


def _mae(module: MaskedAutoencoder, size: tuple[int, int]) -> dict[str, int]:
    """The encoder on the patches that are kept, the decoder on all."""
    rows, columns = module.grid(size)
    n, dim, prefix = rows * columns, module.decoder_embed_dim, module.num_prefix_tokens
    seen, matrices = num_kept(n, module.mask_ratio) + prefix, module.mlp_matrices
    pixels = module.in_chans * math.prod(module.stride)
    decoder = {
        parts.EMBEDDING: 2 * seen * module.embed_dim * dim,
        **_block(n + prefix, dim, matrices, module.decoder_hidden, module.decoder_depth),
        parts.HEAD: 2 * n * dim * pixels,
    }
    return {
        **_patches(module, size),
        **_block(seen, module.embed_dim, matrices, module.mlp_hidden, module.depth),
        **{parts.DECODER + name: count for name, count in decoder.items()},
    }


def _swin(module: SwinTransformer, size: tuple[int, int]) -> dict[str, int]:
    """Attention of each window's n tokens, padding included; merging between stages."""
    grids, widths = module.grids(size), module.widths()
    (ph, pw), names = pair(module.patch_size), (PROJECTIONS, SCORES, VALUES, BIASES, parts.MLP)
    found = {parts.PATCHES: 2 * math.prod(grids[0]) * ph * pw * module.in_chans * widths[0]}
    found |= dict.fromkeys((*names, parts.MERGING), 0)
    for i, (grid, d, (p, q)) in enumerate(zip(grids, widths, module.windows())):
        tokens, n, times = math.prod(grid), p * q, 2 * module.depths[i]
        padded = math.prod(-(-side // window) * window for side, window in zip(grid, (p, q)))
        found[PROJECTIONS] += times * padded * 4 * d * d
        found[SCORES] += times * padded * n * d
        found[VALUES] += times * padded * n * d
        found[parts.MLP] += times * tokens * 2 * d * int(d * module.mlp_ratio)
        if module.version == 2:
            offsets = (2 * p - 1) * (2 * q - 1)
            found[BIASES] += times * offsets * LOG_BIAS_HIDDEN * (2 + module.num_heads[i])
        if i:
            found[parts.MERGING] += 2 * tokens * 2 * d * d
    outputs = math.prod(grids[-1]) if module.global_pool == "none" else 1
    return {**found, parts.HEAD: 2 * outputs * widths[-1] * module.num_classes}


def _resnet(module: ResNetV2, size: tuple[int, int]) -> dict[str, int]:
    head = 2 * module.features * module.num_classes
    return {parts.CONVOLUTIONS: module.flops(size) - head, parts.HEAD: head}
