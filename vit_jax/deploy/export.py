"""Writes a model for others, by format: weights in their layout, or a program that needs none."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vit_jax import naming
from vit_jax.convert import folder as model_folder
from vit_jax.convert.export import FORMATS, export
from vit_jax.convert.folder import Model
from vit_jax.deploy import description, onnx_file, stablehlo
from vit_jax.deploy.program import Options, build
from vit_jax.errors import UserError
from vit_jax.training.trained import open_model

PROGRAMS = ("stablehlo", "onnx")


def export_program(
    model: Model,
    output: str | os.PathLike[str],
    format: str = "stablehlo",
    *,
    which: str | None = None,
    pixels: str = "normalized",
    img_size: int | tuple[int, int] | None = None,
    dtype: str | None = None,
    platforms: Sequence[str] | None = None,
    report: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Writes a model as a program with its weights inside, for any number of pictures.

        vit_jax.export_program(vit_jax.open_model("runs/mine"), "program")
        logits = vit_jax.load_exported("program")(images)

    Args:
        model: from `vit_jax.open_model`.
        output: a new folder; it appears whole or not at all.
        format: "stablehlo", for JAX and what else runs that; or "onnx".
        which: features in place of the prediction, see `program.Options`.
        pixels: "normalized" pictures or "uint8", see there.
        img_size: height and width of the pictures, see there.
        dtype: of the computation, see there.
        platforms: of "stablehlo": some of "cpu", "cuda", "rocm" and "tpu"; None for
            `stablehlo.DEFAULT_PLATFORMS`. None of them has to be here.
        report: is given the sentences a user should read.

    Returns:
        What `model.json` in the folder says, see `description`.

    Raises:
        UserError: a value is out of range or not of this format; the model has no such features,
            takes no such pictures or is too large; the folder is not free; a library is missing.
    """
    naming.check_known("format", [format], PROGRAMS)
    folder = Path(os.path.abspath(output))
    model_folder.check_free(folder)
    if format == "onnx" and platforms is not None:
        raise UserError("an ONNX program has no platforms: leave out --platforms")
    chosen = stablehlo.check_platforms(
        stablehlo.DEFAULT_PLATFORMS if platforms is None else platforms
    )
    options = Options(which, pixels, img_size, dtype)
    program = build(model, options)
    if format == "onnx":
        onnx_file.check(program)
    with model_folder.whole(folder) as beside:
        if format == "onnx":
            details = onnx_file.write(beside, model, options, report)
        else:
            details = stablehlo.write(beside, program, chosen)
        size = sum(path.stat().st_size for path in beside.iterdir())
        content = description.describe(model, program, format, details, size)
        description.write(beside, content)
    into, out = content["input"], content["output"]
    report(
        f"{into['name']} {_text(into)}, {into['pixels']} -> {out['name']} {_text(out)}; "
        f"{size / 1e6:.1f} MB: {output}"
    )
    return content


def _text(array: dict[str, Any]) -> str:
    return f"({', '.join(map(str, array['shape']))}) {array['dtype']}"


def export_checkpoint(
    checkpoint: str | os.PathLike[str],
    output: str | os.PathLike[str],
    format: str,
    *,
    mapping: str | os.PathLike[str] | None = None,
    which: str | int = "last",
    average: bool = True,
    report: Callable[[str], None] = print,
    **options: Any,
) -> None:
    """Writes a model for others; see `convert.export.export` and `export_program`.

    Args:
        checkpoint: see `vit_jax.open_model`.
        output: a new folder.
        format: "transformers", "timm", "npz", "mae" or "own"; "vit_jax", what `vit-jax convert`
            writes; "stablehlo" or "onnx", a program.
        mapping: for "own": see `convert.own`.
        which: of a run, see `training.trained.trained_model`.
        average: of a run, see there.
        report: is given the sentences a user should read.
        **options: of a program, see `export_program`; its `which` is `features` here.

    Raises:
        UserError: see `vit_jax.open_model`; or the format cannot hold the model.
    """
    naming.check_known("format", [format], ("vit_jax", *FORMATS, *PROGRAMS))
    options = {name: value for name, value in options.items() if value is not None}
    if options and format not in PROGRAMS:
        raise UserError(
            f"{', '.join(sorted(options))}: of programs ({', '.join(PROGRAMS)}), and format is "
            f"{format!r}: leave them out"
        )
    if mapping is not None and format != "own":
        raise UserError(f"a mapping file is of format 'own', and this is {format!r}: leave it out")
    model_folder.check_free(Path(output))
    model = open_model(checkpoint, which=which, average=average, report=report)
    if format in PROGRAMS:
        features = options.pop("features", None)
        export_program(model, output, format, which=features, report=report, **options)
    elif format == "vit_jax":
        model_folder.save(output, model)
        report(f"checkpoint: {output}")
    else:
        layout = export(model, output, format, mapping)
        report(f"written in {format}'s layout ({layout.name}, {layout.family}): {output}")
