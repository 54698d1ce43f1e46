"""Masked autoencoders: a Vision Transformer that paints in what it has not seen.

He et al., "Masked Autoencoders Are Scalable Vision Learners" (2022), section 3. In its order:

    images -> patches -> + positions -> those that are kept -> blocks -> norm = latents
    latents -> linear -> in raster order, mask tokens between -> + positions -> blocks -> pixels

The encoder is the plain Vision Transformer itself, on a quarter of the patches: the parameters of
a masked autoencoder are those of a `VisionTransformer`, under the same names, and a "decoder"
beside them that is thrown away after pre-training.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.layers.drop import Key, split
from vit_jax.models.layers.encoder import Encoder
from vit_jax.models.layers.linear import Linear, named
from vit_jax.models.layers.norm import make_norm
from vit_jax.models.layers.position import PositionEmbed
from vit_jax.models.vit import FIELD_RANGES, SIZES, VisionTransformer, check_capture, pair


@struct.dataclass
class MaskedAutoencoderOutput:
    """What a forward pass gives.

    Attributes:
        prediction: pixels of every patch `(b, n, p * q * c)`, in raster order and in the order of
            `layers.patch.patchify`, in at least float32.
        mask: 1 for the patches that the encoder has not seen, 0 for the others `(b, n)`.
        ids_restore: where each patch stands in the shuffled order `(b, n)`: those that are kept
            come first.
        latent: tokens after the encoder's norm `(b, prefix + kept, d)`, kept patches in shuffled
            order.
    """

    prediction: jax.Array
    mask: jax.Array
    ids_restore: jax.Array
    latent: jax.Array


@struct.dataclass
class MaskedAutoencoderIntermediates:
    """What a forward pass saw on its way, for `capture=(names)`. What was not asked for is None.

    Attributes:
        embedding: tokens that enter the encoder's first block `(b, prefix + kept, d)`.
        tokens: tokens after each block of the encoder `(depth, b, prefix + kept, d)`.
        attention: its attention weights `(depth, b, h, prefix + kept, prefix + kept)`.
        features: tokens after its norm, `MaskedAutoencoderOutput.latent`.
        decoder_tokens: tokens after each block of the decoder
            `(decoder_depth, b, prefix + n, decoder_embed_dim)`.
    """

    embedding: jax.Array | None = None
    tokens: jax.Array | None = None
    attention: jax.Array | None = None
    features: jax.Array | None = None
    decoder_tokens: jax.Array | None = None


def num_kept(patches: int, mask_ratio: float) -> int:
    """How many of so many patches the encoder sees.

    Raises:
        UserError: none, or all of them.
    """
    kept = int(patches * (1 - mask_ratio))
    if not 0 < kept < patches:
        raise UserError(
            f"mask_ratio={mask_ratio} keeps {kept} of {patches} patches: at least one has to be "
            f"kept and one masked. Choose a ratio between {1 / patches:.3g} and "
            f"{1 - 1 / patches:.3g}, or more patches"
        )
    return kept


def random_masking(noise: jax.Array, mask_ratio: float) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Shuffles the patches of each image and keeps the first ones (section 3, "masking").

    Args:
        noise: `(b, n)`; patches are sorted by it, and those with the smallest are kept.
        mask_ratio: share of the patches that is masked.

    Returns:
        Raster indices of the patches that are kept `(b, kept)`, in shuffled order; the mask
        `(b, n)`, 1 for masked; the place of each patch in the shuffled order `(b, n)`.
    """
    noise = jnp.asarray(noise)
    shuffled = jnp.argsort(noise, axis=1)
    ids_restore = jnp.argsort(shuffled, axis=1)
    kept = num_kept(noise.shape[1], mask_ratio)
    mask = (ids_restore >= kept).astype(jnp.promote_types(noise.dtype, jnp.float32))
    return shuffled[:, :kept], mask, ids_restore


# What fields may be where their annotation says too little.
RANGES: dict[str, ranges.Range] = {
    **FIELD_RANGES,
    "mask_ratio": ranges.number("a number, 0 < x < 1", lambda x: 0 < x < 1),
    "decoder_mlp_ratio": ranges.POSITIVE,
    **dict.fromkeys(("decoder_embed_dim", "decoder_depth", "decoder_num_heads"), ranges.whole(1)),
    # What has no meaning without a head, and what would show the masked pixels.
    "num_classes": ranges.one_of((0,)),
    "global_pool": ranges.one_of(("none",)),
    "dist_token": ranges.one_of((False,)),
    "representation_size": ranges.NONE,
    "resnet_layers": ranges.NONE,
    "patch_drop_rate": ranges.one_of((0,)),
}


