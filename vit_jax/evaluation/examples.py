"""Labelled pictures to evaluate any model on, without a recipe.

| data | what is meant |
|---|---|
| "digits", "tfds:NAME", "folder:PATH", "idx:PATH" | a split of it, see `vit_jax.data.open_source` |
| a folder, or a pattern | all pictures in it, which lie in a folder a class |
| None, of a run | the data of the run, and its split |

They are prepared as the model's preprocessing says (`vit_jax.preprocess`).
"""

import dataclasses
import functools
import os
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from vit_jax import data as data_lib
from vit_jax.convert.folder import Model
from vit_jax.data.decode import DecodeError
from vit_jax.data.sources import SCHEMES, Example, Source
from vit_jax.errors import UserError
from vit_jax.inference.forward import Forward, Rows
from vit_jax.inference.images import Place, class_labels, find_pictures
from vit_jax.training import run_folder
from vit_jax.training.config import base_config


class Pictures(Source):
    """Files in folders of classes; see `inference.images`."""

    def __init__(self, places: Place | Sequence[Place]):
        """Finds the pictures.

        Raises:
            UserError: there are none, or they do not lie in folders of classes.
        """
        pictures = find_pictures(places)
        classes = class_labels(pictures)
        if classes is None:
            raise UserError(
                f"the pictures at {places} do not lie in a folder a class: expected "
                "FOLDER/CLASS/PICTURE (of a folder with train and val or test, give folder:FOLDER)"
            )
        self.class_names, self._labels = classes
        self._paths = [picture.path for picture in pictures]
        self.fingerprint = "\n".join(map(str, self._paths))

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> Example:
        """Reads a file; the image stays encoded."""
        path = self._paths[index]
        return {"image": path.read_bytes(), "label": self._labels[index], "name": os.fspath(path)}


def open_examples(
    model: Any, data: Place | None, split: str | None, data_dir: str | None, default: str
) -> Source:
    """Opens labelled pictures.

    Args:
        model: what the model was opened from; a run says what data it is of.
        data: see the module.
        split: of the data; None: `default`.
        data_dir: where prepared TFDS data sets are, see `vit_jax.data.open_source`.
        default: "train_split" or "eval_split", as `config.data` of the run, or of any run, has it.

    Raises:
        UserError: no data is given, and the model is not a run's; a split of a folder of classes;
            see `open_source` and `Pictures`.
    """
    if data is None:
        data, split, data_dir = _of_run(model, split, data_dir, default)
    if _is_spec(data):
        return data_lib.open_source(data, split or _usual(data, default), data_dir)
    if split is not None:
        raise UserError(
            f"{data} is a folder of classes and has no split {split!r}: give the folder of the "
            f"split, or folder:{data}"
        )
    return Pictures(data)


def _of_run(
    model: Any, split: str | None, data_dir: str | None, default: str
) -> tuple[str, str, str | None]:
    if isinstance(model, Model) or not run_folder.holds_run(model):
        raise UserError(
            "no data is given, and the model is not a run's, which has some: give a folder of "
            "classes, digits, tfds:NAME, folder:PATH or idx:PATH"
        )
    config = run_folder.read_config(model).data
    return config.source, split or config[default], data_dir or config.data_dir


def _is_spec(data: Place) -> bool:
    scheme, colon, _ = os.fspath(data).partition(":")
    return scheme in SCHEMES and (bool(colon) or scheme == "digits")


def _usual(data: str, default: str) -> str:
    """A folder's split to evaluate on may have several names, see `vit_jax.data.folder`."""
    split = base_config().data[default]
    return "eval" if data.startswith("folder:") and default == "eval_split" else split


@dataclasses.dataclass
class Shown:
    """An example of a source; its label and name are known once it is read."""

    source: Source
    index: int
    label: int = -1
    name: str = ""

    def __str__(self) -> str:
        return self.name


def over(
    forward: Forward, source: Source, title: str, skip_unreadable: bool = False
) -> Iterator[Rows]:
    """Yields what a model says of all examples in order; the `paths` of rows are of `Shown`.

    Args:
        forward: the model.
        source: the examples.
        title: of the progress bar.
        skip_unreadable: see `Forward.over`.

    Raises:
        UserError: see `Forward.over`.
    """
    shown = [Shown(source, index) for index in range(len(source))]
    yield from forward.over(shown, title, skip_unreadable, functools.partial(_prepared, forward))


def _prepared(forward: Forward, shown: Shown) -> np.ndarray:
    try:
        example = shown.source[shown.index]
    except OSError as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"cannot read example {shown.index}: {error}") from error
    shown.label, shown.name = int(example["label"]), example["name"]
    try:
        return forward.prepare(example["image"])
    except DecodeError as error:
        raise DecodeError(shown.name, error.cause) from error


def renamed(
    labels: np.ndarray, names: Sequence[str], known: Sequence[str], what: str
) -> np.ndarray:
    """Labels by `names` as labels by `known`.

    Args:
        labels: (n,) integers.
        names: of the classes that they number.
        known: names of all classes that there may be.
        what: has the labels, for the error.

    Raises:
        UserError: a class is not known.
    """
    strange = [name for name in names if name not in known]
    if strange:
        raise UserError(
            f"{what} has classes that are not known: {', '.join(strange[:5])}, {len(strange)} of "
            f"{len(names)}; known are {', '.join(known[:5])}{' ...' * (len(known) > 5)}"
        )
    place = {name: number for number, name in enumerate(known)}
    return np.asarray([place[name] for name in names], np.int64)[labels]
