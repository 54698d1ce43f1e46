"""docs/own_data.md: its command, made short, on either layout it describes."""

import re
import shlex
from pathlib import Path

import pytest

from tests.data.pictures import encode, smooth
from tests.training import processes
from vit_jax.training.metrics import read_metrics

REPOSITORY = Path(__file__).parents[2]
SHORTER = [
    "total_epochs=2",
    "model.depth=1",
    "model.embed_dim=24",
    "model.img_size=16",
    "model.patch_size=8",
    "data.batch_size=8",
    "data.workers=0",
    "schedule.warmup_epochs=1",
]


def command_of_the_page(**places):
    """The arguments of the command, with other places in it."""
    text = (REPOSITORY / "docs/own_data.md").read_text()
    (line,) = re.findall(r"^vit-jax (.*configs/image_folder\.py.*)$", text, re.MULTILINE)
    for name, place in places.items():
        assert name in line
        line = line.replace(name, str(place))
    return shlex.split(line.replace("configs/", f"{REPOSITORY}/configs/"))


@pytest.mark.slow
@pytest.mark.parametrize("layout", [("train/", "val/"), ("train/", "test/"), ("",)])
def test_the_command_of_the_page(tmp_path, layout):
    for i, folder in enumerate(layout):
        for j in range(20):
            path = tmp_path / "PICTURES" / folder / "ab"[j % 2] / f"{j}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(smooth(20 + j, 30, seed=100 * i + j), "JPEG"))
    run = tmp_path / "run"
    arguments = command_of_the_page(**{"PATH": tmp_path / "PICTURES", "runs/mine": run})
    arguments += [f"--config.{change}" for change in SHORTER]
    output = processes.finish(processes.start(*arguments))
    assert "accuracy" in output
    (line,) = [line for line in read_metrics(run) if line["split"] == "eval"]
    assert 0 <= line["top1"] <= 1
