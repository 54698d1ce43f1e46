"""What stands beside an exported program: `model.json`, for people and for programs.

Reading it needs nothing but Python.

    format           1
    program          "stablehlo" or "onnx"
    file, bytes      of the program; the size is that of all files
    input, output    shape (the first axis is "batch"), dtype, and what it is
    preprocessing    how pictures are prepared; its mean and std count for normalised input
    class_names      of the logits, or null
    name, module, origin, dtype, versions, and what the format adds
"""

import dataclasses
import importlib.metadata
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vit_jax.errors import MissingFileError, UserError

if TYPE_CHECKING:
    from vit_jax.convert.folder import Model
    from vit_jax.deploy.program import Program

FILE = "model.json"
VERSION = 1
LIBRARIES = ("vit_jax", "jax", "jaxlib", "flax", "numpy")
KEYS = {
    "program": str,
    "file": str,
    "input": dict,
    "output": dict,
    "preprocessing": dict,
    "class_names": list | None,
    "dtype": str,
}
PARTS = ("name", "shape", "dtype")  # of input and output
INPUT = "images"


def describe(
    model: "Model", program: "Program", format: str, details: dict[str, Any], size: int
) -> dict[str, Any]:
    """What `model.json` holds.

    Args:
        model: what was exported.
        program: what is computed of it.
        format: "stablehlo" or "onnx".
        details: what the format adds; "file" is the program's, "libraries" are more to name.
        size: bytes of all files.
    """
    details = dict(details)
    libraries = (*LIBRARIES, *details.pop("libraries", ()))
    pictures, output = program.pictures("batch"), program.output()
    logits = program.what == "logits"
    named = logits and model.class_names is not None
    return {
        "format": VERSION,
        "program": format,
        **details,
        "bytes": size,
        "name": model.name,
        "module": type(program.module).__name__,
        "input": {
            "name": INPUT,
            "shape": list(pictures.shape),
            "dtype": pictures.dtype.name,
            "pixels": program.pixels,
        },
        "output": {
            "name": program.what,
            "shape": ["batch", *output.shape[1:]],
            "dtype": output.dtype.name,
            "probabilities": model.probabilities if logits else None,
        },
        "preprocessing": dataclasses.asdict(program.preprocessing),
        "class_names": list(model.class_names) if named else None,
        "dtype": program.dtype,
        "origin": dict(model.origin),
        "versions": {name: importlib.metadata.version(name) for name in libraries},
    }


def write(folder: Path, content: dict[str, Any]) -> None:
    """Writes `model.json`."""
    text = json.dumps(content, indent=2) + "\n"
    (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Reads `model.json` of an exported program.

    Raises:
        MissingFileError: there is none, or not of a program.
        UserError: it is damaged, or of another version.
    """
    path = Path(folder) / FILE
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise MissingFileError(
            f"{os.fspath(folder)} holds no exported program: {FILE} is missing there"
        ) from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict) or "program" not in found:
        raise MissingFileError(
            f"{path} describes no exported program: make one with vit-jax export --format stablehlo"
        )
    if found.get("format") != VERSION:
        raise UserError(
            f"{path} has format {found.get('format')!r}, expected {VERSION}: it was written by "
            "another version of vit_jax"
        )
    wrong = [key for key, kind in KEYS.items() if not isinstance(found.get(key, ...), kind)]
    wrong += [
        f"{key}.{part}"
        for key in ("input", "output")
        if key not in wrong
        for part in PARTS
        if part not in found[key]
    ]
    if wrong:
        raise UserError(
            f"{path} is damaged: {', '.join(wrong)} is missing or of another type: export it again"
        )
    return found
