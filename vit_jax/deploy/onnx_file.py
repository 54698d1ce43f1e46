"""A program as ONNX, by jax2onnx, in a process of its own.

The library changes functions of JAX and Flax while it traces, and rules of differentiation for
good: in another process it harms nobody. There the result is checked by onnx and run by
onnxruntime before it counts.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vit_jax.convert import folder as model_folder
from vit_jax.convert.folder import Model
from vit_jax.deploy.program import Options, Program
from vit_jax.errors import UserError

FILE = "model.onnx"
NEEDED = ("jax2onnx", "onnx", "onnxruntime")
MAX_BYTES = 2**31 - 2**26  # a file of protobuf is smaller than 2 GiB; larger weights lie beside


def check(program: Program) -> None:
    """Looks whether a program can become one of ONNX, before anything is written.

    Raises:
        UserError: a library is missing, or it does not compute in float32.
    """
    for name in NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UserError(
                f'--format onnx needs {name}, which is not installed: pip install "vit_jax[onnx]"'
            )
    if program.dtype != "float32":
        raise UserError(
            f"the program computes in {program.dtype}, ONNX programs are written in float32: "
            "give --dtype float32"
        )


def write(
    folder: Path, model: Model, options: Options, report: Callable[[str], None]
) -> dict[str, Any]:
    """Writes `model.onnx`; returns what its description says of it.

    Args:
        folder: where to.
        model: is handed to the other process through a folder beside the result.
        options: how it becomes a program.
        report: is given the sentences a user should read.

    Raises:
        UserError: the model cannot be converted, or what came out is not the same.
    """
    report("ONNX: converting, checking and comparing in another process")
    work = folder / "work"
    prepare(work, folder / FILE, model, options)
    done = start(work)
    result = work / "result.json"
    if done.returncode or not result.is_file():
        lines = done.stderr.strip().splitlines()
        raise UserError(
            f"this model cannot be written as ONNX ({lines[-1] if lines else 'no message'}): "
            "use --format stablehlo"
        )
    found = json.loads(result.read_text(encoding="utf-8"))
    shutil.rmtree(work)
    report(
        f"ONNX: opset {found['opset']}; onnxruntime and JAX differ by "
        f"{found['difference']:.1e} of the largest number"
    )
    return {"file": FILE, **found, "libraries": NEEDED}


def prepare(work: Path, file: Path, model: Model, options: Options) -> None:
    """Writes what the other process needs to know into a new folder.

    Args:
        work: the folder.
        file: what it is to write.
        model: to convert.
        options: how.
    """
    model_folder.save(work / "model", model)
    task = {"options": vars(options), "file": os.fspath(file), "max_bytes": MAX_BYTES}
    (work / "task.json").write_text(json.dumps(task), encoding="utf-8")


def start(*works: Path) -> subprocess.CompletedProcess:
    """Runs the other process on prepared folders; returns how it ended, its output as text."""
    environment = {
        **os.environ,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
    }
    command = [sys.executable, "-m", "vit_jax.deploy.onnx_worker", *map(os.fspath, works)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
