"""Reads any model that may teach: of a run, converted, or pretrained."""

from vit_jax.convert import folder, pretrained
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
      UserError: there is no such model.
    """
    if not run_folder.is_run(source):
        return pretrained.load(source, name)[0]
    return trained_model(source, checkpoint, report=lambda _: None)
