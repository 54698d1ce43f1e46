"""docs/export.md: every command and every piece of Python in it runs, in order, on a tiny model."""

import importlib.util
import os
import shlex

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
    names: dict = {}
    for block in markdown.blocks(PAGE):
        assert block.language in ("bash", "python"), block
        if block.language == "python":
            exec(compile(block.text, f"{PAGE}:{block.line}", "exec"), names)
            continue
        for line in block.text.splitlines():
            command = shlex.split(line)
            assert command.pop(0) == "vit-jax"
            code, _, errors = call(*command)
            assert code == 0, (line, errors)
    assert names["logits"].shape == (1, len(tiny.NAMES))
    assert "stablehlo.dot_general" in (tmp_path / "module.mlir").read_text()
    assert {"small", "embedder", "larger", "from_python"} <= set(os.listdir(tmp_path))
