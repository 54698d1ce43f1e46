"""Parameters by part: of the real tree, and by hand.

By hand, a block of width d whose MLP is e wide has, with all its biases and two LayerNorms,

    attention  4 d^2 + 4 d        MLP  2 d e + e + d        norms  4 d

which for e = 4 d is 12 d^2 + 13 d: 7,087,872 for d = 768.
"""

import collections
import math
from typing import Any

from vit_jax.convert import params
from vit_jax.inspect import parts
from vit_jax.models.layers.position import TABLES
from vit_jax.models.layers.resnet import STEM_CHANNELS, resnet_channels
from vit_jax.models.layers.window import LOG_BIAS_HIDDEN
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.resnet import EXPANSION, STEMS, ResNetV2
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair

Counts = dict[str, int]


def parameters(module: PlainModule) -> Counts:
    """Returns the number of parameters of each part, from the module's real tree.

    Args:
        module: is traced, with a scan in the place of equal blocks; no array is made.
    """
    found: Counts = collections.Counter()
    for path, leaf in params.by_path(params.shapes_of(module)).items():
        found[parts.part_of(path)] += leaf.size
    return parts.in_order(found)


def parameters_by_hand(module: PlainModule) -> Counts:
    """Returns the same without tracing anything, as one works it out on paper.

    Args:
        module: of any family that has names.
    """
    if isinstance(module, MaskedAutoencoder):
        found = _vit(module) | _decoder(module)
    elif isinstance(module, VisionTransformer):
        found = _vit(module)
    elif isinstance(module, SwinTransformer):
        found = _swin(module)
    else:
        found = _resnet(module)
    return parts.in_order(found)


def _linear(inputs: int, outputs: int, bias: bool = True) -> int:
    return inputs * outputs + outputs * bias


def _norm(module: Any, d: int) -> int:
    """Scale and bias, or the scale alone."""
    return d * (2 if module.norm_layer == "layernorm" else 1)


def _mlp(module: VisionTransformer, d: int, hidden: int) -> int:
    first = hidden * (module.mlp_matrices - 1)  # gate and value, where it is gated
    return _linear(d, first, module.mlp_bias) + _linear(hidden, d, module.mlp_bias)


