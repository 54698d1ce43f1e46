"""BiT's ResNets: convolutional classifiers, such as the teachers of DeiT.

Kolesnikov et al. 2020, "Big Transfer (BiT)", section 3.1: ResNet v2 (He et al. 2016, "Identity
Mappings in Deep Residual Networks"), GroupNorm in place of batch norm and weight-standardised
convolutions, so that an image's logits do not depend on the rest of its batch. In its order:

    images -> convolution -> max-pool -> stages of bottlenecks -> norm -> mean -> head

Names are timm's; so is the padding, half a kernel on every side.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import linen as nn

from vit_jax import ranges
from vit_jax.errors import UserError
from vit_jax.models import registry
from vit_jax.models.layers.linear import classifier
from vit_jax.models.layers.resnet import GROUPS, StdConv, group_norm
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.vit import Size, pair

EXPANSION = 4  # output channels of a bottleneck over those inside
# Kernel and stride of the first convolution, and whether a max-pool of stride 2 follows it.
STEMS = {"large": (7, 2, True), "small": (3, 1, False)}

FIELD_RANGES: dict[str, ranges.Range] = {
    "img_size": ranges.either(ranges.whole(1), ranges.several(ranges.whole(1), 2)),
    "num_classes": ranges.whole(0),
    **dict.fromkeys(("in_chans", "width"), ranges.whole(1)),
    "layers": ranges.several(ranges.whole(1)),
    "stem": ranges.one_of(STEMS),
    "dtype": ranges.or_none(ranges.FLOAT_DTYPE),
    "param_dtype": ranges.FLOAT_DTYPE,
}


class PreActBottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions, each behind norm and ReLU, and a shortcut.

    He et al. 2016 (v2), figure 1(b); where the first block of a stage changes the map, the
    shortcut is a convolution of the map behind its first norm.

    Attributes:
        features: output channels.
        stride: of the 3x3 convolution.
        project: the shortcut is a convolution.
    """

    features: int
    stride: int
    project: bool
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`."""
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def activated(x: jax.Array, name: str) -> jax.Array:
            return nn.relu(group_norm(name, **common)(x))

        def conv(x: jax.Array, name: str, features: int, size: int, stride: int = 1) -> jax.Array:
            return StdConv(features, size, stride, "CENTERED", **common, name=name)(x)

        width = self.features // EXPANSION
        y = activated(x, "norm1")
        shortcut = conv(y, "conv_shortcut", self.features, 1, self.stride) if self.project else x
        y = activated(conv(y, "conv1", width, 1), "norm2")
        y = activated(conv(y, "conv2", width, 3, self.stride), "norm3")
        return conv(y, "conv3", self.features, 1) + shortcut


class ResNetV2(PlainModule):
    """BiT's ResNet on images `(b, height, width, channels)`, floating point, of any size.

    Attributes:
        img_size: height and width in pixels that images are brought to; says nothing else.
        in_chans: channels of the images.
        num_classes: outputs of the head; 0 for no head (the result is the pooled features).
        layers: bottlenecks in each stage; each further stage halves the map.
        width: channels of the stem, a multiple of 32; stage i has `4 * width * 2**i`.
        stem: "large" (7x7 convolution of stride 2, max-pool of stride 2) or "small" (3x3, stride
            1, no pooling: for images of some 32 pixels, as in He et al. 2016, section 4.2).
        dtype: computation dtype, as "bfloat16"; None follows inputs and parameters.
        param_dtype: dtype the parameters are drawn in.

    Raises:
        UserError: hyper-parameters contradict each other, or the images have no such channels.
    """

    RANGES = FIELD_RANGES
    scan: ClassVar[bool] = False  # its blocks are too few and too different

    img_size: Size = 224
    in_chans: int = 3
    num_classes: int = 1000
    layers: tuple[int, ...] = (3, 4, 6, 3)
    width: int = 64
    stem: str = "large"
    dtype: Any = None
    param_dtype: Any = jnp.float32

    def check(self) -> None:
        """Raises UserError where hyper-parameters are out of range or contradict each other."""
        super().check()
        if not self.layers:
            raise UserError("layers=(): expected one entry for each stage, at least one")
        if self.width % GROUPS:
            raise UserError(f"width={self.width} is not divisible by the {GROUPS} groups of norms")

    def blocks(self) -> Iterator[tuple[str, int, int]]:
        """Name, output channels and stride of each bottleneck, in order."""
        for i, depth in enumerate(self.layers):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                yield f"stages_{i}_blocks_{j}", EXPANSION * self.width * 2**i, stride

    @property
    def features(self) -> int:
        """Channels of the pooled features."""
        return EXPANSION * self.width * 2 ** (len(self.layers) - 1)

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Logits of images.

        Args:
            images: `(b, height, width, channels)`, floating point, normalised.
            train: of no effect: nothing is dropped, and norms know no batch.

        Returns:
            Logits `(b, num_classes)`, in at least float32; without a head the pooled features.
        """
        del train
        self.check()
        self._check_images(images)
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        kernel, stride, pools = STEMS[self.stem]
        x = StdConv(self.width, kernel, stride, "CENTERED", **common, name="conv_stem")(images)
        if pools:  # zeros, which may be larger than what they are beside (BiT)
            x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
            x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2))
        for name, features, stride in self.blocks():
            project = name.endswith("_blocks_0")
            x = PreActBottleneck(features, stride, project, **common, name=name)(x)
        x = nn.relu(group_norm("norm", **common)(x)).mean(axis=(1, 2))
        if not self.num_classes:
            return x
        return classifier(self.num_classes, True, **common, name="head")(x)

    def _check_images(self, images: jax.Array) -> None:
        if images.ndim != 4 or images.shape[-1] != self.in_chans or 0 in images.shape[1:3]:
            raise UserError(
                f"expected images (batch, height, width, {self.in_chans}), got {images.shape}"
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise UserError(f"expected floating-point, normalised images, got {images.dtype}")

    def flops(self, img_size: Size | None = None) -> int:
        """Floating-point operations of one image's forward pass (2 for a multiply-add).

        Counts matrix products and convolutions: what the hardware's peak rate is about.

        Args:
            img_size: height and width, by default the model's own.
        """
        kernel, stride, pools = STEMS[self.stem]
        h, w = (
            -(-side // stride) for side in pair(self.img_size if img_size is None else img_size)
        )
        total, incoming = 2 * h * w * kernel**2 * self.in_chans * self.width, self.width
        if pools:
            h, w = -(-h // 2), -(-w // 2)
        for name, features, stride in self.blocks():
            inner, before = features // EXPANSION, h * w
            h, w = -(-h // stride), -(-w // stride)
            total += 2 * before * incoming * inner + 2 * h * w * (9 * inner + features) * inner
            if name.endswith("_blocks_0"):
                total += 2 * h * w * incoming * features
            incoming = features
        return total + 2 * incoming * self.num_classes


# The names: depth and width, as in timm. BiT's weights were fine-tuned at 448 and 480 pixels.
DEPTHS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
FACTORS = {50: (1, 3), 101: (1, 3), 152: (2, 4)}


def _register_all() -> None:
    prep = registry.Preprocessing(interpolation="bilinear", crop_pct=0.875)
    for depth, factors in FACTORS.items():
        for factor in factors:
            choices = dict(layers=DEPTHS[depth], width=64 * factor)
            registry.register(f"resnetv2_{depth}x{factor}_bit", ResNetV2, prep, **choices)


_register_all()
