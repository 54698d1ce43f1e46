"""Reads any model that may teach: of a run, converted, or pretrained."""

import re
import warnings
from collections.abc import Sequence

from vit_jax.convert import folder
from vit_jax.errors import UserError
from vit_jax.training import classes
from vit_jax.training.trained import open_model

SYNSET = re.compile(r"n\d{8}")  # WordNet's name of a class of ImageNet


def load_model(
    source: str,
    checkpoint: str | int = "last",
    name: str | None = None,
    *,
    class_names: Sequence[str] | None = None,
) -> folder.Model:
    """Returns a model with NumPy parameters.

    Args:
      source: the folder of a run, or what `vit_jax.from_pretrained` reads.
      checkpoint: which of a run: "last", "best" or a step; of the running average where it has one.
      name: a name of `list_models()`, where the source does not say what it is.
      class_names: of the data that the student learns from; None: nothing is compared.

    Raises:
      UserError: there is no such model; or it knows its classes, and they are others.

    Warns:
      UserWarning: it knows its classes by names that cannot be compared with those of the data.
    """
    model = open_model(source, name, which=checkpoint, report=lambda _: None)
    known = (model.class_names, class_names)
    # Another number of classes is an error of its own, of models without names too.
    if None not in known and len(known[0]) == len(known[1]):
        _check_same(source, model.class_names, class_names)
    return model


def _check_same(source: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    """Raises UserError for other names; warns where one side has WordNet's, and the other words."""
    if _are_synsets(theirs) != _are_synsets(ours):
        warnings.warn(
            f"the teacher {source} calls its classes {theirs[0]!r}, ..., the data {ours[0]!r}, "
            "...: whether they are the same, in the same order, is not checked",
            stacklevel=3,
        )
        return
    try:
        classes.check_same(f"the teacher {source}", theirs, "the training data", ours)
    except UserError as error:
        raise UserError(
            f"{error}. Choose a teacher of these classes; where the two only spell them "
            "differently, vit-jax convert (or vit-jax export --format vit_jax) the teacher, and "
            f'write the names of the data, or null, as "class_names" into {folder.DESCRIPTION}'
        ) from error


def _are_synsets(names: Sequence[str]) -> bool:
    return all(SYNSET.fullmatch(name) for name in names)