class Decoder(nn.Module):
    """From latents of the kept patches to pixels of all (section 3, "MAE decoder").

    Attributes:
        block: hyper-parameters of `Block`.
        dim: width of a token.
        depth: number of blocks.
        grid: rows and columns of patches that the positions are made for.
        num_prefix_tokens: tokens in front of the patches.
        pixels: numbers in a patch.
        scan: see `layers.encoder`.
        remat: see `layers.encoder`.
        weight_init: see `layers.initial`.
    """

    block: dict[str, Any]
    dim: int
    depth: int
    grid: tuple[int, int]
    num_prefix_tokens: int
    pixels: int
    scan: bool = False
    remat: str = "none"
    weight_init: str = "mae"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self,
        latent: jax.Array,
        ids_restore: jax.Array,
        grid: tuple[int, int],
        key: Key = None,
        capture: tuple[str, ...] = (),
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """Pixels `(b, n, pixels)` from latents `(b, prefix + kept, d)`, and what was captured."""
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        drawn = dict(common, weight_init=self.weight_init)
        x = Linear((self.dim,), (None, "embed"), **drawn, name="embed")(latent)
        x = self._unshuffle(x, ids_restore)
        positions = PositionEmbed(
            "sincos_2d_table",
            self.grid,
            self.dim,
            self.num_prefix_tokens,
            param_dtype=self.param_dtype,
            name="pos_embed",
        )
        x = x + positions(grid).astype(x.dtype)
        blocks = Encoder(depth=self.depth, block=self.block, scan=self.scan, remat=self.remat)
        nn.share_scope(self, blocks)
        x, found = blocks(x, None, key, capture)
        norm = {name: self.block[name] for name in ("norm_layer", "norm_eps")}
        x = make_norm(norm["norm_layer"], epsilon=norm["norm_eps"], name="norm", **common)(x)
        wide = None if self.dtype is None else jnp.promote_types(self.dtype, jnp.float32)
        pred = Linear(
            (self.pixels,),
            ("embed", None),
            name="pred",
            **{**drawn, "dtype": wide},
        )
        return pred(x[:, self.num_prefix_tokens :]), found

    def _unshuffle(self, x: jax.Array, ids_restore: jax.Array) -> jax.Array:
        """All tokens in raster order, the mask token where a patch was masked."""
        init = named(nn.initializers.normal(0.02), None, None, "embed")
        mask_token = self.param("mask_token", init, (1, 1, self.dim), self.param_dtype)
        prefix, kept = jnp.split(x, [self.num_prefix_tokens], axis=1)
        b, n = ids_restore.shape
        masked = jnp.broadcast_to(mask_token.astype(x.dtype), (b, n - kept.shape[1], self.dim))
        shuffled = jnp.concatenate([kept, masked], axis=1)
        patches = jnp.take_along_axis(shuffled, ids_restore[:, :, None], axis=1)
        return jnp.concatenate([prefix, patches], axis=1)


