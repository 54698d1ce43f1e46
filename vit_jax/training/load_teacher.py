"""Reads any model that may teach: of a run, converted, or pretrained."""

from pathlib import Path

import jax

from vit_jax.convert import folder, pretrained
from vit_jax.errors import UserError
from vit_jax.training import run_folder
from vit_jax.training.trained import trained_model


def load_model(
    source: str, checkpoint: str | int = "last", name: str | None = None
) -> folder.Model:
    """Returns a model with NumPy parameters.

    Args:
      source: the folder of a run, or what `vit_jax.from_pretrained` reads.
      checkpoint: which of a run: "last", "best" or a step; of the running average where it has one.
      name: a name of `list_models()`, where the source does not say what it is.

    Raises:
      UserError: there is no such model; or a run is to be read by one process of several.
    """
    if not (Path(source) / run_folder.CONFIG).is_file():
        return pretrained.load(source, name)[0]
    if jax.process_count() > 1:
        raise UserError(
            f"{source} is the folder of a run, which several processes cannot each read by "
            "themselves: take its model out first (vit-jax export), and give that folder"
        )
    return trained_model(source, checkpoint, report=lambda _: None)
