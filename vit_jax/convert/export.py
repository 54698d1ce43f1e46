"""Writes a model for others: Transformers, timm, Google's `.npz`, MAE's code, a user's own."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from vit_jax.convert import class_names, own, params
from vit_jax.convert.folder import Model, check_free, whole
from vit_jax.convert.layouts import LAYOUTS, Layout, Source
from vit_jax.convert.layouts.base import Json, check_expressed
from vit_jax.convert.mapping import outward
from vit_jax.convert.rules import Table
from vit_jax.convert.writers import write_npz, write_sharded_safetensors, write_torch
from vit_jax.errors import UserError

FORMATS = {
    "transformers": ("transformers",),
    "timm": ("timm",),
    "npz": ("augreg", "big_vision"),
    "mae": ("mae",),
    "own": ("own",),
}
WEIGHTS = "model.safetensors"
MAX_SHARD_BYTES = 5 * 10**9  # as Transformers writes them by default, in bytes


def export(
    model: Model,
    output: str | os.PathLike[str],
    format: str,
    mapping: str | os.PathLike[str] | None = None,
) -> Layout:
    """Writes a folder that the library of `format` loads.

    | format | how to load it there |
    |---|---|
    | "transformers" | `AutoModel...from_pretrained(output)` |
    | "timm" | `timm.create_model("local-dir:" + output, pretrained=True)` |
    | "npz" | `model.npz`, as vision_transformer or big_vision stores it |
    | "mae" | `theirs.load_state_dict(torch.load(output + "/model.pth")["model"])`, of MAE's code |
    | "own" | `safetensors.torch.load_model(theirs, output + "/model.safetensors")` |

    Args:
        model: its parameters keep their dtypes.
        output: a folder; must not exist, or be empty.
        format: see above.
        mapping: for "own" and no other: the mapping file of your code, see `convert.own`.

    Returns:
        The layout that was written.

    Raises:
        UserError: the format is unknown, cannot say what the model is, or the folder cannot be
            written.
    """
    if format not in FORMATS:
        raise UserError(f"format {format!r} is unknown; choose one of {sorted(FORMATS)}")
    if (format == "own") != (mapping is not None):
        raise UserError("format 'own' and a mapping file go together: give both or none")
    folder = Path(os.path.abspath(output))
    check_free(folder)
    layouts = LAYOUTS if mapping is None else (own.writing_layout(mapping, model.module),)
    layout, table, files = choose_layout(model, format, layouts)
    tensors = outward(params.by_path(model.params), table)
    with whole(folder) as beside:
        for name, content in files.items():
            (beside / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
        if format == "npz":
            write_npz(beside / "model.npz", tensors)
        elif format == "mae":
            write_torch(beside / "model.pth", tensors, under="model")
        else:
            write_sharded_safetensors(beside, tensors, MAX_SHARD_BYTES, WEIGHTS)
    return layout


def choose_layout(
    model: Model, format: str, layouts: Sequence[Layout] = LAYOUTS
) -> tuple[Layout, Table, dict[str, Json]]:
    """The layout of `format` that says exactly what the model is, its table and its files.

    Raises:
        UserError: there is none; gives each one's reason.
    """
    reasons = []
    for layout in layouts:
        fits = layout.name in FORMATS[format] and type(model.module) is layout.module
        if not fits or not layout.expresses(model.module):
            continue
        try:
            return layout, *_written(model, layout)
        except UserError as error:
            reasons.append(f"{layout.name} ({layout.family}): {error}")
    detail = "\n  ".join(reasons) or "it has no layout for such a model"
    raise UserError(f"format {format!r} cannot hold this model:\n  {detail}")


def _written(model: Model, layout: Layout) -> tuple[Table, dict[str, Json]]:
    """Table and files; reading them back must give the same module."""
    module = model.module
    table = layout.write_table(module)
    files = {
        name: class_names.written(content, model.class_names)
        for name, content in layout.write_files(module, model.preprocessing).items()
    }
    tensors = outward(params.by_path(model.params), table)
    back, _ = layout.read(Source(Path(), tensors, files.get("config.json")))
    check_expressed(module, layout, back)
    return table, files