class MaskedAutoencoder(VisionTransformer):
    """A Vision Transformer on the patches that are kept, and a decoder that gives the others.

    What `VisionTransformer` has, and:

    Attributes:
        mask_ratio: share of the patches of each image that is masked.
        decoder_embed_dim: width of the decoder's tokens.
        decoder_depth: number of its blocks.
        decoder_num_heads: its attention heads.
        decoder_mlp_ratio: width of its MLPs' second layer's input over `decoder_embed_dim`.

    The decoder shares the other choices of a block (activation, norm, biases), has no stochastic
    depth, and fixed positions. There is no head and no pooling.

    Raises:
        UserError: hyper-parameters contradict each other, or images do not fit `img_size`.
    """

    RANGES = RANGES

    num_classes: int = 0
    global_pool: str = "none"
    pos_embed: str = "sincos_2d_table"
    weight_init: str = "mae"
    mask_ratio: float = 0.75
    decoder_embed_dim: int = 512
    decoder_depth: int = 8
    decoder_num_heads: int = 16
    decoder_mlp_ratio: float = 4.0

    @property
    def decoder_hidden(self) -> int:
        """Width of what enters the second layer of the decoder's MLPs."""
        return int(self.decoder_embed_dim * self.decoder_mlp_ratio)

    @property
    def fixed_params(self) -> tuple[str, ...]:
        """Paths of the parameters that no gradient reaches."""
        return (*super().fixed_params, "decoder/pos_embed/table")

    def check(self) -> None:
        """Raises UserError where hyper-parameters are out of range or contradict each other."""
        super().check()
        rows, columns = self.grid()
        num_kept(rows * columns, self.mask_ratio)
        if self.decoder_embed_dim % self.decoder_num_heads or self.decoder_embed_dim % 4:
            raise UserError(
                f"decoder_embed_dim={self.decoder_embed_dim} must be divisible by "
                f"decoder_num_heads={self.decoder_num_heads}, and by 4 for its sin-cos positions"
            )

    @nn.nowrap
    def encoder_alone(self) -> VisionTransformer:
        """The Vision Transformer that the encoder is, which returns every token."""
        names = VisionTransformer.field_ranges()
        return VisionTransformer(**{name: getattr(self, name) for name in names}, parent=None)

    def setup(self) -> None:  # noqa: D102
        super().setup()
        block = self._block()
        attention = {**block["attention"], "num_heads": self.decoder_num_heads, "rope": None}
        self.decoder = Decoder(
            block={
                **block,
                "attention": attention,
                "mlp": {**block["mlp"], "hidden": self.decoder_hidden},
            },
            dim=self.decoder_embed_dim,
            depth=self.decoder_depth,
            grid=self.grid(),
            num_prefix_tokens=self.num_prefix_tokens,
            pixels=self.in_chans * self.stride[0] * self.stride[1],
            scan=self.scan,
            remat=self.remat,
            weight_init=self.weight_init,
            **self._dtypes(),
        )

    def __call__(
        self,
        images: jax.Array,
        *,
        train: bool = False,
        noise: jax.Array | None = None,
        capture: tuple[str, ...] = (),
    ) -> MaskedAutoencoderOutput | tuple[MaskedAutoencoderOutput, MaskedAutoencoderIntermediates]:
        """Pixels of every patch, from those that the mask leaves.

        Args:
            images: `(b, height, width, channels)`, floating point, normalised.
            train: dropout and stochastic depth are on; needs `rngs={"dropout": key}` if there are
                any.
            noise: what the patches are shuffled by `(b, n)`, see `random_masking`; None draws it
                uniformly, which needs `rngs={"mask": key}`.
            capture: names of fields of `MaskedAutoencoderIntermediates`, returned as well then.

        Raises:
            UserError: the noise is not one number a patch, or there is neither noise nor a key.
        """
        check_capture(capture, MaskedAutoencoderIntermediates)
        self._check_images(images)
        grid = self.grid(images.shape[1:3])
        noise = self._noise(noise, (len(images), grid[0] * grid[1]))
        kept, mask, ids_restore = random_masking(noise, self.mask_ratio)
        *keys, key_decoder = split(self.dropout_key(train), 3)
        latent, found = self.features(images, keys, kept, capture)
        asked = ("tokens",) if "decoder_tokens" in capture else ()
        prediction, decoded = self.decoder(latent, ids_restore, grid, key_decoder, asked)
        output = MaskedAutoencoderOutput(prediction, mask, ids_restore, latent)
        if not capture:
            return output
        found["decoder_tokens"] = decoded.get("tokens")
        return output, MaskedAutoencoderIntermediates(**{name: found[name] for name in capture})

    def _noise(self, noise: jax.Array | None, shape: tuple[int, int]) -> jax.Array:
        if noise is None:
            if not self.has_rng("mask") and not self.has_rng("params"):
                raise UserError(
                    f"a mask has to come from somewhere: give noise of shape {shape}, or "
                    'rngs={"mask": key}'
                )
            return jax.random.uniform(self.make_rng("mask"), shape)
        if noise.shape != shape:
            raise UserError(f"noise has shape {noise.shape}; expected (images, patches) = {shape}")
        return noise

    def flops(self, img_size: Any = None) -> int:
        """Floating-point operations of one image's forward pass (2 for a multiply-add).

        The encoder's blocks count the patches that are kept, the decoder's all of them.

        Args:
            img_size: height and width, by default the model's own.
        """
        height, width = pair(self.img_size if img_size is None else img_size)
        rows, columns = self.grid((height, width))
        n, dim, prefix = rows * columns, self.decoder_embed_dim, self.num_prefix_tokens
        seen = num_kept(n, self.mask_ratio) + prefix
        pixels = self.in_chans * self.stride[0] * self.stride[1]
        total = self.patch_flops(height, width)
        total += self.depth * self.block_flops(seen, self.embed_dim, self.mlp_hidden)
        total += 2 * seen * self.embed_dim * dim
        total += self.decoder_depth * self.block_flops(n + prefix, dim, self.decoder_hidden)
        return total + 2 * n * dim * pixels


def _register_all() -> None:
    """Sizes of section 4 and the decoder of table 1; the tiny one is ours."""
    imagenet = registry.Preprocessing(registry.IMAGENET_MEAN, registry.IMAGENET_STD, crop_pct=0.875)
    small = dict(decoder_embed_dim=192, decoder_depth=4, decoder_num_heads=6)
    for size, patch, decoder in (
        ("tiny", 16, small),
        ("base", 16, {}),
        ("large", 16, {}),
        ("huge", 14, {}),
    ):
        name = f"mae_vit_{size}_patch{patch}"
        choices = dict(SIZES[size], patch_size=patch, **decoder)
        registry.register(name, MaskedAutoencoder, imagenet, **choices)


_register_all()
