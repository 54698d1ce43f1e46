"""From a source to a converted folder, and from a module with its variables to any folder."""

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from vit_jax.convert import folder
from vit_jax.convert.export import export
from vit_jax.convert.layouts.base import DIALECT, differing
from vit_jax.convert.pretrained import load
from vit_jax.models import PlainModule, Preprocessing, registry


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
    if model.name is not None:
        spec = registry.model_spec(model.name)
        usual = spec.module(**spec.hyper_parameters)
        for key, (ours, _) in differing(model.module, usual, sorted(DIALECT)).items():
            named += f" with {key}={ours}"
    report(f"{named} of layout {model.origin.get('layout')}: {count:,} parameters, {dtypes}")
    report(str(adaptation))
    report(f"checkpoint: {output}")
    return model


def save_pretrained(
    output: str | os.PathLike[str],
    module: PlainModule,
    variables: Mapping[str, Any],
    *,
    format: str = "vit_jax",
    preprocessing: Preprocessing | str,
    class_names: Sequence[str] | None = None,
) -> None:
    """Writes a module and its variables; the inverse of `from_pretrained`.

        module, variables = vit_jax.from_pretrained(source)
        preprocessing = vit_jax.pretrained_preprocessing(source)
        vit_jax.save_pretrained(output, module, variables, preprocessing=preprocessing)

    Args:
        output: a new folder.
        module: the Flax module.
        variables: `{"params": ...}`.
        format: "vit_jax" (what `vit-jax convert` writes), or "transformers", "timm" or "npz" (see
            `export.export`).
        preprocessing: how the model's images are prepared, or the registered name of a model
            whose images are prepared in the same way.
        class_names: what its outputs are called, one name each; None where nobody knows.

    Raises:
        UserError: there is no such name, there are more or fewer class names than classes, the
            folder is not free, or the format cannot hold the model.
    """
    if isinstance(preprocessing, str):
        preprocessing = registry.preprocessing(preprocessing)
    names = None if class_names is None else tuple(class_names)
    model = folder.Model(module, variables["params"], preprocessing, class_names=names)
    if format == "vit_jax":
        folder.save(output, model)
    else:
        export(model, output, format)
