"""Independent PyTorch implementations, with the weights that are to be checked.

Wherever a library reads the source by itself, it does, so that a mistake in our reading shows.
Where it cannot, the weights reach it through our own export, and `Oracle.how` says so.
"""

import tempfile
from pathlib import Path

from vit_jax.convert.export import choose_layout, export
from vit_jax.convert.folder import Model
from vit_jax.convert.layouts import Source
from vit_jax.convert.oracles import timm, transformers
from vit_jax.convert.oracles.oracle import Oracle
from vit_jax.convert.readers.folder import find_checkpoint
from vit_jax.convert.source import Identity
from vit_jax.errors import UserError

LIBRARIES = ("transformers", "timm")

__all__ = ["LIBRARIES", "Oracle", "build"]


def build(
    model: Model,
    against: str | None = None,
    source: Source | None = None,
    identity: Identity | None = None,
) -> Oracle:
    """The oracle of a model.

    Args:
        model: ours, with its weights.
        against: one of `LIBRARIES`; None takes the one that reads the source by itself, else the
            first that can hold the model.
        source: the file or folder that the model was read from and that the library may read too;
            None where there is none.
        identity: of the source.

    Raises:
        UserError: unknown library; it is not installed, has no such model or cannot load it.
    """
    if against not in (None, *LIBRARIES):
        raise UserError(f"against={against!r} is unknown; choose one of {LIBRARIES}")
    if source is not None and identity is not None:
        oracle = _read_by_library(model, against, source, identity)
        if oracle is not None:
            return oracle
    return _through_export(model, against or _first_that_holds(model))


def _read_by_library(
    model: Model, against: str | None, source: Source, identity: Identity
) -> Oracle | None:
    """The oracle that a library makes of the very same source, or None if it cannot."""
    name, path = identity.layout.name, source.path
    folder = path if path.is_dir() else path.parent
    file = find_checkpoint(path) if path.is_dir() else path
    # A library that is given a folder chooses the file in it by itself.
    described = source.config is not None and find_checkpoint(folder) == file
    if name == "transformers" and against in (None, "transformers") and described:
        how = "read by Transformers from the same folder"
        return transformers.load(folder, model.module, identity.layout, how)
    if name not in timm.READ or against not in (None, "timm"):
        return None
    if name == "timm" and described:
        return timm.load(folder, identity.layout, "read by timm from the same folder")
    return timm.load_file(file, model, identity)


def _first_that_holds(model: Model) -> str:
    reasons = []
    for library in LIBRARIES:
        try:
            choose_layout(model, library)
        except UserError as error:
            reasons.append(str(error))
        else:
            return library
    raise UserError("there is nothing to check against:\n" + "\n".join(reasons))


def _through_export(model: Model, library: str) -> Oracle:
    """The model as our export writes it for a library, loaded there."""
    how = (
        "written by vit_jax's own export: a mistake that its reading and writing share would not "
        "show"
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "exported"
        layout = export(model, path, library)
        if library == "transformers":
            return transformers.load(path, model.module, layout, how)
        return timm.load(path, layout, how)
