"""Low-rank adapters beside linear maps (LoRA, Hu et al. 2021, section 4.1).

    y = W x + alpha / r * B A x        A (r, inputs), B (outputs, r)         (eq. 3)

W stays as it is; A is drawn from a Gaussian and B is zero, so that training starts at y = W x.

An adapter needs no change of a model. Its two arrays, `lora_a` and `lora_b`, lie beside the
`kernel` of a `Linear`, and `adapt` adds the second term wherever such a layer is called. The other
way, to put W + B A in the place of W, would go through the gradient of all of W, a third of what a
training step costs, and leaves x no place to be dropped from. It is what `merge` does once
training is over: then nothing is left to pay.

Axes are those of the kernel (`Linear`), with r in the place of what is contracted:

| kernel | `lora_a` | `lora_b` |
|---|---|---|
| `(inputs, outputs)` | `(inputs, r)` | `(r, outputs)` |
| `(d, 3, h, hd)`, queries and values | `(d, 2, r)` | `(2, r, h, hd)` |
| `(h, hd, d)` | `(h, hd, r)` | `(r, d)` |

and in scanned blocks a leading axis of layers before each.
"""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import traverse_util
from flax.linen.dtypes import promote_dtype

from vit_jax.models.layers.drop import dropout
from vit_jax.models.layers.linear import Axes, Linear

A, B, KEY = "lora_a", "lora_b", "lora_key"
Params = Mapping[str, Any]
Shape = tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Adapter:
    """What is adapted, and by how much.

    Attributes:
        path: names from the root of the parameters to the layer.
        rank: r.
        scale: alpha / r.
        inputs: number of the kernel's input axes.
        parts: of a kernel that holds several matrices side by side, such as queries, keys and
            values, those that are adapted; None for a kernel that is one matrix.
        stacked: the kernel has a leading axis of layers.
    """

    path: tuple[str, ...]
    rank: int
    scale: float
    inputs: int = 1
    parts: tuple[int, ...] | None = None
    stacked: bool = False

    def split(self, axes: Sequence[Any]) -> tuple[tuple[Any, ...], ...]:
        """What belongs to the layers, the inputs, the parts and the outputs, of a kernel's axes."""
        first = int(self.stacked)
        second = first + self.inputs
        third = second + (self.parts is not None)
        cuts = (0, first, second, third, len(axes))
        return tuple(tuple(axes[i:j]) for i, j in itertools.pairwise(cuts))

    def shapes(self, kernel: Shape) -> tuple[Shape, Shape]:
        """Shapes of A and B for a kernel's."""
        layers, inputs, parts, outputs = self.split(kernel)
        parts = parts and (len(self.parts or ()),)
        return (
            (*layers, *inputs, *parts, self.rank),
            (*layers, *parts, self.rank, *outputs),
        )

    def logical_axes(self, kernel: Axes) -> tuple[Axes, Axes]:
        """Logical axes of A and B for a kernel's; the rank is not split."""
        layers, inputs, parts, outputs = self.split(kernel)
        parts = parts and (None,)
        return (*layers, *inputs, *parts, None), (*layers, *parts, None, *outputs)

    def init(self, key: jax.Array, kernel: jax.Array) -> tuple[jax.Array, jax.Array]:
        """A with the variance 1 / inputs (the paper gives none), and B = 0."""
        shape_a, shape_b = self.shapes(kernel.shape)
        spread = math.prod(self.split(kernel.shape)[1]) ** -0.5
        a = spread * jax.random.normal(key, shape_a, kernel.dtype)
        return a, jnp.zeros(shape_b, kernel.dtype)

    def change(self, a: jax.Array, b: jax.Array) -> jax.Array:
        """The change of the kernel's adapted parts: scale * B A, shaped as they are."""
        z, p = "z" * self.stacked, "p" * (self.parts is not None)
        i = "abcd"[: self.inputs]
        o = "wxy"[: b.ndim - len(z) - len(p) - 1]
        product = f"{z}{i}{p}r,{z}{p}r{o}->{z}{i}{p}{o}"
        return self.scale * jnp.einsum(product, a, b, precision=jax.lax.Precision.HIGHEST)

    def branch(self, x: jax.Array, a: jax.Array, b: jax.Array) -> jax.Array:
        """What one layer adds: scale * B A x, `(..., *inputs)` to `(..., parts, *outputs)`."""
        p, i = "p" * (self.parts is not None), "abcd"[: self.inputs]
        o = "wxy"[: b.ndim - len(p) - 1]
        h = jnp.einsum(f"...{i},{i}{p}r->...{p}r", x, a)
        return self.scale * jnp.einsum(f"...{p}r,{p}r{o}->...{p}{o}", h, b)

    def add(self, whole: jax.Array, part: jax.Array, outputs: int) -> jax.Array:
        """Adds `part` to the adapted parts of `whole`, whose last `outputs` axes follow them."""
        if self.parts is None:
            return whole + part
        index = (..., list(self.parts), *(slice(None),) * outputs)
        return jnp.asarray(whole).at[index].add(part)


