"""A model as it is asked here: its classes, and where it looks, for a few pictures at once.

The two are two programs. That of the classes is `vit_jax.predict`'s, so that a picture gets the
same numbers here and there, with its attention or without.
"""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.inference.forward import Forward
from vit_jax.inference.predict import Guess, classifier, guesses, why_no_classes
from vit_jax.models.partitioning import PlainModule
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair
from vit_jax.visualize import attention, seen
from vit_jax.visualize.query import Query, query_of, whole


class Looked(NamedTuple):
    """Where the model looks in a picture.

    Attributes:
        shares: of each head, to each token `(h, k)`.
        rolled: of the output as a whole, through all layers, to each token `(n,)`.
    """

    shares: np.ndarray
    rolled: np.ndarray


class Answer(NamedTuple):
    """What the model says of a picture; None for what it does not have, or was not asked."""

    guesses: tuple[Guess, ...] | None
    looked: Looked | None


class NamedMap(NamedTuple):
    """A map `(rows, columns)` and the share that goes to no patch, of one or more heads."""

    name: str
    map: attention.AttentionMap


class Engine:
    """A model on the device, compiled for batches of one size.

    Attributes:
        model: what is asked.
        batch_size: pictures that are computed at once.
        no_classes: why there are none, in words; None where there are.
        no_attention: why there is none, in words; None where there is.
        encoder: whose attention is shown; None where there is none.
        query: whose attention that is.
    """

    def __init__(self, model: Model, top_k: int, batch_size: int):
        """Puts the model on the device.

        Args:
            model: see `vit_jax.open_model`.
            top_k: classes of each picture, all of them where the model has fewer.
            batch_size: pictures that are computed at once.

        Raises:
            UserError: the model has neither classes nor attention, or see `Forward`.
        """
        self.no_classes, self.no_attention = why_no_classes(model), why_no_attention(model.module)
        if self.no_classes and self.no_attention:
            raise UserError(
                f"there is nothing to show: {self.no_classes}, and {self.no_attention}; for its "
                "features, there is vit-jax features"
            )
        model = dataclasses.replace(model, params=jax.device_put(model.params))  # once for both
        self.model, self.batch_size = model, batch_size
        self.encoder: VisionTransformer | None = None
        self._classify = self._look = None
        if not self.no_classes:
            self._classify = classifier(model, top_k, batch_size)
        if not self.no_attention:
            self.encoder = seen.plain_encoder(model.module, "attention")
            self.query = query_of(self.encoder)
            encoder = dataclasses.replace(model, module=self.encoder)
            self._look = Forward(encoder, functools.partial(_looked, self.query), batch_size)
        self.prepare = (self._classify or self._look).prepare

    @property
    def picture_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of a prepared picture."""
        return (*pair(self.model.module.img_size), self.model.module.in_chans)

    def compile(self) -> None:
        """Compiles all that there is to compile."""
        self([np.zeros(self.picture_shape, np.float32)], [True])

    def __call__(self, images: Sequence[np.ndarray], look: Sequence[bool]) -> list[Answer]:
        """What the model says of prepared pictures.

        Args:
            images: at most `batch_size`, from `prepare`.
            look: for each, whether its attention is wanted too.
        """
        # Both are started before the first is waited for.
        classes = self._classify(images) if self._classify else None
        looked = self._look(images) if self._look and any(look) else None
        classes, looked = jax.device_get((classes, looked))
        return [
            Answer(
                classes and guesses(*(x[i] for x in classes), self.model.class_names),
                Looked(*(x[i] for x in looked)) if looked and wanted else None,
            )
            for i, wanted in enumerate(look)
        ]

    def maps(self, looked: Looked) -> list[NamedMap]:
        """Maps of a picture: the mean of the heads, each head, and the rollout of all layers."""
        grid = self.encoder.grid()
        heads = attention.on_grid(looked.shares, grid, self.query.prefix)
        prefix = self.encoder.num_prefix_tokens
        return [
            NamedMap("mean of heads", heads.mean()),
            *(NamedMap(f"head {i}", heads[i]) for i in range(len(heads.patches))),
            NamedMap("rollout", attention.on_grid(looked.rolled, grid, prefix)),
        ]

    def whose(self) -> dict[str, Any]:
        """What the maps are of, in words and numbers."""
        last = self.encoder.depth - 1
        return {
            "whose": self.query.whose,
            "layer": self.query.layer,
            "heads": self.encoder.num_heads,
            "grid": list(self.encoder.grid()),
            "patch": list(self.encoder.stride),
            "rollout": f"to {whole(self.encoder)}, layers 0 to {last}",
        }


def _looked(query: Query, module: Any, variables: Any, images: jax.Array) -> Looked:
    """`Looked` of a batch, with the batch as first axis."""
    captures = tuple({*query.captures, "attention"})
    _, found = module.apply(variables, images, capture=captures)
    rolled = _rolled(seen.widened(found.attention), module.num_prefix_tokens, module.class_token)
    return Looked(seen.widened(query.shares(module, variables["params"], found)), rolled)


def _rolled(weights: jax.Array, prefix: int, class_token: bool) -> jax.Array:
    """What is asked of `visualize.rollout`, `(b, n)`, without the rest of it.

    A row times a matrix at a time, from the last layer to the first: pictures that wait for their
    answer hold n numbers each, and not all layers' matrices. Rows of attention sum to one, so none
    is divided by its sum.

    Args:
        weights: of the layers `(depth, b, h, n, n)`.
        prefix: see `attention.queries`.
        class_token: see there.
    """
    depth, b, _, n, _ = weights.shape
    rows = jnp.broadcast_to(attention.queries(jnp.eye(n), prefix, class_token), (b, n))
    for layer in reversed(range(depth)):
        mixing = weights[layer].mean(axis=1)
        passed = jnp.einsum("bn,bnk->bk", rows, mixing, precision="highest")
        rows = 0.5 * passed + 0.5 * rows
    return rows


def why_no_attention(module: PlainModule) -> str | None:
    """Why there is no attention over a picture to show, in words; None where there is."""
    if isinstance(module, SwinTransformer):
        return "a Swin Transformer attends within windows and never over the whole picture"
    try:
        seen.plain_encoder(module, "attention")
    except UserError:
        return f"a {type(module).__name__} is no transformer and has no attention"
    return None
