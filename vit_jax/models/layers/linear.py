"""Linear maps whose parameters carry logical axis names."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax.linen.dtypes import promote_dtype

from vit_jax.models.layers.initial import Initializer, initializers, zeros
from vit_jax.models.layers.platform import devices_along, on_one_cpu, on_several_tpus

Axes = tuple[str | None, ...]


def named(init: Callable, *axes: str | None) -> Callable:
    """Attaches logical axis names to what an initializer draws (see `models.partitioning`)."""
    return nn.with_logical_partitioning(init, axes)


def token_axes(ndim: int, last: str) -> Axes:
    """Logical axes of tokens `(b, n, last)`, of a map `(b, h, w, last)` or of vectors `(b, last)`.

    A name may come once: of a map, the rows are the axis of the tokens.
    """
    between = ("tokens", *(None,) * (ndim - 3)) if ndim > 2 else ()
    return ("batch", *between, last)


def product(x: jax.Array, kernel: jax.Array, inputs: int = 1) -> jax.Array:
    """Sums over the last `inputs` axes of `x` and the first of `kernel`: `(..., *outputs)`.

    On one CPU it is a product of two matrices, with a row for each token. Of more axes XLA takes
    the gradient of a kernel by writing the gradient of the outputs anew, axes turned round: it
    computes all that leads to it once more, down the columns of the memory. That was a third of an
    update of ViT-Ti.
    """
    leading, outputs = x.shape[: x.ndim - inputs], kernel.shape[inputs:]
    if on_one_cpu():
        width = math.prod(kernel.shape[:inputs])
        y = x.reshape(math.prod(leading), width) @ kernel.reshape(width, math.prod(outputs))
        return y.reshape(*leading, *outputs)
    contracted = tuple(range(len(leading), x.ndim)), tuple(range(inputs))
    return jax.lax.dot_general(x, kernel, (contracted, ((), ())))


class Linear(nn.Module):
    """`y = x @ kernel + bias` over the last `inputs` axes of `x`.

    With more than one output axis it is a projection to heads, `(..., d) -> (..., 3, h, hd)`; with
    more than one input axis it merges them back, `(..., h, hd) -> (..., d)`. On several TPUs such
    axes, and those of parts, are one in the product (see `_merge`).

    Attributes:
        features: sizes of the output axes.
        axes: logical names of the kernel's axes, input axes first.
        inputs: how many trailing axes of `x` are contracted.
        use_bias: adds `bias` of shape `features`.
        parts: the first output axis counts matrices that lie side by side, such as q, k and v.
        weight_init: what the kernel is drawn from (see `layers.initial`).
        kernel_init: the same for a kernel that is drawn in another way, input axes first; or None.
        bias_init: draws the bias.
        dtype: computation dtype; None promotes inputs and parameters.
        param_dtype: dtype the parameters are drawn in.
    """

    features: tuple[int, ...]
    axes: Axes
    inputs: int = 1
    use_bias: bool = True
    parts: bool = False
    weight_init: str = "vit"
    kernel_init: Initializer | None = None
    bias_init: Initializer = zeros
    dtype: Any = None
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps `(..., *inputs)` to `(..., *features)`."""
        shape = x.shape[-self.inputs :] + self.features
        init = named(self.kernel_init or self._kernel_init(len(shape)), *self.axes)
        kernel = self.param("kernel", init, shape, self.param_dtype)
        bias = None
        if self.use_bias:
            init = named(self.bias_init, *self.axes[self.inputs :])
            bias = self.param("bias", init, self.features, self.param_dtype)
        x, kernel, bias = promote_dtype(x, kernel, bias, dtype=self.dtype)
        inputs = self.inputs
        first, last = self._merged_axes()
        if first < last and on_several_tpus():
            kernel = _merge(kernel, first, last)
            if last < inputs:
                x, inputs = x.reshape(*x.shape[:-2], -1), inputs - 1
        y = product(x, kernel, inputs)
        if bias is not None:
            y += bias.reshape(kernel.shape[inputs:])
        return y.reshape(*x.shape[: x.ndim - inputs], *self.features)

    def _merged_axes(self) -> tuple[int, int]:
        """First and last of the kernel's axes that several TPUs have as one."""
        last = self.axes.index("head_dim") if "head_dim" in self.axes else len(self.axes) - 1
        if self.parts and _side_by_side(self.axes[self.inputs :]):
            return self.inputs, last
        return last - ("head_dim" in self.axes), last

    def _kernel_init(self, ndim: int) -> Initializer:
        axes = tuple(range(ndim))
        first = self.inputs + self.parts  # of the axes that are outputs of one matrix
        inputs, parts, outputs = axes[: self.inputs], axes[self.inputs : first], axes[first:]
        return initializers(self.weight_init).linear(inputs, parts, outputs)


def _merge(kernel: jax.Array, first: int, last: int) -> jax.Array:
    """Returns a kernel whose axes from `first` to `last` are one.

    They are heads and their channels, and before them, where devices do not split them, parts.

    The compiler of TPUs sums gradients over devices that keep a part each by a reduce-scatter,
    where it takes the shape; a kernel of heads with 64 or 80 channels it mostly does not take, and
    sends twice as much in an all-reduce, as it does even for `jax.lax.psum_scatter`. Merged, it
    takes it, and an array whose last axis is no multiple of 128 need not be padded; nor one whose
    last axis but one counts parts (see `split_parts`). The barrier keeps the compiler from
    splitting the gradient's axes again before it is summed.
    """
    shape = kernel.shape
    return jax.lax.optimization_barrier(kernel.reshape(*shape[:first], -1, *shape[last + 1 :]))


def split_parts(y: jax.Array, axes: Axes) -> list[jax.Array]:
    """Parts, each `(..., *outputs)`, of what a `Linear` of several gives, `(..., parts, *outputs)`.

    They are cut out of one last axis, as the product makes them: a TPU lays out the last two axes
    in tiles, and of (parts, outputs) would make a copy for whatever comes next, and of the gradient
    another.

    Args:
        y: what it gives.
        axes: logical names of the parts and the outputs, as the kernel has them.
    """
    first = y.ndim - len(axes)
    if not _side_by_side(axes):
        return list(jnp.moveaxis(y, first, 0))
    flat = y.reshape(*y.shape[:first], -1)
    parts = jnp.split(flat, y.shape[first], axis=-1)
    return [part.reshape(*part.shape[:-1], *y.shape[first + 1 :]) for part in parts]


def _side_by_side(axes: Axes) -> bool:
    """Whether parts and outputs can be one axis: of none does a device have but some.

    Where some stage of a model has heads that do not divide, activations of none are split, and a
    later stage's kernel, which is, is gathered.
    """
    return all(devices_along(axis) == 1 for axis in axes)


def classifier(
    num_classes: int,
    use_bias: bool,
    dtype: Any,
    param_dtype: Any,
    name: str,
    kernel_init: Initializer = zeros,
    bias_init: float = 0.0,
) -> Linear:
    """A linear map to logits, computed in at least float32; its biases start at `bias_init`."""
    return Linear(
        (num_classes,),
        ("embed", "classes"),
        use_bias=use_bias,
        kernel_init=kernel_init,
        bias_init=nn.initializers.constant(bias_init),
        dtype=None if dtype is None else jnp.promote_types(dtype, jnp.float32),
        param_dtype=param_dtype,
        name=name,
    )
