"""Logical names of parameter axes: declared beside each parameter, read off without allocating.

A layer names the axes of what it creates ("embed", "mlp", "heads", ...; `layers.linear.named`).
`PlainModule.init` hands out plain arrays all the same; `logical_axes` returns the names as a tree
of the same structure, which the training code maps to the axes of a device mesh.
"""

from collections.abc import Mapping
from typing import Any, ClassVar

import jax
from flax import linen as nn

from vit_jax import ranges


class PlainModule(nn.Module):
    """A model whose `init` returns plain arrays: `{"params": {...}}`.

    Attributes:
        RANGES: what fields may be whose annotation says too little, such as `int` for a count.
    """

    RANGES: ClassVar[Mapping[str, ranges.Range]] = {}

    @classmethod
    def field_ranges(cls) -> dict[str, ranges.Range]:
        """What each hyper-parameter may be, by itself."""
        fields = {**ranges.of_fields(cls), **cls.RANGES}
        return {name: range for name, range in fields.items() if name not in ("parent", "name")}

    def check(self) -> None:
        """Raises UserError for a hyper-parameter that is out of range.

        A family adds to it what contradicts each other.
        """
        allowed = self.field_ranges()
        ranges.check({name: getattr(self, name) for name in allowed}, allowed)

    @nn.nowrap
    def init_with_output(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """`flax.linen.Module.init_with_output` (which `init` calls), boxes taken off."""
        output, variables = super().init_with_output(*args, **kwargs)
        return output, nn.unbox(variables)

    @nn.nowrap
    def init_boxed(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """The variables with each leaf in a box that holds its logical axis names."""
        return super().init_with_output(*args, **kwargs)[1]


def logical_axes(module: PlainModule, *args: Any, **kwargs: Any) -> dict[str, Any]:
    """Logical axis names of every variable of `module`, as tuples in a tree like the variables'.

    Args:
        module: the model.
        *args: what `module.init` takes after the random key; shapes and dtypes are enough.
        **kwargs: keyword arguments of `module.init`.

    Returns:
        For each leaf a tuple with one entry an axis: its logical name, or None.
    """
    boxed = jax.eval_shape(
        lambda *inputs: module.init_boxed(jax.random.key(0), *inputs, **kwargs), *args
    )

    def names(leaf: Any) -> tuple[str | None, ...]:
        if isinstance(leaf, nn.LogicallyPartitioned):
            return tuple(leaf.names)
        return (None,) * leaf.ndim

    return jax.tree.map(names, boxed, is_leaf=lambda x: isinstance(x, nn.LogicallyPartitioned))
