"""From a source to a converted folder: what `vit-jax convert` does."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from vit_jax.convert import folder
from vit_jax.convert.pretrained import load


def convert(
    output: str | os.PathLike[str],
    source: str | os.PathLike[str],
    report: Callable[[str], None] = print,
    **options: Any,
) -> folder.Model:
    """Writes a source as a folder that training, `from_pretrained` and `vit-jax export` take.

    Args:
        output: a new folder.
        source: see `pretrained.load`.
        report: is given the sentences a user should read.
        **options: see `pretrained.load`.

    Raises:
        UserError: see `pretrained.load` and `folder.save`; nothing is left in `output`.
    """
    folder.check_free(Path(output))
    model, adaptation = load(source, **options)
    folder.save(output, model)
    leaves = jax.tree.leaves(model.params)
    count = sum(leaf.size for leaf in leaves)
    dtypes = ", ".join(sorted({str(leaf.dtype) for leaf in leaves}))
    named = model.name or type(model.module).__name__
    report(f"{named} of layout {model.origin.get('layout')}: {count:,} parameters, {dtypes}")
    report(str(adaptation))
    report(f"checkpoint: {output}")
    return model
