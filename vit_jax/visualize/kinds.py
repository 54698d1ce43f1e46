"""The kinds of pictures that there are of a model: figures of a model and prepared pictures."""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np

from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer, pair
from vit_jax.objectives.mae import fixed_noise, paint
from vit_jax.visualize import attention, components, distance, filters, positions, seen
from vit_jax.visualize.canvas import Pair
from vit_jax.visualize.query import query_of, whole
from vit_jax.visualize.reconstruction import reconstruction_figure, reconstructions
from vit_jax.visualize.rollout import rollout, rollout_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclasses.dataclass(frozen=True)
class Picture:
    """A picture as the model gets it.

    Attributes:
        name: of its files.
        image: normalised `(height, width, c)`.
        pixels: the same in uint8.
    """

    name: str
    image: np.ndarray
    pixels: np.ndarray


@dataclasses.dataclass(frozen=True)
class Choices:
    """What is drawn of a model.

    Attributes:
        layer: whose attention and features, from 0; None for the last, where features are those
            after the final norm and a model with attention pooling shows that. A rollout ends
            there.
        heads: whose attention, from 0; empty for all.
        foreground: of pca, see `components.feature_colors`.
        norm_pix_loss: a masked autoencoder learned normalised pixels.
    """

    layer: int | None = None
    heads: tuple[int, ...] = ()
    foreground: float | None = None
    norm_pix_loss: bool = False


Drawn = Iterator[tuple[str, "Figure"]]  # names of files without their ending


