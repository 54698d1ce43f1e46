"""The Vision Transformer: one encoder whose parts can be exchanged.

Dosovitskiy et al., "An Image is Worth 16x16 Words" (2021), section 3.1. In its order:

    images -> [ResNet] -> patches -> + positions -> blocks -> norm -> pool -> [pre-logits] -> head

A plain member of the family (DeiT, CLIP's and SigLIP's image towers, DINOv2, ViT-22B, ...) is a
choice of hyper-parameters, listed by name at the end of this file under the names timm uses.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.layers import resnet, rope
from vit_jax.models.layers.activation import ACTIVATIONS
from vit_jax.models.layers.attention import BACKENDS
from vit_jax.models.layers.drop import Key, dropout, kept_patches, split
from vit_jax.models.layers.encoder import CAPTURES, REMATS, Encoder
from vit_jax.models.layers.initial import WEIGHT_INITS, initializers
from vit_jax.models.layers.linear import Linear, classifier, named, token_axes
from vit_jax.models.layers.mlp import MLPS
from vit_jax.models.layers.norm import NORMS, make_norm
from vit_jax.models.layers.patch import PatchEmbed
from vit_jax.models.layers.pool import POOLS, AttentionPool
from vit_jax.models.layers.position import POS_EMBEDS, PositionEmbed
from vit_jax.models.layers.resample import METHODS
from vit_jax.models.partitioning import PlainModule

Size = int | tuple[int, int]


@struct.dataclass
class Intermediates:
    """What a forward pass saw on its way, for `capture=(names)`. What was not asked for is None.

    Tokens are in this order: class, distillation, registers, then the patches in raster order.

    Attributes:
        embedding: tokens that enter the first block `(b, n, d)`.
        tokens: tokens after each block `(depth, b, n, d)`.
        attention: attention weights of each block `(depth, b, h, n, n)`, rows sum to one.
        features: tokens after the final norm `(b, n, d)`.
        heads: logits of class and distillation token `(b, 2, num_classes)`, of a model with both.
    """

    embedding: jax.Array | None = None
    tokens: jax.Array | None = None
    attention: jax.Array | None = None
    features: jax.Array | None = None
    heads: jax.Array | None = None


def check_capture(capture: tuple[str, ...], intermediates: type = Intermediates) -> None:
    """Raises UserError unless `capture` is a tuple of names of fields of `intermediates`."""
    names = tuple(intermediates.__dataclass_fields__)
    if isinstance(capture, str) or set(capture) - set(names):
        raise UserError(f"capture={capture!r}: expected a tuple of names out of {names}")


_RATES = tuple(
    f"{name}_rate"
    for name in ("drop", "pos_drop", "patch_drop", "proj_drop", "attn_drop", "drop_path")
)
_SIZE = ranges.either(ranges.whole(1), ranges.several(ranges.whole(1), 2))

# What fields may be where their annotation says too little.
FIELD_RANGES: dict[str, ranges.Range] = {
    "img_size": _SIZE,
    "patch_size": _SIZE,
    "num_classes": ranges.whole(0),
    "reg_tokens": ranges.whole(0),
    **dict.fromkeys(("in_chans", "embed_dim", "depth", "num_heads"), ranges.whole(1)),
    **dict.fromkeys(("mlp_ratio", "norm_eps"), ranges.POSITIVE),
    "global_pool": ranges.one_of(POOLS),
    "mlp_layer": ranges.one_of(MLPS),
    "act_layer": ranges.one_of(ACTIVATIONS),
    "norm_layer": ranges.one_of(NORMS),
    "pos_embed": ranges.one_of(POS_EMBEDS),
    "pos_resample": ranges.one_of(METHODS),
    "rope": ranges.or_none(ranges.one_of(rope.ROPES)),
    "rope_temperature": ranges.or_none(ranges.POSITIVE),
    "representation_size": ranges.or_none(ranges.whole(1)),
    "resnet_layers": ranges.or_none(ranges.several(ranges.whole(1))),
    "head_bias_init": ranges.number(),
    **dict.fromkeys(_RATES, ranges.RATE),
    "weight_init": ranges.one_of(WEIGHT_INITS),
    "remat": ranges.one_of(REMATS),
    "attn_backend": ranges.one_of(BACKENDS),
    "dtype": ranges.or_none(ranges.FLOAT_DTYPE),
    "param_dtype": ranges.FLOAT_DTYPE,
}


def pair(size: Size) -> tuple[int, int]:
    """`(height, width)` of a size given as one number or two."""
    return (size, size) if isinstance(size, int) else tuple(size)


class VisionTransformer(PlainModule):
    """A plain Vision Transformer on images `(b, height, width, channels)`, floating point.

    Attributes:
        img_size: height and width in pixels that the position table is made for.
        patch_size: height and width of a patch.
        in_chans: channels of the images.
        num_classes: outputs of the head; 0 for no head (the result is the pooled features).
        global_pool: "token" (class token), "avg" (mean of patches), "token_avg" (class token and
            mean of patches side by side, `2 * embed_dim` wide), "map" (multi-head attention
            pooling) or "none" (every token).
        embed_dim: width of a token, d.
        depth: number of blocks.
        num_heads: attention heads, h.
        mlp_ratio: width of the MLP's second layer's input over `embed_dim`.
        mlp_layer: "mlp" or "swiglu".
        act_layer: "gelu" (erf), "gelu_tanh", "quick_gelu", "relu" or "silu".
        norm_layer: "layernorm", "layernorm_nobias" or "rmsnorm".
        norm_eps: epsilon of every norm.
        qkv_bias: biases on queries, keys and values.
        k_bias: False takes the bias off the keys.
        proj_bias: bias on the attention's output.
        mlp_bias: biases in the MLP.
        patch_bias: bias of the patch embedding.
        qk_norm: norm on queries and keys, head by head.
        init_values: initial LayerScale, None for no LayerScale.
        parallel_block: attention and MLP side by side (ViT-22B).
        class_token: a class token in front.
        dist_token: a distillation token after it (DeiT), with a head of its own; the logits are
            the mean of both heads.
        reg_tokens: how many register tokens follow (Darcet et al. 2024).
        pos_embed: "learn", "learn_2d", "sincos_1d", "sincos_2d", "sincos_2d_table" or "none" (see
            `layers.position`).
        pos_resample: how a learned table is resized for another grid: "bicubic_antialias" (timm),
            "bicubic", "bicubic_offset" (DINO, and DINOv2 without registers) or
            "bilinear_antialias" (see `layers.resample`).
        no_embed_class: the table has no rows for the tokens in front.
        no_embed_reg: the table has rows for class and distillation token, none for the registers
            (DINOv2 with registers as its authors publish it).
        rope: rotary embedding of queries and keys, "axial" or "dinov3", or None.
        rope_temperature: base of its frequencies; None is the paper's (`layers.rope.ROPES`).
        pre_norm: norm before the first block (CLIP).
        final_norm: norm after the last block.
        fc_norm: that norm comes after pooling; None means with "avg" only.
        pool_include_prefix: "avg" and "map" pool over the tokens in front too.
        representation_size: width of a tanh layer before the head, or None.
        head_bias: bias of the head.
        head_bias_init: where that bias starts, for each class; negative where each class is
            decided by itself and few are right (big_vision: -10 for 21,843 classes).
        dynamic_img_size: other image sizes are taken and the positions resampled.
        resnet_layers: bottlenecks in each stage of a ResNet in front (hybrid), or None.
        drop_rate: dropout before the head.
        pos_drop_rate: dropout of the embedded tokens.
        patch_drop_rate: share of patches left out of each image in training.
        proj_drop_rate: dropout after each projection and in the MLP.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block.
        drop_path_ramp: it grows linearly from 0 at the first; else all have the same (DeiT III).
        weight_init: what the parameters are drawn from: "vit", "deit" or "mae" (see
            `layers.initial`).
        scan: one traced block for all (see `layers.encoder`).
        remat: rematerialisation of blocks: "none", "full" or a policy's name.
        attn_backend: see `layers.attention`.
        dtype: computation dtype, as "bfloat16"; None follows inputs and parameters.
        param_dtype: dtype the parameters are drawn in.

    Raises:
        UserError: hyper-parameters contradict each other, or images do not fit `img_size`.
    """

    RANGES = FIELD_RANGES

    img_size: Size = 224
    patch_size: Size = 16
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "token"
    embed_dim: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_ratio: float = 4.0
    mlp_layer: str = "mlp"
    act_layer: str = "gelu"
    norm_layer: str = "layernorm"
    norm_eps: float = 1e-6
    qkv_bias: bool = True
    k_bias: bool = True
    proj_bias: bool = True
    mlp_bias: bool = True
    patch_bias: bool = True
    qk_norm: bool = False
    init_values: float | None = None
    parallel_block: bool = False
    class_token: bool = True
    dist_token: bool = False
    reg_tokens: int = 0
    pos_embed: str = "learn"
    pos_resample: str = "bicubic_antialias"
    no_embed_class: bool = False
    no_embed_reg: bool = False
    rope: str | None = None
    rope_temperature: float | None = None
    pre_norm: bool = False
    final_norm: bool = True
    fc_norm: bool | None = None
    pool_include_prefix: bool = False
    representation_size: int | None = None
    head_bias: bool = True
    head_bias_init: float = 0.0
    dynamic_img_size: bool = False
    resnet_layers: tuple[int, ...] | None = None
    drop_rate: float = 0.0
    pos_drop_rate: float = 0.0
    patch_drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    drop_path_ramp: bool = True
    weight_init: str = "vit"
    scan: bool = False
    remat: str = "none"
    attn_backend: str = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    # What follows from the hyper-parameters.

    @property
    def num_prefix_tokens(self) -> int:
        """Tokens in front of the patches."""
        return int(self.class_token) + int(self.dist_token) + self.reg_tokens

    @property
    def pos_prefix_tokens(self) -> int:
        """Tokens in front that the position table has rows for: the first ones."""
        if self.no_embed_class:
            return 0
        return self.num_prefix_tokens - (self.reg_tokens if self.no_embed_reg else 0)

    @property
    def stride(self) -> tuple[int, int]:
        """Pixels between neighbouring tokens, down and across."""
        ph, pw = pair(self.patch_size)
        step = 1 if self.resnet_layers is None else resnet.resnet_stride(self.resnet_layers)
        return ph * step, pw * step

    @property
    def mlp_hidden(self) -> int:
        """Width of what enters the MLP's second layer."""
        return int(self.embed_dim * self.mlp_ratio)

    @property
    def norm_after_pool(self) -> bool:
        """The final norm comes after pooling."""
        return self.global_pool == "avg" if self.fc_norm is None else self.fc_norm

    @property
    def fixed_params(self) -> tuple[str, ...]:
        """Paths of the parameters that no gradient reaches."""
        return ("pos_embed/table",) if self.pos_embed == "sincos_2d_table" else ()

    def grid(self, img_size: Size | None = None) -> tuple[int, int]:
        """Rows and columns of patches of an image (by default of `img_size`).

        Raises:
            UserError: a side is not divisible by the patch.
        """
        size = pair(self.img_size if img_size is None else img_size)
        for side, stride, name in zip(size, self.stride, ("height", "width")):
            if side % stride or side == 0:
                down, up = side // stride * stride, -(-side // stride) * stride
                raise UserError(
                    f"image {name} {side} is not divisible by the patch ({stride} pixels): "
                    f"use {max(down, stride)} or {max(up, stride)}"
                )
        return size[0] // self.stride[0], size[1] // self.stride[1]

    def check(self) -> None:
        """Raises UserError where hyper-parameters are out of range or contradict each other."""
        super().check()
        self.grid()
        if self.embed_dim % self.num_heads:
            raise UserError(
                f"embed_dim={self.embed_dim} is not divisible by num_heads={self.num_heads}"
            )
        if self.rope is not None and self.embed_dim // self.num_heads % 4:
            raise UserError(
                f"rope={self.rope!r} needs a head width divisible by 4, embed_dim={self.embed_dim} "
                f"and num_heads={self.num_heads} give {self.embed_dim // self.num_heads}"
            )
        if self.pos_embed.startswith("sincos") and self.embed_dim % 4:
            raise UserError(
                f"pos_embed={self.pos_embed!r} needs embed_dim divisible by 4, got {self.embed_dim}"
            )
        if self.global_pool.startswith("token") and not self.class_token:
            raise UserError(f"global_pool={self.global_pool!r} needs class_token=True")
        if self.no_embed_class and self.no_embed_reg:
            raise UserError(
                "no_embed_class=True (the table has no row for any token in front) contradicts "
                "no_embed_reg=True (only the registers have none): set one of them"
            )
        if self.dist_token and (self.global_pool != "token" or not self.num_classes):
            raise UserError("dist_token=True needs global_pool='token' and num_classes > 0")
        if self.dist_token and self.representation_size is not None:
            raise UserError("dist_token=True has two heads and no pre-logits layer before them")
        if self.head_bias_init and not self.head_bias:
            raise UserError(
                f"head_bias_init={self.head_bias_init} is where a bias starts that head_bias=False "
                "leaves out: set one of them"
            )

    # The parts.

    def setup(self) -> None:  # noqa: D102
        self.check()
        d, common = self.embed_dim, self._dtypes()
        if self.resnet_layers is not None:
            self.backbone = resnet.ResNet(tuple(self.resnet_layers), **common)
        self.patch_embed = PatchEmbed(
            pair(self.patch_size), d, self.patch_bias, self.weight_init, **common
        )
        draw = initializers(self.weight_init)
        first = named(draw.class_token, None, None, "embed")
        small = named(nn.initializers.normal(0.02), None, None, "embed")
        if self.class_token:
            self.cls_token = self.param("cls_token", first, (1, 1, d), self.param_dtype)
        if self.dist_token:
            self.dist = self.param("dist_token", small, (1, 1, d), self.param_dtype)
        if self.reg_tokens:
            shape = (1, self.reg_tokens, d)
            self.reg_token = self.param("reg_token", small, shape, self.param_dtype)
        if self.pos_embed != "none":
            self.positions = PositionEmbed(
                self.pos_embed,
                self.grid(),
                d,
                self.pos_prefix_tokens,
                self.pos_resample,
                self.param_dtype,
                name="pos_embed",
            )
        if self.pre_norm:
            self.norm_pre = self._norm()
        self.encoder = Encoder(
            depth=self.depth,
            block=self._block(),
            drop_path_rate=self.drop_path_rate,
            first_drop_path_rate=0.0 if self.drop_path_ramp else self.drop_path_rate,
            scan=self.scan,
            remat=self.remat,
        )
        if self.final_norm:
            if self.norm_after_pool:
                self.fc_norm_ = self._norm(name="fc_norm")
            else:
                self.norm = self._norm()
        if self.global_pool == "map":
            self.attn_pool = AttentionPool(
                self.num_heads,
                self._mlp(drop=0.0),
                norm_layer=self.norm_layer,
                norm_eps=self.norm_eps,
                backend=self.attn_backend,
                weight_init=self.weight_init,
                **common,
            )
        if self.representation_size is not None:
            width = (self.representation_size,)
            self.pre_logits = Linear(width, ("embed", None), kernel_init=draw.pre_logits, **common)
        if self.num_classes:
            self.head = self._head("head")
            if self.dist_token:
                self.head_dist = self._head("head_dist")

    def _dtypes(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def _norm(self, name: str | None = None) -> nn.Module:
        return make_norm(self.norm_layer, epsilon=self.norm_eps, name=name, **self._dtypes())

    def _mlp(self, drop: float) -> dict[str, Any]:
        gated = self.mlp_layer == "swiglu"
        return dict(
            hidden=self.mlp_hidden,
            activation=self.act_layer,
            gated=gated,
            use_bias=self.mlp_bias,
            drop=drop,
            weight_init=self.weight_init,
        )

    def _block(self) -> dict[str, Any]:
        """Hyper-parameters of one block."""
        attention = dict(
            num_heads=self.num_heads,
            qkv_bias=self.qkv_bias,
            k_bias=self.k_bias,
            qk_norm=self.qk_norm,
            proj_bias=self.proj_bias,
            norm_layer=self.norm_layer,
            norm_eps=self.norm_eps,
            attn_drop=self.attn_drop_rate,
            proj_drop=self.proj_drop_rate,
            rope=self.rope,
            backend=self.attn_backend,
            weight_init=self.weight_init,
        )
        return dict(
            attention=attention,
            mlp=self._mlp(drop=self.proj_drop_rate),
            parallel=self.parallel_block,
            init_values=self.init_values,
            norm_layer=self.norm_layer,
            norm_eps=self.norm_eps,
            **self._dtypes(),
        )

    def _head(self, name: str) -> nn.Module:
        return classifier(
            self.num_classes,
            self.head_bias,
            **self._dtypes(),
            name=name,
            kernel_init=initializers(self.weight_init).head,
            bias_init=self.head_bias_init,
        )

    # The forward pass.

    def __call__(
        self, images: jax.Array, *, train: bool = False, capture: tuple[str, ...] = ()
    ) -> jax.Array | tuple[jax.Array, Intermediates]:
        """Logits of images.

        Args:
            images: `(b, height, width, channels)`, floating point, normalised.
            train: dropout and stochastic depth are on; needs `rngs={"dropout": key}`.
            capture: names of fields of `Intermediates`, which is then returned as well.

        Returns:
            Logits `(b, num_classes)`; without a head the pooled features `(b, embed_dim)`, and
            with `global_pool="none"` one result a token. With `capture`, a pair of that and
            `Intermediates`.
        """
        check_capture(capture)
        *keys, key_head = split(self.dropout_key(train), 3)
        features, found = self.features(images, keys, capture=capture)
        pooled = self.pool(features)
        output = self.classify(pooled, key_head)
        if not capture:
            return output
        if "heads" in capture:
            found["heads"] = self.heads(pooled, key_head)
        return output, Intermediates(**{name: found[name] for name in capture})

    def dropout_key(self, train: bool) -> Key:
        """The key of everything that training leaves out, or None where nothing is."""
        drops = any(getattr(self, rate) > 0 for rate in _RATES)
        return self.make_rng("dropout") if train and drops else None

    def features(
        self,
        images: jax.Array,
        keys: Sequence[Key] = (None, None),
        kept: jax.Array | None = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Tokens after the final norm `(b, n, d)`, and the `Intermediates` by name.

        Args:
            images: see `__call__`.
            keys: of dropout at the embedding and in the blocks, or None.
            kept: see `embed`.
            capture: see `__call__`; attention and tokens of blocks are there if they are named.
        """
        key_embed, key_blocks = keys
        embedding, angles = self.embed(images, key_embed, kept)
        stacked = tuple(name for name in CAPTURES if name in capture)
        tokens, found = self.encoder(embedding, angles, key_blocks, stacked)
        features = self.normalize(tokens)
        return features, {**found, "embedding": embedding, "features": features}

    def embed(
        self, images: jax.Array, key: Key = None, kept: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array | None]:
        """Tokens that enter the first block `(b, n, d)`, and their rotary angles or None.

        Args:
            images: see `__call__`.
            key: of dropout, or None.
            kept: which patches are looked at, and in which order: raster indices `(b, k)`. None
                for all, or in training those that `patch_drop_rate` leaves.
        """
        self._check_images(images)
        key_pos, key_patch = split(key, 2)
        if self.resnet_layers is not None:
            images = self.backbone(images)
        x = self.patch_embed(images)
        b, grid, d = x.shape[0], x.shape[1:3], x.shape[3]
        x = self._prepend(x.reshape(b, -1, d))
        if self.pos_embed != "none":
            x = x + self._position_rows(grid).astype(x.dtype)
        x = dropout(x, self.pos_drop_rate, key_pos)
        angles = self._angles(grid)
        if kept is None:
            kept = kept_patches(key_patch, b, grid[0] * grid[1], self.patch_drop_rate)
        if kept is not None:
            prefix, patches = jnp.split(x, [self.num_prefix_tokens], axis=1)
            patches = jnp.take_along_axis(patches, kept[:, :, None], axis=1)
            x = jnp.concatenate([prefix, patches], axis=1)
            angles = None if angles is None else angles[0][kept]
        return (self.norm_pre(x) if self.pre_norm else x), angles

    def normalize(self, tokens: jax.Array) -> jax.Array:
        """The final norm of `(b, n, d)`, where it comes before pooling."""
        if self.final_norm and not self.norm_after_pool:
            return self.norm(tokens)
        return tokens

    def pool(self, features: jax.Array) -> jax.Array:
        """One vector an image, `(b, d)`; with "token_avg" `(b, 2 d)`, with "none" `(b, n, d)`.

        With a distillation token: `(b, 2, d)`, class and distillation token.
        """
        pooled_from = (
            features if self.pool_include_prefix else features[:, self.num_prefix_tokens :]
        )
        if self.dist_token:
            pooled = features[:, :2]
        elif self.global_pool == "token":
            pooled = features[:, 0]
        elif self.global_pool == "avg":
            pooled = pooled_from.mean(axis=1)
        elif self.global_pool == "token_avg":
            pooled = jnp.concatenate([features[:, 0], pooled_from.mean(axis=1)], axis=-1)
        elif self.global_pool == "map":
            pooled = self.attn_pool(pooled_from)
        else:
            pooled = features
        if self.final_norm and self.norm_after_pool:
            pooled = self.fc_norm_(pooled)
        return nn.with_logical_constraint(pooled, token_axes(pooled.ndim, "embed"))

    def classify(self, pooled: jax.Array, key: Key = None) -> jax.Array:
        """Logits `(b, num_classes)` of pooled features, in at least float32."""
        if self.dist_token:
            return self.heads(pooled, key).mean(axis=1)
        if self.representation_size is not None:
            pooled = jnp.tanh(self.pre_logits(pooled))
        pooled = dropout(pooled, self.drop_rate, key)
        return self.head(pooled) if self.num_classes else pooled

    def heads(self, pooled: jax.Array, key: Key = None) -> jax.Array:
        """Logits of class and distillation token `(b, 2, num_classes)`, each from its own head.

        Raises:
            UserError: the model has no distillation token.
        """
        if not self.dist_token:
            raise UserError("one head: only a model with dist_token=True has two")
        pooled = dropout(pooled, self.drop_rate, key)
        return jnp.stack([self.head(pooled[:, 0]), self.head_dist(pooled[:, 1])], axis=1)

    def _check_images(self, images: jax.Array) -> None:
        if images.ndim != 4 or images.shape[-1] != self.in_chans:
            raise UserError(
                f"expected images (batch, height, width, {self.in_chans}), got {images.shape}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"expected floating-point, normalised images, got {images.dtype}")
        size = images.shape[1:3]
        self.grid(size)
        if size != pair(self.img_size) and not self.dynamic_img_size:
            raise UserError(
                f"this model is built for images of {pair(self.img_size)}, got {size}: build it "
                f"with img_size={size}, or with dynamic_img_size=True to resample positions"
            )

    def _prepend(self, patches: jax.Array) -> jax.Array:
        """Puts class, distillation and register tokens in front of `(b, n, d)`."""
        front = []
        if self.class_token:
            front.append(self.cls_token)
        if self.dist_token:
            front.append(self.dist)
        if self.reg_tokens:
            front.append(self.reg_token)
        b, _, d = patches.shape
        front = [jnp.broadcast_to(t, (b, t.shape[1], d)).astype(patches.dtype) for t in front]
        return jnp.concatenate([*front, patches], axis=1)

    def _position_rows(self, grid: tuple[int, int]) -> jax.Array:
        """What is added to the tokens of `grid`, `(1, n, d)`: zeros where the table has no row."""
        rows, embedded = self.positions(grid), self.pos_prefix_tokens
        without = self.num_prefix_tokens - embedded
        if not without:
            return rows
        patches = jnp.pad(rows[:, embedded:], ((0, 0), (without, 0), (0, 0)))
        return jnp.concatenate([rows[:, :embedded], patches], axis=1) if embedded else patches

    def _angles(self, grid: tuple[int, int]) -> jax.Array | None:
        if self.rope is None:
            return None
        head_dim = self.embed_dim // self.num_heads
        return jnp.asarray(rope.rope_angles(self.rope, grid, head_dim, self.rope_temperature))[None]

    # The cost.

    def flops(self, img_size: Size | None = None) -> int:
        """Floating-point operations of one image's forward pass (2 for a multiply-add).

        Counts matrix products and convolutions: what the hardware's peak rate is about.

        Args:
            img_size: height and width, by default the model's own.
        """
        height, width = pair(self.img_size if img_size is None else img_size)
        rows, columns = self.grid((height, width))
        patches, d = rows * columns, self.embed_dim
        n = patches + self.num_prefix_tokens
        total = self.patch_flops(height, width)
        total += self.depth * self.block_flops(n, d, self.mlp_hidden)
        if self.global_pool == "map":
            pooled = n if self.pool_include_prefix else patches
            mlp = self.mlp_matrices * d * self.mlp_hidden
            total += 2 * (pooled * 2 * d * d + 2 * pooled * d + 2 * d * d + mlp)
        outputs = n if self.global_pool == "none" else 1
        width_in = 2 * d if self.global_pool == "token_avg" else d
        if self.representation_size is not None:
            total += 2 * outputs * width_in * self.representation_size
            width_in = self.representation_size
        return total + 2 * outputs * width_in * self.num_classes * (2 if self.dist_token else 1)

    @property
    def mlp_matrices(self) -> int:
        """Matrices of width times hidden width in an MLP."""
        return 3 if self.mlp_layer == "swiglu" else 2

    def patch_flops(self, height: int, width: int) -> int:
        """Operations of a ResNet in front and of the patch embedding, for one image."""
        (rows, columns), (ph, pw) = self.grid((height, width)), pair(self.patch_size)
        total, channels = 0, self.in_chans
        if self.resnet_layers is not None:
            total += resnet.resnet_flops(self.resnet_layers, height, width, channels)
            channels = resnet.resnet_channels(self.resnet_layers)
        return total + 2 * rows * columns * ph * pw * channels * self.embed_dim

    def block_flops(self, n: int, d: int, hidden: int) -> int:
        """Operations of one block on n tokens of width d."""
        mlp = self.mlp_matrices * d * hidden
        return 2 * (n * (4 * d * d + mlp) + 2 * n * n * d)


# The names. Sizes: B, L and H of ViT (table 1), Ti and S of DeiT (Touvron et al. 2021, table 1), g
# and G of "Scaling Vision Transformers" (Zhai et al. 2022), So400m of SoViT (Alabdulmohsin et al.
# 2023), ViT-22B (Dehghani et al. 2023, table 1).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(embed_dim=192, depth=12, num_heads=3),
    "small": dict(embed_dim=384, depth=12, num_heads=6),
    "base": dict(embed_dim=768, depth=12, num_heads=12),
    "large": dict(embed_dim=1024, depth=24, num_heads=16),
    "huge": dict(embed_dim=1280, depth=32, num_heads=16),
    "so400m": dict(embed_dim=1152, depth=27, num_heads=16, mlp_ratio=3.7362),
    "giant": dict(embed_dim=1408, depth=40, num_heads=16, mlp_ratio=48 / 11),
    "gigantic": dict(embed_dim=1664, depth=48, num_heads=16, mlp_ratio=64 / 13),
    "22b": dict(
        embed_dim=6144,
        depth=48,
        num_heads=48,
        parallel_block=True,
        qk_norm=True,
        qkv_bias=False,
        norm_layer="rmsnorm",  # "LayerNorms without bias and centering", section 2
        class_token=False,
        global_pool="map",
    ),
}
PATCH_SIZES = (8, 14, 16, 32)

# Image towers of CLIP: name, width and depth, outputs of the projection (or classes of the
# fine-tuned model that timm gives the name to), share that the crop keeps.
CLIP_SIZES: dict[str, dict[str, Any]] = {
    "xsmall": dict(embed_dim=256, depth=10, num_heads=4),
    "medium": dict(embed_dim=512, depth=12, num_heads=8),
    "betwixt": dict(embed_dim=640, depth=12, num_heads=10),
    "base_plus": dict(embed_dim=896, depth=12, num_heads=14),
    **{size: SIZES[size] for size in ("base", "large", "huge", "giant", "gigantic")},
}
CLIP_NAMES = (
    ("vit_xsmall_patch16_clip_224", "xsmall", 512, 0.9),
    ("vit_medium_patch16_clip_224", "medium", 512, 0.9),
    ("vit_medium_patch32_clip_224", "medium", 512, 0.9),
    ("vit_betwixt_patch32_clip_224", "betwixt", 512, 0.9),
    ("vit_base_patch32_clip_224", "base", 1000, 0.9),
    ("vit_base_patch32_clip_256", "base", 512, 1.0),
    ("vit_base_patch32_clip_384", "base", 1000, 1.0),
    ("vit_base_patch32_clip_448", "base", 1000, 1.0),
    ("vit_base_patch16_clip_224", "base", 1000, 0.95),
    ("vit_base_patch16_clip_384", "base", 1000, 1.0),
    ("vit_base_patch16_plus_clip_240", "base_plus", 640, 1.0),
    ("vit_large_patch14_clip_224", "large", 1000, 1.0),
    ("vit_large_patch14_clip_336", "large", 1000, 1.0),
    ("vit_huge_patch14_clip_224", "huge", 1000, 1.0),
    ("vit_huge_patch14_clip_336", "huge", 1000, 1.0),
    ("vit_huge_patch14_clip_378", "huge", 1024, 1.0),
    ("vit_giant_patch14_clip_224", "giant", 1024, 1.0),
    ("vit_gigantic_patch14_clip_224", "gigantic", 1280, 1.0),
    ("vit_gigantic_patch14_clip_378", "gigantic", 1280, 1.0),
    ("vit_base_patch32_clip_quickgelu_224", "base", 512, 0.9),
    ("vit_base_patch16_clip_quickgelu_224", "base", 512, 1.0),
    ("vit_large_patch14_clip_quickgelu_224", "large", 768, 1.0),
    ("vit_large_patch14_clip_quickgelu_336", "large", 768, 1.0),
    ("vit_huge_patch14_clip_quickgelu_224", "huge", 1024, 1.0),
    ("vit_huge_patch14_clip_quickgelu_378", "huge", 1024, 1.0),
    ("vit_gigantic_patch14_clip_quickgelu_224", "gigantic", 1280, 1.0),
)
# These squash pictures to their size; these are normalised by halves.
CLIP_SQUASHED = (
    "vit_base_patch16_clip_384",
    "vit_large_patch14_clip_336",
    "vit_huge_patch14_clip_336",
    "vit_gigantic_patch14_clip_378",
)
CLIP_HALF = ("vit_large_patch14_clip_224", "vit_large_patch14_clip_336")


def _register_clip() -> None:
    """Radford et al. 2021: a norm before the blocks, epsilon 1e-5; OpenAI's have QuickGELU.

    The projection to the space that images share with texts is the head; timm gives it a bias.
    """
    for name, size, classes, crop_pct in CLIP_NAMES:
        mean, std = registry.CLIP_MEAN, registry.CLIP_STD
        if name in CLIP_HALF:
            mean = std = registry.HALF
        mode = "squash" if name in CLIP_SQUASHED else "center"
        prep = registry.Preprocessing(mean, std, crop_pct=crop_pct, crop_mode=mode)
        patch = next(part for part in name.split("_") if part.startswith("patch"))
        registry.register(
            name,
            VisionTransformer,
            prep,
            **CLIP_SIZES[size],
            patch_size=int(patch.removeprefix("patch")),
            img_size=int(name.rpartition("_")[2]),
            num_classes=classes,
            act_layer="quick_gelu" if "quickgelu" in name else "gelu",
            norm_eps=1e-5,
            pre_norm=True,
            patch_bias=False,
        )


def _register_siglip() -> None:
    """Zhai et al. 2023, Tschannen et al. 2025: no class token, attention pooling, no classifier.

    The form "gap" takes the mean of the patches, without a pooling head. big_vision trained with
    the approximate GELU; the names follow timm, which has it in some of them.
    """
    giant = dict(embed_dim=1536, depth=40, num_heads=16)
    tower = dict(class_token=False, num_classes=0)
    gap = dict(global_pool="avg", fc_norm=False)
    for size, patch, resolutions, approximate in (
        ("base", 16, (224, 256, 384, 512), ()),
        ("base", 32, (256,), (256,)),
        ("large", 16, (256, 384, 512), (512,)),
        # timm's "384" of this patch size drops the last 6 pixels; its 378 is the same without
        ("so400m", 14, (224, 378, 448, 896), ()),
        ("so400m", 16, (256, 384, 512), (256, 384, 512)),
        ("giantopt", 16, (256, 384), (256, 384)),
    ):
        widths = giant if size == "giantopt" else SIZES[size]
        for resolution in resolutions:
            act = "gelu_tanh" if resolution in approximate else "gelu"
            common = dict(**widths, **tower, patch_size=patch, img_size=resolution, act_layer=act)
            whole = registry.Preprocessing(crop_pct=1.0)
            prep = whole if resolution in (448, 896) else registry.Preprocessing()
            name = f"vit_{size}_patch{patch}_siglip"
            if resolution not in (448, 896):  # PaliGemma's, which look at the patches
                registry.register(
                    f"{name}_{resolution}", VisionTransformer, prep, **common, global_pool="map"
                )
            registry.register(f"{name}_gap_{resolution}", VisionTransformer, prep, **common, **gap)


def _register_all() -> None:
    half = registry.Preprocessing()
    imagenet = registry.Preprocessing(registry.IMAGENET_MEAN, registry.IMAGENET_STD)
    whole = dataclasses.replace(half, crop_pct=1.0)

    def add(name: str, prep: registry.Preprocessing = half, **choices: Any) -> None:
        registry.register(name, VisionTransformer, prep, **choices)

    gap = dict(class_token=False, global_pool="avg")
    registers = dict(no_embed_class=True, reg_tokens=4)
    for size, widths in SIZES.items():
        for patch in PATCH_SIZES:
            for resolution in (224, 384):
                if resolution % patch == 0:
                    name = f"vit_{size}_patch{patch}_{resolution}"
                    prep = whole if resolution == 384 else half
                    prep = imagenet if name == "vit_small_patch8_224" else prep  # as in timm
                    add(name, prep, **widths, patch_size=patch, img_size=resolution)

    # The mean of the patches, normalised before: I-JEPA's, and one of timm's own with 16 heads.
    early = dict(**gap, fc_norm=False)
    add("vit_base_patch16_gap_224", **{**SIZES["base"], "num_heads": 16}, **early)
    add("vit_huge_patch14_gap_224", imagenet, **SIZES["huge"], **early, patch_size=14)
    add("vit_giant_patch16_gap_224", imagenet, **SIZES["giant"], **early)
    add("vit_base_patch16_reg4_gap_256", **SIZES["base"], img_size=256, **gap, **registers)

    _register_siglip()
    _register_clip()

    # DINOv2's backbones: LayerScale, optional registers, made for 518 pixels. At other resolutions
    # they resample positions as timm does; pos_resample="bicubic_offset" gives the numbers of the
    # authors' code for the models without registers (with registers the two agree).
    dino = dict(patch_size=14, img_size=518, init_values=1e-5, num_classes=0)
    giant2 = dict(embed_dim=1536, depth=40, num_heads=24, mlp_ratio=2.66667)
    giant2.update(mlp_layer="swiglu", act_layer="silu")
    for size in ("small", "base", "large", "giant"):
        widths = giant2 if size == "giant" else SIZES[size]
        prep = dataclasses.replace(imagenet, crop_pct=1.0)
        add(f"vit_{size}_patch14_dinov2", prep, **widths, **dino)
        add(f"vit_{size}_patch14_reg4_dinov2", prep, **widths, **dino, **registers)

    for size in ("tiny", "small", "base"):
        deit = dict(**SIZES[size], weight_init="deit")
        add(f"deit_{size}_patch16_224", imagenet, **deit)
        add(f"deit_{size}_distilled_patch16_224", imagenet, **deit, dist_token=True)
    fine = dataclasses.replace(imagenet, crop_pct=1.0)
    base384 = dict(**SIZES["base"], img_size=384, weight_init="deit")
    add("deit_base_patch16_384", fine, **base384)
    add("deit_base_distilled_patch16_384", fine, **base384, dist_token=True)
    # DeiT III (Touvron et al. 2022): LayerScale, and no position for the class token.
    for size in ("small", "medium", "base", "large", "huge"):
        third = dict(**(SIZES | CLIP_SIZES)[size], no_embed_class=True, init_values=1e-6)
        third.update(weight_init="deit")
        patch = 14 if size == "huge" else 16
        add(f"deit3_{size}_patch{patch}_224", imagenet, **third, patch_size=patch)
        if size in ("small", "base", "large"):
            add(f"deit3_{size}_patch16_384", fine, **third, img_size=384)

    # ViT-22B's blocks at smaller sizes, as timm has them: with a norm before the first block.
    parallel = {name: SIZES["22b"][name] for name in ("parallel_block", "qk_norm", "norm_layer")}
    parallel.update(qkv_bias=False, pre_norm=True, patch_bias=False, no_embed_class=True)
    for size, patch in (("base", 16), ("large", 14), ("huge", 14)):
        add(f"vit_{size}_patch{patch}_xp_224", **SIZES[size], **parallel, patch_size=patch)
    for resolution in (224, 384):
        for size, layers, suffix in (
            ("tiny", (), "r_s16_p8"),
            ("small", (2, 2, 2, 2), "r26_s32"),
            ("base", (2, 2, 2, 2), "r26_s32"),
            ("base", (3, 4, 9), "r50_s16"),
            ("large", (3, 4, 6, 3), "r50_s32"),
        ):
            hybrid = dict(resnet_layers=layers, patch_size=8 if not layers else 1)
            name = f"vit_{size}_{suffix}_{resolution}"
            prep = whole if resolution == 384 else half
            add(name, prep, **SIZES[size], **hybrid, img_size=resolution)


_register_all()