def _blocks(module: VisionTransformer, d: int, heads: int, hidden: int, depth: int) -> Counts:
    biases = (2 + module.k_bias) * d if module.qkv_bias else 0
    attention = 3 * d * d + biases + _linear(d, d, module.proj_bias)
    if module.qk_norm:
        attention += 2 * _norm(module, d // heads)
    branches = 1 if module.parallel_block else 2
    scales = 0 if module.init_values is None else d
    return {
        parts.ATTENTION: depth * attention,
        parts.MLP: depth * _mlp(module, d, hidden),
        parts.NORMS: depth * branches * (_norm(module, d) + scales),
    }


def _vit(module: VisionTransformer) -> Counts:
    d, (ph, pw) = module.embed_dim, pair(module.patch_size)
    rows, columns = module.grid()
    channels = module.in_chans
    found: Counts = {}
    if module.resnet_layers is not None:
        found[parts.CONVOLUTIONS] = _body(module.resnet_layers, channels)
        channels = resnet_channels(module.resnet_layers)
    found[parts.PATCHES] = _linear(ph * pw * channels, d, module.patch_bias)
    learned = {
        **dict.fromkeys(TABLES, module.pos_prefix_tokens + rows * columns),
        "learn_2d": rows + columns,
    }
    found[parts.POSITIONS] = learned.get(module.pos_embed, 0) * d
    found[parts.TOKENS] = module.num_prefix_tokens * d
    found |= _blocks(module, d, module.num_heads, module.mlp_hidden, module.depth)
    width = 2 * d if module.global_pool == "token_avg" else d
    final = width if module.norm_after_pool else d
    found[parts.FINAL] = module.pre_norm * _norm(module, d)
    found[parts.FINAL] += module.final_norm * _norm(module, final)
    if module.global_pool == "map":
        pool = d + 4 * _linear(d, d) + _norm(module, d) + _mlp(module, d, module.mlp_hidden)
        found[parts.POOLING] = pool
    head = 0
    if module.representation_size is not None:
        head, width = _linear(width, module.representation_size), module.representation_size
    if module.num_classes:
        heads = 2 if module.dist_token else 1
        head += heads * _linear(width, module.num_classes, module.head_bias)
    return {**found, parts.HEAD: head}


def _decoder(module: MaskedAutoencoder) -> Counts:
    d, (rows, columns) = module.decoder_embed_dim, module.grid()
    blocks = (d, module.decoder_num_heads, module.decoder_hidden, module.decoder_depth)
    found = {
        parts.EMBEDDING: _linear(module.embed_dim, d),
        parts.TOKENS: d,
        parts.POSITIONS: (module.num_prefix_tokens + rows * columns) * d,
        **_blocks(module, *blocks),
        parts.FINAL: _norm(module, d),
        parts.HEAD: _linear(d, module.in_chans * math.prod(module.stride)),
    }
    return {parts.DECODER + name: count for name, count in found.items()}


def _swin(module: SwinTransformer) -> Counts:
    d, (ph, pw) = module.embed_dim, pair(module.patch_size)
    found = {parts.PATCHES: _linear(ph * pw * module.in_chans, d) + 2 * d}
    found |= dict.fromkeys((parts.ATTENTION, parts.MLP, parts.NORMS, parts.MERGING), 0)
    stages = zip(module.widths(), module.depths, module.num_heads, module.windows())
    for i, (d, depth, heads, (p, q)) in enumerate(stages):
        offsets, hidden = (2 * p - 1) * (2 * q - 1), int(d * module.mlp_ratio)
        if module.version == 1:
            biases, position = 3 * d, offsets * heads
        else:  # no bias of the keys; a temperature for each head
            biases, position = 2 * d, _linear(2, LOG_BIAS_HIDDEN) + (LOG_BIAS_HIDDEN + 1) * heads
        attention = 3 * d * d + biases * module.qkv_bias + _linear(d, d) + position
        found[parts.ATTENTION] += depth * attention
        found[parts.MLP] += depth * (_linear(d, hidden) + _linear(hidden, d))
        found[parts.NORMS] += depth * 4 * d
        if i:  # from four tokens of half the width; the norm before it, or after
            found[parts.MERGING] += 2 * d * d + (2 * d if module.version == 2 else 4 * d)
    found[parts.FINAL] = 2 * d
    return {**found, parts.HEAD: _linear(d, module.num_classes) if module.num_classes else 0}


def _body(layers: tuple[int, ...], channels: int) -> int:
    """Of a hybrid's ResNet: convolutions without bias, a norm after each."""
    total, incoming = 49 * channels * STEM_CHANNELS + 2 * STEM_CHANNELS, STEM_CHANNELS
    for i, depth in enumerate(layers):
        features = 4 * STEM_CHANNELS * 2**i
        inner = features // 4
        for j in range(depth):
            total += (incoming + 9 * inner + features) * inner + 2 * (2 * inner + features)
            if j == 0:
                total += incoming * features + 2 * features
            incoming = features
    return total


def _resnet(module: ResNetV2) -> Counts:
    kernel = STEMS[module.stem][0]
    total, incoming = kernel**2 * module.in_chans * module.width, module.width
    for name, features, _ in module.blocks():
        inner = features // EXPANSION
        total += (incoming + 9 * inner + features) * inner + 2 * (incoming + 2 * inner)
        total += incoming * features if name.endswith("_blocks_0") else 0
        incoming = features
    head = _linear(incoming, module.num_classes) if module.num_classes else 0
    return {parts.CONVOLUTIONS: total, parts.FINAL: 2 * incoming, parts.HEAD: head}
