"""What the package raises on purpose is a `UserError`: the command goes by the class."""

import ast
import builtins
import importlib
import pathlib
import pickle

import pytest

from vit_jax.errors import MissingFileError, UserError

ROOT = pathlib.Path(__file__).parents[1]
# Of the language itself: attributes of a module, methods to be written, ends of iterators; and
# what cannot be, which is a mistake of ours.
PROTOCOL = {"AttributeError", "NotImplementedError", "StopIteration", "RuntimeError"}
# Raised for an `except` of the same file.
INNER = {("vit_jax/convert/readers/torchscript.py", "ValueError")}


def raised(path):
    """Names of the classes in the `raise` statements of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        function = getattr(getattr(node, "exc", None), "func", None)
        if isinstance(function, ast.Name):
            yield function.id


def test_no_built_in_error_is_a_message():
    found = {
        (str(path.relative_to(ROOT)), name)
        for path in ROOT.glob("vit_jax/**/*.py")
        for name in raised(path)
        if hasattr(builtins, name) and name not in PROTOCOL
    }
    assert found <= INNER


@pytest.mark.parametrize(
    "name, bases",
    [
        ("errors.MissingFileError", (UserError, FileNotFoundError)),
        ("data.decode.DecodeError", (UserError,)),
        ("data.pipeline.LabelError", (UserError,)),
        ("training.checkpoint.CheckpointError", (UserError, RuntimeError)),
        ("training.record.DamagedCheckpointError", (UserError, RuntimeError)),
        ("training.monitor.NonFiniteError", (UserError, RuntimeError)),
    ],
)
def test_an_error_is_also_what_it_was(name, bases):
    module, _, cls = f"vit_jax.{name}".rpartition(".")
    error = getattr(importlib.import_module(module), cls)
    assert all(issubclass(error, base) for base in (*bases, ValueError))


def test_errors_reach_another_process():
    error = pickle.loads(pickle.dumps(MissingFileError("no file here")))
    assert isinstance(error, UserError) and str(error) == "no file here"
