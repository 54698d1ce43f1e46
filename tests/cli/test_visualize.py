"""`vit-jax visualize`: what it prints, what it writes, and how it fails."""

import sys

import numpy as np
import pytest
from PIL import Image

from tests.visualize.tiny import MAE, SWIN, drawn, vit
from vit_jax.convert import folder
from vit_jax.visualize import draw as module


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Folders of a plain model and of a Swin Transformer, and a picture."""
    top = tmp_path_factory.mktemp("sources")
    folder.save(top / "vit", vit())
    folder.save(top / "swin", drawn("swin_tiny_patch4_window7_224", **SWIN))
    Image.fromarray(np.zeros((30, 40, 3), np.uint8)).save(top / "cat.png")
    return top


def test_prints_the_paths_of_what_it_writes(call, sources, tmp_path):
    out = tmp_path / "out"
    arguments = [sources / "vit", sources / "*.png", "--what", "positions", "attention"]
    code, text, errors = call("visualize", *arguments, "--output", out, "--layer", 0, "--head", 1)
    names = ["cat_attention_layer0.png", "positions.png"]
    assert (code, text.splitlines()) == (0, [str(out / name) for name in names]), errors
    assert sorted(path.name for path in out.iterdir()) == names


def test_without_pictures(call, sources, tmp_path):
    code, text, _ = call("visualize", sources / "swin", "--output", tmp_path)
    assert code == 0
    assert [line for line in text.splitlines() if not line.startswith("left out: ")] == [
        str(tmp_path / "filters_principal.png"),
        str(tmp_path / "filters.png"),
    ]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["vit", "--what", "attention"], "attention shows what a model makes of pictures"),
        (["vit", "cat.png", "--layer", "7"], "layer 7: the model has layers 0 to 1"),
        (["vit", "cat.png", "--head", "3"], "head 3: the model has heads 0 to 1"),
        (["vit", "dog.png"], "no picture or folder at"),
        (["vit", "cat.png", "--what", "reconstruction"], "needs a masked autoencoder"),
        (["vit", "cat.png", "--what", "cam"], "invalid choice: 'cam'"),
        (["swin", "cat.png", "--what", "rollout"], "rollout cannot be drawn of a Swin Transformer"),
        (["nowhere", "cat.png"], "nowhere"),
        (["vit", "--layers", "7"], "unknown argument '--layers'"),
    ],
)
def test_errors_are_one_line(call, sources, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(sources)
    code, text, errors = call("visualize", *arguments, "--output", tmp_path / "out")
    assert (code, text) == (2, "")
    assert message in errors.splitlines()[-1] and "Traceback" not in errors
    assert not (tmp_path / "out").exists()


def test_pictures_after_the_options_are_asked_to_come_first(call, sources, tmp_path):
    arguments = ["--what", "filters", "--output", tmp_path, "cat.png"]
    code, _, errors = call("visualize", sources / "vit", *arguments)
    # A Python that takes them there finds no such file here.
    assert code == 2 and "cat.png" in errors


def test_help_needs_no_matplotlib(call, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    code, text, _ = call("visualize", "--help")
    assert code == 0 and "--what" in text


def test_a_run_says_whether_it_learned_normalised_pixels(tmp_path, monkeypatch):
    """What `draw` is told: the run's word, unless somebody says otherwise."""
    told = []
    run = {"norm_pix_loss": True}
    monkeypatch.setattr(module, "open_model", lambda *_, **__: drawn("mae_vit_tiny_patch16", **MAE))
    monkeypatch.setattr(module.run_folder, "holds_run", lambda source: source == "run")
    config = type("Config", (), {"objective": run})
    monkeypatch.setattr(module.run_folder, "read_config", lambda source: config)
    monkeypatch.setattr(module, "draw", lambda *a: told.append(a[4].norm_pix_loss))
    for source, given in (("run", None), ("run", False), ("folder", None), ("folder", True)):
        module.visualize(source, [], tmp_path, norm_pix_loss=given)
    run.clear()
    module.visualize("run", [], tmp_path)
    assert told == [True, False, False, True, False]