def draw(key: jax.Array, params: Params, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Puts new adapters into parameters.

    Args:
        key: a random key.
        params: of a model, without the "params" level.
        adapters: of layers of that model.
    """
    flat = dict(traverse_util.flatten_dict(params))
    for i, adapter in enumerate(adapters):
        kernel = flat[*adapter.path, "kernel"]
        a, b = adapter.init(jax.random.fold_in(key, i), kernel)
        flat |= {(*adapter.path, A): a, (*adapter.path, B): b}
    return traverse_util.unflatten_dict(flat)


def name_axes(axes: Params, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Puts the logical axes of adapters into those of parameters, as `draw` does with arrays."""
    flat = dict(traverse_util.flatten_dict(axes))
    for adapter in adapters:
        a, b = adapter.logical_axes(flat[*adapter.path, "kernel"])
        flat |= {(*adapter.path, A): a, (*adapter.path, B): b}
    return traverse_util.unflatten_dict(flat)


def apart(params: Params) -> tuple[dict[str, Any], dict[str, Any]]:
    """Returns parameters without adapters, and the adapters alone."""
    found: tuple[dict[Any, Any], dict[Any, Any]] = ({}, {})
    for path, leaf in traverse_util.flatten_dict(params).items():
        found[path[-1] in (A, B)][path] = leaf
    plain, adapters = map(traverse_util.unflatten_dict, found)
    return plain, adapters


def together(plain: Params, adapters: Params) -> dict[str, Any]:
    """The inverse of `apart`."""
    flat = traverse_util.flatten_dict(plain) | traverse_util.flatten_dict(adapters)
    return traverse_util.unflatten_dict(flat)


def merge(params: Params, adapters: Sequence[Adapter]) -> dict[str, Any]:
    """Adds each adapter to its kernel: parameters of the plain model, which computes the same.

    Args:
        params: with adapters.
        adapters: all that there are.
    """
    flat = dict(traverse_util.flatten_dict(params))
    for adapter in adapters:
        change = adapter.change(flat.pop((*adapter.path, A)), flat.pop((*adapter.path, B)))
        kernel = flat[*adapter.path, "kernel"]
        outputs = len(adapter.split(kernel.shape)[3])
        flat[*adapter.path, "kernel"] = adapter.add(kernel, change.astype(kernel.dtype), outputs)
    return traverse_util.unflatten_dict(flat)


def with_keys(params: Params, adapters: Sequence[Adapter], key: jax.Array) -> dict[str, Any]:
    """Puts a key for dropout beside each adapter, one for each layer of a stack."""
    flat = dict(traverse_util.flatten_dict(params))
    for i, adapter in enumerate(adapters):
        own = jax.random.fold_in(key, i)
        if adapter.stacked:
            own = jax.random.split(own, len(flat[*adapter.path, A]))
        flat[*adapter.path, KEY] = jax.random.key_data(own)
    return traverse_util.unflatten_dict(flat)


def linear_maps(module: nn.Module, images: Any) -> frozenset[tuple[str, ...]]:
    """Paths of the layers that an adapter can be put beside, each a `Linear`.

    Args:
        module: a model.
        images: shape and dtype of what it takes.
    """
    found = set()

    def look(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        if isinstance(context.module, Linear):
            found.add(context.module.path)
        return call(*args, **kwargs)

    with nn.intercept_methods(look):
        jax.eval_shape(module.init, jax.random.key(0), images)
    return frozenset(found)


@contextlib.contextmanager
def adapt(adapters: Sequence[Adapter], drop: float = 0.0) -> Iterator[None]:
    """Within it, layers whose parameters hold an adapter add what it says.

    Args:
        adapters: of the models that are called.
        drop: dropout rate of x in the second term, where parameters hold keys (`with_keys`).
    """
    by_path = {adapter.path: adapter for adapter in adapters}

    def add_branch(call: Any, args: Any, kwargs: Any, context: nn.module.InterceptorContext) -> Any:
        y, layer = call(*args, **kwargs), context.module
        if not (isinstance(layer, Linear) and context.method_name == "__call__"):
            return y
        if not layer.has_variable("params", A):
            return y
        adapter = by_path[layer.path]
        key = None
        if layer.has_variable("params", KEY):
            key = jax.random.wrap_key_data(layer.get_variable("params", KEY))
        a, b = (layer.get_variable("params", name) for name in (A, B))
        x, a, b = promote_dtype(dropout(args[0], drop, key), a, b, dtype=layer.dtype)
        branch = adapter.branch(x, a, b).astype(y.dtype)
        return adapter.add(y, branch, len(layer.features) - (adapter.parts is not None))

    with nn.intercept_methods(add_branch):
        yield
