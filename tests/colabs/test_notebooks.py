"""Every notebook is clean, names what there is, and runs from top to bottom in a kernel of its own.

The kernel is a real one, so that what a cell displays is rendered. It starts in the notebook's
folder, as a browser's does, with small settings behind the cell that is tagged "parameters".
"""

import ast
import base64
import importlib
import io
import pathlib
import re

import nbformat
import numpy as np
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from PIL import Image

import vit_jax
from vit_jax.training import overrides
from vit_jax.training.config import OPEN_SECTIONS, base_config

ROOT = pathlib.Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "colabs").glob("*.ipynb"))
TAG = "parameters"

# What is smaller here than in the committed notebook.
SMALL = {
    "1_train_and_look_inside": dict(EPOCHS=2, EVALUATE_EVERY=1, PICTURES=1),
    "2_fine_tune": dict(PRETRAIN_EPOCHS=2, EPOCHS=2, PER_CLASS=5, BATCH_SIZE=25),
    "3_convert_and_prove": dict(SIZES={"img_size": 32, "depth": 3}),
    "4_masked_autoencoder": dict(EPOCHS=2, PROBE_EPOCHS=2, PICTURES=2),
    "5_scale": dict(
        STEPS=2,
        BATCH_SIZE=16,
        DEPTH=1,
        MESHES={"data=8": {"data": 8}, "all": {"fsdp": 2, "sequence": 2, "tensor": 2}},
    ),
}
# How many pictures are shown: PNGs, and HTML, which those of shardings are.
SHOWN = {
    "1_train_and_look_inside": (10, 0),
    "2_fine_tune": (3, 0),
    "3_convert_and_prove": (2, 0),
    "4_masked_autoencoder": (5, 0),
    "5_scale": (1, 10),
}
EACH = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    return notebook


def code(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def parsed(cell):
    """The syntax tree of a cell, its magics turned into calls, as IPython does it."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def parameters(notebook):
    """Index and assigned names of the one cell that has the tag."""
    (index,) = [i for i, x in enumerate(notebook.cells) if TAG in x.metadata.get("tags", ())]
    body = parsed(notebook.cells[index]).body
    assert all(isinstance(x, ast.Assign) for x in body)
    return index, {target.id for x in body for target in x.targets}


def test_each_notebook_has_small_settings():
    assert {path.stem for path in NOTEBOOKS} == set(SMALL) == set(SHOWN)


@EACH
def test_it_is_committed_clean(path):
    notebook = read(path)
    for cell in code(notebook):
        assert cell.outputs == [] and cell.execution_count is None
    assert all(set(cell.metadata) <= {"tags"} for cell in notebook.cells)
    assert set(notebook.metadata) == {"kernelspec", "language_info"}
    assert notebook.metadata.kernelspec.name == "python3"
    assert notebook.metadata.language_info == {"name": "python"}  # no version of one machine


@EACH
def test_what_is_overridden_is_a_parameter(path):
    _, names = parameters(read(path))
    assert set(SMALL[path.stem]) <= names


def test_all_are_set_up_in_the_same_way():
    # The optional dependencies differ.
    cells = {re.sub(r'"\.\[[a-z,]+\]"', '"."', code(read(path))[0].source) for path in NOTEBOOKS}
    assert len(cells) == 1 and '%pip install --quiet "."' in cells.pop()


@EACH
def test_every_name_of_the_library_exists(path):
    for cell in code(read(path)):
        for node in ast.walk(parsed(cell)):
            if isinstance(node, ast.ImportFrom) and node.module.split(".")[0] == "vit_jax":
                for name in node.names:
                    _check_import(node.module, name.name)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                if node.value.id == "vit_jax":
                    assert hasattr(vit_jax, node.attr), node.attr
                if node.value.id in ("data", "visualize"):
                    module = importlib.import_module(f"vit_jax.{node.value.id}")
                    assert node.attr in module.__all__, node.attr


def _check_import(module, name):
    try:
        importlib.import_module(f"{module}.{name}")
    except ModuleNotFoundError:
        assert hasattr(importlib.import_module(module), name), f"{module}.{name}"


KEY = re.compile(r"^([a-z_0-9]+(?:\.[a-z_0-9]+)*)=")


@EACH
def test_every_key_of_a_configuration_exists(path):
    known, found = overrides.flat_keys(base_config()), []
    for cell in code(read(path)):
        for node in ast.walk(parsed(cell)):
            text = node
            if isinstance(node, ast.JoinedStr) and node.values:
                text = node.values[0]  # what stands before the first value that is put in
            if isinstance(text, ast.Constant) and isinstance(text.value, str):
                key = KEY.match(text.value)
                if key and not text.value.startswith(("data=", "fsdp=")):  # names of meshes
                    found.append(key[1])
    for key in found:
        assert key in known or key.split(".")[0] in OPEN_SECTIONS, key
    assert found or path.stem == "3_convert_and_prove"


@EACH
def test_every_file_that_it_names_exists(path):
    text = "\n".join(cell.source for cell in read(path).cells)
    for name in re.findall(r"(?:configs|docs)/[\w.]+\.(?:py|md)", text):
        assert (ROOT / name).is_file(), name
    for name in re.findall(r"\]\(([\w.]+\.ipynb)\)", text):
        assert (ROOT / "colabs" / name).is_file(), name


@pytest.mark.slow
@EACH
def test_it_runs(path, tmp_path):
    notebook = read(path)
    index, _ = parameters(notebook)
    values = {**SMALL[path.stem], "FOLDER": str(tmp_path / "runs")}
    lines = [f"{name} = {value!r}" for name, value in values.items()]
    notebook.cells.insert(index + 1, nbformat.v4.new_code_cell("\n".join(lines)))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(notebook, timeout=600, kernel_name="python3", resources=where).execute()
    outputs = [x.get("data", {}) for cell in code(notebook) for x in cell.outputs]
    pictures, tables = (
        [x[kind] for x in outputs if kind in x] for kind in ("image/png", "text/html")
    )
    assert (len(pictures), len(tables)) == SHOWN[path.stem]
    assert all("CPU 0" in table for table in tables)
    for encoded in pictures:
        with Image.open(io.BytesIO(base64.b64decode(encoded))) as picture:
            assert min(picture.size) > 100 and np.ptp(np.asarray(picture.convert("L"))) > 100
