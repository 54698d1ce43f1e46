"""All kinds of pictures of a model, as files; what `vit-jax visualize` does."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from tqdm import tqdm

from vit_jax import naming, storage
from vit_jax.convert.folder import Model
from vit_jax.convert.pretrained import check_not_rounded
from vit_jax.data.preprocessing import preprocess
from vit_jax.errors import UserError
from vit_jax.inference.images import find_pictures
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import pair
from vit_jax.objectives.mae import fixed_noise, paint
from vit_jax.training import run_folder
from vit_jax.training.trained import open_model
from vit_jax.visualize import attention, components, distance, filters, positions, seen
from vit_jax.visualize.canvas import new_figure
from vit_jax.visualize.reconstruction import (
    reconstruction_figure,
    reconstructions,
    to_pixels,
)
from vit_jax.visualize.rollout import rollout, rollout_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ALL = "all"
IN_ONE = 64  # pictures of one figure


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


def visualize(
    source: str | os.PathLike[str],
    images: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    what: Sequence[str] = (ALL,),
    *,
    layer: int | None = None,
    heads: Sequence[int] = (),
    foreground: float | None = None,
    norm_pix_loss: bool | None = None,
    report: Callable[[str], None] = print,
    **options: Any,
) -> list[Path]:
    """Opens a model and draws it; see `draw`.

    Args:
        source: a run, a converted model, weights or a hub id, see `vit_jax.open_model`.
        images: files, folders and patterns, see `inference.images.find_pictures`.
        output: see `draw`.
        what: see `draw`.
        layer: see `Choices`.
        heads: see `Choices`.
        foreground: see `Choices`.
        norm_pix_loss: see `Choices`; None takes what a run says, and False for other sources.
        report: see `draw`.
        **options: of `vit_jax.open_model`.

    Raises:
        UserError: see `draw`, and `vit_jax.open_model`.
    """
    files = [picture.path for picture in find_pictures(list(images))] if images else []
    model = open_model(source, report=report, **options)
    if norm_pix_loss is None:
        norm_pix_loss = run_folder.holds_run(source) and _learned_normalised(source)
    choices = Choices(layer, tuple(heads), foreground, norm_pix_loss)
    return draw(model, files, output, what, choices, report)


def _learned_normalised(run: str | os.PathLike[str]) -> bool:
    return bool(run_folder.read_config(run).objective.get("norm_pix_loss", False))


def draw(
    model: Model,
    files: Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    what: Sequence[str] = (ALL,),
    choices: Choices = Choices(),
    report: Callable[[str], None] = print,
) -> list[Path]:
    """Draws a model and writes the pictures as PNG.

    Args:
        model: with its parameters and preprocessing.
        files: pictures to look at; some kinds need none.
        output: a folder, made where it is missing. Files of the same names are replaced.
        what: names of `KINDS`; or "all", which leaves out, and reports, what the model does not
            have.
        choices: layer, heads and so on.
        report: is given the path of each file, and what was left out.

    Returns:
        The files.

    Raises:
        UserError: the model does not have what is asked for, there is no such layer or head, a
            file cannot be read or written, or matplotlib is not installed.
    """
    new_figure(1, 1)  # where it cannot be had, nothing else is worth the wait
    check_not_rounded(model.params)
    kinds, left_out = _kinds(model, what, bool(files))
    _check_choices(model, choices)
    if "pca" in kinds and len(files) > IN_ONE:
        raise UserError(f"{len(files)} pictures; pca shows at most {IN_ONE} in one figure")
    of_pictures = any(KINDS[name].of_pictures for name in kinds)
    pictures = read_pictures(files, model) if of_pictures else []
    folder, written = _folder(output), []
    for reason in left_out:
        report(f"left out: {reason}")
    model = dataclasses.replace(model, params=jax.device_put(model.params))
    for name in kinds:
        bar = tqdm(pictures, name, disable=None, leave=False)
        for stem, figure in KINDS[name].draw(model, bar, choices):
            written.append(_save(figure, folder / f"{stem}.png"))
            with tqdm.external_write_mode():
                report(os.fspath(written[-1]))
    return written


def _kinds(model: Model, what: Sequence[str], has_files: bool) -> tuple[list[str], list[str]]:
    """The kinds to draw, in the order of `KINDS`, and why others of "all" are not among them."""
    naming.check_known("kind of picture", what, (*KINDS, ALL))
    found, left_out = [], []
    for name, kind in KINDS.items():
        if name not in what and ALL not in what:
            continue
        try:
            kind.check(model)
            if kind.of_pictures and not has_files:
                raise UserError(f"{name} shows what a model makes of pictures: give some")
        except UserError as error:
            if name in what:
                raise
            left_out.append(str(error))
            continue
        found.append(name)
    if not found:
        raise UserError(f"there is nothing to draw: {left_out[0]}")
    return found, left_out


def _check_choices(model: Model, choices: Choices) -> None:
    """Raises UserError for a layer or head that the model does not have."""
    if isinstance(model.module, SwinTransformer):
        _layer(choices.layer, sum(model.module.depths))
    else:
        _layer(choices.layer, model.module.depth)
        _heads(choices.heads, model.module.num_heads)


def read_pictures(files: Sequence[str | os.PathLike[str]], model: Model) -> list[Picture]:
    """Reads and prepares files as the model's evaluation does.

    Raises:
        UserError: a file is missing or cannot be decoded.
    """
    prep = model.preprocessing.for_channels(model.module.in_chans)
    stems = [Path(file).stem for file in files]
    pictures = []
    for i, (file, stem) in enumerate(
        zip(tqdm(files, "pictures", disable=None, leave=False), stems)
    ):
        try:
            image = preprocess(file, prep, pair(model.module.img_size))
        except OSError as error:
            if isinstance(error, UserError):
                raise
            raise UserError(f"cannot read {file}: {error.strerror or error}") from error
        name = stem if stems.count(stem) == 1 else f"{stem}_{i}"
        pictures.append(Picture(name, image, to_pixels(image, prep.mean, prep.std)))
    return pictures


def _folder(output: str | os.PathLike[str]) -> Path:
    if storage.is_remote(output):
        raise UserError(f"{output}: pictures are written to a file system; copy them from there")
    folder = Path(output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the folder {folder}: {error}") from error
    return folder


def _save(figure: "Figure", path: Path) -> Path:
    try:
        figure.savefig(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error}") from error
    return path


def _attention(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """Where the class token looks, or what stands for it (see `attention`)."""
    module = seen.plain_encoder(model.module, "attention")
    layer = _layer(choices.layer, module.depth)
    heads = _heads(choices.heads, module.num_heads)
    grid, prefix = module.grid(), module.num_prefix_tokens
    pooling = choices.layer is None and module.global_pool == "map"
    whose = "the class token" if module.class_token else "all patches"
    where = ("the pooling", "pooling") if pooling else (f"{whose}, layer {layer}", f"layer{layer}")
    for picture in pictures:
        if pooling:
            found = seen.intermediates(module, model.params, picture.image[None], ("features",))
            (weights,) = seen.pooling_weights(module, model.params, found.features)
            shares = attention.on_grid(weights, grid, prefix if module.pool_include_prefix else 0)
        else:
            weights = _weights(module, model, picture)[layer]
            shares = attention.attention_map(weights, grid, prefix, module.class_token)
        title = f"{picture.name}: attention of {where[0]}"
        figure = attention.attention_figure(picture.pixels, shares, module.stride, title, heads)
        yield f"{picture.name}_attention_{where[1]}", figure


def _rollout(model: Model, pictures: Iterable[Picture], choices: Choices) -> Drawn:
    """The attention of all layers together, up to the one that was chosen."""
    module = seen.plain_encoder(model.module, "rollout")
    layer = _layer(choices.layer, module.depth)
    prefix = module.num_prefix_tokens
    whose = "the class token" if module.class_token else "all patches"
    for picture in pictures:
        mixed = rollout(_weights(module, model, picture)[: layer + 1])
        row = attention.queries(mixed, prefix, module.class_token)
        title = f"{picture.name}: rollout to {whose}, layers 0 to {layer}"
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
        name, stride, _ = same_place[0]
        features = np.stack([features for _, _, features in same_place])
        colors, _ = components.feature_colors(features, choices.foreground)
        places.append(components.FeatureColors(name, stride, colors))
    title = f"Principal components of features, over {_count(len(shown))}"
    name = "pca" + _suffix(choices.layer)
    yield name, components.features_figure(shown, places, title)


def _features(
    model: Model, image: np.ndarray, layer: int | None
) -> list[tuple[str, tuple[int, int], np.ndarray]]:
    """Name, stride and features `(rows, columns, d)` of the places that pca shows."""
    module = model.module
    capture = ("maps",) if isinstance(module, SwinTransformer) else ("features",)
    capture = capture if layer is None else ("tokens",)
    if not isinstance(module, SwinTransformer):
        module = seen.plain_encoder(module, "pca")
        which = None if layer is None else _layer(layer, module.depth)
        found = seen.intermediates(module, model.params, image[None], capture)
        tokens = found.features[0] if which is None else found.tokens[which, 0]
        patches = tokens[module.num_prefix_tokens :].reshape(*module.grid(), -1)
        return [("features" if which is None else f"layer {which}", module.stride, patches)]
    stages = np.repeat(np.arange(len(module.depths)), module.depths)
    which = None if layer is None else _layer(layer, len(stages))
    found = seen.intermediates(module, model.params, image[None], capture)

    def stride(stage: int) -> tuple[int, int]:
        return tuple(side * 2**stage for side in pair(module.patch_size))

    if which is not None:
        return [(f"layer {which}", stride(stages[which]), found.tokens[which][0])]
    return [(f"stage {i}", stride(i), features[0]) for i, features in enumerate(found.maps)]


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
    module = _autoencoder(model)
    grid = module.grid()
    for picture in pictures:
        images = picture.image[None]
        painted, mask = map(
            seen.as_numpy, _painted(module, model.params, images, choices.norm_pix_loss)
        )
        mask = mask.reshape(-1, *grid)
        prep = model.preprocessing.for_channels(module.in_chans)
        sheet = reconstructions(images, painted, mask, prep.mean, prep.std)
        title = f"{picture.name}: {100 * mask.mean():.0f} % of the patches masked"
        yield f"{picture.name}_reconstruction", reconstruction_figure(sheet, title)


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


def _layer(given: int | None, depth: int) -> int:
    if given is None:
        return depth - 1
    if not 0 <= given < depth:
        raise UserError(f"layer {given}: the model has layers 0 to {depth - 1}")
    return given


def _heads(given: tuple[int, ...], count: int) -> tuple[int, ...] | None:
    for head in given:
        if not 0 <= head < count:
            raise UserError(f"head {head}: the model has heads 0 to {count - 1}")
    return given or None


def _suffix(layer: int | None) -> str:
    return "" if layer is None else f"_layer{layer}"


def _count(pictures: int) -> str:
    return f"{pictures} picture{'s' * (pictures != 1)}"


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
