"""The process in which jax2onnx works: `python -m vit_jax.deploy.onnx_worker FOLDER...`.

A folder holds `model` (what `convert.folder.save` writes) and `task.json`; `result.json` says
that all went well. See `onnx_file`.
"""

import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np

from vit_jax.convert import folder as model_folder
from vit_jax.deploy import description
from vit_jax.deploy.program import Options, Program, build

LIMIT = 2e-5  # of the largest number: what float32 is compared to everywhere in this library
BATCHES = (1, 3)
# The first version of operators with all that the converter writes for these models.
OPSET = 23


def main(work: Path) -> None:
    """Converts, checks, compares, and says so."""
    task = json.loads((work / "task.json").read_text(encoding="utf-8"))
    options = task["options"]
    if isinstance(options["img_size"], list):
        options["img_size"] = tuple(options["img_size"])
    program = build(model_folder.read(work / "model"), Options(**options))
    program = _in_float32(program)
    path = Path(task["file"])
    _convert(program, path, task["max_bytes"])
    difference = _difference(program, path)
    if not difference <= LIMIT:
        sys.exit(
            f"onnxruntime and JAX differ by {difference:.1e} of the largest number, more than "
            f"{LIMIT:.0e}"
        )
    result = {"opset": OPSET, "difference": difference}
    (work / "result.json").write_text(json.dumps(result), encoding="utf-8")


def _in_float32(program: Program) -> Program:
    """The same with parameters in float32, which layers make of narrower ones anyway."""
    wide = jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), program.params)
    return dataclasses.replace(program, params=wide)


def _convert(program: Program, path: Path, max_bytes: int) -> None:
    """Writes the program; weights beside it where one file would be too large."""
    import onnx
    from jax2onnx import to_onnx

    proto = to_onnx(
        lambda pictures: program.function(program.params, pictures),
        [program.pictures("batch")],
        model_name="vit_jax",
        opset=OPSET,
        input_names=[description.INPUT],
        output_names=[program.what],
    )
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(program.params))
    beside: dict[str, Any] = {}
    if size > max_bytes:
        beside = dict(save_as_external_data=True, location=f"{path.name}.data", size_threshold=1024)
    onnx.save_model(proto, path, **beside)
    onnx.checker.check_model(path, full_check=True)


def _difference(program: Program, path: Path) -> float:
    """The largest difference of both over the largest number, on random pictures."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    expected_of = jax.jit(program.function)
    parts = []
    for batch in BATCHES:
        pictures, rng = program.pictures(batch), np.random.default_rng(batch)
        if program.pixels == "uint8":
            values = rng.integers(0, 256, pictures.shape, dtype=np.uint8)
        else:
            values = rng.normal(size=pictures.shape).astype(np.float32)
        (found,) = session.run(None, {description.INPUT: values})
        expected = np.asarray(expected_of(program.params, values))
        assert found.shape == expected.shape, (found.shape, expected.shape)
        parts.append(_apart(found, expected))
    return float(np.max(parts))  # Python's max would pass over what is no number


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference over the largest number; NaN where one of them is."""
    largest = np.abs(expected).max()  # 0 of a head that nothing was learned by
    return float(np.abs(found - expected).max() / (largest or 1))


if __name__ == "__main__":
    for folder in sys.argv[1:]:
        main(Path(folder))
