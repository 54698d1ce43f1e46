"""What pictures show: the most probable classes of each."""

import dataclasses
import functools
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import jax
import jax.numpy as jnp
import numpy as np

from vit_jax import printing
from vit_jax.convert.folder import Model
from vit_jax.errors import UserError
from vit_jax.inference.forward import Forward
from vit_jax.inference.images import Place, find_pictures
from vit_jax.models.mae import MaskedAutoencoder
from vit_jax.training.trained import open_model

PROBABILITIES = {"softmax": functools.partial(jax.nn.softmax, axis=-1), "sigmoid": jax.nn.sigmoid}


@dataclasses.dataclass(frozen=True)
class Guess:
    """A class of a picture.

    Attributes:
        index: which output of the model.
        name: of the class; None where nobody knows it.
        probability: from 0 to 1. All of a picture's sum to 1, unless each class was learned by
            itself (`Model.probabilities`).
    """

    index: int
    name: str | None
    probability: float


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A picture's classes, the most probable first."""

    path: Path
    guesses: tuple[Guess, ...]


def predict(
    source: Model | str | os.PathLike[str],
    images: Place | Sequence[Place],
    top_k: int = 5,
    batch_size: int = 32,
    *,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> list[Prediction]:
    """Classifies pictures.

        for prediction in vit_jax.predict("runs/mine", "photos/*.jpg"):
            print(prediction.path, prediction.guesses[0].name)

    Args:
        source: a model from `vit_jax.open_model`, or what that opens.
        images: files, folders or patterns, see `images.find_pictures`.
        top_k: how many classes of each, all of them where the model has fewer.
        batch_size: pictures that the device works on at once; of no effect on the results.
        skip_unreadable: leaves out, and reports, pictures that cannot be decoded.
        report: is given the sentences a user should read.
        **options: of `vit_jax.open_model`, where `source` is what that opens.

    Returns:
        One result a picture, in the order of their paths.

    Raises:
        UserError: a model without a classifier; a number below 1; no pictures, or one that cannot
            be decoded; see `open_model`.
    """
    given = (source, images, top_k, batch_size)
    return list(predictions(*given, skip_unreadable=skip_unreadable, report=report, **options))


def predictions(
    source: Model | str | os.PathLike[str],
    images: Place | Sequence[Place],
    top_k: int = 5,
    batch_size: int = 32,
    *,
    skip_unreadable: bool = False,
    report: Callable[[str], None] = print,
    **options: Any,
) -> Iterator[Prediction]:
    """Yields what `predict` returns, as soon as a batch is done; see there."""
    if top_k < 1:
        raise UserError(f"top_k is {top_k}: expected 1 or more")
    pictures = find_pictures(images)
    model = opened(source, report, options)
    forward = classifier(model, top_k, batch_size)
    names = model.class_names
    paths = [picture.path for picture in pictures]
    for rows in forward.over(paths, skip_unreadable=skip_unreadable):
        for path, shares, classes in zip(rows.paths, *rows.values, strict=True):
            yield Prediction(path, guesses(shares, classes, names))
    report_skipped(forward, report)


def guesses(
    shares: np.ndarray, classes: np.ndarray, names: Sequence[str] | None
) -> tuple[Guess, ...]:
    """A picture's probabilities and classes, `(k,)` each as `classifier` gives them, with names."""
    return tuple(
        Guess(int(index), names[index] if names else None, float(share))
        for index, share in zip(classes, shares, strict=True)
    )


def opened(
    source: Model | str | os.PathLike[str],
    report: Callable[[str], None],
    options: dict[str, Any],
) -> Model:
    """The model, opened if need be.

    Raises:
        UserError: options for a model that is open already.
    """
    if not isinstance(source, Model):
        return open_model(source, report=report, **options)
    if options:
        raise UserError(
            f"{sorted(options)} say how to open a model, and it is open: leave them out"
        )
    return source


def report_skipped(forward: Forward, report: Callable[[str], None]) -> None:
    """Says which pictures were left out, if any."""
    for path, cause in forward.skipped:
        report(f"left out {path}: {cause}")
    if forward.skipped:
        report(f"left out in all: {len(forward.skipped)} that cannot be read")


def classifier(model: Model, top_k: int, batch_size: int) -> Forward:
    """The model as a function that gives probabilities and classes, `(b, k)` each, the best first.

    Raises:
        UserError: it has no classifier.
    """
    check_classifies(model)
    k = min(top_k, model.module.num_classes)
    probabilities = PROBABILITIES[model.probabilities]

    def best(module: Any, variables: Any, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        logits = module.apply(variables, images)
        shares = probabilities(logits.astype(jnp.promote_types(logits.dtype, jnp.float32)))
        return tuple(jax.lax.top_k(shares, k))

    return Forward(model, best, batch_size)


def check_classifies(model: Model) -> None:
    """Raises UserError unless the model gives a row of logits for each image."""
    cause = why_no_classes(model)
    if cause is not None:
        raise UserError(f"{cause}: for its features, there is vit-jax features")


def why_no_classes(model: Model) -> str | None:
    """Why the model does not classify, in words; None where it does."""
    module = model.module
    if isinstance(module, MaskedAutoencoder):
        return "a masked autoencoder paints pictures and knows no classes"
    if not module.num_classes:
        return "the model has no classifier (num_classes=0)"
    if getattr(module, "global_pool", None) == "none":
        return "the model pools nothing (global_pool='none') and classifies each token"
    if model.class_names is None and not getattr(module, "head_bias", True):
        return (
            "the model's head has no bias and nobody names its classes, as that of a CLIP tower, "
            "which projects into the space that it shares with texts"
        )
    return None


def show(found: Iterator[Prediction], as_json: bool, output: TextIO | None = None) -> None:
    """Prints predictions as they come: a table, or one JSON object a line.

    On a terminal lines are cut to its width; elsewhere they are whole. Whoever reads the output may
    stop doing so, as `head` does.

    Args:
        found: from `predictions`.
        as_json: {"path": ..., "classes": [{"index": ..., "name": ..., "probability": ...}, ...]}.
        output: where to; None is standard output.
    """
    output = sys.stdout if output is None else output
    width = printing.columns(output)
    text = json_line if as_json else functools.partial(table, width=width)
    with printing.reader_may_stop(output):
        for prediction in found:
            output.write(printing.encodable(text(prediction), output) + "\n")
            output.flush()


def json_line(prediction: Prediction) -> str:
    """A prediction as one line of JSON, in ASCII."""
    classes = [dataclasses.asdict(guess) for guess in prediction.guesses]
    return json.dumps({"path": os.fspath(prediction.path), "classes": classes})


def table(prediction: Prediction, width: int | None = None) -> str:
    """A prediction as lines: the path, and below it per cent, number and name of each class.

    Args:
        prediction: of one picture.
        width: columns that there are; None: lines are as long as they come.
    """
    digits = max(len(str(guess.index)) for guess in prediction.guesses)
    path = printing.printable(os.fspath(prediction.path))
    lines = [printing.shortened(path, width, at_end=False)]
    for guess in prediction.guesses:
        line = f"  {100 * guess.probability:6.2f} %  {guess.index:{digits}}"
        name = "" if guess.name is None else f"  {printing.printable(guess.name)}"
        lines.append(printing.shortened(line + name, width))
    return "\n".join(lines)
