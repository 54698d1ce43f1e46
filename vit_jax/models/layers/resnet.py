"""The ResNet body in front of the hybrid models (Dosovitskiy et al. 2021, section 3.1).

A ResNet v1.5 as in BiT (Kolesnikov et al. 2020): GroupNorm in place of batch norm and
weight-standardised convolutions (Qiao et al. 2019), "SAME" padding throughout. BiT itself, a
classifier, is `vit_jax.models.resnet`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from vit_jax.models.layers.linear import named

STEM_CHANNELS = 64
STEM_STRIDE = 4
GROUPS = 32


class StdConv(nn.Module):
    """A bias-free convolution whose kernel is standardised over each output channel's inputs.

    Statistics are taken over height, width and input channels:
    `(w - mean) / sqrt(variance + epsilon)`.

    Attributes:
        features: output channels.
        kernel_size: height and width of the kernel.
        stride: pixels between two outputs.
        padding: "SAME" (as many zeros as the outputs need, the odd one below and on the right) or
            "CENTERED" (half a kernel on every side, as in PyTorch); alike where the stride is 1.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: str = "SAME"
    epsilon: float = 1e-8
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(b, h, w, c)` to `(b, ceil(h / stride), ceil(w / stride), features)`."""
        init = named(nn.initializers.lecun_normal(), None, None, "channels", "embed")
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        mean = kernel.mean((0, 1, 2), keepdims=True)
        variance = kernel.var((0, 1, 2), keepdims=True)
        kernel = (kernel - mean) / jnp.sqrt(variance + self.epsilon)
        x, kernel = promote_dtype(x, kernel, dtype=self.dtype)
        half = (self.kernel_size - 1) // 2
        padding = "SAME" if self.padding == "SAME" else ((half, half),) * 2
        return jax.lax.conv_general_dilated(
            x, kernel, (self.stride,) * 2, padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )


def group_norm(name: str, dtype: Any, param_dtype: Any) -> nn.GroupNorm:
    """GroupNorm (Wu & He 2018) with 32 groups."""
    return nn.GroupNorm(
        num_groups=GROUPS,
        epsilon=1e-5,
        use_fast_variance=False,
        scale_init=named(nn.initializers.ones, "embed"),
        bias_init=named(nn.initializers.zeros, "embed"),
        dtype=dtype,
        param_dtype=param_dtype,
        name=name,
    )


class Bottleneck(nn.Module):
    """1x1, 3x3 (strided) and 1x1 convolutions around a shortcut (He et al. 2016, figure 5)."""

    features: int
    stride: int = 1
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(b, h, w, c)` to `(b, h / stride, w / stride, features)`."""
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)

        def conv_norm(x: jax.Array, name: str, features: int, size: int, stride: int) -> jax.Array:
            x = StdConv(features, size, stride, **common, name=f"conv{name}")(x)
            return group_norm(f"norm{name}", **common)(x)

        shortcut = x
        if x.shape[-1] != self.features or self.stride != 1:
            shortcut = conv_norm(x, "_shortcut", self.features, 1, self.stride)
        width = self.features // 4
        y = nn.relu(conv_norm(x, "1", width, 1, 1))
        y = nn.relu(conv_norm(y, "2", width, 3, self.stride))
        return nn.relu(conv_norm(y, "3", self.features, 1, 1) + shortcut)


class ResNet(nn.Module):
    """Stem and stages; the features have stride `resnet_stride(layers)`.

    Attributes:
        layers: bottlenecks in each stage: (2, 2, 2, 2) is R26, (3, 4, 9) the paper's R50 at
            stride 16, (3, 4, 6, 3) R50 at stride 32, () the stem alone.
    """

    layers: tuple[int, ...]
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """Maps `(b, h, w, c)` to `(b, h / stride, w / stride, channels)`."""
        common = dict(dtype=self.dtype, param_dtype=self.param_dtype)
        x = StdConv(STEM_CHANNELS, 7, 2, **common, name="conv_stem")(images)
        x = nn.relu(group_norm("norm_stem", **common)(x))
        x = nn.max_pool(x, window_shape=(3, 3), strides=(2, 2), padding="SAME")
        for i, depth in enumerate(self.layers):
            for j in range(depth):
                stride = 2 if i > 0 and j == 0 else 1
                name = f"stages_{i}_blocks_{j}"
                x = Bottleneck(4 * STEM_CHANNELS * 2**i, stride, **common, name=name)(x)
        return x


def resnet_stride(layers: tuple[int, ...]) -> int:
    """Pixels between two features, of a `ResNet(layers)`."""
    return STEM_STRIDE * 2 ** max(0, len(layers) - 1)


def resnet_channels(layers: tuple[int, ...]) -> int:
    """Channels of the features of a `ResNet(layers)`."""
    return STEM_CHANNELS * 2 ** (len(layers) + 1) if layers else STEM_CHANNELS


def resnet_flops(layers: tuple[int, ...], height: int, width: int, channels: int) -> int:
    """Forward floating-point operations of the convolutions for one image (2 x multiply-adds)."""
    h, w = -(-height // 2), -(-width // 2)
    total = 2 * h * w * 7 * 7 * channels * STEM_CHANNELS
    h, w, incoming = -(-h // 2), -(-w // 2), STEM_CHANNELS
    for i, depth in enumerate(layers):
        features = 4 * STEM_CHANNELS * 2**i
        for j in range(depth):
            stride = 2 if i > 0 and j == 0 else 1
            out = -(-h // stride) * -(-w // stride)
            inner = features // 4
            total += 2 * h * w * incoming * inner + 2 * out * (9 * inner + features) * inner
            if incoming != features or stride != 1:
                total += 2 * out * incoming * features
            h, w, incoming = -(-h // stride), -(-w // stride), features
    return total
