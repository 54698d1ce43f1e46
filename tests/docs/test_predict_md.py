"""docs/predict.md: every command and every piece of Python in it runs, in order, on tiny models."""

import os

from tests.docs import markdown
from tests.inference import tiny
from vit_jax.convert import folder, source
from vit_jax.convert.export import export

PAGE = "docs/predict.md"


def test_every_command_and_all_python_run(tmp_path, monkeypatch, call):
    tiny.write_pictures(tmp_path / "flowers/train")
    tiny.write_pictures(tmp_path / "photos")
    os.rename(tmp_path / "photos/dogs/1.jpeg", tmp_path / "photos/one.jpg")
    model = tiny.vit(class_names=tiny.NAMES)
    folder.save(tmp_path / "runs/flowers", model)
    export(model, tmp_path / "timm", "timm")
    monkeypatch.setattr(source, "download", lambda name, **_: tmp_path / "timm")
    monkeypatch.chdir(tmp_path)
    names = markdown.run(PAGE, call)
    assert names["similar"].shape == (len(tiny.SHAPES),)
    assert {"features.npz", "tokens.parquet"} <= set(os.listdir(tmp_path))
