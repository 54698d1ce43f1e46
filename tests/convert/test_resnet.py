"""BiT's ResNets in timm's files: in, out and in again."""

import dataclasses
import json
import os

import jax
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import vit_jax
from tests.models import timm_oracle as oracle
from tests.models.test_resnet import TINY, timm_model
from vit_jax.convert.export import export
from vit_jax.convert.pretrained import load
from vit_jax.errors import UserError
from vit_jax.models import registry

NAME = "resnetv2_tiny_bit"


@pytest.fixture
def tiny_name(monkeypatch):
    """A model of that name, of a size that tests can hold."""
    spec = registry.model_spec("resnetv2_50x1_bit")
    sizes = {"layers": TINY["layers"], "width": TINY["width"]}
    spec = dataclasses.replace(spec, hyper_parameters=sizes)
    monkeypatch.setitem(registry._MODELS, NAME, spec)
    return NAME


@pytest.fixture(scope="module")
def theirs():
    return oracle.randomize(timm_model(**TINY)).float()


def same_logits(module, params, theirs):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(2, 40, 40, 3)).astype(np.float32)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(images.transpose(0, 3, 1, 2).copy())).numpy()
    logits = jax.jit(module.apply)({"params": params}, images)
    assert np.abs(logits - expected).max() / np.abs(expected).max() <= 2e-5


def test_a_bare_file_says_by_itself_what_it_is(tmp_path, theirs):
    for suffix in ("pth", "safetensors"):
        path = tmp_path / f"weights.{suffix}"
        if suffix == "pth":
            torch.save(theirs.state_dict(), path)
        else:
            save_file(theirs.state_dict(), path)
        module, variables = vit_jax.from_pretrained(path)
        assert (module.layers, module.width, module.num_classes) == (TINY["layers"], 32, 5)
        same_logits(module, variables["params"], theirs)


def test_timms_folder_in_and_out_again_bit_for_bit(tmp_path, theirs, tiny_name):
    folder = tmp_path / "timm"
    folder.mkdir()
    save_file(theirs.state_dict(), folder / "model.safetensors")
    cfg = {"input_size": [3, 40, 48], "mean": [0.4] * 3, "std": [0.2] * 3, "crop_pct": 1.0}
    config = {"architecture": tiny_name, "num_classes": 5, "pretrained_cfg": cfg}
    (folder / "config.json").write_text(json.dumps(config))
    model, _ = load(folder)
    assert model.module.img_size == (40, 48) and model.module.layers == (2, 1)
    assert model.preprocessing.mean == (0.4,) * 3 and model.preprocessing.crop_pct == 1.0
    same_logits(model.module, model.params, theirs)

    export(model, os.fspath(tmp_path / "out"), "timm", None)
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert written["architecture"] == tiny_name and written["model_args"] == {"in_chans": 3}
    again, _ = load(tmp_path / "out")
    assert again.module == model.module and again.preprocessing == model.preprocessing
    for a, b in zip(jax.tree.leaves(again.params), jax.tree.leaves(model.params), strict=True):
        np.testing.assert_array_equal(a, b)

    wider, report = load(folder, num_classes=7, img_size=64)
    assert set(report.drawn) == {"head/kernel", "head/bias"} and not report.resampled
    assert wider.params["head"]["kernel"].shape == (256, 7)


def test_what_timm_cannot_build_is_not_written_for_it(tmp_path, theirs):
    path = tmp_path / "weights.pth"
    torch.save(theirs.state_dict(), path)
    model, _ = load(path)
    with pytest.raises(UserError, match=r"timm has no ResNet with layers=\(2, 1\), width=32"):
        export(model, os.fspath(tmp_path / "out"), "timm", None)


def test_an_argument_that_is_not_known_is_refused(tmp_path, theirs, tiny_name):
    save_file(theirs.state_dict(), tmp_path / "model.safetensors")
    config = {"architecture": tiny_name, "model_args": {"global_pool": "max"}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="global_pool"):
        load(tmp_path)
