"""Features of pictures, to look for neighbours in, to cluster or to train on.

| kind | what | shape | of which models |
|---|---|---|---|
| "pooled" | what the head sees | (d,) | all that pool |
| "cls" | the class token after the last norm | (d,) | with a class token |
| "mean" | the mean of the patches' tokens after the last norm | (d,) | all that have tokens |
| "tokens" | all tokens after the last norm | (tokens, d) | the same |

With a distillation token each head sees a vector of its own: "pooled" is (2, d). Tokens are in the
order class, distillation, registers, patches row by row; Swin's are those of its last map. A masked
autoencoder's encoder looks at all patches.
"""

import dataclasses
import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import naming
from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.inference import store
from vit_jax.inference.forward import Forward, Function
from vit_jax.inference.images import Picture, Place, class_labels, find_pictures
from vit_jax.inference.predict import opened, report_skipped
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.models.swin import SwinTransformer
from vit_jax.models.vit import VisionTransformer

KINDS = ("pooled", "cls", "mean", "tokens")


@dataclasses.dataclass(frozen=True)
class Features:
    """Features of pictures.

    Attributes:
        paths: of the pictures.
        features: (pictures, d), or (pictures, tokens, d); at least float32.
        labels: (pictures,), the number of the class whose folder each lies in; None where they do
            not lie in folders of classes (see `images.class_labels`).
        class_names: of these classes, or None.
    """

    paths: tuple[Path, ...]
    features: np.ndarray
    labels: np.ndarray | None = None
    class_names: tuple[str, ...] | None = None


def extract_features(
    source: Model | str | os.PathLike[str],
    images: Place | Sequence[Place],
    kind: str = "pooled",
    batch_size: int = 32,
    *,
    output: str | os.PathLike[str] | None = None,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Features:
    """Computes features of pictures.

        found = vit_jax.extract_features("hf-hub:facebook/dinov2-small", "photos")
        similarity = found.features @ found.features.T

    Args:
        source: a model from `vit_jax.open_model`, or what that opens.
        images: files, folders or patterns, see `images.find_pictures`.
        kind: "pooled", "cls", "mean" or "tokens", see the module.
        batch_size: pictures that the device works on at once; of no effect on the results.
        output: a new `.npz` or `.parquet` file, see `store.write`; None writes nothing.
        skip_unreadable: leaves out, and reports, pictures that cannot be decoded.
        report: is given the sentences a user should read.
        **options: of `vit_jax.open_model`, where `source` is what that opens.

    Returns:
        The features, in the order of the pictures' paths. All are in memory at once.

    Raises:
        UserError: the model has no such features; no pictures, or one that cannot be decoded; the
            output cannot be written; see `open_model`.
    """
    naming.check_known("features", [kind], KINDS)
    if output is not None:
        store.check(output)
    pictures = find_pictures(images)
    forward = extractor(opened(source, report, options), kind, batch_size)
    rows = list(forward.over([x.path for x in pictures], "features", skip_unreadable))
    report_skipped(forward, report)
    found = _labelled(
        pictures,
        [path for row in rows for path in row.paths],
        np.concatenate([row.values for row in rows]),
    )
    if output is not None:
        store.write(output, found)
        report(f"{kind} of {len(found.paths)} pictures, {_by(found.features.shape[1:])}: {output}")
    return found


def _by(shape: Sequence[int]) -> str:
    return " x ".join(map(str, shape))


def _labelled(pictures: Sequence[Picture], kept: Sequence[Path], features: np.ndarray) -> Features:
    """Features of the pictures that are kept; classes are those of all."""
    classes = class_labels(pictures)
    if classes is None:
        return Features(tuple(kept), features)
    names, numbers = classes
    label_of = {picture.path: label for picture, label in zip(pictures, numbers, strict=True)}
    labels = np.asarray([label_of[path] for path in kept], np.int64)
    return Features(tuple(kept), features, labels, names)


def extractor(model: Model, kind: str, batch_size: int) -> Forward:
    """The model as a function that gives features `(b, d)` or `(b, tokens, d)`.

    Raises:
        UserError: the model has no such features; says which it has.
    """
    return Forward(*with_features(model, kind), batch_size)


def with_features(model: Model, kind: str) -> tuple[Model, Function]:
    """The model that has the features, and the function that they are of it.

    Raises:
        UserError: the model has no such features; says which it has.
    """
    model = seeing(model)
    known = available(model.module)
    if kind not in known:
        raise UserError(
            f"the model has no features {kind!r}: choose {' or '.join(map(repr, known))} (--which)"
        )
    return model, functools.partial(_features, kind)


def seeing(model: Model) -> Model:
    """The encoder of a masked autoencoder, which looks at all patches; any other model itself."""
    if not isinstance(model.module, MaskedAutoencoder):
        return model
    params = {name: x for name, x in model.params.items() if name != "decoder"}
    return dataclasses.replace(model, module=model.module.encoder_alone(), params=params)


def available(module: Any) -> tuple[str, ...]:
    """Which features a model has."""
    found = ["pooled"] if getattr(module, "global_pool", "avg") != "none" else []
    if getattr(module, "class_token", False):
        found.append("cls")
    if isinstance(module, VisionTransformer | SwinTransformer):
        found += ["mean", "tokens"]
    return tuple(found)


def _features(kind: str, module: Any, variables: Any, images: jax.Array) -> jax.Array:
    if kind == "pooled":
        found = _pooled(module, variables, images)
    else:
        _, seen = module.apply(variables, images, capture=("features",))
        found = _of_tokens(kind, module, seen.features)
    return found.astype(jnp.promote_types(found.dtype, jnp.float32))


def _pooled(module: Any, variables: Any, images: jax.Array) -> jax.Array:
    """What the head sees; for two heads `(b, 2, d)`."""
    if getattr(module, "dist_token", False):  # which there is not without the heads
        return module.apply(variables, images, method=lambda m, x: m.pool(m.features(x)[0]))
    return module.clone(num_classes=0).apply(variables, images)


def _of_tokens(kind: str, module: Any, tokens: jax.Array) -> jax.Array:
    """`kind` of tokens `(b, n, d)`, or of a map of them `(b, h, w, d)`."""
    tokens = tokens.reshape(tokens.shape[0], -1, tokens.shape[-1])
    if kind == "cls":
        return tokens[:, 0]
    if kind == "mean":
        return tokens[:, getattr(module, "num_prefix_tokens", 0) :].mean(axis=1)
    return tokens
