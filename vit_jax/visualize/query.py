"""Which query's attention is shown for a picture as a whole; see the table in `attention`."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from vit_jax.models.vit import Intermediates, VisionTransformer
from vit_jax.visualize import seen
from vit_jax.visualize.attention import queries


class Query(NamedTuple):
    """What asks, and where.

    Attributes:
        whose: "the class token", "all patches" (the mean over them) or "the pooling".
        layer: whose attention it is, from 0; None for the pooling after the last.
        prefix: tokens in front of the patches among those that are asked.
    """

    whose: str
    layer: int | None
    prefix: int

    @property
    def captures(self) -> tuple[str, ...]:
        """What a forward pass has to capture for `shares`."""
        return ("features",) if self.layer is None else ("attention",)

    def shares(
        self, module: VisionTransformer, params: Mapping[str, Any], found: Intermediates
    ) -> Any:
        """The attention that each head gives to each token `(b, h, k)`, rows sum to one.

        Args:
            module: the model.
            params: its parameters.
            found: what a forward pass captured, of NumPy or of JAX, traced or not.
        """
        if self.layer is None:
            return seen.pooling_shares(module, params, found.features)
        weights = found.attention[self.layer]
        return queries(weights, module.num_prefix_tokens, module.class_token)


def query_of(module: VisionTransformer, layer: int | None = None) -> Query:
    """What asks for a picture as a whole: in a layer, or where it is None in the model's end."""
    prefix = module.num_prefix_tokens
    if layer is None and module.global_pool == "map":
        return Query("the pooling", None, prefix if module.pool_include_prefix else 0)
    return Query(whole(module), module.depth - 1 if layer is None else layer, prefix)


def whole(module: VisionTransformer) -> str:
    """What stands for the picture within the layers."""
    return "the class token" if module.class_token else "all patches"