def _attention(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """Where the class token looks, or what stands for it (see `attention`)."""
    module = seen.plain_encoder(model.module, "attention")
    query = query_of(module, choices.layer)
    pooling = query.layer is None
    where = query.whose if pooling else f"{query.whose}, layer {query.layer}"
    name = "pooling" if pooling else f"layer{query.layer}"
    for picture in pictures:
        found = seen.intermediates(module, model.params, picture.image[None], query.captures)
        shares = seen.as_numpy(query.shares(module, model.params, found))[0]
        heads = attention.on_grid(shares, module.grid(), query.prefix)
        title = f"{picture.name}: attention of {where}"
        only = choices.heads or None
        figure = attention.attention_figure(picture.pixels, heads, module.stride, title, only)
        yield f"{picture.name}_attention_{name}", figure


def _rollout(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """The attention of all layers together, up to the one that was chosen."""
    module = seen.plain_encoder(model.module, "rollout")
    layer = module.depth - 1 if choices.layer is None else choices.layer
    prefix = module.num_prefix_tokens
    for picture in pictures:
        mixed = rollout(_weights(module, model, picture)[: layer + 1])
        row = attention.queries(mixed, prefix, module.class_token)
        title = f"{picture.name}: rollout to {whole(module)}, layers 0 to {layer}"
        found = attention.on_grid(row, module.grid(), prefix)
        name = f"{picture.name}_rollout" + _suffix(choices.layer)
        yield name, rollout_figure(picture.pixels, found, module.stride, title)


def _distance(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """Mean attention distance of all heads, over all pictures."""
    del choices
    module = seen.plain_encoder(model.module, "distance")
    prefix, distances, shares = module.num_prefix_tokens, [], []
    for picture in pictures:
        weights = _weights(module, model, picture)
        distances.append(distance.attention_distance(weights, module.grid(), module.stride, prefix))
        shares.append(distance.prefix_share(weights, prefix))
    far, share = np.mean(distances, axis=0), np.mean(shares, axis=0) if prefix else None
    diagonal = float(np.hypot(*pair(module.img_size)))
    title = f"Mean attention distance over {_count(len(distances))}"
    yield "attention_distance", distance.distance_figure(far, share, diagonal, title)


def _positions(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """Cosines of position embeddings."""
    del pictures, choices
    table = positions.position_table(model.module, model.params)
    title = f"Similarity of position embeddings ({model.module.pos_embed})"
    yield "positions", positions.positions_figure(positions.similarity(table), title)


def _pca(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """Colours of patches by their features, over all pictures; of Swin, those of each stage."""
    shown, found = [], []
    for picture in pictures:
        shown.append(picture.pixels)
        found.append(_features(model, picture.image, choices.layer))
    places = []
    for same_place in zip(*found):
        features = np.stack([features.values for features in same_place])
        colors, _ = components.feature_colors(features, choices.foreground)
        place, stride, _ = same_place[0]
        places.append(components.FeatureColors(place, stride, colors))
    title = f"Principal components of features, over {_count(len(shown))}"
    name = "pca" + _suffix(choices.layer)
    yield name, components.features_figure(shown, places, title)


class _Features(NamedTuple):
    """What one place of a model makes of a picture: `(rows, columns, d)`, patches of `stride`."""

    place: str
    stride: Pair
    values: np.ndarray


def _features(model: Model, image: np.ndarray, layer: int | None) -> list[_Features]:
    """The features that pca shows."""
    if isinstance(model.module, SwinTransformer):
        return _swin_features(model, image, layer)
    module = seen.plain_encoder(model.module, "pca")
    capture = ("features",) if layer is None else ("tokens",)
    found = seen.intermediates(module, model.params, image[None], capture)
    place = "features" if layer is None else f"layer {layer}"
    tokens = found.features[0] if layer is None else found.tokens[layer, 0]
    patches = tokens[module.num_prefix_tokens :].reshape(*module.grid(), -1)
    return [_Features(place, module.stride, patches)]


def _swin_features(model: Model, image: np.ndarray, layer: int | None) -> list[_Features]:
    """Those of each stage, or of one block; blocks count through all stages."""
    module = model.module
    strides = [
        tuple(side * 2**stage for side in pair(module.patch_size))
        for stage in range(len(module.depths))
    ]
    capture = ("maps",) if layer is None else ("tokens",)
    found = seen.intermediates(module, model.params, image[None], capture)
    if layer is None:
        maps = zip(strides, found.maps)
        return [_Features(f"stage {i}", stride, x[0]) for i, (stride, x) in enumerate(maps)]
    stride = np.repeat(strides, module.depths, axis=0)[layer]
    return [_Features(f"layer {layer}", tuple(map(int, stride)), found.tokens[layer][0])]


def _filters(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """The patch embedding's filters, and their principal components."""
    del pictures, choices
    raw = filters.patch_filters(model.module, model.params)
    first = filters.principal_filters(raw)
    title = f"First {len(first)} principal components of {len(raw)} filters"
    yield "filters_principal", filters.filters_figure(first, title)
    some = raw[: filters.SHOWN]
    title = f"First {len(some)} of {len(raw)} filters"
    yield "filters", filters.filters_figure(some, title)


def _reconstruction(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """What a masked autoencoder paints."""
    for picture in pictures:
        sheet, masked = reconstruction_sheet(model, [picture], choices.norm_pix_loss)
        title = f"{picture.name}: {100 * masked:.0f} % of the patches masked"
        yield f"{picture.name}_reconstruction", reconstruction_figure(sheet, title)


def reconstruction_sheet(
    model: Model, pictures: Sequence[Picture], norm_pix_loss: bool = False
) -> tuple[np.ndarray, float]:
    """What a masked autoencoder paints of several pictures, a row each.

    Args:
        model: of a masked autoencoder.
        pictures: from `draw.read_pictures`.
        norm_pix_loss: see `Choices`.

    Returns:
        What `visualize.reconstruction_figure` takes, and the share of the patches that is masked.

    Raises:
        UserError: another model.
    """
    module = _autoencoder(model).clone(attn_backend="auto")  # it may have learned elsewhere
    images = np.stack([picture.image for picture in pictures])
    painted, mask = map(seen.as_numpy, _painted(module, model.params, images, norm_pix_loss))
    mask = mask.reshape(-1, *module.grid())
    prep = model.preprocessing.for_channels(module.in_chans)
    return reconstructions(images, painted, mask, prep.mean, prep.std), float(mask.mean())


@functools.partial(jax.jit, static_argnums=(0, 3))
def _painted(
    module: MaskedAutoencoder, params: Any, images: jax.Array, norm_pix_loss: bool
) -> tuple[jax.Array, jax.Array]:
    """What is painted `(b, height, width, c)`, and the mask `(b, n)` that evaluations have."""
    noise = fixed_noise(images, math.prod(module.grid()))
    output = module.apply({"params": params}, images, noise=noise)
    return paint(module, output.prediction, images, norm_pix_loss), output.mask


def _autoencoder(model: Model) -> MaskedAutoencoder:
    if not isinstance(model.module, MaskedAutoencoder):
        raise UserError(
            f"a reconstruction needs a masked autoencoder, and this is a "
            f"{type(model.module).__name__}"
        )
    return model.module


def _weights(module: Any, model: Model, picture: Picture) -> np.ndarray:
    """Attention weights of a picture `(depth, h, n, n)`."""
    found = seen.intermediates(module, model.params, picture.image[None], ("attention",))
    return found.attention[:, 0]


def _suffix(layer: int | None) -> str:
    return "" if layer is None else f"_layer{layer}"


def _count(pictures: int) -> str:
    return f"{pictures} picture{'s' * (pictures != 1)}"


def check_choices(module: VisionTransformer | SwinTransformer, choices: Choices) -> None:
    """Raises UserError for a layer or head that the model does not have."""
    swin = isinstance(module, SwinTransformer)
    depth = sum(module.depths) if swin else module.depth
    if choices.layer is not None and not 0 <= choices.layer < depth:
        raise UserError(f"layer {choices.layer}: the model has layers 0 to {depth - 1}")
    heads = max(module.num_heads) if swin else module.num_heads
    for head in choices.heads:
        if not 0 <= head < heads:
            raise UserError(f"head {head}: the model has heads 0 to {heads - 1}")


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of picture.

    Attributes:
        draw: (model, pictures, choices) -> names and figures.
        check: raises UserError where a model has nothing of the kind.
        of_pictures: it shows what a model makes of pictures, not the model alone.
    """

    draw: Callable[[Model, Iterable[Picture], Choices], Drawn]
    check: Callable[[Model], Any]
    of_pictures: bool = True


def _is_plain(what: str) -> Callable[[Model], Any]:
    return lambda model: seen.plain_encoder(model.module, what)


def _has_features(model: Model) -> None:
    if not isinstance(model.module, SwinTransformer):
        seen.plain_encoder(model.module, "pca")


def _has_positions(model: Model) -> None:
    seen.plain_encoder(model.module, "positions")
    positions.position_table(model.module, model.params)


def _has_filters(model: Model) -> None:
    _has_features(model)
    filters.patch_filters(model.module, model.params)


KINDS = {
    "attention": Kind(_attention, _is_plain("attention")),
    "rollout": Kind(_rollout, _is_plain("rollout")),
    "distance": Kind(_distance, _is_plain("distance")),
    "positions": Kind(_positions, _has_positions, of_pictures=False),
    "pca": Kind(_pca, _has_features),
    "filters": Kind(_filters, _has_filters, of_pictures=False),
    "reconstruction": Kind(_reconstruction, _autoencoder),
}
