"""Swin Transformers: attention within shifted windows, on maps that shrink from stage to stage.

Liu et al., "Swin Transformer: Hierarchical Vision Transformer using Shifted Windows" (2021), and
"Swin Transformer V2: Scaling Up Capacity and Resolution" (2022). In their order:

    images -> patches -> norm -> stage 1 -> merge -> stage 2 -> ... -> norm -> mean -> head

with strides of 4, 8, 16 and 32 pixels. What the second version changes, each in one place below:

| | version 1 | version 2 |
|---|---|---|
| norms | before attention and MLP | after them, on the branch (`layers.block`) |
| scores | products over sqrt(hd) | cosines times a learned number (`layers.attention`) |
| biases by relative position | a table | a network on log-spaced offsets (`layers.window`) |
| merging | norm, then linear | linear, then norm (`layers.patch`) |
| biases of q, k, v | all | not of the keys |

Images of any size are taken: patches, windows and merging pad with zeros below and to the right.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import struct

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.layers.activation import ACTIVATIONS
from vit_jax.models.layers.attention import BACKENDS
from vit_jax.models.layers.drop import Key, dropout, split
from vit_jax.models.layers.encoder import REMATS, Encoder
from vit_jax.models.layers.initial import initializers
from vit_jax.models.layers.linear import classifier, token_axes
from vit_jax.models.layers.norm import make_norm
from vit_jax.models.layers.patch import PatchEmbed, PatchMerging
from vit_jax.models.layers.window import LOG_BIAS_HIDDEN, WindowAttention, pad_to
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.vit import Size, check_capture, pair

Pair = tuple[int, int]
POOLS = ("avg", "none")
VERSIONS = (1, 2)
WEIGHT_INIT = "deit"  # what both papers' parameters are drawn from, see `layers.initial`
_RATES = ("drop_rate", "proj_drop_rate", "attn_drop_rate", "drop_path_rate")


@struct.dataclass
class SwinIntermediates:
    """What a forward pass saw on its way, for `capture=(names)`. What was not asked for is None.

    Attributes:
        embedding: tokens that enter the first block `(b, h, w, d)`.
        tokens: tokens after each block, one `(b, h_i, w_i, d_i)` a block.
        maps: tokens after the last block of each stage, before they are merged, for dense heads:
            strides of 4, 8, 16 and 32 pixels (`patch_size` times 1, 2, 4, 8), widths `embed_dim`
            times 1, 2, 4, 8. No norm is applied: a dense head brings its own.
        features: tokens after the final norm `(b, h, w, d)`, of the last stage.
    """

    embedding: jax.Array | None = None
    tokens: tuple[jax.Array, ...] | None = None
    maps: tuple[jax.Array, ...] | None = None
    features: jax.Array | None = None


_SIZE = ranges.either(ranges.whole(1), ranges.several(ranges.whole(1), 2))

# What fields may be where their annotation says too little.
FIELD_RANGES: dict[str, ranges.Range] = {
    "version": ranges.one_of(VERSIONS),
    "img_size": _SIZE,
    "patch_size": _SIZE,
    "num_classes": ranges.whole(0),
    **dict.fromkeys(("in_chans", "embed_dim"), ranges.whole(1)),
    **dict.fromkeys(("depths", "num_heads"), ranges.several(ranges.whole(1))),
    "window_size": ranges.either(ranges.whole(1), ranges.several(_SIZE)),
    "pretrained_window_sizes": ranges.either(ranges.whole(0), ranges.several(ranges.whole(0))),
    **dict.fromkeys(("mlp_ratio", "norm_eps"), ranges.POSITIVE),
    "global_pool": ranges.one_of(POOLS),
    "act_layer": ranges.one_of(ACTIVATIONS),
    **dict.fromkeys(_RATES, ranges.RATE),
    "remat": ranges.one_of(REMATS),
    "attn_backend": ranges.one_of(BACKENDS),
    "dtype": ranges.or_none(ranges.FLOAT_DTYPE),
    "param_dtype": ranges.FLOAT_DTYPE,
}


class Stage(nn.Module):
    """Blocks on a map of one resolution, every second one on a map moved by half a window.

    Attributes:
        encoder: hyper-parameters of `Encoder`.
        merge: hyper-parameters of `PatchMerging` in front, or None in the first stage.
    """

    encoder: dict[str, Any]
    merge: dict[str, Any] | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, shift: Pair, key: Key, capture: tuple[str, ...]
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Returns the map after the last block, and what `Encoder` captures."""
        encoder = Encoder(**self.encoder, positions_differ=True)
        nn.share_scope(self, encoder)
        if self.merge is not None:
            x = PatchMerging(**self.merge, name="downsample")(x)
        moves = np.outer(np.arange(encoder.depth) % 2, shift)
        return encoder(x, moves, key, capture)


