"""docs/evaluate.md: every command and all its Python run, in order, on a tiny model."""

import json
import os

import numpy as np

from tests.data.pictures import encode, natural
from tests.docs import markdown
from tests.inference import tiny
from vit_jax.convert import folder
from vit_jax.evaluation.probe import METHODS
from vit_jax.measure import benchmark

PAGE = "docs/evaluate.md"
CLASSES = ("daisies", "roses", "tulips")


def write_flowers(top):
    for split, count in (("train", 6), ("val", 8)):
        for label, name in enumerate(CLASSES):
            (top / split / name).mkdir(parents=True)
            for i in range(count):
                picture = encode(natural(16, 20, seed=100 * label + i + count), "PNG")
                (top / split / name / f"{i}.png").write_bytes(picture)


def test_the_table_has_every_method():
    lines = markdown.text(PAGE).splitlines()
    rows = [line.split("|")[1].strip() for line in lines if line[:1] == "|"]
    assert {f"`{name}`" for name in METHODS} <= set(rows)


def test_every_command_and_all_python_run(tmp_path, monkeypatch, call):
    write_flowers(tmp_path / "flowers")
    model = tiny.vit(num_classes=3, class_names=CLASSES)
    folder.save(tmp_path / "runs/flowers", model)
    monkeypatch.setattr(benchmark, "MATRICES", {"cpu": (64,)})
    monkeypatch.chdir(tmp_path)
    commands = markdown.only_ours(PAGE)

    def read(*command):
        code, text, errors = call(*command)
        assert code or "--json" not in command or json.loads(text), command
        return code, text, errors

    names = markdown.run(PAGE, read)
    assert len(commands) == 11
    made = {"train.npz", "test.npz", "kept.npz", "confusion.png", "reliability.png"}
    assert made <= set(os.listdir(tmp_path))
    assert names["found"].matrix.sum() == 24 and set(names["worth"].knn) == {1, 3}
    assert np.isfinite(names["scores"].nll) and names["fast"].rows[0].batch == 1
