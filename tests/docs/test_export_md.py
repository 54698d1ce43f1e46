"""docs/export.md: every command and every piece of Python in it runs, in order, on a tiny model."""

import importlib.util
import os

import pytest

from tests.data.pictures import encode, natural
from tests.docs import markdown
from tests.inference import tiny
from vit_jax.convert import folder

PAGE = "docs/export.md"


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("jax2onnx") is None, reason="needs vit_jax[onnx]")
def test_every_command_and_all_python_run(tmp_path, monkeypatch, call):
    folder.save(tmp_path / "runs/flowers", tiny.vit(class_names=tiny.NAMES))
    (tmp_path / "photos").mkdir()
    for i, name in enumerate(("one", "two")):
        (tmp_path / f"photos/{name}.jpg").write_bytes(encode(natural(20, 30, seed=i), "JPEG"))
    monkeypatch.chdir(tmp_path)
    markdown.only_ours(PAGE)
    names = markdown.run(PAGE, call)
    assert names["logits"].shape == (1, len(tiny.NAMES))
    assert "stablehlo.dot_general" in (tmp_path / "module.mlir").read_text()
    assert {"small", "embedder", "larger", "from_python"} <= set(os.listdir(tmp_path))