class SwinTransformer(PlainModule):
    """A Swin Transformer on images `(b, height, width, channels)`, floating point, of any size.

    A window is never larger than the map of its stage on images of `img_size`: there it shrinks to
    the map, side by side (timm). Maps that have a side no longer than the window's are not moved:
    in version 1 the maps of the images at hand (Transformers), in version 2 those of `img_size`
    (timm, Transformers), however large the images. `img_size` says nothing else.

    Attributes:
        version: 1 or 2.
        img_size: height and width in pixels that windows are made for.
        patch_size: height and width of a patch.
        in_chans: channels of the images.
        num_classes: outputs of the head; 0 for no head (the result is the pooled features).
        global_pool: "avg" (mean over the map) or "none" (every token).
        embed_dim: width of a token in the first stage; each further stage doubles it.
        depths: number of blocks of each stage.
        num_heads: attention heads of each stage.
        window_size: rows and columns of a window in tokens: one number, a pair, or one of these
            for each stage. Two numbers are rows and columns, also with two stages.
        pretrained_window_sizes: version 2: windows in pre-training, which offsets are measured by;
            one number, or one for each stage; 0 for `window_size`.
        mlp_ratio: width of the MLP's hidden layer over the token's.
        qkv_bias: biases on queries, keys (version 1) and values.
        act_layer: "gelu" (erf), "gelu_tanh", "quick_gelu", "relu" or "silu".
        norm_eps: epsilon of every norm.
        drop_rate: dropout before the head.
        proj_drop_rate: dropout after each projection and in the MLP.
        attn_drop_rate: dropout of attention weights.
        drop_path_rate: stochastic depth of the last block; it grows linearly from 0 at the first.
        scan: one traced block for all of a stage (see `layers.encoder`).
        remat: rematerialisation of blocks: "none", "full" or a policy's name.
        attn_backend: see `layers.attention`.
        dtype: computation dtype, as "bfloat16"; None follows inputs and parameters.
        param_dtype: dtype the parameters are drawn in.

    Raises:
        UserError: hyper-parameters contradict each other, or the images have no such channels.
    """

    RANGES = FIELD_RANGES

    version: int = 1
    img_size: Size = 224
    patch_size: Size = 4
    in_chans: int = 3
    num_classes: int = 1000
    global_pool: str = "avg"
    embed_dim: int = 96
    depths: tuple[int, ...] = (2, 2, 6, 2)
    num_heads: tuple[int, ...] = (3, 6, 12, 24)
    window_size: int | tuple[Size, ...] = 7
    pretrained_window_sizes: int | tuple[int, ...] = 0
    mlp_ratio: float = 4.0
    qkv_bias: bool = True
    act_layer: str = "gelu"
    norm_eps: float = 1e-5
    drop_rate: float = 0.0
    proj_drop_rate: float = 0.0
    attn_drop_rate: float = 0.0
    drop_path_rate: float = 0.1
    scan: bool = False
    remat: str = "none"
    attn_backend: str = "auto"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    # What follows from the hyper-parameters.

    @property
    def stride(self) -> Pair:
        """Pixels between neighbouring tokens of the last stage, down and across."""
        ph, pw = pair(self.patch_size)
        return ph * 2 ** (len(self.depths) - 1), pw * 2 ** (len(self.depths) - 1)

    def widths(self) -> tuple[int, ...]:
        """Width of a token in each stage."""
        return tuple(self.embed_dim * 2**i for i in range(len(self.depths)))

    def grids(self, img_size: Size | None = None) -> tuple[Pair, ...]:
        """Rows and columns of each stage's map, for an image (by default of `img_size`)."""
        size = pair(self.img_size if img_size is None else img_size)
        grid = tuple(-(-side // patch) for side, patch in zip(size, pair(self.patch_size)))
        grids = [grid]
        for _ in self.depths[1:]:
            grids.append(tuple(-(-side // 2) for side in grids[-1]))
        return tuple(grids)

    def wanted_windows(self) -> tuple[Pair, ...]:
        """Rows and columns of each stage's windows as `window_size` gives them.

        Raises:
            UserError: not one for each stage.
        """
        size, stages = self.window_size, len(self.depths)
        if isinstance(size, int) or (len(size) == 2 and all(isinstance(s, int) for s in size)):
            return (pair(size),) * stages
        if len(size) != stages:
            raise UserError(
                f"window_size={size}: expected one number, a pair, or one of these for each of "
                f"the {stages} stages of depths={tuple(self.depths)}"
            )
        return tuple(map(pair, size))

    def windows(self) -> tuple[Pair, ...]:
        """Rows and columns of each stage's windows: no larger than the maps of `img_size`."""
        both = zip(self.wanted_windows(), self.grids())
        return tuple(tuple(map(min, window, grid)) for window, grid in both)

    def shifts(self, img_size: Size | None = None) -> tuple[Pair, ...]:
        """How far each stage's map is moved in every second block, for an image."""
        grids = self.grids(None if self.version == 2 else img_size)
        return tuple(
            (0, 0) if grid[0] <= p or grid[1] <= q else (p // 2, q // 2)
            for grid, (p, q) in zip(grids, self.windows())
        )

    def trained_windows(self) -> tuple[Pair, ...]:
        """What each stage's log-spaced offsets are measured by.

        Raises:
            UserError: not one for each stage.
        """
        sizes = self.pretrained_window_sizes
        sizes = (sizes,) * len(self.depths) if isinstance(sizes, int) else tuple(sizes)
        if len(sizes) != len(self.depths):
            raise UserError(
                f"pretrained_window_sizes={sizes}: expected one number, or one for each of the "
                f"{len(self.depths)} stages of depths={tuple(self.depths)}"
            )
        return tuple((size, size) if size else own for size, own in zip(sizes, self.windows()))

    def _check_given_windows(self) -> None:
        """Raises UserError where a window that is given for one stage is larger than its map.

        One size for all stages shrinks to the last maps instead, as in timm.
        """
        if len(set(self.wanted_windows())) == 1:
            return
        for i, (window, grid) in enumerate(zip(self.wanted_windows(), self.grids())):
            if window[0] > grid[0] or window[1] > grid[1]:
                raise UserError(
                    f"window_size={self.window_size}: the window of stage {i}, {window}, is larger "
                    f"than its map of {grid} tokens; give one of at most that size"
                )

    def check(self) -> None:
        """Raises UserError where hyper-parameters are out of range or contradict each other."""
        super().check()
        if not self.depths or len(self.depths) != len(self.num_heads):
            raise UserError(
                f"depths={tuple(self.depths)} and num_heads={tuple(self.num_heads)}: expected one "
                "entry for each stage in both"
            )
        for width, heads in zip(self.widths(), self.num_heads):
            if width % heads:
                raise UserError(
                    f"num_heads={tuple(self.num_heads)} must divide the widths of the stages, "
                    f"which embed_dim={self.embed_dim} makes {self.widths()}"
                )
        (window, *_), (grid, *_) = self.wanted_windows(), self.grids()
        if window[0] > grid[0] or window[1] > grid[1]:
            raise UserError(
                f"window_size={self.window_size} is larger than the map of {grid} tokens that "
                f"img_size={self.img_size} and patch_size={self.patch_size} give: use a window of "
                "at most that size, smaller patches or larger images"
            )
        self._check_given_windows()
        self.trained_windows()
        if self.version == 1 and np.any(self.pretrained_window_sizes):
            raise UserError(
                f"pretrained_window_sizes={self.pretrained_window_sizes} needs version=2: in "
                "version 1 the tables of biases are resized instead (resample_params)"
            )

    # The parts.

    def setup(self) -> None:  # noqa: D102
        self.check()
        options = dict(weight_init=WEIGHT_INIT, **self._dtypes())
        self.patch_embed = PatchEmbed(pair(self.patch_size), self.embed_dim, **options)
        self.patch_norm = self._norm()
        self.stages = [self._stage(i) for i in range(len(self.depths))]
        self.norm = self._norm()
        if self.num_classes:
            init = initializers(WEIGHT_INIT).head
            options = dict(name="head", kernel_init=init, **self._dtypes())
            self.head = classifier(self.num_classes, True, **options)

    def _dtypes(self) -> dict[str, Any]:
        return dict(dtype=self.dtype, param_dtype=self.param_dtype)

    def _norm(self) -> nn.Module:
        return make_norm("layernorm", epsilon=self.norm_eps, **self._dtypes())

    def _stage(self, i: int) -> nn.Module:
        second = self.version == 2
        mlp = dict(
            hidden=int(self.widths()[i] * self.mlp_ratio),
            activation=self.act_layer,
            drop=self.proj_drop_rate,
            weight_init=WEIGHT_INIT,
        )
        heads = dict(
            num_heads=self.num_heads[i],
            qkv_bias=self.qkv_bias,
            k_bias=not second,
            cosine=second,
            attn_drop=self.attn_drop_rate,
            proj_drop=self.proj_drop_rate,
            backend=self.attn_backend,
            weight_init=WEIGHT_INIT,
        )
        attention = dict(
            attention=heads,
            window=self.windows()[i],
            position="log" if second else "table",
            trained=self.trained_windows()[i],
        )
        norms = dict(post_norm=second, norm_eps=self.norm_eps, **self._dtypes())
        rates = np.linspace(0, self.drop_path_rate, sum(self.depths))
        rates = rates[sum(self.depths[:i]) :][: self.depths[i]]
        encoder = dict(
            depth=self.depths[i],
            block=dict(attention=attention, mlp=mlp, mixer=WindowAttention, **norms),
            first_drop_path_rate=float(rates[0]),
            drop_path_rate=float(rates[-1]),
            scan=self.scan,
            remat=self.remat,
        )
        return Stage(encoder, merge=dict(norms, weight_init=WEIGHT_INIT) if i else None)

    # The forward pass.

    def __call__(
        self, images: jax.Array, *, train: bool = False, capture: tuple[str, ...] = ()
    ) -> jax.Array | tuple[jax.Array, SwinIntermediates]:
        """Logits of images.

        Args:
            images: `(b, height, width, channels)`, floating point, normalised.
            train: dropout and stochastic depth are on; needs `rngs={"dropout": key}`.
            capture: names of fields of `SwinIntermediates`, which is then returned as well.

        Returns:
            Logits `(b, num_classes)`; without a head the pooled features `(b, d)` of the last
            stage's width, and with `global_pool="none"` one result a token, `(b, h, w, ...)`. With
            `capture`, a pair of that and `SwinIntermediates`.
        """
        check_capture(capture, SwinIntermediates)
        stochastic = train and any(getattr(self, rate) > 0 for rate in _RATES)
        *keys, key_head = split(
            self.make_rng("dropout") if stochastic else None, len(self.depths) + 1
        )
        x = embedding = self.embed(images)
        tokens, maps = [], []
        asked = tuple(name for name in capture if name == "tokens")
        for stage, shift, key in zip(self.stages, self.shifts(images.shape[1:3]), keys):
            x, seen = stage(x, shift, key, asked)
            tokens += list(seen.get("tokens", ()))
            maps.append(x)
        features = self.norm(x)
        output = self.classify(self.pool(features), key_head)
        if not capture:
            return output
        found = dict(embedding=embedding, tokens=tuple(tokens), maps=tuple(maps), features=features)
        return output, SwinIntermediates(**{name: found[name] for name in capture})

    def embed(self, images: jax.Array) -> jax.Array:
        """Tokens that enter the first block `(b, h, w, d)`."""
        if images.ndim != 4 or images.shape[-1] != self.in_chans or 0 in images.shape[1:3]:
            raise UserError(
                f"expected images (batch, height, width, {self.in_chans}), got {images.shape}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"expected floating-point, normalised images, got {images.dtype}")
        return self.patch_norm(self.patch_embed(pad_to(images, pair(self.patch_size))))

    def pool(self, features: jax.Array) -> jax.Array:
        """One vector an image `(b, d)`; with "none" the map `(b, h, w, d)` itself."""
        pooled = features.mean(axis=(1, 2)) if self.global_pool == "avg" else features
        return nn.with_logical_constraint(pooled, token_axes(pooled.ndim, "embed"))

    def classify(self, pooled: jax.Array, key: Key = None) -> jax.Array:
        """Logits `(b, num_classes)` of pooled features, in at least float32."""
        pooled = dropout(pooled, self.drop_rate, key)
        return self.head(pooled) if self.num_classes else pooled

    # The cost.

    def flops(self, img_size: Size | None = None) -> int:
        """Floating-point operations of one image's forward pass (2 for a multiply-add).

        Counts matrix products, padding included: what the hardware's peak rate is about.

        Args:
            img_size: height and width, by default the model's own.
        """
        grids, widths = self.grids(img_size), self.widths()
        ph, pw = pair(self.patch_size)
        total = 2 * math.prod(grids[0]) * ph * pw * self.in_chans * self.embed_dim
        for i, (grid, d, (p, q)) in enumerate(zip(grids, widths, self.windows())):
            tokens, n = math.prod(grid), p * q
            padded = math.prod(-(-side // size) * size for side, size in zip(grid, (p, q)))
            block = padded * (4 * d * d + 2 * n * d) + tokens * 2 * d * int(d * self.mlp_ratio)
            if self.version == 2:
                offsets = (2 * p - 1) * (2 * q - 1)
                block += offsets * LOG_BIAS_HIDDEN * (2 + self.num_heads[i])
            total += 2 * self.depths[i] * block
            if i:
                total += 2 * tokens * 2 * d * d
        outputs = math.prod(grids[-1]) if self.global_pool == "none" else 1
        return total + 2 * outputs * widths[-1] * self.num_classes


# The names. Sizes: section 3.3 of the first paper; the windows of S3 are found by search (Chen et
# al., "Searching the Search Space of Vision Transformer", 2021).
SIZES: dict[str, dict[str, Any]] = {
    "tiny": dict(embed_dim=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
    "small": dict(embed_dim=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
    "base": dict(embed_dim=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
    "large": dict(embed_dim=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
}


def _register_all() -> None:
    def add(name: str, size: str, img_size: int, window: Any, **choices: Any) -> None:
        crop_pct = 1.0 if img_size == 384 else 0.9
        mean, std = registry.IMAGENET_MEAN, registry.IMAGENET_STD
        prep = registry.Preprocessing(mean, std, crop_pct=crop_pct)
        options = {**SIZES[size], "img_size": img_size, "window_size": window, **choices}
        registry.register(name, SwinTransformer, prep, **options)

    for size in SIZES:
        add(f"swin_{size}_patch4_window7_224", size, 224, 7)
    for size in ("base", "large"):
        add(f"swin_{size}_patch4_window12_384", size, 384, 12)
    add("swin_s3_tiny_224", "tiny", 224, (7, 7, 14, 7))
    add("swin_s3_small_224", "small", 224, (14, 14, 14, 7))
    add("swin_s3_base_224", "small", 224, (7, 7, 14, 7), depths=(2, 2, 30, 2))

    for size in ("tiny", "small", "base"):
        for window in (8, 16):
            add(f"swinv2_{size}_window{window}_256", size, 256, window, version=2)
    for size in ("base", "large"):
        # Pre-trained on ImageNet-22k at 192 pixels, then fine-tuned with larger windows.
        name = f"swinv2_{size}_window12"
        add(f"{name}_192", size, 192, 12, version=2, num_classes=21841)
        later = dict(version=2, pretrained_window_sizes=(12, 12, 12, 6))
        add(f"{name}to16_192to256", size, 256, 16, **later)
        add(f"{name}to24_192to384", size, 384, 24, **later)


_register_all()
